//! How is it said on the wire? Routes, JSON, status codes, and the sockets they travel through.
//!
//! ```text
//!   sockets      server.rs ▶ listener.rs, driver.rs, protocol.rs, socket.rs, connection.rs, exchange.rs
//!                accept, bound, count, drain; body.rs holds request bodies to a minimum rate; traffic.rs counts
//!   around all   api.rs: one function around the routes; counters.rs, request_id.rs, error.rs
//!   routes       routes.rs ▶ allocate.rs, service.rs; fields.rs and query.rs parse what clients send
//! ```
//!
//! Reading order: `api.rs`, `routes.rs`, `allocate.rs`, `error.rs`; then `server.rs` and `driver.rs`.

mod allocate;
pub mod api;
pub mod body;
pub mod config;
mod connection;
mod counters;
mod driver;
mod error;
mod exchange;
mod fields;
pub mod listener;
mod protocol;
mod query;
mod request_id;
mod routes;
pub mod server;
mod service;
mod socket;
pub mod traffic;

pub use config::Config;
pub use exchange::Arrival;

#[cfg(all(test, not(feature = "loom")))]
mod tests;
