//! What can be set about the peers that metrics are pushed to.

use std::time::Duration;

/// The backend: where the connection manager probes and pushes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendConfig {
    /// Base URL, `http://` or `https://`. Default: "", which means there is no backend.
    pub server_url: String,
    /// Wait after the first failure; doubles with each further one. Default: 30 s.
    pub retry_interval: Duration,
    /// The doubling stops here. Default: 300 s.
    pub retry_interval_max: Duration,
    /// One probe or push may take this long. Default: 10 s.
    pub timeout: Duration,
    /// Failures in a row from which the local `/metrics` is declared the way. Default: 3.
    pub native_after: u32,
    /// Path that is probed with GET. Default: `/health`.
    pub health_path: String,
    /// Path that metrics are pushed to with POST. Default: `/metrics`.
    pub push_path: String,
}

impl BackendConfig {
    /// Whether there is a backend at all.
    pub fn is_configured(&self) -> bool {
        !self.server_url.is_empty()
    }
}

impl Default for BackendConfig {
    fn default() -> BackendConfig {
        BackendConfig {
            server_url: String::new(),
            retry_interval: Duration::from_secs(30),
            retry_interval_max: Duration::from_secs(300),
            timeout: Duration::from_secs(10),
            native_after: 3,
            health_path: "/health".to_owned(),
            push_path: "/metrics".to_owned(),
        }
    }
}

/// The Pushgateway, and how often metrics are pushed to either peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrometheusConfig {
    /// Push to a Pushgateway. Does not govern the backend. Default: false.
    pub push_enabled: bool,
    /// Base URL of the Pushgateway. Default: `http://localhost:9091`.
    pub pushgateway_url: String,
    /// Time between pushes, to the Pushgateway and to the backend. Default: 10 s.
    pub push_interval: Duration,
    /// The `job` under which the Pushgateway groups our metrics. Default: `maas`.
    pub job: String,
}

impl Default for PrometheusConfig {
    fn default() -> PrometheusConfig {
        PrometheusConfig {
            push_enabled: false,
            pushgateway_url: "http://localhost:9091".to_owned(),
            push_interval: Duration::from_secs(10),
            job: "maas".to_owned(),
        }
    }
}

/// The look for allocations that nobody seems to need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaksConfig {
    /// Between two looks. Default: 10 minutes.
    pub interval: Duration,
    /// Age from which an allocation is looked at. Default: 5 minutes.
    pub older_than: Duration,
}

impl Default for LeaksConfig {
    fn default() -> LeaksConfig {
        LeaksConfig { interval: Duration::from_secs(600), older_than: Duration::from_secs(300) }
    }
}
