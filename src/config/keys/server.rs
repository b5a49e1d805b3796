//! What can be set about the server: the section `server`.

use super::{Access, Key, SPAN, bytes, duration, number, text};
use crate::config::checks::{self, SIZE_BYTES_MAX};

/// In the order of `config.toml`.
pub(super) const KEYS: &[Key] = &[
    Key {
        name: "server.host",
        short: Some("SERVER_HOST"),
        meaning: "Address or host name to listen on, without the port; 0.0.0.0 or :: is every interface.",
        access: Access::Single {
            set: |draft, raw| checks::host(raw.text()?).map(|host| draft.config.server.host = host),
            show: |config| text(&config.server.host),
        },
    },
    Key {
        name: "server.port",
        short: Some("SERVER_PORT"),
        meaning: "Port to listen on, 0 to 65535; 0 lets the system choose one.",
        access: Access::Single {
            set: |draft, raw| raw.number(0..=u16::MAX).map(|port| draft.config.server.port = port),
            show: |config| number(config.server.port),
        },
    },
    Key {
        name: "server.worker_threads",
        short: None,
        meaning: "Threads that serve requests, 0 to 1024; 0 is one for each CPU.",
        access: Access::Single {
            set: |draft, raw| raw.number(0..=1024).map(|threads| draft.config.worker_threads = threads),
            show: |config| number(config.worker_threads),
        },
    },
    Key {
        name: "server.max_connections",
        short: None,
        meaning: "Connections at once, at least 1; one more gets a 503 and is closed. Lowered, with a warning, to \
                  128 below the limit of open files.",
        access: Access::Single {
            set: |draft, raw| {
                raw.number(1..=u32::MAX).map(|count| draft.config.server.max_connections = count)
            },
            show: |config| number(config.server.max_connections),
        },
    },
    Key {
        name: "server.header_timeout",
        short: None,
        meaning: "Time a client has to send the whole header of a request, also the first; 1ms to 365 days.",
        access: Access::Single {
            set: |draft, raw| raw.duration(SPAN).map(|time| draft.config.server.header_timeout = time),
            show: |config| duration(config.server.header_timeout),
        },
    },
    Key {
        name: "server.idle_timeout",
        short: None,
        meaning: "Time a connection may stand idle between requests; 1ms to 365 days.",
        access: Access::Single {
            set: |draft, raw| raw.duration(SPAN).map(|time| draft.config.server.idle_timeout = time),
            show: |config| duration(config.server.idle_timeout),
        },
    },
    Key {
        name: "server.min_body_bytes_per_second",
        short: None,
        meaning: "Bytes a second that a body must bring, and a reader of an answer must take, once header_timeout \
                  has passed; 0 is no minimum.",
        access: Access::Single {
            set: |draft, raw| {
                raw.size(0..=SIZE_BYTES_MAX)
                    .map(|bytes| draft.config.server.min_body_bytes_per_second = bytes)
            },
            show: |config| bytes(config.server.min_body_bytes_per_second),
        },
    },
    Key {
        name: "server.body_limit",
        short: None,
        meaning: "Largest JSON body, in bytes, at least 1; block content is not bounded by it.",
        access: Access::Single {
            set: |draft, raw| {
                raw.size(1..=SIZE_BYTES_MAX).map(|bytes| draft.config.server.body_limit = bytes)
            },
            show: |config| bytes(config.server.body_limit),
        },
    },
    Key {
        name: "server.drain_timeout",
        short: None,
        meaning: "Time running requests have to finish when the server is asked to stop; 1ms to 365 days.",
        access: Access::Single {
            set: |draft, raw| raw.duration(SPAN).map(|time| draft.config.server.drain_timeout = time),
            show: |config| duration(config.server.drain_timeout),
        },
    },
];
