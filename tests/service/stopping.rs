//! Starting and stopping: what runs is finished, whoever comes is told, and the exit code says how it went.

use crate::support::{Client, JSON, Mode, Server, TestPeer, path_of, request, wait_until};
use rustix::process::Signal;
use serde_json::json;
use std::net::TcpListener;
use std::time::{Duration, Instant};

const HEAD: &str = "POST /allocate HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n";

/// A client whose allocate runs and waits for the last byte of its body.
fn half_a_body(server: &Server) -> Client {
    let mut client = server.connect();
    client.send(format!("{HEAD}Content-Length: 16\r\nExpect: 100-continue\r\n\r\n"));
    client.expect("HTTP/1.1 100 Continue\r\n\r\n");
    client.send("{\"size_bytes\":1");
    client
}

#[test]
fn an_idle_server_ends_with_exit_code_0_at_either_signal() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Server::start();
        let mut idle = server.connect();
        idle.call("GET", "/livez", &[], "");
        let begun = Instant::now();
        server.signal(signal);
        assert_eq!(server.exit_code(), 0);
        assert!(begun.elapsed() < Duration::from_secs(5), "took {:?}", begun.elapsed());
        assert_eq!(idle.rest(), "");
        assert!(
            server.log().contains("told to stop") && server.log().contains("stopped"),
            "{}",
            server.log()
        );
    }
}

#[test]
fn two_hundred_silent_half_and_slow_clients_do_not_hold_up_the_end() {
    let mut server = Server::with()
        .set("server.header_timeout", "3s")
        .set("server.min_body_bytes_per_second", "1000000")
        .start();
    let begin = |index: usize| match index % 3 {
        0 => server.connect(),
        1 => {
            let mut client = server.connect();
            client.send("GET /livez HTTP/1.1\r\nHos");
            client
        }
        // Its handler reads the body already: it is a running request whenever the signal comes.
        _ => half_a_body(&server),
    };
    let mut clients: Vec<Client> = (0..200).map(begin).collect();
    wait_until("all are inside", || server.samples().get("maas_http_connections") >= 200.0);
    let begun = Instant::now();
    assert_eq!(server.stop(), 0, "slow bodies get their 408 and are answered requests");
    assert!(begun.elapsed() < Duration::from_secs(10), "took {:?}", begun.elapsed());
    for (index, client) in clients.iter_mut().enumerate() {
        if index % 3 == 2 {
            client.answer("POST", "/allocate").is_problem(408, "body-timeout");
        }
        assert_eq!(client.rest(), "");
    }
}

#[test]
fn while_it_stops_arenas_take_nothing_new_and_can_be_ended() {
    let mut server = Server::start();
    let [kept, lost] = [0, 1].map(|_| server.arena(&json!({ "profile": "tiny" })));
    let member = server.member(&kept, 100);
    let mut running = half_a_body(&server);
    server.signal(Signal::TERM);
    server.wait_for_log("draining connections");
    server.call("POST", "/arenas", &[], "").is_problem(503, "stopping");
    server.post_member(&kept, 1).is_problem(503, "stopping");
    assert_eq!(server.arena_now(&kept)["allocations"], 1);
    assert_eq!(server.commit_keeping(&kept, &json!(true)).status, 200);
    assert_eq!(server.tell_arena(&lost, "rollback").status, 200);
    assert_eq!(server.get(&path_of(&member)).status, 200);
    running.send("}");
    assert_eq!(running.answer("POST", "/allocate").status, 201);
    assert_eq!(server.exit_code(), 0);
}

#[test]
fn while_a_request_runs_newcomers_are_told_that_the_service_stops() {
    let mut server = Server::start();
    let made = server.allocate(1);
    let path = format!("/allocate/{}", made["id"].as_str().expect("text"));
    let mut running = half_a_body(&server);
    server.signal(Signal::TERM);
    server.wait_for_log("draining connections");
    for target in ["/health", "/readyz", "/readyz?verbose"] {
        let answer = server.get(target);
        answer.is_problem(503, "stopping");
        assert_eq!(answer.header("connection"), Some("close"));
        assert_eq!(server.call("HEAD", target, &[], "").status, 503);
    }
    server.post("{\"size_bytes\":1}").is_problem(503, "stopping");
    assert_eq!(server.get("/livez").status, 200, "the process lives");
    assert_eq!(server.get("/stats").json()["memory"]["active_allocations"], 1);
    assert_eq!(server.samples().get("maas_refused_total{reason=\"stopping\"}"), 7.0);
    assert_eq!(server.delete(&path).status, 204, "freeing is never refused");

    running.send("}");
    let answer = running.answer("POST", "/allocate");
    assert_eq!(answer.status, 201, "what runs is finished: {answer:?}");
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(running.rest(), "");
    assert_eq!(server.exit_code(), 0);
}

