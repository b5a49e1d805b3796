//! A line through many things at once, learned while it runs: by which of its signs the level changed so far.
//!
//! Recursive least squares with forgetting, one a horizon. Signs are differences and slopes, so that what is learned at one
//! level holds at another.

use super::lines::Lines;

/// How many signs there are.
pub(super) const SIGNS: usize = 8;

/// What is known of each sign.
pub(super) type Signs = [f64; SIGNS];

/// What was learned for one horizon.
#[derive(Clone, Debug)]
pub(super) struct Learned {
    weights: Signs,
    /// The inverse of what was seen of the signs, by pairs.
    doubt: [Signs; SIGNS],
    /// How large errors are of late.
    error: f64,
}

/// What a forecast teaches counts for less with each that comes after.
const KEEPS: f64 = 1.0 - 1.0 / 300.0;
/// How unsure each weight is before anything is known.
const DOUBT: f64 = 10.0;
/// Part of a change that no sign tells.
const NOISE: f64 = 0.01;
/// A forecast teaches no more than so many usual errors do.
const ERRORS_MAX: f64 = 3.0;
/// The sign that says that it goes on as in the last minute.
const GOES_ON: usize = 6;
/// Slopes are said as what changes in so long.
const SIGN_SECONDS: f64 = 30.0;

/// The signs of now.
pub(super) fn signs(lines: &Lines) -> Signs {
    let last = lines.now.ratio;
    [
        0.02,
        last - lines.means[0],
        last - lines.means[1],
        last - lines.means[3],
        SIGN_SECONDS * lines.lines[0].slope,
        SIGN_SECONDS * lines.lines[1].slope,
        SIGN_SECONDS * lines.lines[2].slope,
        SIGN_SECONDS * lines.lines[4].slope,
    ]
}

impl Learned {
    pub(super) fn new(ahead: f64) -> Self {
        let mut weights = [0.0; SIGNS];
        weights[GOES_ON] = 0.4 * ahead / SIGN_SECONDS;
        Self { weights, doubt: unsure(), error: 0.01 }
    }

    /// How much the level will change.
    pub(super) fn change(&self, signs: &Signs) -> f64 {
        product(&self.weights, signs)
    }

    /// So much did the level change after these signs.
    pub(super) fn learn(&mut self, signs: &Signs, changed: f64) {
        let error = changed - self.change(signs);
        self.error += 0.02 * (error.abs() - self.error);
        // A burst or a fall that nobody could foresee teaches no more than a few usual errors do.
        let bound = ERRORS_MAX * self.error + 1e-4;
        let error = error.clamp(-bound, bound);
        let gain: Signs = std::array::from_fn(|at| product(&self.doubt[at], signs));
        let least = NOISE * KEEPS;
        let total = least + product(&gain, signs);
        if !(total >= least && total.is_finite()) {
            self.doubt = unsure(); // rounding has eaten what was known of it
            return;
        }
        for (weight, gain) in self.weights.iter_mut().zip(&gain) {
            *weight += gain / total * error;
        }
        // Where nothing happens nothing is learned, and doubt must not grow without bound.
        let doubts: f64 = (0..SIGNS).map(|at| self.doubt[at][at]).sum();
        let grows = if doubts < DOUBT * SIGNS as f64 { 1.0 / KEEPS } else { 1.0 };
        for (row, left) in self.doubt.iter_mut().zip(&gain) {
            for (doubt, right) in row.iter_mut().zip(&gain) {
                *doubt = (*doubt - left * right / total) * grows;
            }
        }
    }
}

fn unsure() -> [Signs; SIGNS] {
    std::array::from_fn(|row| std::array::from_fn(|column| if row == column { DOUBT } else { 0.0 }))
}

fn product(left: &Signs, right: &Signs) -> f64 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_of_two_signs_is_learned_and_a_spike_does_not_unlearn_it() {
        let mut learned = Learned::new(60.0);
        let signs = |at: u32| -> Signs {
            let wave = |times: f64| (f64::from(at) * times).sin() * 0.1;
            [0.02, wave(0.3), 0.0, 0.0, 0.0, 0.0, wave(0.17), 0.0]
        };
        let rule = |signs: &Signs| 0.7 * signs[6] - 0.5 * signs[1];
        for at in 0..300 {
            learned.learn(&signs(at), rule(&signs(at)));
        }
        let worst = |learned: &Learned| {
            let off = |at| (learned.change(&signs(at)) - rule(&signs(at))).abs();
            (0..20).map(off).fold(0.0, f64::max)
        };
        assert!(worst(&learned) < 0.002, "{}", worst(&learned));
        learned.learn(&signs(3), 1.0);
        assert!(worst(&learned) < 0.01, "{}", worst(&learned));
    }

    #[test]
    fn what_is_learned_of_nothing_stays_finite() {
        let mut learned = Learned::new(30.0);
        for at in 0..20_000 {
            let big = if at % 1000 == 0 { 1e6 } else { 0.0 };
            learned.learn(&[0.02, 0.0, big, -big, big, 0.0, 0.0, 0.0], 0.0);
            assert!(learned.change(&[1.0; SIGNS]).is_finite());
        }
    }
}
