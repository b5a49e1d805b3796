//! How is it said on the wire? Routes, JSON, status codes, and the sockets they travel through.
//!
//! ```text
//!   sockets      server.rs ▶ listener.rs, signal.rs, driver.rs, protocol.rs, socket.rs, connection.rs, exchange.rs
//!                accept, bound, count, drain; body.rs holds request bodies to a minimum rate; traffic.rs counts
//!   around all   answer.rs: one function around the routes; counters.rs, request_id.rs, error.rs
//!   routes       routes.rs ▶ allocate.rs, one_shot.rs, batch.rs, content.rs, advise.rs, arenas.rs, service.rs, pressure.rs,
//!                leaks.rs, doctor.rs, recommendations.rs ▶ api.rs, what they share; events.rs tells those who listen,
//!                origins.rs knows which request made what
//!   words        fields.rs, batch_body.rs, arena_body.rs, query.rs and options.rs parse what clients send; allocation.rs is what they
//!                get; idempotent.rs knows those who come twice; description.rs is the OpenAPI document
//! ```
//!
//! Reading order: `answer.rs`, `routes.rs`, `allocate.rs`, `error.rs`; then `server.rs` and `driver.rs`.

mod admission;
mod advise;
mod allocate;
mod allocation;
pub mod answer;
pub mod api;
mod arena_body;
mod arena_stats;
mod arenas;
mod batch;
mod batch_body;
pub mod body;
mod conditions;
pub mod config;
mod connection;
mod content;
mod counters;
mod description;
mod doctor;
mod driver;
mod error;
mod events;
mod exchange;
mod fields;
mod health;
mod idempotent;
mod large_objects;
mod leaks;
pub mod listener;
mod one_shot;
mod options;
mod origins;
mod pressure;
mod protocol;
mod query;
mod recommendations;
mod request_id;
mod routes;
pub mod server;
mod service;
pub mod signal;
mod socket;
pub mod traffic;
mod upkeep;

pub use config::Config;
pub use exchange::Arrival;
pub use origins::BYTES_MAX as ORIGINS_BYTES_MAX;

/// The version that is told to clients.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

#[cfg(all(test, not(feature = "loom")))]
mod tests;
