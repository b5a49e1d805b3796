//! How full, and when full? Samples go in; levels, forecasts and what to do about them come out. Where samples come from
//! is nothing to this room.
//!
//! ```text
//!   level.rs       five levels, and the watermarks between them
//!   gauge.rs       the level at this instant, shared by all who ask, and what was forecast last
//!   forecast.rs    what a forecast says: ratios to come, trend, seconds to each watermark, what to do
//!   forecaster.rs  from samples to a forecast
//!   watch.rs       one look after the other, of all that bounds the memory, and what is to be expected after each
//!   steering.rs    when to do what is recommended
//!   relief.rs      when there will be room again, by a forecast
//!   config.rs      what can be set
//! ```

pub mod config;

mod forecast;
mod forecaster;
mod gauge;
mod level;
mod relief;
mod steering;
mod watch;

pub use config::Config;
pub use forecast::{Action, Forecast, HORIZONS_SECONDS, Outlook, Trend};
pub use forecaster::{Forecaster, Sample, SampleError};
pub use gauge::{Change, Gauge, Reading, Source, SystemReading};
pub use level::{HYSTERESIS, Level, Watermarks};
pub use steering::{Order, Steering};
pub use watch::{Look, Watch};
