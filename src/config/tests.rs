//! The whole way from sources to a configuration, and the shipped files against the table of keys.

use std::ffi::OsString;
use std::fs;
use std::time::Duration;

mod adaptive;
mod large;
mod pressure;
mod profiles;

use super::*;
use crate::limits::{LimitSource, MemoryLimit};

/// A working directory with the sources of one test.
struct Place {
    directory: tempfile::TempDir,
    sources: Sources,
    limits: Limits,
}

impl Place {
    fn new() -> Place {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let sources = Sources { directory: directory.path().to_owned(), ..Sources::default() };
        Place { directory, sources, limits: Limits::default() }
    }

    fn file(self, name: &str, text: &str) -> Place {
        fs::write(self.directory.path().join(name), text).expect("a file in a fresh directory");
        self
    }

    fn environment(mut self, name: &str, value: &str) -> Place {
        self.sources.environment.push((name.into(), value.into()));
        self
    }

    fn flag(mut self, flag: &str, key: &str, value: &str) -> Place {
        let [flag, key, value] = [flag, key, value].map(str::to_owned);
        self.sources.flags.push(Flag { flag, key, value });
        self
    }

    fn memory_limit(mut self, bytes: u64) -> Place {
        self.limits.memory = Some(MemoryLimit { bytes, source: LimitSource::Ram });
        self
    }

    fn open_files(mut self, files: u64) -> Place {
        self.limits.open_files = Some(files);
        self
    }

    fn load(&self) -> Result<Loaded, Problems> {
        load(&self.sources, |_| Look { limits: self.limits.clone(), ..Look::default() })
    }

    fn loaded(&self) -> Loaded {
        self.load().expect("a right configuration")
    }

    /// The problems, one line each.
    fn problems(&self) -> Vec<String> {
        self.load().expect_err("a wrong configuration").0.iter().map(ToString::to_string).collect()
    }
}

#[test]
fn without_sources_everything_is_default() {
    let loaded = Place::new().loaded();
    assert_eq!(loaded.config, Config::default());
    assert!(loaded.warnings.is_empty() && loaded.file.is_none());
    assert!(KEYS.iter().all(|key| loaded.origin(key.name) == Origin::Default));
}

#[test]
fn each_source_is_stronger_than_the_one_before_and_every_value_keeps_its_origin() {
    let mut place = Place::new();
    let port = |place: &Place| {
        let loaded = place.loaded();
        (loaded.config.server.port, loaded.origin("server.port").to_string())
    };
    assert_eq!(port(&place), (3000, "default".to_owned()));
    place = place.file("config.toml", "[server]\nport = 1\nidle_timeout = 7");
    assert_eq!(port(&place), (1, "config.toml".to_owned()));
    place = place.file(".env", "MAAS__SERVER__PORT=2");
    assert_eq!(port(&place), (2, ".env MAAS__SERVER__PORT".to_owned()));
    place = place.file(".env", "SERVER_PORT=3\nMAAS__SERVER__PORT=2\n");
    assert_eq!(port(&place), (3, ".env SERVER_PORT".to_owned()));
    place = place.environment("MAAS__SERVER__PORT", "4");
    assert_eq!(port(&place), (4, "environment MAAS__SERVER__PORT".to_owned()));
    place = place.environment("SERVER_PORT", "5");
    assert_eq!(port(&place), (5, "environment SERVER_PORT".to_owned()));
    place = place.flag("--set", "server.port", "6").flag("--set", "server.port", "7");
    assert_eq!(port(&place), (7, "--set".to_owned()));
    place = place.flag("--port", "server.port", "8");
    assert_eq!(port(&place), (8, "--port".to_owned()));
    assert_eq!(place.loaded().config.server.idle_timeout, Duration::from_secs(7));
}

