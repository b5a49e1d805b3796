//! The soak: everything at once for a while, and then nothing may have grown.
//!
//! For `MAAS_SOAK_SECONDS` (8 unless said otherwise) clients make all calls there are, on kept and on new connections,
//! while some readers stand still, leases end and requests wait in a pool that is full most of the time. The server's
//! own figures are sampled all the while. The first third warms it up; then the median of the last third is compared
//! with the median of the second: resident memory, and what of it is beyond the pool's committed bytes, may have grown by
//! [`GROWTH_BYTES`] at most, descriptors and threads by [`GROWTH_COUNT`].

use crate::support::{
    Client, JSON, OCTETS, Samples, Server, arena_path, chunked, is_uniform, path_of, request, seed,
    wait_until,
};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What the allocator below may keep more of from one third to the next.
const GROWTH_BYTES: f64 = 4_194_304.0;
/// The same in a soak that is shorter than [`LONG`]: committed blocks that nobody wrote yet are not resident, and how
/// many of the pool's 32 MiB these are changes by some MiB from one second to the next.
const GROWTH_BYTES_SHORT: f64 = 16_777_216.0;
const LONG: Duration = Duration::from_secs(60);
/// Clients come and go: as many descriptors as the load has connections at one instant more than at another.
const GROWTH_COUNT: f64 = 6.0;
const CLIENTS: u64 = 4;
const LARGEST: usize = 1 << 20;
const SIZES: [usize; 5] = [1024, 1024, 16_384, 262_144, LARGEST];

fn soak_time() -> Duration {
    let seconds = std::env::var("MAAS_SOAK_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(8))
}

/// One client of the load.
struct Load<'a> {
    server: &'a Server,
    client: Client,
    random: fastrand::Rng,
    /// Paths, and sizes.
    mine: Vec<(String, usize)>,
    /// The arena that it fills.
    arena: Option<String>,
    calls: &'a AtomicU64,
    refused: &'a AtomicU64,
}

