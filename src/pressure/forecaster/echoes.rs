//! What came after the times that looked like now: the memory of an hour, in steps of five seconds.
//!
//! For each lag there are running means of how the level differs from what it was that long ago, and of the square of that.
//! A lag whose square is small is a time like now; one whose variance is small is a time of the same shape, at another
//! level. With a short memory of these means a lag is an analogue; with a long one it is a period.
//!
//! ```text
//!   ──╱╲────╱╲────╱╲────╱·     now
//!      ├──────────────┤        a lag: what followed there, is what may follow here
//! ```

use super::recent::Point;

/// Cells kept: an hour.
pub(super) const CELLS: usize = 720;
/// How far cells are apart.
pub(super) const CELL_SECONDS: f64 = 5.0;
/// The shortest lag: what followed is known 30 s on.
const LAG_MIN: usize = 6;
/// How many lags are kept by each.
const KEPT: usize = 3;
/// After so long without a sample what was before says nothing.
pub(super) const GAP_SECONDS_MAX: f64 = 600.0;
/// Cells that are filled at once, then: what the longest gap has.
const CELLS_AT_ONCE_MAX: f64 = GAP_SECONDS_MAX / CELL_SECONDS + 1.0;
/// Over how many cells the means reach: 20 s, 90 s, 10 min.
pub(super) const REACHES: [u32; 3] = [4, 18, 120];
/// So many cells of a lag's past are compared before it counts, where the means reach further.
const COMPARED_MAX: usize = 36;

/// Lags that looked like now.
#[derive(Clone, Copy, Debug, Default)]
struct Likes {
    lags: [usize; KEPT],
    count: usize,
}

#[derive(Clone, Debug)]
struct Means {
    /// What the newest difference counts.
    takes: f64,
    /// How many cells of a lag's past must be there.
    compared: usize,
    difference: Vec<f64>,
    square: Vec<f64>,
    /// By the square, and by the variance.
    likes: [Likes; 2],
}

/// Which of some times like now led to a level, and when.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Led {
    /// Which part of them did.
    pub(super) part: f64,
    /// After how long, where they did: the mean.
    pub(super) seconds: f64,
}

/// An hour, and which of its times look like now.
#[derive(Clone, Debug)]
pub(super) struct Echoes {
    /// Levels at cells: the newest at `head`, older ones behind it, around the end.
    cells: Vec<f64>,
    /// The highest since the cell before.
    tops: Vec<f64>,
    /// The highest since the newest cell.
    top: f64,
    head: usize,
    count: usize,
    /// When the newest cell was.
    newest_seconds: f64,
    means: Vec<Means>,
}

impl Means {
    /// Chooses the lags that looked like now: of neighbours, which say the same, the one that did most.
    fn choose(&mut self, count: usize) {
        let end = count.saturating_sub(self.compared);
        for (by, likes) in self.likes.iter_mut().enumerate() {
            *likes = Likes::default();
            let shift = if by == 1 { 1.0 } else { 0.0 };
            let away = |lag: usize| self.square[lag] - shift * self.difference[lag] * self.difference[lag];
            let mut kept = [f64::INFINITY; KEPT];
            let (mut before, mut next) = (f64::INFINITY, away(LAG_MIN));
            for lag in LAG_MIN..end {
                let here = next;
                next = if lag + 1 < end { away(lag + 1) } else { f64::INFINITY };
                let is_least = here <= before && here < next;
                before = here;
                if is_least && here < kept[KEPT - 1] {
                    let mut at = likes.count.min(KEPT - 1);
                    while at > 0 && kept[at - 1] > here {
                        kept[at] = kept[at - 1];
                        likes.lags[at] = likes.lags[at - 1];
                        at -= 1;
                    }
                    (kept[at], likes.lags[at]) = (here, lag);
                    likes.count = (likes.count + 1).min(KEPT);
                }
            }
        }
    }
}

