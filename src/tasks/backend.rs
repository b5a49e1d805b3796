//! The connection manager: probes the backend, and pushes metrics to it while it answers.
//!
//! One task. While connected, an attempt is a push, every `push_interval`. Otherwise it is a probe and, if that
//! succeeds, a push at once; the attempt succeeds when both do. A backend that is healthy but refuses pushes would
//! otherwise be connected and failing in turns for ever, and never be tried less often.
//!
//! The task keeps no snapshot: the text is made for a push and gone with it. Nothing queues up while the peer is away.

use crate::clock::Now;
use crate::link::Link;
use crate::tasks::link_keeper::LinkKeeper;
use crate::tasks::peer::{Peer, StartError};
use crate::tasks::{BackendConfig, MetricsText, endpoint};
use reqwest::{Method, Url};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The driver of the link to the backend.
pub(super) struct Backend {
    peer: Peer,
    probe_url: Url,
    push_url: Url,
    text: MetricsText,
    keeper: LinkKeeper,
}

impl Backend {
    /// A driver that has not tried anything yet.
    pub(super) fn new(
        config: &BackendConfig,
        push_interval: Duration,
        peer: Peer,
        text: MetricsText,
        link: Arc<Link>,
    ) -> Result<Backend, StartError> {
        let base = endpoint::parse_base(&config.server_url).map_err(StartError::Backend)?;
        Ok(Backend {
            peer,
            probe_url: endpoint::append_path(&base, &config.health_path).map_err(StartError::Backend)?,
            push_url: endpoint::append_path(&base, &config.push_path).map_err(StartError::Backend)?,
            text,
            keeper: LinkKeeper::new("backend", endpoint::redacted(&base), push_interval, config.into(), link),
        })
    }

    /// Keeps the link until `stop`, which ends it at once, in the middle of an exchange too.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            loop {
                let started = Now::read();
                let outcome = self.attempt().await;
                tokio::time::sleep(self.keeper.ended(started, outcome)).await;
            }
        })
        .await;
    }

    async fn attempt(&self) -> Result<(), String> {
        if !self.keeper.is_connected() {
            self.peer.exchange("probe", Method::GET, &self.probe_url, None).await?;
        }
        let pushed =
            self.peer.exchange("push", Method::POST, &self.push_url, Some((self.text)().await)).await;
        self.keeper.count_push(pushed.is_ok());
        pushed
    }
}
