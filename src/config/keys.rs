//! The table of keys: everything that can be set, once.
//!
//! A row has the dotted name, the short environment name where there is one, what the key means with its unit and
//! bounds, how to set it from a raw value and how to show it. The sources look names up here, the report walks the
//! table, and tests hold `config.toml` and `.env.example` against it. A key is added here when its feature is.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::checks::{self, SIZE_BYTES_MAX};
use super::values::{Raw, hide_credentials};
use super::{Config, Draft, PoolSize};
use crate::memory::ClassConfig;
use crate::units::ByteCount;

/// One thing that can be set.
pub struct Key {
    /// Dotted name; `SIZE` stands for a class's size.
    pub name: &'static str,
    /// Short name in the environment.
    pub short: Option<&'static str>,
    /// What it means, with unit and bounds; `config.toml` says the same words.
    pub meaning: &'static str,
    pub(super) access: Access,
}

/// How a key's value is set and shown.
pub(super) enum Access {
    /// One value of the whole configuration.
    Single { set: fn(&mut Draft, &Raw) -> Result<(), String>, show: fn(&Config) -> Shown },
    /// One value for each class; shown where it is set.
    Class { set: fn(&mut ClassConfig, &Raw) -> Result<(), String>, show: fn(&ClassConfig) -> Option<Shown> },
}

/// A value the way a user reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    /// As TOML.
    pub(super) toml: String,
    /// The same in another unit, where that helps.
    pub(super) note: Option<String>,
}

/// Every timeout and interval lies in this range: zero would spin, and a deadline centuries ahead overflows clocks.
const SPAN: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(365 * 86_400);

/// Live allocations at most: the bits that an allocation's id has for its place in the table.
const ALLOCATIONS_MAX: u32 = 1 << 24;

