//! What only looks, and what is refused: reads, listings, wrong requests; and the numbers of the service.

use super::{ALLOCATIONS_MAX, BUDGET, Block, CLASSES, Hunt, LIMIT_BYTES};
use crate::support::{JSON, OCTETS, Samples, path_of, wait_until};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

impl Hunt {
    /// The content, whole, in part, or under a condition.
    pub(super) fn read(&mut self, at: usize) {
        let (size, etag) = (self.blocks[at].bytes.len(), self.blocks[at].etag());
        let target = format!("{}/data", self.blocks[at].path());
        let from = self.random.usize(0..size);
        let to = self.random.usize(from..size + 5);
        let end = to.min(size - 1) + 1;
        let given = format!("bytes={from}-{to}");
        let (suffix, beyond) = (format!("bytes=-{}", size - from), format!("bytes={size}-"));
        let (method, headers, status, part) = match self.random.u8(0..10) {
            0 => ("GET", vec![("Range", suffix.as_str())], 206, from..size),
            1 => ("GET", vec![("Range", beyond.as_str())], 416, 0..0),
            2 => ("GET", vec![("Range", "bytes=0-1,3-4")], 200, 0..size),
            3 => ("GET", vec![("If-None-Match", etag.as_str())], 304, 0..0),
            4 => ("GET", vec![("If-Match", "\"999999\"")], 412, 0..0),
            5 => ("GET", vec![("Range", given.as_str()), ("If-Range", "\"999999\"")], 200, 0..size),
            6 => ("HEAD", vec![("Range", given.as_str())], 200, 0..0),
            7 => ("GET", vec![], 200, 0..size),
            _ => ("GET", vec![("Range", given.as_str()), ("If-Range", etag.as_str())], 206, from..end),
        };
        let answer = self.ask(method, &target, &headers, b"");
        assert_eq!(answer.status, status, "{headers:?}: {answer:?}");
        let block = &self.blocks[at];
        match status {
            412 => drop(answer.is_problem(412, "precondition-failed")),
            416 => {
                answer.is_problem(416, "range-not-satisfiable");
                assert_eq!(answer.header("content-range"), Some(format!("bytes */{size}").as_str()));
            }
            _ => {
                assert_eq!(answer.header("etag"), Some(etag.as_str()), "{answer:?}");
                assert!(answer.body == block.bytes[part.clone()], "other bytes in {part:?} of {target}");
            }
        }
        if status == 206 {
            let shown = format!("bytes {}-{}/{size}", part.start, part.end - 1);
            assert_eq!(answer.header("content-range"), Some(shown.as_str()));
        }
        if method == "HEAD" {
            assert_eq!(answer.header("content-length"), Some(size.to_string().as_str()));
        }
    }

    /// Every block, whole.
    pub(super) fn all_content(&mut self) {
        for at in 0..self.blocks.len() {
            let answer = self.ask("GET", &format!("{}/data", self.blocks[at].path()), &[], b"");
            assert_eq!(answer.header("etag"), Some(self.blocks[at].etag().as_str()));
            assert!(answer.body == self.blocks[at].bytes, "other bytes in {}", self.blocks[at].id);
        }
    }

    pub(super) fn look(&mut self, at: usize) {
        let answer = self.ask("GET", &self.blocks[at].path(), &[], b"");
        assert_eq!(answer.status, 200, "{answer:?}");
        self.blocks[at].hold(&answer.json());
    }

    pub(super) fn renew(&mut self, at: usize) {
        let seconds = self.random.u64(1000..9000);
        let target = format!("{}/renew", self.blocks[at].path());
        let body = json!({ "lease_seconds": seconds }).to_string();
        let answer = self.ask("POST", &target, &[JSON], body.as_bytes());
        assert_eq!(answer.status, 200, "{answer:?}");
        self.blocks[at].lease_seconds = Some(seconds);
        self.blocks[at].hold(&answer.json());
    }

