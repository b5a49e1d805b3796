//! Who may have what there is, where it is short: the words of it.
//!
//! ```text
//!   doorkeeper.rs  whom the policy turns away, asked once for each request that takes memory
//!   draw.rs        which one of ten
//!   breaker.rs     after so many refusals, nobody who asks for as much is tried
//! ```
//!
//! Frees, reads, renewals and writes to what there is are never asked about: they do not come here.

mod breaker;
mod doorkeeper;
mod draw;

pub use breaker::BreakerStats;
pub use doorkeeper::{AdmissionStats, TurnedAway};

pub(super) use breaker::Trial;
pub(super) use doorkeeper::Doorkeeper;

use std::time::Duration;

/// How much a request matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// It can come later: it gives way as soon as memory gets short.
    Low,
    /// As most are.
    #[default]
    Normal,
    /// Only the hard limit stops it.
    High,
}

impl Priority {
    /// Every priority, from least to most.
    pub const ALL: [Priority; 3] = [Priority::Low, Priority::Normal, Priority::High];

    /// The priority's name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Priority::Low => "low",
            Priority::Normal => "normal",
            Priority::High => "high",
        }
    }
}

/// Who is turned away before the limit is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// What matters little.
    #[default]
    Hard,
    /// Of the rest some too, more of them the fuller it gets.
    Graduated,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Policy; 2] = [Policy::Hard, Policy::Graduated];

    /// The policy's name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Policy::Hard => "hard",
            Policy::Graduated => "graduated",
        }
    }
}

/// What can be set about admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Default: hard.
    pub policy: Policy,
    /// Refusals in a row for lack of memory after which the circuit breaker opens. Default: 0, never.
    pub breaker_threshold: u32,
    /// How long it stays open. Default: 30 s.
    pub breaker_open: Duration,
}

impl Default for Admission {
    fn default() -> Admission {
        Admission { policy: Policy::default(), breaker_threshold: 0, breaker_open: Duration::from_secs(30) }
    }
}
