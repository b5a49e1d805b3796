//! What the guides say is so: presets are valid, names and links exist, and the example client is served.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const GUIDES: [&str; 8] = [
    "README.md",
    "CONTRIBUTING.md",
    "docs/doctor.md",
    "docs/integration.md",
    "docs/tuning.md",
    "docs/pressure.md",
    "docs/profiles.md",
    "docs/recommendations.md",
];

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The program, with nothing of this machine's configuration.
fn maas(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_maas"));
    command.env_clear().args(arguments);
    command
}

/// Blocks of a page that are marked as `language`.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while lines.by_ref().any(|line| line.strip_prefix("```") == Some(language)) {
        blocks
            .push(lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect());
    }
    blocks
}

/// Words of a text that begin so, and go on with small letters, digits and underscores.
fn names<'a>(text: &'a str, beginning: &'a str) -> impl Iterator<Item = &'a str> {
    let ends = |rest: &str| {
        rest.find(|letter: char| !(letter.is_ascii_lowercase() || "_0123456789".contains(letter)))
    };
    text.match_indices(beginning).map(move |(at, _)| {
        &text[at..]
            [..ends(&text[at + beginning.len()..]).map_or(text.len() - at, |end| end + beginning.len())]
    })
}

#[test]
fn each_preset_of_the_guides_is_a_configuration() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let presets = ["docs/tuning.md", "docs/pressure.md"].map(|guide| blocks(&read(guide), "toml"));
    assert!(presets[0].len() >= 3 && presets[1].len() >= 2, "the presets were found: {presets:?}");
    for preset in presets.into_iter().flatten() {
        let file = place.path().join("config.toml");
        fs::write(&file, &preset).expect("a temporary file");
        let output =
            maas(&["config", "--check"]).arg(&file).current_dir(&place).output().expect("it was built");
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{preset}\n{}", String::from_utf8_lossy(&said));
    }
}

#[test]
fn metrics_and_keys_that_guides_name_exist() {
    let readme = read("README.md");
    let metrics: BTreeSet<&str> = names(&readme, "| `maas_").map(|row| &row[3..]).collect();
    assert!(metrics.len() > 30, "the table was found: {}", metrics.len());
    let mut unknown = Vec::new();
    for guide in ["docs/integration.md", "docs/tuning.md", "docs/pressure.md"] {
        let text = read(guide);
        for metric in names(&text, "maas_").filter(|name| !metrics.contains(name.trim_end_matches("_bucket")))
        {
            unknown.push(format!("{guide}: {metric}"));
        }
        for room in ["`memory.", "`server.", "`pressure."] {
            let keys = text.match_indices(room).map(|(at, _)| &text[at + 1..]);
            let keys = keys.filter_map(|rest| rest.split(['`', ' ', '=']).next());
            let is_known = |key: &str| readme.contains(&format!("| `{key}`"));
            unknown.extend(keys.filter(|key| !is_known(key)).map(|key| format!("{guide}: {key}")));
        }
    }
    assert!(unknown.is_empty(), "not in the README's tables:\n  {}", unknown.join("\n  "));
}

#[test]
fn links_between_guides_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut links, mut lost) = (0, Vec::new());
    for guide in GUIDES {
        let text = read(guide);
        let directory = root.join(guide).parent().expect("a file lies in a directory").to_owned();
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split([')', '#']).next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            links += 1;
            if !directory.join(target).exists() {
                lost.push(format!("{guide}: {target}"));
            }
        }
    }
    assert!(links > 10 && lost.is_empty(), "{links} links, of which lost:\n  {}", lost.join("\n  "));
}

/// A server on a free port, ended with its guard.
struct Server(Child, String);

impl Server {
    fn start() -> Server {
        let mut command = maas(&["--port", "0", "--set", "memory.max_pool_size=64MiB"]);
        let mut child = command.stderr(Stdio::piped()).spawn().expect("it was built");
        let log = BufReader::new(child.stderr.take().expect("it is a pipe"));
        let mut lines = log.lines().map_while(Result::ok);
        let address = lines.find_map(|line| {
            let (_, rest) = line.split_once("listening on ")?;
            rest.split(',').next().map(str::to_owned)
        });
        std::thread::spawn(move || lines.for_each(drop)); // or it would wait for somebody to read its log
        Server(child, address.expect("it says where it listens"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_example_client_is_served() {
    let server = Server::start();
    let test = std::env::current_exe().expect("a test knows where it lies");
    let profile = test.ancestors().nth(2).expect("tests lie in deps/ of their profile");
    let client = profile.join("examples/http_client");
    let output = Command::new(&client).arg(&server.1).output();
    let output =
        output.unwrap_or_else(|error| panic!("{}: {error}: cargo build --examples", client.display()));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    for expected in [
        ", 131072 bytes for 100000\n",
        "read back 14 bytes, version \"1\"\n",
        "refused: 422 size-too-large: 1099511627776 bytes were asked for",
        "rolled back: 3 blocks, 336 bytes\n",
        "freed, and freed again: 204, then 404\n",
    ] {
        assert!(said.contains(expected), "{expected:?} is not in {said}");
    }
}