#[test]
fn a_named_file_is_read_in_place_of_config_toml_and_must_exist() {
    let mut place =
        Place::new().file("config.toml", "server.port = 1").file("other.toml", "server.host = '::'");
    place.sources.file = Some("other.toml".into());
    let loaded = place.loaded();
    assert_eq!((loaded.config.server.port, loaded.config.server.host.as_str()), (3000, "::"));
    assert_eq!(loaded.file, Some("other.toml".into()));
    place.sources.file = Some("missing.toml".into());
    let problems = place.flag("--port", "server.port", "x").problems();
    assert!(problems[0].starts_with("missing.toml: cannot read the file: "), "{problems:?}");
    assert!(problems[1].starts_with("server.port = \"x\" (--port): "), "{problems:?}");
}

#[test]
fn the_seeds_environment_is_understood() {
    let loaded = Place::new()
        .file(
            ".env",
            "# service\nSERVER_HOST=0.0.0.0\nSERVER_PORT=3000\nSLAB_SIZES=1024,4096,16KiB\nMAX_POOL_SIZE=512MiB\n\
             INITIAL_SLABS_PER_SIZE=0\nBACKEND_SERVER_URL=http://backend-server:8080\nBACKEND_RETRY_INTERVAL=250ms\n\
             BACKEND_TIMEOUT=10\nPROMETHEUS_PUSH_ENABLED=true\nPROMETHEUS_PUSH_INTERVAL='5s'\nRUST_LOG=debug\n\
             export PROMETHEUS_PUSHGATEWAY_URL=\"http://gate:9091\"\nMAAS__MEMORY__CLASSES__4KIB__INITIAL=3\n",
        )
        .loaded();
    let config = loaded.config;
    assert_eq!(config.memory.slab_sizes, [1024, 4096, 16384]);
    assert_eq!((config.memory.max_pool_size, config.memory.initial_slabs_per_size), (512 << 20, 0));
    assert_eq!(config.memory.classes[&4096].initial, Some(3));
    assert_eq!(config.backend.server_url, "http://backend-server:8080");
    assert_eq!(config.backend.retry_interval, Duration::from_millis(250));
    assert!(config.prometheus.push_enabled);
    assert_eq!(config.prometheus.pushgateway_url, "http://gate:9091");
}

#[test]
fn all_problems_of_all_sources_are_told_together() {
    let problems = Place::new()
        .file(
            "config.toml",
            "[server]\nport = true\nhots = 'x'\n[memory]\nslab_sizes = [1024, 1024]\nmax_pool_size = -1\n\
             [pool]\nsize = 1\n",
        )
        .file(".env", "BACKEND_TIMEOUT=\nFOREIGN=1\nMAAS__SERVER__PROT=1\n")
        .environment("MAX_POOL_SIZE", "lots")
        .environment("MAAS__BACKEND__URL", "http://me:secret@host")
        .environment("BACKEND_SERVER_URL", "ftp://me:secret@host")
        .environment("PROMETHEUS_PUSH_INTERVAL", "99ms")
        .flag("--port", "server.port", "65536")
        .problems();
    for expected in [
        "server.port = true (config.toml): expected a whole number from 0 to 65535",
        "server.hots (config.toml): unknown name, did you mean server.host?",
        "memory.slab_sizes = [1024, 1024] (config.toml): 1024: the size 1024 is listed twice",
        "memory.max_pool_size = -1 (config.toml): expected a size from 1 to 64 TiB",
        "pool.size (config.toml): unknown name, did you mean",
        "backend.timeout = \"\" (.env BACKEND_TIMEOUT): expected a duration from 1ms",
        "MAAS__SERVER__PROT (.env MAAS__SERVER__PROT): unknown name, did you mean MAAS__SERVER__PORT?",
        "memory.max_pool_size = \"lots\" (environment MAX_POOL_SIZE): expected a size",
        "MAAS__BACKEND__URL (environment MAAS__BACKEND__URL): unknown name, did you mean",
        "backend.server_url = \"ftp://***@host\" (environment BACKEND_SERVER_URL): expected a URL",
        "prometheus.push_interval = \"99ms\" (environment PROMETHEUS_PUSH_INTERVAL): expected a duration from 100ms",
        "server.port = \"65536\" (--port): expected a whole number from 0 to 65535",
    ] {
        assert!(problems.iter().any(|problem| problem.starts_with(expected)), "{expected}\n{problems:#?}");
    }
    assert_eq!(problems.len(), 12, "{problems:#?}");
    assert!(!format!("{problems:?}").contains("secret"));
}

