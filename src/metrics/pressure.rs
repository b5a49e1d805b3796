//! What the text says of pressure: how full, when full, and what was done about it.

use super::rows::{self, Row};
use super::{Labels, family, float};
use crate::pressure::{Action, HORIZONS_SECONDS, Level, Reading};
use prometheus::proto::MetricFamily;
use std::time::Duration;

/// How full memory is, what is expected, and what was done about it.
#[derive(Clone, Debug, PartialEq)]
pub struct PressureSnapshot {
    /// Now.
    pub reading: Reading,
    /// `some avg10` in percent; none where it is not read.
    pub psi_avg10: Option<f64>,
    /// How often each level was entered, in the order of [`Level::ALL`].
    pub transitions: [u64; Level::ALL.len()],
    /// How full it will be after each of [`HORIZONS_SECONDS`], by the last forecast.
    pub predicted: [f64; HORIZONS_SECONDS.len()],
    /// How far to trust that, 0 to 1.
    pub confidence: f64,
    /// Until the level is critical; 0 where it is, none where it is not expected.
    pub seconds_to_critical: Option<f64>,
    /// What was done of each action but the first, in the order of [`Action::ALL`].
    pub relief: [ReliefSnapshot; ACTIONS],
}

/// What was done of one action.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReliefSnapshot {
    /// How often.
    pub runs: u64,
    /// Bytes that were given back.
    pub reclaimed_bytes: u64,
    /// How long that took.
    pub time: Duration,
}

/// Actions that do something.
const ACTIONS: usize = Action::ALL.len() - 1;

pub(super) fn families(pressure: &PressureSnapshot) -> Vec<MetricFamily> {
    let reading = &pressure.reading;
    let single = |row: &Row, value: f64| family(row, [(Vec::new(), value)]);
    // Where there is nothing to be said the child is there all the same: no rule holds of what is not a number.
    let known = |number: Option<f64>| number.unwrap_or(f64::NAN);
    let sources = [("pool", reading.pool_ratio), ("system", known(reading.system_ratio))];
    let levels = Level::ALL.map(Level::name).into_iter().zip(pressure.transitions.map(float));
    let horizons = HORIZONS_SECONDS.into_iter().zip(pressure.predicted);
    let by_action = |row: &Row, of: &dyn Fn(&ReliefSnapshot) -> f64| {
        let actions = Action::ALL[1..].iter().zip(&pressure.relief);
        family(row, actions.map(|(action, relief)| (label("action", action.name()), of(relief))))
    };
    vec![
        single(&rows::PRESSURE_LEVEL, f64::from(reading.level.number())),
        family(&rows::PRESSURE_RATIO, sources.map(|(source, ratio)| (label("source", source), ratio))),
        single(&rows::PRESSURE_STALLED, known(pressure.psi_avg10.map(|percent| percent / 100.0))),
        family(&rows::PRESSURE_TRANSITIONS, levels.map(|(level, count)| (label("level", level), count))),
        family(
            &rows::PREDICTED,
            horizons.map(|(seconds, ratio)| (label("horizon", &format!("{seconds}s")), ratio)),
        ),
        single(&rows::CONFIDENCE, pressure.confidence),
        single(&rows::SECONDS_TO_CRITICAL, pressure.seconds_to_critical.unwrap_or(f64::INFINITY)),
        by_action(&rows::PRESSURE_RECLAIMS, &|relief| float(relief.runs)),
        by_action(&rows::PRESSURE_RECLAIMED_BYTES, &|relief| float(relief.reclaimed_bytes)),
        by_action(&rows::PRESSURE_RECLAIM_SECONDS, &|relief| relief.time.as_secs_f64()),
    ]
}

fn label(name: &'static str, value: &str) -> Labels {
    vec![(name, value.to_owned())]
}
