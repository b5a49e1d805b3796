//! The rules of the house, held over the text of `src/`: which room may know which, where raw memory is touched, how
//! a file begins, how long it gets, and what never stays in it.
//!
//! The text is looked at without comments and literals, and mostly without tests. Each rule tells all offenders.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms of `src/lib.rs` from the ground up. A room may use itself and every room of the rows before its own.
const LEVELS: &[&[&str]] = &[
    &["sync", "units", "clock", "topology"],
    &["limits", "lock", "slot"], // limits are said in units; slots are spread over the topology's nodes
    &["latency"],
    &["health", "link", "memory", "pressure"],
    &["doctor", "pool", "metrics", "slab"],
    &["http", "tasks"],
    &["config"],
    &["app"],
    &["cli"],
];

/// The files that touch raw memory: the two, and what one of them keeps in a file of its own.
const UNSAFE_FILES: [&str; 3] = ["memory/os.rs", "memory/bytes.rs", "memory/bytes/bump.rs"];

/// A longer file has a second noun in it.
const LINES_MAX: usize = 500;

/// A file of `src/`.
struct Source {
    /// Below `src/`.
    path: String,
    text: String,
    /// The text without comments and literals; every line and every letter at its place.
    code: String,
    /// The same without test modules; nothing at all where the file is a test module.
    product: String,
}

