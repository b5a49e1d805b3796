//! Hunts over real connections for what must never happen: a torn read, a lost update, a stale byte.
//!
//! Each is short unless `MAAS_HUNT_ROUNDS` makes it longer, says how many calls it made, and repeats its choices, if
//! not their interleaving, with `MAAS_HUNT_SEED`.

use crate::support::{
    Answer, Client, JSON, OCTETS, Server, chunked, is_uniform, path_of, request, rounds, seed,
};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Calls of all clients of a hunt.
#[derive(Default)]
struct Calls(AtomicU64);

impl Calls {
    fn call(
        &self,
        client: &mut Client,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        self.0.fetch_add(1, Ordering::Relaxed);
        client.call(method, target, headers, body)
    }

    /// The same with the body in chunks, which takes the way of what is too large to be collected.
    fn call_chunked(&self, client: &mut Client, method: &str, target: &str, body: &[u8]) -> Answer {
        self.0.fetch_add(1, Ordering::Relaxed);
        client.send(format!(
            "{method} {target} HTTP/1.1\r\nHost: test\r\nContent-Type: application/octet-stream\r\n\
             Transfer-Encoding: chunked\r\n\r\n"
        ));
        client.send(chunked(body, 40_000));
        client.answer(method, target)
    }

    fn say(&self, hunt: &str) {
        println!("{hunt}: {} calls", self.0.load(Ordering::Relaxed));
    }
}

fn version_of(answer: &Answer) -> u64 {
    let etag = answer.header("etag").unwrap_or_else(|| panic!("no ETag: {answer:?}"));
    etag.trim_matches('"').parse().expect("an ETag counts writes")
}

/// What each version was, as writers and readers saw it: (block, version) has one value for all of them.
#[derive(Default)]
struct Seen(Mutex<HashMap<(usize, u64), u8>>);

impl Seen {
    fn note(&self, block: usize, version: u64, value: u8) {
        let before = *self.0.lock().entry((block, version)).or_insert(value);
        assert_eq!(before, value, "version {version} of block {block} is two contents");
    }
}

#[test]
fn no_reader_sees_two_writes_at_once() {
    const SIZES: [usize; 3] = [1024, (64 << 10) + 1, 1 << 20];
    let server = Server::start();
    let seed = seed("tearing");
    let paths = SIZES.map(|size| format!("{}/data", path_of(&server.allocate(size as u64))));
    let (calls, seen, done) = (Calls::default(), Seen::default(), AtomicBool::new(false));
    for block in 0..SIZES.len() {
        seen.note(block, 0, 0);
    }
    let write = |writer: u64| {
        let mut random = fastrand::Rng::with_seed(seed ^ writer);
        let mut client = server.connect();
        for _ in 0..rounds(120) {
            let block = random.usize(0..SIZES.len());
            let (value, target) = (random.u8(1..), &paths[block]);
            let body = vec![value; SIZES[block]];
            let answer = match random.u8(0..3) {
                0 => calls.call_chunked(&mut client, "PUT", target, &body),
                1 => calls.call(&mut client, "PATCH", &format!("{target}?offset=0"), &[OCTETS], &body),
                _ => calls.call(&mut client, "PUT", target, &[], &body),
            };
            assert_eq!(answer.status, 204, "{answer:?}");
            seen.note(block, version_of(&answer), value);
        }
    };
    let read = |reader: u64| {
        let mut random = fastrand::Rng::with_seed(seed ^ reader << 32);
        let mut client = server.connect();
        while !done.load(Ordering::Relaxed) {
            let block = random.usize(0..SIZES.len());
            let from = random.usize(0..SIZES[block]);
            let range = format!("bytes={from}-{}", random.usize(from..SIZES[block]));
            let headers = [("Range", range.as_str())];
            let headers = &headers[..usize::from(random.bool())];
            let answer = calls.call(&mut client, "GET", &paths[block], headers, b"");
            assert!(is_uniform(&answer.body), "a torn read of {} bytes: {answer:?}", answer.body.len());
            seen.note(block, version_of(&answer), answer.body[0]);
        }
    };
    // Takes its time over each answer, so that many writes come meanwhile.
    let read_slowly = || {
        while !done.load(Ordering::Relaxed) {
            let (block, mut client) = (2, Client::with_small_buffer(server.address()));
            client.send(request("GET", &paths[block], &[], ""));
            let head = client.begin("GET", &paths[block]);
            calls.0.fetch_add(1, Ordering::Relaxed);
            let first = client.bytes(1)[0];
            for part in 0..16 {
                let length = (SIZES[block] >> 4) - usize::from(part == 0);
                let bytes = client.bytes(length);
                assert!(is_uniform(&bytes) && bytes[0] == first, "a torn read in part {part}");
                std::thread::sleep(Duration::from_millis(3));
            }
            seen.note(block, version_of(&head), first);
        }
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = (1..=3).map(|reader| scope.spawn(move || read(reader))).collect();
        let slow = scope.spawn(read_slowly);
        let writers: Vec<_> = (1..=2).map(|writer| scope.spawn(move || write(writer))).collect();
        let outcomes: Vec<_> = writers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        outcomes.into_iter().for_each(|outcome| outcome.expect("no writer panics"));
        readers.into_iter().chain([slow]).for_each(|reader| reader.join().expect("no reader panics"));
    });
    let contents = seen.0.lock().len();
    calls.say(&format!("tearing ({contents} versions)"));
    for path in &paths {
        assert_eq!(server.delete(path.trim_end_matches("/data")).status, 204);
    }
    server.is_empty_and_consistent();
}

