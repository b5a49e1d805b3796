//! The twin hunt: random calls, one after the other, against a naive twin that knows what every answer must be; and in
//! the end statistics and metrics that must say what the twin says.

mod looks;

use crate::support::{Answer, Client, JSON, OCTETS, Samples, Server, chunked, path_of, rounds, seed};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const CLASSES: [u64; 4] = [1024, 4096, 65_536, 262_144];
const LIMIT_BYTES: u64 = 1 << 20;
const PAGE_BYTES: u64 = 4096;
const ALLOCATIONS_MAX: usize = 60;
const BUDGET: (&str, u64) = ("cache", 400 << 10);
const TAGS: [Option<&str>; 4] = [None, None, Some(BUDGET.0), Some("queue")];
const SMALL_WRITE_BYTES: usize = 64 << 10;

/// What an allocation must be.
struct Block {
    id: String,
    bytes: Vec<u8>,
    version: u64,
    tag: Option<&'static str>,
    lease_seconds: Option<u64>,
}

impl Block {
    fn actual(&self) -> u64 {
        actual(self.bytes.len()).expect("it was granted")
    }

    fn path(&self) -> String {
        format!("/allocate/{}", self.id)
    }

    fn etag(&self) -> String {
        format!("\"{}\"", self.version)
    }

    /// An allocation body is of this block.
    fn hold(&self, body: &Value) {
        let size_mb = self.actual() as f64 / 1_048_576.0;
        assert_eq!((&body["id"], &body["size_bytes"]), (&json!(self.id), &json!(self.bytes.len())));
        assert_eq!((&body["actual_size_bytes"], &body["size_mb"]), (&json!(self.actual()), &json!(size_mb)));
        assert_eq!(body.get("tag").and_then(Value::as_str), self.tag);
        let left = body.get("expires_in_seconds").and_then(Value::as_u64);
        assert_eq!(left.is_some(), self.lease_seconds.is_some(), "{body}");
        let lease = self.lease_seconds.unwrap_or(0);
        assert!(left.unwrap_or(0) <= lease && left.unwrap_or(0) + 600 >= lease, "{body}");
        assert!(body["age_seconds"].as_u64().is_some(), "{body}");
    }
}

/// Bytes of the class that holds so many, or of pages where none does. None where the pool has not as many.
fn actual(size: usize) -> Option<u64> {
    let class = CLASSES.into_iter().find(|class| *class >= size as u64);
    let bytes = class.unwrap_or_else(|| (size as u64).next_multiple_of(PAGE_BYTES));
    (bytes <= LIMIT_BYTES).then_some(bytes)
}

/// What a request is expected to be refused with.
type Refused = (u16, &'static str);

/// The server, the twin, and who compares them.
struct Hunt {
    server: Server,
    client: Client,
    random: fastrand::Rng,
    /// Live ones, in creation order.
    blocks: Vec<Block>,
    /// Ids of freed ones.
    dead: Vec<String>,
    /// Answers by method, route and status.
    answered: BTreeMap<String, f64>,
    refused: BTreeMap<String, f64>,
    leases_expired: u64,
    operations: u64,
}

/// The template of a target.
fn route(target: &str) -> &'static str {
    let path = target.split('?').next().unwrap_or_default();
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match parts[..] {
        ["allocate"] => "/allocate",
        ["allocate", "batch"] => "/allocate/batch",
        ["deallocate", "batch"] => "/deallocate/batch",
        ["allocate", _] => "/allocate/{id}",
        ["allocate", _, "data"] => "/allocate/{id}/data",
        ["allocate", _, "renew"] => "/allocate/{id}/renew",
        ["livez"] => "/livez",
        ["stats"] => "/stats",
        ["metrics"] => "/metrics",
        _ => "unmatched",
    }
}

