//! From samples to a forecast.
//!
//! ```text
//!   recent.rs    the points of the last minutes
//!   lines.rs     levels and slopes of now
//!   echoes.rs    an hour in steps of five seconds: what came after times like now
//!   learned.rs   by which signs the level changed so far
//!   guesses.rs   simple forecasters, each right in its own kind of weather
//!   mixture.rs   who was right of late, at each horizon
//!   ensemble.rs  all of them together: every guess is kept until its time comes, and judged
//!   path.rs      from levels on the way to seconds until each watermark
//!   alarm.rs     when to say that the critical watermark will be reached
//! ```

mod alarm;
mod echoes;
mod ensemble;
mod guesses;
mod learned;
mod lines;
mod mixture;
mod path;
mod recent;

use super::{Action, Forecast, HORIZONS_SECONDS, Level, Trend, Watermarks};
use crate::units::{Factor, ratio};
use alarm::Alarm;
use echoes::Led;
use ensemble::{Ensemble, at_horizons};

/// What is held back stays so far below the critical watermark.
const BELOW: f64 = 0.001;

/// Which of the watermarks is the critical one.
const CRITICAL: usize = 2;

/// From parts of the whole in a second.
const POINTS_PER_5_SECONDS: f64 = 500.0;

/// How full memory was at one time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// When, in seconds from any beginning.
    pub seconds: f64,
    /// Bytes used.
    pub used_bytes: u64,
    /// Bytes there are, at least 1.
    pub total_bytes: u64,
}

/// A sample that says nothing.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum SampleError {
    /// No time at all.
    #[error("the time of a sample is {0}: expected a finite number of seconds")]
    NoTime(f64),
    /// Time goes forward.
    #[error("a sample of {seconds} s comes after one of {last_seconds} s")]
    TimeWentBack {
        /// Its time.
        seconds: f64,
        /// The time of the one before.
        last_seconds: f64,
    },
    /// Of nothing, nothing can be used.
    #[error("a sample has total_bytes = 0")]
    NothingThere,
}

/// Learns from samples, and forecasts.
///
/// About thirty simple forecasters guess: the last value, means, lines over several windows, what followed times like
/// now. Every guess is kept until its time comes and then judged, and those that were right of late, in weather like
/// this, have most to say. `docs/forecast.md` has the figures.
///
/// It keeps 320 points, 720 cells of five seconds and 32 forecasts: about 90 KiB, however long it runs. A sample costs some
/// 10 to 20 µs, one after a gap of ten minutes ten times that; after a longer gap it begins anew, but for what it learned of
/// who is right. [`forecast`](Self::forecast) costs next to nothing.
///
/// ```
/// use maas::pressure::{Action, Forecaster, Level, Sample, Watermarks};
///
/// let mut forecaster = Forecaster::new(Watermarks::default());
/// for minute in 0..40 {
///     // A tenth of the memory more in ten minutes.
///     let used_bytes = 500 + minute * 10;
///     forecaster.record(Sample { seconds: minute as f64 * 60.0, used_bytes, total_bytes: 1000 })?;
/// }
/// let forecast = forecaster.forecast().expect("there were samples");
/// assert!((forecast.predicted[1] - 0.9).abs() < 0.001);
/// assert_eq!((forecaster.level(), forecast.action), (Level::High, Action::AggressiveReclaim));
/// # Ok::<(), maas::pressure::SampleError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Forecaster {
    watermarks: Watermarks,
    ensemble: Ensemble,
    /// Of the critical watermark.
    alarm: Alarm,
    level: Level,
}

impl Forecaster {
    /// A forecaster that has seen nothing.
    pub fn new(watermarks: Watermarks) -> Forecaster {
        Forecaster { watermarks, ensemble: Ensemble::new(), alarm: Alarm::default(), level: Level::Normal }
    }

    /// Takes the next sample. Samples may be any time apart.
    ///
    /// # Errors
    /// [`SampleError`]; nothing was learned then.
    pub fn record(&mut self, sample: Sample) -> Result<(), SampleError> {
        let seconds = sample.seconds;
        if !seconds.is_finite() {
            return Err(SampleError::NoTime(seconds));
        }
        if let Some((last_seconds, _)) = self.ensemble.newest().filter(|(last, _)| *last > seconds) {
            return Err(SampleError::TimeWentBack { seconds, last_seconds });
        }
        if sample.total_bytes == 0 {
            return Err(SampleError::NothingThere);
        }
        let ratio = ratio(sample.used_bytes, sample.total_bytes).min(1.0);
        self.level = self.watermarks.settle(self.level, |mark| ratio >= mark.as_f64());
        self.ensemble.record(seconds, ratio);
        let critical = self.watermarks.critical.as_f64();
        let mut led = if ratio < critical { self.ensemble.led_to(critical) } else { Led::default() };
        // Where the likeliest path leads there too, it says when.
        led.seconds = path::reaches(critical, ratio, self.ensemble.path()).unwrap_or(led.seconds);
        if ratio < critical
            && let Some(soon) = self.ensemble.runs_into(critical, led.part)
        {
            led = Led { part: 1.0, seconds: soon };
        }
        self.alarm.look(seconds, led, self.ensemble.rise_seconds());
        Ok(())
    }

    /// The level of the samples so far: up at once, and down when it is two points below where the level began.
    pub fn level(&self) -> Level {
        self.level
    }

    /// What is expected after the last sample; none before the first.
    pub fn forecast(&self) -> Option<Forecast> {
        let (_, ratio) = self.ensemble.newest()?;
        let critical = self.watermarks.critical.as_f64();
        let told = self.alarm.told();
        // What is not sure enough to be told is not foretold by other fields either.
        let is_held_back = ratio < critical && told.is_none();
        let at_most = if is_held_back { critical - BELOW } else { 1.0 };
        let predicted = at_horizons(self.ensemble.path()).map(|value| value.min(at_most));
        let seconds_to = self.seconds_to(ratio);
        let slope = self.ensemble.slope();
        Some(Forecast {
            ratio,
            predicted,
            confidence: self.ensemble.right(),
            ratio_per_second: slope,
            trend: Trend::of(slope * POINTS_PER_5_SECONDS),
            seconds_to,
            action: Action::of(self.level, seconds_to[CRITICAL]),
        })
    }

    /// Until each watermark. None is reached before those below it.
    fn seconds_to(&self, ratio: f64) -> [Option<f64>; 4] {
        let path = self.ensemble.path();
        let marks = self.watermarks.marks().map(Factor::as_f64);
        let mut seconds_to = marks.map(|mark| {
            if ratio >= mark {
                return Some(0.0);
            }
            let drifts_to = || path::drifts_to(mark, ratio, path, self.ensemble.drift()?);
            path::reaches(mark, ratio, path).or_else(drifts_to)
        });
        if ratio >= marks[CRITICAL] {
            return seconds_to;
        }
        let is_near = |seconds: &f64| *seconds <= f64::from(HORIZONS_SECONDS[2]);
        if let Some(told) = self.alarm.told() {
            for lower in &mut seconds_to[..CRITICAL] {
                *lower = Some(lower.map_or(told, |seconds| seconds.min(told)));
            }
            seconds_to[CRITICAL] = Some(told);
            seconds_to[CRITICAL + 1] = seconds_to[CRITICAL + 1].map(|seconds| seconds.max(told));
        } else if seconds_to[CRITICAL].as_ref().is_some_and(is_near) {
            seconds_to[CRITICAL..].fill(None);
        }
        seconds_to
    }
}

#[cfg(test)]
mod tests;
