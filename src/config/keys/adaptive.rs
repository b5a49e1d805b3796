//! What can be set about how many slabs are kept ready: the section `adaptive`.

use super::{Access, GROWTH, Key, PART, SPAN, duration, plain};
use std::time::Duration;

/// In the order of `config.toml`.
pub(super) const KEYS: &[Key] = &[
    Key {
        name: "adaptive.interval",
        short: None,
        meaning: "Time between two looks at how much of each class was in use; 1s to 365 days.",
        access: Access::Single {
            set: |draft, raw| {
                raw.duration(Duration::from_secs(1)..=*SPAN.end())
                    .map(|time| draft.config.memory.adaptive.interval = time)
            },
            show: |config| duration(config.memory.adaptive.interval),
        },
    },
    Key {
        name: "adaptive.grow_above",
        short: None,
        meaning: "Part of a class's held slabs, 0.0 to 1.0, above which more are held, if it was in use on average.",
        access: Access::Single {
            set: |draft, raw| raw.factor(PART).map(|part| draft.config.memory.adaptive.grow_above = part),
            show: |config| plain(config.memory.adaptive.grow_above),
        },
    },
    Key {
        name: "adaptive.grow_factor",
        short: None,
        meaning: "How many times as many are held then, 1.0 to 16.0, up to max_free or a tenth of the pool.",
        access: Access::Single {
            set: |draft, raw| {
                raw.factor(GROWTH).map(|factor| draft.config.memory.adaptive.grow_factor = factor)
            },
            show: |config| plain(config.memory.adaptive.grow_factor),
        },
    },
    Key {
        name: "adaptive.shrink_below",
        short: None,
        meaning: "Part of a class's held slabs, 0.0 to 1.0, below which fewer are kept; less than grow_above.",
        access: Access::Single {
            set: |draft, raw| raw.factor(PART).map(|part| draft.config.memory.adaptive.shrink_below = part),
            show: |config| plain(config.memory.adaptive.shrink_below),
        },
    },
    Key {
        name: "adaptive.shrink_factor",
        short: None,
        meaning: "What part of them is kept then, 0.0 to 1.0, but at least those made ready at start.",
        access: Access::Single {
            set: |draft, raw| raw.factor(PART).map(|part| draft.config.memory.adaptive.shrink_factor = part),
            show: |config| plain(config.memory.adaptive.shrink_factor),
        },
    },
];