impl Hunt {
    fn begin(seed: u64) -> Hunt {
        let server = Server::with()
            .environment("SLAB_SIZES", "1024,4096,65536,262144")
            .environment("MAX_POOL_SIZE", &LIMIT_BYTES.to_string())
            .set("memory.max_allocations", &ALLOCATIONS_MAX.to_string())
            .set(&format!("budgets.{}", BUDGET.0), &BUDGET.1.to_string())
            .start();
        let client = server.connect();
        let mut hunt = Hunt {
            server,
            client,
            random: fastrand::Rng::with_seed(seed),
            blocks: Vec::new(),
            dead: vec!["00000000-0000-8000-8000-000000000000".to_owned()],
            answered: BTreeMap::new(),
            refused: BTreeMap::new(),
            leases_expired: 0,
            operations: 0,
        };
        // What was asked before the hunt, by whoever started the server.
        let before = hunt.ask("GET", "/metrics", &[], b"");
        for (name, value) in Samples::parse(&before.text()).iter() {
            if let Some(labels) = name.strip_prefix("maas_http_requests_total") {
                *hunt.answered.entry(labels.to_owned()).or_default() += value;
            }
        }
        hunt
    }

    /// One request, counted by the twin as the server must count it.
    fn ask(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let answer = self.client.call(method, target, headers, body);
        self.count(method, target, &answer);
        if answer.status >= 400 && !body.is_empty() || answer.header("connection") == Some("close") {
            self.client = self.server.connect(); // the rest of the body was not asked for
        }
        answer
    }

    fn count(&mut self, method: &str, target: &str, answer: &Answer) {
        let labels =
            format!("{{method=\"{method}\",route=\"{}\",status=\"{}\"}}", route(target), answer.status);
        *self.answered.entry(labels).or_default() += 1.0;
        if matches!(answer.status, 503 | 507) {
            *self.refused.entry(answer.code()).or_default() += 1.0;
        }
    }

    /// Goes on with another connection. That the old one answers once more proves that its last answer is done with,
    /// and no reader holds a block.
    fn reconnect(&mut self) {
        assert_eq!(self.ask("GET", "/livez", &[], b"").status, 200);
        self.client = self.server.connect();
    }

    fn in_use(&self) -> u64 {
        self.blocks.iter().map(Block::actual).sum()
    }

    fn tag_bytes(&self, tag: &str) -> u64 {
        self.blocks.iter().filter(|block| block.tag == Some(tag)).map(Block::actual).sum()
    }

    /// Whether blocks of these sizes are granted now.
    fn judge(&self, sizes: &[usize], tag: Option<&str>) -> Result<(), Refused> {
        let Some(actual) = sizes.iter().map(|size| actual(*size)).sum::<Option<u64>>() else {
            return Err((422, "size-too-large"));
        };
        match actual {
            _ if actual > LIMIT_BYTES => Err((422, "size-too-large")),
            _ if tag == Some(BUDGET.0) && self.tag_bytes(BUDGET.0) + actual > BUDGET.1 => {
                Err((507, "budget-exhausted"))
            }
            _ if self.in_use() + actual > LIMIT_BYTES => Err((507, "pool-exhausted")),
            _ if self.blocks.len() + sizes.len() > ALLOCATIONS_MAX => Err((507, "table-full")),
            _ => Ok(()),
        }
    }

    fn size(&mut self) -> usize {
        let is_huge = self.random.u8(0..8) == 0;
        match self.random.u8(0..20) {
            0..=7 => self.random.usize(1..=1024),
            8..=11 => self.random.usize(1025..=4096),
            12..=15 => self.random.usize(4097..=65_536),
            16..=18 => self.random.usize(65_537..262_144),
            _ => self.random.usize(262_145..=if is_huge { 1_100_000 } else { 400_000 }),
        }
    }

    fn pattern(&mut self, length: usize) -> Vec<u8> {
        let unit: Vec<u8> = (0..251).map(|_| self.random.u8(1..)).collect();
        unit.into_iter().cycle().take(length).collect()
    }

