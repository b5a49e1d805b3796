//! Requests that are framed oddly, or that two servers could understand differently.

use super::*;

fn answer_to(request: &str) -> String {
    let server = Server::start(patient());
    let mut client = server.connect();
    client.send(request);
    client.rest()
}

#[test]
fn two_different_content_lengths_are_refused() {
    let answer =
        answer_to("PUT /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer:?}");
}

#[test]
fn a_space_before_the_colon_is_refused() {
    let answer = answer_to("PUT /echo HTTP/1.1\r\nHost: t\r\nContent-Length : 5\r\n\r\nhello");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer:?}");
}

#[test]
fn a_body_framed_in_both_ways_is_read_as_chunks_and_the_connection_closed() {
    let answer = answer_to(concat!(
        "PUT /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "GET /hello HTTP/1.1\r\nHost: smuggled\r\n\r\n"
    ));
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello"), "{answer:?}");
    assert!(answer.to_ascii_lowercase().contains("connection: close"), "{answer:?}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "the smuggled request was answered: {answer:?}");
}

#[test]
fn a_path_of_100_kilobytes_is_refused_and_the_client_sees_it() {
    let server = Server::start(patient());
    let mut client = server.connect();
    let request = format!("GET /{} HTTP/1.1\r\nHost: t\r\n\r\n", "x".repeat(100_000));
    client.send(&request);
    let answer = client.head();
    assert!(answer.starts_with("HTTP/1.1 414 ") || answer.starts_with("HTTP/1.1 431 "), "{answer:?}");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::start(patient());
    let mut client = server.connect();
    let mut requests = String::new();
    for number in 0..50 {
        let body = number.to_string();
        let length = body.len();
        requests += &format!("PUT /echo HTTP/1.1\r\nHost: t\r\nContent-Length: {length}\r\n\r\n{body}");
    }
    client.send(&requests);
    for number in 0..50 {
        assert_eq!(client.response().1, number.to_string());
    }
    assert_eq!(server.traffic.totals().opened, 1);
}

#[test]
fn a_request_of_http10_is_answered_and_the_connection_closed() {
    let answer = answer_to("GET /hello HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.0 200 ") && answer.ends_with("hello"), "{answer:?}");
}

#[test]
fn secrets_are_marked_before_the_service_sees_them() {
    let server = Server::start(patient());
    let mut client = server.connect();
    client.send(concat!(
        "GET /secret HTTP/1.1\r\nHost: t\r\nAuthorization: a\r\n",
        "Cookie: b\r\nCookie: c\r\nProxy-Authorization: d\r\nAccept: e\r\n\r\n"
    ));
    assert_eq!(client.response().1, "4");
}

#[test]
fn bytes_are_counted_exactly() {
    let server = Server::start(patient());
    let mut client = server.connect();
    let request = "PUT /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
    client.send(request);
    let answer = client.rest();
    let totals = server.traffic.totals();
    assert_eq!((totals.received_bytes, totals.sent_bytes), (request.len() as u64, answer.len() as u64));
}
