//! Who was right of late: the guesses weighted by their errors, at each horizon, in each kind of weather.

use super::guesses::{GUESSES, Weather};

/// After so many forecasts older ones are forgotten.
const FORECASTS_MAX: f64 = 60.0;
/// What is believed before counts as so many forecasts.
const BELIEVED: f64 = 6.0;
/// What a forecast says of weather that was not, against what it says of its own.
const ELSEWHERE: f64 = 0.08;
/// Errors below this are as good as none.
const ERROR_FLOOR: f64 = 0.001;
/// What is believed of each guess before anything is known.
const ERROR_BELIEVED: f64 = 0.02;

/// The errors of each guess at one horizon.
#[derive(Clone, Debug)]
pub(super) struct Mixture {
    errors: [[f64; GUESSES]; Weather::ALL.len()],
    counts: [f64; Weather::ALL.len()],
}

impl Mixture {
    pub(super) fn new() -> Self {
        let kinds = Weather::ALL.len();
        debug_assert_eq!(kinds, Weather::ALL[kinds - 1] as usize + 1);
        Self {
            errors: Weather::ALL.map(|weather| weather.believed().map(|times| times * ERROR_BELIEVED)),
            counts: [0.0; Weather::ALL.len()],
        }
    }

    /// These were the guesses, in that weather, and this came.
    pub(super) fn learn(&mut self, weather: Weather, guesses: &[f64; GUESSES], actual: f64) {
        for (at, (errors, count)) in self.errors.iter_mut().zip(&mut self.counts).enumerate() {
            let part = if at == weather as usize { 1.0 } else { ELSEWHERE };
            *count = (*count + part).min(FORECASTS_MAX);
            let takes = part / (BELIEVED + *count);
            for (error, guess) in errors.iter_mut().zip(guesses) {
                *error += takes * ((guess - actual).abs() - *error);
            }
        }
    }

    /// How much each has to say: 1 in all. One whose errors are half as large has 64 times as much.
    pub(super) fn weights(&self, weather: Weather) -> [f64; GUESSES] {
        let weights = self.errors[weather as usize].map(|error| {
            let near = ERROR_FLOOR / (error + ERROR_FLOOR);
            let square = near * near;
            square * square * square
        });
        let sum: f64 = weights.iter().sum();
        weights.map(|weight| weight / sum)
    }
}

/// The weighted median, and a tenth to each side of it: errors count as they are, so it does not matter how far off the
/// others are.
pub(super) fn middle(guesses: &[f64; GUESSES], weights: &[f64; GUESSES]) -> f64 {
    const HALF: f64 = 0.1;
    let mut order: [(f64, f64); GUESSES] = std::array::from_fn(|at| (guesses[at], weights[at]));
    order.sort_unstable_by(|left, right| left.0.total_cmp(&right.0));
    let (mut below, mut sum, mut taken) = (0.0, 0.0, 0.0);
    for (guess, weight) in order {
        let inside = f64::max((below + weight).min(0.5 + HALF) - f64::max(below, 0.5 - HALF), 0.0);
        sum += inside * (guess - guesses[0]);
        taken += inside;
        below += weight;
    }
    (guesses[0] + sum / taken).clamp(0.0, 1.0)
}
