//! What `/stats` says of the upkeep of memory: how full it is, what was given back, what was moved for it, and what the
//! janitor did; and what `/metrics` says of pressure.

use super::pressure::seconds_to;
use crate::clock::Now;
use crate::memory::{CompactionStats, ReclaimAction};
use crate::metrics::{PressureSnapshot, ReliefSnapshot};
use crate::pool::{Pool, PoolStats, ReliefCount, ReliefStats};
use crate::pressure::{Action, HORIZONS_SECONDS, Level, Reading};
use serde::Serialize;
use utoipa::ToSchema;

/// Free memory that was given back, slice by slice.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ReclaimBlock {
    /// Slices for a request that needed the room in another size.
    backing: u64,
    /// Slices of what a size had more than it keeps.
    surplus: u64,
    /// Slices of what nobody needed for a while.
    idle: u64,
    /// Slices because the pool, or the system, got full.
    pressure: u64,
    /// Bytes given back in all.
    reclaimed_bytes: u64,
    /// Whole seconds since the last one, to about a second; null where there was none.
    #[schema(required)]
    seconds_since_last: Option<u64>,
    under_pressure: ReliefBlock,
    janitor: JanitorBlock,
}

/// Free memory that was given back because it got full, run by run.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ReliefBlock {
    gentle_reclaim: ReliefCountBlock,
    aggressive_reclaim: ReliefCountBlock,
    emergency: ReliefCountBlock,
    /// The last one; null where there was none.
    #[schema(required)]
    last: Option<RelievedBlock>,
}

/// What runs of one action came to.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ReliefCountBlock {
    runs: u64,
    /// Bytes given back.
    reclaimed_bytes: u64,
    /// From the beginning of each to its end, with what was done for requests in between.
    seconds: f64,
}

/// A run that has ended.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RelievedBlock {
    /// `gentle_reclaim`, `aggressive_reclaim` or `emergency`.
    action: &'static str,
    /// Bytes given back.
    reclaimed_bytes: u64,
    /// How long it took.
    seconds: f64,
    /// Whole seconds since it ended.
    seconds_since: u64,
}

/// The thread that does what takes long.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JanitorBlock {
    /// Requests that it finished.
    chores: u64,
    /// Requests that wait for it.
    waiting: u64,
    /// Time that it has worked.
    busy_seconds: f64,
}

/// How full memory is; `GET /pressure` says also when it will be.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PressureBlock {
    /// `normal`, `moderate`, `high`, `critical` or `emergency`.
    level: &'static str,
    /// The fuller of the two below, 0 to 1.
    ratio: f64,
    /// Bytes in use as a part of the pool's limit.
    pool_ratio: f64,
    /// Used as a part of the limit, of the control group that is fullest; null where none has a limit.
    #[schema(required)]
    system_ratio: Option<f64>,
    /// What decides the level: `pool`, `system`, or `psi` where stalls for lack of memory raise it by a step.
    source: &'static str,
    /// Part of the last 10 seconds in which something stood still for lack of memory; null where it is not read.
    #[schema(required)]
    stalled_ratio: Option<f64>,
    transitions: TransitionsBlock,
}

/// Times that each level was entered.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TransitionsBlock {
    normal: u64,
    moderate: u64,
    high: u64,
    critical: u64,
    emergency: u64,
}

/// Live blocks that were moved, so that whole pages could be given back.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CompactionBlock {
    /// Blocks moved.
    moves: u64,
    /// Their bytes.
    moved_bytes: u64,
    /// Times that a block was left where it is, because it was being read or written.
    kept: u64,
}

impl ReclaimBlock {
    pub(super) fn new(stats: &PoolStats, now: Now) -> ReclaimBlock {
        let (janitor, relief, stats) = (&stats.janitor, &stats.relief, &stats.heap.reclaim);
        let slices = |action: ReclaimAction| stats.slices[action as usize];
        ReclaimBlock {
            backing: slices(ReclaimAction::Backing),
            surplus: slices(ReclaimAction::Surplus),
            idle: slices(ReclaimAction::Idle),
            pressure: slices(ReclaimAction::Pressure),
            reclaimed_bytes: stats.bytes,
            seconds_since_last: janitor.since_last_reclaim(now).map(|since| since.as_secs()),
            under_pressure: ReliefBlock::new(relief, now),
            janitor: JanitorBlock {
                chores: janitor.chores,
                waiting: janitor.waiting,
                busy_seconds: janitor.busy.as_secs_f64(),
            },
        }
    }
}

impl ReliefBlock {
    fn new(stats: &ReliefStats, now: Now) -> ReliefBlock {
        let count = |action: Action| {
            let ReliefCount { runs, reclaimed_bytes, time } = stats.of(action);
            ReliefCountBlock { runs, reclaimed_bytes, seconds: time.as_secs_f64() }
        };
        ReliefBlock {
            gentle_reclaim: count(Action::GentleReclaim),
            aggressive_reclaim: count(Action::AggressiveReclaim),
            emergency: count(Action::Emergency),
            last: stats.last.map(|last| RelievedBlock {
                action: last.action.name(),
                reclaimed_bytes: last.reclaimed_bytes,
                seconds: last.duration.as_secs_f64(),
                seconds_since: now.since(last.ended).as_secs(),
            }),
        }
    }
}

impl PressureBlock {
    /// How full it is at this instant.
    pub(super) fn new(pool: &Pool, now: Now) -> PressureBlock {
        let Reading { level, ratio, pool_ratio, system_ratio, source } = pool.pressure(now);
        let [normal, moderate, high, critical, emergency] = pool.gauge().transitions();
        PressureBlock {
            level: level.name(),
            ratio,
            pool_ratio,
            system_ratio,
            source: source.name(),
            stalled_ratio: pool.gauge().psi_avg10().map(|percent| percent / 100.0),
            transitions: TransitionsBlock { normal, moderate, high, critical, emergency },
        }
    }
}

/// What the metrics say of pressure: as of this instant, and as was forecast last.
pub(super) fn pressure_snapshot(pool: &Pool, relief: &ReliefStats, now: Now) -> PressureSnapshot {
    let (gauge, reading) = (pool.gauge(), pool.pressure(now));
    let outlook = gauge.outlook();
    let forecast = outlook.as_ref().map(|outlook| &outlook.forecast);
    let [_, gentle, aggressive, emergency] = Action::ALL;
    PressureSnapshot {
        reading,
        psi_avg10: gauge.psi_avg10(),
        transitions: gauge.transitions(),
        predicted: forecast.map_or([reading.ratio; HORIZONS_SECONDS.len()], |forecast| forecast.predicted),
        confidence: forecast.map_or(0.0, |forecast| forecast.confidence),
        seconds_to_critical: seconds_to(Level::Critical, &reading, outlook.as_deref(), now),
        relief: [gentle, aggressive, emergency].map(|action| {
            let ReliefCount { runs, reclaimed_bytes, time } = relief.of(action);
            ReliefSnapshot { runs, reclaimed_bytes, time }
        }),
    }
}

impl CompactionBlock {
    pub(super) fn new(stats: &CompactionStats) -> CompactionBlock {
        CompactionBlock { moves: stats.moves, moved_bytes: stats.moved_bytes, kept: stats.kept }
    }
}
