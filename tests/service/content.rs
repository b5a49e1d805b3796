//! The bytes of a block over HTTP: read as of one instant, written whole or not at all, never anybody else's.

use crate::support::{Answer, Client, Server, wait_until};
use serde_json::Value;
use std::sync::Barrier;

const SMALL_WRITE_BYTES: usize = 64 << 10;
const LARGEST_BYTES: usize = 4 << 20;
/// More than the buffers of a connection's two sockets take, so that a reader who takes nothing holds the content.
const HELD_BYTES: usize = 16 << 20;
const OCTETS: (&str, &str) = ("Content-Type", "application/octet-stream");

type Headers<'a> = &'a [(&'a str, &'a str)];

/// The path of a new block, and of its content.
fn block(server: &Server, size_bytes: usize) -> (String, String) {
    let made = server.allocate(size_bytes as u64);
    let path = format!("/allocate/{}", made["id"].as_str().expect("an id is text"));
    let data = format!("{path}/data");
    (path, data)
}

/// The path of a new block's content.
fn data(server: &Server, size_bytes: usize) -> String {
    block(server, size_bytes).1
}

/// Bytes none of which is zero, other ones for each seed, and such that a shift by any power of two shows.
fn pattern(length: usize, seed: u8) -> Vec<u8> {
    let unit: Vec<u8> = (0..251_u8).map(|step| step.wrapping_add(seed) % 251 + 1).collect();
    let mut bytes = unit.repeat(length / unit.len() + 1);
    bytes.truncate(length);
    bytes
}

