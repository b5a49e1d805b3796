//! How good forecasts are: their errors at each horizon, crossings of 90 % that were announced or missed, and alarms that
//! were false.
//!
//! - The **error** of a forecast at a horizon is its distance from what the trace shows then, interpolated between looks.
//!   Every look is forecast from, the first ones too.
//! - An **alarm** stands at a look that is below 0.90 and of which `seconds_to` critical is at most 120: the same looks as
//!   those with 0.90 predicted at some horizon, and as those whose action is not `monitor` though the level is below high.
//! - A **crossing** is the first look at 0.90 or more after at least 30 s below. It **counts** where growth precedes it: the
//!   trace without its noise grew in each third of the 30 s before, by 0.2 points at least in all. It counts as **seen**
//!   where the same is true of the 60 s before, so that at the time when it had to be announced 30 s of growth had been
//!   there to be seen. (Of one that began 30 s before it happened nothing could be known 30 s ahead, unless it repeats.)
//! - A crossing is **announced** if an alarm stood at some look 30 to 150 s before it, and at half at least of the looks
//!   from there to it. Its **lead** is how long before it that alarm began: gaps shorter than 15 s do not end an alarm.
//! - An **alarm episode** is a run of alarms with no gap of 15 s or longer. It is **false** if no look at 0.90 or more
//!   comes before 150 s from its beginning or 30 s from its end have passed, whichever is later. An alarmed **look** is
//!   false if none comes within 150 s of it.

use super::traces::Trace;

/// How far ahead, in seconds.
pub const HORIZONS: [f64; 3] = [30.0, 60.0, 120.0];
/// The level whose crossings count.
pub const CRITICAL: f64 = 0.90;
const LEAD_SECONDS: f64 = 30.0;
const CLAIM_SECONDS: f64 = 120.0;
const TOLERANCE_SECONDS: f64 = 30.0;
const GAP_SECONDS: f64 = 15.0;
const GROWTH_MIN: f64 = 0.002;

/// What one look says of the future.
#[derive(Clone, Copy)]
pub struct Said {
    /// At each horizon.
    pub predicted: [f64; 3],
    /// To 0.90.
    pub seconds_to_critical: Option<f64>,
}

/// Who forecasts: is shown a trace look by look.
pub trait Forecasts {
    /// The next look, and what is said then.
    fn look(&mut self, seconds: f64, ratio: f64) -> Said;
}

/// What came of it, over one or many traces.
#[derive(Clone, Default)]
pub struct Score {
    /// Sums of errors, and how many.
    pub errors: [f64; 3],
    /// How many errors.
    pub forecasts: [u64; 3],
    /// Crossings that count, and those of them that were announced.
    pub counted: u64,
    /// Those announced.
    pub announced: u64,
    /// Crossings whose growth could be seen 30 s ahead.
    pub seen: u64,
    /// Those announced.
    pub seen_announced: u64,
    /// Leads of all that count, in seconds; 0 where none.
    pub leads: Vec<f64>,
    /// Alarm episodes.
    pub episodes: u64,
    /// Those false.
    pub false_episodes: u64,
    /// Alarmed looks.
    pub alarms: u64,
    /// Those false.
    pub false_alarms: u64,
}

impl Score {
    /// Takes another in.
    pub fn add(&mut self, other: &Score) {
        for at in 0..3 {
            self.errors[at] += other.errors[at];
            self.forecasts[at] += other.forecasts[at];
        }
        self.counted += other.counted;
        self.announced += other.announced;
        self.seen += other.seen;
        self.seen_announced += other.seen_announced;
        self.leads.extend_from_slice(&other.leads);
        self.episodes += other.episodes;
        self.false_episodes += other.false_episodes;
        self.alarms += other.alarms;
        self.false_alarms += other.false_alarms;
    }

    /// The mean error at a horizon.
    pub fn error(&self, horizon: usize) -> f64 {
        self.errors[horizon] / self.forecasts[horizon].max(1) as f64
    }
}

/// Shows all of a trace to a forecaster, and judges what it said.
pub fn score(trace: &Trace, forecaster: &mut dyn Forecasts) -> Score {
    let looks = trace.seconds.iter().zip(&trace.ratios);
    let said: Vec<Said> = looks.map(|(seconds, ratio)| forecaster.look(*seconds, *ratio)).collect();
    let mut score = Score::default();
    for (at, said) in said.iter().enumerate() {
        for (horizon, ahead) in HORIZONS.iter().enumerate() {
            if let Some(actual) = value_at(trace, &trace.ratios, trace.seconds[at] + ahead) {
                score.errors[horizon] += (said.predicted[horizon] - actual).abs();
                score.forecasts[horizon] += 1;
            }
        }
    }
    judge_alarms(trace, &said, &mut score);
    score
}