    /// All pages, of all allocations or of those with a tag: the twin's, in its order.
    pub(super) fn list(&mut self) {
        let limit = self.random.usize(1..30);
        let tag = [None, Some(BUDGET.0), Some("queue"), Some("never")][self.random.usize(0..4)];
        let filter = tag.map_or(String::new(), |tag| format!("&tag={tag}"));
        let mut target = format!("/allocate?limit={limit}{filter}");
        let mut found: Vec<Value> = Vec::new();
        loop {
            let answer = self.ask("GET", &target, &[], b"");
            assert_eq!(answer.status, 200, "{answer:?}");
            let page = answer.json();
            let here = page["allocations"].as_array().expect("a list");
            assert!(here.len() <= limit, "{page}");
            found.extend(here.iter().cloned());
            match page["next_cursor"].as_str() {
                Some(cursor) => target = format!("/allocate?limit={limit}{filter}&cursor={cursor}"),
                None => break,
            }
        }
        let wanted: Vec<&Block> =
            self.blocks.iter().filter(|block| tag.is_none() || block.tag == tag).collect();
        assert_eq!(found.len(), wanted.len(), "of {tag:?}");
        found.iter().zip(wanted).for_each(|(body, block)| block.hold(body));
    }

    /// An id that was freed, or never was, is 404 for every call.
    pub(super) fn dead(&mut self) {
        let path = format!("/allocate/{}", self.dead[self.random.usize(0..self.dead.len())]);
        let (data, renew) = (format!("{path}/data"), format!("{path}/renew"));
        let offset = format!("{data}?offset=0");
        let lease = b"{\"lease_seconds\":60}".as_slice();
        let large = vec![1; 70_000];
        for (method, target, headers, body) in [
            ("GET", &path, &[][..], &b""[..]),
            ("DELETE", &path, &[], b""),
            ("GET", &data, &[], b""),
            ("PUT", &data, &[], b"x"),
            ("PUT", &data, &[], &large),
            ("PATCH", &offset, &[OCTETS], b"x"),
            ("POST", &renew, &[JSON], lease),
        ] {
            self.ask(method, target, headers, body).is_problem(404, "not-found");
        }
    }

    /// One request that can never be right.
    pub(super) fn bad(&mut self) {
        type Bad = (
            &'static str,
            &'static str,
            &'static [(&'static str, &'static str)],
            &'static str,
            u16,
            &'static str,
        );
        const WRONG: &[Bad] = &[
            ("POST", "/allocate", &[JSON], "{\"size_bytes\":0}", 400, "invalid-size"),
            ("POST", "/allocate", &[JSON], "{\"size_bytes\":-1}", 400, "invalid-size"),
            ("POST", "/allocate", &[JSON], "{\"size_bytes\":1,\"sise\":2}", 400, "unknown-field"),
            ("POST", "/allocate", &[JSON], "{\"size_bytes\":1", 400, "invalid-json"),
            ("POST", "/allocate", &[JSON], "{\"size_bytes\":1,\"tag\":\"A\"}", 400, "invalid-field"),
            ("POST", "/allocate", &[JSON], "{\"size_bytes\":1,\"wait_ms\":30001}", 400, "invalid-field"),
            ("POST", "/allocate", &[JSON], "{\"size_bytes\":1,\"lease_seconds\":0}", 400, "invalid-field"),
            ("POST", "/allocate", &[JSON], "{\"size_bytes\":18446744073709551615}", 422, "size-too-large"),
            ("POST", "/allocate", &[], "{\"size_bytes\":1}", 415, "unsupported-media-type"),
            ("POST", "/allocate", &[OCTETS], "", 400, "invalid-size"),
            ("POST", "/allocate?tag=A", &[OCTETS], "x", 400, "invalid-query"),
            ("POST", "/allocate?size=1", &[JSON], "{\"size_bytes\":1}", 400, "invalid-query"),
            ("POST", "/allocate/batch", &[JSON], "{\"size_bytes\":1,\"count\":0}", 400, "invalid-field"),
            (
                "POST",
                "/allocate/batch",
                &[JSON],
                "{\"size_bytes\":1024,\"count\":9999}",
                422,
                "size-too-large",
            ),
            ("POST", "/deallocate/batch", &[JSON], "{\"ids\":7}", 400, "invalid-field"),
            ("GET", "/allocate/7", &[], "", 400, "invalid-id"),
            ("GET", "/allocate/7/data", &[], "", 400, "invalid-id"),
            ("GET", "/allocate?limit=0", &[], "", 400, "invalid-query"),
            ("PATCH", "/allocate/7/data", &[OCTETS], "x", 400, "invalid-id"),
            ("GET", "/nowhere", &[], "", 404, "no-such-route"),
            ("DELETE", "/stats", &[], "", 405, "method-not-allowed"),
        ];
        let (method, target, headers, body, status, code) = WRONG[self.random.usize(0..WRONG.len())];
        let mut headers = headers.to_vec();
        if body.is_empty() && method == "POST" {
            headers.push(("Content-Length", "0"));
        }
        self.ask(method, target, &headers, body.as_bytes()).is_problem(status, code);
    }

