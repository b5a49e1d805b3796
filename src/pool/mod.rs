//! Whose, for how long, may they? (the room is being built)
pub mod config;
pub use config::Config;