#[test]
fn a_request_that_waits_for_room_does_not_hold_up_the_end() {
    let mut server = Server::of_ten_slabs();
    (0..10).for_each(|_| drop(server.allocate(1)));
    let begun = Instant::now();
    let mut waiting = ["/allocate", "/allocate/batch"].map(|target| {
        let count = if target == "/allocate" { "" } else { ",\"count\":2" };
        let mut client = server.connect();
        let body = format!("{{\"size_bytes\":1{count},\"wait_ms\":30000}}");
        client.send(request("POST", target, &[JSON], body));
        (client, target)
    });
    wait_until("both wait", || server.stat("/waiting_requests") == 2);
    let signalled = Instant::now();
    server.signal(Signal::TERM);
    for (client, target) in &mut waiting {
        client.answer("POST", target).is_problem(503, "stopping");
    }
    assert!(signalled.elapsed() < Duration::from_secs(1), "took {:?}", signalled.elapsed());
    assert_eq!(server.exit_code(), 0);
    assert!(begun.elapsed() < Duration::from_secs(20), "took {:?}", begun.elapsed());
}

#[test]
fn a_second_signal_ends_it_at_once_with_exit_code_1() {
    let mut server = Server::start();
    let mut running = half_a_body(&server);
    server.signal(Signal::TERM);
    server.wait_for_log("draining connections");
    let begun = Instant::now();
    server.signal(Signal::INT);
    assert_eq!(server.exit_code(), 1);
    assert!(begun.elapsed() < Duration::from_secs(5), "took {:?}", begun.elapsed());
    assert!(server.log().contains("second signal"), "{}", server.log());
    assert_eq!(running.rest(), "");
}

#[test]
fn a_second_signal_ends_also_what_a_hanging_pushgateway_holds_up() {
    let peer = TestPeer::start(Mode::Hang);
    let mut server = Server::with()
        .environment("PROMETHEUS_PUSH_ENABLED", "true")
        .environment("PROMETHEUS_PUSHGATEWAY_URL", &peer.url())
        .start();
    server.signal(Signal::TERM);
    server.wait_for_log("draining connections");
    std::thread::sleep(Duration::from_millis(200));
    let begun = Instant::now();
    server.signal(Signal::TERM);
    assert_eq!(server.exit_code(), 1);
    assert!(begun.elapsed() < Duration::from_millis(1500), "took {:?}", begun.elapsed());
}

#[test]
fn a_request_that_does_not_end_is_broken_off_at_the_drain_deadline_with_exit_code_1() {
    let mut server = Server::with().set("server.drain_timeout", "300ms").start();
    let mut running = half_a_body(&server);
    let begun = Instant::now();
    assert_eq!(server.stop(), 1);
    let took = begun.elapsed();
    assert!((Duration::from_millis(290)..Duration::from_secs(5)).contains(&took), "took {took:?}");
    assert!(server.log().contains("drain deadline"), "{}", server.log());
    assert_eq!(running.rest(), "");
}

#[test]
fn a_peer_that_hangs_does_not_hold_up_the_end() {
    let peer = TestPeer::start(Mode::Hang);
    let mut server = Server::with()
        .environment("BACKEND_SERVER_URL", &peer.url())
        .environment("PROMETHEUS_PUSH_ENABLED", "true")
        .environment("PROMETHEUS_PUSHGATEWAY_URL", &peer.url())
        .start();
    wait_until("it was asked twice", || peer.seen().len() >= 2);
    let begun = Instant::now();
    assert_eq!(server.stop(), 0);
    assert!(begun.elapsed() < Duration::from_secs(8), "took {:?}", begun.elapsed());
}

#[test]
fn a_port_that_is_taken_is_exit_code_1_and_a_clear_line() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("a bound socket has an address");
    let (code, log) = Server::with().set("server.port", &address.port().to_string()).run_to_end();
    assert_eq!(code, 1);
    let line = format!("cannot listen on {address}: the port is taken by another program");
    assert_eq!(log.matches(&line).count(), 1, "{log}");
    assert!(!log.contains("panic"), "{log}");

    let (code, log) = Server::with().set("server.host", "no-such-host.invalid").run_to_end();
    assert_eq!(code, 1);
    assert!(log.contains("cannot find an address for host \"no-such-host.invalid\""), "{log}");
}

#[test]
fn the_port_can_be_had_again_right_after_the_end() {
    let mut server = Server::start();
    let address = server.address();
    let mut client = server.connect();
    client.call("POST", "/allocate", &[JSON], "{\"size_bytes\":1}");
    assert_eq!(server.stop(), 0);
    assert!(std::net::TcpStream::connect(address).is_err(), "nobody listens");
    let again = Server::with().start_at(address.port());
    assert_eq!(again.get("/livez").status, 200);
}