/// What the trace shows then.
fn value_at(trace: &Trace, values: &[f64], seconds: f64) -> Option<f64> {
    let after = trace.seconds.partition_point(|look| *look < seconds);
    if after == trace.seconds.len() || (after == 0 && trace.seconds[0] > seconds) {
        return None;
    }
    if after == 0 {
        return Some(values[0]);
    }
    let (start, end) = (trace.seconds[after - 1], trace.seconds[after]);
    let share = (seconds - start) / (end - start);
    Some(values[after - 1] + share * (values[after] - values[after - 1]))
}

fn is_alarm(trace: &Trace, said: &[Said], at: usize) -> bool {
    trace.ratios[at] < CRITICAL && said[at].seconds_to_critical.is_some_and(|claim| claim <= CLAIM_SECONDS)
}

fn judge_alarms(trace: &Trace, said: &[Said], score: &mut Score) {
    let seconds = &trace.seconds;
    let end = *seconds.last().expect("a trace has looks");
    let above: Vec<usize> = (0..seconds.len()).filter(|at| trace.ratios[*at] >= CRITICAL).collect();
    let is_above_within =
        |from: f64, to: f64| above.iter().any(|at| seconds[*at] >= from && seconds[*at] <= to);
    let window = CLAIM_SECONDS + TOLERANCE_SECONDS;
    let alarms: Vec<usize> = (0..seconds.len()).filter(|at| is_alarm(trace, said, *at)).collect();
    for at in &alarms {
        if seconds[*at] + window <= end {
            score.alarms += 1;
            score.false_alarms += u64::from(!is_above_within(seconds[*at], seconds[*at] + window));
        }
    }
    let mut next = 0;
    while next < alarms.len() {
        let first = next;
        while next + 1 < alarms.len()
            && seconds[alarms[next + 1]] - seconds[alarms[next]] < gap(trace, alarms[next])
            && !is_above_within(seconds[alarms[next]], seconds[alarms[next + 1]])
        {
            next += 1;
        }
        let (begins, ends) = (seconds[alarms[first]], seconds[alarms[next]]);
        next += 1;
        let until = (begins + window).max(ends + TOLERANCE_SECONDS);
        if until <= end {
            score.episodes += 1;
            score.false_episodes += u64::from(!is_above_within(begins, until));
        }
    }
    let mut last_above = 0.0; // a trace that begins above has crossed nothing
    for at in above {
        let crossed = seconds[at];
        if crossed - last_above >= 30.0 && grew(trace, crossed, 30.0) {
            let announced = is_announced(trace, said, at);
            score.counted += 1;
            score.announced += u64::from(announced);
            score.leads.push(lead(trace, said, at));
            if grew(trace, crossed, 60.0) {
                score.seen += 1;
                score.seen_announced += u64::from(announced);
            }
        }
        last_above = crossed;
    }
}

/// What ends an alarm; where looks are rarer, one without an alarm does.
fn gap(trace: &Trace, at: usize) -> f64 {
    let step = trace.seconds.get(at + 1).map_or(0.0, |next| next - trace.seconds[at]);
    GAP_SECONDS.max(step * 1.01)
}

/// Whether the trace without its noise grew in each third of the 30 s before, or sixth of the 60 s.
fn grew(trace: &Trace, crossed: f64, span: f64) -> bool {
    let parts = (span / 10.0) as usize;
    let values: Option<Vec<f64>> =
        (0..=parts).map(|part| value_at(trace, &trace.clean, crossed - span + 10.0 * part as f64)).collect();
    values.is_some_and(|values| {
        values.windows(2).all(|pair| pair[0] < pair[1]) && values[parts] - values[0] >= GROWTH_MIN
    })
}

fn is_announced(trace: &Trace, said: &[Said], crossing: usize) -> bool {
    let crossed = trace.seconds[crossing];
    let in_time = (0..crossing).filter(|at| {
        let ahead = crossed - trace.seconds[*at];
        (LEAD_SECONDS..=CLAIM_SECONDS + TOLERANCE_SECONDS).contains(&ahead) && is_alarm(trace, said, *at)
    });
    in_time.into_iter().any(|from| {
        let standing = (from..crossing).filter(|at| is_alarm(trace, said, *at)).count();
        2 * standing >= crossing - from
    })
}

fn lead(trace: &Trace, said: &[Said], crossing: usize) -> f64 {
    let mut begins = crossing;
    for at in (0..crossing).rev() {
        if trace.seconds[begins] - trace.seconds[at] >= gap(trace, at) {
            break;
        }
        if is_alarm(trace, said, at) {
            begins = at;
        }
    }
    trace.seconds[crossing] - trace.seconds[begins]
}
