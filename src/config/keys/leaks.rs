//! What can be set about the look for leaks: the section `leaks`.

use super::{Access, Key, SPAN, duration};
use std::time::Duration;

/// In the order of `config.toml`.
pub(super) const KEYS: &[Key] = &[
    Key {
        name: "leaks.interval",
        short: None,
        meaning: "Time between two looks for allocations that nobody seems to need; 1s to 365 days.",
        access: Access::Single {
            set: |draft, raw| {
                let time = raw.duration(Duration::from_secs(1)..=*SPAN.end())?;
                draft.config.leaks.interval = time;
                Ok(())
            },
            show: |config| duration(config.leaks.interval),
        },
    },
    Key {
        name: "leaks.older_than",
        short: None,
        meaning: "Age from which an allocation is looked at; 1s to 365 days.",
        access: Access::Single {
            set: |draft, raw| {
                let age = raw.duration(Duration::from_secs(1)..=*SPAN.end())?;
                draft.config.leaks.older_than = age;
                Ok(())
            },
            show: |config| duration(config.leaks.older_than),
        },
    },
];
