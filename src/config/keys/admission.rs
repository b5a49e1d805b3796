//! What can be set about who is turned away: the section `admission`.

use super::{Access, Key, SPAN, duration, number, text};
use crate::config::checks;

/// In the order of `config.toml`.
pub(super) const KEYS: &[Key] = &[
    Key {
        name: "admission.policy",
        short: None,
        meaning: "Who is turned away before the pool is full: \"hard\", priority low from the level high on; \"graduated\", of priority normal some too.",
        access: Access::Single {
            set: |draft, raw| {
                checks::policy(raw.text()?).map(|policy| draft.config.pool.admission.policy = policy)
            },
            show: |config| text(config.pool.admission.policy.name()),
        },
    },
    Key {
        name: "admission.breaker_threshold",
        short: None,
        meaning: "Refusals in a row for lack of memory after which requests as large as those are refused at once; 0 is never.",
        access: Access::Single {
            set: |draft, raw| {
                raw.number(0..=u32::MAX).map(|count| draft.config.pool.admission.breaker_threshold = count)
            },
            show: |config| number(config.pool.admission.breaker_threshold),
        },
    },
    Key {
        name: "admission.breaker_open",
        short: None,
        meaning: "How long that lasts at most; a free that makes room ends it. 1ms to 365 days.",
        access: Access::Single {
            set: |draft, raw| raw.duration(SPAN).map(|time| draft.config.pool.admission.breaker_open = time),
            show: |config| duration(config.pool.admission.breaker_open),
        },
    },
];
