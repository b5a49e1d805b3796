//! What hunts share: how long they are, the seed that repeats one, and what must be true when all is over.

use super::{Server, wait_until};

/// Rounds of a hunt; `MAAS_HUNT_ROUNDS` makes it longer.
pub(crate) fn rounds(short: u64) -> u64 {
    std::env::var("MAAS_HUNT_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(short)
}

/// The seed of a hunt: a new one each time, or `MAAS_HUNT_SEED`. A test that fails shows what it printed.
pub(crate) fn seed(hunt: &str) -> u64 {
    let given = std::env::var("MAAS_HUNT_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    println!("{hunt}: MAAS_HUNT_SEED={seed} repeats it");
    seed
}

/// Whether all these bytes are the same.
pub(crate) fn is_uniform(bytes: &[u8]) -> bool {
    bytes.is_empty() || bytes[1..] == bytes[..bytes.len() - 1]
}

/// A body in chunks of `step` bytes, as `Transfer-Encoding: chunked` has it.
pub(crate) fn chunked(bytes: &[u8], step: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 64);
    for chunk in bytes.chunks(step) {
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

impl Server {
    /// Waits until nobody is connected but the one who asks, and nothing is on its way or waited for.
    pub(crate) fn wait_until_quiet(&self) {
        let zero =
            ["maas_draining_bytes", "maas_inflight_bytes", "maas_waiting_requests", "maas_reserved_bytes"];
        let mut last = Vec::new();
        wait_until("nothing is on its way", || {
            let samples = self.samples();
            last = zero.iter().map(|name| samples.get(name)).collect();
            last.push(samples.get("maas_http_connections") - 1.0);
            last.iter().all(|value| *value == 0.0)
        });
    }

    /// Asserts that an empty pool counts nothing, and that its own numbers agree.
    #[track_caller]
    pub(crate) fn is_empty_and_consistent(&self) {
        self.wait_until_quiet();
        let samples = self.samples();
        for name in ["maas_active_allocations", "maas_allocation_size_bytes", "maas_in_use_bytes"] {
            assert_eq!(samples.get(name), 0.0, "{name}");
        }
        let (mut held, mut created) = (0.0, 0.0);
        for (name, value) in samples.iter() {
            let sized = name.split("slab_size=\"").nth(1).and_then(|rest| rest.split('"').next());
            let size: f64 = sized.map_or(0.0, |size| size.parse().expect("a size"));
            if name.starts_with("maas_slabs{") {
                assert!(value == 0.0 || name.contains("free"), "{name} is {value}");
                held += size * value;
            } else if name.starts_with("maas_slab_created_total{") {
                created += size * value;
            } else if name.starts_with("maas_tag_bytes{") {
                assert_eq!(value, 0.0, "{name}");
            }
        }
        // What was freed of large objects may still have to be zeroed.
        wait_until("the pool is the sum of its slabs and free runs", || {
            let samples = self.samples();
            held + samples.get("maas_free_run_bytes") == samples.get("maas_pool_size_bytes")
        });
        assert!(held <= samples.get("maas_pool_limit_bytes") && held <= created);
        assert!(samples.get("maas_peak_in_use_bytes") <= samples.get("maas_pool_limit_bytes"));
        assert!(samples.server_errors().is_empty(), "the service failed: {:?}", samples.server_errors());
        assert_eq!(self.get("/health").json()["status"], "healthy");
    }
}
