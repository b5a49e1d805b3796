//! What is logged, and what never is.

use crate::support::{Server, wait_until};
use serde_json::Value;
use std::net::TcpListener;

const MARKER: &str = "Secret-Marker-7b1e";

fn objects(log: &str) -> Vec<Value> {
    let object = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        assert!(value.is_object(), "{line}");
        value
    };
    assert!(!log.is_empty(), "something is logged");
    log.lines().map(object).collect()
}

#[test]
fn with_log_format_json_every_line_is_one_object_from_start_to_stop() {
    let mut server =
        Server::with().environment("LOG_FORMAT", "json").environment("RUST_LOG", "debug").start();
    server.call("GET", "/livez", &[("X-Request-Id", "id-\"quoted\"")], "");
    server.post("nonsense");
    assert_eq!(server.stop(), 0);
    let lines = objects(&server.log());
    for line in &lines {
        for member in ["timestamp", "level", "message"] {
            assert!(line[member].is_string(), "{member} is missing in {line}");
        }
    }
    let message = |text: &str| {
        lines.iter().any(|line| line["message"].as_str().is_some_and(|told| told.starts_with(text)))
    };
    assert!(message("listening on http://") && message("pool of") && message("stopped"));
}

#[test]
fn with_log_format_json_a_failed_start_is_one_object_a_line_too() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("a bound socket has an address").port().to_string();
    let starting = Server::with().environment("LOG_FORMAT", "json").set("server.port", &port);
    let (code, log) = starting.run_to_end();
    assert_eq!(code, 1);
    let lines = objects(&log);
    let last = lines.last().expect("the reason is told");
    assert_eq!(last["level"], "ERROR");
    assert!(last["message"].as_str().is_some_and(|told| told.contains("the port is taken")), "{last}");
}

#[test]
fn with_log_format_json_a_wrong_configuration_is_one_object_for_each_problem() {
    let (code, log) = Server::with()
        .environment("LOG_FORMAT", "json")
        .environment("SLAB_SIZES", "1023")
        .set("server.port", "x")
        .run_to_end();
    assert_eq!(code, 78);
    let lines = objects(&log);
    let keys: Vec<&str> = lines.iter().filter_map(|line| line["key"].as_str()).collect();
    assert_eq!((lines.len(), keys), (2, vec!["memory.slab_sizes", "server.port"]), "{log}");
    assert!(lines.iter().all(|line| line["level"] == "ERROR"), "{log}");
}

#[test]
fn without_a_wish_requests_are_not_logged_and_nothing_is_coloured() {
    let mut server = Server::start();
    server.get("/livez");
    server.post("nonsense");
    assert_eq!(server.stop(), 0);
    let log = server.log();
    assert!(!log.contains("livez") && !log.contains('\x1b'), "{log}");
    assert!(log.contains(&format!("listening on http://{}", server.address())), "{log}");
}

#[test]
fn with_rust_log_debug_a_request_is_a_line_with_its_id_and_traceparent() {
    let server = Server::with().environment("RUST_LOG", "debug").start();
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let answer = server.call("GET", "/livez", &[("X-Request-Id", "mine-17"), ("traceparent", trace)], "");
    assert_eq!(answer.status, 200);
    server.wait_for_log("mine-17");
    let log = server.log();
    let line = log.lines().find(|line| line.contains("mine-17")).expect("just seen");
    for part in [trace, "GET", "/livez", "200"] {
        assert!(line.contains(part), "{part} is missing in {line}");
    }
    // An id of ours is logged just as well.
    let made = server.get("/nowhere").header("x-request-id").expect("always there").to_owned();
    server.wait_for_log(&made);
}

