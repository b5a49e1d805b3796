//! What is known of a peer we push to: written by the task that talks to it, read by `/health` and the metrics.

use crate::clock::Now;
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where a link stands. The contract names these states; [`LinkState::name`] is their spelling on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Not configured: there is no peer, and nothing is wrong.
    Off,
    /// Configured, and not one attempt has ended yet.
    Disconnected,
    /// The last attempt succeeded.
    Connected,
    /// A few attempts failed in a row; the next waits its turn.
    Reconnecting,
    /// So many attempts failed in a row that scraping the local `/metrics` is declared the way. Attempts go on.
    NativeMetrics,
}

impl LinkState {
    /// Every state, in the order of their numbers.
    pub const ALL: [LinkState; 5] = [
        LinkState::Off,
        LinkState::Disconnected,
        LinkState::Connected,
        LinkState::Reconnecting,
        LinkState::NativeMetrics,
    ];

    /// The state's name on the wire: lower case, words joined by `_`.
    pub fn name(self) -> &'static str {
        match self {
            LinkState::Off => "off",
            LinkState::Disconnected => "disconnected",
            LinkState::Connected => "connected",
            LinkState::Reconnecting => "reconnecting",
            LinkState::NativeMetrics => "native_metrics",
        }
    }
}

/// One consistent view of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkStatus {
    /// Where it stands.
    pub state: LinkState,
    /// Since when it stands there.
    pub since: Now,
    /// Attempts that failed in a row; 0 after a success.
    pub attempts: u32,
    /// Why the last attempt failed; none after a success.
    pub last_error: Option<String>,
    /// When the next attempt starts, while the link is failing.
    pub next_retry: Option<Now>,
}

impl LinkStatus {
    /// A link that stands at `state` since `now`, with no failure behind it.
    pub fn new(state: LinkState, now: Now) -> LinkStatus {
        LinkStatus { state, since: now, attempts: 0, last_error: None, next_retry: None }
    }
}

/// A link's status and its counters. One task writes, anybody reads; readers never wait.
#[derive(Debug)]
pub struct Link {
    status: ArcSwap<LinkStatus>,
    pushes_ok: AtomicU64,
    pushes_failed: AtomicU64,
}

impl Link {
    /// A link that stands at `state` since `now`.
    pub fn new(state: LinkState, now: Now) -> Link {
        Link {
            status: ArcSwap::from_pointee(LinkStatus::new(state, now)),
            pushes_ok: AtomicU64::new(0),
            pushes_failed: AtomicU64::new(0),
        }
    }

    /// The status as last published.
    pub fn status(&self) -> Arc<LinkStatus> {
        self.status.load_full()
    }

    /// Publishes a new status.
    pub fn publish(&self, status: LinkStatus) {
        self.status.store(Arc::new(status));
    }

    /// Counts one push that ended.
    pub fn count_push(&self, ok: bool) {
        let counter = if ok { &self.pushes_ok } else { &self.pushes_failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Pushes so far: (succeeded, failed).
    pub fn pushes(&self) -> (u64, u64) {
        (self.pushes_ok.load(Ordering::Relaxed), self.pushes_failed.load(Ordering::Relaxed))
    }
}
