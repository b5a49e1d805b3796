//! What can be set about the HTTP server.

use crate::limits::Root;
use std::time::Duration;

/// Configuration of the HTTP server: where it listens, and every bound it holds clients to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Address or host name to listen on. Default: 127.0.0.1.
    pub host: String,
    /// Port to listen on; 0 lets the system choose. Default: 3000.
    pub port: u16,
    /// Connections at once; one more gets a 503 and is closed. Bounded by the file limit. Default: 10,000.
    pub max_connections: u32,
    /// Time from a request's first byte (or the connection's opening) to the end of its header; also the grace of
    /// the minimum body rate. Default: 10 s.
    pub header_timeout: Duration,
    /// Time a connection may stand idle between requests. Default: 300 s.
    pub idle_timeout: Duration,
    /// Bytes a second that a body must bring, and a reader must take, after the grace. Default: 1024; 0 = no minimum.
    pub min_body_bytes_per_second: u64,
    /// Largest JSON body, in bytes. Default: 1 MiB.
    pub body_limit: u64,
    /// Time running requests have to finish when the server is asked to stop. Default: 20 s.
    pub drain_timeout: Duration,
    /// Between two events that tell how full memory is: `pressure.interval`, which is no key of this room. Default: 5 s.
    pub event_interval: Duration,
    /// The directory that the doctor reads the machine below: `pressure.cgroup_root`, which is no key of this room.
    /// Default: `/`.
    pub system_root: Root,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            host: "127.0.0.1".to_owned(),
            port: 3000,
            max_connections: 10_000,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(300),
            min_body_bytes_per_second: 1024,
            body_limit: 1 << 20,
            drain_timeout: Duration::from_secs(20),
            event_interval: crate::pressure::Config::default().interval,
            system_root: Root::default(),
        }
    }
}
