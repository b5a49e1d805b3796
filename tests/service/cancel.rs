//! The cancel hunt over real connections: requests of every kind whose client goes away, somewhere in the request or
//! somewhere in the answer.
//!
//! A request that allocates carries an Idempotency-Key. Where its answer did not come whole it is asked again under
//! that key, until every key is known to have made something or nothing: then what lives must be what was
//! acknowledged, and when that is freed nothing may be left. `MAAS_HUNT_ROUNDS` makes it longer.

use crate::support::{
    Answer, JSON, OCTETS, PATIENCE, Server, is_uniform, path_of, request, rounds, seed, wait_until,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const SIZES: [usize; 4] = [1024, 8192, 70_000, 131_072];

/// How often what happened.
#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    dropped_in_request: AtomicU64,
    dropped_in_answer: AtomicU64,
    asked_again: AtomicU64,
    /// Requests that were served, as their repeat found, though nobody had taken the answer.
    replayed: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// A request that allocates.
struct Keyed {
    key: String,
    target: String,
    media_type: (&'static str, &'static str),
    body: Vec<u8>,
}

impl Keyed {
    fn bytes(&self) -> Vec<u8> {
        let headers = [self.media_type, ("Idempotency-Key", self.key.as_str())];
        request("POST", &self.target, &headers, &self.body)
    }

    fn ask(&self, server: &Server) -> Answer {
        let mut client = server.connect();
        client.send(self.bytes());
        client.answer("POST", &self.target)
    }
}

struct Hunter<'a> {
    server: &'a Server,
    counts: &'a Counts,
    number: u64,
    random: fastrand::Rng,
    /// Paths of what was acknowledged and not freed.
    mine: Vec<String>,
    /// Requests of which it is not known yet whether they were, or will be, served.
    unknown: Vec<Keyed>,
}

/// The paths of what an answer says was made.
fn paths(body: &Value) -> Vec<String> {
    match body.get("allocations") {
        Some(list) => list.as_array().expect("a list").iter().map(path_of).collect(),
        None => vec![path_of(body)],
    }
}