impl Load<'_> {
    /// One call; its status and, if it is good, its answer.
    fn call(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<Vec<u8>> {
        if self.random.u8(0..16) == 0 {
            self.client = self.server.connect();
        }
        self.calls.fetch_add(1, Ordering::Relaxed);
        let answer = if !body.is_empty() && method != "POST" && self.random.u8(0..4) == 0 {
            let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let head = format!("{method} {target} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n");
            self.client.send(format!("{head}{lines}\r\n"));
            self.client.send(chunked(body, 50_000));
            self.client.answer(method, target)
        } else {
            self.client.call(method, target, headers, body)
        };
        if answer.status >= 500 {
            assert!(matches!(answer.status, 503 | 507), "{answer:?}");
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        if answer.status >= 400 {
            self.client = self.server.connect(); // the rest of the body may not have been asked for
            return None;
        }
        Some(if answer.header("idempotent-replayed").is_some() { Vec::new() } else { answer.body })
    }

    fn allocate(&mut self) {
        let largest = SIZES[self.random.usize(0..SIZES.len())];
        let size = self.random.usize(1..=largest);
        let (tag, wait_ms) = (self.random.u8(0..100), self.random.u64(0..30) / 10 * 20);
        match self.random.u8(0..8) {
            0 => {
                let body = vec![self.random.u8(1..); size];
                let query = format!("/allocate?tag=t{tag}&wait_ms={wait_ms}");
                let made = self.call("POST", &query, &[OCTETS], &body);
                self.made(made, size);
            }
            1 => {
                let count = self.random.usize(1..20);
                let body = json!({ "size_bytes": size.min(20_000), "count": count, "wait_ms": wait_ms });
                let body = body.to_string();
                if let Some(made) = self.call("POST", "/allocate/batch", &[JSON], body.as_bytes()) {
                    let made: Value = serde_json::from_slice(&made).expect("JSON");
                    let made = made["allocations"].as_array().expect("a list");
                    self.mine.extend(made.iter().map(|made| (path_of(made), size.min(20_000))));
                }
            }
            // Nobody frees it, or who does may come too late.
            2 | 3 => {
                let body = json!({ "size_bytes": size, "lease_seconds": 1, "wait_ms": wait_ms }).to_string();
                let made = self.call("POST", "/allocate", &[JSON], body.as_bytes());
                if self.random.u8(0..4) == 0 {
                    self.made(made, size);
                }
            }
            // Few keys, so that they come again, and what is remembered of them is bounded.
            4 => {
                let key = format!("key {}", self.random.u8(..));
                let headers = [JSON, ("Idempotency-Key", key.as_str())];
                let made = self.call("POST", "/allocate", &headers, b"{\"size_bytes\":5000}");
                if made.as_ref().is_some_and(|body| !body.is_empty()) {
                    self.made(made, 5000);
                }
            }
            _ => {
                let body = json!({ "size_bytes": size, "tag": format!("t{tag}"), "wait_ms": wait_ms });
                let made = self.call("POST", "/allocate", &[JSON], body.to_string().as_bytes());
                self.made(made, size);
            }
        }
    }

    fn made(&mut self, answer: Option<Vec<u8>>, size: usize) {
        if let Some(body) = answer {
            self.mine.push((path_of(&serde_json::from_slice(&body).expect("JSON")), size));
        }
    }

    /// Any call about one block.
    fn use_block(&mut self) {
        let at = self.random.usize(0..self.mine.len());
        let (path, size) = self.mine[at].clone();
        let data = format!("{path}/data");
        let body = vec![self.random.u8(1..); size];
        match self.random.u8(0..12) {
            0..=2 => drop(self.call("PUT", &data, &[], &body)),
            3 => drop(self.call("PATCH", &format!("{data}?offset=0"), &[OCTETS], &body)),
            4 => {
                let mut broken = self.server.connect();
                let whole = request("PUT", &data, &[], &body);
                broken.send(&whole[..self.random.usize(0..whole.len())]);
            }
            5 => drop(self.call("HEAD", &data, &[], b"")),
            6 => drop(self.call("GET", &path, &[], b"")),
            7 => drop(self.call("POST", &format!("{path}/renew"), &[JSON], b"{\"lease_seconds\":20}")),
            8 => {
                let range = format!("bytes={}-", self.random.usize(0..size));
                let read = self.call("GET", &data, &[("Range", &range)], b"");
                assert!(read.is_none_or(|bytes| is_uniform(&bytes)), "a torn read");
            }
            _ => {
                let read = self.call("GET", &data, &[], b"");
                assert!(read.is_none_or(|bytes| is_uniform(&bytes)), "a torn read");
            }
        }
    }

    fn free(&mut self) {
        if self.random.u8(0..4) == 0 {
            let keep = self.mine.len() / 2;
            let ids: Vec<_> = self.mine.drain(keep..).map(|(path, _)| path).collect();
            let ids: Vec<_> = ids.iter().map(|path| path.trim_start_matches("/allocate/")).collect();
            let body = json!({ "ids": ids }).to_string();
            self.call("POST", "/deallocate/batch", &[JSON], body.as_bytes())
                .expect("frees are never refused");
        } else if !self.mine.is_empty() {
            let (path, _) = self.mine.swap_remove(self.random.usize(0..self.mine.len()));
            self.call("DELETE", &path, &[], b"");
        }
    }

    /// Any call about an arena. Some are ended, the others end with their lease.
    fn use_arena(&mut self) {
        let Some(arena) = self.arena.clone() else {
            let (estimate, lease) = (self.random.u64(1..300_000), self.random.u64(1..4));
            let body = json!({ "estimated_size_bytes": estimate, "lease_seconds": lease, "tag": "arena" });
            let made = self.call("POST", "/arenas", &[JSON], body.to_string().as_bytes());
            self.arena = made.map(|body| arena_path(&serde_json::from_slice(&body).expect("JSON")));
            return;
        };
        let verb = match self.random.u8(0..40) {
            0 => "rollback",
            1 | 2 => "commit",
            3 => "reset",
            4 => {
                let id = arena.trim_start_matches("/arenas/");
                let body = json!({ "parent": id, "profile": "tiny" }).to_string();
                self.call("POST", "/arenas", &[JSON], body.as_bytes());
                return;
            }
            5 => return drop(self.call("GET", "/arenas?limit=10", &[], b"")),
            _ => {
                let largest = [200, 200, 200, 16_384, 50_000][self.random.usize(0..5)];
                let size = self.random.usize(1..=largest);
                let body = json!({ "size_bytes": size, "wait_ms": self.random.u64(0..20) }).to_string();
                let made = self.call("POST", &format!("{arena}/allocate"), &[JSON], body.as_bytes());
                if made.is_none() {
                    self.arena = None; // it is full, or has ended, or the pool has no room
                }
                return self.made(made, size);
            }
        };
        let body: &[u8] = if verb == "commit" && self.random.bool() { b"{\"keep\":true}" } else { b"{}" };
        self.call("POST", &format!("{arena}/{verb}"), &[JSON], body);
        self.arena = self.arena.take().filter(|_| verb == "reset");
    }

    fn run(&mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            match self.random.u8(0..26) {
                0..=5 => self.allocate(),
                6..=12 if !self.mine.is_empty() => self.use_block(),
                13 => drop(self.call("GET", "/allocate?limit=50", &[], b"")),
                14 => drop(self.call("GET", "/allocate?tag=t7", &[], b"")),
                15 => drop(self.call("GET", "/stats", &[], b"")),
                16 => {
                    self.call("POST", "/allocate", &[JSON], b"{\"size_bytes\":0}");
                    self.call("GET", "/nowhere", &[], b"");
                    self.call("PUT", "/allocate/7/data", &[], &[1; 100_000]);
                }
                17..=22 => self.use_arena(),
                _ => self.free(),
            }
            while self.mine.len() > 40 {
                self.free();
            }
        }
    }
}

