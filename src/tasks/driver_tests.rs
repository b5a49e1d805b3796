//! The drivers against peers on real sockets: what a link says when its peer is well, dead, slow, hostile or moody.
//!
//! Intervals are some milliseconds, and nothing is asserted about how long they really take.

use crate::clock::Now;
use crate::link::{Link, LinkState, LinkStatus};
use crate::tasks::test_peer::{Reply, Seen, TestPeer};
use crate::tasks::{BackendConfig, PrometheusConfig, StartError, Tasks, UrlError};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const TEXT: &str = "# TYPE maas_active_allocations gauge\nmaas_active_allocations 3\n";
const INSTANCE: &str = "127.0.0.1:3000";

/// One run of the tasks against one peer or two.
struct Run {
    tasks: Tasks,
    backend: Arc<Link>,
    pushgateway: Arc<Link>,
    rendered: Arc<AtomicUsize>,
}

fn start(backend: &BackendConfig, prometheus: &PrometheusConfig) -> Result<Run, StartError> {
    let now = Now::read();
    let backend_link = super::backend_link(backend, now);
    let pushgateway_link = super::pushgateway_link(prometheus, now);
    let rendered = Arc::new(AtomicUsize::new(0));
    let counter = rendered.clone();
    let text: super::MetricsText = Arc::new(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::ready(TEXT.to_owned()))
    });
    let links = (backend_link.clone(), pushgateway_link.clone());
    let tasks = super::start(backend, prometheus, INSTANCE.to_owned(), text, links.0, links.1)?;
    Ok(Run { tasks, backend: backend_link, pushgateway: pushgateway_link, rendered })
}

fn backend_at(url: &str) -> BackendConfig {
    BackendConfig {
        server_url: url.to_owned(),
        retry_interval: Duration::from_millis(10),
        retry_interval_max: Duration::from_millis(20),
        timeout: Duration::from_secs(5),
        ..BackendConfig::default()
    }
}

fn prometheus() -> PrometheusConfig {
    PrometheusConfig { push_interval: Duration::from_millis(20), ..PrometheusConfig::default() }
}

fn run_backend(backend: &BackendConfig) -> Run {
    start(backend, &prometheus()).expect("a valid configuration")
}

fn run_pushgateway(url: &str, retry: &BackendConfig) -> Run {
    let retry = BackendConfig { server_url: String::new(), ..retry.clone() };
    let prometheus = PrometheusConfig { push_enabled: true, pushgateway_url: url.to_owned(), ..prometheus() };
    start(&retry, &prometheus).expect("a valid configuration")
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(10), "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn until_state(link: &Link, state: LinkState) -> Arc<LinkStatus> {
    let mut status = link.status();
    until(&format!("the link is {}", state.name()), || {
        status = link.status();
        status.state == state
    })
    .await;
    status
}

/// Runs the backend's driver against a bad peer until it gives up hope; returns the last error.
async fn last_error_of(config: &BackendConfig) -> String {
    let run = run_backend(config);
    let status = until_state(&run.backend, LinkState::NativeMetrics).await;
    assert!(status.attempts >= config.native_after, "{status:?}");
    assert!(status.next_retry.is_some(), "retries go on");
    run.tasks.stop().await;
    let error = status.last_error.clone().expect("a failing link says why");
    assert!(error.chars().count() <= 200 && !error.contains(char::is_control), "{error:?}");
    error
}

/// An address at which nobody listens, nor will: the port is taken for as long as the socket lives.
fn dead_url() -> (tokio::net::TcpSocket, String) {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket can be made");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("loopback has a free port");
    let address = socket.local_addr().expect("a bound socket has an address");
    (socket, format!("http://{address}"))
}