#[test]
fn a_file_that_is_not_toml_is_one_problem_with_its_line_and_without_its_text() {
    for (text, place) in [
        ("[server]\nport = \nhost = 'secret'", "line 2, column"),
        ("a = 1\n\na = 'secret'", "line 3, column"),
        ("secret", "line 1, column"),
    ] {
        let problems = Place::new().file("config.toml", text).problems();
        assert!(problems[0].starts_with(&format!("config.toml: {place}")), "{problems:?}");
        assert!(problems.len() == 1 && problems[0].lines().count() == 1, "{problems:?}");
        assert!(!problems[0].contains("secret"), "{problems:?}");
    }
    let huge = "server.host = 'x'\nserver.port = 99999999999999999999";
    let problems = Place::new().file("config.toml", huge).problems();
    assert_eq!(problems, ["config.toml: line 2: a number is too large: at most 2^63 - 1"]);
}

#[test]
fn a_broken_line_of_dotenv_is_told_by_number_and_the_rest_is_read() {
    let text =
        "# A=x y\nFOREIGN=x y\nmy secret: 5\nSERVER_HOST=x y\nSERVER_PORT=x\nexport SLAB_SIZES=8, 16\n";
    let problems = Place::new().file(".env", text).problems();
    assert!(problems[0].starts_with(".env: line 3: expected NAME=value"), "{problems:?}");
    assert!(problems[1].starts_with(".env: line 4 (SERVER_HOST): expected NAME=value"), "{problems:?}");
    assert!(problems[2].starts_with(".env: line 6 (SLAB_SIZES): expected NAME=value"), "{problems:?}");
    assert!(problems[3].starts_with("server.port = \"x\" (.env SERVER_PORT)"), "{problems:?}");
    assert!(problems.len() == 4 && !format!("{problems:?}").contains("secret"), "{problems:?}");
    let problems = Place::new().file(".env", "A=1\nFOREIGN='open\nSERVER_PORT=1\n").problems();
    assert_eq!(problems.len(), 1, "a lost line of ours must not pass in silence: {problems:?}");
}

#[test]
fn a_file_writes_numbers_as_numbers_and_sizes_and_durations_either_way() {
    let loaded = Place::new()
        .file(
            "config.toml",
            "[server]\nbody_limit = '2MiB'\ndrain_timeout = '250ms'\n[memory]\nslab_sizes = ['4KiB', 1024]\n\
             max_allocation_size = 'auto'\n[memory.classes.1024]\ninitial = 1\nmax_free = 2\n[backend]\n",
        )
        .loaded();
    assert_eq!(loaded.config.server.body_limit, 2 << 20);
    assert_eq!(loaded.config.server.drain_timeout, Duration::from_millis(250));
    assert_eq!(loaded.config.memory.slab_sizes, [4096, 1024]);
    assert_eq!(loaded.origin("memory.classes.1024.max_free"), Origin::File("config.toml".into()));
    let problems =
        Place::new().file("config.toml", "server.port = '80'\n[memory]\nprefault = 'true'").problems();
    assert_eq!(problems.len(), 2, "{problems:?}");
    let problems = Place::new().file("config.toml", "server = 5\n\"server.port\" = 1\n[sevrer]\n").problems();
    assert!(problems.iter().any(|problem| problem.contains("this is a section")), "{problems:?}");
    assert!(problems.iter().any(|problem| problem.contains("did you mean server.port?")), "{problems:?}");
}

