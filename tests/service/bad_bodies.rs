//! Bodies that are wrong: each gets its 4xx with its code, and nothing happens.

use crate::support::{JSON, Server, padded};

#[test]
fn what_is_no_size_is_400_and_what_is_too_large_for_ever_is_422() {
    let server = Server::start();
    server.untouched_by(|| {
        for value in [
            "0",
            "-0",
            "-1",
            "-9223372036854775808",
            "-18446744073709551616",
            "0.5",
            "1.0",
            "1024.5",
            "1e3",
            "1E0",
            "18446744073709551616",
            "99999999999999999999999999999999",
            "1e300",
            "\"1024\"",
            "\"\"",
            "\"1KiB\"",
            "null",
            "true",
            "[1024]",
            "{}",
        ] {
            server.post(&format!("{{\"size_bytes\":{value}}}")).is_problem(400, "invalid-size");
        }
        for value in ["18446744073709551615", "9223372036854775808", "70368744177664"] {
            server.post(&format!("{{\"size_bytes\":{value}}}")).is_problem(422, "size-too-large");
        }
        server.post("{}").is_problem(400, "invalid-size");
    });
}

#[test]
fn unknown_and_repeated_fields_are_named() {
    let server = Server::start();
    server.untouched_by(|| {
        for body in [
            "{\"size\":1}",
            "{\"size_bytes\":1,\"sizeBytes\":1}",
            "{\"SIZE_BYTES\":1}",
            "{\"size_bytes\":1,\"\":1}",
            "{\"size_bytes\":1,\"size_bytes\\u0000\":1}",
            "{\"size_bytes\":1,\"x\":{\"size_bytes\":[1,2,{}]}}",
        ] {
            server.post(body).is_problem(400, "unknown-field");
        }
        let detail = server.post("{\"size_bytes\":1,\"colour\":2}").is_problem(400, "unknown-field");
        assert!(detail.contains("colour") && detail.contains("size_bytes"), "{detail}");
        let long = format!("{{\"{}\":1}}", "x".repeat(10_000));
        let detail = server.post(&long).is_problem(400, "unknown-field");
        assert!(detail.len() < 200, "a name is not repeated at length: {detail}");
        for body in [
            "{\"size_bytes\":1,\"size_bytes\":1}",
            "{\"size_bytes\":1,\"size\\u005fbytes\":2,\"size_bytes\":1}",
        ] {
            let detail = server.post(body).is_problem(400, "invalid-field");
            assert!(detail.contains("size_bytes"), "{detail}");
        }
    });
}

#[test]
fn what_is_no_json_object_is_invalid_json_wherever_it_breaks_off() {
    let server = Server::start();
    server.untouched_by(|| {
        let whole = "{\"size_bytes\":1024}";
        for length in 1..whole.len() {
            server.post(&whole[..length]).is_problem(400, "invalid-json");
        }
        for body in [
            " ",
            "null",
            "1024",
            "\"size_bytes\"",
            "[]",
            "[{\"size_bytes\":1}]",
            "{\"size_bytes\":1}}",
            "{\"size_bytes\":1} {\"size_bytes\":1}",
            "{\"size_bytes\":1,}",
            "{'size_bytes':1}",
            "{size_bytes:1}",
            "{\"size_bytes\":01}",
            "{\"size_bytes\":+1}",
            "{\"size_bytes\":0x10}",
            "{\"size_bytes\":.5}",
            "{\"size_bytes\":NaN}",
            "{\"size_bytes\":Infinity}",
            "{\"size_bytes\":1e999}",
            "{\"size_bytes\":1,\"x\":\"\u{1}\"}",
            "\u{feff}{\"size_bytes\":1}",
            "size_bytes=1",
            "/* */{\"size_bytes\":1}",
        ] {
            server.post(body).is_problem(400, "invalid-json");
        }
        server.call("POST", "/allocate", &[JSON], "").is_problem(400, "invalid-json");
        server
            .call("POST", "/allocate", &[JSON, ("Content-Length", "0")], "")
            .is_problem(400, "invalid-json");
    });
}

#[test]
fn bytes_that_are_no_text_are_invalid_json() {
    let server = Server::start();
    server.untouched_by(|| {
        for bytes in [&b"{\"size_bytes\":\"\xff\"}"[..], b"\xff\xfe{\0}\0", b"{\"\xc0\x80\":1}", b"\0\0\0\0"] {
            let mut client = server.connect();
            let length = bytes.len();
            client.send(format!(
                "POST /allocate HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
            ));
            client.send(bytes);
            client.answer("POST", "/allocate").is_problem(400, "invalid-json");
        }
    });
}

