//! What is set about pressure, and what is wrong there.

use super::*;
use crate::limits::Below;
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

/// A machine whose control group has a limit of 1000 MiB, and the directory that it lies in.
fn machine() -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (path, text) in [
        ("proc/self/cgroup", "0::/pod\n".to_owned()),
        ("proc/meminfo", "MemTotal: 67108864 kB\n".to_owned()),
        ("sys/fs/cgroup/pod/memory.max", (1000_u64 << 20).to_string()),
    ] {
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().expect("files lie below the root")).expect("a directory");
        fs::write(path, text).expect("a fixture file");
    }
    let root = directory.path().display().to_string();
    (directory, root)
}

#[test]
fn the_pool_is_fitted_to_the_machine_below_the_root_that_is_configured() {
    let (_machine, root) = machine();
    let loaded = |place: Place| load(&place.sources, Look::take).expect("a right configuration");
    let on = |place: Place| loaded(place.environment("MAAS__PRESSURE__CGROUP_ROOT", &root));
    let unset = on(Place::new());
    assert_eq!(unset.config.memory.max_pool_size, 750 << 20);
    let limit = unset.limits.memory.expect("it has one");
    assert_eq!(limit.source, LimitSource::File(format!("{root}/sys/fs/cgroup/pod/memory.max").into()));
    let auto = on(Place::new().file("config.toml", "memory.max_pool_size = 'auto'"));
    assert_eq!(auto.config.memory.max_pool_size, 750 << 20);
    let much = on(Place::new().flag("--set", "memory.max_pool_size", "2000MiB"));
    assert!(much.warnings[0].contains("more than the memory limit above us (1048576000"), "{much:?}");
    // The strongest source says which root it is.
    let other = loaded(
        Place::new()
            .flag("--set", "pressure.cgroup_root", &root)
            .environment("MAAS__PRESSURE__CGROUP_ROOT", "/does/not/exist"),
    );
    assert_eq!(other.config.memory.max_pool_size, 750 << 20);
}

#[test]
fn a_root_that_is_not_there_is_wrong_and_one_with_nothing_in_it_is_a_warning() {
    let at = |root: &str, below| {
        let place = Place::new().flag("--set", "pressure.cgroup_root", root);
        load(&place.sources, |_| Look { below, ..Look::default() })
    };
    let wrong = at("/hots", Below::NoDirectory).expect_err("there is no such directory");
    let told: Vec<String> = wrong.0.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["pressure.cgroup_root = \"/hots\" (--set): expected a directory that exists"]);
    let warnings = at("/tmp", Below::Nothing).expect("it may be meant so").warnings;
    assert!(
        warnings[0].starts_with("pressure.cgroup_root is \"/tmp\", but below it neither"),
        "{warnings:?}"
    );
    assert_eq!(warnings.len(), 1);
    assert_eq!(at("/host", Below::Something).map(|loaded| loaded.warnings), Ok(vec![]));
    // Whoever set none is not told of what the machine lacks.
    assert_eq!(at("", Below::Nothing).map(|loaded| loaded.warnings), Ok(vec![]));
}
