//! What can be set about pressure: the section `pressure`.

use super::{Access, Key, SPAN, duration, plain, text};
use crate::units::Factor;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// Where a level may begin: at nothing it would never end.
const MARK: RangeInclusive<Factor> = Factor::thousandths(1)..=Factor::thousandths(1000);

macro_rules! watermark {
    ($name:literal, $field:ident, $meaning:literal) => {
        Key {
            name: $name,
            short: None,
            meaning: $meaning,
            access: Access::Single {
                set: |draft, raw| raw.factor(MARK).map(|part| draft.config.pressure.watermarks.$field = part),
                show: |config| plain(config.pressure.watermarks.$field),
            },
        }
    };
}

/// In the order of `config.toml`.
pub(super) const KEYS: &[Key] = &[
    watermark!(
        "pressure.moderate",
        moderate,
        "Part of the pool in use, 0.001 to 1.0, from which the level is moderate; less than pressure.high."
    ),
    watermark!(
        "pressure.high",
        high,
        "Part from which the level is high: free memory is given back, priority low deferred; less than pressure.critical."
    ),
    watermark!(
        "pressure.critical",
        critical,
        "Part from which the level is critical: all free memory is given back, priority low rejected; less than pressure.emergency."
    ),
    watermark!("pressure.emergency", emergency, "Part from which the level is emergency."),
    Key {
        name: "pressure.interval",
        short: None,
        meaning: "Time between two looks of the monitor, each with a forecast and an event; 100ms to 1h.",
        access: Access::Single {
            set: |draft, raw| {
                let time = raw.duration(Duration::from_millis(100)..=Duration::from_secs(3600))?;
                draft.config.pressure.interval = time;
                Ok(())
            },
            show: |config| duration(config.pressure.interval),
        },
    },
    Key {
        name: "pressure.cooldown",
        short: None,
        meaning: "Time between two reclaims of the monitor, unless the second is to do more; 1ms to 365 days.",
        access: Access::Single {
            set: |draft, raw| raw.duration(SPAN).map(|time| draft.config.pressure.cooldown = time),
            show: |config| duration(config.pressure.cooldown),
        },
    },
    Key {
        name: "pressure.psi",
        short: None,
        meaning: "Raise the level by one step while tasks stall for lack of memory (PSI: some avg10 of 20 and more).",
        access: Access::Single {
            set: |draft, raw| raw.boolean().map(|value| draft.config.pressure.psi = value),
            show: |config| plain(config.pressure.psi),
        },
    },
    Key {
        name: "pressure.cgroup_root",
        short: None,
        meaning: "Directory that stands for / wherever the machine is asked about memory: limits, control groups, PSI, the doctor; empty is / itself.",
        access: Access::Single {
            set: |draft, raw| {
                let path = raw.text()?;
                draft.config.pressure.cgroup_root = (!path.is_empty()).then(|| PathBuf::from(path));
                Ok(())
            },
            show: |config| {
                let root = config.pressure.cgroup_root.as_deref();
                text(&root.map_or_else(String::new, |path| path.display().to_string()))
            },
        },
    },
];