    /// A refusal to allocate has the twin's numbers.
    fn is_refused(&self, answer: &Answer, (status, code): Refused, sizes: &[usize]) {
        answer.is_problem(status, code);
        if matches!(code, "pool-exhausted" | "wait-timeout") {
            let body = answer.json();
            let free = LIMIT_BYTES - self.in_use();
            let (class, run) =
                (CLASSES.into_iter().rfind(|class| *class <= free).unwrap_or(0), free - free % PAGE_BYTES);
            let largest = if run > CLASSES[CLASSES.len() - 1] { run } else { class };
            let numbers = [self.in_use(), free, LIMIT_BYTES, largest, sizes.iter().sum::<usize>() as u64];
            let names =
                ["in_use_bytes", "free_bytes", "limit_bytes", "largest_available_bytes", "requested_bytes"];
            assert_eq!(names.map(|name| body[name].as_u64()), numbers.map(Some), "{body}");
        }
    }

    /// What was allocated enters the twin.
    fn made(
        &mut self,
        body: &Value,
        bytes: Vec<u8>,
        version: u64,
        tag: Option<&'static str>,
        lease_seconds: Option<u64>,
    ) {
        let id = body["id"].as_str().expect("an id is text").to_owned();
        assert!(!self.dead.contains(&id) && self.blocks.iter().all(|block| block.id != id), "{id} again");
        let block = Block { id, bytes, version, tag, lease_seconds };
        block.hold(body);
        self.blocks.push(block);
    }

    /// A block, a batch, or bytes at once; now and then under a key, and then twice.
    fn allocate(&mut self) {
        let tag = TAGS[self.random.usize(0..TAGS.len())];
        let lease = self.random.bool().then(|| self.random.u64(1000..5000));
        let kind = self.random.u8(0..6);
        let count = if kind == 5 { self.random.usize(1..9) } else { 1 };
        let mut sizes: Vec<usize> = (0..count).map(|_| self.size()).collect();
        if kind == 5 && self.random.bool() {
            let first = sizes[0];
            sizes.fill(first);
        }
        let mut expected = self.judge(&sizes, tag);
        let wait_ms = if expected == Err((507, "pool-exhausted")) { self.random.u64(0..20) / 8 } else { 0 };
        if wait_ms > 0 {
            expected = Err((503, "wait-timeout"));
        }
        let (mut options, mut query) = (json!({ "wait_ms": wait_ms }), format!("?wait_ms={wait_ms}"));
        if let Some(tag) = tag {
            options["tag"] = json!(tag);
            query += &format!("&tag={tag}");
        }
        if let Some(lease) = lease {
            options["lease_seconds"] = json!(lease);
            query += &format!("&lease_seconds={lease}");
        }
        let content = if kind == 4 { self.pattern(sizes[0]) } else { vec![0; sizes[0]] };
        let (target, media_type, body) = match kind {
            4 => (format!("/allocate{query}"), OCTETS, content.clone()),
            5 => {
                if sizes.iter().all(|size| *size == sizes[0]) {
                    (options["size_bytes"], options["count"]) = (json!(sizes[0]), json!(count));
                } else {
                    options["allocations"] = sizes.iter().map(|size| json!({ "size_bytes": size })).collect();
                }
                ("/allocate/batch".to_owned(), JSON, options.to_string().into_bytes())
            }
            _ => {
                options["size_bytes"] = json!(sizes[0]);
                ("/allocate".to_owned(), JSON, options.to_string().into_bytes())
            }
        };
        let key = format!("key {}", self.operations);
        let keyed = self.random.u8(0..4) == 0;
        let headers = [media_type, ("Idempotency-Key", &key)];
        let headers = &headers[..1 + usize::from(keyed)];
        let answer = self.ask("POST", &target, headers, &body);
        if let Err(refused) = expected {
            return self.is_refused(&answer, refused, &sizes);
        }
        assert_eq!(answer.status, 201, "{answer:?}");
        let made = answer.json();
        if kind == 5 {
            let made = made["allocations"].as_array().expect("a list").clone();
            assert_eq!(made.len(), sizes.len());
            for (body, size) in made.iter().zip(&sizes) {
                self.made(body, vec![0; *size], 0, tag, lease);
            }
        } else {
            assert_eq!(answer.header("location"), Some(path_of(&made).as_str()));
            assert_eq!(answer.header("etag"), (kind == 4).then_some("\"1\""));
            self.made(&made, content, u64::from(kind == 4), tag, lease);
        }
        if keyed {
            self.repeat(&target, headers, &body, &made, kind != 5);
        }
    }

