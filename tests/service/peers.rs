//! The connection manager against peers that fail in every way: `/health` tells, and requests never notice.

use crate::support::{Mode, Server, Starting, TestPeer, wait_until};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A server that tries often and gives up soon.
fn impatient(backend: &str) -> Starting {
    Server::with()
        .environment("BACKEND_SERVER_URL", backend)
        .set("backend.retry_interval", "50ms")
        .set("backend.retry_interval_max", "100ms")
        .set("backend.timeout", "200ms")
        .set("prometheus.push_interval", "100ms")
}

fn state(server: &Server) -> (Value, Value) {
    let health = server.get("/health").json();
    (health["status"].clone(), health["connection"]["state"].clone())
}

fn wait_for(server: &Server, status: &str, state_name: &str) {
    let expected = (json!(status), json!(state_name));
    wait_until(&format!("it is {status}, {state_name}"), || state(server) == expected);
}

/// A hundred allocates and frees, none of which may wait for the peer.
fn requests_never_notice(server: &Server) {
    let mut client = server.connect();
    let mut slowest = Duration::ZERO;
    for _ in 0..100 {
        let begun = Instant::now();
        let made = client.call("POST", "/allocate", &[crate::support::JSON], "{\"size_bytes\":1}");
        slowest = slowest.max(begun.elapsed());
        let path = made.header("location").expect("granted").to_owned();
        assert_eq!(client.call("DELETE", &path, &[], "").status, 204);
    }
    assert!(slowest < Duration::from_secs(2), "an allocate took {slowest:?}");
}

