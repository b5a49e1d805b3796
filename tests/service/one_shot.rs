//! Allocating and writing in one request: stored all or nothing, refused before the body where the head tells.

use crate::support::{Client, OCTETS, Server, path_of, wait_until};
use serde_json::{Value, json};

/// Bytes that differ from place to place, and between seeds.
fn content(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at % 251).expect("below 251") ^ seed).collect()
}

/// The head of a one-shot with these lines after its first, and whatever of the body.
fn begin(server: &Server, query: &str, lines: &str) -> Client {
    let mut client = server.connect();
    client.send(format!(
        "POST /allocate{query} HTTP/1.1\r\nHost: test\r\nContent-Type: {}\r\n{lines}\r\n",
        OCTETS.1
    ));
    client
}

#[test]
fn a_body_is_stored_with_its_allocation_word_for_word() {
    let server = Server::start();
    for (length, actual) in [
        (1, 1024),
        (1000, 1024),
        (16_384, 16_384),
        (16_385, 32_768),
        (65_537, 131_072),
        (3_000_000, 4_194_304),
    ] {
        let bytes = content(length, 7);
        let answer = server.store("", &bytes);
        assert_eq!(answer.status, 201, "{}", answer.text());
        let made = answer.json();
        let expected = json!({
            "id": made["id"], "size_bytes": length, "actual_size_bytes": actual,
            "size_mb": made["size_mb"], "age_seconds": 0
        });
        assert_eq!(made, expected);
        assert_eq!(answer.header("location"), Some(path_of(&made).as_str()));
        assert_eq!((answer.header("etag"), answer.header("idempotent-replayed")), (Some("\"1\""), None));
        let read = server.get(&format!("{}/data", path_of(&made)));
        assert_eq!((read.header("etag"), read.body == bytes), (Some("\"1\""), true), "{length} bytes");
    }
    assert_eq!(server.stat("/memory/active_allocations"), 6);
}

#[test]
fn options_are_parameters_and_the_members_stand_in_their_order() {
    let server = Server::start();
    let answer = server.store("?lease_seconds=60&tag=a.b&wait_ms=30000&priority=low", "x");
    let text = answer.text();
    let made = answer.json();
    assert_eq!((&made["expires_in_seconds"], &made["tag"]), (&json!(60), &json!("a.b")));
    let members =
        ["id", "size_bytes", "actual_size_bytes", "size_mb", "age_seconds", "expires_in_seconds", "tag"];
    let places: Vec<_> = members.iter().map(|name| text.find(&format!("\"{name}\":"))).collect();
    assert!(places.is_sorted() && places.iter().all(Option::is_some), "{text}");
    assert_eq!(made.as_object().expect("an object").len(), members.len());
}

#[test]
fn parameters_that_are_wrong_are_named() {
    let server = Server::start();
    server.untouched_by(|| {
        for (query, named) in [
            ("?lease_seconds=0", "lease_seconds"),
            ("?lease_seconds=1.5", "lease_seconds"),
            ("?lease_seconds=", "lease_seconds"),
            ("?lease_seconds=18446744073709551616", "lease_seconds"),
            ("?wait_ms=30001", "wait_ms"),
            ("?wait_ms=-1", "wait_ms"),
            ("?priority=urgent", "priority"),
            ("?tag=", "tag"),
            ("?tag=Cache", "tag"),
            ("?tag=a%20b", "tag"),
            ("?tag=a&tag=a", "tag"),
            ("?size_bytes=10", "size_bytes"),
            ("?colour=1", "colour"),
        ] {
            let detail = server.store(query, "x").is_problem(400, "invalid-query");
            assert!(detail.contains(named), "{query}: {detail}");
        }
        // A JSON body has its options inside.
        server.post_to("/allocate?tag=a", "{\"size_bytes\":1}").is_problem(400, "invalid-query");
    });
}

#[test]
fn what_the_head_tells_is_refused_before_the_body_is_asked_for() {
    let server = Server::with().environment("MAX_POOL_SIZE", "1048576").start();
    server.untouched_by(|| {
        let expect = "Expect: 100-continue\r\n";
        for (query, lines, status, code) in [
            ("", "Content-Length: 1048577\r\n", 422, "size-too-large"),
            ("", "Content-Length: 9223372036854775807\r\n", 422, "size-too-large"),
            ("", "Content-Length: 0\r\n", 400, "invalid-size"),
            ("", "Transfer-Encoding: chunked\r\n", 411, "length-required"),
            ("", "", 411, "length-required"),
            ("", "Content-Length: 9\r\nContent-Encoding: gzip\r\n", 415, "unsupported-media-type"),
            ("", "Content-Length: 9\r\nIdempotency-Key:\r\n", 400, "invalid-field"),
            ("?colour=1", "Content-Length: 9\r\n", 400, "invalid-query"),
            ("?tag=A", "Content-Length: 9\r\n", 400, "invalid-query"),
        ] {
            let answer = begin(&server, query, &format!("{expect}{lines}")).answer("POST", "/allocate");
            answer.is_problem(status, code);
        }
    });
    // What is stored as it comes may say that it is.
    let coded = [OCTETS, ("Content-Encoding", "identity")];
    let made = server.call("POST", "/allocate", &coded, "x");
    assert_eq!(made.status, 201);
    assert_eq!(server.delete(&path_of(&made.json())).status, 204);
    let mut client = begin(&server, "", "Expect: 100-continue\r\nContent-Length: 5\r\n");
    client.expect("HTTP/1.1 100 Continue\r\n\r\n");
    client.send("hello");
    assert_eq!(client.answer("POST", "/allocate").status, 201);
}

