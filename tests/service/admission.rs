//! Who is turned away before the pool is full, and what clients are told of it.

use crate::support::{Answer, JSON, OCTETS, Server, Starting, path_of, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Twenty slabs, so that each is five points, and no forecast but the first.
fn twenty() -> Starting {
    Server::with()
        .environment("MAX_POOL_SIZE", "20480")
        .environment("SLAB_SIZES", "1024")
        .set("pressure.interval", "1h")
}

fn fill(server: &Server, blocks: usize) -> Vec<String> {
    (0..blocks).map(|_| path_of(&server.allocate(1000))).collect()
}

fn with_priority(server: &Server, priority: &str) -> Answer {
    server.post(&json!({ "size_bytes": 1000, "priority": priority }).to_string())
}

fn refused_total(server: &Server, code: &str) -> f64 {
    server.samples().get(&format!("maas_refused_total{{reason=\"{code}\"}}"))
}

#[test]
fn low_is_deferred_from_high_and_rejected_from_critical_on_and_told_the_numbers() {
    let server = twenty().start();
    fill(&server, 15);
    let deferred = with_priority(&server, "low");
    let detail = deferred.is_problem(503, "admission-deferred");
    assert_eq!(
        detail,
        "1000 bytes were asked for with priority low, which the policy hard lets in below 73 %, but memory is 75 % full, at level high; ask again later, or with a higher priority"
    );
    let body = deferred.json();
    let numbers = ["requested_bytes", "in_use_bytes", "free_bytes", "limit_bytes", "largest_available_bytes"];
    assert_eq!(numbers.map(|name| body[name].clone()), [1000, 15_360, 5120, 20_480, 4096].map(Value::from));
    assert_eq!(body["refused_by"], "admission");
    let seconds = body["retry_after_seconds"].as_u64().expect("a 503 says when");
    assert!((1..=300).contains(&seconds));
    assert_eq!(deferred.header("retry-after"), Some(seconds.to_string().as_str()));
    fill(&server, 3);
    with_priority(&server, "low").is_problem(507, "admission-rejected");
    for priority in ["normal", "high"] {
        assert_eq!(with_priority(&server, priority).status, 201);
    }
    for priority in ["normal", "high"] {
        with_priority(&server, priority).is_problem(507, "pool-exhausted");
    }
    with_priority(&server, "low").is_problem(507, "admission-rejected");
    let codes = ["admission-deferred", "admission-rejected", "circuit-open"];
    assert_eq!(codes.map(|code| refused_total(&server, code)), [1.0, 2.0, 0.0]);
    assert_eq!(
        server.stat("/admission"),
        json!({
            "policy": "hard",
            "deferred": { "low": 1, "normal": 0, "high": 0 },
            "rejected": { "low": 2, "normal": 0, "high": 0 },
            "circuit_breaker": {
                "state": "off", "opened": 0, "smallest_refused_bytes": null, "tries_again_in_seconds": null
            },
        })
    );
}

/// A control group that uses so many of 1000 pages, and in which so many percent of the time something stalls.
fn machine(used: u32, stalled_percent: u32) -> TempDir {
    let machine = tempfile::tempdir().expect("a temporary directory");
    for (path, text) in [
        ("proc/self/cgroup", "0::/pod\n".to_owned()),
        ("sys/fs/cgroup/pod/memory.max", "4096000\n".to_owned()),
        ("sys/fs/cgroup/pod/memory.current", format!("{}\n", used * 4096)),
        ("sys/fs/cgroup/pod/memory.stat", "inactive_file 0\n".to_owned()),
        (
            "sys/fs/cgroup/pod/memory.pressure",
            format!("some avg10={stalled_percent}.00 avg60=0.00 avg300=0.00 total=0\n"),
        ),
    ] {
        let path = machine.path().join(path);
        fs::create_dir_all(path.parent().expect("it lies below the root")).expect("a directory");
        fs::write(path, text).expect("a fixture file");
    }
    machine
}

#[test]
fn who_is_turned_away_for_what_the_system_says_is_told_that_and_no_time_that_the_pool_would_tell() {
    for (used, stalled, status, code, level, why) in [
        (
            950,
            0,
            507,
            "admission-rejected",
            "emergency",
            "the policy hard lets in below 73 %, but the system's memory is 95 % full, at level emergency;",
        ),
        (
            5000,
            0,
            507,
            "admission-rejected",
            "emergency",
            "the policy hard lets in below 73 %, but the system's memory is more than full, at level emergency;",
        ),
        (
            800,
            50,
            507,
            "admission-rejected",
            "critical",
            "the policy hard does not let in at level critical: tasks stall for lack of memory, which is 80 % full;",
        ),
        (
            650,
            50,
            503,
            "admission-deferred",
            "high",
            "the policy hard does not let in at level high: tasks stall for lack of memory, which is 65 % full;",
        ),
    ] {
        let machine = machine(used, stalled);
        let server = twenty().set("pressure.cgroup_root", &machine.path().display().to_string()).start();
        wait_until("the first forecast is there", || {
            !server.get("/pressure").json()["predicted_30s"].is_null()
        });
        let refused = with_priority(&server, "low");
        let detail = refused.is_problem(status, code);
        assert!(detail.contains(why), "{detail}");
        let seconds = &refused.json()["retry_after_seconds"];
        let header = refused.header("retry-after");
        match status {
            507 => assert_eq!((seconds, header), (&Value::Null, Some("5")), "{detail}"),
            _ => assert_eq!((seconds, header), (&json!(1), Some("1")), "a 503 says something always"),
        }
        let body = server.get("/pressure").json();
        assert_eq!(body["level"], level);
        assert_eq!(body["seconds_to"][level], 0.0, "{body}");
        assert!(body["ratio"].as_f64().is_some_and(|ratio| ratio <= 10.0));
        if level == "critical" {
            assert_eq!(server.samples().get("maas_seconds_to_critical"), 0.0);
        }
    }
}

#[test]
fn a_pool_that_was_filled_since_the_last_forecast_tells_no_time() {
    let server = twenty().start();
    wait_until("the first forecast is there", || !server.get("/pressure").json()["predicted_30s"].is_null());
    fill(&server, 20);
    let refused = server.post("{\"size_bytes\":1}");
    refused.is_problem(507, "pool-exhausted");
    assert_eq!(refused.header("retry-after"), Some("5"));
    assert_eq!(refused.json()["retry_after_seconds"], Value::Null);
}

#[test]
fn every_call_that_takes_memory_is_asked_about_and_what_is_there_is_served() {
    let server = twenty().set("memory.slab_sizes", "1024,4096").start();
    let arena = server.arena(&json!({ "profile": "tiny", "priority": "low" }));
    let path = path_of(&server.allocate(1000));
    fill(&server, 12);
    let low = json!({ "size_bytes": 1, "priority": "low", "wait_ms": 30_000 }).to_string();
    let begun = Instant::now();
    server.post(&low).is_problem(503, "admission-deferred");
    server.store("?priority=low&wait_ms=30000", "x").is_problem(503, "admission-deferred");
    let batch = json!({ "allocations": [{ "size_bytes": 1 }, { "size_bytes": 1, "priority": "low" }] });
    server.post_to("/allocate/batch", &batch.to_string()).is_problem(503, "admission-deferred");
    let small = json!({ "profile": "tiny", "priority": "low" }).to_string();
    server.post_to("/arenas", &small).is_problem(503, "admission-deferred");
    let members = format!("/arenas/{}/allocate", arena["id"].as_str().expect("text"));
    server
        .post_to(&members, &json!({ "size_bytes": 8192, "priority": "low" }).to_string())
        .is_problem(503, "admission-deferred");
    assert!(begun.elapsed() < Duration::from_secs(10), "who is turned away does not wait");
    assert_eq!(
        server.post_to(&members, &json!({ "size_bytes": 100, "priority": "low" }).to_string()).status,
        201
    );
    let data = format!("{path}/data");
    assert_eq!(server.call("PUT", &data, &[OCTETS], "x").status, 204);
    assert_eq!(server.get(&data).status, 200);
    assert_eq!(server.post_to(&format!("{path}/renew"), "{\"lease_seconds\":60}").status, 200);
    assert_eq!(server.delete(&path).status, 204);
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn what_can_never_be_had_is_422_and_a_service_that_stops_says_so_first() {
    let mut server = twenty().start();
    fill(&server, 19);
    server.post("{\"size_bytes\":20481,\"priority\":\"low\"}").is_problem(422, "size-too-large");
    server
        .post_to("/allocate/batch", "{\"size_bytes\":1024,\"count\":21,\"priority\":\"low\"}")
        .is_problem(422, "size-too-large");
    let mut holder = server.connect();
    holder.send("POST /allocate HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n");
    holder.send("Content-Length: 20\r\nExpect: 100-continue\r\n\r\n");
    holder.expect("HTTP/1.1 100 Continue\r\n\r\n");
    server.signal(Signal::TERM);
    server.wait_for_log("draining connections");
    with_priority(&server, "low").is_problem(503, "stopping");
    holder.send("{\"size_bytes\":    1}\n");
    assert_eq!(holder.answer("POST", "/allocate").status, 201);
    assert_eq!(server.exit_code(), 0);
}

#[test]
fn under_the_policy_graduated_normal_is_turned_away_in_proportion_and_high_never() {
    let server = twenty().set("admission.policy", "graduated").start();
    let mut held: Vec<String> = Vec::new();
    // Of ten requests: (served, deferred, rejected). What is served is freed at once.
    let ten = |priority: &str| {
        let mut outcomes = (0, 0, 0);
        for _ in 0..10 {
            let answer = with_priority(&server, priority);
            match answer.status {
                201 => {
                    outcomes.0 += 1;
                    assert_eq!(server.delete(&path_of(&answer.json())).status, 204);
                }
                503 => {
                    outcomes.1 += 1;
                    answer.is_problem(503, "admission-deferred");
                }
                _ => {
                    outcomes.2 += 1;
                    answer.is_problem(507, "admission-rejected");
                }
            }
        }
        outcomes
    };
    let mut fill_to = |blocks: usize| {
        while held.len() < blocks {
            held.push(path_of(&with_priority(&server, "high").json()));
        }
    };
    fill_to(16);
    assert_eq!(ten("normal"), (10, 0, 0));
    fill_to(17);
    assert_eq!((ten("normal"), ten("low"), ten("high")), ((9, 1, 0), (0, 10, 0), (10, 0, 0)));
    fill_to(19);
    assert_eq!((ten("normal"), ten("low"), ten("high")), ((0, 3, 7), (0, 0, 10), (10, 0, 0)));
    let stats = server.stat("/admission");
    assert_eq!((&stats["policy"], &stats["deferred"]["normal"]), (&json!("graduated"), &json!(4)));
}

#[test]
fn a_key_that_was_turned_away_may_be_used_again() {
    let server = twenty().start();
    let held = fill(&server, 15);
    let low = json!({ "size_bytes": 1, "priority": "low" }).to_string();
    let try_it = || server.call("POST", "/allocate", &[JSON, ("Idempotency-Key", "again")], &low);
    try_it().is_problem(503, "admission-deferred");
    try_it().is_problem(503, "admission-deferred");
    for path in &held[..5] {
        assert_eq!(server.delete(path).status, 204);
    }
    let made = try_it();
    assert_eq!((made.status, made.header("idempotent-replayed")), (201, None));
    assert_eq!(try_it().header("idempotent-replayed"), Some("true"));
}

#[test]
fn the_circuit_breaker_opens_refuses_at_once_and_is_closed_by_a_free() {
    let server = twenty()
        .set("admission.breaker_threshold", "3")
        .set("admission.breaker_open", "90s")
        .set("memory.slab_sizes", "1024,2048")
        .start();
    let held = fill(&server, 19);
    let two = "{\"size_bytes\":2000,\"wait_ms\":0}";
    let state = || {
        let breaker = server.stat("/admission/circuit_breaker");
        let is_open = server.stat("/health/circuit_breaker_open") == true;
        assert_eq!(breaker["state"] == "open", is_open);
        assert_eq!(server.samples().get("maas_circuit_breaker_open"), f64::from(u8::from(is_open)));
        breaker
    };
    assert_eq!(state()["state"], "closed");
    for _ in 0..3 {
        server.post(two).is_problem(507, "pool-exhausted");
    }
    assert_eq!((&state()["state"], &state()["smallest_refused_bytes"]), (&json!("open"), &json!(2048)));
    let refused = server.post(&two.replace(":0}", ":30000}"));
    let detail = refused.is_problem(503, "circuit-open");
    assert!(
        detail.starts_with("2000 bytes were asked for, which take a block of 2048, but after"),
        "{detail}"
    );
    let body = refused.json();
    assert_eq!((&body["refused_by"], &body["requested_bytes"]), (&json!("circuit"), &json!(2000)));
    assert!((80..=90).contains(&body["retry_after_seconds"].as_u64().expect("a number")), "{body}");
    server.wait_for_log("circuit breaker opens");
    let small = path_of(&server.allocate(1000));
    assert_eq!(state()["state"], "open", "a smaller one is served, and closes nothing");
    assert_eq!(server.delete(&held[0]).status, 204);
    assert_eq!(state()["state"], "open", "one slab is not enough");
    assert_eq!(server.delete(&small).status, 204);
    assert_eq!((&state()["state"], &state()["opened"]), (&json!("closed"), &json!(1)));
    server.wait_for_log("circuit breaker closes");
    assert_eq!(server.post(two).status, 201);
    assert_eq!(server.samples().get("maas_circuit_breaker_opened_total"), 1.0);
    assert_eq!(refused_total(&server, "circuit-open"), 1.0);
}

#[test]
fn the_breaker_is_half_open_when_its_time_is_over_and_who_ends_without_a_verdict_leaves_the_next_to_be_tried()
{
    let server = twenty()
        .set("admission.breaker_threshold", "1")
        .set("admission.breaker_open", "1s")
        .set("memory.slab_sizes", "1024,2048")
        .start();
    fill(&server, 19);
    let two = "{\"size_bytes\":2000}";
    server.post(two).is_problem(507, "pool-exhausted");
    wait_until("its time is over", || server.stat("/admission/circuit_breaker/state") == "half_open");
    let breaker = server.stat("/admission/circuit_breaker");
    assert_eq!((&breaker["opened"], &breaker["tries_again_in_seconds"]), (&json!(1), &Value::Null));
    assert_eq!(server.stat("/health/circuit_breaker_open"), false);
    assert_eq!(server.samples().get("maas_circuit_breaker_open"), 0.0);
    server.post(two).is_problem(507, "pool-exhausted");
}

#[test]
fn a_full_pool_that_is_given_back_steadily_says_when_to_come_back() {
    let server = twenty().set("pressure.interval", "100ms").start();
    let mut held = fill(&server, 20);
    let begun = Instant::now();
    loop {
        let refused = server.post("{\"size_bytes\":1}");
        refused.is_problem(507, "pool-exhausted");
        let seconds: u64 = refused.header("retry-after").expect("a 507 says when").parse().expect("a number");
        match refused.json()["retry_after_seconds"].as_u64() {
            Some(known) => {
                assert_eq!(known, seconds);
                assert!((1..=300).contains(&known));
                return;
            }
            None => assert_eq!(seconds, 5, "where nothing is known"),
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "no forecast ever tells");
        // One goes and another comes: the pool is full, and memory is given back all the time.
        assert_eq!(server.delete(&held.remove(0)).status, 204);
        held.push(path_of(&server.allocate(1000)));
        std::thread::sleep(Duration::from_millis(20));
    }
}
