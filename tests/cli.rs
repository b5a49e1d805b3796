//! The program as its users meet it: commands, what they print, and their exit codes.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

/// Runs `maas` in `directory`, with nothing of this machine's configuration.
fn maas(directory: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_maas"));
    command.current_dir(directory).env_clear().args(arguments).envs(environment.iter().copied());
    command.output().expect("the program was built for this test")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("the program ended by itself")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// A server that gives one connection this status, and the address to ask it at.
fn one_answer(status: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("a connection");
        let mut head = [0; 1024];
        let _ = socket.read(&mut head).expect("a request");
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        socket.write_all(answer.as_bytes()).expect("the client reads its answer");
    });
    address.to_string()
}

#[test]
fn version_and_help_are_printed_and_help_begins_with_examples() {
    let place = directory();
    let version = maas(place.path(), &["--version"], &[]);
    assert_eq!((code(&version), stdout(&version)), (0, format!("maas {}\n", env!("CARGO_PKG_VERSION"))));
    let help = maas(place.path(), &["--help"], &[]);
    assert_eq!(code(&help), 0);
    assert!(stdout(&help).starts_with("Examples:\n"), "{}", stdout(&help));
    assert!(stdout(&help).contains("78  wrong configuration"), "{}", stdout(&help));
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    let place = directory();
    for arguments in [&["launch"][..], &["--port"], &["--set", "server.port"], &["config", "--chek", "a"]] {
        assert_eq!(code(&maas(place.path(), arguments, &[])), 2, "{arguments:?}");
    }
}

#[test]
fn a_wrong_configuration_is_exit_code_78_with_every_problem_for_serve_and_config() {
    let place = directory();
    fs::write(place.path().join("config.toml"), "[server]\nprot = 1\n").expect("a file");
    for arguments in [&["--port", "-1"][..], &["serve", "--port", "-1"], &["config", "--port", "-1"]] {
        let output = maas(place.path(), arguments, &[("SLAB_SIZES", "1023")]);
        let problems = stderr(&output);
        assert_eq!((code(&output), stdout(&output)), (78, String::new()), "{arguments:?} {problems}");
        for part in [
            "3 problems",
            "server.prot (config.toml)",
            "\"1023\" (environment SLAB_SIZES)",
            "\"-1\" (--port)",
        ] {
            assert!(problems.contains(part), "{part}: {problems}");
        }
    }
}

