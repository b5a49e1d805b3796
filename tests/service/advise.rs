//! Advice over HTTP: every word of it, what it does to content, and what it leaves alone.

use crate::support::{Answer, Client, JSON, OCTETS, Server, path_of, request, wait_until};
use serde_json::json;

const HINTS: [&str; 6] = ["willneed", "sequential", "random", "hugepage", "nohugepage", "unmergeable"];
const DISCARDS: [&str; 3] = ["free", "dontneed", "remove"];
/// More than the buffers of a connection's two sockets take, so that a reader who takes nothing holds the content.
const HELD_BYTES: usize = 16 << 20;

fn advise(server: &Server, path: &str, advice: &str) -> Answer {
    server.post_to(&format!("{path}/advise"), &json!({ "advice": advice }).to_string())
}

/// Asserts that an advice was taken; the ETag that it was answered with.
#[track_caller]
fn taken(answer: &Answer) -> Option<&str> {
    assert_eq!((answer.status, answer.body.len()), (204, 0), "{answer:?}");
    answer.header("etag")
}

/// A block that is full of sevens.
fn filled(server: &Server, size_bytes: usize) -> String {
    let path = path_of(&server.allocate(size_bytes as u64));
    assert_eq!(server.call("PUT", &format!("{path}/data"), &[], vec![7; size_bytes]).status, 204);
    path
}

#[track_caller]
fn is_all(server: &Server, path: &str, byte: u8, etag: &str) {
    let answer = server.get(&format!("{path}/data"));
    assert_eq!((answer.status, answer.header("etag")), (200, Some(etag)));
    assert!(answer.body.iter().all(|found| *found == byte), "all of it is {byte}");
}

fn counted(server: &Server, advice: &str, result: &str) -> f64 {
    server.samples().get(&format!("maas_advice_total{{advice=\"{advice}\",result=\"{result}\"}}"))
}

/// A reader of a whole block, who has taken nothing but the head.
fn reading(server: &Server, path: &str) -> Client {
    let mut client = server.connect();
    let data = format!("{path}/data");
    client.send(request("GET", &data, &[], ""));
    assert_eq!(client.begin("GET", &data).status, 200);
    client
}

#[test]
fn hints_change_no_byte_of_a_small_block_a_slab_and_a_large_object() {
    let server = Server::start();
    for size_bytes in [100, 1 << 20, 10 << 20] {
        let path = filled(&server, size_bytes);
        for advice in HINTS {
            assert_eq!(taken(&advise(&server, &path, advice)), None, "{advice}");
        }
        is_all(&server, &path, 7, "\"1\"");
        assert_eq!(server.delete(&path).status, 204);
    }
    for advice in ["willneed", "sequential", "random"] {
        let counts = ["nothing", "applied"].map(|result| counted(&server, advice, result));
        assert_eq!(counts, [1.0, 2.0], "{advice}: 100 bytes share their page");
    }
}

#[test]
fn content_that_is_given_up_is_zeros_of_a_new_version_and_can_be_written_again() {
    let server = Server::start();
    for size_bytes in [100, 5000, 1 << 20, 40 << 20] {
        let path = filled(&server, size_bytes);
        let data = format!("{path}/data");
        for (advice, etag) in DISCARDS.into_iter().zip(["\"2\"", "\"3\"", "\"4\""]) {
            assert_eq!(taken(&advise(&server, &path, advice)), Some(etag), "{advice} of {size_bytes}");
            is_all(&server, &path, 0, etag);
        }
        assert_eq!(server.call("PATCH", &format!("{data}?offset=90"), &[OCTETS], "again").status, 204);
        let answer = server.call("GET", &data, &[("Range", "bytes=89-95")], "");
        assert_eq!((&answer.body[..], answer.header("etag")), (&b"\0again\0"[..], Some("\"5\"")));
        assert_eq!(server.delete(&path).status, 204);
    }
    wait_until("all is free", || server.stat("/memory/in_use_bytes") == 0);
    assert_eq!(DISCARDS.map(|advice| counted(&server, advice, "applied")), [4.0; 3]);
}

#[test]
fn a_reader_who_stands_still_keeps_what_he_has() {
    let server = Server::with().environment("MAX_POOL_SIZE", "64MiB").start();
    let path = filled(&server, HELD_BYTES);
    let mut reader = reading(&server, &path);
    assert_eq!(taken(&advise(&server, &path, "random")), None);
    assert_eq!(taken(&advise(&server, &path, "dontneed")), Some("\"2\""));
    is_all(&server, &path, 0, "\"2\"");
    assert_eq!(server.stat("/draining_bytes"), HELD_BYTES as u64, "the version that he reads");
    assert!(reader.bytes(HELD_BYTES).iter().all(|byte| *byte == 7));
    wait_until("he has let go", || server.stat("/draining_bytes") == 0);
}

