//! What the forecaster promises: right on simple traces, better than a line on traces it was not tuned on, an error or a
//! defined answer for whatever it is shown.

use super::*;
use proptest::prelude::*;

/// The traces, rivals and scores of the bench.
#[allow(dead_code, unreachable_pub, reason = "the bench uses the rest")]
#[allow(clippy::pedantic, clippy::cast_possible_truncation, reason = "benches have lints of their own")]
#[path = "../../../benches/src/forecast/mod.rs"]
mod bench;

use bench::rivals::Line;
use bench::score::{Forecasts, Said, Score, score};
use bench::traces::{Draw, traces};

const TOTAL_BYTES: u64 = 1_000_000;

impl Forecasts for Forecaster {
    fn look(&mut self, seconds: f64, ratio: f64) -> Said {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a ratio is 0 to 1")]
        let used_bytes = (ratio * 1e6).round() as u64;
        self.record(Sample { seconds, used_bytes, total_bytes: TOTAL_BYTES }).expect("a good sample");
        let forecast = self.forecast().expect("there was a sample");
        Said { predicted: forecast.predicted, seconds_to_critical: forecast.seconds_to[CRITICAL] }
    }
}

/// Of the line's on the few traces here; `docs/forecast.md` has the figures of many.
const ERROR_MAX: f64 = 0.6;

fn forecaster() -> Forecaster {
    Forecaster::new(Watermarks::default())
}

/// After samples every five seconds.
fn after(ratios: impl IntoIterator<Item = f64>) -> (Forecaster, Forecast) {
    let mut forecaster = forecaster();
    for (at, ratio) in (0..).zip(ratios) {
        forecaster.look(f64::from(at) * 5.0, ratio);
    }
    let forecast = forecaster.forecast().expect("there were samples");
    (forecaster, forecast)
}

/// A pool that stands still for so long, and then fills on a line; how long before it is critical that is told for good.
fn told_before(still_seconds: u32, filled_each_second: f64) -> f64 {
    let mut forecaster = Forecaster::new(Watermarks::default());
    let critical = f64::from(still_seconds) + 0.7 / filled_each_second;
    let mut told = None;
    for seconds in (0..).step_by(5).map(f64::from).take_while(|seconds| *seconds < critical) {
        let ratio = 0.2 + (seconds - f64::from(still_seconds)).max(0.0) * filled_each_second;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is small")]
        let used_bytes = (ratio * 1e9) as u64;
        let sample = Sample { seconds, used_bytes, total_bytes: 1_000_000_000 };
        forecaster.record(sample).expect("a good sample");
        let is_told =
            forecaster.forecast().expect("a sample").seconds_to[CRITICAL].is_some_and(|left| left <= 120.0);
        told = if is_told { told.or(Some(seconds)) } else { None };
    }
    critical - told.unwrap_or(critical)
}

#[test]
fn a_climb_on_a_line_is_told_half_a_minute_ahead_from_the_first_sample_and_after_standing_still() {
    for (still_seconds, filled_each_second) in
        [(0, 0.01), (0, 0.005), (300, 0.01), (300, 0.005), (300, 0.002)]
    {
        let lead = told_before(still_seconds, filled_each_second);
        assert!(lead >= 30.0, "{still_seconds} s, {filled_each_second} a second: {lead} s ahead");
    }
}

#[test]
fn nothing_is_foretold_before_the_first_sample_and_no_change_after_it() {
    assert_eq!(forecaster().forecast(), None);
    let (_, forecast) = after([0.7]);
    assert_eq!((forecast.ratio, forecast.predicted, forecast.confidence), (0.7, [0.7; 3], 0.0));
    assert_eq!((forecast.trend, forecast.action), (Trend::Stable, Action::Monitor));
    assert_eq!(forecast.seconds_to, [Some(0.0), None, None, None]);
}