#[test]
fn config_prints_values_with_their_origins() {
    let place = directory();
    fs::write(place.path().join(".env"), "BACKEND_TIMEOUT=5\n").expect("a file");
    let output = maas(place.path(), &["config", "--set", "server.host=::"], &[("SERVER_PORT", "8080")]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let table: Vec<String> =
        stdout(&output).lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in [
        "server.host = \"::\" # --set",
        "server.port = 8080 # environment SERVER_PORT",
        "backend.timeout = \"5s\" # .env BACKEND_TIMEOUT",
        "memory.max_inflight_bytes = 67108864 # 64 MiB; default",
    ] {
        assert!(table.iter().any(|found| found == line), "{line}: {table:#?}");
    }
}

#[test]
fn a_profile_is_printed_alone_and_an_unknown_one_is_a_wrong_configuration() {
    let place = directory();
    fs::write(place.path().join("config.toml"), "wrong").expect("a file");
    let output = maas(place.path(), &["config", "--profile", "database"], &[("SERVER_PORT", "wrong")]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let printed = stdout(&output);
    assert!(printed.starts_with("# database: "), "{printed}");
    assert!(printed.contains("memory.classes.64.magazine_capacity"), "{printed}");
    assert!(!printed.contains("server."), "{printed}");
    let unknown = maas(place.path(), &["config", "--profile", "databse"], &[]);
    assert_eq!((code(&unknown), stdout(&unknown)), (78, String::new()));
    assert!(stderr(&unknown).contains("did you mean database?"), "{}", stderr(&unknown));
    for arguments in [&["config", "--profile"][..], &["config", "--profile", "broker", "--port", "1"]] {
        assert_eq!(code(&maas(place.path(), arguments, &[])), 2, "{arguments:?}");
    }
}

#[test]
fn a_file_is_checked_alone() {
    let place = directory();
    fs::write(place.path().join("good.toml"), "[server]\nport = 1\n").expect("a file");
    fs::write(place.path().join("bad.toml"), "[server]\nport = -1\nx = 1\n").expect("a file");
    let environment = [("SERVER_PORT", "wrong")];
    let good = maas(place.path(), &["config", "--check", "good.toml"], &environment);
    assert_eq!((code(&good), stdout(&good).as_str()), (0, "good.toml: ok\n"), "{}", stderr(&good));
    let bad = maas(place.path(), &["config", "--check", "bad.toml"], &environment);
    assert_eq!(code(&bad), 78);
    assert!(stderr(&bad).contains("2 problems"), "{}", stderr(&bad));
    assert_eq!(code(&maas(place.path(), &["config", "--check", "none.toml"], &[])), 78);
}

#[test]
fn a_root_of_the_machine_that_is_not_there_is_78_and_an_empty_one_is_a_warning() {
    let place = directory();
    fs::create_dir(place.path().join("empty")).expect("a directory");
    fs::write(place.path().join("lost.toml"), "[pressure]\ncgroup_root = \"none\"\n").expect("a file");
    fs::write(place.path().join("empty.toml"), "[pressure]\ncgroup_root = \"empty\"\n").expect("a file");
    for arguments in [
        &["--port", "0", "--config", "lost.toml"][..],
        &["config", "--config", "lost.toml"],
        &["config", "--check", "lost.toml"],
    ] {
        let output = maas(place.path(), arguments, &[]);
        let said = stderr(&output);
        assert_eq!(code(&output), 78, "{arguments:?} {said}");
        let problem = "pressure.cgroup_root = \"none\" (lost.toml): expected a directory that exists";
        assert!(said.contains(problem), "{arguments:?} {said}");
    }
    for arguments in [&["config", "--config", "empty.toml"][..], &["config", "--check", "empty.toml"]] {
        let output = maas(place.path(), arguments, &[]);
        let said = stderr(&output);
        assert_eq!(code(&output), 0, "{arguments:?} {said}");
        assert!(said.contains("warning: pressure.cgroup_root is \"empty\", but below it neither"), "{said}");
    }
}

#[test]
fn healthcheck_is_0_on_200_and_1_with_one_line_on_anything_else() {
    let place = directory();
    let healthy = one_answer("200 OK");
    let url = format!("http://{healthy}/health");
    assert_eq!(
        code(&maas(place.path(), &["healthcheck", "--url", &url], &[("HTTP_PROXY", "http://[::1]:1")])),
        0
    );

    let healthy = one_answer("200 OK");
    let (_, port) = healthy.rsplit_once(':').expect("an address has a port");
    let output = maas(place.path(), &["healthcheck"], &[("SERVER_HOST", "0.0.0.0"), ("SERVER_PORT", port)]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));

    let stopping = format!("http://{}/health", one_answer("503 Service Unavailable"));
    let moved = format!("http://{}/health", one_answer("302 Found"));
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let closed = format!("http://{closed}/health");
    for (arguments, part) in [
        (vec!["healthcheck", "--url", &stopping], "503"),
        (vec!["healthcheck", "--url", &moved], "302"),
        (vec!["healthcheck", "--url", &closed], "cannot ask http://127.0.0.1:"),
        (vec!["healthcheck", "--url", &closed], "refused"),
        (vec!["healthcheck", "--url", "nonsense"], "--url is no url"),
        (vec!["healthcheck", "--port", "0"], "--url"),
        (vec!["healthcheck", "--port", "x"], "server.port"),
    ] {
        let output = maas(place.path(), &arguments, &[]);
        let why = stderr(&output);
        assert_eq!((code(&output), why.lines().count()), (1, 1), "{arguments:?}: {why}");
        assert!(why.to_lowercase().contains(part), "{arguments:?}: {why}");
    }
}

#[test]
fn a_healthcheck_gives_up_on_a_server_that_says_nothing() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/health", silent.local_addr().expect("a bound socket has an address"));
    let output = maas(directory().path(), &["healthcheck", "--url", &url], &[]);
    assert_eq!((code(&output), stderr(&output).lines().count()), (1, 1), "{}", stderr(&output));
}

