//! `/doctor` and `maas doctor`: what is wrong, in plain words, and what to do about it.

use crate::support::{JSON, Server, wait_until};
use serde_json::{Value, json};
use std::fs;
use std::process::{Command, Output};
use tempfile::TempDir;

fn diagnosis(server: &Server) -> Value {
    let answer = server.get("/doctor");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn finding<'a>(diagnosis: &'a Value, code: &str) -> Option<&'a Value> {
    diagnosis["findings"].as_array().expect("a list").iter().find(|finding| finding["code"] == code)
}

/// A machine whose control group has 1000 MiB and uses 650, which stalls so many percent of the time; and where it lies.
fn machine(stalled: &str) -> (TempDir, String) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (path, text) in [
        ("proc/self/cgroup", "0::/pod\n".to_owned()),
        ("proc/meminfo", "MemTotal: 67108864 kB\nSwapTotal: 0 kB\n".to_owned()),
        ("sys/fs/cgroup/pod/memory.max", (1000_u64 << 20).to_string()),
        ("sys/fs/cgroup/pod/memory.current", (650_u64 << 20).to_string()),
        ("proc/pressure/memory", format!("some avg10={stalled} avg60=0.00 avg300=0.00 total=0\n")),
    ] {
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().expect("files lie below the root")).expect("a directory");
        fs::write(path, text).expect("a fixture file");
    }
    let root = directory.path().display().to_string();
    (directory, root)
}

fn checked(diagnosis: &Value) -> Vec<&str> {
    diagnosis["checked"].as_array().expect("a list").iter().filter_map(Value::as_str).collect()
}

/// Runs `maas doctor`, with nothing of this machine's configuration.
fn doctor(arguments: &[&str]) -> Output {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut command = Command::new(env!("CARGO_BIN_EXE_maas"));
    command.current_dir(directory.path()).env_clear().arg("doctor").args(arguments);
    command.output().expect("the program was built for this test")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it ends by itself")
}

fn url(server: &Server) -> String {
    format!("http://{}", server.address())
}

/// Makes an allocation with that tag, and half a pool of it.
fn fill(server: &Server, size_bytes: u64, tag: &str) -> Value {
    let body = json!({ "size_bytes": size_bytes, "tag": tag }).to_string();
    let answer = server.call("POST", "/allocate", &[JSON], body);
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json()
}

#[test]
fn a_diagnosis_has_a_status_findings_with_a_fix_and_what_was_checked() {
    let (_machine, root) = machine("0.00");
    let server = Server::with().set("pressure.cgroup_root", &root).start();
    wait_until("leaks and what comes were looked for", || {
        let checked = diagnosis(&server)["checked"].to_string();
        checked.contains("\"leaks\"") && checked.contains("\"forecast\"")
    });
    let healthy = diagnosis(&server);
    let members: Vec<&String> = healthy.as_object().expect("an object").keys().collect();
    assert_eq!(members, ["checked", "findings", "status"]);
    let checked = checked(&healthy);
    for expected in [
        "memory-limit",
        "open-files",
        "pressure",
        "stalls",
        "forecast",
        "leaks",
        "budgets",
        "backend",
        "leases",
    ] {
        assert!(checked.contains(&expected), "{expected} is not in {checked:?}");
    }
    // The machine may be what it likes; of a service that nobody uses there is nothing to say.
    for found in healthy["findings"].as_array().expect("a list") {
        let members: Vec<&String> = found.as_object().expect("an object").keys().collect();
        assert_eq!(members, ["code", "fix", "severity", "summary"]);
        let machine = [
            "memory-limit",
            "overcommit",
            "swap",
            "huge-pages",
            "open-files",
            "mappings",
            "pressure",
            "stalls",
        ];
        assert!(machine.iter().any(|code| found["code"] == *code), "{found}");
    }
    server.get("/doctor?verbose").is_problem(400, "invalid-query");
}

#[test]
fn the_service_the_command_and_the_log_look_at_the_machine_below_the_root_that_is_configured() {
    let (_machine, root) = machine("0.00");
    let settings = [
        format!("pressure.cgroup_root={root}"),
        "memory.max_pool_size=900MiB".to_owned(),
        "server.port=0".to_owned(),
    ];
    let limit =
        format!("the memory limit above the service is 1000 MiB ({root}/sys/fs/cgroup/pod/memory.max)");
    let says_so = |diagnosis: &Value| {
        let found = finding(diagnosis, "memory-limit").and_then(|found| found["summary"].as_str());
        assert!(found.is_some_and(|summary| summary.contains(&limit)), "{diagnosis}");
    };
    let server =
        Server::with().set("pressure.cgroup_root", &root).set("memory.max_pool_size", "900MiB").start();
    server.wait_for_log("memory limit above us limit=1048576000");
    says_so(&diagnosis(&server));
    let arguments: Vec<&str> =
        settings.iter().flat_map(|setting| ["--set", setting]).chain(["--json"]).collect();
    says_so(&serde_json::from_slice(&doctor(&arguments).stdout).expect("JSON"));
    let auto = Server::with().set("pressure.cgroup_root", &root).set("memory.max_pool_size", "auto").start();
    assert_eq!(auto.stat("/memory/max_pool_size_bytes"), 750 << 20);
}