    /// The same request again, another under its key, and, where it made one block, again after its end.
    fn repeat(&mut self, target: &str, headers: &[(&str, &str)], body: &[u8], made: &Value, has_one: bool) {
        let again = self.ask("POST", target, headers, body);
        assert_eq!((again.status, again.header("idempotent-replayed")), (201, Some("true")));
        let id = |body: &Value| {
            let body = body.get("allocations").map_or(body, |list| &list[0]);
            body["id"].clone()
        };
        assert_eq!(id(&again.json()), id(made));
        let other = [body, b" "].concat();
        self.ask("POST", target, headers, &other).is_problem(422, "key-reused");
        if has_one && self.random.bool() {
            let at = self.blocks.len() - 1;
            self.free(at);
            self.ask("POST", target, headers, body).is_problem(404, "replayed-and-gone");
        }
    }

    fn free(&mut self, at: usize) {
        let block = self.blocks.remove(at);
        assert_eq!(self.ask("DELETE", &block.path(), &[], b"").status, 204);
        self.dead.push(block.id);
    }

    /// Some live ids, some dead ones, some twice; now and then one that is none, and nothing is freed.
    fn free_batch(&mut self) {
        let mut ids = Vec::new();
        for _ in 0..self.random.usize(0..12) {
            if self.blocks.is_empty() || self.random.u8(0..4) == 0 {
                ids.push(self.dead[self.random.usize(0..self.dead.len())].clone());
            } else {
                ids.push(self.blocks[self.random.usize(0..self.blocks.len())].id.clone());
            }
        }
        if self.random.u8(0..5) == 0 {
            ids.push("7".to_owned());
            let body = json!({ "ids": ids }).to_string();
            let answer = self.ask("POST", "/deallocate/batch", &[JSON], body.as_bytes());
            answer.is_problem(400, "invalid-id");
            return;
        }
        let body = json!({ "ids": ids }).to_string();
        let answer = self.ask("POST", "/deallocate/batch", &[JSON], body.as_bytes());
        let mut not_found = Vec::new();
        for id in &ids {
            match self.blocks.iter().position(|block| block.id == *id) {
                Some(at) => self.dead.push(self.blocks.remove(at).id),
                None => not_found.push(id.clone()),
            }
        }
        assert_eq!(answer.status, 200, "{answer:?}");
        let freed = ids.len() - not_found.len();
        assert_eq!(answer.json(), json!({ "freed": freed, "not_found": not_found }));
    }