/// Every key, in the order of `config.toml`.
pub static KEYS: &[Key] = &[
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
    Key {
        name: "memory.slab_sizes",
        short: Some("SLAB_SIZES"),
        meaning: "Size classes in bytes, 1 to 64 of them in any order, no two alike, multiples of 8; a request \
                  takes the smallest that holds it.",
        access: Access::Single {
            set: |draft, raw| checks::slab_sizes(raw).map(|sizes| draft.config.memory.slab_sizes = sizes),
            show: |config| sizes(&config.memory.slab_sizes),
        },
    },
    Key {
        name: "memory.max_pool_size",
        short: Some("MAX_POOL_SIZE"),
        meaning: "The hard limit on bytes that all slabs hold, from the smallest class to 64 TiB. Without it: 1 GiB, \
                  or 75 % of the smallest memory limit above us (cgroup, RAM) where that is less. \"auto\" is that \
                  75 %.",
        access: Access::Single {
            set: |draft, raw| {
                draft.pool_size = match raw {
                    raw if raw.is_auto() => PoolSize::Auto,
                    raw => PoolSize::Bytes(raw.size(1..=SIZE_BYTES_MAX)?),
                };
                Ok(())
            },
            show: |config| bytes(config.memory.max_pool_size),
        },
    },
    Key {
        name: "memory.initial_slabs_per_size",
        short: Some("INITIAL_SLABS_PER_SIZE"),
        meaning: "Slabs of each class made ready at start, smallest class first, at most 10 % of the pool in all.",
        access: Access::Single {
            set: |draft, raw| {
                raw.number(0..=u32::MAX).map(|count| draft.config.memory.initial_slabs_per_size = count)
            },
            show: |config| number(config.memory.initial_slabs_per_size),
        },
    },
    Key {
        name: "memory.prefault",
        short: None,
        meaning: "Touch the pages of the slabs made ready at start, so that their first write does not fault.",
        access: Access::Single {
            set: |draft, raw| raw.boolean().map(|value| draft.config.memory.prefault = value),
            show: |config| plain(config.memory.prefault),
        },
    },
    Key {
        name: "memory.max_allocation_size",
        short: None,
        meaning: "Largest size in bytes that a request may ask for, at least 1; \"auto\" is the largest size class.",
        access: Access::Single {
            set: |draft, raw| {
                draft.config.pool.max_allocation_size = match raw {
                    raw if raw.is_auto() => None,
                    raw => Some(raw.size(1..=SIZE_BYTES_MAX)?),
                };
                Ok(())
            },
            show: |config| config.pool.max_allocation_size.map_or_else(|| text("auto"), bytes),
        },
    },
    Key {
        name: "memory.max_allocations",
        short: None,
        meaning: "Live allocations at most, 1 to 16777216; \"auto\" is max_pool_size / smallest class, up to that.",
        access: Access::Single {
            set: |draft, raw| {
                draft.config.pool.max_allocations = match raw {
                    raw if raw.is_auto() => None,
                    raw => Some(raw.number(1..=ALLOCATIONS_MAX)?),
                };
                Ok(())
            },
            show: |config| config.pool.max_allocations.map_or_else(|| text("auto"), number),
        },
    },
    Key {
        name: "memory.max_inflight_bytes",
        short: None,
        meaning: "Bytes of request bodies held in memory at once, apart from the pool; at least 1.",
        access: Access::Single {
            set: |draft, raw| {
                raw.size(1..=SIZE_BYTES_MAX).map(|bytes| draft.config.pool.max_inflight_bytes = bytes)
            },
            show: |config| bytes(config.pool.max_inflight_bytes),
        },
    },
    Key {
        name: "memory.write_wait_ms",
        short: None,
        meaning: "Milliseconds that a write waits for readers that hold the room it needs, 0 to 60000.",
        access: Access::Single {
            set: |draft, raw| raw.number(0..=60_000).map(|wait| draft.config.pool.write_wait_ms = wait),
            show: |config| number(config.pool.write_wait_ms),
        },
    },
    Key {
        name: "memory.drain_seconds",
        short: None,
        meaning: "Seconds that a reader may go on with a block that was freed or replaced, 0 to 3600; 1 at most when \
                  its memory is needed.",
        access: Access::Single {
            set: |draft, raw| raw.number(0..=3600).map(|time| draft.config.pool.drain_seconds = time),
            show: |config| number(config.pool.drain_seconds),
        },
    },
    Key {
        name: "memory.classes.SIZE.initial",
        short: None,
        meaning: "Slabs of this class made ready at start, in place of initial_slabs_per_size.",
        access: Access::Class {
            set: |class, raw| raw.number(0..=u32::MAX).map(|count| class.initial = Some(count)),
            show: |class| class.initial.map(number),
        },
    },
    Key {
        name: "memory.classes.SIZE.max_free",
        short: None,
        meaning: "Free slabs of this class kept ready at most; one more gives its bytes back at once. Never bounds \
                  live slabs. Without it: no bound.",
        access: Access::Class {
            set: |class, raw| raw.number(0..=u32::MAX).map(|count| class.max_free = Some(count)),
            show: |class| class.max_free.map(number),
        },
    },
    Key {
        name: "backend.server_url",
        short: Some("BACKEND_SERVER_URL"),
        meaning: "Base URL of the backend that is probed and pushed to, http:// or https://; empty is no backend.",
        access: Access::Single {
            set: |draft, raw| {
                let url = raw.text()?;
                if !url.is_empty() {
                    checks::url(url)?;
                }
                draft.config.backend.server_url = url.to_owned();
                Ok(())
            },
            show: |config| text(&hide_credentials(&config.backend.server_url)),
        },
    },
    Key {
        name: "backend.retry_interval",
        short: Some("BACKEND_RETRY_INTERVAL"),
        meaning: "Wait after the first failure, doubled with each further one; 1ms to retry_interval_max.",
        access: Access::Single {
            set: |draft, raw| raw.duration(SPAN).map(|time| draft.config.backend.retry_interval = time),
            show: |config| duration(config.backend.retry_interval),
        },
    },
    Key {
        name: "backend.timeout",
        short: Some("BACKEND_TIMEOUT"),
        meaning: "Time that one probe or push may take; 1ms to 365 days.",
        access: Access::Single {
            set: |draft, raw| raw.duration(SPAN).map(|time| draft.config.backend.timeout = time),
            show: |config| duration(config.backend.timeout),
        },
    },
    Key {
        name: "backend.retry_interval_max",
        short: None,
        meaning: "Where the doubling of retry_interval stops; retry_interval to 365 days.",
        access: Access::Single {
            set: |draft, raw| raw.duration(SPAN).map(|time| draft.config.backend.retry_interval_max = time),
            show: |config| duration(config.backend.retry_interval_max),
        },
    },
    Key {
        name: "backend.native_after",
        short: None,
        meaning: "Failures in a row, at least 1, from which the local /metrics is declared the way.",
        access: Access::Single {
            set: |draft, raw| raw.number(1..=u32::MAX).map(|count| draft.config.backend.native_after = count),
            show: |config| number(config.backend.native_after),
        },
    },
    Key {
        name: "backend.health_path",
        short: None,
        meaning: "Path below server_url that is probed with GET; begins with \"/\".",
        access: Access::Single {
            set: |draft, raw| checks::path(raw.text()?).map(|path| draft.config.backend.health_path = path),
            show: |config| text(&config.backend.health_path),
        },
    },
    Key {
        name: "backend.push_path",
        short: None,
        meaning: "Path below server_url that metrics are pushed to with POST; begins with \"/\".",
        access: Access::Single {
            set: |draft, raw| checks::path(raw.text()?).map(|path| draft.config.backend.push_path = path),
            show: |config| text(&config.backend.push_path),
        },
    },
    Key {
        name: "prometheus.push_enabled",
        short: Some("PROMETHEUS_PUSH_ENABLED"),
        meaning: "Push metrics to a Pushgateway; pushes to the backend do not depend on it.",
        access: Access::Single {
            set: |draft, raw| raw.boolean().map(|value| draft.config.prometheus.push_enabled = value),
            show: |config| plain(config.prometheus.push_enabled),
        },
    },
    Key {
        name: "prometheus.pushgateway_url",
        short: Some("PROMETHEUS_PUSHGATEWAY_URL"),
        meaning: "Base URL of the Pushgateway, http:// or https://.",
        access: Access::Single {
            set: |draft, raw| {
                let url = raw.text()?;
                checks::url(url)?;
                draft.config.prometheus.pushgateway_url = url.to_owned();
                Ok(())
            },
            show: |config| text(&hide_credentials(&config.prometheus.pushgateway_url)),
        },
    },
    Key {
        name: "prometheus.push_interval",
        short: Some("PROMETHEUS_PUSH_INTERVAL"),
        meaning: "Time between pushes, to the Pushgateway and to the backend; 100ms to 365 days.",
        access: Access::Single {
            set: |draft, raw| {
                let time = raw.duration(Duration::from_millis(100)..=*SPAN.end())?;
                draft.config.prometheus.push_interval = time;
                Ok(())
            },
            show: |config| duration(config.prometheus.push_interval),
        },
    },
    Key {
        name: "prometheus.job",
        short: None,
        meaning: "The job under which the Pushgateway groups our metrics; not empty, without \"/\".",
        access: Access::Single {
            set: |draft, raw| checks::job(raw.text()?).map(|job| draft.config.prometheus.job = job),
            show: |config| text(&config.prometheus.job),
        },
    },
];

fn plain(value: impl ToString) -> Shown {
    Shown { toml: value.to_string(), note: None }
}

fn number(value: impl ToString) -> Shown {
    plain(value)
}

fn bytes(bytes: u64) -> Shown {
    Shown { toml: bytes.to_string(), note: ByteCount(bytes).in_binary_unit() }
}

fn sizes(sizes: &[u64]) -> Shown {
    let listed: Vec<String> = sizes.iter().map(u64::to_string).collect();
    let short = |size: Option<&u64>| {
        size.map_or_else(String::new, |size| {
            ByteCount(*size).in_binary_unit().unwrap_or_else(|| size.to_string())
        })
    };
    let note = match sizes.len() {
        1 => short(sizes.first()),
        count => format!("{count} classes, {} to {}", short(sizes.iter().min()), short(sizes.iter().max())),
    };
    Shown { toml: format!("[{}]", listed.join(", ")), note: Some(note) }
}

fn duration(time: Duration) -> Shown {
    plain(format!("\"{}\"", humantime::format_duration(time)))
}

/// Text in the quotes of TOML, whose escapes JSON's are.
fn text(value: &str) -> Shown {
    plain(serde_json::Value::from(value))
}
