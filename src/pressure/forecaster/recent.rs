//! The samples of late: what slopes and levels are taken from.

use std::collections::VecDeque;

/// Points kept. With one a second they reach back over five minutes.
pub(super) const POINTS_MAX: usize = 320;

/// Points are at least so far apart, but for the newest: of samples that come faster the last of each second is kept.
const POINT_SECONDS: f64 = 1.0;

/// How full it was when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) seconds: f64,
    pub(super) ratio: f64,
}

/// The last points, oldest first.
#[derive(Clone, Debug)]
pub(super) struct Recent {
    points: VecDeque<Point>,
}

/// A line that ends now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    /// Where it stands now.
    pub(super) level: f64,
    pub(super) slope: f64,
    /// How far points lie from it: the root of the mean square.
    pub(super) spread: f64,
    /// What its points cover, at most what was asked for.
    pub(super) seconds: f64,
}

impl Recent {
    pub(super) fn new() -> Self {
        Self { points: VecDeque::with_capacity(POINTS_MAX) }
    }

    pub(super) fn push(&mut self, point: Point) {
        let len = self.points.len();
        // Until the newest is a second older than the one before it, the next takes its place: so of points at one time
        // there is one.
        let is_open = len >= 2 && self.points[len - 1].seconds - self.points[len - 2].seconds < POINT_SECONDS;
        if is_open || self.newest().is_some_and(|newest| newest.seconds >= point.seconds) {
            self.points[len - 1] = point;
            return;
        }
        if len == POINTS_MAX {
            self.points.pop_front();
        }
        self.points.push_back(point);
    }

    pub(super) fn clear(&mut self) {
        self.points.clear();
    }

    pub(super) fn newest(&self) -> Option<Point> {
        self.points.back().copied()
    }

    /// What the points cover.
    pub(super) fn seconds(&self) -> f64 {
        match (self.points.front(), self.points.back()) {
            (Some(oldest), Some(newest)) => newest.seconds - oldest.seconds,
            _ => 0.0,
        }
    }

    /// The points of the last so many seconds, newest first; three at least where there are.
    pub(super) fn back(&self, seconds: f64) -> impl Iterator<Item = Point> + '_ {
        let now = self.newest().map_or(0.0, |newest| newest.seconds);
        let points = self.points.iter().rev().copied().enumerate();
        points
            .take_while(move |(at, point)| *at < 3 || now - point.seconds <= seconds)
            .map(|(_, point)| point)
    }
}

impl Line {
    /// Nothing moves.
    pub(super) fn still(level: f64) -> Line {
        Line { level, slope: 0.0, spread: 0.0, seconds: 0.0 }
    }

    /// Where it stands in so many seconds.
    pub(super) fn after(&self, seconds: f64) -> f64 {
        self.level + self.slope * seconds
    }
}

/// Least squares through points, newest first.
pub(super) fn fit(points: impl Iterator<Item = Point>) -> Line {
    let (mut count, mut sum, mut sum_x, mut sum_xx, mut sum_xy, mut sum_yy) = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0);
    let (mut newest, mut reach) = (None, 0.0);
    for point in points {
        let Point { seconds: now, ratio: last } = *newest.get_or_insert(point);
        let (x, y) = (point.seconds - now, point.ratio - last);
        count += 1.0;
        sum += y;
        sum_x += x;
        sum_xx += x * x;
        sum_xy += x * y;
        sum_yy += y * y;
        reach = -x;
    }
    let last = newest.map_or(0.0, |newest| newest.ratio);
    let width = count * sum_xx - sum_x * sum_x;
    if count < 2.0 || width <= 0.0 {
        return Line::still(last);
    }
    let slope = (count * sum_xy - sum_x * sum) / width;
    let level = (sum - slope * sum_x) / count;
    let square = (sum_yy - level * sum - slope * sum_xy) / count;
    Line { level: last + level, slope, spread: square.max(0.0).sqrt(), seconds: reach }
}
