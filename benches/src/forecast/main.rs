//! How good the forecaster is, against the line through the last minute and a plain mixture: on the traces that it was
//! tuned on, and on those that it was not.
//!
//! ```text
//!   traces.rs  families of traces, from seeds
//!   rivals.rs  the line, and the plain mixture
//!   score.rs   errors, crossings, alarms: what each word means
//! ```
//!
//! ```text
//! cargo run --release --manifest-path benches/Cargo.toml --bin forecast [TRACES OF EACH FAMILY]
//! ```

mod rivals;
mod score;
mod traces;

use maas::pressure::{Forecaster, Level, Sample, Watermarks};
use rivals::{Line, PlainMixture};
use score::{Forecasts, HORIZONS, Said, Score, score};
use std::time::Instant;
use traces::{Draw, HELD_OUT_FAMILIES, Trace, traces};

/// Traces of each family where nothing else is wished.
const TRACES_EACH: u64 = 40;

/// What memory there is, where a trace has only ratios.
const TOTAL_BYTES: u64 = 1 << 36;

/// What is asked for on traces that the forecaster was not tuned on.
const ANNOUNCED_MIN: f64 = 0.95;
const FALSE_MAX: f64 = 0.05;
const ERROR_MAX: f64 = 0.55;

/// The forecaster, as a program would call it.
struct Ours(Forecaster);

impl Forecasts for Ours {
    fn look(&mut self, seconds: f64, ratio: f64) -> Said {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a ratio is 0 to 1")]
        let used_bytes = (ratio * TOTAL_BYTES as f64) as u64;
        self.0.record(Sample { seconds, used_bytes, total_bytes: TOTAL_BYTES }).expect("a trace is well-formed");
        let forecast = self.0.forecast().expect("there was a sample");
        let critical = usize::from(Level::Critical.number()) - 1;
        Said { predicted: forecast.predicted, seconds_to_critical: forecast.seconds_to[critical] }
    }
}

/// Of the line, the plain mixture and ours.
type Scores = [Score; 3];

const NAMES: [&str; 3] = ["line", "plain mixture", "maas"];

fn main() {
    let each = std::env::args().nth(1).map_or(TRACES_EACH, |count| count.parse().expect("a number of traces"));
    for draw in [Draw::Tuned, Draw::HeldOut] {
        let heading = match draw {
            Draw::Tuned => "traces it was tuned on",
            Draw::HeldOut => "traces it was not tuned on: other seeds, other ranges, and families of their own (*)",
        };
        println!("== {heading}; {each} of each family ==\n");
        let mut whole: Scores = Default::default();
        let mut looks = 0;
        let mut ours_seconds = 0.0;
        print_heading();
        let traces = traces(draw, each);
        for family in traces.chunk_by(|one, next| one.family == next.family) {
            let mut scores: Scores = Default::default();
            for trace in family {
                scores[0].add(&score(trace, &mut Line::default()));
                scores[1].add(&score(trace, &mut PlainMixture::default()));
                let start = Instant::now();
                scores[2].add(&score(trace, &mut Ours(Forecaster::new(Watermarks::default()))));
                ours_seconds += start.elapsed().as_secs_f64();
                looks += trace.seconds.len();
            }
            print_scores(&name(&family[0]), &scores);
            whole.iter_mut().zip(&scores).for_each(|(whole, scores)| whole.add(scores));
        }
        print_scores("all", &whole);
        println!("\nrecord and forecast, with their judgement: {:.1} us\n", 1e6 * ours_seconds / looks as f64);
        if draw == Draw::HeldOut {
            print_targets(&whole);
        }
    }
}

fn name(trace: &Trace) -> String {
    let is_own = HELD_OUT_FAMILIES.iter().any(|(family, _)| *family == trace.family);
    format!("{}{}", trace.family, if is_own { " *" } else { "" })
}

fn print_heading() {
    println!(
        "{:<14}{:<14}|{:^33}|{:^13}|{:^13}|{:^6}|{:^15}|{:^20}",
        "",
        "",
        "error in points, and / line's",
        "announced",
        "… seen 60 s",
        "lead",
        "false alarms",
        "false looks / all"
    );
}

fn print_scores(family: &str, scores: &Scores) {
    for (name, score) in NAMES.iter().zip(scores) {
        let errors: Vec<String> = (0..HORIZONS.len())
            .map(|at| format!("{:5.2} {:4.2}", 100.0 * score.error(at), score.error(at) / scores[0].error(at)))
            .collect();
        let mut leads = score.leads.clone();
        leads.sort_unstable_by(f64::total_cmp);
        let lead = leads.get(leads.len() / 2).map_or_else(String::new, |lead| format!("{lead:.0} s"));
        let of = |part: u64, whole: u64| if whole == 0 { String::new() } else { format!("{part} / {whole}") };
        println!(
            "{:<14}{:<14}|{:^33}|{:^13}|{:^13}|{:>5} |{:^15}|{:^20}",
            if *name == "line" { family } else { "" },
            name,
            errors.join(" "),
            of(score.announced, score.counted),
            of(score.seen_announced, score.seen),
            lead,
            of(score.false_episodes, score.episodes),
            format!("{} / {} / {}", score.false_alarms, score.alarms, score.forecasts[0]),
        );
    }
}

fn print_targets(whole: &Scores) {
    let ours = &whole[2];
    let tell = |what: &str, value: f64, is_met: bool, bound: String| {
        println!("{what:<58}{:6.1} %   {bound}: {}", 100.0 * value, if is_met { "met" } else { "NOT met" });
    };
    let part = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
    let announced = |what, value: f64| {
        tell(what, value, value >= ANNOUNCED_MIN, format!("at least {:.0} %", 100.0 * ANNOUNCED_MIN));
    };
    announced("crossings announced", part(ours.announced, ours.counted));
    announced("… of which 30 s of growth could be seen in time", part(ours.seen_announced, ours.seen));
    let alarms = |what, value: f64| {
        tell(what, value, value < FALSE_MAX, format!("less than {:.0} %", 100.0 * FALSE_MAX));
    };
    alarms("alarm episodes that were false", part(ours.false_episodes, ours.episodes));
    alarms("alarmed looks that were false, of all alarmed looks", part(ours.false_alarms, ours.alarms));
    alarms("alarmed looks that were false, of all looks", part(ours.false_alarms, ours.forecasts[0]));
    for (at, ahead) in HORIZONS.iter().enumerate() {
        let ratio = ours.error(at) / whole[0].error(at);
        let bound = format!("at most {:.0} %", 100.0 * ERROR_MAX);
        tell(&format!("error at {ahead} s against the line's"), ratio, ratio <= ERROR_MAX, bound);
    }
}
