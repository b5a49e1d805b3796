//! What is set about pressure, and what is wrong there.

use super::*;
use crate::pressure::{self, Watermarks};
use crate::units::Factor;
use std::path::PathBuf;

#[test]
fn watermarks_times_and_the_root_are_read_and_printed_as_they_were_set() {
    let loaded = Place::new()
        .file("config.toml", "[pressure]\nmoderate = 0.5\nhigh = 0.6\ncooldown = '5s'\npsi = false\n")
        .environment("MAAS__PRESSURE__CRITICAL", "0.75")
        .environment("MAAS__PRESSURE__CGROUP_ROOT", "/host")
        .flag("--set", "pressure.interval", "250ms")
        .loaded();
    let mark = Factor::thousandths;
    let expected = pressure::Config {
        watermarks: Watermarks {
            moderate: mark(500),
            high: mark(600),
            critical: mark(750),
            emergency: mark(950),
        },
        interval: Duration::from_millis(250),
        cooldown: Duration::from_secs(5),
        psi: false,
        cgroup_root: Some(PathBuf::from("/host")),
    };
    assert_eq!(loaded.config.pressure, expected);
    assert_eq!(Place::new().file("config.toml", &loaded.report()).loaded().config, loaded.config);
    let emptied = Place::new().flag("--set", "pressure.cgroup_root", "").loaded();
    assert_eq!(emptied.config.pressure, pressure::Config::default());
}

#[test]
fn watermarks_stand_in_order_and_all_that_do_not_are_told() {
    let problems = |pairs: &[(&str, &str)]| {
        let place = Place::new();
        pairs.iter().fold(place, |place, (key, value)| place.flag("--set", key, value)).problems()
    };
    for (key, value, expected) in [
        (
            "pressure.moderate",
            "0.75",
            "pressure.moderate = 0.75 (--set): expected less than pressure.high, which is 0.75",
        ),
        (
            "pressure.high",
            "0.95",
            "pressure.high = 0.95 (--set): expected less than pressure.critical, which is 0.9",
        ),
        (
            "pressure.critical",
            "0.95",
            "pressure.critical = 0.95 (--set): expected less than pressure.emergency, which is 0.95",
        ),
        (
            "pressure.emergency",
            "1.001",
            "pressure.emergency = \"1.001\" (--set): expected a number from 0.001 to 1.0",
        ),
        ("pressure.moderate", "0", "pressure.moderate = \"0\" (--set): expected a number from 0.001 to 1.0"),
        ("pressure.interval", "99ms", "pressure.interval = \"99ms\" (--set): expected a duration from 100ms"),
        ("pressure.interval", "2h", "pressure.interval = \"2h\" (--set): expected a duration from 100ms"),
        ("pressure.cooldown", "0", "pressure.cooldown = \"0\" (--set): expected a duration from 1ms"),
    ] {
        let problems = problems(&[(key, value)]);
        assert!(problems.len() == 1 && problems[0].starts_with(expected), "{key} = {value}: {problems:?}");
    }
    let upside_down = [
        ("pressure.moderate", "0.9"),
        ("pressure.high", "0.8"),
        ("pressure.critical", "0.7"),
        ("pressure.emergency", "0.6"),
    ];
    assert_eq!(problems(&upside_down).len(), 3);
}
