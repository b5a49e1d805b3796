//! Which bytes? (the room is being built)
pub mod config;
pub use config::{ClassConfig, Config};
