//! How the pool does, by `/stats` and `/metrics`.

use crate::support::{JSON, Server};
use serde_json::{Value, json};

/// Every number or word of an object, by the names that lead to it.
fn leaves(value: &Value, path: &str, found: &mut Vec<String>) {
    match value.as_object() {
        Some(members) => {
            members.iter().for_each(|(name, value)| leaves(value, &format!("{path}.{name}"), found))
        }
        None => found.push(path.to_owned()),
    }
}

#[test]
fn an_unused_pool_is_well_and_says_what_is_switched_on() {
    let server = Server::with().set("memory.canaries", "false").set("memory.guard_pages", "true").start();
    let health = server.stat("/health");
    assert_eq!((&health["health_score"], &health["recent_trend"]), (&json!(1.0), &json!("stable")));
    for none in ["latency_p50_ns", "latency_p95_ns", "latency_p99_ns", "last_reclaim_duration_ns"] {
        assert_eq!(health[none], Value::Null, "{none}");
    }
    assert_eq!((&health["error_rate"], &health["cache_efficiency"]), (&json!(0.0), &json!(1.0)));
    assert_eq!(health["lifetime"]["latency_average_ns"], Value::Null);
    assert_eq!(health["circuit_breaker_open"], false);
    assert_eq!(health["protection"], json!({"zero_on_free": true, "canaries": false, "guard_pages": true}));
}

#[test]
fn lifetime_counts_are_those_of_the_calls() {
    let server = Server::of_ten_slabs();
    let mut ids = Vec::new();
    for _ in 0..8 {
        ids.push(server.allocate(512)["id"].as_str().expect("text").to_owned());
    }
    let batch = |count| {
        let body = json!({"size_bytes": 256, "count": count}).to_string();
        server.call("POST", "/allocate/batch", &[JSON], &body).status
    };
    assert_eq!((batch(3), batch(2)), (507, 201));
    assert_eq!(server.post("{\"size_bytes\":1}").status, 507);
    let health = server.stat("/health");
    assert_eq!(health["memory_pressure"], 1.0, "{health}");
    assert_eq!(health["error_rate"], json!(4.0 / 14.0), "{health}");
    assert_eq!(
        health["fragmentation_ratio"],
        json!(1.0 - (8.0 * 512.0 + 2.0 * 256.0) / 10_240.0),
        "{health}"
    );
    let score = health["health_score"].as_f64().expect("a number");
    assert!((0.3..0.8).contains(&score), "{health}");
    let times = ["latency_p50_ns", "latency_p95_ns", "latency_p99_ns"].map(|name| health[name].as_u64());
    assert!(times[0] > Some(0) && times.is_sorted(), "{health}");
    for id in [&ids[0], &ids[1], &ids[1]] {
        server.call("DELETE", &format!("/allocate/{id}"), &[], "");
    }
    let body = json!({"ids": [ids[1], ids[2]]}).to_string();
    assert_eq!(server.call("POST", "/deallocate/batch", &[JSON], &body).status, 200);
    let health = server.stat("/health");
    let lifetime = &health["lifetime"];
    for (name, count) in [
        ("total_allocations", 10),
        ("total_deallocations", 3),
        ("batch_allocations", 2),
        ("batch_deallocations", 1),
        ("allocation_errors", 4),
        ("deallocation_errors", 2),
        ("guard_violations", 0),
    ] {
        assert_eq!(lifetime[name], count, "{name}: {lifetime}");
    }
    let (average, max) = (lifetime["latency_average_ns"].as_f64(), lifetime["latency_max_ns"].as_f64());
    assert!(average > Some(0.0) && average <= max, "{lifetime}");
}

#[test]
fn a_reclaim_that_took_place_has_its_duration() {
    let server = Server::with().set("memory.classes.1024.max_free", "0").start();
    let id = server.allocate(1000)["id"].as_str().expect("text").to_owned();
    assert_eq!(server.call("DELETE", &format!("/allocate/{id}"), &[], "").status, 204);
    assert!(server.stat("/health/last_reclaim_duration_ns").as_u64() > Some(0));
}

#[test]
fn metrics_have_the_score_and_the_durations_of_allocations() {
    let server = Server::start();
    let before = server.samples();
    assert_eq!(before.get("maas_health_score"), 1.0);
    assert_eq!(before.get("maas_allocation_duration_seconds_count"), 0.0);
    for _ in 0..50 {
        server.allocate(1000);
    }
    let after = server.samples();
    let durations = "maas_allocation_duration_seconds";
    let count = after.get(&format!("{durations}_count"));
    assert!((1.0..=100.0).contains(&count), "{count} of 50");
    assert!(after.get(&format!("{durations}_sum")) > 0.0);
    let bucket = |bound: &str| after.get(&format!("{durations}_bucket{{le=\"{bound}\"}}"));
    assert_eq!((bucket("+Inf"), bucket("0.00000005") <= bucket("1")), (count, true));
    let score = after.get("maas_health_score");
    assert!((0.5..=1.0).contains(&score), "{score}");
}

#[test]
fn every_member_is_described_and_has_a_row_in_the_readme() {
    let server = Server::start();
    let mut members = Vec::new();
    leaves(&server.stat("/health"), "health", &mut members);
    assert!(members.len() > 25, "{members:?}");
    let readme = include_str!("../../README.md");
    for member in members {
        assert!(readme.contains(&format!("| `{member}` |")), "{member} has no row in README.md");
    }
    let document = server.get("/openapi.json").json();
    let schema = &document["components"]["schemas"]["HealthBlock"];
    let described = schema["properties"].as_object().expect("its members are described");
    let health = server.stat("/health");
    let told: Vec<_> = health.as_object().expect("an object").keys().collect();
    assert_eq!(described.keys().collect::<Vec<_>>(), told);
}
