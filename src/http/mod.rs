//! How is it said on the wire? (the room is being built)
pub mod config;
pub use config::Config;