#[test]
fn pressure_that_stalls_raise_is_told_with_what_helps_against_them_and_unread_ones_are_not_checked() {
    let (_machine, root) = machine("30.00");
    let server = Server::with().set("pressure.cgroup_root", &root).start();
    let found = diagnosis(&server);
    assert!(checked(&found).contains(&"stalls"), "{found}");
    let [pressure, stalls] = ["pressure", "stalls"]
        .map(|code| finding(&found, code).unwrap_or_else(|| panic!("no {code} in {found}")));
    let summary = pressure["summary"].as_str().expect("text");
    assert!(summary.starts_with("Pressure is high: memory is 65 % full, and stalls"), "{summary}");
    assert_eq!(pressure["fix"], stalls["fix"]);
    let deaf = Server::with().set("pressure.cgroup_root", &root).set("pressure.psi", "false").start();
    let found = diagnosis(&deaf);
    assert!(!checked(&found).contains(&"stalls") && checked(&found).contains(&"pressure"), "{found}");
}

#[test]
fn a_full_pool_its_tags_its_leaks_and_its_backend_are_told() {
    let server = Server::with()
        .set("memory.max_pool_size", "64MiB")
        .set("budgets.bounded", "4MiB")
        .set("leaks.interval", "1")
        .set("leaks.older_than", "1")
        .set("backend.server_url", "http://127.0.0.1:1")
        .start();
    fill(&server, 4 << 20, "bounded");
    fill(&server, 58 << 20, "hungry");
    server.arena(&json!({ "profile": "tiny" }));
    wait_until("the look for leaks has found both", || {
        let found = diagnosis(&server);
        let leaks = finding(&found, "leaks").and_then(|leaks| leaks["summary"].as_str());
        leaks.is_some_and(|summary| summary.contains("2 allocations"))
    });
    wait_until("the backend has not answered", || finding(&diagnosis(&server), "backend").is_some());
    wait_until("the arena is old", || finding(&diagnosis(&server), "arenas").is_some());
    let found = diagnosis(&server);
    assert_eq!(found["status"], "problems");
    for (code, severity, parts) in [
        ("pressure", "problem", &["emergency", "97 %"][..]),
        ("biggest-tag", "warning", &["hungry", "58 MiB", "91 %"]),
        ("budgets", "warning", &["bounded", "4 MiB"]),
        ("leaks", "warning", &["2 allocations", "62 MiB", "hungry"]),
        ("arenas", "warning", &["1 open arena,"]),
        ("backend", "warning", &["failed in a row"]),
    ] {
        let found = finding(&found, code).unwrap_or_else(|| panic!("no {code} in {found}"));
        // After a while the backend is given up.
        let has_lasted = code == "backend" && found["severity"] == "problem";
        assert!(found["severity"] == severity || has_lasted, "{found}");
        let summary = found["summary"].as_str().expect("text");
        assert!(parts.iter().all(|part| summary.contains(part)), "{summary}");
    }
    let severities: Vec<&str> = found["findings"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|found| found["severity"].as_str())
        .collect();
    assert!(severities.is_sorted_by_key(|severity| {
        ["problem", "warning", "info"].iter().position(|known| known == severity)
    }));

    let told = doctor(&["--url", &url(&server)]);
    assert_eq!(code(&told), 1, "{}", text(&told.stderr));
    let told = text(&told.stdout);
    assert!(told.starts_with(&format!("{} answers: ", url(&server))), "{told}");
    assert!(
        told.contains("\nproblem: Pressure is emergency") && told.contains("[pressure]\n  fix: "),
        "{told}"
    );
    let json: Value =
        serde_json::from_slice(&doctor(&["--url", &url(&server), "--json"]).stdout).expect("JSON");
    assert_eq!((&json["status"], &json["checked"]), (&found["status"], &found["checked"]));
}

#[test]
fn the_command_asks_the_server_of_the_configuration_and_ends_by_what_was_found() {
    let server = Server::start();
    let port = server.address().port().to_string();
    let told = doctor(&["--port", &port]);
    let problems = diagnosis(&server)["status"] == "problems";
    assert_eq!(code(&told), i32::from(problems), "{}", text(&told.stdout));
    assert!(text(&told.stdout).starts_with(&format!("{} answers: ", url(&server))), "{}", text(&told.stdout));
}

#[test]
fn where_no_service_answers_the_machine_and_the_configuration_are_looked_at() {
    // A port that nobody listens on: it is bound as long as this lives.
    let free = tokio::net::TcpSocket::new_v4().expect("a socket");
    free.bind(std::net::SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let port = free.local_addr().expect("a bound socket has an address").port().to_string();
    let told = doctor(&["--port", &port, "--set", "memory.max_pool_size=1MiB"]);
    let said = text(&told.stdout);
    assert!(
        said.starts_with("No service answers; the machine and the configuration were looked at: "),
        "{said}"
    );
    assert!(said.contains("[not-running]\n  fix: Start one with \"maas serve\""), "{said}");
    assert_eq!(code(&told), i32::from(said.contains("\nproblem: ")), "{said}");
    let named = doctor(&["--url", &format!("http://127.0.0.1:{port}"), "--json"]);
    assert_eq!(code(&named), 1, "one that was named should be there");
    let named: Value = serde_json::from_slice(&named.stdout).expect("JSON");
    assert_eq!(finding(&named, "not-running").map(|found| &found["severity"]), Some(&json!("problem")));
    assert!(!named["checked"].as_array().expect("a list").contains(&json!("leaks")));

    let immense = doctor(&["--port", &port, "--set", "memory.max_pool_size=32TiB"]);
    assert!(
        text(&immense.stdout).contains("problem: The service may come to 32"),
        "{}",
        text(&immense.stdout)
    );
    assert_eq!(code(&immense), 1);
    let wrong = doctor(&["--set", "memory.max_pool_size=none"]);
    assert_eq!(code(&wrong), 78, "{}", text(&wrong.stderr));
    let stranger = doctor(&["--url", "http://127.0.0.1:1/path"]);
    assert_eq!((code(&stranger), text(&stranger.stdout).as_str()), (1, ""));
    assert!(text(&stranger.stderr).contains("without a path"), "{}", text(&stranger.stderr));
}
