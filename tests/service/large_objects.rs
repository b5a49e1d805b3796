//! Blocks that no size class holds: made of pages, in segments, and used by the same calls as all others.

use crate::support::{Answer, Client, JSON, OCTETS, Server, Starting, wait_until};
use serde_json::{Value, json};

/// The largest class. What is larger is a large object.
const CLASS_BYTES: u64 = 500 << 10;
/// A segment at most.
const SEGMENT: usize = 4 << 20;
const SEGMENT_BYTES: u64 = SEGMENT as u64;
const POOL_BYTES: u64 = 64 << 20;
const PAGE_BYTES: u64 = 4096;

fn large() -> Starting {
    Server::with()
        .environment("SLAB_SIZES", &format!("1024,{CLASS_BYTES}"))
        .environment("MAX_POOL_SIZE", &POOL_BYTES.to_string())
        .environment("INITIAL_SLABS_PER_SIZE", "0")
}

fn id(made: &Value) -> &str {
    made["id"].as_str().expect("an id is text")
}

/// Bytes that tell their place.
fn pattern(length: u64, seed: u8) -> Vec<u8> {
    (0..length).map(|at| ((at % 251) ^ (at >> 16)).to_le_bytes()[0] ^ seed).collect()
}

/// Stores content in one go: its path.
fn stored(server: &Server, content: &[u8]) -> String {
    let answer = server.store("", content);
    assert_eq!(answer.status, 201, "{}", answer.text());
    format!("/allocate/{}", id(&answer.json()))
}

fn read(server: &Server, path: &str) -> Vec<u8> {
    let answer = server.get(&format!("{path}/data"));
    assert_eq!(answer.status, 200);
    answer.body
}

fn patch(server: &Server, path: &str, offset: u64, body: &[u8]) -> Answer {
    server.call("PATCH", &format!("{path}/data?offset={offset}"), &[OCTETS], body)
}

fn in_use(server: &Server) -> u64 {
    server.stat("/memory/in_use_bytes").as_u64().expect("a number")
}

fn large_stat(server: &Server, name: &str) -> u64 {
    server.stat(&format!("/large_objects/{name}")).as_u64().expect("a number")
}

/// Begins to read a block; nothing but the head of the answer is taken, so that its bytes are held.
fn stalled(server: &Server, path: &str) -> Client {
    let data = format!("{path}/data");
    let mut client = Client::with_small_buffer(server.address());
    client.send(format!("GET {data} HTTP/1.1\r\nHost: test\r\n\r\n"));
    assert_eq!(client.begin("GET", &data).status, 200);
    client
}

#[test]
fn what_no_class_holds_is_stored_read_in_ranges_patched_replaced_and_freed() {
    let server = large().start();
    let size = 3 * SEGMENT_BYTES + 1000;
    let actual = size.next_multiple_of(PAGE_BYTES);
    let mut content = pattern(size, 0);
    let path = stored(&server, &content);
    let made = server.get(&path).json();
    let expected = [json!(size), json!(actual), json!(actual as f64 / 1_048_576.0)];
    assert_eq!(["size_bytes", "actual_size_bytes", "size_mb"].map(|name| made[name].clone()), expected);
    assert!(read(&server, &path) == content);
    let data = format!("{path}/data");
    let border = SEGMENT;
    for range in [0..10, border - 3..border + 4, border - 1..2 * border + 1, content.len() - 5..content.len()]
    {
        let header = format!("bytes={}-{}", range.start, range.end - 1);
        let part = server.call("GET", &data, &[("Range", &header)], "");
        assert_eq!(part.status, 206);
        assert_eq!(
            part.header("content-range"),
            Some(format!("bytes {}-{}/{size}", range.start, range.end - 1).as_str())
        );
        assert!(part.body == content[range]);
    }
    let beyond = server.call("GET", &data, &[("Range", &format!("bytes={size}-"))], "");
    assert_eq!((beyond.status, beyond.code().as_str()), (416, "range-not-satisfiable"));
    let head = server.call("HEAD", &data, &[], "");
    let told = ["content-length", "etag"].map(|name| head.header(name).map(str::to_owned));
    assert_eq!((head.status, told), (200, [Some(size.to_string()), Some("\"1\"".to_owned())]));
    let same = server.call("GET", &data, &[("If-None-Match", "\"1\"")], "");
    assert_eq!((same.status, same.header("etag")), (304, Some("\"1\"")));

    let patched = patch(&server, &path, SEGMENT_BYTES - 2, b"border");
    assert_eq!((patched.status, patched.header("etag")), (204, Some("\"2\"")));
    content[border - 2..border + 4].copy_from_slice(b"border");
    let body = pattern(SEGMENT_BYTES + 70_000, 9);
    assert_eq!(patch(&server, &path, 100_000, &body).header("etag"), Some("\"3\""));
    content[100_000..100_000 + body.len()].copy_from_slice(&body);
    assert!(read(&server, &path) == content);
    assert_eq!(in_use(&server), actual, "nothing of the old versions is left");

    let stale = server.call("PUT", &data, &[("If-Match", "\"2\"")], "late");
    stale.is_problem(412, "precondition-failed");
    patch(&server, &path, size - 2, b"four").is_problem(413, "past-end");
    let replaced = server.call("PUT", &data, &[("If-Match", "\"3\"")], &body[..]);
    assert_eq!((replaced.status, replaced.header("etag")), (204, None), "it was padded");
    let now = read(&server, &path);
    assert!(now[..body.len()] == body && now[body.len()..].iter().all(|byte| *byte == 0));

    assert_eq!(server.delete(&path).status, 204);
    server.get(&data).is_problem(404, "not-found");
    assert_eq!((in_use(&server), large_stat(&server, "objects"), large_stat(&server, "bytes")), (0, 0, 0));
}

