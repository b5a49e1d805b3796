//! All guesses together: what each says is kept until its time comes, then its error is known, and who was right of late
//! has most to say.

use std::collections::VecDeque;

use super::echoes::{Echoes, GAP_SECONDS_MAX, Led};
use super::guesses::{ECHO_GUESSES, GUESSES, Weather, guesses};
use super::learned::{Learned, Signs, signs};
use super::lines::Lines;
use super::mixture::{Mixture, middle};
use super::path::{Drift, reaches};
use super::recent::{Point, Recent};

/// How far ahead, in seconds.
pub(super) const HORIZONS: [f64; 3] = [30.0, 60.0, 120.0];

/// Steps of the path: how far ahead, and whose errors say who is right there.
pub(super) const KNOTS: [(f64, usize); 8] =
    [(15.0, 0), (30.0, 0), (45.0, 1), (60.0, 1), (75.0, 1), (90.0, 2), (105.0, 2), (120.0, 2)];

/// What is expected at each knot.
pub(super) type Path = [f64; KNOTS.len()];

/// What lies on the path at the horizons.
pub(super) fn at_horizons(path: &Path) -> [f64; 3] {
    [path[1], path[3], path[7]]
}

/// A drift that was seen for less is none.
const DRIFT_SECONDS_MIN: f64 = 30.0;

/// Of what is said nothing is kept that comes sooner after the one before.
const KEEP_SECONDS: f64 = 4.0;

/// Forecasts kept at most: those of 120 s.
const WAITING_MAX: usize = 32;

/// A forecast within so much of what came was right.
const RIGHT_WITHIN: f64 = 0.05;

/// A line through the last 30 s is clean that rises by so much, and by so many times what its points lie off it.
const CLEAN_RISE: f64 = 0.01;
const CLEAN: f64 = 8.0;
/// Of a clean line so many seconds are enough; in its last half it still rises half as fast at least.
const CLEAN_SECONDS_MIN: f64 = 9.0;
/// So far ahead it is believed.
const CLEAN_AHEAD_SECONDS: f64 = 60.0;
/// If so many of the guesses say the same; none need to until so much was seen that they know of other endings.
const CLEAN_PART: f64 = 0.25;
const COLD_SECONDS: f64 = 180.0;

/// A forecast whose time has not come yet.
#[derive(Clone, Debug)]
struct Waiting {
    seconds: f64,
    ratio: f64,
    signs: Signs,
    weather: Weather,
    guesses: [[f64; GUESSES]; 3],
    said: [f64; 3],
    /// The next horizon whose time comes.
    due: usize,
}

/// All that is known.
#[derive(Clone, Debug)]
pub(super) struct Ensemble {
    recent: Recent,
    echoes: Echoes,
    learned: [Learned; 3],
    mixtures: [Mixture; 3],
    waiting: VecDeque<Waiting>,
    /// Which part of the forecasts of late were right, from nothing.
    right: f64,
    /// What is expected at each knot.
    path: Path,
    /// What each guess expects at each knot, and how much it has to say.
    ways: [[f64; GUESSES]; KNOTS.len()],
    weights: [f64; GUESSES],
    lines: Option<Lines>,
}

impl Ensemble {
    pub(super) fn new() -> Self {
        Self {
            recent: Recent::new(),
            echoes: Echoes::new(),
            learned: HORIZONS.map(Learned::new),
            mixtures: std::array::from_fn(|_| Mixture::new()),
            waiting: VecDeque::with_capacity(WAITING_MAX),
            right: 0.0,
            path: [0.0; KNOTS.len()],
            ways: [[0.0; GUESSES]; KNOTS.len()],
            weights: [0.0; GUESSES],
            lines: None,
        }
    }

    /// The newest sample.
    pub(super) fn newest(&self) -> Option<(f64, f64)> {
        self.recent.newest().map(|point| (point.seconds, point.ratio))
    }

    /// What is expected at each knot.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Which part of the forecasts of late were right.
    pub(super) fn right(&self) -> f64 {
        self.right
    }

    /// Which part of the guesses lead to a level that is not reached now within the last horizon, by their weights; and
    /// after how many seconds, on the mean.
    pub(super) fn led_to(&self, level: f64) -> Led {
        let Some(point) = self.recent.newest() else { return Led::default() };
        let mut each: [Led; GUESSES] = std::array::from_fn(|guess| {
            let way: Path = std::array::from_fn(|knot| self.ways[knot][guess]);
            reaches(level, point.ratio, &way).map_or(Led::default(), |seconds| Led { part: 1.0, seconds })
        });
        for (guesses, reach) in ECHO_GUESSES.into_iter().zip(0..) {
            if let Some(led) = self.echoes.led_to(reach, point, level, KNOTS[KNOTS.len() - 1].0) {
                for (guess, led) in guesses.into_iter().zip(led) {
                    each[guess] = led;
                }
            }
        }
        let [[level_guess, shape_guess], ..] = ECHO_GUESSES;
        let (by_level, by_shape) = (each[level_guess], each[shape_guess]);
        let seconds = by_level.part * by_level.seconds + by_shape.part * by_shape.seconds;
        let part = by_level.part + by_shape.part;
        each[GUESSES - 1] = Led { part: 0.5 * part, seconds: seconds / part.max(f64::MIN_POSITIVE) };
        let mut sum = Led::default();
        for (led, weight) in each.iter().zip(&self.weights) {
            sum.part += weight * led.part;
            sum.seconds += weight * led.part * led.seconds;
        }
        Led { part: sum.part, seconds: if sum.part > 0.0 { sum.seconds / sum.part } else { 0.0 } }
    }

