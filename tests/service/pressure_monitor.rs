//! The monitor: it sees pressure come, says so in the metrics and the log, and has free memory given back.

use crate::support::{OCTETS, PATIENCE, Samples, Server, Starting, path_of, wait_until};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 256 << 10;
const LEVELS: [&str; 5] = ["normal", "moderate", "high", "critical", "emergency"];

/// A pool of 64 MiB that is looked at ten times a second.
fn small() -> Starting {
    Server::with()
        .set("memory.max_pool_size", "64MiB")
        .set("memory.slab_sizes", &BLOCK.to_string())
        .set("memory.initial_slabs_per_size", "8")
        .set("pressure.interval", "100ms")
        .set("pressure.cooldown", "200ms")
        .environment("LOG_FORMAT", "json")
}

/// A machine that says of our control group what a test wants it to.
struct Machine(TempDir);

impl Machine {
    fn new(percent_used: u64) -> Machine {
        let machine = Machine(tempfile::tempdir().expect("a temporary directory"));
        machine.write("proc/self/cgroup", "0::/pod\n");
        machine.write("sys/fs/cgroup/pod/memory.max", &(1000 * MIB).to_string());
        machine.write("sys/fs/cgroup/pod/memory.stat", &format!("inactive_file {}\n", 100 * MIB));
        machine.use_percent(percent_used);
        machine.stall("0.00");
        machine
    }

    fn use_percent(&self, percent: u64) {
        self.write("sys/fs/cgroup/pod/memory.current", &((percent * 10 + 100) * MIB).to_string());
    }

    fn stall(&self, percent: &str) {
        let text = format!("some avg10={percent} avg60=0.00 avg300=0.00 total=0\n");
        self.write("sys/fs/cgroup/pod/memory.pressure", &text);
    }

    /// As whole, for whoever reads beside it.
    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().expect("files lie below the root")).expect("a directory");
        let beside = path.with_extension("new");
        fs::write(&beside, text).expect("a fixture file");
        fs::rename(&beside, &path).expect("a fixture file");
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

fn on(machine: &Machine) -> Server {
    small().set("pressure.cgroup_root", &machine.path().display().to_string()).start()
}

/// Blocks that come at one pace, however busy the machine is.
struct Ramp<'a> {
    server: &'a Server,
    pace: Duration,
    began: Instant,
    blocks: Vec<String>,
}

impl Ramp<'_> {
    fn begin(server: &Server, pace: Duration) -> Ramp<'_> {
        Ramp { server, pace, began: Instant::now(), blocks: Vec::new() }
    }

    /// Allocates what is due by now, as far as the pool has room for it.
    fn go_on(&mut self) {
        std::thread::sleep(self.pace);
        let due = self.began.elapsed().as_nanos() / self.pace.as_nanos();
        while (self.blocks.len() as u128) < due.min(250) {
            self.blocks.push(path_of(&self.server.allocate(BLOCK)));
        }
    }
}

fn level_of(samples: &Samples) -> f64 {
    samples.get("maas_pressure_level")
}

fn reclaims(samples: &Samples) -> f64 {
    ["gentle_reclaim", "aggressive_reclaim", "emergency"]
        .map(|action| samples.get(&format!("maas_pressure_reclaims_total{{action=\"{action}\"}}")))
        .iter()
        .sum()
}

/// Levels that the log says were entered, in order.
fn logged_levels(server: &Server) -> Vec<(String, String)> {
    let of = |line: &str| -> Option<(String, String)> {
        let line: Value = serde_json::from_str(line).ok()?;
        let message = line["message"].as_str()?;
        let text = |name: &str| line[name].as_str().map(str::to_owned);
        message.starts_with("memory pressure ").then(|| Some((text("from")?, text("level")?)))?
    };
    server.log().lines().filter_map(of).collect()
}