/// 20 minutes of a leak: a tenth of the memory in 200 s.
fn leak() -> String {
    let rows = (0..80).map(|at| format!("{},{},100000\r\n", at * 5, 50_000 + at * 250));
    "seconds,used_bytes,total_bytes\r\n".to_owned() + &rows.collect::<String>()
}

#[test]
fn a_recorded_trace_is_replayed_row_by_row_from_a_file_or_standard_input() {
    let place = directory();
    fs::write(place.path().join("trace.csv"), leak()).expect("a file");
    let output = maas(place.path(), &["replay", "trace.csv"], &[]);
    assert_eq!((code(&output), stderr(&output)), (0, String::new()));
    let rows = stdout(&output);
    let rows: Vec<&str> = rows.lines().collect();
    let header = "seconds,level,predicted_30s,predicted_60s,predicted_120s,confidence,trend,seconds_to_critical,action";
    assert_eq!((rows.len(), rows[0]), (81, header));
    assert!(rows[1].starts_with("0,normal,0.5000,0.5000,0.5000,0.0000,stable,,monitor"), "{}", rows[1]);
    let last: Vec<&str> = rows[80].split(',').collect();
    assert_eq!((last[0], last[1], last[6]), ("395", "moderate", "stable"), "{last:?}");
    let seconds: f64 = last[7].parse().expect("it is expected");
    assert!((380.0..430.0).contains(&seconds), "0.2025 are left at 0.0005 a second: {last:?}");
}

#[test]
fn a_replayed_row_is_answered_before_the_next_one_comes() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_maas"));
    command.env_clear().args(["replay", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut replay = command.spawn().expect("the program was built for this test");
    let mut rows = BufReader::new(replay.stdout.take().expect("a pipe")).lines();
    let mut trace = replay.stdin.take().expect("a pipe");
    let mut next = || rows.next().expect("a row").expect("text");
    assert!(next().starts_with("seconds,level,"));
    for (row, answer) in
        [("0,80,100\n", "0,high,"), ("5,95,100\n", "5,emergency,"), ("9,5,100\n", "9,normal,")]
    {
        trace.write_all(row.as_bytes()).expect("it reads");
        let answered = next();
        assert!(answered.starts_with(answer), "{answered}");
    }
    drop(trace);
    assert!(replay.wait().expect("it ends").success());
}

#[test]
fn a_wrong_trace_is_exit_code_1_with_its_line_behind_the_rows_before_it() {
    let place = directory();
    fs::write(place.path().join("trace.csv"), "0,1,2\n\n5,1,0\n").expect("a file");
    for (arguments, expected) in [
        (["replay", "trace.csv"], "maas replay: trace.csv: line 3: a sample has total_bytes = 0\n"),
        (["replay", "none.csv"], "maas replay: cannot read none.csv: "),
        (["replay", "."], "maas replay: cannot read .: it is a directory\n"),
    ] {
        let output = maas(place.path(), &arguments, &[]);
        assert_eq!(code(&output), 1, "{arguments:?}");
        assert!(stderr(&output).starts_with(expected), "{arguments:?}: {}", stderr(&output));
        assert_eq!(stdout(&output).lines().count(), if arguments[1] == "trace.csv" { 2 } else { 0 });
    }
    assert_eq!(code(&maas(place.path(), &["replay"], &[])), 2);
}