#[test]
fn keys_must_fit_to_each_other() {
    for (key, value, expected) in [
        (
            "backend.retry_interval",
            "301",
            "backend.retry_interval = \"5m 1s\" (--set): expected at most backend.retry_interval_max, which is 5m",
        ),
        (
            "memory.classes.1000.initial",
            "1",
            "memory.classes.1000.initial (--set): 1000 is none of memory.slab_sizes",
        ),
        (
            "memory.max_pool_size",
            "1023",
            "memory.max_pool_size = 1023 (--set): expected room for the smallest size class, which is 1024 (1 KiB)",
        ),
        (
            "memory.max_inflight_bytes",
            "1000",
            "memory.max_inflight_bytes = 1000 (--set): expected at least server.body_limit, which is 1048576 (1 MiB)",
        ),
    ] {
        assert_eq!(Place::new().flag("--set", key, value).problems(), [expected]);
    }
    for (key, wrong) in [
        ("server.header_timeout", "0"),
        ("backend.native_after", "0"),
        ("backend.health_path", "health"),
        ("prometheus.job", ""),
        ("prometheus.pushgateway_url", ""),
        ("memory.max_allocation_size", "0"),
        ("memory.max_allocations", "16777217"),
        ("memory.max_allocations", "0"),
        ("server.host", ""),
    ] {
        assert_eq!(Place::new().flag("--set", key, wrong).problems().len(), 1, "{key}");
    }
}

#[test]
fn a_wrong_value_does_not_make_other_keys_wrong() {
    let place =
        Place::new().flag("--set", "memory.slab_sizes", "0").flag("--set", "memory.classes.64.initial", "1");
    assert_eq!(place.problems().len(), 1);
    let place = Place::new()
        .flag("--set", "backend.retry_interval_max", "long")
        .flag("--set", "backend.retry_interval", "301")
        .flag("--set", "memory.classes.1000.initial", "-1");
    assert_eq!(place.problems().len(), 2, "{:?}", place.problems());
}

#[test]
fn what_is_unusual_is_allowed() {
    let config = Place::new()
        .environment("SERVER_PORT", "0")
        .environment("BACKEND_SERVER_URL", "")
        .environment("SLAB_SIZES", "4194304,1024")
        .environment("MAX_POOL_SIZE", "10240")
        .loaded()
        .config;
    assert_eq!((config.server.port, config.memory.max_pool_size), (0, 10240));
}

#[test]
fn a_value_that_is_not_unicode_is_a_problem_only_under_our_names() {
    use std::os::unix::ffi::OsStringExt;
    let broken = || OsString::from_vec(vec![0xff]);
    let mut place = Place::new();
    place.sources.environment = vec![("FOREIGN".into(), broken()), (broken(), broken())];
    assert_eq!(place.loaded().config, Config::default());
    place.sources.environment.push(("SERVER_HOST".into(), broken()));
    assert_eq!(place.problems(), ["server.host (environment SERVER_HOST): expected text in UTF-8"]);
}

#[test]
fn the_pool_is_one_gibibyte_or_three_quarters_of_the_limit_above_us() {
    let pool = |place: Place| {
        let loaded = place.loaded();
        (loaded.config.memory.max_pool_size, loaded.warnings.len())
    };
    let set = |value: &str| Place::new().flag("--set", "memory.max_pool_size", value);
    assert_eq!(pool(Place::new().memory_limit(8 << 30)), (1 << 30, 0));
    assert_eq!(pool(Place::new().memory_limit(1 << 30)), (768 << 20, 0));
    assert_eq!(pool(Place::new().memory_limit(10_243)), (7682, 0));
    assert_eq!(pool(set("auto").memory_limit(8 << 30)), (6 << 30, 0));
    assert_eq!(pool(set("auto")), (1 << 30, 1));
    assert_eq!(pool(set("6GiB").memory_limit(8 << 30)), (6 << 30, 0));
    assert_eq!(pool(set("7GiB").memory_limit(8 << 30)), (7 << 30, 1));
    assert_eq!(pool(set("9GiB").memory_limit(8 << 30)), (9 << 30, 1));
}