/// Readers that take a little of a large block and then stand still, while the block is replaced or freed.
fn stall(server: &Server, seed: u64, stop: &AtomicBool, calls: &AtomicU64) {
    let mut random = fastrand::Rng::with_seed(seed);
    while !stop.load(Ordering::Relaxed) {
        let body = vec![random.u8(1..); LARGEST];
        let made = server.store("?wait_ms=500&lease_seconds=30", &body);
        calls.fetch_add(1, Ordering::Relaxed);
        if made.status != 201 {
            continue;
        }
        let path = path_of(&made.json());
        let data = format!("{path}/data");
        let mut readers: Vec<Client> = (0..3).map(|_| Client::with_small_buffer(server.address())).collect();
        for reader in &mut readers {
            reader.send(request("GET", &data, &[], ""));
            assert_eq!(reader.begin("GET", &data).status, 200);
            calls.fetch_add(1, Ordering::Relaxed);
        }
        std::thread::sleep(Duration::from_millis(random.u64(0..300)));
        if random.bool() {
            server.call("PUT", &data, &[], &body[1..]);
        }
        server.delete(&path);
        calls.fetch_add(2, Ordering::Relaxed);
        // One goes away, one goes on to its end or until it is cut, one waits until it is cut.
        readers.remove(0);
        let mut left = LARGEST;
        while left > 0 && random.u8(..) > 0 {
            left -= readers[0].some_bytes().unwrap_or(left);
        }
        std::thread::sleep(Duration::from_millis(random.u64(0..2500)));
    }
}

/// The server's figures at one instant.
struct Figures {
    resident_bytes: f64,
    committed_bytes: f64,
    descriptors: f64,
    threads: f64,
}

impl Figures {
    fn of(samples: &Samples) -> Figures {
        Figures {
            resident_bytes: samples.get("process_resident_memory_bytes"),
            committed_bytes: samples.get("maas_committed_bytes"),
            descriptors: samples.get("process_open_fds"),
            threads: samples.get("process_threads"),
        }
    }

    fn beyond_pool(&self) -> f64 {
        self.resident_bytes - self.committed_bytes
    }
}