#[tokio::test]
async fn a_healthy_backend_is_probed_once_and_pushed_to_over_one_connection() {
    let peer = TestPeer::always(Reply::Status(200)).await;
    let run = run_backend(&backend_at(&format!("{}/", peer.url())));
    until("three pushes came", || run.backend.pushes().0 >= 3).await;
    run.tasks.stop().await;

    let status = run.backend.status();
    assert_eq!((status.state, status.attempts), (LinkState::Connected, 0));
    assert_eq!((&status.last_error, status.next_retry), (&None, None));
    assert_eq!(peer.asked()[..4], ["GET /health", "POST /metrics", "POST /metrics", "POST /metrics"]);
    assert_eq!(peer.connections(), 1);
    let push = &peer.seen()[1];
    assert_eq!(push.body, TEXT);
    assert!(push.head.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    assert!(!push.head.contains("authorization"));
}

#[tokio::test]
async fn own_paths_and_userinfo_are_used_and_the_password_is_never_told() {
    let peer = TestPeer::start(|_, index| Reply::Status(if index < 3 { 200 } else { 500 })).await;
    let config = BackendConfig {
        health_path: "/up".to_owned(),
        push_path: "/in".to_owned(),
        ..backend_at(&format!("http://user:secret@{}/base", peer.address))
    };
    let error = last_error_of(&config).await;
    assert_eq!(peer.asked()[..2], ["GET /base/up", "POST /base/in"]);
    // "user:secret", in lower case as the peer keeps its heads.
    assert!(peer.seen()[1].head.contains("authorization: basic dxnlcjpzzwnyzxq="), "{:?}", peer.seen()[1]);
    assert!(!error.contains("secret"), "{error}");
}

#[tokio::test]
async fn a_dead_backend_refuses_the_connection() {
    let (_socket, url) = dead_url();
    let error = last_error_of(&backend_at(&url)).await;
    assert_eq!(error, "probe: connection refused");
}

#[tokio::test]
async fn a_dead_backend_with_a_password_in_its_url_does_not_give_it_away() {
    let (_socket, url) = dead_url();
    let url = url.replace("http://", "http://user:secret@");
    assert_eq!(last_error_of(&backend_at(&url)).await, "probe: connection refused");
}

#[tokio::test]
async fn an_unknown_host_fails_the_probe() {
    let error = last_error_of(&backend_at("http://no-such-host.invalid")).await;
    assert!(error.starts_with("probe: "), "{error}");
}

#[tokio::test]
async fn a_hanging_backend_times_out() {
    let peer = TestPeer::always(Reply::Hang).await;
    let config = BackendConfig { timeout: Duration::from_millis(30), ..backend_at(&peer.url()) };
    assert_eq!(last_error_of(&config).await, "probe timed out after 30ms");
}

#[tokio::test]
async fn a_backend_that_answers_500_fails_the_probe() {
    let peer = TestPeer::always(Reply::Status(500)).await;
    assert_eq!(last_error_of(&backend_at(&peer.url())).await, "probe answered 500");
    assert!(peer.asked().iter().all(|asked| asked == "GET /health"), "{:?}", peer.asked());
}

#[tokio::test]
async fn a_healthy_backend_that_refuses_pushes_ends_as_native_metrics() {
    let script = |seen: &Seen, _| Reply::Status(if seen.method == "GET" { 200 } else { 404 });
    let peer = TestPeer::start(script).await;
    let config = backend_at(&peer.url());
    assert_eq!(last_error_of(&config).await, "push answered 404");
    assert_eq!(peer.asked()[..3], ["GET /health", "POST /metrics", "GET /health"]);
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_its_target_is_never_asked() {
    let target = TestPeer::always(Reply::Status(200)).await;
    let peer = TestPeer::always(Reply::Redirect(target.url())).await;
    let error = last_error_of(&backend_at(&peer.url())).await;
    assert_eq!(error, "probe answered 307, a redirect, and redirects are not followed");
    assert_eq!(target.connections(), 0);
}

#[tokio::test]
async fn garbage_and_a_closed_connection_are_failures() {
    for bytes in [&b"\x00\xff\x1b[31m garbage \r\n\r\n"[..], b"HTTP/9.9 200 OK\r\n\r\n", b""] {
        let peer = TestPeer::always(Reply::Raw(bytes.to_vec())).await;
        let error = last_error_of(&backend_at(&peer.url())).await;
        assert!(error.starts_with("probe: "), "{error}");
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_a_failure() {
    let bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf".to_vec();
    let peer = TestPeer::always(Reply::Raw(bytes)).await;
    let error = last_error_of(&backend_at(&peer.url())).await;
    assert!(error.starts_with("probe: "), "{error}");
}

#[tokio::test]
async fn a_body_that_drips_without_an_end_times_out() {
    let peer = TestPeer::always(Reply::Drip).await;
    let config = BackendConfig { timeout: Duration::from_millis(50), ..backend_at(&peer.url()) };
    assert_eq!(last_error_of(&config).await, "probe timed out after 50ms");
}

#[tokio::test]
async fn an_endless_body_is_neither_read_to_the_end_nor_waited_for() {
    let peer = TestPeer::always(Reply::Flood("HTTP/1.1 200 OK\r\n\r\n", vec![b'x'; 64 * 1024])).await;
    let run = run_backend(&backend_at(&peer.url()));
    until("three pushes were answered", || run.backend.pushes().0 >= 3).await;
    run.tasks.stop().await;
    assert_eq!(run.backend.status().state, LinkState::Connected);
    // What is read, plus what the sockets' buffers on both sides hold: up to 10 MiB a connection on Linux.
    assert!(peer.sent_bytes() / peer.connections() < 12 << 20, "{} bytes", peer.sent_bytes());
}

#[tokio::test]
async fn huge_headers_are_refused() {
    let line = b"x-filler: 0123456789012345678901234567890123456789\r\n".to_vec();
    let peer = TestPeer::always(Reply::Flood("HTTP/1.1 200 OK\r\n", line.repeat(100))).await;
    let error = last_error_of(&backend_at(&peer.url())).await;
    assert!(error.starts_with("probe: "), "{error}");

    let peer = TestPeer::always(Reply::Flood("HTTP/1.1 200 OK\r\nx-filler: ", vec![b'x'; 64 * 1024])).await;
    let error = last_error_of(&backend_at(&peer.url())).await;
    assert!(error.starts_with("probe: "), "{error}");
}

#[tokio::test]
async fn a_moody_backend_is_connected_again_with_its_failures_forgotten() {
    // Probe and push succeed, the next push and a probe fail, then all is well.
    let script = |_: &Seen, index| Reply::Status(if matches!(index, 2 | 3) { 503 } else { 200 });
    let peer = TestPeer::start(script).await;
    let config = BackendConfig {
        retry_interval: Duration::from_millis(200),
        retry_interval_max: Duration::from_millis(200),
        ..backend_at(&peer.url())
    };
    let run = run_backend(&config);
    until_state(&run.backend, LinkState::Connected).await;
    let failing = until_state(&run.backend, LinkState::Reconnecting).await;
    assert_eq!((failing.attempts, failing.last_error.as_deref()), (1, Some("push answered 503")));
    until("the second failure came", || run.backend.status().attempts == 2).await;
    assert_eq!(run.backend.status().last_error.as_deref(), Some("probe answered 503"));
    let healed = until_state(&run.backend, LinkState::Connected).await;
    run.tasks.stop().await;
    assert_eq!((healed.attempts, &healed.last_error), (0, &None));
    let expected =
        ["GET /health", "POST /metrics", "POST /metrics", "GET /health", "GET /health", "POST /metrics"];
    assert_eq!(peer.asked()[..6], expected);
    assert_eq!(run.backend.pushes().1, 1, "a probe is not counted as a push");
}

#[tokio::test]
async fn a_backend_that_comes_back_is_found_from_native_metrics() {
    let script = |_: &Seen, index| Reply::Status(if index < 5 { 500 } else { 200 });
    let peer = TestPeer::start(script).await;
    let run = run_backend(&backend_at(&peer.url()));
    until_state(&run.backend, LinkState::NativeMetrics).await;
    until_state(&run.backend, LinkState::Connected).await;
    run.tasks.stop().await;
}

#[tokio::test]
async fn a_snapshot_is_only_made_for_a_push() {
    let peer = TestPeer::always(Reply::Status(500)).await;
    let run = run_backend(&backend_at(&peer.url()));
    until_state(&run.backend, LinkState::NativeMetrics).await;
    run.tasks.stop().await;
    assert_eq!(run.rendered.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn stopping_does_not_wait_for_a_hanging_backend() {
    let peer = TestPeer::always(Reply::Hang).await;
    let run = run_backend(&BackendConfig { timeout: Duration::from_secs(60), ..backend_at(&peer.url()) });
    until("the probe came", || !peer.seen().is_empty()).await;
    let begun = Instant::now();
    run.tasks.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn the_pushgateway_is_given_the_group_and_told_to_delete_it_upon_stop() {
    let peer = TestPeer::always(Reply::Status(202)).await;
    let run = run_pushgateway(&peer.url(), &backend_at(""));
    until("two pushes were answered", || run.pushgateway.pushes().0 >= 2).await;
    assert_eq!(run.pushgateway.status().state, LinkState::Connected);
    run.tasks.stop().await;

    let asked = peer.asked();
    let (last, puts) = asked.split_last().expect("requests came");
    assert!(puts.len() >= 2 && puts.iter().all(|put| put == "PUT /metrics/job/maas/instance/127.0.0.1:3000"));
    assert_eq!(last, "DELETE /metrics/job/maas/instance/127.0.0.1:3000");
    assert_eq!(peer.seen()[0].body, TEXT);
    assert_eq!(peer.connections(), 1);
    assert_eq!(run.backend.status().state, LinkState::Off);
}

#[tokio::test]
async fn a_push_that_is_under_way_ends_before_the_group_is_deleted() {
    // The first PUT is answered so late that the stop comes in between.
    let peer = TestPeer::start(|_, _| {
        std::thread::sleep(Duration::from_millis(100));
        Reply::Status(200)
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime can be built");
    let peer = runtime.spawn(peer).await.expect("the peer starts");
    let run = run_pushgateway(&peer.url(), &backend_at(""));
    until("the push came", || !peer.seen().is_empty()).await;
    run.tasks.stop().await;
    let asked = peer.asked();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(asked[0].starts_with("PUT") && asked[1].starts_with("DELETE"), "{asked:?}");
    assert_eq!(peer.connections(), 1, "the push was not broken off");
    runtime.shutdown_background();
}

#[tokio::test]
async fn a_dead_pushgateway_backs_off_by_the_backends_rules_and_does_not_delay_the_stop() {
    let (_socket, url) = dead_url();
    let run = run_pushgateway(&url, &backend_at(""));
    let status = until_state(&run.pushgateway, LinkState::NativeMetrics).await;
    assert_eq!(status.last_error.as_deref(), Some("push: connection refused"));
    assert!(run.pushgateway.pushes().1 >= 3);
    run.tasks.stop().await;
}

#[tokio::test]
async fn a_hanging_pushgateway_delays_the_stop_by_its_timeout_at_most() {
    let peer = TestPeer::always(Reply::Hang).await;
    let config = BackendConfig { timeout: Duration::from_millis(50), ..backend_at("") };
    let run = run_pushgateway(&peer.url(), &config);
    let status = until_state(&run.pushgateway, LinkState::NativeMetrics).await;
    assert_eq!(status.last_error.as_deref(), Some("push timed out after 50ms"));
    let begun = Instant::now();
    run.tasks.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_backend_is_pushed_to_although_the_pushgateway_is_dead() {
    let peer = TestPeer::always(Reply::Status(204)).await;
    let (_socket, url) = dead_url();
    let prometheus = PrometheusConfig { push_enabled: true, pushgateway_url: url, ..prometheus() };
    let run = start(&backend_at(&peer.url()), &prometheus).expect("a valid configuration");
    until_state(&run.pushgateway, LinkState::NativeMetrics).await;
    until("two pushes were answered", || run.backend.pushes().0 >= 2).await;
    run.tasks.stop().await;
}

#[tokio::test]
async fn without_a_peer_both_links_are_off_and_nothing_is_spawned() {
    let run = start(&BackendConfig::default(), &PrometheusConfig::default()).expect("the defaults are valid");
    assert!(run.tasks.tracker.is_empty());
    assert_eq!(run.backend.status().state, LinkState::Off);
    assert_eq!(run.pushgateway.status().state, LinkState::Off);
    run.tasks.stop().await;
}

#[tokio::test]
async fn a_url_that_cannot_be_used_is_told_at_the_start_and_nothing_runs() {
    let error = start(&backend_at("localhost:1"), &prometheus()).err().expect("no scheme");
    assert!(matches!(error, StartError::Backend(UrlError::Scheme)), "{error}");
    let peer = TestPeer::always(Reply::Status(200)).await;
    let prometheus =
        PrometheusConfig { push_enabled: true, pushgateway_url: "http://".to_owned(), ..prometheus() };
    let error = start(&backend_at(&peer.url()), &prometheus).err().expect("no host");
    assert!(matches!(error, StartError::Pushgateway(UrlError::Host)), "{error}");
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(peer.connections(), 0);
}

#[tokio::test]
async fn dropping_the_tasks_ends_them() {
    let peer = TestPeer::always(Reply::Status(200)).await;
    let run = run_backend(&backend_at(&peer.url()));
    until_state(&run.backend, LinkState::Connected).await;
    let tracker = run.tasks.tracker.clone();
    drop(run.tasks);
    until("no task runs", || tracker.is_empty()).await;
}
