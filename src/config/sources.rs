//! The places a setting can be written in, each read into a list of settings: a TOML file, `.env`, the environment,
//! the flags.
//!
//! A source that cannot be read, or a name that stands for nothing, becomes a problem; what else the source says is
//! read all the same, so that everything wrong is told at once.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use ::config::{File, FileFormat, Map, Source, Value, ValueKind};

use super::names::{Name, PREFIX, is_section};
use super::origin::Origin;
use super::problem::Problem;
use super::values::Raw;

/// Where the configuration is looked for.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The directory that may have `config.toml` and `.env`.
    pub directory: PathBuf,
    /// A file to read in place of `config.toml`; it must exist.
    pub file: Option<PathBuf>,
    /// The variables of the environment.
    pub environment: Vec<(OsString, OsString)>,
    /// What the command line sets, weakest first.
    pub flags: Vec<Flag>,
}

/// A setting on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// The flag as the user wrote it, `--port`.
    pub flag: String,
    /// The dotted name of the key.
    pub key: String,
    /// The value, as text.
    pub value: String,
}

/// A key with a value, as some source says it.
pub(super) struct Setting {
    pub(super) name: Name,
    pub(super) raw: Raw,
    pub(super) origin: Origin,
}

/// What was read: settings, later ones stronger, and what was wrong.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) settings: Vec<Setting>,
    pub(super) problems: Vec<Problem>,
    /// The TOML file that was read.
    pub(super) file: Option<PathBuf>,
}

/// The name of the file that is read where no other is named.
const FILE_NAME: &str = "config.toml";

impl Findings {
    /// Reads every source, weakest first. What a profile sets is weaker than all of them, and is added when it is known
    /// which one is chosen.
    pub(super) fn read(sources: &Sources) -> Findings {
        let mut findings = Findings::default();
        match &sources.file {
            Some(path) => findings.read_file(&sources.directory.join(path), path, true),
            None => findings.read_file(&sources.directory.join(FILE_NAME), Path::new(FILE_NAME), false),
        }
        findings.read_dotenv(&sources.directory.join(".env"));
        findings.read_environment(&sources.environment);
        findings.read_flags(&sources.flags);
        findings
    }

    /// Reads the TOML file at `path`, which the user calls `called`.
    pub(super) fn read_file(&mut self, path: &Path, called: &Path, must_exist: bool) {
        let origin = Origin::File(called.to_owned());
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound && !must_exist => return,
            Err(error) => return self.problem("", None, origin, format!("cannot read the file: {error}")),
        };
        self.file = Some(called.to_owned());
        match File::from_str(&text, FileFormat::Toml).collect() {
            Ok(table) => self.read_table("", table, &origin),
            Err(error) => self.problem("", None, origin, not_toml(&error.to_string(), &text)),
        }
    }

    /// Turns a table into settings, in the order of their names: the table itself has none.
    fn read_table(&mut self, section: &str, table: Map<String, Value>, origin: &Origin) {
        let mut entries: Vec<(String, Value)> = table.into_iter().collect();
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        for (name, value) in entries {
            // A quoted name with a dot in it is one name: it must not pass for a name and its section.
            let name = if name.contains('.') { format!("{name:?}") } else { name };
            let name = if section.is_empty() { name } else { format!("{section}.{name}") };
            match value.kind {
                // An empty table sets nothing, but a misspelt one is worth a word.
                ValueKind::Table(inner) if !inner.is_empty() => self.read_table(&name, inner, origin),
                ValueKind::Table(_) if is_section(&name) => {}
                kind => self.dotted(&name, raw(kind), origin.clone()),
            }
        }
    }

    /// Reads `.env` without touching the environment of the process. Of two lines with one name the later counts.
    fn read_dotenv(&mut self, path: &Path) {
        let whole = Origin::DotEnv(String::new());
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            Err(error) => return self.problem("", None, whole, format!("cannot read the file: {error}")),
        };
        let text = text.trim_start_matches('\u{feff}');
        let mut variables = Vec::new();
        let mut lines = text.lines().enumerate();
        for item in dotenvy::from_read_iter(text.as_bytes()) {
            match item {
                Ok(variable) => variables.push(variable),
                Err(error) => {
                    if let Some(what) = broken_line(&error, &mut lines) {
                        self.problem("", None, whole.clone(), what);
                    }
                }
            }
        }
        let names = variables.iter().map(|(name, value)| (name.as_str(), Some(value.as_str())));
        self.read_variables(names, Origin::DotEnv);
    }

    fn read_environment(&mut self, environment: &[(OsString, OsString)]) {
        // A name that is not Unicode is none of ours.
        let names =
            environment.iter().filter_map(|(name, value)| name.to_str().map(|name| (name, value.to_str())));
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        self.read_variables(names.into_iter(), Origin::Environment);
    }

    /// Long names first: the short ones are stronger. A value is `None` where it is not Unicode.
    fn read_variables<'a>(
        &mut self,
        variables: impl Iterator<Item = (&'a str, Option<&'a str>)>,
        origin: fn(String) -> Origin,
    ) {
        let (long, short): (Vec<_>, Vec<_>) = variables.partition(|(name, _)| name.starts_with(PREFIX));
        for (variable, value) in long.into_iter().chain(short) {
            let Some(found) = Name::of_variable(variable) else { continue };
            let origin = origin(variable.to_owned());
            match (found, value) {
                (Err(what), _) => self.problem(variable, None, origin, what),
                (Ok(name), None) => {
                    self.problem(&name.dotted(), None, origin, "expected text in UTF-8".to_owned());
                }
                (Ok(name), Some(value)) => self.setting(name, Raw::Word(value.to_owned()), origin),
            }
        }
    }

    pub(super) fn read_flags(&mut self, flags: &[Flag]) {
        for Flag { flag, key, value } in flags {
            self.dotted(key, Raw::Word(value.clone()), Origin::Flag(flag.clone()));
        }
    }

    fn dotted(&mut self, name: &str, raw: Raw, origin: Origin) {
        match Name::of_dotted(name) {
            Ok(name) => self.setting(name, raw, origin),
            Err(what) => self.problem(name, None, origin, what),
        }
    }

    fn setting(&mut self, name: Name, raw: Raw, origin: Origin) {
        self.settings.push(Setting { name, raw, origin });
    }

    fn problem(&mut self, key: &str, value: Option<String>, origin: Origin, what: String) {
        self.problems.push(Problem { key: key.to_owned(), value, origin, what });
    }
}

