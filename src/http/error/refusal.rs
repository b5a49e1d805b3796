//! Refusals to allocate, as clients are told: what was asked for, the numbers, and who says no.

use super::{Code, Problem};
use crate::memory;
use crate::pool::{AllocateError, ArenaId, TurnedAway};
use crate::pressure::Source;
use crate::units::Factor;
use serde::Serialize;
use std::fmt;
use utoipa::ToSchema;

/// The numbers behind a refusal to allocate. A member that is not known is null.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Refusal {
    /// Bytes asked for.
    requested_bytes: Option<u64>,
    /// Bytes in use at the instant of the refusal.
    in_use_bytes: Option<u64>,
    /// Bytes of the pool not in use at that instant.
    free_bytes: Option<u64>,
    /// The limit that was met.
    limit_bytes: Option<u64>,
    /// The largest block that would have been granted at that instant.
    largest_available_bytes: Option<u64>,
    /// Whose limit it was, or who else says no: `admission` by priority, `circuit` after many refusals.
    refused_by: Option<&'static str>,
    /// When room is expected, by the forecast.
    pub(super) retry_after_seconds: Option<u64>,
}

impl Refusal {
    /// The numbers of a pool with `in_use_bytes` of `limit_bytes` in use, which `by` refused.
    pub(crate) fn new(
        requested_bytes: Option<u64>,
        (in_use_bytes, limit_bytes): (u64, u64),
        largest_for: impl Fn(u64) -> Option<u64>,
        by: &'static str,
    ) -> Refusal {
        let free_bytes = limit_bytes.saturating_sub(in_use_bytes);
        Refusal {
            requested_bytes,
            in_use_bytes: Some(in_use_bytes),
            free_bytes: Some(free_bytes),
            limit_bytes: Some(limit_bytes),
            largest_available_bytes: Some(largest_for(free_bytes).unwrap_or(0)),
            refused_by: Some(by),
            retry_after_seconds: None,
        }
    }

    /// What was asked for, where the request itself did not say it.
    pub(super) fn or_requested(mut self, bytes: u64) -> Refusal {
        self.requested_bytes.get_or_insert(bytes);
        self
    }
}

/// What a request that allocates asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A block of so many bytes.
    Block { bytes: u64 },
    /// Blocks of so many bytes in all.
    Blocks { bytes: u64, count: usize },
    /// An arena.
    Arena,
    /// So many bytes in an arena.
    Member { bytes: u64, arena: ArenaId },
}

impl Asked {
    /// How many bytes, where the request said so.
    pub(crate) fn bytes(self) -> Option<u64> {
        match self {
            Asked::Block { bytes } | Asked::Blocks { bytes, .. } | Asked::Member { bytes, .. } => Some(bytes),
            Asked::Arena => None,
        }
    }

    /// The same, and that it takes `actual_bytes`.
    fn taking(self, actual_bytes: u64) -> String {
        match self {
            Asked::Block { .. } => format!("{self}, which take a block of {actual_bytes}"),
            Asked::Blocks { .. } => format!("{self}, which take {actual_bytes}"),
            Asked::Arena => format!("{self}, which takes {actual_bytes} at first"),
            Asked::Member { .. } => format!("{self}, for which it takes {actual_bytes} more"),
        }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Asked::Block { bytes } => write!(out, "{bytes} bytes were asked for"),
            Asked::Blocks { bytes, count } => write!(out, "{bytes} bytes in {count} blocks were asked for"),
            Asked::Arena => write!(out, "an arena was asked for"),
            Asked::Member { bytes, .. } => write!(out, "{bytes} bytes were asked for in an arena"),
        }
    }
}

/// Why a request was turned away, as the end of a sentence.
fn why(turned_away: &TurnedAway) -> String {
    /// What is told of a limit that was lowered below what is used.
    const FULL: Factor = Factor::thousandths(1000);
    let TurnedAway { priority, policy, level, decided_by, fullness, admitted_below } = turned_away;
    let percent = |factor: &Factor| (factor.as_f64() * 1000.0).round() / 10.0;
    let full =
        if *fullness > FULL { "more than full".into() } else { format!("{} % full", percent(fullness)) };
    let (priority, policy, level) = (priority.name(), policy.name(), level.name());
    let below = percent(admitted_below);
    match decided_by {
        Source::Psi => format!(
            " with priority {priority}, which the policy {policy} does not let in at level {level}: tasks stall for lack of memory, which is {full}"
        ),
        Source::System => format!(
            " with priority {priority}, which the policy {policy} lets in below {below} %, but the system's memory is {full}, at level {level}"
        ),
        Source::Pool => format!(
            " with priority {priority}, which the policy {policy} lets in below {below} %, but memory is {full}, at level {level}"
        ),
    }
}

