//! The service as its clients meet it: the real program on a port of its own, spoken to over sockets, byte by byte.
//!
//! Every answer that the client of `support/` reads is held against `/openapi.json` and the rules for problem bodies
//! on the way, so a test that only looks at a status still proves those. Each test starts its own server, with
//! nothing of this machine's configuration, and ends it.

mod advise;
