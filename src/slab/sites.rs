//! Where live slabs were allocated: kept for debugging only, it costs microseconds a slab. And what is still live when an
//! allocator ends.

use parking_lot::Mutex;
use std::backtrace::Backtrace;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where a live slab was allocated.
#[derive(Clone, Debug)]
pub struct Site {
    /// The slab's number; none where it came from Rust's own allocator.
    pub id: Option<u64>,
    /// When it was allocated.
    pub since: Instant,
    /// By whom.
    pub backtrace: Arc<Backtrace>,
}

/// Sites of live slabs, by a key that their references have.
#[derive(Debug, Default)]
pub(super) struct Sites(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    next: u64,
    sites: BTreeMap<u64, Site>,
}

impl Sites {
    pub(super) fn enter(&self, id: Option<u64>) -> u64 {
        let site = Site { id, since: Instant::now(), backtrace: Arc::new(Backtrace::force_capture()) };
        let mut known = self.0.lock();
        known.next += 1;
        let key = known.next;
        known.sites.insert(key, site);
        key
    }

    pub(super) fn leave(&self, key: u64) {
        self.0.lock().sites.remove(&key);
    }

    pub(super) fn get(&self, key: u64) -> Option<Site> {
        self.0.lock().sites.get(&key).cloned()
    }

    /// The oldest live ones, so many at most.
    pub(super) fn oldest(&self, count: usize) -> Vec<Site> {
        self.0.lock().sites.values().take(count).cloned().collect()
    }
}

/// What was not given back. With debugging on it says where the oldest were allocated.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LeakReport {
    /// Slabs that are live, those known by an id alone included.
    pub slabs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of them, known by an id alone.
    pub detached: u64,
    /// The oldest, at most [`LeakReport::SITES_MAX`]; empty without debugging.
    pub oldest: Vec<Site>,
}

impl LeakReport {
    /// Sites in a report at most.
    pub const SITES_MAX: usize = 20;

    /// Age of the oldest that is known.
    pub fn oldest_age(&self, now: Instant) -> Option<Duration> {
        self.oldest.first().map(|site| now.saturating_duration_since(site.since))
    }
}

impl fmt::Display for LeakReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} slabs of {} bytes in all were not given back", self.slabs, self.bytes)?;
        for site in &self.oldest {
            let (age, id) = (site.since.elapsed(), site.id.map_or("none".to_owned(), |id| id.to_string()));
            write!(out, "\nslab {id}, live for {age:?}, allocated at:\n{}", site.backtrace)?;
        }
        Ok(())
    }
}
