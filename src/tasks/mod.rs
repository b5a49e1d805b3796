//! What happens when time passes? (the room is being built)
pub mod config;
pub use config::{BackendConfig, PrometheusConfig};
