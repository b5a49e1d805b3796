//! Clients that take their time, or too many of them.

use crate::support::{Client, JSON, Server, padded, wait_until};
use serde_json::Value;
use std::time::{Duration, Instant};

const HEAD: &str = "POST /allocate HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n";

fn quick() -> Server {
    let server = Server::with().set("server.header_timeout", "300ms").set("server.idle_timeout", "600ms");
    server.set("server.min_body_bytes_per_second", "1000000").start()
}

#[test]
fn a_silent_socket_and_half_a_header_are_closed_without_an_answer() {
    let server = quick();
    server.untouched_by(|| {
        for sent in [
            "",
            "G",
            "GET /livez HTTP/1.1\r\n",
            "GET /livez HTTP/1.1\r\nHost: test\r\n",
            "PRI * HTTP/2.0\r\n",
        ] {
            let begun = Instant::now();
            let mut client = server.connect();
            client.send(sent);
            assert_eq!(client.rest(), "", "{sent:?}");
            assert!(begun.elapsed() >= Duration::from_millis(290), "{sent:?} after {:?}", begun.elapsed());
        }
    });
    let samples = server.samples();
    assert_eq!(samples.get("maas_http_timed_out_total{kind=\"head\"}"), 4.0);
    assert!(samples.get("maas_http_timed_out_total{kind=\"silent\"}") >= 1.0);
}

#[test]
fn a_header_that_drips_has_no_more_time_than_one_that_stops() {
    let server = quick();
    let begun = Instant::now();
    let mut client = server.connect();
    client.send("GET /livez HTTP/1.1\r\n");
    while begun.elapsed() < Duration::from_millis(900) {
        client.send("X: y\r\n");
        std::thread::sleep(Duration::from_millis(50));
    }
    client.send("\r\n");
    assert_eq!(client.rest(), "", "it was closed before the header was whole");
}

#[test]
fn a_body_that_stops_or_drips_is_408() {
    let server = quick();
    server.untouched_by(|| {
        let mut client = server.connect();
        client.send(format!("{HEAD}Content-Length: 16\r\n\r\n{{\"size_"));
        let detail = client.answer("POST", "/allocate").is_problem(408, "body-timeout");
        assert!(detail.contains("7 bytes"), "{detail}");

        let mut client = server.connect();
        client.send(format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n"));
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(700) {
            client.send("1\r\n \r\n");
            std::thread::sleep(Duration::from_millis(20));
        }
        client.answer("POST", "/allocate").is_problem(408, "body-timeout");

        let mut client = server.connect();
        client.send(format!("{HEAD}Expect: 100-continue\r\nContent-Length: 16\r\n\r\n"));
        client.expect("HTTP/1.1 100 Continue\r\n\r\n");
        client.answer("POST", "/allocate").is_problem(408, "body-timeout");
    });
    assert_eq!(server.samples().get("maas_http_timed_out_total{kind=\"body\"}"), 3.0);
}

#[test]
fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let server = quick();
    let mut idle = server.connect();
    idle.call("GET", "/livez", &[], "");
    let mut busy = server.connect();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(1500) {
        assert_eq!(busy.call("GET", "/livez", &[], "").status, 200);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(idle.rest(), "");
    assert_eq!(server.samples().get("maas_http_timed_out_total{kind=\"idle\"}"), 1.0);
}

#[test]
fn one_connection_above_the_maximum_is_503_and_closed_and_there_is_room_again_when_one_goes() {
    let server = Server::with().set("server.max_connections", "8").start();
    let mut inside: Vec<Client> = Vec::new();
    // The connection of the description may still be on its way out.
    wait_until("eight are inside", || {
        let mut client = server.connect();
        client.send("GET /livez HTTP/1.1\r\nHost: test\r\n\r\n");
        let mut first = [client];
        if first[0].is_answered_with(200) {
            inside.extend(first);
        }
        inside.len() == 8
    });
    for _ in 0..5 {
        let mut client = server.connect();
        let answer = client.bare_answer();
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
        assert_eq!(answer.header("connection"), Some("close"));
        assert_eq!(client.rest(), "");
        let mut eager = server.connect();
        eager.send(format!("{HEAD}Content-Length: 16\r\n\r\n{{\"size_bytes\":1}}"));
        assert_eq!(eager.bare_answer().status, 503);
    }
    for client in &mut inside {
        assert_eq!(client.call("GET", "/livez", &[], "").status, 200, "those inside go on");
    }
    let stats = inside[0].call("GET", "/stats", &[], "").json();
    assert_eq!(stats["memory"]["active_allocations"], 0);
    let refused = "maas_http_connections_refused_total";
    let text = inside[0].call("GET", "/metrics", &[], "").text();
    let refused = text.lines().find(|line| line.starts_with(refused)).expect("the counter is there");
    assert!(refused.ends_with(|digit: char| digit.is_ascii_digit()) && !refused.ends_with(" 0"), "{refused}");
    drop(inside.pop());
    wait_until("there is room again", || {
        let mut client = server.connect();
        client.send("POST /allocate HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{\"size_bytes\":1}");
        client.is_answered_with(201)
    });
}

#[test]
fn bodies_beyond_the_inflight_budget_are_503_and_the_charge_returns() {
    let server =
        Server::with().set("memory.max_inflight_bytes", "50000").set("server.body_limit", "50000").start();
    server.untouched_by(|| {
        server.post(&padded(50_000)).is_problem(400, "invalid-size");
        // One that is under way holds its share.
        let mut holder = server.connect();
        let (first, last) = (padded(40_000), " ");
        holder.send(format!("{HEAD}Content-Length: 40001\r\n\r\n{first}"));
        wait_until("its share is held", || {
            server.get("/stats").json()["inflight_bytes"].as_u64() >= Some(40_000)
        });
        let refused = server.post(&padded(20_000));
        refused.is_problem(503, "inflight-exhausted");
        let numbers = refused.json();
        assert_eq!(
            (&numbers["refused_by"], &numbers["requested_bytes"]),
            (&"inflight".into(), &Value::from(20_000))
        );
        assert_eq!((&numbers["in_use_bytes"], &numbers["retry_after_seconds"]), (&0.into(), &1.into()));
        let small = server.call("POST", "/allocate", &[JSON], padded(16));
        small.is_problem(400, "invalid-size");
        holder.send(last);
        holder.answer("POST", "/allocate").is_problem(400, "invalid-size");
        server.post(&padded(50_000)).is_problem(400, "invalid-size");
    });
    assert_eq!(server.samples().get("maas_refused_total{reason=\"inflight-exhausted\"}"), 1.0);
}