    /// A PUT or PATCH, by length or chunked, with any precondition.
    fn write(&mut self, at: usize) {
        let (size, version, path) =
            (self.blocks[at].bytes.len(), self.blocks[at].version, self.blocks[at].path());
        let replaces = self.random.bool();
        let is_chunked = self.random.u8(0..4) == 0;
        let mut length = match self.random.u8(0..4) {
            0 => size,
            1 => 0,
            _ => self.random.usize(0..=size),
        };
        let mut offset = if replaces { 0 } else { self.random.usize(0..=size - length) };
        if !is_chunked && self.random.u8(0..10) == 0 {
            (offset, length) = if replaces { (0, size + 1) } else { (size + 1 - length.min(1), length) };
        }
        let body = self.pattern(length);
        let stale = format!("\"{}\"", version.wrapping_sub(1));
        let (current, ahead) = (format!("\"{version}\""), format!("\"{}\"", version + 3));
        let (condition, applies) = match self.random.u8(0..10) {
            0 | 1 => (Some(("If-Match", current.as_str())), true),
            2 => (Some(("If-Match", "*")), true),
            3 if version > 0 => (Some(("If-Match", stale.as_str())), false),
            4 => (Some(("If-Match", ahead.as_str())), false),
            5 => (Some(("If-None-Match", current.as_str())), false),
            6 => (Some(("If-None-Match", ahead.as_str())), true),
            _ => (None, true),
        };
        let is_stale = condition.is_some_and(|(_, etag)| etag == stale);
        let method = if replaces { "PUT" } else { "PATCH" };
        let target = if replaces { format!("{path}/data") } else { format!("{path}/data?offset={offset}") };
        let mut headers = vec![OCTETS];
        headers.extend(condition);
        let is_streamed = is_chunked || length > SMALL_WRITE_BYTES;
        let (needs_room, actual) = (is_streamed && version > 0, self.blocks[at].actual());
        // Of a large object a write takes room for whole segments, which nobody outside knows: so it may be refused where
        // there is none for all of it. A short replacement takes some only where there is much to zero.
        let is_object = actual > CLASSES[CLASSES.len() - 1];
        let may_need_room = is_object && version > 0 && (replaces || is_streamed);
        let may_be_refused = may_need_room && self.in_use() + actual > LIMIT_BYTES;
        let least_room = if replaces || !is_object { actual } else { length as u64 };
        let expected = match () {
            () if offset + length > size => Err((413, if replaces { "body-too-large" } else { "past-end" })),
            () if is_streamed && is_stale => Err((412, "precondition-failed")),
            () if needs_room && self.in_use() + least_room > LIMIT_BYTES => Err((507, "no-room-to-replace")),
            () if !applies => Err((412, "precondition-failed")),
            () => Ok(()),
        };
        let answer = if is_chunked {
            headers.push(("Transfer-Encoding", "chunked"));
            let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            self.client.send(format!("{method} {target} HTTP/1.1\r\nHost: test\r\n{lines}\r\n"));
            self.client.send(chunked(&body, 30_000));
            let answer = self.client.answer(method, &target);
            self.count(method, &target, &answer);
            if answer.status >= 400 {
                self.client = self.server.connect();
            }
            answer
        } else {
            self.ask(method, &target, &headers, &body)
        };
        if may_be_refused && answer.status == 507 {
            answer.is_problem(507, "no-room-to-replace");
            return;
        }
        if let Err((status, code)) = expected {
            answer.is_problem(status, code);
            return;
        }
        assert_eq!(answer.status, 204, "{answer:?}");
        let block = &mut self.blocks[at];
        if replaces {
            block.bytes.fill(0);
        }
        block.bytes[offset..offset + length].copy_from_slice(&body);
        block.version += u64::from(replaces || length > 0);
        let has_etag = !replaces || length == size;
        assert_eq!(answer.header("etag").map(str::to_owned), has_etag.then(|| block.etag()));
    }
}

#[test]
fn random_calls_are_answered_as_a_naive_twin_says_and_so_are_statistics_and_metrics() {
    let mut hunt = Hunt::begin(seed("twin"));
    for round in 0..rounds(1200) {
        let at = match hunt.blocks.len() {
            0 => None,
            live => Some(hunt.random.usize(0..live)),
        };
        match (hunt.random.u8(0..40), at) {
            (0..=9, _) | (_, None) => hunt.allocate(),
            (10..=17, Some(at)) => hunt.write(at),
            (18..=25, Some(at)) => hunt.read(at),
            (26..=29, Some(at)) => hunt.free(at),
            (30, _) => hunt.free_batch(),
            (31..=32, Some(at)) => hunt.look(at),
            (33, Some(at)) => hunt.renew(at),
            (34, _) => hunt.list(),
            (35, _) => hunt.dead(),
            (36, _) => hunt.bad(),
            (37, _) => hunt.reconnect(),
            (_, Some(at)) if hunt.blocks.len() > 20 => hunt.free(at),
            _ => hunt.statistics(),
        }
        if round % 500 == 250 {
            hunt.expire();
        }
        hunt.operations += 1;
    }
    hunt.all_content();
    hunt.statistics();
    hunt.metrics();
    for at in (0..hunt.blocks.len()).rev() {
        hunt.free(at);
    }
    hunt.statistics();
    hunt.metrics();
    println!("twin: {} operations, {} requests", hunt.operations, hunt.answered.values().sum::<f64>());
}