impl Hunter<'_> {
    /// Sends a request, and goes away at a random point, or not: the answer's status and body, if it came whole.
    fn try_ask(&mut self, bytes: &[u8]) -> Option<(u16, Vec<u8>)> {
        count(&self.counts.requests);
        let mut client = self.server.connect();
        let kind = self.random.u8(0..8);
        if kind < 3 {
            // Half of them near the end, where most is at stake.
            let near = bytes.len().saturating_sub(self.random.usize(0..8));
            let cut = if self.random.bool() { near } else { self.random.usize(0..=bytes.len()) };
            client.send(&bytes[..cut]);
            self.pause();
            count(&self.counts.dropped_in_request);
            return None;
        }
        client.send(bytes);
        let wanted = if kind < 6 { self.random.usize(0..400) } else { usize::MAX };
        let mut taken = Vec::new();
        while taken.len() < wanted {
            let Some(more) = client.next_bytes() else { panic!("an answer broke off: {taken:?}") };
            taken.extend_from_slice(&more);
            if taken.len() < wanted
                && let Some(answer) = whole(&taken)
            {
                return Some(answer);
            }
        }
        self.pause();
        count(&self.counts.dropped_in_answer);
        None
    }

    fn pause(&mut self) {
        if self.random.bool() {
            std::thread::sleep(Duration::from_micros(self.random.u64(0..3000)));
        }
    }

    /// A request that makes one block, a batch, or a block of the body's bytes.
    fn keyed(&mut self, name: u64) -> Keyed {
        let largest = SIZES[self.random.usize(0..SIZES.len())];
        let size = self.random.usize(1..=largest);
        let wait_ms = if self.random.bool() { 0 } else { self.random.u64(1..40) };
        let key = format!("{} {name}", self.number);
        let (target, media_type, body) = match self.random.u8(0..3) {
            0 => (format!("/allocate?wait_ms={wait_ms}"), OCTETS, vec![self.random.u8(1..); size]),
            1 => {
                let (size, count) = (size.min(70_000), self.random.u64(1..4));
                let body = json!({ "size_bytes": size, "count": count, "wait_ms": wait_ms, "tag": "batch" });
                ("/allocate/batch".to_owned(), JSON, body.to_string().into_bytes())
            }
            _ => {
                let body = json!({ "size_bytes": size, "wait_ms": wait_ms });
                ("/allocate".to_owned(), JSON, body.to_string().into_bytes())
            }
        };
        Keyed { key, target, media_type, body }
    }

    fn allocate(&mut self, name: u64) {
        let keyed = self.keyed(name);
        match self.try_ask(&keyed.bytes()) {
            Some((201, body)) => self.acknowledge(&body),
            Some((status, body)) => {
                assert!(matches!(status, 503 | 507), "{status} {}", String::from_utf8_lossy(&body));
            }
            None => {
                self.unknown.push(keyed);
                if self.random.bool() {
                    self.ask_again(); // at once, while the first may still be running
                }
            }
        }
    }

    fn ask_again_if_any(&mut self) {
        if !self.unknown.is_empty() {
            self.ask_again();
        }
    }

    fn acknowledge(&mut self, body: &[u8]) {
        self.mine.extend(paths(&serde_json::from_slice(body).expect("JSON")));
    }

    /// Asks for one that is not known once more. That it is refused now does not say that the first will not be served
    /// yet: it stays unknown.
    fn ask_again(&mut self) {
        let at = self.random.usize(0..self.unknown.len());
        let keyed = self.unknown.swap_remove(at);
        count(&self.counts.asked_again);
        let answer = keyed.ask(self.server);
        match answer.status {
            201 => {
                if answer.header("idempotent-replayed").is_some() {
                    count(&self.counts.replayed);
                }
                self.acknowledge(&answer.body);
            }
            409 | 503 | 507 => self.unknown.push(keyed),
            _ => panic!("{answer:?}"),
        }
    }

    /// Asks for some of what is unknown once more, and frees what it has but one: room for the next, and for others.
    fn resolve_some(&mut self, times: usize) {
        for _ in 0..times {
            self.free_all_but_one();
            self.ask_again_if_any();
        }
        self.free_all_but_one();
    }

    fn free_all_but_one(&mut self) {
        (1..self.mine.len()).for_each(|_| self.free_one());
    }

    fn free_one(&mut self) {
        if self.mine.is_empty() {
            return;
        }
        let path = self.mine.swap_remove(self.random.usize(0..self.mine.len()));
        let answer = self.server.delete(&path);
        assert_eq!(answer.status, 204, "what was acknowledged is there: {answer:?}");
    }

    /// A write of one value over the whole block, or a read; broken off or not, the block is of one value.
    fn use_content(&mut self) {
        let path = self.mine[self.random.usize(0..self.mine.len())].clone();
        let data = format!("{path}/data");
        let size = self.server.get(&path).json()["size_bytes"].as_u64().expect("a number");
        let body = vec![self.random.u8(1..); usize::try_from(size).expect("small")];
        let bytes = match self.random.u8(0..3) {
            0 => request("PUT", &data, &[], body),
            1 => request("PATCH", &format!("{data}?offset=0"), &[OCTETS], body),
            _ => request("GET", &data, &[], ""),
        };
        if let Some((status, _)) = self.try_ask(&bytes) {
            assert!(matches!(status, 200 | 204 | 503 | 507), "{status}");
        }
        let answer = self.server.get(&data);
        assert_eq!(answer.status, 200, "what was acknowledged is there: {answer:?}");
        assert!(is_uniform(&answer.body), "a write that broke off shows in {path}");
    }

    fn hunt(&mut self) {
        for round in 0..rounds(120) {
            match self.random.u8(0..10) {
                0..=3 => self.allocate(round),
                4..=6 if !self.mine.is_empty() => self.use_content(),
                7 => self.ask_again_if_any(),
                8 if self.mine.len() > 12 => (0..8).for_each(|_| self.free_one()),
                8 | 9 => self.free_one(),
                _ => {}
            }
            // Keys are remembered for ten minutes: most are asked for again long before.
            if round % 20 == 0 {
                self.resolve_some(20);
            }
        }
    }
}

/// Status and body of an answer, if these bytes are all of it.
fn whole(bytes: &[u8]) -> Option<(u16, Vec<u8>)> {
    let head_length = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..head_length]).expect("a head is text");
    let status: u16 = head.split(' ').nth(1)?.parse().expect("a status");
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    let length: usize = length.map_or(0, |length| length.parse().expect("a length"));
    (bytes.len() == head_length + length).then(|| (status, bytes[head_length..].to_vec()))
}

/// The paths of all that lives.
fn live(server: &Server) -> BTreeSet<String> {
    let (mut found, mut target) = (BTreeSet::new(), "/allocate?limit=1000".to_owned());
    loop {
        let page = server.get(&target).json();
        for body in page["allocations"].as_array().expect("a list") {
            assert!(found.insert(path_of(body)), "listed twice: {body}");
        }
        match page["next_cursor"].as_str() {
            Some(cursor) => target = format!("/allocate?limit=1000&cursor={cursor}"),
            None => return found,
        }
    }
}