#[test]
fn json_as_deep_as_the_body_limit_allows_is_refused_without_harm() {
    let server = Server::start();
    server.untouched_by(|| {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let depth = 500_000 / open.len();
            let deep = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            for body in [
                deep.clone(),
                open.repeat(depth),
                format!("{{\"size_bytes\":{deep}}}"),
                format!("{{\"size_bytes\":{}", open.repeat(depth)),
                format!("{{\"size_bytes\":1,\"x\":{deep}}}"),
            ] {
                let answer = server.post(&body);
                let code = answer.code();
                let known = ["invalid-json", "invalid-size", "unknown-field"].contains(&code.as_str());
                assert!(answer.status == 400 && known, "{answer:?}");
            }
        }
    });
}

#[test]
fn a_body_over_the_limit_is_413_whether_its_length_is_announced_or_not() {
    let server = Server::with().set("server.body_limit", "1000").start();
    server.untouched_by(|| {
        server.post(&padded(1000)).is_problem(400, "invalid-size");
        let detail = server.post(&padded(1001)).is_problem(413, "body-too-large");
        assert!(detail.contains("1000"), "{detail}");
        server.post(&padded(3 << 20)).is_problem(413, "body-too-large");

        let head = "POST /allocate HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n";
        // Announced and never sent: the answer does not wait for it.
        for length in ["1001", "10000000000", "9223372036854775807"] {
            let mut client = server.connect();
            client.send(format!("{head}Content-Length: {length}\r\n\r\n"));
            client.answer("POST", "/allocate").is_problem(413, "body-too-large");
        }
        // Not even `100 Continue` is sent for it.
        let mut client = server.connect();
        client.send(format!("{head}Expect: 100-continue\r\nContent-Length: 1001\r\n\r\n"));
        client.answer("POST", "/allocate").is_problem(413, "body-too-large");

        let mut client = server.connect();
        client.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n"));
        for _ in 0..101 {
            client.send("a\r\n          \r\n");
        }
        client.answer("POST", "/allocate").is_problem(413, "body-too-large");
    });
}

#[test]
fn the_default_limit_is_one_mebibyte() {
    let server = Server::start();
    server.untouched_by(|| {
        server.post(&padded(1 << 20)).is_problem(400, "invalid-size");
        server.post(&padded((1 << 20) + 1)).is_problem(413, "body-too-large");
    });
}

#[test]
fn a_body_that_is_not_declared_as_json_is_415_with_the_header_to_send() {
    let server = Server::start();
    server.untouched_by(|| {
        let body = "{\"size_bytes\":1}";
        for given in [
            None,
            Some(""),
            Some("application/x-www-form-urlencoded"),
            Some("text/plain"),
            Some("text/json"),
            Some("multipart/form-data; boundary=x"),
            Some("application/jsonp"),
            Some("application/json+x"),
            Some("application/problem+json"),
            Some("application"),
            Some("text/plain; application/json"),
            Some("application/json, text/plain"),
            Some("*/*"),
        ] {
            let headers: Vec<_> = given.iter().map(|given| ("Content-Type", *given)).collect();
            let answer = server.call("POST", "/allocate", &headers, body);
            let detail = answer.is_problem(415, "unsupported-media-type");
            assert!(detail.contains("Content-Type: application/json"), "{detail}");
        }
        // The type is looked at before anything else of the body.
        server.call("POST", "/allocate", &[], "garbage").is_problem(415, "unsupported-media-type");
        server.call("POST", "/allocate", &[], "").is_problem(415, "unsupported-media-type");
    });
    for given in
        ["application/json", "Application/JSON", "application/json;charset=UTF-8", "application/json ; x=y"]
    {
        let answer = server.call("POST", "/allocate", &[("Content-Type", given)], "{\"size_bytes\":1}");
        assert_eq!(answer.status, 201, "{given}: {answer:?}");
    }
}

#[test]
fn a_client_that_hangs_up_inside_its_body_gets_no_allocation() {
    let server = Server::start();
    server.untouched_by(|| {
        for sent in ["", "{\"size_bytes\":1", "{\"size_bytes\":1}"] {
            let mut client = server.connect();
            client.send(format!(
                "POST /allocate HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n{sent}"
            ));
            client.close_write();
            let rest = client.rest();
            assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 400 "), "{rest}");
        }
    });
}