#[test]
fn beside_a_reader_it_takes_room_for_both_and_waits_for_that_like_a_write() {
    let server = Server::with()
        .environment("MAX_POOL_SIZE", "16MiB")
        .environment("SLAB_SIZES", "16777216")
        .set("memory.write_wait_ms", "50")
        .start();
    let path = filled(&server, HELD_BYTES);
    let mut reader = reading(&server, &path);
    advise(&server, &path, "free").is_problem(503, "write-waited");
    assert!(reader.bytes(HELD_BYTES).iter().all(|byte| *byte == 7));
    wait_until("the reader lets go", || advise(&server, &path, "free").status == 204);
    is_all(&server, &path, 0, "\"2\"");
    assert_eq!(taken(&advise(&server, &path, "free")), Some("\"3\""), "without one it needs no room");
}

#[test]
fn conditions_are_not_asked_for() {
    let server = Server::start();
    let path = filled(&server, 5000);
    let headers = [JSON, ("If-Match", "\"99\"")];
    let answer = server.call("POST", &format!("{path}/advise"), &headers, r#"{"advice":"dontneed"}"#);
    assert_eq!(taken(&answer), Some("\"2\""), "the latest content is given up, whatever version it is");
    is_all(&server, &path, 0, "\"2\"");
}

#[test]
fn what_lies_in_an_arena_is_advised_too() {
    let server = Server::start();
    let arena = server.arena(&json!({ "profile": "large" }));
    for (size_bytes, hinted) in [(100, "nothing"), (100_000, "applied")] {
        let before = counted(&server, "random", hinted);
        let path = path_of(&server.member(&arena, size_bytes));
        let body = vec![7; usize::try_from(size_bytes).expect("small")];
        assert_eq!(server.call("PUT", &format!("{path}/data"), &[], body).status, 204);
        assert_eq!(taken(&advise(&server, &path, "random")), None);
        assert_eq!(counted(&server, "random", hinted), before + 1.0, "of {size_bytes}");
        is_all(&server, &path, 7, "\"1\"");
        assert_eq!(taken(&advise(&server, &path, "remove")), Some("\"2\""));
        is_all(&server, &path, 0, "\"2\"");
    }
}

#[test]
fn merging_is_the_operators_to_allow() {
    let server = Server::start();
    let path = filled(&server, 100_000);
    let detail = advise(&server, &path, "mergeable").is_problem(400, "invalid-field");
    assert!(detail.contains("memory.allow_mergeable"), "{detail}");
    let server = Server::with().set("memory.allow_mergeable", "true").start();
    let path = filled(&server, 100_000);
    assert_eq!(taken(&advise(&server, &path, "mergeable")), None);
    assert_eq!(taken(&advise(&server, &path, "unmergeable")), None);
    is_all(&server, &path, 7, "\"1\"");
    assert_eq!(server.delete(&path).status, 204);
    let counts = ["applied", "unsupported"].map(|result| counted(&server, "mergeable", result));
    assert_eq!(counts.iter().sum::<f64>(), 1.0, "a kernel may lack it");
}

#[test]
fn what_is_no_advice_or_is_for_no_block_is_told_so() {
    let server = Server::start();
    let path = filled(&server, 5000);
    let target = format!("{path}/advise");
    for body in ["{}", r#"{"advice":"DontNeed"}"#, r#"{"advice":1}"#, r#"{"advice":null}"#] {
        let detail = server.post_to(&target, body).is_problem(400, "invalid-field");
        assert!(detail.contains("advice") && detail.contains("willneed, sequential"), "{detail}");
    }
    server.post_to(&target, r#"{"advice":"free","bytes":1}"#).is_problem(400, "unknown-field");
    server.post_to(&target, "free").is_problem(400, "invalid-json");
    server.call("POST", &target, &[], r#"{"advice":"free"}"#).is_problem(415, "unsupported-media-type");
    server.post_to("/allocate/x/advise", r#"{"advice":"free"}"#).is_problem(400, "invalid-id");
    is_all(&server, &path, 7, "\"1\"");
    assert_eq!(server.delete(&path).status, 204);
    for advice in HINTS.iter().chain(&DISCARDS) {
        advise(&server, &path, advice).is_problem(404, "not-found");
    }
    assert_eq!(counted(&server, "free", "applied"), 0.0);
}
