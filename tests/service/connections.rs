//! HTTP itself: request ids, HEAD, old and patient clients, many requests on one connection.

use crate::support::{JSON, Server};

#[test]
fn a_request_id_is_taken_where_it_is_usable_and_made_otherwise() {
    let server = Server::start();
    let long = "x".repeat(64);
    for given in ["abc-123", "with \"quotes\" and spaces ~", &long] {
        for target in ["/livez", "/nowhere", "/allocate/nonsense"] {
            let answer = server.call("GET", target, &[("X-Request-Id", given)], "");
            assert_eq!(answer.header("x-request-id"), Some(given), "{target}");
        }
    }
    let too_long = "x".repeat(65);
    let mut made = std::collections::BTreeSet::new();
    for given in ["", &too_long, "tab\there", "caf\u{e9}"] {
        let answer = server.call("GET", "/livez", &[("X-Request-Id", given)], "");
        let id = answer.header("x-request-id").expect("always there").to_owned();
        assert_ne!(id, given);
        assert!(made.insert(id), "ids differ");
    }
}

#[test]
fn head_answers_every_get_route_with_the_same_head_and_no_body() {
    let server = Server::start();
    let id = server.allocate(5)["id"].as_str().expect("text").to_owned();
    let paths =
        ["/", "/allocate", "/health", "/livez", "/readyz", "/readyz?verbose", "/stats", "/openapi.json"];
    let allocation = format!("/allocate/{id}");
    let mut client = server.connect();
    for path in paths.iter().copied().chain([allocation.as_str()]) {
        // Numbers move, and get a digit more: once in a while two answers in a row differ by that.
        let mut agree = || {
            let head = client.call("HEAD", path, &[], "");
            let get = client.call("GET", path, &[], "");
            assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
            ["content-type", "content-length"].iter().all(|name| head.header(name) == get.header(name))
        };
        assert!((0..20).any(|_| agree()), "{path}");
    }
    assert_eq!(client.call("HEAD", "/metrics", &[], "").status, 200);
    assert_eq!(client.call("HEAD", "/nowhere", &[], "").status, 404);
    assert_eq!(client.call("HEAD", "/allocate/nonsense", &[], "").status, 400);
    assert_eq!(client.call("GET", "/livez", &[], "").status, 200, "no body was left on the connection");
}

#[test]
fn a_client_of_http_1_0_is_answered_and_its_connection_closed_unless_it_asks() {
    let server = Server::start();
    let mut client = server.connect();
    client.send("GET /livez HTTP/1.0\r\n\r\n");
    let answer = client.answer("GET", "/livez");
    assert_eq!((answer.status, answer.version.as_str()), (200, "HTTP/1.0"));
    assert_eq!(client.rest(), "");

    let mut client = server.connect();
    for _ in 0..2 {
        client.send("GET /livez HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!(client.answer("GET", "/livez").header("connection"), Some("keep-alive"));
    }
    let body = "{\"size_bytes\":1}";
    let length = body.len();
    client.send(format!(
        "POST /allocate HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    ));
    assert_eq!(client.answer("POST", "/allocate").status, 201);
    assert_eq!(client.rest(), "");
}

#[test]
fn a_connection_is_kept_through_good_and_bad_requests_until_the_client_closes_it() {
    let server = Server::start();
    let mut client = server.connect();
    for round in 0..20 {
        let made = client.call("POST", "/allocate", &[JSON], "{\"size_bytes\":1}").json();
        let path = format!("/allocate/{}", made["id"].as_str().expect("text"));
        client.call("POST", "/allocate", &[JSON], "{\"size_bytes\":0}").is_problem(400, "invalid-size");
        client.call("POST", "/allocate", &[], "{\"size_bytes\":1}").is_problem(415, "unsupported-media-type");
        client.call("POST", "/livez", &[JSON], "some body").is_problem(405, "method-not-allowed");
        client.call("GET", "/nowhere", &[], "a body here").is_problem(404, "no-such-route");
        assert_eq!(client.call("DELETE", &path, &[], "").status, 204, "{round}");
    }
    let opened = server.samples().get("maas_http_connections_opened_total");
    assert!(opened <= 3.0, "one connection, the scrape's and the description's: {opened}");
    let last = client.call("GET", "/livez", &[("Connection", "close")], "");
    assert_eq!(last.header("connection"), Some("close"));
    assert_eq!(client.rest(), "");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::start();
    let mut client = server.connect();
    let mut all = String::new();
    for number in 1..=50 {
        let body = format!("{{\"size_bytes\":{number}}}");
        let length = body.len();
        all.push_str(&format!(
            "POST /allocate HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}\
             GET /nowhere HTTP/1.1\r\nHost: test\r\nX-Request-Id: {number}\r\n\r\n"
        ));
    }
    client.send(all);
    for number in 1..=50 {
        assert_eq!(client.answer("POST", "/allocate").json()["size_bytes"], number);
        let missing = client.answer("GET", "/nowhere");
        assert_eq!(missing.header("x-request-id"), Some(number.to_string().as_str()));
    }
    assert_eq!(server.get("/stats").json()["memory"]["active_allocations"], 50);
}

#[test]
fn a_body_comes_byte_by_byte_in_chunks_or_after_100_continue() {
    let server = Server::start();
    let mut client = server.connect();
    let head = "POST /allocate HTTP/1.1\r\nHost: test\r\nContent-Type: application/json; charset=utf-8\r\n";
    let body = "{\"size_bytes\":7}";
    for byte in format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).bytes() {
        client.send([byte]);
    }
    assert_eq!(client.answer("POST", "/allocate").status, 201);

    client.send(format!("{head}Expect: 100-continue\r\nContent-Length: {}\r\n\r\n", body.len()));
    client.expect("HTTP/1.1 100 Continue\r\n\r\n");
    client.send(body);
    assert_eq!(client.answer("POST", "/allocate").status, 201);

    client
        .send(format!("{head}Transfer-Encoding: chunked\r\n\r\n1\r\n{{\r\nf;x=y\r\n\"size_bytes\":7}}\r\n"));
    client.send("0\r\nTrailer: x\r\n\r\n");
    let answer = client.answer("POST", "/allocate");
    assert_eq!((answer.status, answer.header("connection")), (201, None));
    client.send("GET /livez HTTP/1.1\r\nHost: t\r\n\r\n");
    assert_eq!(client.answer("GET", "/livez").status, 200, "the connection goes on");
}

#[test]
fn a_body_that_was_refused_before_100_continue_is_not_waited_for_nor_taken_for_a_request() {
    let server = Server::start();
    let mut client = server.connect();
    client
        .send("POST /allocate HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 35\r\n\r\n");
    client.answer("POST", "/allocate").is_problem(415, "unsupported-media-type");
    // It is as long as the body that was announced: the server cannot know which it is.
    client.send("GET /livez HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.rest(), "");
}

#[test]
fn the_landing_page_is_text_for_programs_and_a_page_for_browsers() {
    let server = Server::start();
    let text = server.get("/");
    assert_eq!(text.header("content-type"), Some("text/plain; charset=utf-8"));
    assert!(text.text().contains("/openapi.json"), "{}", text.text());
    let page = server.call("GET", "/", &[("Accept", "text/html,*/*;q=0.8")], "");
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.text().starts_with("<!doctype html>"));
}