#[test]
fn a_patch_beside_a_reader_that_stands_still_takes_two_segments_at_most_and_a_put_takes_all() {
    let server = large().start();
    let size = 5 * SEGMENT_BYTES;
    let content = pattern(size, 3);
    let path = stored(&server, &content);
    let mut reader = stalled(&server, &path);
    assert_eq!(patch(&server, &path, 2 * SEGMENT_BYTES + 5, b"x").header("etag"), Some("\"2\""));
    assert_eq!(in_use(&server), size + SEGMENT_BYTES);
    assert_eq!(server.stat("/draining_bytes"), SEGMENT_BYTES);
    // A body that is not collected, across a border, beside a reader of the newer version.
    let mut second = stalled(&server, &path);
    let body = pattern(100_000, 8);
    assert_eq!(patch(&server, &path, 4 * SEGMENT_BYTES - 50_000, &body).header("etag"), Some("\"3\""));
    assert_eq!(in_use(&server), size + 3 * SEGMENT_BYTES);
    assert_eq!(server.call("PUT", &format!("{path}/data"), &[], pattern(size, 77)).status, 204);
    assert_eq!(in_use(&server), 2 * size + SEGMENT_BYTES, "what only the third version had is free");
    assert!(reader.bytes(content.len()) == content, "one instant's content, however long it takes");
    let mut newer = content;
    newer[2 * SEGMENT + 5] = b'x';
    assert!(second.bytes(newer.len()) == newer);
    wait_until("nothing drains", || server.stat("/draining_bytes") == 0);
    assert_eq!(in_use(&server), size);
    assert!(read(&server, &path) == pattern(size, 77));
}

#[test]
fn a_block_that_is_freed_while_it_is_read_goes_on_until_its_reader_is_cut() {
    let server = large().set("memory.drain_seconds", "1").start();
    let content = pattern(6 * SEGMENT_BYTES, 1);
    let path = stored(&server, &content);
    let mut quick = stalled(&server, &path);
    let mut still = stalled(&server, &path);
    assert_eq!(server.delete(&path).status, 204);
    assert_eq!(server.stat("/draining_bytes"), content.len());
    assert!(quick.bytes(content.len()) == content);
    wait_until("the one that stands still is cut", || server.stat("/draining_bytes") == 0);
    assert!(still.rest_bytes().len() < content.len());
    assert_eq!((in_use(&server), server.samples().get("maas_readers_cut_total")), (0, 1.0));
}

