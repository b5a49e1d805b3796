//! Levels and slopes of now, over several windows.

use super::guesses::Weather;
use super::recent::{Line, Point, Recent, fit};

const WINDOWS_SECONDS: [f64; 5] = [15.0, 30.0, 60.0, 120.0, 300.0];
const ROBUST_SECONDS: [f64; 3] = [60.0, 120.0, 300.0];
const MEANS_SECONDS: [f64; 4] = [15.0, 60.0, 120.0, 300.0];
/// Points that a robust line goes through at most: all their pairs are looked at.
const ROBUST_POINTS: usize = 12;
/// Between points that are nearer there is no slope to speak of.
const APART_SECONDS_MIN: f64 = 0.1;
/// A fall by more than this ends a rise.
const FALL: f64 = 0.04;
/// A line over 30 s says that it moves if it moves by more than this and twice what points are off the line.
const MOVES: f64 = 0.004;
/// Of a line over 30 s: more than this is a storm.
const STORMS: f64 = 0.1;

/// What slopes and levels are now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lines {
    pub(super) now: Point,
    /// Least squares over 15, 30, 60, 120 and 300 s.
    pub(super) lines: [Line; 5],
    /// Over 60, 120 and 300 s, whatever a few points say.
    pub(super) robust: [Line; 3],
    /// Over 15, 60, 120 and 300 s.
    pub(super) means: [f64; 4],
    /// Since the last fall.
    pub(super) rise: Line,
}

impl Lines {
    pub(super) fn of(recent: &Recent, now: Point) -> Self {
        let mut low = now.ratio;
        let rises = |point: &Point| {
            low = low.min(point.ratio);
            point.ratio < low + FALL
        };
        Self {
            now,
            lines: WINDOWS_SECONDS.map(|window| fit(recent.back(window))),
            robust: ROBUST_SECONDS.map(|window| median_line(recent, window)),
            means: MEANS_SECONDS.map(|window| mean(recent.back(window))),
            rise: fit(recent.back(f64::INFINITY).take_while(rises)),
        }
    }

    /// What happens now.
    pub(super) fn weather(&self) -> Weather {
        let line = &self.lines[1];
        let (moved, sure) = (line.slope * 30.0, 2.0 * line.spread + MOVES);
        match moved {
            moved if moved < -sure => Weather::Falling,
            moved if moved < sure => Weather::Still,
            moved if moved < STORMS => Weather::Rising,
            _ => Weather::Storming,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "there are few points")]
fn mean(points: impl Iterator<Item = Point>) -> f64 {
    let (count, sum) = points.fold((0_usize, 0.0), |(count, sum), point| (count + 1, sum + point.ratio));
    sum / count.max(1) as f64
}

/// Through the median of the slopes between points (Theil 1950, Sen 1968), and the median of what is left. Where there
/// are more than [`ROBUST_POINTS`], means of neighbours stand for them.
#[expect(clippy::cast_precision_loss, reason = "there are few points")]
fn median_line(recent: &Recent, window: f64) -> Line {
    let now = recent.newest().expect("lines are drawn after a sample");
    let each = recent.back(window).count().div_ceil(ROBUST_POINTS);
    let mut points = [Point { seconds: 0.0, ratio: 0.0 }; ROBUST_POINTS];
    let mut sums = (0_usize, 0.0, 0.0);
    let mut kept = 0;
    let mut back = recent.back(window).peekable();
    while let Some(point) = back.next() {
        sums = (sums.0 + 1, sums.1 + (point.seconds - now.seconds), sums.2 + point.ratio);
        if sums.0 == each || back.peek().is_none() {
            let count = sums.0 as f64;
            points[kept] = Point { seconds: sums.1 / count, ratio: sums.2 / count };
            kept += 1;
            sums = (0, 0.0, 0.0);
        }
    }
    let points = &points[..kept];
    let mut slopes = [0.0; ROBUST_POINTS * (ROBUST_POINTS - 1) / 2];
    let mut pairs = 0;
    for (at, newer) in points.iter().enumerate() {
        for older in &points[at + 1..] {
            let apart = newer.seconds - older.seconds;
            if apart >= APART_SECONDS_MIN {
                slopes[pairs] = (newer.ratio - older.ratio) / apart;
                pairs += 1;
            }
        }
    }
    if pairs == 0 {
        return Line::still(now.ratio);
    }
    let slope = median(&mut slopes[..pairs]);
    let mut levels = [0.0; ROBUST_POINTS];
    for (level, point) in levels.iter_mut().zip(points) {
        *level = point.ratio - slope * point.seconds;
    }
    let level = median(&mut levels[..kept]);
    Line { level, slope, spread: 0.0, seconds: -points[kept - 1].seconds }
}

fn median(values: &mut [f64]) -> f64 {
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}
