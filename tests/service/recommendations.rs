//! `/stats/recommendations` and `maas recommend`: what clients asked for, by whatever call, becomes a configuration.

use crate::support::Server;
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Output, Stdio};

fn recommendations(server: &Server, query: &str) -> Value {
    let answer = server.get(&format!("/stats/recommendations{query}"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// Runs `maas recommend`, with nothing of this machine's configuration.
fn recommend(arguments: &[&str], input: &str) -> Output {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut command = Command::new(env!("CARGO_BIN_EXE_maas"));
    command.current_dir(directory.path()).env_clear().arg("recommend").args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().expect("the program was built for this test");
    process.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("it reads");
    process.wait_with_output().expect("it ends")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn before_the_first_request_the_present_table_is_told_and_nothing_claimed() {
    let server = Server::with().environment("SLAB_SIZES", "4096,1024").start();
    let expected = json!({
        "slab_sizes": [1024, 4096], "waste_ratio": null, "current_waste_ratio": null,
        "max_pool_size_bytes": server.stat("/memory/max_pool_size_bytes"), "sample_count": 0,
    });
    assert_eq!(recommendations(&server, ""), expected);
}

#[test]
fn every_way_to_allocate_is_counted_and_the_sizes_become_classes() {
    let sizes = Server::with().environment("SLAB_SIZES", "1024,4096,131072");
    let server = sizes.set("server.worker_threads", "1").start(); // so that the peak is exact
    let large = server.post(&json!({ "size_bytes": 200_000 }).to_string());
    assert_eq!(large.status, 201, "of pages, which say nothing about classes");
    assert_eq!(
        server.delete(&format!("/allocate/{}", large.json()["id"].as_str().expect("text"))).status,
        204
    );
    server.allocate(1000);
    server.allocate(3000);
    let body = json!({ "size_bytes": 100_000, "count": 3 }).to_string();
    assert_eq!(server.post_to("/allocate/batch", &body).status, 201);
    assert_eq!(server.post(&json!({ "size_bytes": 2000, "tag": "cache" }).to_string()).status, 201);
    assert_eq!(server.store("", "14 bytes of it").status, 201);
    let arena = server.arena(&json!({ "profile": "tiny" }));
    [100, 20_000].into_iter().for_each(|size| drop(server.member(&arena, size)));
    assert_eq!(server.tell_arena(&arena, "rollback").status, 200, "its members say nothing about classes");

    let asked = 1000 + 3000 + 300_000 + 2000 + 14;
    let given = 1024 * 2 + 4096 * 2 + 131_072 * 3;
    let ratio = |asked: u32, given: u32| f64::from(given - asked) / f64::from(given);
    let seen = recommendations(&server, "");
    assert_eq!(seen["slab_sizes"], json!([1000, 3000, 100_000]));
    assert_eq!(seen["sample_count"], 7);
    assert_eq!(seen["current_waste_ratio"], ratio(asked, given));
    assert_eq!(seen["waste_ratio"], ratio(asked, 2 * 1000 + 2 * 3000 + 300_000));
    assert_eq!(seen["max_pool_size_bytes"], 600_000, "{given} and a quarter, in whole slabs of 100000");
    let members: Vec<&String> = seen.as_object().expect("an object").keys().collect();
    assert_eq!(members.len(), 5, "{members:?}");

    assert_eq!(recommendations(&server, "?classes=1")["slab_sizes"], json!([100_000]));
    let exact = recommendations(&server, "?classes=64");
    assert_eq!(exact["slab_sizes"], json!([16, 1000, 2000, 3000, 100_000]));
    assert!(exact["waste_ratio"].as_f64() < Some(0.001), "{exact}");
}

#[test]
fn a_wrong_number_of_classes_is_refused() {
    let server = Server::start();
    for query in ["classes=0", "classes=65", "classes=", "classes=-1", "classes=two", "klasses=3"] {
        let answer = server.get(&format!("/stats/recommendations?{query}"));
        assert_eq!((answer.status, answer.json()["code"].clone()), (400, json!("invalid-query")), "{query}");
    }
}

#[test]
fn the_command_asks_a_server_and_prints_what_can_be_pasted() {
    let server = Server::start();
    (0..3).for_each(|_| _ = server.allocate(3000));
    let url = format!("http://{}/", server.address());
    let output = recommend(&["--url", &url, "--classes", "5"], "");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    assert!(printed.contains("# From 3 requests.\n"), "{printed}");
    assert!(printed.contains("waste 26.8 %, those below 0.0 %"), "{printed}");
    assert!(printed.ends_with("[memory]\nslab_sizes = [3000]\nmax_pool_size = 18000\n"), "{printed}");
    // What the server says is what the command reads, member by member.
    let output = recommend(&["--url", &url, "--json"], "");
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json, recommendations(&server, ""));
}

#[test]
fn a_password_in_an_address_is_never_printed() {
    let server = Server::start();
    let (elsewhere, here) = ("127.0.0.1:1".to_owned(), server.address().to_string());
    for (address, path) in [(&elsewhere, ""), (&elsewhere, "/health"), (&here, "/x?y"), (&here, "")] {
        let output = recommend(&["--url", &format!("http://user:secret@{address}{path}")], "");
        let told = text(&output.stderr) + &text(&output.stdout);
        assert!(!told.is_empty() && !told.contains("secret"), "{told}");
    }
}

#[test]
fn sizes_of_a_file_are_exact_whatever_their_number() {
    let classes = ["--file", "-", "--set", "memory.slab_sizes=4TiB", "--set", "memory.max_pool_size=8TiB"];
    let output = recommend(&classes, "3300GiB,4294967295\n");
    assert!(text(&output.stdout).contains("size classes waste 19.4 %"), "{}", text(&output.stdout));
    let output = recommend(&["--file", "-", "--classes", "2"], "\u{feff}1032,1000000\n1056,1\n");
    assert!(text(&output.stdout).ends_with("slab_sizes = [1032, 1056]\n"), "{}", text(&output.stdout));
}

#[test]
fn the_command_reads_sizes_and_says_what_is_wrong() {
    let output = recommend(&["--file", "-"], "1000,3\n3KiB\n");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).ends_with("slab_sizes = [1000, 3072]\n"), "{}", text(&output.stdout));
    for (arguments, code, why) in [
        (&["--file", "-"][..], 1, "standard input: line 2: \"x\" is not a size"),
        (&["--file", "/does/not/exist"], 1, "cannot read /does/not/exist: "),
        (&["--file", "."], 1, "cannot read .: it is a directory"),
        (&["--url", "http://127.0.0.1:1"], 1, "cannot ask http://127.0.0.1:1: "),
        (&["--url", "http://127.0.0.1:1/health"], 1, "the server alone, http://127.0.0.1:1, without a path"),
        (&["--url", "http://127.0.0.1:1/?classes=3"], 1, "without a path or query"),
        (&["--url", "127.0.0.1:1"], 1, "--url is no URL"),
        (&["--classes", "65"], 2, "65 is not in 1..=64"),
        (&["--file", "-", "--url", "http://127.0.0.1:1"], 2, "cannot be used with"),
        (&["--file", "-", "--port", "x"], 78, "server.port"),
        (&["--port", "x", "--set", "server.x=1"], 78, "2 problems"),
    ] {
        // One that reads nothing may have ended before it could be given anything.
        let reads = code == 1 && arguments.contains(&"-");
        let output = recommend(arguments, if reads { "5\nx\n" } else { "" });
        let told = text(&output.stderr);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(code), String::new()), "{told}");
        assert!(told.to_lowercase().contains(&why.to_lowercase()), "{arguments:?}: {told}");
    }
}
