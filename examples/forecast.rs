//! Batch jobs that fill memory and free it, seen by the forecaster: it learns where they end. Then something leaks
//! beneath them.
//!
//! ```text
//! cargo run --no-default-features --example forecast
//! ```

use maas::pressure::{Action, Forecast, Forecaster, Level, Sample, SampleError, Watermarks};

/// What memory there is.
const TOTAL_BYTES: u64 = 1 << 30;
/// How far samples are apart.
const EVERY_SECONDS: f64 = 5.0;

fn main() -> Result<(), SampleError> {
    let mut forecaster = Forecaster::new(Watermarks::default());
    let mut look = |at: u32, used: f64| -> Result<Forecast, SampleError> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is 0 to 1 of the total"
        )]
        let used_bytes = (used * TOTAL_BYTES as f64) as u64;
        forecaster.record(Sample {
            seconds: f64::from(at) * EVERY_SECONDS,
            used_bytes,
            total_bytes: TOTAL_BYTES,
        })?;
        Ok(forecaster.forecast().expect("there was a sample"))
    };

    // Jobs of 200 s: each fills 70 % of the memory, and frees it at once.
    let job = |at: u32| 0.1 + 0.7 * f64::from(at % 40) / 40.0;
    for at in 0..270 {
        look(at, job(at))?;
    }
    let forecast = look(270, job(270))?;
    let [soon, later, last] = forecast.predicted.map(|part| 100.0 * part);
    println!("150 s into a job {:.0} % are in use", 100.0 * forecast.ratio);
    println!("in 30 s {soon:.0} %, in 60 s, when the next has begun, {later:.0} %, in 120 s {last:.0} %");
    println!("to do: {}", forecast.action.name());

    // The same with a leak: the jobs' ends come nearer to the limit.
    let mut at = 271;
    let forecast = loop {
        let leaked = 0.0004 * f64::from(at - 271);
        let forecast = look(at, job(at) + leaked)?;
        if forecast.action >= Action::AggressiveReclaim {
            break forecast;
        }
        at += 1;
    };
    let critical = usize::from(Level::Critical.number()) - 1;
    let seconds = forecast.seconds_to[critical].expect("that is why");
    println!("a leak: at {:.0} % it says that {:.0} s are left to 90 %", 100.0 * forecast.ratio, seconds);

    let refused = forecaster.record(Sample { seconds: 0.0, used_bytes: 0, total_bytes: TOTAL_BYTES });
    println!("time does not go back: {}", refused.expect_err("it went back"));
    Ok(())
}