#[test]
fn connections_stay_128_below_the_limit_of_open_files() {
    let connections = |place: Place| {
        let loaded = place.loaded();
        (loaded.config.server.max_connections, loaded.warnings.len())
    };
    assert_eq!(connections(Place::new().open_files(1024)), (896, 1));
    assert_eq!(connections(Place::new().open_files(10_128)), (10_000, 0));
    assert_eq!(connections(Place::new().open_files(3)), (1, 1));
    let set = Place::new().flag("--set", "server.max_connections", "100");
    assert_eq!(connections(set.open_files(1024)), (100, 0));
}

#[test]
fn the_report_is_toml_with_every_key_both_units_and_each_origin_and_no_credentials() {
    let loaded = Place::new()
        .file("config.toml", "memory.classes.4096.max_free = 5")
        .environment("BACKEND_SERVER_URL", "http://me:secret@host:1/")
        .flag("--port", "server.port", "8080")
        .memory_limit(8 << 30)
        .flag("--set", "memory.max_pool_size", "auto")
        .loaded();
    let report = loaded.report();
    let columns: Vec<_> = report.lines().map(|line| line.find(" = ")).collect();
    assert!(columns.windows(2).all(|pair| pair[0] == pair[1]), "{report}");
    let lines: Vec<String> =
        report.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in [
        "server.host = \"127.0.0.1\" # default",
        "server.port = 8080 # --port",
        "memory.max_pool_size = 6442450944 # 6 GiB; 75 % of 8589934592 (8 GiB), RAM; --set",
        "memory.classes.4096.max_free = 5 # config.toml",
        "backend.server_url = \"http://***@host:1/\" # environment BACKEND_SERVER_URL",
        "backend.retry_interval_max = \"5m\" # default",
    ] {
        assert!(lines.iter().any(|found| found == line), "{line}\n{report}");
    }
    assert!(!report.contains("secret"));
    let again = Place::new().file("config.toml", &report).loaded();
    let mut config = loaded.config.clone();
    config.backend.server_url = "http://***@host:1/".to_owned();
    assert_eq!(again.config, config);
    let single = KEYS.iter().filter(|key| !key.name.contains("SIZE") && !key.name.contains("TAG"));
    assert!(
        single
            .clone()
            .all(|key| report.contains(&format!("\n{} ", key.name)) || report.starts_with(key.name))
    );
    assert_eq!(report.lines().count(), single.count() + 1);
}

#[test]
fn budgets_are_set_by_tag_in_every_source_and_shown_as_toml() {
    let loaded = Place::new()
        .file("config.toml", "[budgets]\ncache = '1MiB'\n'a.b' = 10\nc.d = 11\nlow-prio = 12\n")
        .environment("MAAS__BUDGETS__A__B", "20")
        .flag("--set", "budgets.c.d", "30")
        .loaded();
    let budgets: Vec<(String, u64)> =
        loaded.config.pool.budgets.iter().map(|(tag, bytes)| (tag.to_string(), *bytes)).collect();
    let expected = [("a.b", 20), ("c.d", 30), ("cache", 1 << 20), ("low-prio", 12)];
    assert_eq!(budgets, expected.map(|(tag, bytes)| (tag.to_owned(), bytes)));
    let report = loaded.report();
    assert!(
        report.contains("\nbudgets.\"a.b\"") && report.contains("environment MAAS__BUDGETS__A__B"),
        "{report}"
    );
    assert_eq!(Place::new().file("config.toml", &report).loaded().config, loaded.config);
    let problems = Place::new()
        .file(
            "config.toml",
            "[budgets]\nCache = '1MiB'\nqueue = 0\ndeep = { x = true }\n[budget]\ncache = 1\n",
        )
        .environment("MAAS__BUDGETS__A B", "1")
        .problems();
    for expected in [
        "budgets.Cache (config.toml): a tag is 1 to 64 of the characters a to z, 0 to 9, _, . and -, did you mean budgets.cache?",
        "budgets.queue = 0 (config.toml): expected a size from 1 to 64 TiB",
        "budgets.\"deep.x\" = true (config.toml): expected a size from 1 to 64 TiB",
        "budget.cache (config.toml): unknown name, did you mean budgets.cache?",
        "MAAS__BUDGETS__A B (environment MAAS__BUDGETS__A B): a tag is 1 to 64",
    ] {
        assert!(problems.iter().any(|problem| problem.starts_with(expected)), "{expected}\n{problems:#?}");
    }
    assert_eq!(problems.len(), 5, "{problems:#?}");
}