#[test]
fn along_a_ramp_the_metrics_tell_what_comes_and_the_log_has_one_line_for_each_change() {
    let server = small().start();
    let samples = server.samples();
    assert_eq!((level_of(&samples), samples.get("maas_seconds_to_critical")), (0.0, f64::INFINITY));
    assert!(samples.get("maas_pressure_ratio{source=\"system\"}").is_nan());
    let (mut seen, mut foretold) = (vec![0.0], false);
    let mut ramp = Ramp::begin(&server, Duration::from_millis(40));
    while ramp.blocks.len() < 250 {
        ramp.go_on();
        let samples = server.samples();
        let level = level_of(&samples);
        if seen.last() != Some(&level) {
            seen.push(level);
        }
        let is_foretold = samples.get("maas_predicted_utilization_ratio{horizon=\"30s\"}") >= 0.9
            && samples.get("maas_seconds_to_critical") < 30.0;
        foretold |= level <= 1.0 && is_foretold;
    }
    assert!(foretold, "nothing was said before it was high");
    assert!(seen.is_sorted() && seen.last() == Some(&4.0), "{seen:?}");
    assert_eq!(server.stat("/pressure/level"), "emergency");
    assert_eq!(server.stat("/pressure/transitions/critical"), 1);
    for path in ramp.blocks.drain(10..) {
        server.delete(&path);
    }
    wait_until("it is normal again", || level_of(&server.samples()) == 0.0);
    let samples = server.samples();
    let entered: f64 = LEVELS
        .map(|level| samples.get(&format!("maas_pressure_transitions_total{{level=\"{level}\"}}")))
        .iter()
        .sum();
    #[expect(clippy::cast_precision_loss, reason = "there are few")]
    let lines = || logged_levels(&server).len() as f64;
    // A line is read a moment after it was written.
    wait_until("the last change is in the log", || lines() >= entered);
    assert_eq!((lines(), server.samples().get("maas_pressure_level")), (entered, 0.0), "{}", server.log());
    let logged = logged_levels(&server);
    assert!(
        logged.windows(2).all(|pair| pair[0].1 == pair[1].0),
        "each begins where the last ended: {logged:?}"
    );
    let rises: Vec<_> = logged.iter().take(4).map(|(_, to)| to.as_str()).collect();
    assert_eq!(rises, LEVELS[1..]);
}

#[test]
fn a_full_control_group_raises_the_level_of_an_empty_pool_and_stalls_raise_it_further() {
    let machine = Machine::new(10);
    let server = on(&machine);
    assert_eq!(level_of(&server.samples()), 0.0);
    machine.use_percent(80);
    wait_until("it is high", || level_of(&server.samples()) == 2.0);
    let samples = server.samples();
    let ratio = samples.get("maas_pressure_ratio{source=\"system\"}");
    assert!((ratio - 0.8).abs() < 1e-9, "what is inactive does not count: {ratio}");
    assert_eq!(samples.get("maas_pressure_ratio{source=\"pool\"}"), 0.0);
    assert_eq!(server.stat("/pressure/source"), "system");
    machine.stall("25.00");
    wait_until("it is critical", || level_of(&server.samples()) == 3.0);
    assert_eq!(server.stat("/pressure/source"), "psi");
    assert_eq!(server.samples().get("maas_pressure_stalled_ratio"), 0.25);
    machine.stall("0.00");
    machine.use_percent(20);
    wait_until("it is normal", || level_of(&server.samples()) == 0.0);
    // Garbage is what it was before, and no limit is none at once.
    machine.write("sys/fs/cgroup/pod/memory.current", "many");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(server.stat("/pressure/system_ratio"), 0.2);
    machine.write("sys/fs/cgroup/pod/memory.max", "max");
    wait_until("it has no limit", || server.stat("/pressure/system_ratio").is_null());
    assert_eq!(level_of(&server.samples()), 0.0);
}

#[test]
fn without_psi_stalls_are_not_read() {
    let machine = Machine::new(10);
    machine.stall("99.00");
    let root = machine.path().display().to_string();
    let server = small().set("pressure.cgroup_root", &root).set("pressure.psi", "false").start();
    let samples = server.samples();
    assert!(samples.get("maas_pressure_stalled_ratio").is_nan());
    assert_eq!(level_of(&samples), 0.0);
}