#[test]
fn no_acknowledged_write_is_lost() {
    const CLIENTS: usize = 4;
    const RANGE_BYTES: usize = 70_000;
    const COUNTER: usize = CLIENTS * RANGE_BYTES;
    // What is left over is copied by every write that makes a new version: time for another one to come between.
    const BLOCK_BYTES: usize = 4 << 20;
    let server = Server::start();
    let seed = seed("lost updates");
    let made = server.allocate(BLOCK_BYTES as u64);
    let data = format!("{}/data", path_of(&made));
    let calls = Calls::default();
    let left_over = vec![7; BLOCK_BYTES - COUNTER - 8];
    let target = format!("{data}?offset={}", COUNTER + 8);
    assert_eq!(server.call("PATCH", &target, &[OCTETS], &left_over).status, 204);
    let (increments, writes) = (AtomicU64::new(0), AtomicU64::new(0));
    // Each client patches its own range; a small part of it, which may go in place, or all, which streams.
    let hunt = |number: usize| -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(seed ^ number as u64);
        let mut client = server.connect();
        let mut mine = vec![0; RANGE_BYTES];
        for _ in 0..rounds(60) {
            let length = if random.u8(0..4) == 0 { RANGE_BYTES } else { random.usize(1..5000) };
            let from = random.usize(0..=RANGE_BYTES - length);
            let body = vec![random.u8(..); length];
            let target = format!("{data}?offset={}", number * RANGE_BYTES + from);
            let answer = match random.bool() {
                true => calls.call_chunked(&mut client, "PATCH", &target, &body),
                false => calls.call(&mut client, "PATCH", &target, &[OCTETS], &body),
            };
            assert_eq!(answer.status, 204, "{answer:?}");
            writes.fetch_add(1, Ordering::Relaxed);
            mine[from..from + length].copy_from_slice(&body);
            let (start, end) = (number * RANGE_BYTES, (number + 1) * RANGE_BYTES - 1);
            let range = format!("bytes={start}-{end}");
            let now = calls.call(&mut client, "GET", &data, &[("Range", &range)], b"");
            assert!(now.body == mine, "a write of client {number} is lost");
            // And all count together, in eight bytes, by compare and swap.
            for _ in 0..5 {
                let range = format!("bytes={COUNTER}-{}", COUNTER + 7);
                let now = calls.call(&mut client, "GET", &data, &[("Range", &range)], b"");
                let count = u64::from_le_bytes(now.body[..].try_into().expect("eight bytes"));
                let headers = [OCTETS, ("If-Match", now.header("etag").expect("content has one"))];
                let target = format!("{data}?offset={COUNTER}");
                let body = (count + 1).to_le_bytes();
                let answer = calls.call(&mut client, "PATCH", &target, &headers, &body);
                match answer.status {
                    204 => {
                        increments.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                    _ => drop(answer.is_problem(412, "precondition-failed")),
                }
            }
        }
        mine
    };
    let ranges: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || hunt(number))).collect();
        clients.into_iter().map(|client| client.join().expect("no client panics")).collect()
    });
    let (increments, writes) = (increments.into_inner(), writes.into_inner());
    let answer = server.get(&data);
    for (number, range) in ranges.iter().enumerate() {
        let found = &answer.body[number * RANGE_BYTES..][..RANGE_BYTES];
        assert!(found == range, "a write of client {number} is lost");
    }
    assert_eq!(answer.body[COUNTER..][..8], increments.to_le_bytes(), "every increment is there, once");
    assert!(answer.body[COUNTER + 8..] == left_over, "what nobody writes stays");
    assert_eq!(version_of(&answer), 1 + increments + writes, "every write was counted once");
    assert!(increments > 0);
    calls.say(&format!("lost updates ({writes} patches, {increments} increments)"));
    assert_eq!(server.delete(&path_of(&made)).status, 204);
    server.is_empty_and_consistent();
}

/// A block of one client, and what must be in it.
struct Owned {
    path: String,
    bytes: Vec<u8>,
}