    /// After how many seconds a level is reached on a clean line, where there is one and too little speaks against it: only
    /// this part of the guesses leads there. Guesses that were right while all was still need more than half a minute to
    /// lose their say, which is when a fast climb has to be told.
    pub(super) fn runs_into(&self, level: f64, part: f64) -> Option<f64> {
        let lines = self.lines?;
        let [half, line, ..] = lines.lines;
        let rise = line.slope * line.seconds;
        let is_clean = rise > CLEAN_RISE
            && rise > CLEAN * line.spread
            && line.seconds >= CLEAN_SECONDS_MIN
            && half.slope > 0.5 * line.slope;
        let is_believed = part >= CLEAN_PART || self.recent.seconds() <= COLD_SECONDS;
        let seconds = (level - lines.now.ratio) / line.slope;
        (is_clean && is_believed && seconds <= CLEAN_AHEAD_SECONDS).then_some(seconds)
    }

    /// How fast it changes now.
    pub(super) fn slope(&self) -> f64 {
        self.lines.map_or(0.0, |lines| lines.robust[0].slope)
    }

    /// For how long it has not fallen.
    pub(super) fn rise_seconds(&self) -> f64 {
        self.lines.map_or(0.0, |lines| lines.rise.seconds)
    }

    /// How it drifts on the whole; none where that is not steady.
    pub(super) fn drift(&self) -> Option<Drift> {
        let [_, middle, long] = self.lines?.robust;
        let is_steady = middle.slope > 0.5 * long.slope && long.slope > 0.5 * middle.slope;
        (is_steady && long.seconds >= DRIFT_SECONDS_MIN)
            .then_some(Drift { slope: long.slope, seconds: long.seconds })
    }

    /// Takes the next sample, which is not earlier than the one before.
    pub(super) fn record(&mut self, seconds: f64, ratio: f64) {
        let point = Point { seconds, ratio };
        let mut before = self.recent.newest();
        if before.is_some_and(|before| seconds - before.seconds > GAP_SECONDS_MAX) {
            self.recent.clear();
            self.echoes.clear();
            self.waiting.clear();
            before = None;
        }
        self.recent.push(point);
        self.echoes.fill(before, point);
        if let Some(before) = before {
            self.settle(before, point);
        }
        let lines = Lines::of(&self.recent, point);
        self.lines = Some(lines);
        let signs = signs(&lines);
        let weather = lines.weather();
        let weights: [_; 3] = std::array::from_fn(|at| self.mixtures[at].weights(weather));
        self.weights = std::array::from_fn(|guess| {
            weights.iter().map(|weights| weights[guess]).sum::<f64>() / HORIZONS.len() as f64
        });
        let mut kept = [[0.0; GUESSES]; 3];
        for (knot, (ahead, horizon)) in KNOTS.iter().enumerate() {
            let learned = self.learned[*horizon].change(&signs) * (ahead / HORIZONS[*horizon]).sqrt();
            let all = guesses(&lines, &self.echoes, ratio + learned, *ahead);
            self.ways[knot] = all;
            self.path[knot] = middle(&all, &weights[*horizon]);
            if *ahead == HORIZONS[*horizon] {
                kept[*horizon] = all;
            }
        }
        let is_due = self.waiting.back().is_none_or(|last| seconds - last.seconds >= KEEP_SECONDS);
        if is_due && self.waiting.len() < WAITING_MAX {
            self.waiting.push_back(Waiting {
                seconds,
                ratio,
                signs,
                weather,
                guesses: kept,
                said: at_horizons(&self.path),
                due: 0,
            });
        }
    }

    /// Judges the forecasts whose time has come.
    fn settle(&mut self, before: Point, point: Point) {
        let passed = (point.seconds - before.seconds).max(f64::MIN_POSITIVE);
        for waiting in &mut self.waiting {
            while waiting.due < HORIZONS.len() && waiting.seconds + HORIZONS[waiting.due] <= point.seconds {
                let due = waiting.due;
                let share = (waiting.seconds + HORIZONS[due] - before.seconds) / passed;
                let actual = before.ratio + (point.ratio - before.ratio) * share.clamp(0.0, 1.0);
                self.mixtures[due].learn(waiting.weather, &waiting.guesses[due], actual);
                self.learned[due].learn(&waiting.signs, actual - waiting.ratio);
                let is_right = (waiting.said[due] - actual).abs() <= RIGHT_WITHIN;
                self.right += 0.02 * (f64::from(u8::from(is_right)) - self.right);
                waiting.due += 1;
            }
        }
        while self.waiting.front().is_some_and(|first| first.due == HORIZONS.len()) {
            self.waiting.pop_front();
        }
    }
}
