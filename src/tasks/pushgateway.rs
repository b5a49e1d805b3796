//! The Pushgateway: replaces our group of metrics there at every interval, and takes it away when the service stops.
//!
//! The gateway keeps what it was last given until somebody deletes it, so a group left behind would look like a
//! service that stands still. What a crash leaves behind is replaced at the next start.

use crate::clock::Now;
use crate::link::Link;
use crate::tasks::link_keeper::LinkKeeper;
use crate::tasks::peer::{Peer, StartError};
use crate::tasks::{MetricsText, PrometheusConfig, RetryPolicy, endpoint};
use reqwest::{Method, Url};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Taking the group away may delay the stop of the service by this much.
const FAREWELL_MAX: Duration = Duration::from_secs(2);

/// The driver of the link to the Pushgateway.
pub(super) struct Pushgateway {
    peer: Peer,
    group_url: Url,
    text: MetricsText,
    keeper: LinkKeeper,
}

impl Pushgateway {
    /// A driver that has not tried anything yet.
    pub(super) fn new(
        config: &PrometheusConfig,
        policy: RetryPolicy,
        instance: &str,
        peer: Peer,
        text: MetricsText,
        link: Arc<Link>,
    ) -> Result<Pushgateway, StartError> {
        let base = endpoint::parse_base(&config.pushgateway_url).map_err(StartError::Pushgateway)?;
        let url = endpoint::redacted(&base);
        Ok(Pushgateway {
            peer,
            group_url: endpoint::group(&base, &config.job, instance),
            text,
            keeper: LinkKeeper::new("pushgateway", url, config.push_interval, policy, link),
        })
    }

    /// Pushes until `stop`, then takes the group away.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            let started = Now::read();
            let outcome = {
                let push = self.push();
                tokio::pin!(push);
                match stop.run_until_cancelled(&mut push).await {
                    Some(outcome) => outcome,
                    None => {
                        // Let the push end first: broken off, it could still arrive after the DELETE.
                        return self.farewell(async { _ = push.await }).await;
                    }
                }
            };
            self.keeper.count_push(outcome.is_ok());
            let wait = self.keeper.ended(started, outcome);
            if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return self.farewell(std::future::ready(())).await;
            }
        }
    }

    async fn push(&self) -> Result<(), String> {
        self.peer.exchange("push", Method::PUT, &self.group_url, Some((self.text)().await)).await
    }

    /// Awaits what still runs and deletes the group, both within one short limit.
    async fn farewell(&self, running: impl Future<Output = ()>) {
        let limit = self.peer.timeout().min(FAREWELL_MAX);
        let delete = async {
            running.await;
            self.peer.exchange("delete", Method::DELETE, &self.group_url, None).await
        };
        match tokio::time::timeout(limit, delete).await {
            Ok(Ok(())) => tracing::debug!(peer = "pushgateway", "group deleted"),
            Ok(Err(error)) => tracing::debug!(peer = "pushgateway", error, "group not deleted"),
            Err(_) => tracing::debug!(peer = "pushgateway", "group not deleted in time"),
        }
    }
}
