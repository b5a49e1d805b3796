//! How is it said on the wire? (the room is being built)
pub mod body;
pub mod config;
mod connection;
mod driver;
mod exchange;
pub mod listener;
mod protocol;
pub mod server;
mod socket;
pub mod traffic;
pub use config::Config;
pub use exchange::Arrival;
#[cfg(test)]
mod tests;
