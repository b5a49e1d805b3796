//! Clients that take their time: each is given as long as it was promised, and not longer.

use super::*;

/// Waits until the server closes, and says how long that took.
fn time_to_close(client: &mut Client) -> Duration {
    let begun = Instant::now();
    assert_eq!(client.rest(), "", "it closes without an answer");
    begun.elapsed()
}

#[track_caller]
fn assert_near(took: Duration, expected: Duration) {
    assert!(took > expected.mul_f64(0.9) && took < expected * 3, "took {took:?}, expected {expected:?}");
}

#[test]
fn a_silent_socket_is_closed_after_the_header_timeout_and_not_before() {
    let server = Server::start(quick());
    assert_near(time_to_close(&mut server.connect()), quick().header_timeout);
    assert_eq!(server.timed_out(TimeOut::Silent), 1);
}

#[test]
fn half_a_head_is_closed_after_the_header_timeout() {
    let server = Server::start(quick());
    let mut client = server.connect();
    client.send("GET /hello HT");
    assert_near(time_to_close(&mut client), quick().header_timeout);
    assert_eq!(server.timed_out(TimeOut::Head), 1);
}

#[test]
fn half_a_preface_of_http2_is_closed_after_the_header_timeout() {
    let server = Server::start(quick());
    let mut client = server.connect();
    client.send("PRI * HTTP/2.0\r\n");
    assert_near(time_to_close(&mut client), quick().header_timeout);
    assert_eq!(server.timed_out(TimeOut::Head), 1);
}

#[test]
fn the_second_head_has_its_own_time() {
    let server = Server::start(quick());
    let mut client = server.connect();
    client.get("/hello");
    client.response();
    std::thread::sleep(Duration::from_millis(150));
    client.send("GET /hello");
    assert_near(time_to_close(&mut client), quick().header_timeout);
    assert_eq!(server.timed_out(TimeOut::Head), 1);
}

#[test]
fn a_head_that_comes_slowly_but_in_time_is_answered() {
    let server = Server::start(Config { header_timeout: Duration::from_secs(2), ..quick() });
    let mut client = server.connect();
    for byte in "GET /hello HTTP/1.1\r\nHost: t\r\n\r\n".chars() {
        client.send(&byte.to_string());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(client.response().1, "hello");
}

#[test]
fn an_idle_connection_is_closed_after_the_idle_timeout() {
    let server = Server::start(quick());
    let mut client = server.connect();
    for _ in 0..3 {
        client.get("/hello");
        client.response();
        std::thread::sleep(Duration::from_millis(300)); // longer than the header timeout, which is not meant
    }
    client.get("/hello");
    client.response();
    assert_near(time_to_close(&mut client), quick().idle_timeout);
    assert_eq!(server.timed_out(TimeOut::Idle), 1);
}

#[test]
fn idleness_begins_when_a_slow_answer_ends() {
    let server = Server::start(quick());
    let mut client = server.connect();
    client.get("/slow"); // takes longer than the idle timeout
    assert_eq!(client.response().1, "slow");
    assert_near(time_to_close(&mut client), quick().idle_timeout);
}

#[test]
fn a_slow_body_is_answered_with_408() {
    let server = Server::start(quick());
    let mut client = server.connect();
    let begun = Instant::now();
    client.send("PUT /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 1000\r\n\r\nbeginning");
    let (head, _) = client.response();
    assert!(head.starts_with("HTTP/1.1 408 "), "{head}");
    assert_near(begun.elapsed(), quick().header_timeout);
    assert_eq!(client.rest(), "", "the rest of the body cannot be told from a next request");
    assert_eq!(server.timed_out(TimeOut::Body), 1);
}

#[test]
fn a_body_above_the_minimum_rate_may_take_longer_than_the_grace() {
    let server = Server::start(Config { min_body_bytes_per_second: 100, ..quick() });
    let mut client = server.connect();
    client.send("PUT /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 200\r\n\r\n");
    for _ in 0..20 {
        client.send("0123456789");
        std::thread::sleep(Duration::from_millis(30));
    }
    assert_eq!(client.response().1.len(), 200);
}

#[test]
fn a_reader_that_does_not_take_the_answer_is_cut() {
    let server = Server::start(quick());
    let mut client = server.connect();
    client.get("/flood");
    server.wait_until("the reader is cut", |totals| totals.timed_out(TimeOut::Reader) == 1);
    server.wait_until("the request is over", |totals| totals.running == 0 && totals.connections == 0);
    assert!(client.0.read_to_end(&mut Vec::new()).is_err(), "the answer was broken off, not ended");
}

#[test]
fn a_reader_that_keeps_up_gets_all_of_a_long_answer() {
    let server = Server::start(quick());
    let mut client = server.connect();
    client.send("GET /flood HTTP/1.0\r\n\r\n");
    client.head();
    let mut total = 0;
    let mut bytes = vec![0; 1 << 20];
    loop {
        match client.0.read(&mut bytes).expect("the answer goes on") {
            0 => break,
            length => total += length,
        }
        std::thread::sleep(Duration::from_millis(5)); // 64 MiB in more than the grace
    }
    assert_eq!(total, 1024 * (64 << 10));
    assert_eq!(server.timed_out(TimeOut::Reader), 0);
}

#[test]
fn a_running_handler_has_all_the_time_it_needs() {
    let server = Server::start(Config { idle_timeout: Duration::from_millis(200), ..quick() });
    let mut client = server.connect();
    client.get("/slow");
    assert_eq!(client.response().1, "slow");
}

#[test]
fn one_connection_too_many_is_refused_while_the_others_go_on() {
    let server = Server::start(Config { max_connections: 2, ..patient() });
    let (mut first, mut second) = (server.connect(), server.connect());
    for client in [&mut first, &mut second] {
        client.get("/hello");
        client.response();
    }
    for _ in 0..100 {
        let mut third = server.connect();
        let _ = third.0.write_all(b"GET /hello HTTP/1.1\r\nHost: t\r\n\r\n"); // it may be closed already
        let refusal = third.rest();
        assert!(refusal.starts_with("HTTP/1.1 503 ") && refusal.contains("Retry-After: 1"), "{refusal:?}");
    }
    assert_eq!(server.traffic.totals().refused, 100);
    first.get("/hello");
    assert_eq!(first.response().1, "hello");
    drop(second);
    server.wait_until("a place is free", |totals| totals.connections == 1);
    let mut next = server.connect();
    next.get("/hello");
    assert_eq!(next.response().1, "hello");
}
