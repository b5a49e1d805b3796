//! What happens when time passes? Leases end, readers of what was freed are held to their time, and metrics are pushed
//! to those who want them.
//!
//! `lease_keeper.rs` ends leases, `slab_sweeper.rs` looks for damage, `leak_watch.rs` for what was forgotten; `monitor.rs`
//! sees pressure come and acts; `janitor.rs` is the thread for what takes long.
//! Two peers can be configured, and each has one task that lives as long as the service:
//!
//! - [`backend`](BackendConfig): the connection manager. Probes the backend, pushes while it answers, falls back to
//!   the local `/metrics` when it does not, and goes on trying.
//! - [`pushgateway`](PrometheusConfig): replaces our group of metrics in a Pushgateway, deletes it on a clean stop.
//!
//! From the inside out: [`Connection`] is the state machine, without I/O and without a clock; `peer.rs` is one
//! exchange with one peer; `link_keeper.rs` feeds outcomes to the machine, publishes to the [`Link`] and logs;
//! the two drivers own the period. Neither delays a request: handlers only read the links.
//!
//! The composition root creates the links, hands in how metrics are rendered, and calls [`start`] and [`Tasks::stop`].

pub mod config;

mod backend;
mod connection;
mod drain_keeper;
mod endpoint;
mod janitor;
mod leak_watch;
mod lease_keeper;
mod link_keeper;
mod monitor;
mod peer;
mod pushgateway;
mod slab_sweeper;

#[cfg(test)]
mod driver_tests;
#[cfg(test)]
mod test_peer;

pub use config::{BackendConfig, LeaksConfig, PrometheusConfig};
pub use connection::{Connection, RetryPolicy, Transition};
pub use drain_keeper::CutReaders;
pub use endpoint::{UrlError, check_url};
pub use peer::StartError;

use crate::clock::Now;
use crate::link::{Link, LinkState};
use crate::pool::Pool;
use crate::pressure;
use backend::Backend;
use drain_keeper::DrainKeeper;
use janitor::Janitor;
use leak_watch::LeakWatch;
use lease_keeper::LeaseKeeper;
use monitor::Monitor;
use peer::Peer;
use pushgateway::Pushgateway;
use slab_sweeper::SlabSweeper;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// Renders the `/metrics` text of this moment.
pub type MetricsText = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = String> + Send>> + Send + Sync>;

/// The tasks that run. Dropping this tells them to end; [`Tasks::stop`] also waits until they have.
#[derive(Debug)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: DropGuard,
    janitor: Option<Janitor>,
}

/// The link to the backend as it stands before [`start`]: off, or disconnected.
pub fn backend_link(backend: &BackendConfig, now: Now) -> Arc<Link> {
    new_link(backend.is_configured(), now)
}

/// The link to the Pushgateway as it stands before [`start`]: off, or disconnected.
pub fn pushgateway_link(prometheus: &PrometheusConfig, now: Now) -> Arc<Link> {
    new_link(prometheus.push_enabled, now)
}

/// Starts a task for each peer that is configured; without any, nothing is spawned and no client is built.
///
/// `instance` is our own `host:port`, by which the Pushgateway tells services apart. The backend's retry values and
/// timeout hold for the Pushgateway too. The links are written by these tasks alone from now on.
///
/// # Errors
/// A URL that [`check_url`] refuses, or a client that cannot be built. Nothing runs then.
///
/// # Panics
/// Outside of a tokio runtime, when there is a peer.
pub fn start(
    backend: &BackendConfig,
    prometheus: &PrometheusConfig,
    instance: String,
    text: MetricsText,
    backend_link: Arc<Link>,
    pushgateway_link: Arc<Link>,
) -> Result<Tasks, StartError> {
    let tasks =
        Tasks { tracker: TaskTracker::new(), stop: CancellationToken::new().drop_guard(), janitor: None };
    if !backend.is_configured() && !prometheus.push_enabled {
        return Ok(tasks);
    }
    let secure = backend.is_configured() && endpoint::is_secure(&backend.server_url)
        || prometheus.push_enabled && endpoint::is_secure(&prometheus.pushgateway_url);
    let peer = Peer::new(backend.timeout, secure)?;

    // Both are built before either runs.
    let backend_driver = backend
        .is_configured()
        .then(|| Backend::new(backend, prometheus.push_interval, peer.clone(), text.clone(), backend_link))
        .transpose()?;
    let pushgateway_driver = prometheus
        .push_enabled
        .then(|| Pushgateway::new(prometheus, backend.into(), &instance, peer, text, pushgateway_link))
        .transpose()?;
    if let Some(driver) = backend_driver {
        tasks.tracker.spawn(driver.run(tasks.token()));
    }
    if let Some(driver) = pushgateway_driver {
        tasks.tracker.spawn(driver.run(tasks.token()));
    }
    Ok(tasks)
}

impl Tasks {
    /// Starts the task that ends the pool's leases.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn keep_leases(&self, pool: Arc<Pool>) {
        self.tracker.spawn(LeaseKeeper::new(pool).run(self.token()));
    }

    /// Starts the task that looks for leaks.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn watch_leaks(&self, pool: Arc<Pool>, config: LeaksConfig) {
        self.tracker.spawn(LeakWatch::new(pool, config).run(self.token()));
    }

    /// Keeps the time of those who read what was freed or replaced; `cut` ends those who do not end by themselves.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn keep_readers_time(&self, pool: Arc<Pool>, cut: CutReaders) {
        self.tracker.spawn(DrainKeeper::new(pool, cut).run(self.token()));
    }

    /// Starts the thread that does for the pool what takes long.
    ///
    /// # Errors
    /// Where the system grants no thread.
    pub fn start_janitor(&mut self, pool: Arc<Pool>, adaptive: Duration) -> std::io::Result<()> {
        self.janitor = Some(Janitor::start(pool, adaptive)?);
        Ok(())
    }

    /// Starts the task that looks for stray writes to free slabs.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn sweep_slabs(&self, pool: Arc<Pool>) {
        self.tracker.spawn(SlabSweeper::new(pool).run(self.token()));
    }

    /// Starts the task that watches how full memory is, and has free memory given back. The janitor carries that out.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn watch_pressure(&self, pool: Arc<Pool>, config: &pressure::Config) {
        self.tracker.spawn(Monitor::new(pool, config, Now::read).run(self.token()));
    }

    /// Tells the tasks to end and waits until they have: at most 2 s, while the Pushgateway's group is deleted.
    pub async fn stop(self) {
        drop(self.stop);
        self.tracker.close();
        self.tracker.wait().await;
        // By now no request waits for it: it ends within a slice of work.
        drop(self.janitor);
    }

    fn token(&self) -> CancellationToken {
        self.stop.token().clone()
    }
}

fn new_link(configured: bool, now: Now) -> Arc<Link> {
    Arc::new(Link::new(if configured { LinkState::Disconnected } else { LinkState::Off }, now))
}
