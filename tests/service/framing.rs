//! Requests whose framing is ambiguous or broken: refused by the parser, never taken for two requests.

use crate::support::Server;

/// A second request that must not be found inside the first.
const SMUGGLED: &str = "POST /allocate HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{\"size_bytes\":1}";

#[test]
fn what_the_parser_refuses_gets_its_bare_400_and_the_end_of_the_connection() {
    let server = Server::start();
    server.untouched_by(|| {
        for (what, head) in [
            (
                "two lengths that differ",
                "POST /allocate HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nContent-Length: 6\r\n",
            ),
            ("two lengths in one", "POST /allocate HTTP/1.1\r\nHost: t\r\nContent-Length: 5, 6\r\n"),
            ("a signed length", "POST /allocate HTTP/1.1\r\nHost: t\r\nContent-Length: +5\r\n"),
            ("a negative length", "POST /allocate HTTP/1.1\r\nHost: t\r\nContent-Length: -5\r\n"),
            ("a hexadecimal length", "POST /allocate HTTP/1.1\r\nHost: t\r\nContent-Length: 0x5\r\n"),
            ("an empty length", "POST /allocate HTTP/1.1\r\nHost: t\r\nContent-Length: \r\n"),
            (
                "a length beyond 64 bits",
                "POST /allocate HTTP/1.1\r\nHost: t\r\nContent-Length: 18446744073709551616\r\n",
            ),
            ("a space before the colon", "POST /allocate HTTP/1.1\r\nHost: t\r\nContent-Length : 5\r\n"),
            (
                "a tab before the colon",
                "POST /allocate HTTP/1.1\r\nHost: t\r\nTransfer-Encoding\t: chunked\r\n",
            ),
            ("a line that goes on", "POST /allocate HTTP/1.1\r\nHost: t\r\nContent-Length:\r\n 5\r\n"),
            ("a space before the name", "POST /allocate HTTP/1.1\r\nHost: t\r\n Content-Length: 5\r\n"),
            ("an unknown coding", "POST /allocate HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: xchunked\r\n"),
            (
                "chunked not last",
                "POST /allocate HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked, identity\r\n",
            ),
            ("chunked on 1.0", "POST /allocate HTTP/1.0\r\nHost: t\r\nTransfer-Encoding: chunked\r\n"),
            ("a header without a colon", "GET /livez HTTP/1.1\r\nHost: t\r\nNonsense\r\n"),
            ("a zero byte in a value", "GET /livez HTTP/1.1\r\nHost: t\r\nX: a\0b\r\n"),
            ("a bare return in a value", "GET /livez HTTP/1.1\r\nHost: t\r\nX: a\rY: b\r\n"),
            ("no version", "GET /livez\r\nHost: t\r\n"),
            ("another version", "GET /livez HTTP/1.2\r\nHost: t\r\n"),
            ("another protocol", "\x16\x03\x01\x02\0\x01\0\x01\r\n\r\n"),
            ("no target", "GET HTTP/1.1\r\nHost: t\r\n"),
            ("a control character in the path", "GET /li\x01vez HTTP/1.1\r\nHost: t\r\n"),
            ("a method that is no token", "G@T /livez HTTP/1.1\r\nHost: t\r\n"),
        ] {
            let mut client = server.connect();
            client.send(format!("{head}\r\n{SMUGGLED}"));
            let answer = client.bare_answer();
            assert_eq!(answer.status, 400, "{what}");
            let rest = client.rest();
            assert_eq!(rest, "", "{what}");
        }
    });
}

#[test]
fn with_both_framings_the_chunks_count_and_the_connection_ends() {
    let server = Server::start();
    server.untouched_by(|| {
        for (first, second) in [
            ("Content-Length: 5", "Transfer-Encoding: chunked"),
            ("Transfer-Encoding: chunked", "Content-Length: 200"),
        ] {
            // Read to its end, and refused before it is read.
            for (content_type, status) in [("application/json", 400), ("text/plain", 415)] {
                let mut client = server.connect();
                client.send(format!(
                    "POST /allocate HTTP/1.1\r\nHost: t\r\nContent-Type: {content_type}\r\n{first}\r\n{second}\r\n\r\n\
                     10\r\n{{\"size_bytes\":0}}\r\n0\r\n\r\n{SMUGGLED}"
                ));
                let answer = client.answer("POST", "/allocate");
                assert_eq!((answer.status, answer.header("connection")), (status, Some("close")));
                assert_eq!(client.rest(), "", "nothing else was answered");
            }
        }
    });
}

#[test]
fn broken_chunks_end_the_connection_without_an_allocation() {
    let server = Server::start();
    server.untouched_by(|| {
        let head = "POST /allocate HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
        for chunks in [
            "10\r\n{\"size_bytes\":1}XX0\r\n\r\n",
            "zz\r\n{\"size_bytes\":1}\r\n0\r\n\r\n",
            "-10\r\n{\"size_bytes\":1}\r\n0\r\n\r\n",
            "0x10\r\n{\"size_bytes\":1}\r\n0\r\n\r\n",
            "ffffffffffffffffff\r\n{\"size_bytes\":1}\r\n0\r\n\r\n",
            "10 10\r\n{\"size_bytes\":1}\r\n0\r\n\r\n",
        ] {
            let mut client = server.connect();
            client.send(format!("{head}{chunks}{SMUGGLED}"));
            let rest = client.rest();
            assert!(rest.starts_with("HTTP/1.1 400 ") || rest.is_empty(), "{chunks:?}: {rest}");
            assert!(rest.matches("HTTP/1.1 ").count() <= 1, "{chunks:?}: {rest}");
        }
    });
}

#[test]
fn a_body_on_a_request_that_has_no_use_for_one_is_not_taken_for_the_next_request() {
    let server = Server::start();
    server.untouched_by(|| {
        for (method, target, status) in [
            ("GET", "/livez", 200),
            ("DELETE", "/allocate/nonsense", 400),
            ("PUT", "/nowhere", 404),
            ("OPTIONS", "/stats", 405),
        ] {
            let mut client = server.connect();
            let length = SMUGGLED.len();
            client.send(format!(
                "{method} {target} HTTP/1.1\r\nHost: t\r\nContent-Length: {length}\r\n\r\n{SMUGGLED}"
            ));
            assert_eq!(client.answer(method, target).status, status);
            assert_eq!(client.call("GET", "/livez", &[("Connection", "close")], "").status, 200);
            assert_eq!(client.rest(), "", "nothing else was answered");
        }
    });
}

#[test]
fn targets_in_other_forms_are_answered_with_a_4xx() {
    let server = Server::start();
    server.untouched_by(|| {
        for line in ["CONNECT example.org:443", "OPTIONS *", "GET *", "CONNECT /livez", "GET example.org:80"]
        {
            let mut client = server.connect();
            client.send(format!("{line} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"));
            let rest = client.rest();
            assert!(rest.starts_with("HTTP/1.1 40"), "{line}: {rest}");
        }
    });
}
