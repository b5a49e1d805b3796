//! The guesses: simple forecasters, each right in its own kind of weather.

use super::echoes::{Echoes, REACHES};
use super::lines::Lines;

/// How many there are.
pub(super) const GUESSES: usize = LEVELS + SLOPES + OTHERS;
/// Of these the first say that it stays near where it is or was, and those after them that it goes on as it goes.
const LEVELS: usize = 5;
const SLOPES: usize = 16;
/// What was learned of signs, and what followed times like now.
const OTHERS: usize = 8;
/// Which guesses are those of the echoes: of each reach, by level and by shape.
pub(super) const ECHO_GUESSES: [[usize; 2]; REACHES.len()] =
    [[GUESSES - 7, GUESSES - 6], [GUESSES - 5, GUESSES - 4], [GUESSES - 3, GUESSES - 2]];

/// What happens now. Who is right while it grows is not who is right when it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weather {
    Falling,
    Still,
    Rising,
    /// It will have grown by three tenths within 90 s.
    Storming,
}

impl Weather {
    pub(super) const ALL: [Weather; 4] =
        [Weather::Falling, Weather::Still, Weather::Rising, Weather::Storming];

    /// How much more than usual each guess is believed to be off before anything is known.
    pub(super) fn believed(self) -> [f64; GUESSES] {
        let (levels, slopes) = if self == Weather::Still { (1.0, 1.2) } else { (1.6, 1.0) };
        std::array::from_fn(|guess| match guess {
            level if level < LEVELS => levels,
            slope if slope < LEVELS + SLOPES => slopes,
            _ => 1.1,
        })
    }
}

/// All guesses for so far ahead; `learned` is what was learned of signs.
pub(super) fn guesses(lines: &Lines, echoes: &Echoes, learned: f64, ahead: f64) -> [f64; GUESSES] {
    let last = lines.now.ratio;
    let [quarter, half, minute, two, five] = &lines.lines;
    let damped = |time: f64| time * (1.0 - (-ahead / time).exp());
    let back_to = |mean: f64, time: f64| mean + (last - mean) * (-ahead / time).exp();
    let [mean_quarter, mean_minute, mean_two, mean_five] = lines.means;
    let levels: [f64; LEVELS] = [last, mean_quarter, mean_minute, mean_five, back_to(mean_five, 60.0)];
    let [robust_minute, robust_two, robust_five] = &lines.robust;
    let slopes: [f64; SLOPES] = [
        quarter.after(ahead),
        half.after(ahead),
        minute.after(ahead),
        two.after(ahead),
        five.after(ahead),
        robust_minute.after(ahead),
        robust_two.after(ahead),
        robust_five.after(ahead),
        lines.rise.after(ahead),
        half.after(damped(40.0)),
        minute.after(damped(60.0)),
        two.after(damped(120.0)),
        last + minute.slope * ahead,
        last + two.slope * ahead,
        last + bent(30.0, half.slope, minute.slope, ahead),
        last + bent(60.0, minute.slope, two.slope, ahead),
    ];
    let mut followed = [[mean_two; 2]; REACHES.len()];
    for (reach, values) in followed.iter_mut().enumerate() {
        *values = echoes.followed(reach, lines.now, ahead).unwrap_or([last; 2]);
    }
    let [near, middle, far] = followed;
    let others: [f64; OTHERS] =
        [learned, near[0], near[1], middle[0], middle[1], far[0], far[1], 0.5 * (near[0] + near[1])];
    let mut all = [0.0; GUESSES];
    let values = levels.iter().chain(&slopes).chain(&others);
    for (guess, value) in all.iter_mut().zip(values) {
        *guess = if value.is_finite() { value.clamp(0.0, 1.0) } else { last };
    }
    all
}

/// How much it changes by where its slope grows or shrinks as it did: `near` is the slope of the last `window` seconds,
/// `both` that of twice as many. Warm-ups level off like this, and retries double like this.
fn bent(window: f64, near: f64, both: f64, ahead: f64) -> f64 {
    let far = 2.0 * both - near; // a line's slope is that of its middle, near enough
    if near * far <= 0.0 {
        return near * ahead.min(window);
    }
    let rate = ((near / far).ln() / window).clamp(-0.05, 0.012);
    let now = near * (0.5 * rate * window).exp();
    if rate.abs() < 1e-4 { now * ahead } else { now * (rate * ahead).exp_m1() / rate }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_levels_off_and_what_doubles_is_continued_as_it_goes() {
        // 1 - exp(-t / 60): slopes over 30 s and 60 s that end at 60 s, and what is left to come after.
        let level = |seconds: f64| 1.0 - (-seconds / 60.0).exp();
        let (near, both) = ((level(60.0) - level(30.0)) / 30.0, level(60.0) / 60.0);
        let expected = level(120.0) - level(60.0);
        assert!((bent(30.0, near, both, 60.0) - expected).abs() < 0.02);
        let doubled = |seconds: f64| 2f64.powf(seconds / 60.0);
        let (near, both) = ((doubled(60.0) - doubled(30.0)) / 30.0, (doubled(60.0) - 1.0) / 60.0);
        assert!((bent(30.0, near, both, 60.0) - 2.0).abs() < 0.1);
        assert_eq!(bent(30.0, 0.0, 0.01, 60.0), 0.0);
    }
}