/// Writes something that is not zero, in one of the ways there are; or breaks off, and nothing changes.
fn scribble(
    calls: &Calls,
    server: &Server,
    client: &mut Client,
    random: &mut fastrand::Rng,
    block: &mut Owned,
) {
    let length = random.usize(1..=block.bytes.len());
    let offset = random.usize(0..=block.bytes.len() - length);
    let body: Vec<u8> = std::iter::repeat_with(|| random.u8(1..)).take(250).collect();
    let body: Vec<u8> = body.into_iter().cycle().take(length).collect();
    let data = format!("{}/data", block.path);
    let patch = format!("{data}?offset={offset}");
    let way = random.u8(0..5);
    let answer = match way {
        0 => {
            let mut broken = server.connect();
            let whole = request("PATCH", &patch, &[OCTETS], &body);
            broken.send(&whole[..whole.len() - random.usize(1..=length)]);
            calls.0.fetch_add(1, Ordering::Relaxed);
            return;
        }
        1 => calls.call_chunked(client, "PATCH", &patch, &body),
        2 => calls.call(client, "PATCH", &patch, &[OCTETS], &body),
        3 => calls.call_chunked(client, "PUT", &data, &body),
        _ => calls.call(client, "PUT", &data, &[], &body),
    };
    if !refused_or(&answer, 204) {
        *client = server.connect(); // the rest of the body was not asked for
        return;
    }
    let replaces = way >= 3;
    if replaces {
        block.bytes.fill(0);
    }
    let offset = if replaces { 0 } else { offset };
    block.bytes[offset..offset + length].copy_from_slice(&body);
}

/// The answer has this status, or there was no room.
fn refused_or(answer: &Answer, status: u16) -> bool {
    assert!(answer.status == status || matches!(answer.status, 503 | 507), "{answer:?}");
    answer.status == status
}

#[test]
fn no_fresh_block_shows_a_byte_of_an_earlier_owner() {
    let server = Server::with()
        .environment("SLAB_SIZES", "1000,4096,70000,200000")
        .environment("MAX_POOL_SIZE", "2000000")
        .set("memory.write_wait_ms", "50")
        .start();
    let seed = seed("stale bytes");
    let (calls, fresh) = (Calls::default(), AtomicU64::new(0));
    let hunt = |number: u64| {
        let mut random = fastrand::Rng::with_seed(seed ^ number);
        let mut client = server.connect();
        let mut mine: Vec<Owned> = Vec::new();
        let holds = |client: &mut Client, block: &Owned| {
            let answer = calls.call(client, "GET", &format!("{}/data", block.path), &[], b"");
            assert!(answer.status == 200 && answer.body == block.bytes, "another's bytes in {}", block.path);
            version_of(&answer)
        };
        for _ in 0..rounds(100) {
            let largest = [1000, 4096, 70_000, 200_000][random.usize(0..4)];
            let size = random.usize(1..=largest);
            if random.u8(0..4) == 0 {
                let body = vec![random.u8(1..); size];
                let answer = calls.call(&mut client, "POST", "/allocate", &[OCTETS], &body);
                if refused_or(&answer, 201) {
                    mine.push(Owned { path: path_of(&answer.json()), bytes: body });
                } else {
                    client = server.connect();
                }
            } else {
                let body = format!("{{\"size_bytes\":{size}}}");
                let headers = [JSON];
                let answer = calls.call(&mut client, "POST", "/allocate", &headers, body.as_bytes());
                if refused_or(&answer, 201) {
                    let block = Owned { path: path_of(&answer.json()), bytes: vec![0; size] };
                    assert_eq!(holds(&mut client, &block), 0, "it is fresh");
                    fresh.fetch_add(1, Ordering::Relaxed);
                    mine.push(block);
                }
            }
            if let Some(block) = mine.last_mut() {
                for _ in 0..random.usize(0..4) {
                    scribble(&calls, &server, &mut client, &mut random, block);
                }
                client = if random.u8(0..8) == 0 { server.connect() } else { client };
            }
            while mine.len() > random.usize(0..8) {
                let block = mine.swap_remove(random.usize(0..mine.len()));
                holds(&mut client, &block);
                assert_eq!(calls.call(&mut client, "DELETE", &block.path, &[], b"").status, 204);
            }
        }
        for block in mine {
            holds(&mut client, &block);
            assert_eq!(calls.call(&mut client, "DELETE", &block.path, &[], b"").status, 204);
        }
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (1..=4).map(|number| scope.spawn(move || hunt(number))).collect();
        clients.into_iter().for_each(|client| client.join().expect("no client panics"));
    });
    let fresh = fresh.into_inner();
    assert!(fresh > 0);
    calls.say(&format!("stale bytes ({fresh} fresh blocks)"));
    server.is_empty_and_consistent();
}