impl Echoes {
    pub(super) fn new() -> Self {
        let means = REACHES.map(|reach| Means {
            takes: 1.0 - (-1.0 / f64::from(reach)).exp(),
            compared: COMPARED_MAX.min(reach as usize),
            difference: vec![0.0; CELLS],
            square: vec![0.0; CELLS],
            likes: [Likes::default(); 2],
        });
        Self {
            cells: vec![0.0; CELLS],
            tops: vec![0.0; CELLS],
            top: 0.0,
            head: 0,
            count: 0,
            newest_seconds: 0.0,
            means: means.into(),
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new();
    }

    /// Fills the cells up to this point, which comes after that one.
    pub(super) fn fill(&mut self, before: Option<Point>, point: Point) {
        let Some(before) = before.filter(|_| self.count > 0) else {
            self.newest_seconds = point.seconds;
            self.top = point.ratio;
            self.push(point.ratio);
            return;
        };
        let slope = (point.ratio - before.ratio) / (point.seconds - before.seconds).max(1e-9);
        // Counted, not added up: of very large times five seconds are nothing.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a gap is bounded")]
        let cells =
            ((point.seconds - self.newest_seconds) / CELL_SECONDS).clamp(0.0, CELLS_AT_ONCE_MAX) as u32;
        for cell in 1..=cells {
            let seconds = self.newest_seconds + f64::from(cell) * CELL_SECONDS;
            self.push((before.ratio + slope * (seconds - before.seconds)).clamp(0.0, 1.0));
        }
        self.newest_seconds += f64::from(cells) * CELL_SECONDS;
        self.top = self.top.max(point.ratio);
        if cells > 0 {
            self.means.iter_mut().for_each(|means| means.choose(self.count));
        }
    }

    fn push(&mut self, value: f64) {
        self.head = (self.head + CELLS - 1) % CELLS;
        self.cells[self.head] = value;
        self.tops[self.head] = self.top.max(value);
        self.top = value;
        self.count = (self.count + 1).min(CELLS);
        let (wrapped, newest) = self.cells.split_at(self.head);
        let reached = self.count.min(newest.len());
        let parts = [(0, &newest[..reached]), (reached, &wrapped[..self.count - reached])];
        for means in &mut self.means {
            for (lag, then) in parts {
                let kept = means.difference[lag..].iter_mut().zip(&mut means.square[lag..]);
                for ((difference, square), then) in kept.zip(then) {
                    let differs = value - then;
                    *difference += means.takes * (differs - *difference);
                    *square += means.takes * (differs * differs - *square);
                }
            }
        }
    }

    /// The level so long before the newest cell.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "there are few cells")]
    fn at(&self, cells_back: f64) -> f64 {
        let whole = (cells_back as usize).min(self.count - 1);
        let share = (cells_back - whole as f64).clamp(0.0, 1.0);
        let newer = self.cells[(self.head + whole) % CELLS];
        let older = self.cells[(self.head + (whole + 1).min(self.count - 1)) % CELLS];
        newer + (older - newer) * share
    }

    /// The highest near so long before the newest cell.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "there are few cells")]
    fn top_at(&self, cells_back: f64) -> f64 {
        self.tops[(self.head + (cells_back as usize).min(self.count - 1)) % CELLS]
    }

    /// Which of the times like this point led to a level within so many seconds: those at the same level, and those of the
    /// same shape. What they led to on the way counts, however short it lasted. None where there are none.
    pub(super) fn led_to(&self, reach: usize, point: Point, level: f64, within: f64) -> Option<[Led; 2]> {
        let since = (point.seconds - self.newest_seconds) / CELL_SECONDS;
        let mut led = [Led::default(); 2];
        for (by, (likes, led)) in self.means[reach].likes.iter().zip(&mut led).enumerate() {
            let lags = &likes.lags[..likes.count];
            let mut count = 0.0;
            for lag in lags.iter().map(|lag| *lag as f64) {
                let then = lag - since;
                let shift = if by == 0 { 0.0 } else { point.ratio - self.at(then) };
                let steps = (1..).map(f64::from).take_while(|step| step * CELL_SECONDS <= within);
                // Behind what is known of it, it is as after the lag before.
                let mut back = steps.map(|step| (step, then - step)).map(|(step, back)| {
                    (step, if back < 0.0 { back + lag * (-back / lag).ceil() } else { back })
                });
                count += 1.0;
                if let Some((step, _)) = back.find(|(_, back)| self.top_at(*back) + shift >= level) {
                    led.part += 1.0;
                    led.seconds += step * CELL_SECONDS;
                }
            }
            if count == 0.0 {
                return None;
            }
            led.seconds /= led.part.max(1.0);
            led.part /= count;
        }
        Some(led)
    }

    /// What followed the times like this point, so far ahead: those at the same level, and those of the same shape from
    /// this point's level on. None where there is none whose future is known.
    pub(super) fn followed(&self, reach: usize, point: Point, ahead: f64) -> Option<[f64; 2]> {
        let since = (point.seconds - self.newest_seconds) / CELL_SECONDS;
        let ahead = ahead / CELL_SECONDS;
        let mut medians = [0.0; 2];
        for (by, likes) in self.means[reach].likes.iter().enumerate() {
            let mut values = [0.0; KEPT];
            let mut count = 0;
            for lag in likes.lags[..likes.count].iter().map(|lag| *lag as f64) {
                // What repeats, repeats twice: a lag too short to know what followed is taken so often that it does.
                let then = lag * ((ahead + since) / lag).ceil().max(1.0) - since;
                if then < self.count as f64 {
                    let value = self.at(then - ahead);
                    values[count] = if by == 0 { value } else { point.ratio + value - self.at(then) };
                    count += 1;
                }
            }
            medians[by] = median(&mut values[..count])?;
        }
        Some(medians)
    }
}

/// Of an even number the mean of the two in the middle.
fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(if values.len() % 2 == 1 { upper } else { 0.5 * (values[middle - 1] + upper) })
}