#[test]
fn a_body_of_another_type_is_told_both_that_are_taken() {
    let server = Server::start();
    server.untouched_by(|| {
        for headers in [&[][..], &[("Content-Type", "text/plain")][..]] {
            let answer = server.call("POST", "/allocate", headers, "x");
            let detail = answer.is_problem(415, "unsupported-media-type");
            assert!(
                detail.contains("Content-Type: application/json")
                    && detail.contains("Content-Type: application/octet-stream"),
                "{detail}"
            );
        }
    });
}

#[test]
fn a_body_that_breaks_off_leaves_nothing_not_even_bytes() {
    let server =
        Server::with().environment("MAX_POOL_SIZE", "262144").environment("SLAB_SIZES", "262144").start();
    for length in [1000, 200_000] {
        let mut client = begin(&server, "?tag=broken", &format!("Content-Length: {length}\r\n"));
        client.send(vec![0xaa; length / 2]);
        wait_until("half of it has come", || {
            let stats = server.get("/stats").json();
            stats["memory"]["in_use_bytes"] == 262_144 || stats["inflight_bytes"] != 0 || length == 1000
        });
        drop(client);
        wait_until("nothing is in use, or on its way", || {
            server.stat("/memory/in_use_bytes") == 0 && server.stat("/inflight_bytes") == 0
        });
        let stats = server.get("/stats").json();
        assert_eq!(stats["memory"]["active_allocations"], json!(0));
        assert_eq!(stats["tags"], json!([]));
        assert_eq!(server.get("/allocate").json()["allocations"], json!([]));
        let made = server.allocate(262_144);
        let read = server.get(&format!("{}/data", path_of(&made)));
        assert!(read.body.iter().all(|byte| *byte == 0), "bytes of one that broke off are read");
        assert_eq!(server.delete(&path_of(&made)).status, 204);
    }
}

#[test]
fn a_small_body_that_comes_slowly_holds_no_memory_of_the_pool_and_a_large_one_does() {
    let server = Server::start();
    let mut small = begin(&server, "", "Content-Length: 16384\r\n");
    small.send(content(10_000, 1));
    wait_until("it is received", || server.stat("/inflight_bytes") == 16_384);
    assert_eq!(server.stat("/memory/in_use_bytes"), 0);
    let mut large = begin(&server, "", "Content-Length: 16385\r\n");
    large.send(content(10_000, 1));
    wait_until("it has its block", || server.stat("/memory/in_use_bytes") == 32_768);
    assert_eq!(server.stat("/memory/active_allocations"), 0, "nobody can find it yet");
    for (mut client, rest) in [(small, 6384), (large, 6385)] {
        client.send(content(rest, 2));
        assert_eq!(client.answer("POST", "/allocate").status, 201);
    }
    wait_until("nothing is in flight", || server.stat("/inflight_bytes") == 0);
    assert_eq!(server.stat("/memory/active_allocations"), 2);
}

#[test]
fn a_full_pool_refuses_with_the_numbers_and_stays_as_it_is() {
    let server =
        Server::with().environment("MAX_POOL_SIZE", "1048576").environment("SLAB_SIZES", "1048576").start();
    let kept = server.store("", content(1_000_000, 3)).json();
    server.untouched_by(|| {
        for length in [10, 70_000] {
            let refused = server.store("", content(length, 4));
            refused.is_problem(507, "pool-exhausted");
            let refused = refused.json();
            let numbers = ["requested_bytes", "in_use_bytes", "free_bytes", "limit_bytes"];
            let expected = [length, 1_048_576, 0, 1_048_576].map(Value::from);
            assert_eq!(numbers.map(|name| refused[name].clone()), expected);
        }
        // A large one is not even asked for.
        let lines = "Expect: 100-continue\r\nContent-Length: 70000\r\n";
        begin(&server, "", lines).answer("POST", "/allocate").is_problem(507, "pool-exhausted");
    });
    let read = server.get(&format!("{}/data", path_of(&kept)));
    assert!(read.body == content(1_000_000, 3));
}

#[test]
fn pipelined_bodies_are_told_apart() {
    // A second request begins where the first body ends.
    let server = Server::start();
    let mut client = server.connect();
    let one = "POST /allocate HTTP/1.1\r\nHost: test\r\nContent-Type: application/octet-stream\r\nContent-Length: 3\r\n\r\n";
    client.send(format!("{one}abc{one}def"));
    for expected in ["abc", "def"] {
        let made = client.answer("POST", "/allocate").json();
        assert_eq!(server.get(&format!("{}/data", path_of(&made))).text(), expected);
    }
}
