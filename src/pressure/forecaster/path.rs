//! From what is expected at each step of the way to the seconds until a watermark.

use super::ensemble::{KNOTS, Path};

/// Beyond an hour nothing is foretold.
const SECONDS_MAX: f64 = 3600.0;

/// What went on for a while may go on for so many times as long.
const GOES_ON: f64 = 6.0;

/// A drift that is steady: its slope, and for how many seconds it was so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drift {
    pub(super) slope: f64,
    pub(super) seconds: f64,
}

/// When the path reaches a level, which it begins below; none if it does not. The way from knot to knot is straight.
pub(super) fn reaches(mark: f64, ratio: f64, path: &Path) -> Option<f64> {
    let (mut from, mut below) = (0.0, ratio);
    for ((ahead, _), value) in KNOTS.iter().zip(path) {
        if *value >= mark {
            return Some(from + (ahead - from) * (mark - below) / (value - below));
        }
        (from, below) = (*ahead, *value);
    }
    None
}

/// When a level is reached that the path does not reach, if a drift goes on as it did.
pub(super) fn drifts_to(mark: f64, ratio: f64, path: &Path, drift: Drift) -> Option<f64> {
    let (end, [.., last]) = (KNOTS[KNOTS.len() - 1].0, path);
    let slope = drift.slope.min((last - ratio) / end);
    let seconds = end + (mark - last) / slope;
    (slope > 0.0 && seconds <= SECONDS_MAX.min(end + GOES_ON * drift.seconds)).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RISING: Path = [0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.1, 0.1];

    #[test]
    fn a_peak_between_horizons_counts_and_the_way_is_straight() {
        assert_eq!(reaches(0.6, 0.5, &RISING), Some(30.0));
        let seconds = reaches(0.775, 0.5, &RISING).expect("it is reached at 82.5 s");
        assert!((seconds - 82.5).abs() < 1e-9, "{seconds}");
        assert_eq!(reaches(0.81, 0.5, &RISING), None);
    }

    #[test]
    fn a_drift_goes_on_for_six_times_as_long_as_it_was_seen_and_an_hour_at_most() {
        let path = [0.5; 7].map(|_| 0.55);
        let path: Path = std::array::from_fn(|at| path.get(at).copied().unwrap_or(0.56));
        let drift = |seconds| Drift { slope: 0.0005, seconds };
        let seconds = drifts_to(0.66, 0.5, &path, drift(60.0)).expect("it comes");
        assert!((seconds - 320.0).abs() < 1e-6, "{seconds}");
        assert_eq!(drifts_to(0.66, 0.5, &path, drift(30.0)), None);
        assert_eq!(drifts_to(0.9, 0.56, &path, drift(300.0)), None, "the path does not rise");
        assert_eq!(drifts_to(0.9, 0.559, &path, drift(1e9)), None, "too far");
    }
}
