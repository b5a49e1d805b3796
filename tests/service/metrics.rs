//! `/metrics`: complete from the first scrape, and true.

use crate::support::{JSON, Samples, Server, description, request};
use std::collections::BTreeSet;

/// Families that the contract names, by type. Those of parts that do not exist yet come with them.
const GAUGES: &str = "maas_active_allocations maas_allocation_size_bytes maas_pool_size_bytes \
    maas_utilization_percent maas_http_connections maas_pool_utilization_ratio maas_pool_limit_bytes \
    maas_peak_in_use_bytes maas_draining_bytes maas_retired_bytes maas_committed_bytes maas_metadata_bytes maas_inflight_bytes \
    maas_waiting_requests maas_slabs maas_slab_reuse_ratio maas_backend_up maas_connection_state maas_build_info maas_seconds_since_last_reclaim maas_health_score \
    maas_arenas maas_arena_chunk_bytes maas_arena_used_bytes \
    process_resident_memory_bytes process_virtual_memory_bytes process_open_fds process_max_fds \
    process_start_time_seconds process_threads";
const COUNTERS: &str = "maas_request_count maas_slab_reuse_total maas_http_requests_total \
    maas_http_received_bytes_total maas_http_sent_bytes_total maas_slab_created_total maas_refused_total \
    maas_push_attempts_total maas_readers_cut_total maas_allocation_path_total maas_guard_violations_total maas_compaction_moves_total \
    maas_compaction_bytes_total maas_reclaim_total maas_reclaimed_bytes_total maas_advice_total maas_arenas_created_total \
    maas_arenas_ended_total process_cpu_seconds_total";

#[test]
fn the_content_type_is_that_of_the_text_format() {
    let server = Server::start();
    let answer = server.get("/metrics");
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(answer.text().ends_with('\n'));
}

#[test]
fn the_readme_has_every_family() {
    let readme = include_str!("../../README.md");
    for family in Server::start().samples().families.keys().filter(|name| name.starts_with("maas_")) {
        let row = [format!("| `{family}` |"), format!("| `{family}{{")];
        assert!(row.iter().any(|begin| readme.contains(begin)), "{family} has no row in README.md");
    }
}

#[test]
fn a_reclaim_that_is_counted_has_its_time() {
    let server = Server::with().set("memory.classes.1024.max_free", "0").start();
    let id = server.allocate(1000)["id"].as_str().expect("text").to_owned();
    assert_eq!(server.call("DELETE", &format!("/allocate/{id}"), &[], "").status, 204);
    let reclaim = server.stat("/reclaim");
    assert!(reclaim["surplus"].as_u64() > Some(0), "{reclaim}");
    assert_eq!(reclaim["seconds_since_last"], 0, "{reclaim}");
}