/// Every request header that carries a secret, sent over HTTP/1 on all kinds of routes.
fn send_secrets(server: &Server) {
    let bearer = format!("Bearer {MARKER}");
    let cookie = format!("session={MARKER}; other={MARKER}");
    let headers = [
        ("Authorization", bearer.as_str()),
        ("Cookie", cookie.as_str()),
        ("Proxy-Authorization", bearer.as_str()),
        ("Content-Type", "application/json"),
    ];
    for (method, path, body) in [
        ("GET", "/livez", ""),
        ("GET", "/", ""),
        ("POST", "/allocate", "{\"size_bytes\":1}"),
        ("POST", "/allocate", "nonsense"),
        ("GET", "/nowhere", ""),
        ("PUT", "/stats", ""),
        ("DELETE", "/allocate/nonsense", ""),
    ] {
        let answer = server.call(method, path, &headers, body);
        assert!(!format!("{answer:?}").contains(MARKER), "{answer:?}");
    }
    // A head that the parser refuses after it has seen the secret.
    let mut client = server.connect();
    client.send(format!("GET /livez HTTP/1.1\r\nAuthorization: {bearer}\r\nBroken Header: x\r\n\r\n"));
    assert_eq!(client.bare_answer().status, 400);
    let mut client = server.connect();
    client.send(format!("GET /livez HTTP/1.1\r\nAuthorization: {bearer}\r\n"));
    client.close_write();
    assert_eq!(client.rest(), "");
}

/// The same over HTTP/2, whose library logs on its own.
fn send_secrets_over_http2(server: &Server) {
    use http_body_util::Empty;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(server.address()).await.expect("the server listens");
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.expect("the server speaks HTTP/2");
        let connection = tokio::spawn(connection);
        for path in ["/livez", "/livez", "/nowhere"] {
            let request = hyper::Request::get(format!("http://test{path}"))
                .header("authorization", format!("Bearer {MARKER}"))
                .header("cookie", format!("session={MARKER}"))
                .body(Empty::<bytes::Bytes>::new())
                .expect("a request");
            let answer = sender.send_request(request).await.expect("the server answers");
            assert!(answer.headers().contains_key("x-request-id"));
        }
        drop(sender);
        let _ = connection.await;
    });
}

#[test]
fn authorization_and_cookie_are_never_logged_even_at_trace() {
    for format in ["text", "json"] {
        let mut server =
            Server::with().environment("RUST_LOG", "trace").environment("LOG_FORMAT", format).start();
        send_secrets(&server);
        send_secrets_over_http2(&server);
        assert_eq!(server.stop(), 0);
        let log = server.log();
        assert!(log.contains("answered"), "requests are logged at this level");
        let found: Vec<&str> = log.lines().filter(|line| line.contains("ecret-Marker")).collect();
        assert!(found.is_empty(), "{found:#?}");
    }
}

#[test]
fn nothing_a_client_sends_can_forge_a_log_line_or_reach_a_terminal() {
    let mut server = Server::with().environment("RUST_LOG", "trace").start();
    let forged = "ERROR forged-line";
    let inside = format!("x\" {forged}");
    server.call("GET", "/livez", &[("X-Request-Id", &inside), ("traceparent", &format!("a\t{forged}"))], "");
    for id in ["tab\there", "del\u{7f}", "esc\x1b[31m", "line\u{2028}separator", "\u{9b}31m"] {
        let mut client = server.connect();
        client.send(format!("GET /livez HTTP/1.1\r\nHost: test\r\nX-Request-Id: {id}\r\ntraceparent: {id}\r\nConnection: close\r\n\r\n"));
        client.rest();
    }
    for path in [
        format!("/%0a{forged}").replace(' ', "%20"),
        "/%1b[31m".to_owned(),
        "/\u{1b}[31m".to_owned(),
        "/\u{9b}x\u{2028}y".to_owned(),
    ] {
        let mut client = server.connect();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"));
        client.rest();
    }
    server.post("{\"\\n2026 ERROR forged-line\\u001b[31m\":1}");
    server.call("POST", "/allocate", &[("Content-Type", "x\t\u{9b}31m")], "{}");
    wait_until("all of it was logged", || server.log().matches("answered").count() >= 6);
    assert_eq!(server.stop(), 0);
    let log = server.log();
    for line in log.lines() {
        let odd = |letter: char| letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}');
        assert!(!line.contains(odd), "{line:?}");
        let begins = line.trim_start().split(' ').next().unwrap_or_default();
        assert!(
            begins.ends_with('Z') && begins.contains('T'),
            "a line of ours begins with the time: {line:?}"
        );
        assert!(!line.starts_with(forged));
    }
}