    /// A lease of a second, and its end.
    pub(super) fn expire(&mut self) {
        if self.judge(&[1], None).is_err() {
            return;
        }
        let body = b"{\"size_bytes\":1,\"lease_seconds\":1}";
        let made = self.ask("POST", "/allocate", &[JSON], body).json();
        assert_eq!(made["expires_in_seconds"], 1, "{made}");
        std::thread::sleep(Duration::from_millis(1001));
        self.ask("GET", &path_of(&made), &[], b"").is_problem(404, "not-found");
        self.leases_expired += 1;
    }

    /// Bytes and allocations by tag.
    fn tags(&self) -> BTreeMap<&'static str, (u64, u64)> {
        let mut tags = BTreeMap::from([(BUDGET.0, (0, 0))]);
        for block in &self.blocks {
            if let Some(tag) = block.tag {
                let (count, bytes) = tags.entry(tag).or_default();
                (*count, *bytes) = (*count + 1, *bytes + block.actual());
            }
        }
        tags
    }

    /// The blocks that no class holds.
    fn objects(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter().filter(|block| block.actual() > CLASSES[CLASSES.len() - 1])
    }

    fn used(&self, class: u64) -> usize {
        self.blocks.iter().filter(|block| block.actual() == class).count()
    }

    fn utilization(&self) -> f64 {
        self.in_use() as f64 / LIMIT_BYTES as f64 * 100.0
    }

    /// `/stats` is the twin's.
    pub(super) fn statistics(&mut self) {
        let stats = self.ask("GET", "/stats", &[], b"").json();
        let memory = &stats["memory"];
        assert_eq!(memory["in_use_bytes"], self.in_use());
        assert_eq!(memory["active_allocations"], self.blocks.len());
        assert_eq!(memory["max_pool_size_bytes"], LIMIT_BYTES);
        assert_eq!(memory["utilization_percent"], self.utilization());
        for name in ["draining_bytes", "inflight_bytes", "waiting_requests", "reserved_bytes"] {
            assert_eq!(stats[name], 0, "{name}");
        }
        let mut held = 0;
        for (slab, class) in stats["slab_sizes"].as_array().expect("a list").iter().zip(CLASSES) {
            let number = |name: &str| slab[name].as_u64().expect("a number");
            assert_eq!((number("slab_size_bytes"), number("used")), (class, self.used(class) as u64));
            assert_eq!(number("total"), number("used") + number("free"), "{slab}");
            held += number("total") * class;
        }
        let of_objects = self.objects().map(Block::actual).sum::<u64>();
        let large = &stats["large_objects"];
        assert_eq!(
            (&large["objects"], &large["bytes"]),
            (&json!(self.objects().count()), &json!(of_objects))
        );
        held += of_objects + large["free_bytes"].as_u64().expect("a number");
        let pool_size = memory["pool_size_bytes"].as_u64().expect("a number");
        assert!(held <= pool_size && pool_size <= LIMIT_BYTES, "what lacks is being zeroed: {stats}");
        let tags: Vec<Value> = self.tags().into_iter().map(|(tag, (allocations, bytes))| {
            let budget = (tag == BUDGET.0).then_some(BUDGET.1);
            json!({ "tag": tag, "allocations": allocations, "allocated_bytes": bytes, "budget_bytes": budget })
        }).collect();
        assert_eq!(stats["tags"], json!(tags));
    }

    /// `/metrics` is the twin's, and so is every count of answers.
    pub(super) fn metrics(&mut self) {
        self.reconnect();
        // Counted by nobody but the server: what it says of connections comes a little after they end.
        let mut probes = 0.0;
        wait_until("one connection is left", || {
            probes += 1.0;
            let samples = Samples::parse(&self.client.call("GET", "/metrics", &[], "").text());
            samples.get("maas_http_connections") == 1.0
        });
        let scrape = "{method=\"GET\",route=\"/metrics\",status=\"200\"}";
        *self.answered.entry(scrape.to_owned()).or_default() += probes;
        let before = self.answered.clone(); // a scrape does not count itself
        let samples = Samples::parse(&self.ask("GET", "/metrics", &[], b"").text());
        let (in_use, live) = (self.in_use() as f64, self.blocks.len() as f64);
        for (name, value) in [
            ("maas_active_allocations", live),
            ("maas_allocation_size_bytes", in_use),
            ("maas_in_use_bytes", in_use),
            ("maas_utilization_percent", self.utilization()),
            ("maas_pool_utilization_ratio", self.utilization() / 100.0),
            ("maas_pool_limit_bytes", LIMIT_BYTES as f64),
            ("maas_allocations_limit", ALLOCATIONS_MAX as f64),
            ("maas_draining_bytes", 0.0),
            ("maas_inflight_bytes", 0.0),
            ("maas_waiting_requests", 0.0),
            ("maas_reserved_bytes", 0.0),
            ("maas_lease_expired_total", self.leases_expired as f64),
            ("maas_tag_bytes{tag=\"other\"}", 0.0),
        ] {
            assert_eq!(samples.get(name), value, "{name}");
        }
        for class in CLASSES {
            let used = format!("maas_slabs{{slab_size=\"{class}\",state=\"used\"}}");
            assert_eq!(samples.get(&used), self.used(class) as f64, "{used}");
        }
        let tags = self.tags();
        for (name, value) in samples.iter() {
            if let Some(tag) = name.strip_prefix("maas_tag_bytes{tag=\"") {
                let bytes = tags.get(tag.trim_end_matches("\"}")).map_or(0, |(_, bytes)| *bytes);
                assert_eq!(value, bytes as f64, "{name}");
            }
            if let Some(reason) = name.strip_prefix("maas_refused_total{reason=\"") {
                let count = self.refused.get(reason.trim_end_matches("\"}")).copied().unwrap_or(0.0);
                assert_eq!(value, count, "{name}");
            }
            for family in ["maas_http_requests_total", "maas_request_count"] {
                if let Some(labels) = name.strip_prefix(family) {
                    assert_eq!(value, before.get(labels).copied().unwrap_or(0.0), "{name}");
                }
            }
        }
        let sum = |family: &str| -> f64 {
            samples.iter().filter(|(name, _)| name.starts_with(family)).map(|(_, value)| value).sum()
        };
        assert_eq!(sum("maas_http_requests_total{"), before.values().sum::<f64>());
        assert_eq!(sum("maas_refused_total{"), self.refused.values().sum::<f64>());
    }
}