#[test]
fn every_family_has_its_children_from_the_first_scrape_on() {
    let server = Server::start();
    let samples = server.samples();
    for (names, kind) in [(GAUGES, "gauge"), (COUNTERS, "counter")] {
        for name in names.split_whitespace() {
            assert_eq!(samples.families.get(name).map(String::as_str), Some(kind), "{name}");
            let child = |sample: &str| sample == name || sample.starts_with(&format!("{name}{{"));
            assert!(samples.iter().any(|(sample, _)| child(sample)), "{name} has no sample");
        }
    }
    let durations = "maas_http_request_duration_seconds";
    assert_eq!(samples.families[durations], "histogram");
    assert_eq!(samples.families["maas_allocation_duration_seconds"], "histogram");
    assert!(samples.contains("maas_allocation_duration_seconds_bucket{le=\"+Inf\"}"));
    let described = description(&server);
    for (template, methods) in described.routes() {
        for method in methods {
            let pair = format!("method=\"{method}\",route=\"{template}\"");
            assert!(samples.contains(&format!("{durations}_count{{{pair}}}")), "{pair}");
            let success = described
                .documented()
                .into_iter()
                .filter(|(known, route, _)| *known == method && *route == template)
                .map(|(_, _, status)| status)
                .min()
                .expect("every operation has an answer");
            for family in ["maas_request_count", "maas_http_requests_total"] {
                let name = format!("{family}{{{pair},status=\"{success}\"}}");
                let expected = if template == "/openapi.json" { 1.0 } else { 0.0 };
                assert!(samples.get(&name) <= expected, "{name}");
            }
        }
    }
    for (label, values) in [
        ("maas_connection_state{state=", "off disconnected connected reconnecting native_metrics"),
        (
            "maas_refused_total{reason=",
            "pool-exhausted system-memory table-full inflight-exhausted stopping arena-exhausted",
        ),
        ("maas_arenas_ended_total{state=", "committed rolled_back expired"),
        ("maas_arenas_created_total{profile=", "tiny small medium large huge"),
        ("maas_http_timed_out_total{kind=", "silent head idle body reader"),
        ("maas_reclaim_total{action=", "backing surplus idle pressure"),
        ("maas_pressure_ratio{source=", "pool system"),
        ("maas_pressure_transitions_total{level=", "normal moderate high critical emergency"),
        ("maas_predicted_utilization_ratio{horizon=", "30s 60s 120s"),
        ("maas_pressure_reclaims_total{action=", "gentle_reclaim aggressive_reclaim emergency"),
        ("maas_pressure_reclaimed_bytes_total{action=", "gentle_reclaim aggressive_reclaim emergency"),
        ("maas_pressure_reclaim_seconds_total{action=", "gentle_reclaim aggressive_reclaim emergency"),
        ("maas_advice_total{advice=\"dontneed\",result=", "nothing unsupported refused applied"),
        ("maas_push_attempts_total{target=\"backend\",result=", "ok error"),
        ("maas_push_attempts_total{target=\"pushgateway\",result=", "ok error"),
    ] {
        for value in values.split(' ') {
            assert!(samples.contains(&format!("{label}\"{value}\"}}")), "{label}{value}");
        }
    }
    let classes: Vec<u64> = (10..=22).map(|bits| 1 << bits).collect();
    for size in classes {
        for family in ["maas_slab_reuse_total", "maas_slab_created_total", "maas_slab_reuse_ratio"] {
            assert!(samples.contains(&format!("{family}{{slab_size=\"{size}\"}}")), "{family} {size}");
        }
        for state in ["used", "free"] {
            assert!(
                samples.contains(&format!("maas_slabs{{slab_size=\"{size}\",state=\"{state}\"}}")),
                "{size}"
            );
        }
    }
    assert_eq!(samples.get(&format!("maas_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))), 1.0);
    assert_eq!(samples.get("maas_connection_state{state=\"off\"}"), 1.0);
    assert_eq!(samples.get("maas_backend_up"), 0.0);
}

/// Samples of counters and histograms: what must never decrease.
fn counted(samples: &Samples) -> Vec<(String, f64)> {
    let counts = |name: &&str| matches!(samples.kind_of(name), "counter" | "histogram");
    samples.iter().filter(|(name, _)| counts(name)).map(|(name, value)| (name.to_owned(), value)).collect()
}

#[test]
fn counters_never_decrease_and_no_sample_goes_away() {
    let server = Server::of_ten_slabs();
    let mut before = server.samples();
    for round in 0..5 {
        for _ in 0..12 {
            server.post("{\"size_bytes\":1000}");
        }
        server.post("nonsense");
        server.get("/nowhere");
        server.call("BREW", "/stats", &[], "");
        let listed = server.get("/allocate").json();
        for allocation in listed["allocations"].as_array().expect("a list") {
            server.delete(&format!("/allocate/{}", allocation["id"].as_str().expect("text")));
        }
        let after = server.samples();
        for (name, value) in counted(&before) {
            assert!(after.get(&name) >= value, "{name} fell from {value} in round {round}");
        }
        assert!(before.iter().all(|(name, _)| after.contains(name)), "a sample is gone");
        before = after;
    }
    assert_eq!(before.get("maas_slab_created_total{slab_size=\"1024\"}"), 10.0);
    assert_eq!(before.get("maas_refused_total{reason=\"pool-exhausted\"}"), 10.0);
    let unmatched = "maas_http_requests_total{method=\"GET\",route=\"unmatched\",status=\"404\"}";
    assert_eq!(before.get(unmatched), 5.0);
    let other = "maas_http_requests_total{method=\"other\",route=\"/stats\",status=\"405\"}";
    assert_eq!(before.get(other), 5.0);
}

#[test]
fn labels_are_templates_and_never_what_a_client_sent() {
    let server = Server::start();
    for path in
        ["/secret-marker", "/allocate/secret-marker", "/allocate/secret-marker/more", "/%0asecret-marker"]
    {
        server.get(path);
        server.call("SECRETMARKER", path, &[], "");
    }
    let text = server.get("/metrics").text();
    assert!(!text.to_lowercase().contains("marker"), "{text}");
    let routes: BTreeSet<&str> =
        text.lines().filter_map(|line| line.split("route=\"").nth(1)?.split('"').next()).collect();
    let described: Vec<(String, Vec<String>)> = description(&server).routes();
    let known =
        |route: &&str| *route == "unmatched" || described.iter().any(|(template, _)| template == route);
    assert!(routes.iter().all(known), "{routes:?}");
}

#[test]
fn bytes_received_and_sent_grow_by_exactly_what_was_exchanged() {
    let server = Server::start();
    let mut client = server.connect();
    let scrape = request("GET", "/metrics", &[], "");
    let exchanges = [
        ("POST", "/allocate", "{\"size_bytes\":1000}"),
        ("GET", "/nowhere", ""),
        ("HEAD", "/openapi.json", ""),
        ("GET", "/openapi.json", ""),
    ];
    let first = client.call("GET", "/metrics", &[], "");
    let (mut received, mut sent) = (scrape.len(), first.length_bytes);
    for (method, target, body) in exchanges {
        received += request(method, target, &[JSON], body).len();
        sent += client.call(method, target, &[JSON], body).length_bytes;
    }
    let second = client.call("GET", "/metrics", &[], "");
    let (first, second) = (Samples::parse(&first.text()), Samples::parse(&second.text()));
    let grown = |name: &str| second.get(name) - first.get(name);
    assert_eq!(grown("maas_http_received_bytes_total"), received as f64);
    assert_eq!(grown("maas_http_sent_bytes_total"), sent as f64);
    assert_eq!(grown("maas_http_connections_opened_total"), 0.0);
}
