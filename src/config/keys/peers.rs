//! What can be set about those that metrics are pushed to: the sections `backend` and `prometheus`.

use std::time::Duration;

use super::{Access, Key, SPAN, duration, number, plain, text};
use crate::config::checks;
use crate::config::values::hide_credentials;

/// In the order of `config.toml`.
pub(super) const KEYS: &[Key] = &[
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