#[test]
fn whoever_goes_away_wherever_leaves_what_was_acknowledged_and_nothing_else() {
    const HUNTERS: u64 = 6;
    let server = Server::with()
        .environment("SLAB_SIZES", "1024,8192,70000,131072")
        .environment("MAX_POOL_SIZE", "1000000")
        .set("memory.max_allocations", "60")
        .set("memory.write_wait_ms", "20")
        .start();
    let (seed, counts) = (seed("cancel"), Counts::default());
    let hunter = |number: u64| Hunter {
        server: &server,
        counts: &counts,
        number,
        random: fastrand::Rng::with_seed(seed ^ number),
        mine: Vec::new(),
        unknown: Vec::new(),
    };
    let mut hunters: Vec<Hunter<'_>> = std::thread::scope(|scope| {
        let run = |number: u64| {
            let mut hunter = hunter(number);
            hunter.hunt();
            hunter
        };
        let threads: Vec<_> = (0..HUNTERS).map(|number| scope.spawn(move || run(number))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no hunter panics")).collect()
    });
    // Whatever was sent has been served or dropped when nobody is connected any more; only now a refusal is final.
    server.wait_until_quiet();
    hunters.iter_mut().for_each(Hunter::free_all_but_one);
    // In turn: what one of them made and does not know of stands in the way of all others.
    let begun = Instant::now();
    while hunters.iter().any(|hunter| !hunter.unknown.is_empty()) {
        let unknown: usize = hunters.iter().map(|hunter| hunter.unknown.len()).sum();
        assert!(
            begun.elapsed() < PATIENCE * 3,
            "{unknown} keys stay unknown: {}",
            server.get("/stats").text()
        );
        hunters.iter_mut().for_each(|hunter| hunter.resolve_some(hunter.unknown.len()));
    }
    server.wait_until_quiet();
    let acknowledged: BTreeSet<String> = hunters.iter().flat_map(|hunter| hunter.mine.clone()).collect();
    assert_eq!(
        acknowledged.len(),
        hunters.iter().map(|hunter| hunter.mine.len()).sum::<usize>(),
        "made once"
    );
    assert_eq!(live(&server), acknowledged, "what lives is what was acknowledged");
    for path in &acknowledged {
        let content = server.get(&format!("{path}/data"));
        assert!(content.status == 200 && is_uniform(&content.body), "{path}");
        assert_eq!(server.delete(path).status, 204);
    }
    wait_until("nothing is in use", || server.stat("/memory/in_use_bytes") == 0);
    server.is_empty_and_consistent();
    let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    assert!(number(&counts.dropped_in_request) > 0 && number(&counts.dropped_in_answer) > 0);
    println!(
        "cancel: {} requests, {} dropped while they were sent, {} while they were answered; {} asked again, {} of \
         them had been served",
        number(&counts.requests),
        number(&counts.dropped_in_request),
        number(&counts.dropped_in_answer),
        number(&counts.asked_again),
        number(&counts.replayed)
    );
}

/// Room comes at the very instant in which the one who waits for it goes away.
#[test]
fn a_waiter_that_leaves_as_it_is_served_takes_nothing_along() {
    let server =
        Server::with().environment("SLAB_SIZES", "1024").environment("MAX_POOL_SIZE", "1024").start();
    let mut random = fastrand::Rng::with_seed(seed("leaving"));
    let mut other = server.connect();
    let mut replayed = 0;
    let rounds = rounds(150);
    for round in 0..rounds {
        let held = path_of(&server.allocate(1));
        let body = b"{\"size_bytes\":1,\"wait_ms\":10000}".to_vec();
        let waits =
            Keyed { key: format!("key {round}"), target: "/allocate".to_owned(), media_type: JSON, body };
        let mut waiter = server.connect();
        waiter.send(waits.bytes());
        wait_until("it waits", || server.stat("/waiting_requests") == 1);
        let pause = Instant::now() + Duration::from_micros(random.u64(0..300));
        let leaves_first = random.bool();
        if leaves_first {
            drop(waiter);
            while Instant::now() < pause {}
            other.send(request("DELETE", &held, &[], ""));
        } else {
            other.send(request("DELETE", &held, &[], ""));
            while Instant::now() < pause {}
            drop(waiter);
        }
        assert_eq!(other.answer("DELETE", &held).status, 204);
        wait_until("nobody waits", || server.stat("/waiting_requests") == 0);
        // It was served, or it left nothing: in either case its repeat has the one block there is.
        let mut made = None;
        wait_until("it is done", || {
            let answer = waits.ask(&server);
            replayed += u64::from(answer.header("idempotent-replayed").is_some());
            made = (answer.status == 201).then(|| path_of(&answer.json()));
            made.is_some()
        });
        assert_eq!(server.delete(&made.expect("it was made")).status, 204);
    }
    drop(other);
    server.is_empty_and_consistent();
    println!("leaving: {rounds} waiters left, {replayed} of them had been served");
}
