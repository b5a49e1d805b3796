//! The service as its clients meet it: the real program on a port of its own, spoken to over sockets, byte by byte.
//!
//! Every answer that the client of `support/` reads is held against `/openapi.json` and the rules for problem bodies
//! on the way, so a test that only looks at a status still proves those. Each test starts its own server, with
//! nothing of this machine's configuration, and ends it.

mod admission;
mod advise;
mod allocations;
mod arena_bodies;
mod arena_races;
mod arenas;
mod bad_bodies;
mod bad_requests;
mod batch;
mod cancel;
mod compaction;
mod connections;
mod content;
mod description;
mod doctor;
mod framing;
mod full_pool;
mod health;
mod hunts;
mod idempotency;
mod inflight;
mod large_objects;
mod leaks;
mod leases;
mod logs;
mod metrics;
mod one_shot;
mod peers;
mod pressure;
mod pressure_monitor;
mod readers;
mod recommendations;
mod slow_clients;
mod soak;
mod stopping;
mod support;
mod tags;
mod twin;
mod waiting;