#[test]
fn a_backend_that_answers_is_connected_probed_and_pushed_to() {
    let peer = TestPeer::start(Mode::Well);
    let server = impatient(&format!("{}/base", peer.url())).start();
    wait_for(&server, "healthy", "connected");
    wait_until("it was pushed to twice", || peer.seen().len() >= 3);
    let seen = peer.seen();
    assert_eq!(seen[0].0, "GET /base/health");
    let (asked, headers, body) = &seen[1];
    assert_eq!(asked, "POST /base/metrics");
    assert!(headers.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{headers}");
    assert!(body.contains("# TYPE maas_request_count counter\n"), "{body}");
    let families = |text: &str| {
        text.lines().filter(|line| line.starts_with("# TYPE")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        families(body),
        families(&server.get("/metrics").text()),
        "scrape and push send the same text"
    );
    let connection = &server.get("/health").json()["connection"];
    assert_eq!(connection["attempts"], 0);
    assert_eq!((&connection["last_error"], &connection["next_retry_seconds"]), (&Value::Null, &Value::Null));
    let samples = server.samples();
    assert_eq!(samples.get("maas_backend_up"), 1.0);
    assert_eq!(samples.get("maas_connection_state{state=\"connected\"}"), 1.0);
    assert!(samples.get("maas_push_attempts_total{target=\"backend\",result=\"ok\"}") >= 2.0);
    requests_never_notice(&server);
}

/// The peer fails like this from the start: degraded, soon native; healthy again when it comes back.
fn fails_like(mode: Mode, error: &str) {
    let peer = TestPeer::start(mode);
    let server = impatient(&peer.url()).start();
    wait_for(&server, "degraded", "native_metrics");
    let connection = server.get("/health").json()["connection"].clone();
    assert!(connection["attempts"].as_u64().expect("a number") >= 3, "{connection}");
    let told = connection["last_error"].as_str().expect("text");
    assert!(told.contains(error), "{told}");
    assert!(!told.contains(char::is_control), "{told}");
    requests_never_notice(&server);
    assert_eq!(server.get("/readyz").status, 200, "a failing backend does not make it unready");
    let samples = server.samples();
    assert_eq!(samples.get("maas_backend_up"), 0.0);
    assert_eq!(samples.get("maas_connection_state{state=\"native_metrics\"}"), 1.0);
    peer.turn(Mode::Well);
    wait_for(&server, "healthy", "connected");
    let changes = server.log().matches("link is").count();
    assert!((2..=4).contains(&changes), "one line for each change of state: {}", server.log());
    assert!(peer.seen().iter().all(|(asked, _, _)| !asked.contains("elsewhere")), "no redirect is followed");
}

#[test]
fn a_backend_that_hangs_is_given_up_after_the_timeout_and_found_again() {
    fails_like(Mode::Hang, "timed out after 200ms");
}

#[test]
fn a_backend_that_answers_500_degrades_and_is_found_again() {
    fails_like(Mode::Status(500), "500");
}

#[test]
fn a_backend_that_answers_404_degrades_and_is_found_again() {
    fails_like(Mode::Status(404), "404");
}

#[test]
fn a_backend_that_answers_garbage_degrades_and_is_found_again() {
    fails_like(Mode::Garbage, "probe");
}

#[test]
fn a_backend_that_redirects_is_not_followed() {
    for status in [301, 302, 307, 308] {
        fails_like(Mode::Status(status), "redirect");
    }
}

#[test]
fn a_backend_that_is_dead_is_found_when_it_comes_up_and_missed_when_it_goes() {
    let address = TestPeer::start(Mode::Well).address(); // gone at once
    let server = impatient(&format!("http://{address}")).start();
    wait_for(&server, "degraded", "native_metrics");
    requests_never_notice(&server);
    let peer = TestPeer::listen(address, Mode::Well);
    wait_for(&server, "healthy", "connected");
    drop(peer);
    wait_for(&server, "degraded", "native_metrics");
    let error = server.get("/health").json()["connection"]["last_error"].clone();
    assert!(error.as_str().is_some_and(|error| !error.is_empty()), "{error}");
}

#[test]
fn the_first_failure_after_success_is_reconnecting_with_the_time_of_the_next_attempt() {
    let peer = TestPeer::start(Mode::Well);
    let server = impatient(&peer.url())
        .set("backend.retry_interval", "60s")
        .set("backend.retry_interval_max", "60s")
        .start();
    wait_for(&server, "healthy", "connected");
    peer.turn(Mode::Status(503));
    wait_for(&server, "degraded", "reconnecting");
    let connection = server.get("/health").json()["connection"].clone();
    assert_eq!(connection["attempts"], 1);
    let next = connection["next_retry_seconds"].as_u64().expect("a number");
    assert!((40..=66).contains(&next), "60 seconds, give or take a tenth: {next}");
    assert_eq!(server.samples().get("maas_connection_state{state=\"reconnecting\"}"), 1.0);
}

#[test]
fn a_backend_that_flaps_is_followed_and_never_disturbs_a_request() {
    let peer = TestPeer::start(Mode::Flap);
    let server = impatient(&peer.url()).start();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        requests_never_notice(&server);
        let (status, name) = state(&server);
        let fits = match name.as_str().expect("text") {
            "connected" | "disconnected" => status == "healthy",
            "reconnecting" | "native_metrics" => status == "degraded",
            _ => false,
        };
        assert!(fits, "{status} while {name}");
    }
    peer.turn(Mode::Well);
    wait_for(&server, "healthy", "connected");
}

#[test]
fn the_pushgateway_gets_our_group_and_loses_it_on_a_clean_stop() {
    let peer = TestPeer::start(Mode::Well);
    let mut server = Server::with()
        .environment("PROMETHEUS_PUSH_ENABLED", "true")
        .environment("PROMETHEUS_PUSHGATEWAY_URL", &peer.url())
        .set("prometheus.push_interval", "100ms")
        .set("prometheus.job", "a job")
        .start();
    wait_until("it was pushed to twice", || peer.seen().len() >= 2);
    let health = server.get("/health").json();
    assert_eq!(
        (&health["pushgateway"]["state"], &health["connection"]["state"]),
        (&json!("connected"), &json!("off"))
    );
    let samples = server.samples();
    assert!(samples.get("maas_push_attempts_total{target=\"pushgateway\",result=\"ok\"}") >= 1.0);
    let address = server.address();
    assert_eq!(server.stop(), 0);
    let seen = peer.seen();
    let group = |asked: &str| {
        let path = asked.split(' ').nth(1).expect("a path").to_owned();
        path.replace("%3A", ":").replace("%20", " ")
    };
    assert!(
        seen[0].0.starts_with("PUT ") && seen[0].2.contains("maas_active_allocations 0\n"),
        "{:?}",
        seen[0]
    );
    let (last, before) = seen.split_last().expect("there were several");
    assert!(before.iter().all(|(asked, _, _)| asked.starts_with("PUT ")), "{before:?}");
    assert!(last.0.starts_with("DELETE "), "{}", last.0);
    assert!(last.0.ends_with(seen[0].0.trim_start_matches("PUT ")), "the group that was pushed: {}", last.0);
    let expected = format!("/metrics/job/a job/instance/{address}");
    assert!(last.0.contains("@base64") || group(&last.0) == expected, "{} is not {expected}", last.0);
}

#[test]
fn a_dead_pushgateway_degrades_nothing() {
    let address = TestPeer::start(Mode::Well).address();
    let mut server = Server::with()
        .environment("PROMETHEUS_PUSH_ENABLED", "true")
        .environment("PROMETHEUS_PUSHGATEWAY_URL", &format!("http://{address}"))
        .set("backend.retry_interval", "50ms")
        .set("backend.retry_interval_max", "50ms")
        .start();
    wait_until("pushing has failed", || {
        server.get("/health").json()["pushgateway"]["state"] == "native_metrics"
    });
    assert_eq!(state(&server), (json!("healthy"), json!("off")));
    assert!(server.samples().get("maas_push_attempts_total{target=\"pushgateway\",result=\"error\"}") >= 3.0);
    requests_never_notice(&server);
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_password_in_a_peers_url_is_never_logged() {
    let peer = TestPeer::start(Mode::Status(500));
    let url = format!("http://user:secret-marker@{}", peer.address());
    let mut server = impatient(&url).environment("RUST_LOG", "trace").start();
    wait_for(&server, "degraded", "native_metrics");
    let health = server.get("/health").text();
    assert_eq!(server.stop(), 0);
    assert!(!health.contains("secret-marker"), "{health}");
    assert!(!server.log().contains("secret-marker"), "{}", server.log());
}