fn median(figures: &[Figures], figure: impl Fn(&Figures) -> f64) -> f64 {
    let mut values: Vec<f64> = figures.iter().map(figure).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Asserts that a figure is flat after the warm-up, and says what it was.
fn is_flat(name: &str, figures: &[Figures], allowed: f64, figure: impl Fn(&Figures) -> f64 + Copy) {
    let third = figures.len() / 3;
    let second = median(&figures[third..third * 2], figure);
    let last = median(&figures[third * 2..], figure);
    let (first, end) = (figure(&figures[0]), figure(figures.last().expect("there are some")));
    println!(
        "soak: {name}: first {first}, median of the second third {second}, of the last {last}, at the end {end}"
    );
    assert!(last <= second + allowed, "{name} grows: from {second} to {last}, {allowed} are allowed");
}

#[test]
fn a_mixed_load_leaves_nothing_behind() {
    let mut server = Server::with()
        .environment("SLAB_SIZES", "1024,16384,262144,1048576")
        .environment("MAX_POOL_SIZE", "32MiB")
        .set("memory.drain_seconds", "2")
        .set("memory.write_wait_ms", "100")
        .start();
    let (time, seed) = (soak_time(), seed("soak"));
    let every = Duration::from_secs(1).min(time / 40);
    let (stop, calls, refused) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let before = Figures::of(&server.samples());
    let mut figures = Vec::new();
    let mut unhealthy = 0;
    std::thread::scope(|scope| {
        let (server, stop, calls, refused) = (&server, &stop, &calls, &refused);
        for number in 0..CLIENTS {
            scope.spawn(move || {
                let _ended = Ended(stop);
                let random = fastrand::Rng::with_seed(seed ^ number);
                Load {
                    server,
                    client: server.connect(),
                    random,
                    mine: Vec::new(),
                    arena: None,
                    calls,
                    refused,
                }
                .run(stop);
            });
        }
        for number in 0..2 {
            scope.spawn(move || {
                let _ended = Ended(stop);
                stall(server, seed ^ number << 32, stop, calls);
            });
        }
        let _ended = Ended(stop);
        let begun = Instant::now();
        let mut client = server.connect();
        while begun.elapsed() < time && !stop.load(Ordering::Relaxed) {
            let samples = Samples::parse(&client.call("GET", "/metrics", &[], "").text());
            assert!(samples.get("maas_in_use_bytes") <= samples.get("maas_pool_limit_bytes"));
            assert!(samples.get("maas_pool_size_bytes") <= samples.get("maas_pool_limit_bytes"));
            figures.push(Figures::of(&samples));
            unhealthy += u64::from(client.call("GET", "/health", &[], "").status != 200);
            std::thread::sleep(every);
        }
    });
    let calls = calls.into_inner();
    println!(
        "soak: {} s, {calls} calls, {} refused for lack of room, {} samples",
        time.as_secs(),
        refused.into_inner(),
        figures.len()
    );
    let resident = if time < LONG { GROWTH_BYTES_SHORT } else { GROWTH_BYTES };
    is_flat("resident bytes beyond the pool's", &figures, resident, Figures::beyond_pool);
    is_flat("resident bytes", &figures, resident, |figures| figures.resident_bytes);
    is_flat("committed bytes", &figures, GROWTH_BYTES, |figures| figures.committed_bytes);
    is_flat("descriptors", &figures, GROWTH_COUNT, |figures| figures.descriptors);
    is_flat("threads", &figures, GROWTH_COUNT, |figures| figures.threads);
    assert_eq!(unhealthy, 0);

    // What is left is freed, what has a lease ends, and who was stalled is cut.
    loop {
        let page = server.get("/allocate?limit=1000").json();
        let ids: Vec<Value> =
            page["allocations"].as_array().expect("a list").iter().map(|made| made["id"].clone()).collect();
        if ids.is_empty() {
            break;
        }
        assert_eq!(server.post_to("/deallocate/batch", &json!({ "ids": ids }).to_string()).status, 200);
    }
    // A lease that ended this instant is listed no more, and counted until its sweep comes.
    let begun = Instant::now();
    wait_until("leases that are over are swept", || {
        server.stat("/memory/active_allocations") == 0 && server.stat("/arenas/active") == 0
    });
    println!("soak: all was swept after {:?}", begun.elapsed());
    server.is_empty_and_consistent();
    let samples = server.samples();
    let after = Figures::of(&samples);
    println!(
        "soak: {} leases ended by themselves, {} readers were cut; descriptors {} before and {} after",
        samples.get("maas_lease_expired_total"),
        samples.get("maas_readers_cut_total"),
        before.descriptors,
        after.descriptors
    );
    let ended = |state| samples.get(&format!("maas_arenas_ended_total{{state=\"{state}\"}}"));
    let ended = ["committed", "rolled_back", "expired"].map(ended);
    println!("soak: arenas that were committed, rolled back, or ended with their lease: {ended:?}");
    assert!(ended.iter().all(|count| *count > 0.0));
    assert!(after.descriptors <= before.descriptors + 1.0, "descriptors are left open");
    assert!(samples.get("maas_lease_expired_total") > 0.0 && samples.get("maas_readers_cut_total") > 0.0);
    assert!(!server.log().contains("panicked"), "{}", server.log());
    assert_eq!(server.stop(), 0);
}

/// Whoever ends, however it ends, ends the soak.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