fn files_below(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("the sources can be read") {
        let path = entry.expect("the sources can be read").path();
        if path.is_dir() {
            files_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    files_below(&root, &mut paths);
    paths.sort();
    let mut test_files = BTreeSet::new();
    let mut sources: Vec<Source> = paths
        .iter()
        .map(|path| {
            let text = fs::read_to_string(path).expect("sources are text");
            let path = path.strip_prefix(&root).expect("it lies below").display().to_string();
            let code = without_comments_and_literals(&text);
            let (product, test_modules) = without_tests(&code);
            let folder = path.trim_end_matches("/mod.rs").trim_end_matches(".rs");
            test_files.extend(test_modules.iter().map(|module| format!("{folder}/{module}")));
            Source { path, text, code, product }
        })
        .collect();
    assert!(sources.len() > 50, "the sources were found");
    for source in &mut sources {
        let stem = source.path.trim_end_matches(".rs").to_owned();
        if test_files.iter().any(|test| stem == *test || stem.starts_with(&format!("{test}/"))) {
            source.product.clear();
        }
    }
    sources
}

/// Blanks comments, strings and characters; lines stay lines.
fn without_comments_and_literals(text: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < letters.len() {
        let end = end_of_blank(&letters, at);
        if end == at {
            code.push(letters[at]);
            at += 1;
        } else {
            code.extend(letters[at..end].iter().map(|letter| if *letter == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    code
}

/// Where the comment or literal ends that begins here; here, if none does.
fn end_of_blank(letters: &[char], at: usize) -> usize {
    let next = |ahead: usize| letters.get(at + ahead).copied().unwrap_or('\0');
    let find = |from: usize, end: &dyn Fn(usize) -> bool| {
        (from..letters.len()).find(|place| end(*place)).map_or(letters.len(), |place| place + 1)
    };
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    let inside_word = at > 0 && is_word(letters[at - 1]);
    match letters[at] {
        '/' if next(1) == '/' => find(at, &|place| letters[place] == '\n') - 1,
        '/' if next(1) == '*' => find(at + 3, &|place| letters[place] == '/' && letters[place - 1] == '*'),
        '"' => end_of_text(letters, at),
        'r' if !inside_word || letters[at - 1] == 'b' => {
            let hashes = (1..).take_while(|ahead| next(*ahead) == '#').count();
            if next(hashes + 1) != '"' {
                return at;
            }
            let closes = |place: usize| {
                let (quote, after) = (place - hashes, place - hashes + 1);
                letters[quote] == '"' && letters[after..=place].iter().all(|letter| *letter == '#')
            };
            find(at + 2 * hashes + 2, &closes)
        }
        '\'' if next(1) == '\\' => find(at + 3, &|place| letters[place] == '\''),
        '\'' if next(2) == '\'' => at + 3, // any other is a lifetime
        _ => at,
    }
}

fn end_of_text(letters: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < letters.len() && letters[at] != '"' {
        at += if letters[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(letters.len())
}

/// Blanks every item that exists only in tests; and names the modules among them that are files of their own.
fn without_tests(code: &str) -> (String, Vec<String>) {
    let mut product = code.to_owned();
    let mut modules = Vec::new();
    let mut from = 0;
    while let Some(found) = product[from..].find("#[cfg(") {
        let start = from + found;
        let attribute_end = start + product[start..].find(")]").expect("an attribute ends") + 2;
        from = attribute_end;
        let condition = &product[start..attribute_end];
        if !words(condition).any(|(_, word)| word == "test") || condition.contains("not(test") {
            continue;
        }
        let rest = &product[attribute_end..];
        let body = rest.find(['{', ';']).expect("an item follows its attribute");
        let end = if rest.as_bytes()[body] == b';' { body + 1 } else { end_of_block(rest, body) };
        let item: Vec<&str> = rest[..body].split_whitespace().collect();
        if let (["mod", name], true) = (&item[..], rest.as_bytes()[body] == b';') {
            modules.push((*name).to_owned());
        }
        let blank: String =
            product[start..attribute_end + end].chars().map(|l| if l == '\n' { '\n' } else { ' ' }).collect();
        from = attribute_end + end;
        product = format!("{}{blank}{}", &product[..start], &product[from..]);
        from = start + blank.len();
    }
    (product, modules)
}

/// Behind the brace that closes the one at `open`.
fn end_of_block(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, letter) in code[open..].char_indices() {
        depth += match letter {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        if depth == 0 {
            return open + at + 1;
        }
    }
    panic!("a block is not closed")
}

/// Words and where they begin.
fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    code.split(move |letter| !is_word(letter)).filter(|word| !word.is_empty()).map(|word| {
        let at = word.as_ptr() as usize - code.as_ptr() as usize;
        (at, word)
    })
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

fn none(offenders: Vec<String>, rule: &str) {
    assert!(offenders.is_empty(), "{rule}:\n  {}", offenders.join("\n  "));
}

/// The room that a file belongs to; `lib` and `main` are none.
fn room_of(path: &str) -> &str {
    path.split('/').next().unwrap_or_default().trim_end_matches(".rs")
}

fn level_of(room: &str) -> Option<usize> {
    LEVELS.iter().position(|level| level.contains(&room))
}

/// First names of what a path leads to: of `::a::b` and `::{a, b::{c, d}}` the `a`, and `a` and `b`.
fn first_names(rest: &str) -> Vec<String> {
    let Some(rest) = rest.trim_start().strip_prefix("::") else { return Vec::new() };
    let rest = rest.trim_start();
    if !rest.starts_with('{') {
        return words(rest).next().map(|(_, word)| word.to_owned()).into_iter().collect();
    }
    let group = &rest[1..end_of_block(rest, 0) - 1];
    let mut depth = 0;
    let mut names = vec![String::new()];
    for letter in group.chars() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(String::new()),
            _ if depth == 0 => names.last_mut().expect("it begins with one").push(letter),
            _ => {}
        }
    }
    let first = |name: &String| words(name).next().map(|(_, word)| word.to_owned());
    names.iter().filter_map(first).collect()
}

/// Rooms that a file's product code names by path from the crate's root, with their lines. `super` counts as far as
/// it leads to the root.
fn rooms_used(source: &Source) -> Vec<(usize, String)> {
    let code = &source.product;
    let steps = source.path.trim_end_matches(".rs").trim_end_matches("/mod").split('/').count();
    let mut used = Vec::new();
    let mut supers = 0;
    let mut expected = 0; // where a further `super` of the same path would begin
    for (at, word) in words(code) {
        let end = at + word.len();
        let leads_to_root = match word {
            "crate" => true,
            "maas" => code[end..].starts_with("::"), // main.rs, which is outside of the library
            "super" => {
                supers = if at == expected { supers + 1 } else { 1 };
                expected = end + 2;
                supers == steps
            }
            _ => false,
        };
        if leads_to_root {
            let rooms = first_names(&code[end..]).into_iter().filter(|name| level_of(name).is_some());
            used.extend(rooms.map(|room| (line_of(code, at), room)));
        }
    }
    used
}

#[test]
fn every_room_has_its_level() {
    let sources = sources();
    let lib = sources.iter().find(|source| source.path == "lib.rs").expect("the library has a root");
    let names: Vec<&str> = words(&lib.product).map(|(_, word)| word).collect();
    let declared: BTreeSet<&str> =
        names.windows(2).filter(|pair| pair[0] == "mod").map(|pair| pair[1]).collect();
    let placed: BTreeSet<&str> = LEVELS.iter().copied().flatten().copied().collect();
    assert_eq!(declared, placed);
}

#[test]
fn a_room_uses_only_itself_and_the_rooms_below() {
    let mut offenders = Vec::new();
    let mut uses = 0;
    for source in sources() {
        let room = room_of(&source.path);
        let own = if room == "main" || room == "lib" { Some(LEVELS.len()) } else { level_of(room) };
        let own = own.unwrap_or_else(|| panic!("{} belongs to no room", source.path));
        for (line, used) in rooms_used(&source) {
            uses += 1;
            let level = level_of(&used).expect("only rooms are told");
            if used != room && level >= own {
                offenders.push(format!("src/{}:{line}: {room} uses {used}", source.path));
            }
        }
    }
    assert!(uses > 50, "paths were found: {uses}");
    none(offenders, "arrows point down");
}

#[test]
fn raw_memory_is_touched_in_three_files_at_most() {
    let mut offenders = Vec::new();
    for source in sources().iter().filter(|source| !UNSAFE_FILES.contains(&source.path.as_str())) {
        let found = words(&source.product).filter(|(_, word)| *word == "unsafe");
        offenders
            .extend(found.map(|(at, _)| format!("src/{}:{}", source.path, line_of(&source.product, at))));
    }
    none(offenders, "unsafe stands only in memory/os.rs, memory/bytes.rs and memory/bytes/bump.rs");
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    let offenders = sources()
        .iter()
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| format!("src/{}:1", source.path))
        .collect();
    none(offenders, "a file opens with `//!`");
}

#[test]
fn nothing_is_left_unfinished_or_ignored() {
    let mut offenders = Vec::new();
    for source in sources() {
        for (at, word) in words(&source.code) {
            let rest = &source.code[at + word.len()..];
            let is_stub = matches!(word, "todo" | "unimplemented" | "dbg") && rest.starts_with('!');
            let is_ignored = word == "ignore" && source.code[..at].ends_with("#[");
            if is_stub || is_ignored {
                offenders.push(format!("src/{}:{}: {word}", source.path, line_of(&source.code, at)));
            }
        }
    }
    none(offenders, "no todo!, unimplemented!, dbg! or #[ignore]");
}

#[test]
fn no_file_is_longer_than_one_noun_needs() {
    let lines = |source: &Source| source.text.lines().count();
    let offenders = sources()
        .iter()
        .filter(|source| lines(source) > LINES_MAX)
        .map(|source| format!("src/{}:{LINES_MAX}: {} lines", source.path, lines(source)))
        .collect();
    none(offenders, "a file has at most 500 lines");
}

#[test]
fn the_rules_find_offenders() {
    let source = |path: &str, text: &str| {
        let code = without_comments_and_literals(text);
        let (product, _) = without_tests(&code);
        Source { path: path.to_owned(), text: text.to_owned(), code, product }
    };
    let used = |path: &str, text: &str| rooms_used(&source(path, text));
    let room = |line: usize, name: &str| (line, name.to_owned());
    assert_eq!(
        used("a.rs", "use crate::http::X;\nfn f() { crate::app::g() }"),
        [room(1, "http"), room(2, "app")]
    );
    assert_eq!(
        used("a.rs", "use crate::{\n  clock::{Now, http},\n  pool,\n};"),
        [room(1, "clock"), room(1, "pool")]
    );
    assert_eq!(used("memory/a.rs", "use super::http;\nuse super::super::http;"), [room(2, "http")]);
    assert_eq!(used("memory/mod.rs", "use super::http;"), [room(1, "http")]);
    assert_eq!(used("main.rs", "fn main() { maas::cli::main() }"), [room(1, "cli")]);
    let hidden = "// crate::http\n/* crate::http */ const A: &str = \"crate::http\\\" crate::http\";\n\
        const B: &str = r#\"crate::http\" crate::http\"#; const C: char = '\"'; fn f<'a>(_: &'a str) {}\n\
        #[cfg(test)]\nmod tests { use crate::http; mod inner { } use crate::app; }\n\
        #[cfg(all(test, not(feature = \"loom\")))]\nuse crate::http;\n\
        #[cfg(not(test))]\nuse crate::clock;";
    assert_eq!(used("a.rs", hidden), [room(9, "clock")]);
    let (_, modules) = without_tests("#[cfg(test)]\nmod tests;\n#[cfg(test)]\nmod twin;\nmod real;");
    assert_eq!(modules, ["tests", "twin"]);
}