#[test]
fn a_steady_climb_is_foretold() {
    let (_, forecast) = after((0..13).map(|at| 0.4 + f64::from(at) * 0.025));
    assert!((forecast.predicted[0] - 0.85).abs() < 0.005, "{forecast:?}");
    let seconds = forecast.seconds_to[CRITICAL].expect("it grows");
    assert!((seconds - 40.0).abs() < 8.0, "{forecast:?}");
    assert!((forecast.ratio_per_second - 0.005).abs() < 1e-9, "{forecast:?}");
    assert_eq!((forecast.trend, forecast.action), (Trend::Critical, Action::AggressiveReclaim));
}

#[test]
fn a_slow_leak_is_told_long_before_it_matters_and_a_plateau_is_not() {
    let (_, forecast) = after((0..120).map(|at| 0.5 + f64::from(at) * 0.001));
    let seconds = forecast.seconds_to[CRITICAL].expect("0.281 are left at 0.0002 a second");
    assert!((seconds - 1405.0).abs() < 60.0, "{forecast:?}");
    assert_eq!(forecast.action, Action::Monitor);
    let (_, forecast) = after((0..120).map(|at| 0.85 * (1.0 - (-f64::from(at) / 12.0).exp())));
    assert_eq!(forecast.seconds_to[CRITICAL..], [None, None], "{forecast:?}");
    assert!((forecast.predicted[2] - 0.85).abs() < 0.01, "{forecast:?}");
}

#[test]
fn batch_jobs_that_free_everything_are_foretold_with_their_end() {
    // Twenty minutes of jobs of 200 s that fill 0.8 of the memory and free it at once.
    let saw = |at: u32| 0.1 + 0.8 * f64::from(at % 40) / 41.0;
    let (_, forecast) = after((0..266).map(saw));
    // 130 s into a job: 0.1 + 0.8 * 32/41 in 30 s, 38/41 in 60 s, and 50 s into the next job in 120 s.
    for (at, predicted) in [31_u32, 37, 9].iter().zip(forecast.predicted) {
        assert!((predicted - saw(*at)).abs() < 0.03, "{forecast:?}");
    }
    assert_eq!(forecast.action, Action::Monitor, "it never reached 0.90: {forecast:?}");
}

#[test]
fn bursts_that_recur_raise_no_alarm_and_are_known_to_go_away() {
    let burst = |at: u32| if at % 60 >= 56 { 0.5 + 0.09 * f64::from(at % 60 - 55) } else { 0.5 };
    let mut forecaster = forecaster();
    for at in 0..600_u32 {
        let said = forecaster.look(f64::from(at) * 5.0, burst(at));
        let is_alarm = said.seconds_to_critical.is_some_and(|seconds| seconds <= 120.0);
        assert!(!is_alarm || at < 60, "the first may be taken for a ramp, later ones not: {at}");
    }
    let forecast = forecaster.forecast().expect("there were samples");
    assert!((forecast.ratio - 0.86).abs() < 1e-6 && forecast.predicted[1] < 0.55, "{forecast:?}");
}

#[test]
fn on_traces_it_was_not_tuned_on_it_is_much_better_than_a_line() {
    let (mut line, mut ours) = (Score::default(), Score::default());
    for trace in traces(Draw::HeldOut, 1).iter().filter(|trace| trace.seconds.len() < 700) {
        line.add(&score(trace, &mut Line::default()));
        ours.add(&score(trace, &mut forecaster()));
    }
    assert!(ours.forecasts[2] > 1000, "there were traces");
    for horizon in 0..3 {
        let part = ours.error(horizon) / line.error(horizon);
        assert!(part <= ERROR_MAX, "at horizon {horizon} errors are {part} times the line's");
    }
    assert!(ours.false_episodes * 3 < line.false_episodes, "{} {}", ours.false_episodes, line.false_episodes);
    assert!(ours.false_alarms * 20 < ours.forecasts[0], "fewer than one look in twenty is a false alarm");
}

#[test]
fn samples_that_say_nothing_are_refused_by_name_and_teach_nothing() {
    let mut forecaster = forecaster();
    let sample = |seconds, total_bytes| Sample { seconds, used_bytes: 1, total_bytes };
    assert!(matches!(forecaster.record(sample(f64::NAN, 1)), Err(SampleError::NoTime(_))));
    assert_eq!(forecaster.record(sample(1.0, 0)), Err(SampleError::NothingThere));
    forecaster.record(sample(1.0, 2)).expect("a good sample");
    let before = forecaster.forecast();
    let refused = forecaster.record(sample(0.5, 2));
    assert_eq!(refused, Err(SampleError::TimeWentBack { seconds: 0.5, last_seconds: 1.0 }));
    assert_eq!(forecaster.forecast(), before);
}