/// Writes so many blocks, and frees them. Bytes that were resident in between.
fn come_and_go(server: &Server, blocks: u64) -> f64 {
    let content = vec![7; usize::try_from(BLOCK).expect("small")];
    let mut client = server.connect();
    let stored: Vec<_> =
        (0..blocks).map(|_| path_of(&client.call("POST", "/allocate", &[OCTETS], &content).json())).collect();
    let most = resident(server);
    for path in stored {
        assert_eq!(client.call("DELETE", &path, &[], "").status, 204);
    }
    most
}

fn resident(server: &Server) -> f64 {
    server.samples().get("process_resident_memory_bytes")
}

#[test]
fn free_memory_goes_back_to_the_system_when_it_gets_full_and_not_before() {
    let machine = Machine::new(10);
    let server = on(&machine);
    come_and_go(&server, 100);
    // Blocks came so fast that more was expected, and acted upon. So again, and then nothing is expected any more.
    wait_until("nothing is expected", || server.samples().get("maas_seconds_to_critical") == f64::INFINITY);
    let held = || server.stat("/memory/pool_size_bytes").as_u64().expect("a number");
    machine.use_percent(85);
    wait_until("memory was given back", || held() <= 8 * BLOCK);
    machine.use_percent(93);
    wait_until("all of it was given back", || held() == 0);
    let last = server.stat("/reclaim/under_pressure/last");
    assert!(last["action"] == "aggressive_reclaim" || last["action"] == "emergency", "{last}");
    server.wait_for_log("free memory given back under pressure");
    let samples = server.samples();
    let bytes = ["gentle_reclaim", "aggressive_reclaim", "emergency"]
        .map(|action| samples.get(&format!("maas_pressure_reclaimed_bytes_total{{action=\"{action}\"}}")));
    assert!(bytes.iter().sum::<f64>() > 0.0, "{bytes:?}");
    assert!(samples.get("maas_seconds_since_last_reclaim") < 60.0);
    // It goes on every cooldown while that lasts, and one line says so.
    let before = reclaims(&samples);
    wait_until("it goes on", || reclaims(&server.samples()) >= before + 3.0);
    let lines = server.log().matches("free memory given back under pressure").count();
    #[expect(clippy::cast_precision_loss, reason = "there are few")]
    let lines = lines as f64;
    assert!(lines < reclaims(&server.samples()), "{lines} lines: {}", server.log());
}

#[test]
fn resident_memory_falls_under_pressure() {
    let machine = Machine::new(10);
    let server = on(&machine);
    let before = resident(&server);
    // What is in use stays, and what is free goes.
    let content = vec![9; usize::try_from(BLOCK).expect("small")];
    let kept = path_of(&server.store("", &content).json());
    let data = format!("{kept}/data");
    machine.use_percent(50);
    let mut most: f64 = 0.0;
    for _ in 0..3 {
        most = most.max(come_and_go(&server, 100));
        machine.use_percent(96);
        wait_until("what is free went back", || server.stat("/memory/pool_size_bytes") == BLOCK);
        machine.use_percent(10);
        wait_until("it is normal", || level_of(&server.samples()) == 0.0);
    }
    let after = resident(&server);
    assert!(most - before > 20e6, "{before} {most}");
    assert!(most - after > 18e6, "{before} {most} {after}");
    assert_eq!(server.get(&data).body, content);
}

#[test]
fn a_forecast_has_memory_given_back_before_the_level_asks_for_it() {
    let server = small().start();
    let mut ramp = Ramp::begin(&server, Duration::from_millis(60));
    let early = loop {
        assert!(ramp.blocks.len() < 150, "60 % are in use, and nothing was done");
        ramp.go_on();
        let samples = server.samples();
        if reclaims(&samples) > 0.0 {
            break samples;
        }
    };
    assert_eq!(early.get("maas_pressure_transitions_total{level=\"moderate\"}"), 0.0);
    assert!(early.get("maas_pressure_ratio{source=\"pool\"}") < 0.6);
    // Nobody was refused or deferred for it.
    assert!(early.iter().all(|(name, value)| !name.starts_with("maas_refused_total") || value == 0.0));
}

#[test]
fn while_it_is_watched_the_service_stops_at_once() {
    let mut server = small().start();
    let begun = std::time::Instant::now();
    assert_eq!(server.stop(), 0);
    assert!(begun.elapsed() < PATIENCE);
}
