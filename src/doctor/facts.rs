//! Facts: what is known of the machine, of what was configured, and of a service that runs.

use crate::limits::{Limits, Root, System};
use crate::link::LinkState;
use crate::pressure::{Level, Source};
use std::time::Duration;

/// Everything that the rules go by.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// What runs below.
    pub machine: Machine,
    /// What was configured.
    pub settings: Settings,
    /// The service; none where nobody asks a running one.
    pub service: Option<Service>,
}

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// What it allows this process.
    pub limits: Limits,
    /// How memory behaves there.
    pub system: System,
}

/// What was configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Address or host name that is listened on.
    pub host: String,
    /// Connections at once.
    pub max_connections: u32,
    /// Bytes of the pool.
    pub pool_bytes: u64,
    /// Bytes of requests on their way, at most.
    pub inflight_bytes: u64,
    /// Whether there are guard pages.
    pub guard_pages: bool,
    /// Whether huge pages are asked for.
    pub huge_pages: bool,
}

/// A service that runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Actual bytes of live allocations, and what was asked for of them.
    pub allocated_bytes: u64,
    /// See `allocated_bytes`.
    pub requested_bytes: u64,
    /// Live allocations.
    pub allocations: u64,
    /// Live allocations at most.
    pub allocations_max: u64,
    /// What records may come to.
    pub metadata_bytes_max: u64,
    /// Bytes of requests on their way.
    pub inflight_bytes: u64,
    /// Free runs of pages, and how far they lie in pieces, 0 to 1.
    pub free_run_bytes: u64,
    /// See `free_run_bytes`.
    pub free_run_fragmentation: f64,
    /// Every tag that holds anything or has a budget.
    pub tags: Vec<TagUse>,
    /// What grows old without a lease, of the last look.
    pub leaks: Option<LeakFacts>,
    /// Open arenas without a lease, older than what counts as a leak.
    pub arenas: Arenas,
    /// Damaged slabs found since the start.
    pub guard_violations: u64,
    /// Bytes of them, which are out of use.
    pub retired_bytes: u64,
    /// How full memory is.
    pub level: Level,
    /// The same as a ratio.
    pub ratio: f64,
    /// What decides it.
    pub level_source: Source,
    /// Whether stalls for lack of memory are read.
    pub are_stalls_read: bool,
    /// Seconds until the watermark of critical; none where it is not expected, or nothing was forecast lately.
    pub critical_in_seconds: Option<f64>,
    /// Blocks refused lately, as a part of all that were asked for.
    pub refused_ratio: f64,
    /// Requests of some sizes are refused without a look.
    pub is_breaker_open: bool,
    /// Requests that wait for room.
    pub waiting_requests: u64,
    /// Open connections.
    pub connections: u64,
    /// Readers of freed or replaced content that were ended, since the start.
    pub readers_cut: u64,
    /// Leases that ended, since the start.
    pub leases_ended: u64,
    /// Of these, more than a quarter of a second too late.
    pub leases_late: u64,
    /// The backend.
    pub backend: Peer,
    /// The Pushgateway.
    pub pushgateway: Peer,
}

/// What one tag has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagUse {
    /// Its name.
    pub tag: String,
    /// What it holds.
    pub bytes: u64,
    /// What it may hold.
    pub budget_bytes: Option<u64>,
}

/// What a look for leaks found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeakFacts {
    /// Allocations.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How old they are at least.
    pub older_than: Duration,
    /// Who has most of them; none: those without a tag.
    pub tag: Option<String>,
    /// Since when none of these was read or written.
    pub untouched: Duration,
}

/// Arenas that nothing ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arenas {
    /// How many.
    pub count: u64,
    /// Age of the oldest.
    pub oldest: Duration,
}

/// One that metrics are pushed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// How the link stands.
    pub state: LinkState,
    /// For how long.
    pub since: Duration,
    /// Attempts that failed in a row.
    pub attempts: u32,
    /// Why the last one did.
    pub last_error: Option<String>,
}

impl Machine {
    /// Reads what the machine says. Small files of the system: a millisecond or two where a process has many mappings.
    pub fn read(root: &Root) -> Machine {
        Machine { limits: Limits::read(root), system: System::read(root) }
    }
}

#[cfg(test)]
impl Facts {
    /// What no rule finds anything in, and every rule knows enough of.
    pub(super) fn healthy() -> Facts {
        use crate::limits::{HugePagePolicy, LimitSource, MemoryLimit, Overcommit};
        let limits = Limits {
            memory: Some(MemoryLimit { bytes: 8 << 30, source: LimitSource::Ram }),
            open_files: Some(1 << 20),
        };
        let system = System {
            huge_pages: Some(HugePagePolicy::Advised),
            overcommit: Some(Overcommit::Heuristic),
            mappings_max: Some(65_530),
            mappings: Some(100),
            swap_bytes: Some(0),
            swapped_bytes: Some(0),
        };
        let peer = Peer { state: LinkState::Off, since: Duration::ZERO, attempts: 0, last_error: None };
        let service = Service {
            allocated_bytes: 0,
            requested_bytes: 0,
            allocations: 0,
            allocations_max: 1 << 20,
            metadata_bytes_max: 1 << 20,
            inflight_bytes: 0,
            free_run_bytes: 0,
            free_run_fragmentation: 0.0,
            tags: Vec::new(),
            leaks: Some(LeakFacts {
                count: 0,
                bytes: 0,
                older_than: Duration::from_secs(300),
                tag: None,
                untouched: Duration::ZERO,
            }),
            arenas: Arenas::default(),
            guard_violations: 0,
            retired_bytes: 0,
            level: Level::Normal,
            ratio: 0.1,
            level_source: Source::Pool,
            are_stalls_read: true,
            critical_in_seconds: None,
            refused_ratio: 0.0,
            is_breaker_open: false,
            waiting_requests: 0,
            connections: 1,
            readers_cut: 0,
            leases_ended: 0,
            leases_late: 0,
            backend: peer.clone(),
            pushgateway: peer,
        };
        let settings = Settings {
            host: "127.0.0.1".to_owned(),
            max_connections: 10_000,
            pool_bytes: 1 << 30,
            inflight_bytes: 64 << 20,
            guard_pages: false,
            huge_pages: false,
        };
        Facts { machine: Machine { limits, system }, settings, service: Some(service) }
    }
}