#[test]
fn an_upload_that_breaks_off_leaves_zeros_where_nothing_was_and_the_old_content_elsewhere() {
    let server = large().start();
    let size = 40 << 20;
    let made = server.allocate(size);
    let path = format!("/allocate/{}", id(&made));
    let break_off = |length: usize| {
        let mut client = server.connect();
        client.send(format!("PUT {path}/data HTTP/1.1\r\nHost: test\r\nContent-Length: {size}\r\n\r\n"));
        client.send(vec![9; length]);
        client.close_write();
        client.rest_bytes();
    };
    break_off(30 << 20);
    assert!(read(&server, &path).iter().all(|byte| *byte == 0));
    // The first upload was lent the block's own segments; they are the block's again when they are zeroed.
    wait_until("it can be written", || patch(&server, &path, 1, b"written").status == 204);
    assert!(read(&server, &path)[..9] == *b"\0written\0");
    assert_eq!(in_use(&server), size);
    // A second version of all of it never fits beside the first.
    let data = format!("{path}/data");
    let refused = server.call("PUT", &data, &[], vec![1; 100_000]);
    refused.is_problem(507, "no-room-to-replace");
    assert!(read(&server, &path)[..9] == *b"\0written\0");
}

#[test]
fn refusals_say_what_could_be_had_and_what_never_can_is_422() {
    let server = large().start();
    let too_large = server.post(&format!("{{\"size_bytes\":{}}}", POOL_BYTES + 1));
    let detail = too_large.is_problem(422, "size-too-large");
    assert!(detail.contains(&POOL_BYTES.to_string()), "{detail}");
    let first = server.allocate(40 << 20);
    let refused = server.post(&format!("{{\"size_bytes\":{}}}", 30 << 20));
    refused.is_problem(507, "pool-exhausted");
    let body = refused.json();
    let numbers = ["requested_bytes", "in_use_bytes", "free_bytes", "limit_bytes", "largest_available_bytes"];
    let expected = [30 << 20, 40 << 20, 24 << 20, POOL_BYTES, 24 << 20].map(Value::from);
    assert_eq!(numbers.map(|name| body[name].clone()), expected);
    // It can be had indeed, and then a block of a class as long as there is room for one.
    server.allocate(24 << 20);
    server.post("{\"size_bytes\":1}").is_problem(507, "pool-exhausted");
    assert_eq!(server.delete(&format!("/allocate/{}", id(&first))).status, 204);
    server.allocate(POOL_BYTES - (24 << 20) - (1 << 20) - 3000);
    let refused = server.post(&format!("{{\"size_bytes\":{}}}", 2 << 20)).json();
    assert_eq!(refused["largest_available_bytes"], 1 << 20);
}

#[test]
fn batches_leases_tags_keys_and_lists_have_large_objects_beside_slabs() {
    let server = large().environment("MAAS__BUDGETS__BIG", "16MiB").start();
    let batch = json!({"allocations": [
        {"size_bytes": 5 << 20, "tag": "big"},
        {"size_bytes": 100},
        {"size_bytes": CLASS_BYTES + 1, "lease_seconds": 1},
    ]});
    let made = server.post_to("/allocate/batch", &batch.to_string());
    assert_eq!(made.status, 201, "{}", made.text());
    let made = made.json()["allocations"].clone();
    let actual: Vec<_> = (0..3).map(|at| made[at]["actual_size_bytes"].clone()).collect();
    assert_eq!(actual, [json!(5 << 20), json!(1024), json!((CLASS_BYTES + 1).next_multiple_of(PAGE_BYTES))]);
    let over = server.post(&json!({"size_bytes": 12 << 20, "tag": "big"}).to_string());
    over.is_problem(507, "budget-exhausted");
    assert_eq!(over.json()["largest_available_bytes"], 11 << 20);
    let listed = server.get("/allocate?tag=big").json();
    assert_eq!(listed["allocations"].as_array().map(Vec::len), Some(1));
    assert_eq!(listed["allocations"][0]["id"], made[0]["id"]);
    wait_until("the lease ends", || large_stat(&server, "objects") == 1);
    let keyed = || {
        let headers = [JSON, ("Idempotency-Key", "once")];
        server.call("POST", "/allocate", &headers, format!("{{\"size_bytes\":{}}}", 7 << 20)).json()
    };
    assert_eq!(id(&keyed()), id(&keyed()));
    let ids: Vec<_> = [made[0]["id"].clone(), made[1]["id"].clone(), keyed()["id"].clone()].into();
    let freed = server.post_to("/deallocate/batch", &json!({ "ids": ids }).to_string()).json();
    assert_eq!(freed, json!({"freed": 3, "not_found": []}));
    assert_eq!(in_use(&server), 0);
}

