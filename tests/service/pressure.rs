//! How full memory is: asked for, told on answers, and told as events.

use crate::support::{Answer, Client, Server, Starting, path_of, wait_until};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const EVENTS: &str = "/pressure/events";

/// Twenty slabs, so that each is five points, and no forecast and no event but what happens.
fn twenty() -> Starting {
    Server::with()
        .environment("MAX_POOL_SIZE", "20480")
        .environment("SLAB_SIZES", "1024")
        .set("pressure.interval", "1h")
}

fn fill(server: &Server, blocks: usize) -> Vec<String> {
    (0..blocks).map(|_| path_of(&server.allocate(1000))).collect()
}

fn level(answer: &Answer) -> Option<&str> {
    answer.header("x-maas-pressure")
}

/// A client that listens.
struct Listener {
    client: Client,
    text: String,
}

impl Listener {
    fn new(server: &Server) -> Listener {
        let mut client = server.connect();
        client.send(format!("GET {EVENTS} HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n"));
        let head = client.begin("GET", EVENTS);
        assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
        assert_eq!((head.header("cache-control"), head.header("content-length")), (Some("no-store"), None));
        Listener { client, text: String::new() }
    }

    /// The next event as it came, and its data; none at the end of the stream. Each is a chunk of its own.
    fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                let data =
                    event.lines().find_map(|line| line.strip_prefix("data: ")).expect("events have data");
                let data = serde_json::from_str(data).expect("the data is JSON, in one line");
                return Some((event, data));
            }
            if self.text.ends_with("0\r\n\r\n") {
                return None;
            }
            let bytes = self.client.next_bytes()?;
            self.text.push_str(&String::from_utf8_lossy(&bytes));
        }
    }

    fn level(&mut self) -> String {
        let (_, data) = self.next().expect("the stream goes on");
        data["level"].as_str().expect("text").to_owned()
    }
}

#[test]
fn pressure_says_how_full_it_is_at_this_instant_and_what_is_to_be_expected() {
    let server = twenty().start();
    wait_until("the first forecast is there", || !server.get("/pressure").json()["predicted_30s"].is_null());
    let mut held = fill(&server, 15);
    let body = server.get("/pressure").json();
    let mut members: Vec<&str> = body.as_object().expect("an object").keys().map(String::as_str).collect();
    members.sort_unstable();
    assert_eq!(
        members,
        [
            "allocation_bytes_per_second",
            "confidence",
            "free_bytes_per_second",
            "level",
            "pool_ratio",
            "predicted_120s",
            "predicted_30s",
            "predicted_60s",
            "ratio",
            "recommended_action",
            "seconds_to",
            "source",
            "system_ratio",
            "trend"
        ]
    );
    assert_eq!(
        (&body["level"], &body["ratio"], &body["pool_ratio"], &body["source"], &body["system_ratio"]),
        (&json!("high"), &json!(0.75), &json!(0.75), &json!("pool"), &Value::Null)
    );
    assert_eq!(
        body["seconds_to"],
        json!({ "moderate": 0.0, "high": 0.0, "critical": null, "emergency": null })
    );
    assert_eq!((&body["recommended_action"], &body["trend"]), (&json!("gentle_reclaim"), &json!("stable")));
    assert_eq!(server.delete(&held.remove(0)).status, 204);
    assert_eq!(server.get("/pressure").json()["level"], "moderate", "five points below, not two");
    let head = server.call("HEAD", "/pressure", &[], "");
    assert_eq!((head.status, head.body.len()), (200, 0));
    let head = server.call("HEAD", EVENTS, &[], "");
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
    server.get("/pressure?x=1").is_problem(400, "invalid-query");
}

#[test]
fn answers_that_allocate_tell_the_level_from_moderate_on_and_no_others_do() {
    let server = twenty().set("memory.slab_sizes", "1024,4096").start();
    let arena = server.arena(&json!({ "profile": "tiny" }));
    let members = format!("/arenas/{}/allocate", arena["id"].as_str().expect("text"));
    let one = "{\"size_bytes\":1}";
    // 4 KiB of 20 are the arena's; each call below takes one slab, or nothing.
    assert_eq!(level(&server.post_to(&members, one)), None);
    fill(&server, 7);
    let told: Vec<_> = (0..9).map(|_| level(&server.post(one)).map(str::to_owned)).collect();
    let named = |name: &str| Some(name.to_owned());
    assert_eq!(
        told,
        [
            named("moderate"),
            named("moderate"),
            named("moderate"),
            named("high"),
            named("high"),
            named("high"),
            named("critical"),
            named("emergency"),
            named("emergency")
        ]
    );
    let refused = server.post(one);
    refused.is_problem(507, "pool-exhausted");
    for answer in [
        refused,
        server.store("", "x"),
        server.post_to("/allocate/batch", "{\"size_bytes\":1,\"count\":1}"),
        server.post_to(&members, one),
        server.post("{\"size_bytes\":1,\"priority\":\"low\"}"),
    ] {
        assert_eq!(level(&answer), Some("emergency"), "{answer:?}");
    }
    for answer in
        [server.get("/allocate"), server.get("/health"), server.post_to("/deallocate/batch", "{\"ids\":[]}")]
    {
        assert_eq!(level(&answer), None, "{answer:?}");
    }
}

