//! What the forecaster is compared with: the line through the last 60 s, and a plain mixture.

use super::score::{CRITICAL, Forecasts, HORIZONS, Said};
use std::collections::VecDeque;

const KEPT_SECONDS: f64 = 3600.0;

/// Ordinary least squares over the last 60 s.
#[derive(Default)]
pub struct Line {
    looks: VecDeque<(f64, f64)>,
}

/// Last value, lines over several windows and what came one period ago, weighted by their recent errors.
#[derive(Default)]
pub struct PlainMixture {
    looks: VecDeque<(f64, f64)>,
    /// Until when, what each guessed.
    waiting: [VecDeque<(f64, [f64; GUESSES])>; 3],
    errors: [[f64; GUESSES]; 3],
}

const GUESSES: usize = 6;
const WINDOWS_SECONDS: [f64; 4] = [15.0, 60.0, 120.0, 300.0];

impl Forecasts for Line {
    fn look(&mut self, seconds: f64, ratio: f64) -> Said {
        self.looks.push_back((seconds, ratio));
        while self.looks[0].0 < seconds - 60.0 {
            self.looks.pop_front();
        }
        let (level, slope) = line(&self.looks, 60.0);
        said(ratio, HORIZONS.map(|ahead| level + slope * ahead))
    }
}

/// Where a line through the last so many seconds stands now, and how it rises.
fn line(looks: &VecDeque<(f64, f64)>, window: f64) -> (f64, f64) {
    let (now, last) = looks[looks.len() - 1];
    let (mut count, mut sum, mut sum_x, mut sum_xx, mut sum_xy) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for (seconds, ratio) in looks.iter().rev().take_while(|(seconds, _)| now - seconds <= window) {
        let x = seconds - now;
        count += 1.0;
        sum += ratio;
        sum_x += x;
        sum_xx += x * x;
        sum_xy += x * ratio;
    }
    let spread = count * sum_xx - sum_x * sum_x;
    if count < 2.0 || spread <= 0.0 {
        return (last, 0.0);
    }
    let slope = (count * sum_xy - sum_x * sum) / spread;
    ((sum - slope * sum_x) / count, slope)
}

/// The path between the horizons is straight.
fn said(ratio: f64, predicted: [f64; 3]) -> Said {
    let predicted = predicted.map(|value| value.clamp(0.0, 1.0));
    let (mut from, mut below) = (0.0, ratio);
    let mut seconds_to_critical = (ratio >= CRITICAL).then_some(0.0);
    for (ahead, value) in HORIZONS.iter().zip(predicted) {
        if seconds_to_critical.is_none() && value >= CRITICAL {
            seconds_to_critical = Some(from + (ahead - from) * (CRITICAL - below) / (value - below));
        }
        (from, below) = (*ahead, value);
    }
    Said { predicted, seconds_to_critical }
}

impl PlainMixture {
    fn guesses(&self, ahead: f64) -> [f64; GUESSES] {
        let (now, last) = self.looks[self.looks.len() - 1];
        let mut guesses = [last; GUESSES];
        for (guess, window) in guesses[1..].iter_mut().zip(WINDOWS_SECONDS) {
            let (level, slope) = line(&self.looks, window);
            *guess = (level + slope * ahead).clamp(0.0, 1.0);
        }
        // What differed least one period ago, over the last 60 s.
        let mut least = f64::INFINITY;
        for step in 12..180 {
            let period = 10.0 * f64::from(step);
            if now - period - 60.0 < self.looks[0].0 {
                break;
            }
            let differs: f64 = (0..=6)
                .map(|part| {
                    let back = 10.0 * f64::from(part);
                    (self.value_at(now - back) - self.value_at(now - back - period)).abs()
                })
                .sum();
            if differs < least {
                least = differs;
                guesses[GUESSES - 1] = self.value_at(now - period + ahead);
            }
        }
        guesses
    }

    fn value_at(&self, seconds: f64) -> f64 {
        let after = self.looks.partition_point(|look| look.0 < seconds).clamp(1, self.looks.len() - 1);
        let ((start, before), (end, value)) = (self.looks[after - 1], self.looks[after]);
        before + (value - before) * (seconds - start) / (end - start)
    }
}

impl Forecasts for PlainMixture {
    fn look(&mut self, seconds: f64, ratio: f64) -> Said {
        self.looks.push_back((seconds, ratio));
        while self.looks[0].0 < seconds - KEPT_SECONDS {
            self.looks.pop_front();
        }
        let mut predicted = [ratio; 3];
        for (horizon, ahead) in HORIZONS.iter().enumerate() {
            while let Some((due, guesses)) = self.waiting[horizon].front().copied()
                && due <= seconds
            {
                self.waiting[horizon].pop_front();
                let actual = self.value_at(due);
                for (error, guess) in self.errors[horizon].iter_mut().zip(guesses) {
                    *error = 0.97 * *error + 0.03 * (guess - actual).abs();
                }
            }
            let guesses = self.guesses(*ahead);
            self.waiting[horizon].push_back((seconds + ahead, guesses));
            let weights = self.errors[horizon].map(|error| (error + 0.002).powi(-3));
            let sum: f64 = weights.iter().zip(guesses).map(|(weight, guess)| weight * guess).sum();
            predicted[horizon] = sum / weights.iter().sum::<f64>();
        }
        said(ratio, predicted)
    }
}