fn raw(kind: ValueKind) -> Raw {
    match kind {
        ValueKind::Boolean(value) => Raw::Boolean(value),
        ValueKind::I64(number) => Raw::Integer(number.into()),
        ValueKind::I128(number) => Raw::Integer(number),
        ValueKind::U64(number) => Raw::Integer(number.into()),
        // Beyond i128 it is beyond every bound, and so is what stands for it here.
        ValueKind::U128(number) => Raw::Integer(i128::try_from(number).unwrap_or(i128::MAX)),
        ValueKind::Float(number) => Raw::Float(number),
        ValueKind::String(text) => Raw::Text(text),
        ValueKind::Array(values) => Raw::List(values.into_iter().map(|value| raw(value.kind)).collect()),
        ValueKind::Table(_) | ValueKind::Nil => Raw::Other,
    }
}

/// One line out of the parser's drawing: where, and what it expected. The drawing itself repeats the line of the
/// file, which may hold a password.
fn not_toml(error: &str, text: &str) -> String {
    let place = error.lines().find_map(|line| line.split_once("at line ").map(|(_, place)| place.trim()));
    let reason = error.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or(error);
    match place {
        Some(place) => format!("line {}: not TOML: {reason}", place.trim_end_matches(':')),
        // A number beyond 64 bits is refused without its place, but few lines have one.
        None => match text.lines().position(has_huge_number) {
            Some(index) => format!("line {}: a number is too large: at most 2^63 - 1", index + 1),
            None => format!("not TOML: {reason}"),
        },
    }
}

/// Whether the line has more digits in a row than a number of 64 bits.
fn has_huge_number(line: &str) -> bool {
    line.split(|letter: char| !letter.is_ascii_digit() && letter != '_').any(|digits| {
        let digits = digits.replace('_', "");
        digits.len() > 18 && digits.parse::<i64>().is_err()
    })
}

/// What is wrong with the line of `.env` that cannot be read, without repeating it: it may hold a password. Nothing
/// where its name is none of ours. `lines` goes on behind the line: errors come in the order of the lines.
fn broken_line<'a>(
    error: &dotenvy::Error,
    lines: &mut impl Iterator<Item = (usize, &'a str)>,
) -> Option<String> {
    const EXPECTED: &str = "expected NAME=value; a value with blanks, quotes or $ needs single quotes";
    let dotenvy::Error::LineParse(broken, _) = error else { return Some(error.to_string()) };
    // The parser repeats a whole line, or its value alone, or all lines from a quote that is never closed.
    let first = broken.lines().next().unwrap_or_default().trim();
    let is_comment = |line: &str| line.trim_start().starts_with('#');
    let found = lines.find(|(_, line)| line.trim_end().ends_with(first) && !is_comment(line));
    let Some((index, line)) = found else { return Some(EXPECTED.to_owned()) };
    let name = line.split_once('=').map(|(name, _)| name.trim().trim_start_matches("export ").trim());
    let name = name.filter(|name| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'));
    match name {
        Some(name) if Name::of_variable(name).is_some() => {
            Some(format!("line {} ({name}): {EXPECTED}", index + 1))
        }
        Some(_) if broken.trim_end().lines().count() == 1 && !has_open_quote(broken) => None,
        _ => Some(format!("line {}: {EXPECTED}", index + 1)),
    }
}

/// Whether a quote is never closed, so that what follows the line was lost with it.
fn has_open_quote(text: &str) -> bool {
    ['"', '\''].iter().any(|quote| text.matches(*quote).count() % 2 == 1)
}