#[test]
fn every_client_that_listens_is_told_at_once_and_of_each_change_of_level() {
    let server = twenty().start();
    let mut listeners: Vec<Listener> = (0..3).map(|_| Listener::new(&server)).collect();
    for listener in &mut listeners {
        let (event, data) = listener.next().expect("one at once");
        assert!(event.contains("retry: 2000\nevent: pressure\ndata: {"), "{event}");
        assert_eq!(data["level"], "normal");
    }
    let mut held = Vec::new();
    for (blocks, name) in [(12, "moderate"), (15, "high"), (18, "critical"), (19, "emergency")] {
        held.extend(fill(&server, blocks - held.len()));
        for listener in &mut listeners {
            assert_eq!(listener.level(), name);
        }
    }
    // That memory is freed is noticed without another call.
    let begun = Instant::now();
    held.iter().for_each(|path| assert_eq!(server.delete(path).status, 204));
    for listener in &mut listeners {
        while listener.level() != "normal" {}
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "took {:?}", begun.elapsed());
}

#[test]
fn who_listens_is_told_every_interval_whatever_happens() {
    let server = twenty().set("pressure.interval", "200ms").start();
    let mut listener = Listener::new(&server);
    let begun = Instant::now();
    for _ in 0..6 {
        assert_eq!(listener.level(), "normal");
    }
    assert!(begun.elapsed() >= Duration::from_millis(950), "five intervals: {:?}", begun.elapsed());
}

#[test]
fn timeouts_of_idle_and_slow_clients_do_not_cut_who_listens() {
    let server = twenty()
        .set("pressure.interval", "2500ms")
        .set("server.idle_timeout", "1s")
        .set("server.header_timeout", "1s")
        .set("server.min_body_bytes_per_second", "1000000")
        .start();
    let mut listener = Listener::new(&server);
    for _ in 0..3 {
        assert_eq!(listener.level(), "normal");
    }
    assert_eq!(server.samples().get("maas_http_connections"), 2.0, "the listener's and the scraper's");
}

#[test]
fn streams_end_when_the_service_stops_and_do_not_hold_it_up() {
    let mut server = twenty().start();
    let mut listeners: Vec<Listener> = (0..3).map(|_| Listener::new(&server)).collect();
    listeners.iter_mut().for_each(|listener| assert_eq!(listener.level(), "normal"));
    let begun = Instant::now();
    assert_eq!(server.stop(), 0);
    assert!(begun.elapsed() < Duration::from_secs(5), "took {:?}", begun.elapsed());
    for listener in &mut listeners {
        assert!(listener.next().is_none(), "it ends, and is whole");
        assert!(listener.text.ends_with("0\r\n\r\n"), "{:?}", listener.text);
    }
}

#[test]
fn streams_are_bounded_and_one_that_ends_leaves_its_place() {
    const STREAMS_MAX: usize = 256;
    let server = twenty().start();
    let mut listeners: Vec<Listener> = (0..STREAMS_MAX).map(|_| Listener::new(&server)).collect();
    let refused = server.get(EVENTS);
    let detail = refused.is_problem(503, "inflight-exhausted");
    assert!(detail.contains("256 streams"), "{detail}");
    assert_eq!(server.get("/pressure").status, 200);
    listeners.pop();
    wait_until("a place is free", || {
        let mut client = server.connect();
        client.send(format!("GET {EVENTS} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"));
        client.next_bytes().is_some_and(|bytes| bytes.starts_with(b"HTTP/1.1 200 "))
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn streams_of_http2_are_told_too_are_not_cut_and_end_with_the_service() {
    let mut server = twenty()
        .set("pressure.interval", "700ms")
        .set("server.idle_timeout", "1s")
        .set("server.header_timeout", "1s")
        .set("server.min_body_bytes_per_second", "1000000")
        .start();
    let stream = tokio::net::TcpStream::connect(server.address()).await.expect("the server listens");
    let (mut sender, connection) =
        handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("the server speaks HTTP/2");
    let connection = tokio::spawn(connection);
    let mut bodies = Vec::new();
    for _ in 0..2 {
        let request = hyper::Request::get(format!("http://test{EVENTS}")).body(Empty::<Bytes>::new());
        let answer = sender.send_request(request.expect("a request")).await.expect("the server answers");
        assert_eq!(answer.status(), 200);
        bodies.push(answer.into_body());
    }
    let begun = Instant::now();
    // Longer than two looks at readers that make no progress.
    while begun.elapsed() < Duration::from_millis(4200) {
        for body in &mut bodies {
            let event = body.frame().await.expect("it goes on").expect("it is not cut");
            let event = event.into_data().expect("events are data");
            assert!(event.windows(7).any(|word| word == b"\ndata: "), "{event:?}");
        }
    }
    assert_eq!(server.stop(), 0);
    for body in &mut bodies {
        while let Some(frame) = body.frame().await {
            frame.expect("it ends as a stream does");
        }
    }
    drop(sender);
    let _ = connection.await;
}