fn chunked(bytes: &[u8], step: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in bytes.chunks(step) {
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

/// The head of a request whose body comes later.
fn head(method: &str, target: &str, headers: Headers) -> String {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{method} {target} HTTP/1.1\r\nHost: test\r\n{headers}\r\n")
}

fn put(server: &Server, data: &str, body: &[u8]) -> Answer {
    server.call("PUT", data, &[], body)
}

fn put_chunked(server: &Server, data: &str, body: &[u8]) -> Answer {
    let mut client = server.connect();
    client.send(head("PUT", data, &[("Transfer-Encoding", "chunked")]));
    client.send(chunked(body, 100_000));
    client.answer("PUT", data)
}

fn patch(server: &Server, data: &str, offset: usize, body: &[u8]) -> Answer {
    server.call("PATCH", &format!("{data}?offset={offset}"), &[OCTETS], body)
}

/// Asserts that a write was applied; its ETag.
#[track_caller]
fn applied(answer: &Answer) -> Option<&str> {
    assert_eq!((answer.status, answer.body.len()), (204, 0), "{answer:?}");
    answer.header("etag")
}

/// The whole content is these bytes; its ETag.
#[track_caller]
fn reads_as(server: &Server, data: &str, expected: &[u8]) -> String {
    let answer = server.get(data);
    assert_eq!((answer.status, answer.header("accept-ranges")), (200, Some("bytes")), "{answer:?}");
    assert_eq!(answer.body.len(), expected.len());
    let other = answer.body.iter().zip(expected).position(|(left, right)| left != right);
    assert_eq!(other, None, "the first byte that is another");
    answer.header("etag").expect("content has an ETag").to_owned()
}

fn in_use(server: &Server) -> u64 {
    server.get("/stats").json()["memory"]["in_use_bytes"].as_u64().expect("a number")
}

fn draining(server: &Server) -> u64 {
    server.get("/stats").json()["draining_bytes"].as_u64().expect("a number")
}

/// A client whose upload has begun, and nothing of its body was sent yet.
fn uploading(server: &Server, method: &str, target: &str, length: usize) -> Client {
    let mut client = server.connect();
    let length = length.to_string();
    let headers = [OCTETS, ("Content-Length", &length), ("Expect", "100-continue")];
    client.send(head(method, target, &headers));
    client.expect("HTTP/1.1 100 Continue\r\n\r\n");
    client
}

/// A reader of a whole block, who has taken nothing but the head.
fn reading(server: &Server, data: &str) -> Client {
    let mut client = server.connect();
    client.send(head("GET", data, &[]));
    assert_eq!(client.begin("GET", data).status, 200);
    client
}

#[test]
fn what_is_written_is_read_whatever_its_length_and_framing() {
    let server = Server::start();
    for length in [1, SMALL_WRITE_BYTES, SMALL_WRITE_BYTES + 1, LARGEST_BYTES] {
        let data = data(&server, length);
        assert_eq!(applied(&put(&server, &data, &pattern(length, 1))), Some("\"1\""));
        assert_eq!(reads_as(&server, &data, &pattern(length, 1)), "\"1\"");
        // Over what is there, and in the other framing.
        assert_eq!(applied(&put_chunked(&server, &data, &pattern(length, 2))), Some("\"2\""));
        assert_eq!(reads_as(&server, &data, &pattern(length, 2)), "\"2\"");
        assert_eq!(applied(&put(&server, &data, &pattern(length, 3))), Some("\"3\""));
        assert_eq!(reads_as(&server, &data, &pattern(length, 3)), "\"3\"");
    }
    let first = data(&server, 100_000);
    assert_eq!(applied(&put_chunked(&server, &first, &pattern(100_000, 4))), Some("\"1\""));
    reads_as(&server, &first, &pattern(100_000, 4));
}

#[test]
fn an_unwritten_block_is_zeros_of_version_0_and_head_tells_it_without_a_body() {
    let server = Server::start();
    for length in [1, 1000, 100_000, LARGEST_BYTES] {
        let data = data(&server, length);
        assert_eq!(reads_as(&server, &data, &vec![0; length]), "\"0\"");
        for headers in [&[][..], &[("Range", "bytes=0-0")]] {
            let told = server.call("HEAD", &data, headers, "");
            assert_eq!((told.status, told.header("etag")), (200, Some("\"0\"")), "HEAD ignores Range");
            assert_eq!(told.header("content-length"), Some(length.to_string().as_str()));
            assert_eq!(told.header("content-type"), Some("application/octet-stream"));
            assert_eq!(told.header("accept-ranges"), Some("bytes"));
        }
    }
}

#[test]
fn a_put_that_is_shorter_than_the_block_pads_zeros_and_has_no_etag() {
    let server = Server::start();
    for (length, shorter) in [(1000, 999), (1000, 0), (SMALL_WRITE_BYTES * 3, SMALL_WRITE_BYTES * 2), (5, 1)]
    {
        let data = data(&server, length);
        for (version, send) in [put, put_chunked, put].into_iter().enumerate() {
            let full = format!("\"{}\"", version * 2 + 1);
            assert_eq!(applied(&put(&server, &data, &pattern(length, 9))), Some(full.as_str()));
            assert_eq!(applied(&send(&server, &data, &pattern(shorter, 5))), None);
            let mut expected = pattern(shorter, 5);
            expected.resize(length, 0);
            assert_eq!(reads_as(&server, &data, &expected), format!("\"{}\"", version * 2 + 2));
        }
    }
}

#[test]
fn a_patch_changes_its_range_and_nothing_else() {
    let server = Server::start();
    for length in [1000, LARGEST_BYTES] {
        let data = data(&server, length);
        let mut expected = vec![0; length];
        for (version, (offset, part)) in
            [(3, 1), (length - 7, 7), (length / 2, length / 4), (0, length / 2), (0, length), (1, length - 1)]
                .into_iter()
                .enumerate()
        {
            let bytes = pattern(part, u8::try_from(version).expect("a few"));
            let version = format!("\"{}\"", version + 1);
            assert_eq!(applied(&patch(&server, &data, offset, &bytes)), Some(version.as_str()));
            expected[offset..offset + part].copy_from_slice(&bytes);
            assert_eq!(reads_as(&server, &data, &expected), version);
        }
        // Nothing is changed by nothing, at the very end too.
        for offset in [0, length / 2, length] {
            assert_eq!(applied(&patch(&server, &data, offset, b"")), Some("\"6\""));
        }
        let mut client = server.connect();
        let target = format!("{data}?offset=5");
        client.send(head("PATCH", &target, &[OCTETS, ("Transfer-Encoding", "chunked")]));
        client.send("0\r\n\r\n");
        assert_eq!(applied(&client.answer("PATCH", &target)), Some("\"6\""));
        assert_eq!(reads_as(&server, &data, &expected), "\"6\"");
    }
}

#[test]
fn a_write_that_does_not_fit_is_413_and_changes_nothing() {
    let server = Server::start();
    let data = data(&server, 1000);
    put(&server, &data, &pattern(1000, 1));
    server.untouched_by(|| {
        put(&server, &data, &pattern(1001, 2)).is_problem(413, "body-too-large");
        put(&server, &data, &pattern(LARGEST_BYTES, 2)).is_problem(413, "body-too-large");
        let detail = patch(&server, &data, 990, &pattern(11, 2)).is_problem(413, "past-end");
        assert!(detail.contains("1001") && detail.contains("1000"), "{detail}");
        for (offset, length) in [("1000", 1), ("1001", 0), ("18446744073709551615", 1)] {
            let target = format!("{data}?offset={offset}");
            server.call("PATCH", &target, &[OCTETS], pattern(length, 2)).is_problem(413, "past-end");
        }
    });
    // What comes without its length goes into memory of its own first.
    put_chunked(&server, &data, &pattern(1001, 2)).is_problem(413, "body-too-large");
    put_chunked(&server, &data, &pattern(LARGEST_BYTES, 2)).is_problem(413, "body-too-large");
    let mut client = server.connect();
    let target = format!("{data}?offset=500");
    client.send(head("PATCH", &target, &[OCTETS, ("Transfer-Encoding", "chunked")]));
    client.send(chunked(&pattern(501, 2), 100));
    client.answer("PATCH", &target).is_problem(413, "past-end");
    wait_until("what they took is back", || in_use(&server) == 1024);
    assert_eq!(reads_as(&server, &data, &pattern(1000, 1)), "\"1\"");
}

#[test]
fn what_the_head_tells_is_refused_before_the_body_is_asked_for() {
    let server = Server::start();
    let (path, data) = block(&server, 1000);
    let (freed, freed_data) = block(&server, 1000);
    server.delete(&freed);
    let offset = format!("{data}?offset=0");
    let late = format!("{data}?offset=999");
    let no_offset = format!("{data}?offset=");
    let unknown = format!("{data}?at=1");
    let refusals: &[(&str, &str, Headers, u16, &str)] = &[
        ("PUT", &data, &[("Content-Length", "1001")], 413, "body-too-large"),
        ("PUT", &data, &[("Content-Length", "9223372036854775807")], 413, "body-too-large"),
        ("PATCH", &late, &[OCTETS, ("Content-Length", "2")], 413, "past-end"),
        ("PUT", &freed_data, &[("Content-Length", "10")], 404, "not-found"),
        (
            "PUT",
            &data,
            &[("Content-Length", "10"), ("Content-Encoding", "gzip")],
            415,
            "unsupported-media-type",
        ),
        (
            "PUT",
            &data,
            &[("Content-Length", "10"), ("Content-Range", "bytes 0-9/1000")],
            400,
            "invalid-field",
        ),
        ("PUT", &unknown, &[("Content-Length", "10")], 400, "invalid-query"),
        ("PATCH", &offset, &[("Content-Length", "10")], 415, "unsupported-media-type"),
        (
            "PATCH",
            &offset,
            &[OCTETS, ("Content-Length", "10"), ("Content-Encoding", "gzip")],
            415,
            "unsupported-media-type",
        ),
        ("PATCH", &data, &[OCTETS, ("Content-Length", "10")], 400, "invalid-query"),
        ("PATCH", &no_offset, &[OCTETS, ("Content-Length", "10")], 400, "invalid-query"),
        ("PATCH", &unknown, &[OCTETS, ("Content-Length", "10")], 400, "invalid-query"),
    ];
    server.untouched_by(|| {
        for (method, target, headers, status, code) in refusals {
            let mut client = server.connect();
            client.send(head(method, target, &[headers, &[("Expect", "100-continue")][..]].concat()));
            // Were the body asked for, this would read the `100 Continue`.
            client.answer(method, target).is_problem(*status, code);
        }
    });
    assert_eq!(reads_as(&server, &data, &[0; 1000]), "\"0\"");
    assert_eq!(server.delete(&path).status, 204);
}

#[test]
fn a_client_that_waits_to_be_asked_for_its_body_is_asked() {
    let server = Server::start();
    for (length, seed) in [(1000, 1), (100_000, 2)] {
        let data = data(&server, length);
        let mut client = uploading(&server, "PUT", &data, length);
        client.send(pattern(length, seed));
        assert_eq!(applied(&client.answer("PUT", &data)), Some("\"1\""));
        reads_as(&server, &data, &pattern(length, seed));
    }
}

#[test]
fn content_types_encodings_and_offsets_are_held_to_the_contract() {
    let server = Server::start();
    let data = data(&server, 100);
    for headers in [
        &[][..],
        &[("Content-Type", "text/html")],
        &[("Content-Type", "nonsense")],
        &[("Content-Encoding", "identity")],
    ] {
        applied(&server.call("PUT", &data, headers, "any type will do"));
    }
    let target = format!("{data}?offset=0");
    for given in ["text/plain", "application/json", "application/x-www-form-urlencoded", ""] {
        let refused = server.call("PATCH", &target, &[("Content-Type", given)], "x");
        let detail = refused.is_problem(415, "unsupported-media-type");
        assert!(detail.contains("Content-Type: application/octet-stream"), "{detail}");
    }
    applied(&server.call("PATCH", &target, &[("Content-Type", "Application/Octet-Stream")], "x"));
    for query in
        ["", "?offset=", "?offset=-1", "?offset=1.5", "?offset=x", "?offset=0x1", "?offset=1&offset=2"]
            .into_iter()
            .chain(["?offset=18446744073709551616", "?offset=1&x=1", "?offset=%2B5", "?offset=+5"])
    {
        let refused = server.call("PATCH", &format!("{data}{query}"), &[OCTETS], "x");
        refused.is_problem(400, "invalid-query");
    }
    for method in ["GET", "HEAD", "PUT"] {
        assert_eq!(server.call(method, &target, &[], "").status, 400, "{method} takes no query");
    }
    for method in ["GET", "PUT"] {
        server.call(method, "/allocate/7/data", &[], "").is_problem(400, "invalid-id");
    }
    for method in ["POST", "DELETE"] {
        let refused = server.call(method, &data, &[], "");
        refused.is_problem(405, "method-not-allowed");
        let allowed = refused.header("allow").expect("a 405 has one");
        assert!(["GET", "HEAD", "PUT", "PATCH"].iter().all(|method| allowed.contains(method)), "{allowed}");
    }
}

#[test]
fn one_range_is_answered_with_its_part_and_anything_else_with_the_whole() {
    let server = Server::start();
    for length in [1000, 100_000] {
        let data = data(&server, length);
        let bytes = pattern(length, 3);
        put(&server, &data, &bytes);
        let range = |range: &str| server.call("GET", &data, &[("Range", range)], "");
        let last = length - 1;
        for (asked, first, end) in [
            ("bytes=0-0", 0, 1),
            ("bytes=0-99", 0, 100),
            ("bytes=300-500", 300, 501),
            ("bytes=-1", last, length),
            ("bytes=-400", length - 400, length),
            ("bytes=-9999999", 0, length),
            ("bytes=0-", 0, length),
            ("bytes=700-", 700, length),
            ("bytes=700-9999999999999999999999", 700, length),
        ] {
            let part = range(asked);
            assert_eq!((part.status, part.header("etag")), (206, Some("\"1\"")), "{asked}");
            let told = format!("bytes {first}-{}/{length}", end - 1);
            assert_eq!(part.header("content-range"), Some(told.as_str()), "{asked}");
            assert!(part.body == bytes[first..end], "{asked}");
        }
        for asked in [format!("bytes={length}-"), format!("bytes={length}-9999999"), "bytes=-0".to_owned()] {
            let refused = range(&asked);
            refused.is_problem(416, "range-not-satisfiable");
            assert_eq!(
                refused.header("content-range"),
                Some(format!("bytes */{length}").as_str()),
                "{asked}"
            );
        }
        for asked in
            ["bytes=0-1,5-6", "bytes=0-0,-1", "bytes=9-5", "bytes=x-y", "bytes=", "bytes", "lines=0-1", "0-1"]
        {
            let whole = range(asked);
            assert_eq!((whole.status, whole.header("content-range")), (200, None), "{asked}");
            assert!(whole.body == bytes, "{asked}");
        }
        assert_eq!(server.call("HEAD", &data, &[("Range", "bytes=9999999-")], "").status, 200);
    }
    // Across parts that were written and parts that never were.
    let sparse = data(&server, LARGEST_BYTES);
    patch(&server, &sparse, 2_000_000, &pattern(100, 1));
    let part = server.call("GET", &sparse, &[("Range", "bytes=1000000-3000000")], "");
    assert_eq!((part.status, part.body.len()), (206, 2_000_001));
    assert!(part.body[1_000_000..1_000_100] == pattern(100, 1));
    assert!(part.body[..1_000_000].iter().chain(&part.body[1_000_100..]).all(|byte| *byte == 0));
}

#[test]
fn conditions_of_readers_are_held_against_the_version() {
    let server = Server::start();
    let data = data(&server, 10);
    put(&server, &data, b"0123456789");
    put(&server, &data, b"abcdefghij");
    for method in ["GET", "HEAD"] {
        for (tags, status) in [
            ("\"2\"", 304),
            ("W/\"2\"", 304),
            ("\"1\", \"2\"", 304),
            ("*", 304),
            ("\"1\"", 200),
            ("\"3\"", 200),
            ("nonsense", 200),
        ] {
            let answer = server.call(method, &data, &[("If-None-Match", tags)], "");
            assert_eq!((answer.status, answer.header("etag")), (status, Some("\"2\"")), "{method} {tags}");
        }
        for (tags, status) in [("\"2\"", 200), ("*", 200), ("\"1\"", 412), ("W/\"2\"", 412)] {
            assert_eq!(server.call(method, &data, &[("If-Match", tags)], "").status, status, "{tags}");
        }
    }
    let part = |condition| server.call("GET", &data, &[("Range", "bytes=2-3"), ("If-Range", condition)], "");
    assert_eq!((part("\"2\"").status, part("\"2\"").text().as_str()), (206, "cd"));
    for condition in ["\"1\"", "W/\"2\"", "\"2", "Sat, 21 Nov 2026 04:46:18 GMT"] {
        let whole = part(condition);
        assert_eq!((whole.status, whole.text().as_str()), (200, "abcdefghij"), "{condition}");
    }
    let beyond = [("Range", "bytes=10-"), ("If-Range", "\"1\"")];
    assert_eq!(server.call("GET", &data, &beyond, "").status, 200, "the range does not count");
}

#[test]
fn of_two_racing_writes_with_one_etag_exactly_one_is_applied() {
    let server = Server::start();
    for length in [1000, SMALL_WRITE_BYTES * 4] {
        let data = data(&server, length);
        for round in 0..8_usize {
            let tag = format!("\"{round}\"");
            let line = Barrier::new(2);
            let racer = |seed: u8| {
                let (method, target) = match round % 2 {
                    0 => ("PUT", data.clone()),
                    _ => ("PATCH", format!("{data}?offset=0")),
                };
                let mut client = server.connect();
                let (told, bytes) = (length.to_string(), pattern(length, seed));
                client.send(head(method, &target, &[OCTETS, ("Content-Length", &told), ("If-Match", &tag)]));
                client.send(&bytes[..length - 1]);
                line.wait();
                client.send(&bytes[length - 1..]);
                client.answer(method, &target)
            };
            let answers: Vec<Answer> = std::thread::scope(|scope| {
                let racers = [1, 2].map(|seed| {
                    scope.spawn({
                        let racer = &racer;
                        move || racer(seed)
                    })
                });
                racers.into_iter().map(|racer| racer.join().expect("no racer panics")).collect()
            });
            let mut statuses = [answers[0].status, answers[1].status];
            let winner = if statuses[0] == 204 { 1 } else { 2 };
            statuses.sort_unstable();
            assert_eq!(statuses, [204, 412], "round {round}");
            let loser = answers.iter().find(|answer| answer.status == 412).expect("one lost");
            loser.is_problem(412, "precondition-failed");
            assert_eq!(reads_as(&server, &data, &pattern(length, winner)), format!("\"{}\"", round + 1));
        }
        server.call("PUT", &data, &[("If-None-Match", "*")], "x").is_problem(412, "precondition-failed");
        let target = format!("{data}?offset=0");
        let stale = [OCTETS, ("If-Match", "\"7\"")];
        server.call("PATCH", &target, &stale, "x").is_problem(412, "precondition-failed");
        applied(&server.call("PATCH", &target, &[OCTETS, ("If-Match", "\"7\", \"8\"")], "x"));
        applied(&server.call("PUT", &data, &[("If-Match", "*")], "x"));
    }
}

#[test]
fn the_content_of_a_freed_block_is_404() {
    let server = Server::start();
    let (path, data) = block(&server, 100);
    put(&server, &data, b"secret");
    assert_eq!(server.delete(&path).status, 204);
    server.allocate(100);
    for (method, target) in
        [("GET", data.clone()), ("PUT", data.clone()), ("PATCH", format!("{data}?offset=0"))]
    {
        server.call(method, &target, &[OCTETS], "x").is_problem(404, "not-found");
    }
    assert_eq!(server.call("HEAD", &data, &[], "").status, 404);
}

#[test]
fn a_put_whose_block_is_freed_midway_is_404_and_its_memory_returns() {
    let server = Server::start();
    let bytes = pattern(LARGEST_BYTES, 1);
    // Into the block's own memory, and into memory of the upload's own.
    for was_written in [false, true] {
        let (path, data) = block(&server, LARGEST_BYTES);
        if was_written {
            applied(&put(&server, &data, &bytes));
        }
        let mut client = uploading(&server, "PUT", &data, LARGEST_BYTES);
        client.send(&bytes[..LARGEST_BYTES / 2]);
        assert_eq!(server.delete(&path).status, 204);
        client.send(&bytes[LARGEST_BYTES / 2..]);
        client.answer("PUT", &data).is_problem(404, "not-found");
        wait_until("the memory is back", || in_use(&server) == 0);
        reads_as(&server, &self::data(&server, LARGEST_BYTES), &vec![0; LARGEST_BYTES]);
        let listed = server.get("/allocate").json();
        let next = listed["allocations"][0]["id"].as_str().expect("the one that was looked at").to_owned();
        assert_eq!(server.delete(&format!("/allocate/{next}")).status, 204);
        assert_eq!(in_use(&server), 0);
    }
}

#[test]
fn a_write_that_breaks_off_leaves_no_trace() {
    let server = Server::start();
    const LENGTH: usize = 1 << 20;
    for was_written in [false, true] {
        for (method, query) in [("PUT", ""), ("PATCH", "?offset=10")] {
            let (path, data) = block(&server, LENGTH);
            let mut expected = vec![0; LENGTH];
            if was_written {
                expected = pattern(LENGTH, 7);
                applied(&put(&server, &data, &expected));
            }
            let before = in_use(&server);
            let target = format!("{data}{query}");
            let mut client = uploading(&server, method, &target, LENGTH - 10);
            client.send(pattern(LENGTH / 2, 8));
            // Chunks that end in the middle are the same to us.
            let mut second = server.connect();
            second.send(head(method, &target, &[OCTETS, ("Transfer-Encoding", "chunked")]));
            second.send(format!("{:x}\r\n", LENGTH / 2));
            second.send(pattern(LENGTH / 4, 9));
            wait_until("the second upload has memory of its own", || in_use(&server) > before);
            reads_as(&server, &data, &expected);
            drop(client);
            drop(second);
            wait_until("what the uploads took is back", || in_use(&server) == before);
            let version = reads_as(&server, &data, &expected);
            assert_eq!(version, if was_written { "\"1\"" } else { "\"0\"" });
            // The first one may have written where the block's own bytes are.
            applied(&patch(&server, &data, 100_000, b"a"));
            expected[100_000] = b'a';
            reads_as(&server, &data, &expected);
            assert_eq!(server.delete(&path).status, 204);
        }
    }
    wait_until("nothing is left", || in_use(&server) == 0);
    assert_eq!(server.get("/stats").json()["inflight_bytes"], 0);
}

#[test]
fn a_reader_gets_the_content_of_when_it_began_whatever_happens_to_the_block() {
    let server = Server::with().environment("SLAB_SIZES", "1024,16777216").start();
    let (path, data) = block(&server, HELD_BYTES);
    let (first, second) = (pattern(HELD_BYTES, 1), pattern(HELD_BYTES, 2));
    applied(&put(&server, &data, &first));
    let mut early = reading(&server, &data);
    let mut taken = early.bytes(1000);
    assert_eq!(applied(&put(&server, &data, &second)), Some("\"2\""));
    assert_eq!(draining(&server), HELD_BYTES as u64, "the version that was replaced");
    taken.extend(early.bytes(1000));
    let mut late = reading(&server, &data);
    assert_eq!(applied(&patch(&server, &data, 5, b"patched")), Some("\"3\""));
    assert_eq!(draining(&server), 2 * HELD_BYTES as u64);
    assert_eq!(server.delete(&path).status, 204);
    server.get(&data).is_problem(404, "not-found");
    assert_eq!(in_use(&server), 2 * HELD_BYTES as u64, "what readers hold is in use");
    let step = HELD_BYTES / 16;
    while taken.len() < HELD_BYTES {
        taken.extend(early.bytes(step.min(HELD_BYTES - taken.len())));
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert!(taken == first, "the early reader got something else");
    wait_until("the early reader is done", || draining(&server) == HELD_BYTES as u64);
    assert!(late.bytes(HELD_BYTES) == second, "the late reader got something else");
    wait_until("nothing is held", || draining(&server) == 0 && in_use(&server) == 0);
    // The connections of both go on.
    assert_eq!(early.call("GET", "/livez", &[], "").status, 200);
    assert_eq!(late.call("GET", "/livez", &[], "").status, 200);
}

#[test]
fn a_reader_that_hangs_up_lets_go_of_what_it_held() {
    let server = Server::with().environment("SLAB_SIZES", "1024,16777216").start();
    let (path, data) = block(&server, HELD_BYTES);
    applied(&put(&server, &data, &pattern(HELD_BYTES, 1)));
    let reader = reading(&server, &data);
    assert_eq!(server.delete(&path).status, 204);
    assert_eq!(draining(&server), HELD_BYTES as u64);
    drop(reader);
    wait_until("nothing is held", || draining(&server) == 0 && in_use(&server) == 0);
}

#[test]
fn nobody_reads_a_byte_of_an_earlier_owner() {
    let server = Server::with()
        .environment("SLAB_SIZES", "1024,8192,262144")
        .environment("MAX_POOL_SIZE", "524288")
        .start();
    let sizes = [1000, 200_000, 1, 8192, 262_144, 7000, 65_537, 1024, 70_000, 250_000];
    for (round, size) in sizes.iter().cycle().take(60).enumerate() {
        let (path, data) = block(&server, *size);
        assert_eq!(reads_as(&server, &data, &vec![0; *size]), "\"0\"", "round {round}");
        let bytes = pattern(*size, u8::try_from(round).expect("a few"));
        let mut expected = vec![0; *size];
        match round % 4 {
            0 => {
                applied(&put(&server, &data, &bytes));
                expected.copy_from_slice(&bytes);
                applied(&put(&server, &data, &bytes[..size / 3]));
                expected[size / 3..].fill(0);
            }
            1 => {
                applied(&patch(&server, &data, size / 2, &bytes[size / 2..]));
                expected[size / 2..].copy_from_slice(&bytes[size / 2..]);
            }
            2 => {
                applied(&put_chunked(&server, &data, &bytes[..size - 1]));
                expected[..size - 1].copy_from_slice(&bytes[..size - 1]);
            }
            _ => {
                // It breaks off.
                let mut client = uploading(&server, "PUT", &data, *size);
                client.send(&bytes[..size - 1]);
                client.close_write();
                client.rest();
            }
        }
        reads_as(&server, &data, &expected);
        assert_eq!(server.delete(&path).status, 204);
    }
    wait_until("all is free", || in_use(&server) == 0);
}

/// A pool that holds one block of the largest size and no second version of it.
fn of_one_block(write_wait_ms: &str) -> Server {
    Server::with()
        .environment("SLAB_SIZES", "16777216")
        .environment("MAX_POOL_SIZE", "16777216")
        .set("memory.write_wait_ms", write_wait_ms)
        .start()
}

#[test]
fn a_write_beside_a_reader_in_a_full_pool_waits_for_it_and_says_so_when_in_vain() {
    let server = of_one_block("50");
    let data = data(&server, HELD_BYTES);
    let bytes = pattern(HELD_BYTES, 1);
    applied(&put(&server, &data, &bytes));
    let mut reader = reading(&server, &data);
    for refused in [put(&server, &data, b"small"), patch(&server, &data, 5, b"small")] {
        refused.is_problem(503, "write-waited");
        let numbers = refused.json();
        assert_eq!((&numbers["refused_by"], &numbers["retry_after_seconds"]), (&"readers".into(), &1.into()));
        assert_eq!(refused.header("retry-after"), Some("1"));
    }
    assert_eq!(applied(&patch(&server, &data, 5, b"")), Some("\"1\""), "nothing needs no room");
    assert!(reader.bytes(HELD_BYTES) == bytes);
    let mut written = None;
    wait_until("the reader lets go", || {
        let answer = patch(&server, &data, 5, b"small");
        let is_applied = answer.status == 204;
        written = Some(answer);
        is_applied
    });
    assert_eq!(written.and_then(|answer| answer.header("etag").map(str::to_owned)).as_deref(), Some("\"2\""));
    assert!(server.samples().get("maas_refused_total{reason=\"write-waited\"}") >= 2.0);
}

#[test]
fn a_write_that_waits_for_a_reader_goes_on_when_it_has_gone() {
    let server = of_one_block("20000");
    let data = data(&server, HELD_BYTES);
    let bytes = pattern(HELD_BYTES, 1);
    applied(&put(&server, &data, &bytes));
    let mut reader = reading(&server, &data);
    let mut writer = server.connect();
    writer.send(head("PUT", &data, &[("Content-Length", "5"), ("Expect", "100-continue")]));
    writer.expect("HTTP/1.1 100 Continue\r\n\r\n");
    writer.send("small");
    assert!(reader.bytes(HELD_BYTES) == bytes);
    assert_eq!(applied(&writer.answer("PUT", &data)), None);
    let mut expected = vec![0; HELD_BYTES];
    expected[..5].copy_from_slice(b"small");
    assert_eq!(reads_as(&server, &data, &expected), "\"2\"");
}

#[test]
fn a_full_pool_takes_small_writes_and_first_uploads_and_refuses_to_hold_two_versions() {
    let server = of_one_block("50");
    let (path, data) = block(&server, HELD_BYTES);
    let bytes = pattern(HELD_BYTES, 1);
    assert_eq!(applied(&put(&server, &data, &bytes)), Some("\"1\""), "a first upload needs no second block");
    let large = put(&server, &data, &pattern(SMALL_WRITE_BYTES + 1, 2));
    let chunks = put_chunked(&server, &data, b"of unknown length");
    let part = patch(&server, &data, 1, &pattern(SMALL_WRITE_BYTES + 1, 2));
    for refused in [large, chunks, part] {
        refused.is_problem(507, "no-room-to-replace");
        let numbers = refused.json();
        assert_eq!((&numbers["refused_by"], &numbers["free_bytes"]), (&"pool".into(), &0.into()));
        assert_eq!(numbers["retry_after_seconds"], Value::Null);
        assert_eq!(numbers["requested_bytes"], HELD_BYTES, "a second block");
    }
    reads_as(&server, &data, &bytes);
    let small = pattern(SMALL_WRITE_BYTES, 3);
    assert_eq!(applied(&patch(&server, &data, 77, &small)), Some("\"2\""));
    let mut expected = bytes;
    expected[77..77 + SMALL_WRITE_BYTES].copy_from_slice(&small);
    reads_as(&server, &data, &expected);
    assert_eq!(server.samples().get("maas_refused_total{reason=\"no-room-to-replace\"}"), 3.0);
    assert_eq!(server.delete(&path).status, 204);
    assert_eq!(in_use(&server), 0);
}

#[test]
fn statistics_and_metrics_say_what_was_read_and_written() {
    let server = Server::with()
        .environment("SLAB_SIZES", "1024,131072")
        .environment("MAX_POOL_SIZE", "1048576")
        .set("memory.initial_slabs_per_size", "0")
        .start();
    let (path, data) = block(&server, 100_000);
    let bytes = pattern(100_000, 1);
    let mut client = server.connect();
    let before = server.samples();
    client.call("PUT", &data, &[], &bytes);
    client.call("PUT", &data, &[], &bytes); // into a second slab; the first is free then
    client.call("GET", &data, &[], "");
    client.call("GET", &data, &[("Range", "bytes=1-10")], "");
    client.call("GET", &data, &[("If-None-Match", "\"2\"")], "");
    client.call("HEAD", &data, &[], "");
    client.call("PATCH", &format!("{data}?offset=1"), &[OCTETS], "x");
    client.call("PATCH", &format!("{data}?offset=100000"), &[OCTETS], "x");
    let after = server.samples();
    for (method, status, count) in [
        ("PUT", 204, 2.0),
        ("GET", 200, 1.0),
        ("GET", 206, 1.0),
        ("GET", 304, 1.0),
        ("HEAD", 200, 1.0),
        ("PATCH", 204, 1.0),
        ("PATCH", 413, 1.0),
    ] {
        for family in ["maas_request_count", "maas_http_requests_total"] {
            let name = format!(
                "{family}{{method=\"{method}\",route=\"/allocate/{{id}}/data\",status=\"{status}\"}}"
            );
            assert_eq!(after.get(&name), count, "{name}");
        }
    }
    let grown = |name: &str| after.get(name) - before.get(name);
    assert!((200_000.0..202_000.0).contains(&grown("maas_http_received_bytes_total")));
    assert!(grown("maas_http_sent_bytes_total") >= 100_010.0);
    for (name, value) in [
        ("maas_active_allocations", 1.0),
        ("maas_allocation_size_bytes", 131_072.0),
        ("maas_in_use_bytes", 131_072.0),
        ("maas_peak_in_use_bytes", 262_144.0),
        ("maas_draining_bytes", 0.0),
        ("maas_inflight_bytes", 0.0),
        ("maas_slabs{slab_size=\"131072\",state=\"used\"}", 1.0),
        ("maas_slab_created_total{slab_size=\"131072\"}", 2.0),
    ] {
        assert_eq!(after.get(name), value, "{name}");
    }
    assert_eq!(server.delete(&path).status, 204);
    let stats = server.get("/stats").json();
    assert_eq!(
        (&stats["memory"]["in_use_bytes"], &stats["memory"]["active_allocations"]),
        (&0.into(), &0.into())
    );
    assert_eq!((&stats["draining_bytes"], &stats["inflight_bytes"]), (&0.into(), &0.into()));
    let class = &stats["slab_sizes"][1];
    assert_eq!((&class["used"], &class["total"], &class["free"]), (&0.into(), &2.into(), &2.into()));
}