#[test]
fn budgets_that_are_too_many_are_wrong_and_one_that_is_too_small_is_a_warning() {
    let many: String = (0..4097).map(|number| format!("t{number} = 4096\n")).collect();
    let problems = Place::new().file("config.toml", &format!("[budgets]\n{many}")).problems();
    assert_eq!(problems, ["budgets (default): 4097 tags have a budget: expected at most 4096"]);
    let warnings = Place::new().flag("--set", "budgets.a.b", "1023").loaded().warnings;
    assert!(warnings[0].starts_with("budgets.\"a.b\" is 1023, but the smallest"), "{warnings:?}");
}

#[test]
fn one_file_is_checked_on_its_own() {
    let place = Place::new().file("one.toml", "server.port = 1").file(".env", "SERVER_PORT=wrong");
    let path = place.directory.path().join("one.toml");
    let check_file = |path: &Path| check_file(path, |_| Look::default());
    assert_eq!(check_file(&path).map(|loaded| loaded.config.server.port), Ok(1));
    fs::write(&path, "server.port = -1").expect("a file in a fresh directory");
    assert_eq!(check_file(&path).expect_err("a negative port").0.len(), 1);
    assert_eq!(check_file(Path::new("/does/not/exist")).expect_err("no file").0.len(), 1);
}

/// The shipped file with its keys set: every `# key = value` and `# [section]` without the `# `.
fn uncommented(shipped: &str) -> String {
    let lines = shipped.lines().filter_map(|line| line.strip_prefix("# "));
    lines.flat_map(|line| [line, "\n"]).collect()
}

#[test]
fn the_shipped_config_toml_has_every_key_with_its_default_and_its_meaning() {
    let shipped = include_str!("../../config.toml");
    assert_eq!(Place::new().file("config.toml", shipped).loaded().config, Config::default());
    let loaded = Place::new().file("config.toml", &uncommented(shipped)).loaded();
    let file = Origin::File("config.toml".into());
    let mut config = loaded.config.clone();
    let class = std::mem::take(&mut config.memory.classes);
    let budgets = std::mem::take(&mut config.pool.budgets);
    assert_eq!(config, Config::default());
    assert_eq!(class.keys().copied().collect::<Vec<_>>(), [4096]);
    assert_eq!(budgets.into_iter().collect::<Vec<_>>(), [("cache".parse().expect("a tag"), 256 << 20)]);
    let prose: Vec<&str> =
        shipped.lines().filter_map(|line| line.strip_prefix("## ")).flat_map(str::split_whitespace).collect();
    let prose = prose.join(" ");
    for key in KEYS {
        assert_eq!(
            loaded.origin(&key.name.replace("SIZE", "4096").replace("TAG", "cache")),
            file,
            "{}",
            key.name
        );
        assert!(prose.contains(key.meaning), "config.toml does not say of {}: {}", key.name, key.meaning);
    }
}

#[test]
fn the_shipped_environment_has_every_short_name_with_its_default() {
    let shipped = include_str!("../../.env.example");
    assert!(shipped.contains("MAAS__"), "the long names are mentioned");
    let set: String = shipped
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .filter(|line| line.split_once('=').is_some_and(|(name, _)| !name.contains(' ')))
        .flat_map(|line| [line, "\n"])
        .collect();
    let loaded = Place::new().file(".env", &set).loaded();
    assert_eq!(loaded.config, Config::default());
    let short: Vec<&str> = KEYS.iter().filter_map(|key| key.short).collect();
    for key in KEYS {
        if let Some(short) = key.short {
            assert_eq!(loaded.origin(key.name), Origin::DotEnv(short.to_owned()));
        }
    }
    let names: Vec<&str> =
        set.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    assert_eq!(names, short, "every short name and no other, in the order of the table");
}