#[test]
fn one_that_waits_is_served_when_there_is_room_in_however_many_pieces() {
    let server = large().start();
    let blocks: Vec<Value> = (0..POOL_BYTES >> 20).map(|_| server.allocate(1 << 20)).collect();
    std::thread::scope(|scope| {
        let waiter =
            scope.spawn(|| server.post(&format!("{{\"size_bytes\":{},\"wait_ms\":20000}}", 32 << 20)));
        wait_until("it waits", || server.stat("/waiting_requests") == 1);
        for block in blocks.iter().step_by(2) {
            assert_eq!(server.delete(&format!("/allocate/{}", id(block))).status, 204);
        }
        let made = waiter.join().expect("it does not panic");
        assert_eq!(made.status, 201, "{}", made.text());
        assert!(large_stat(&server, "segments") >= 32 + 32, "its memory lies between the others'");
    });
    assert_eq!(in_use(&server), POOL_BYTES);
}

#[test]
fn statistics_and_metrics_tell_of_large_objects_and_of_the_free_runs_between_them() {
    let server = large().start();
    let blocks: Vec<Value> = (0..10).map(|_| server.allocate(1 << 20)).collect();
    let stats = server.stat("/large_objects");
    assert_eq!(
        (&stats["objects"], &stats["bytes"], &stats["segments"]),
        (&json!(10), &json!(10 << 20), &json!(10))
    );
    assert_eq!((&stats["free_bytes"], &stats["fragmentation_ratio"]), (&json!(0), &json!(0.0)));
    for block in blocks.iter().step_by(2) {
        server.delete(&format!("/allocate/{}", id(block)));
    }
    let stats = server.stat("/large_objects");
    assert_eq!((&stats["free_runs"], &stats["free_bytes"]), (&json!(5), &json!(5 << 20)));
    assert_eq!((&stats["largest_free_bytes"], &stats["fragmentation_ratio"]), (&json!(1 << 20), &json!(0.8)));
    assert_eq!((&stats["coalesces"], &stats["coalescing_efficiency"]), (&json!(0), &json!(0.0)));
    server.allocate(1 << 20);
    for block in blocks.iter().skip(1).step_by(2) {
        server.delete(&format!("/allocate/{}", id(block)));
    }
    let stats = server.stat("/large_objects");
    assert_eq!((&stats["allocations"], &stats["free_list_hits"]), (&json!(11), &json!(1)));
    assert!(stats["coalesces"].as_u64().is_some_and(|joined| joined >= 5), "{stats}");
    assert_eq!(stats["huge_page_ratio"], 0.0);
    let samples = server.samples();
    assert_eq!(
        (samples.get("maas_large_objects"), samples.get("maas_large_object_bytes")),
        (1.0, 1_048_576.0)
    );
    for (metric, name) in [
        ("maas_fragmentation_ratio", "fragmentation_ratio"),
        ("maas_free_run_bytes", "free_bytes"),
        ("maas_coalesces_total", "coalesces"),
        ("maas_large_allocations_total", "allocations"),
        ("maas_free_list_hit_ratio", "free_list_hit_rate"),
        ("maas_coalescing_efficiency_ratio", "coalescing_efficiency"),
        ("maas_huge_page_ratio", "huge_page_ratio"),
    ] {
        let told = stats[name].as_f64().expect("a number");
        assert!((samples.get(metric) - told).abs() < 1e-9, "{metric} beside {told}");
    }
}

#[test]
fn the_fit_decides_which_free_run_is_taken() {
    for (fit, largest_left) in [("best", 8), ("first", 8), ("worst", 7)] {
        let server = large().set("memory.large_fit", fit).start();
        // Free runs of 3, 2 and 8 MiB, in this order, with blocks between them.
        let made: Vec<Value> = [3, 1, 2, 1, 8, 1].map(|mebibytes| server.allocate(mebibytes << 20)).into();
        for at in [0, 2, 4] {
            server.delete(&format!("/allocate/{}", id(&made[at])));
        }
        server.allocate(1 << 20);
        let stats = server.stat("/large_objects");
        assert_eq!(stats["largest_free_bytes"], largest_left << 20, "{fit}: {stats}");
        server.allocate(2 << 20);
        let runs = server.stat("/large_objects/free_runs");
        let expected = if fit == "best" { 3 } else { 2 };
        assert!(fit == "worst" || runs == expected, "{fit}: {runs} runs");
    }
}