/// A refusal to allocate, as the client that asked is told. `refusal` makes the numbers, from what was in use and the
/// limit where the refusal knows them, and from who refused.
pub(crate) fn refused(
    error: &AllocateError,
    asked: Asked,
    refusal: &dyn Fn(Option<(u64, u64)>, &'static str) -> Refusal,
) -> Problem {
    match error {
        AllocateError::TooLarge { size_bytes, actual_size_bytes, size_bytes_max } => {
            let rounded = match actual_size_bytes {
                Some(actual) if actual != size_bytes => format!(", which takes a block of {actual},"),
                _ => String::new(),
            };
            let detail = format!(
                "{size_bytes} bytes were asked for{rounded} and {size_bytes_max} is the most that can be had here"
            );
            Problem::new(Code::SizeTooLarge, detail)
        }
        AllocateError::TooMany { .. } => Problem::new(Code::SizeTooLarge, error.to_string()),
        AllocateError::TooLargeTogether { limit_bytes, .. } => {
            let detail = format!("{asked}, which take more than the {limit_bytes} that the pool has in all");
            Problem::new(Code::SizeTooLarge, detail)
        }
        AllocateError::Memory(memory::AllocateError::Exhausted {
            requested_bytes: actual,
            in_use_bytes,
            limit_bytes,
        }) => {
            let free = limit_bytes.saturating_sub(*in_use_bytes);
            let detail = format!(
                "{}, but {in_use_bytes} of {limit_bytes} are in use and {free} are free",
                asked.taking(*actual)
            );
            Problem::new(Code::PoolExhausted, detail)
                .with_refusal(refusal(Some((*in_use_bytes, *limit_bytes)), "pool").or_requested(*actual))
        }
        AllocateError::Memory(memory::AllocateError::System { error, .. }) => {
            let detail = format!("{asked}, and the pool has room, but the system grants no memory ({error})");
            Problem::new(Code::SystemMemory, detail).with_refusal(refusal(None, "system"))
        }
        AllocateError::TableFull { allocations_max } => {
            let detail = format!(
                "{asked}, but memory.max_allocations lets no more than {allocations_max} allocations live"
            );
            Problem::new(Code::TableFull, detail).with_refusal(refusal(None, "table"))
        }
        AllocateError::TagsFull { tags_max } => {
            let detail =
                format!("{tags_max} tags are in use, as many as can be; free all of one, or use one");
            Problem::new(Code::TableFull, detail).with_refusal(refusal(None, "tags"))
        }
        AllocateError::Budget { tag, requested_bytes: actual, in_use_bytes, budget_bytes } => {
            let free = budget_bytes.saturating_sub(*in_use_bytes);
            let detail = format!(
                "{asked}, of which the tag {tag} would take {actual}, but {in_use_bytes} of its budget of {budget_bytes} are in use and {free} are free"
            );
            Problem::new(Code::BudgetExhausted, detail)
                .with_refusal(refusal(Some((*in_use_bytes, *budget_bytes)), "budget").or_requested(*actual))
        }
        AllocateError::Waited { waited_ms, last } => {
            let last = refused(last, asked, refusal);
            let detail = format!("no room came in {waited_ms} ms: {}", last.detail);
            let problem = Problem::new(Code::WaitTimeout, detail);
            match last.refusal {
                Some(refusal) => problem.with_refusal(*refusal),
                None => problem,
            }
        }
        AllocateError::AdmissionDeferred(turned_away) => {
            let detail = format!("{asked}{}; ask again later, or with a higher priority", why(turned_away));
            Problem::new(Code::AdmissionDeferred, detail).with_refusal(refusal(None, "admission"))
        }
        AllocateError::AdmissionRejected(turned_away) => {
            let detail =
                format!("{asked}{}; free something, or ask with a higher priority", why(turned_away));
            Problem::new(Code::AdmissionRejected, detail).with_refusal(refusal(None, "admission"))
        }
        AllocateError::CircuitOpen { requested_bytes: actual, smallest_refused_bytes, left } => {
            let detail = format!(
                "{}, but after many refusals nothing from {smallest_refused_bytes} on is tried for {} seconds more, or until so much is free",
                asked.taking(*actual),
                left.as_secs_f64().ceil()
            );
            Problem::new(Code::CircuitOpen, detail)
                .with_refusal(refusal(None, "circuit").or_requested(*actual))
        }
        AllocateError::Unavailable(_) => Problem::stopping().with_refusal(refusal(None, "stopping")),
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use crate::pool::{Policy, Priority};
    use crate::pressure::Level;

    #[test]
    fn why_somebody_is_turned_away_says_what_decided_and_never_an_absurd_fullness() {
        let pool = TurnedAway {
            priority: Priority::Low,
            policy: Policy::Hard,
            level: Level::High,
            decided_by: Source::Pool,
            fullness: Factor::thousandths(812),
            admitted_below: Factor::thousandths(730),
        };
        let lowered = TurnedAway {
            level: Level::Emergency,
            decided_by: Source::System,
            fullness: Factor::thousandths(10_000),
            ..pool
        };
        let stalled = TurnedAway { decided_by: Source::Psi, fullness: Factor::thousandths(700), ..pool };
        for (turned_away, expected) in [
            (
                pool,
                " with priority low, which the policy hard lets in below 73 %, but memory is 81.2 % full, at level high",
            ),
            (
                lowered,
                " with priority low, which the policy hard lets in below 73 %, but the system's memory is more than full, at level emergency",
            ),
            (
                stalled,
                " with priority low, which the policy hard does not let in at level high: tasks stall for lack of memory, which is 70 % full",
            ),
        ] {
            assert_eq!(why(&turned_away), expected);
        }
    }
}