#[test]
fn of_samples_at_one_time_the_last_counts_and_more_than_all_is_all() {
    let mut forecaster = forecaster();
    for used_bytes in [10, 20, 300] {
        forecaster.record(Sample { seconds: 7.0, used_bytes, total_bytes: 100 }).expect("a good sample");
    }
    assert_eq!(forecaster.forecast().expect("there were samples").ratio, 1.0);
    assert_eq!(forecaster.level(), Level::Emergency);
}

#[test]
fn after_a_long_gap_slopes_and_echoes_begin_anew() {
    let (mut forecaster, _) = after((0..100).map(|at| 0.2 + f64::from(at) * 0.005));
    forecaster.look(100_000.0, 0.3);
    let forecast = forecaster.forecast().expect("there were samples");
    assert_eq!((forecast.predicted, forecast.ratio_per_second), ([0.3; 3], 0.0));
}

#[test]
fn thousands_of_samples_a_second_are_forecast_as_one_a_second_is() {
    let climb = |seconds: f64| 0.2 + 0.002 * seconds;
    let (mut fast, mut slow) = (forecaster(), forecaster());
    for second in 0..60 {
        for part in 0..50 {
            let seconds = f64::from(second) + f64::from(part) / 50.0;
            fast.look(seconds, climb(seconds));
        }
        slow.look(f64::from(second), climb(f64::from(second)));
    }
    slow.look(59.98, climb(59.98));
    let [fast, slow] = [fast, slow].map(|it| it.forecast().expect("there were samples").predicted);
    assert!(fast.iter().zip(slow).all(|(fast, slow)| (fast - slow).abs() < 0.02), "{fast:?} {slow:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn whatever_it_is_shown_it_answers_with_numbers_in_their_ranges(
        start in prop::sample::select(vec![0.0, -1e308, 1e15, 1e18, 1e300]),
        steps in prop::collection::vec(
            (
                prop::sample::select(vec![0.0, 5e-324, 1e-9, 0.3, 1.0, 5.0, 5.0, 60.0, 599.0, 601.0, 1e9, 1e307, -1.0]),
                prop::sample::select(vec![0, 1, 500, 899, 900, 999, 1000, u64::MAX]),
                prop::sample::select(vec![1000, 1000, 1000, 1, 2000, u64::MAX]),
            ),
            1..60,
        ),
    ) {
        let mut forecaster = forecaster();
        let mut seconds: f64 = start;
        for (step, used_bytes, total_bytes) in steps {
            let recorded = forecaster.record(Sample { seconds: seconds + step, used_bytes, total_bytes });
            match recorded {
                Ok(()) => seconds += step,
                Err(error) => {
                    let is_right = step < 0.0 || !(seconds + step).is_finite();
                    prop_assert!(is_right, "{error}");
                }
            }
            let Some(forecast) = forecaster.forecast() else { continue };
            let Forecast { ratio, predicted, confidence, ratio_per_second, seconds_to, .. } = forecast;
            for part in [ratio, confidence].iter().chain(&predicted) {
                prop_assert!((0.0..=1.0).contains(part), "{:?}", forecast);
            }
            prop_assert!(ratio_per_second.is_finite());
            let told: Vec<f64> = seconds_to.iter().flatten().copied().collect();
            prop_assert!(told.is_sorted() && told.iter().all(|told| (0.0..=3600.0).contains(told)), "{:?}", forecast);
            let is_foretold = predicted.iter().any(|part| *part >= 0.9);
            let is_told = seconds_to[CRITICAL].is_some_and(|told| told <= 120.0);
            prop_assert!(ratio >= 0.9 || is_told || !is_foretold, "what is predicted is told: {:?}", forecast);
        }
    }
}
