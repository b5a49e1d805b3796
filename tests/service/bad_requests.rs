//! Requests that are wrong before their body: ids, queries, methods, paths.

use crate::support::{JSON, Server, description};
use std::collections::BTreeSet;

const ID: &str = "5a8c1b2e-0000-8000-8000-0123456789ab";

#[test]
fn an_id_in_any_other_form_is_400() {
    let server = Server::start();
    let made = server.allocate(1)["id"].as_str().expect("text").to_owned();
    server.untouched_by(|| {
        let first = u32::from(made.as_bytes()[0]);
        let digits = made.replace('-', "");
        for id in [
            format!("%7B{made}%7D"),
            format!("urn:uuid:{made}"),
            digits.clone(),
            format!("{}-{}", &digits[..16], &digits[16..]),
            made[..35].to_owned(),
            format!("{made}0"),
            format!("%{first:02x}{}", &made[1..]),
            made.replace('-', "_"),
            made.replace('-', "%2D"),
            format!("{}g", &made[..35]),
            format!("%20{made}"),
            format!("{made}%00"),
            format!("{made}%0d%0aX-Injected:%201"),
            format!("{made};x=1"),
            "0".to_owned(),
            "1024".to_owned(),
            "..".to_owned(),
            "%2e%2e%2fstats".to_owned(),
            "%ff".to_owned(),
            "%".to_owned(),
            "null".to_owned(),
            "*".to_owned(),
            "x".repeat(10_000),
        ] {
            for method in ["GET", "DELETE"] {
                let answer = server.call(method, &format!("/allocate/{id}"), &[], "");
                let detail = answer.is_problem(400, "invalid-id");
                assert!(detail.len() < 400, "an id is not repeated at length: {detail}");
            }
        }
    });
    assert_eq!(server.get(&format!("/allocate/{made}")).status, 200);
}

#[test]
fn an_id_in_braces_is_400() {
    let server = Server::start();
    server.untouched_by(|| {
        server.get(&format!("/allocate/{{{ID}}}")).is_problem(400, "invalid-id");
    });
}

#[test]
fn a_well_formed_id_that_was_never_given_out_is_404() {
    let server = Server::start();
    let made = server.allocate(1)["id"].as_str().expect("text").to_owned();
    server.untouched_by(|| {
        let mut others = vec![
            ID.to_owned(),
            "00000000-0000-0000-0000-000000000000".to_owned(),
            "ffffffff-ffff-ffff-ffff-ffffffffffff".to_owned(),
            "FFFFFFFF-FFFF-8FFF-BFFF-FFFFFFFFFFFF".to_owned(),
            "c232ab00-9414-11ec-b3c8-9f6bdeced846".to_owned(),
            "550e8400-e29b-41d4-a716-446655440000".to_owned(),
        ];
        // Any digit of a live id changed makes another id.
        for at in (0..36).filter(|at| made.as_bytes()[*at] != b'-') {
            let digit = if &made[at..=at] == "3" { "4" } else { "3" };
            others.push(format!("{}{digit}{}", &made[..at], &made[at + 1..]));
        }
        for id in others {
            server.get(&format!("/allocate/{id}")).is_problem(404, "not-found");
            server.delete(&format!("/allocate/{id}")).is_problem(404, "not-found");
        }
    });
}

#[test]
fn query_parameters_that_a_route_does_not_know_are_400_on_every_route() {
    let server = Server::start();
    server.untouched_by(|| {
        for (template, methods) in description(&server).routes() {
            for method in methods {
                let path = template.replace("{id}", ID);
                for query in ["x", "x=1", "Limit=1", "=1", "limit=1&x=2", "%6Cimits=1", "x%00=%ff"] {
                    let target = format!("{path}?{query}");
                    let answer = server.call(&method, &target, &[JSON], "");
                    answer.is_problem(400, "invalid-query");
                }
            }
        }
        server.get("/allocate?limit=1&limit=1").is_problem(400, "invalid-query");
        server.get("/readyz?verbose&verbose").is_problem(400, "invalid-query");
        server.get("/allocate?tag=").is_problem(400, "invalid-query"); // until tags exist
        server
            .call("POST", "/allocate?size_bytes=1", &[JSON], "{\"size_bytes\":1}")
            .is_problem(400, "invalid-query");
        assert_eq!(server.get("/allocate?").status, 200, "an empty query has no parameter");
    });
}

#[test]
fn a_method_that_a_route_does_not_take_is_405_with_those_it_does() {
    let server = Server::start();
    server.untouched_by(|| {
        let all = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "BREW", "get"];
        for (template, methods) in description(&server).routes() {
            let path = template.replace("{id}", ID);
            for method in all.into_iter().filter(|method| !methods.iter().any(|known| known == method)) {
                for body in ["", "{\"size_bytes\":1}"] {
                    let answer = server.call(method, &path, &[JSON], body);
                    answer.is_problem(405, "method-not-allowed");
                    let allow = answer.header("allow").expect("a 405 says what is allowed");
                    let allowed: BTreeSet<_> =
                        allow.split(',').map(|method| method.trim().to_owned()).collect();
                    let mut expected: BTreeSet<_> = methods.iter().cloned().collect();
                    if expected.contains("GET") {
                        expected.insert("HEAD".to_owned());
                    }
                    assert_eq!(allowed, expected, "{method} {path}");
                }
            }
        }
    });
}

#[test]
fn paths_that_are_no_route_are_404_and_shown_in_short() {
    let server = Server::start();
    server.untouched_by(|| {
        let long = format!("/{}", "a".repeat(10_000));
        for path in [
            "/nowhere",
            "/allocate/",
            "//allocate",
            "/allocate//",
            "/Allocate",
            "/allocate/a/b",
            "/stats/",
            "/stats/../metrics",
            "/./stats",
            "/%73tats",
            "/health%00",
            "/health%0a",
            "/;/stats",
            "/index.html",
            "/.env",
            "/allocate/batch/x",
            &long,
        ] {
            for method in ["GET", "POST", "DELETE", "OPTIONS"] {
                let detail = server.call(method, path, &[JSON], "").is_problem(404, "no-such-route");
                assert!(detail.len() < 300, "{detail}");
            }
        }
    });
}

#[test]
fn a_path_of_100_kilobytes_and_a_header_of_that_length_or_too_many_are_refused_by_the_parser() {
    let server = Server::start();
    server.untouched_by(|| {
        let mut client = server.connect();
        client.send(format!("GET /{} HTTP/1.1\r\nHost: test\r\n\r\n", "a".repeat(100_000)));
        assert!(matches!(client.bare_answer().status, 414 | 431), "the parser refuses it");
        assert_eq!(client.rest(), "", "the connection is closed");

        let mut client = server.connect();
        client.send(format!("GET /livez HTTP/1.1\r\nHost: test\r\nX-Long: {}\r\n\r\n", "a".repeat(100_000)));
        assert_eq!(client.bare_answer().status, 431);
        assert_eq!(client.rest(), "");

        let mut client = server.connect();
        client.send(format!("GET /livez HTTP/1.1\r\nHost: test\r\n{}\r\n", "X: y\r\n".repeat(200)));
        assert_eq!(client.bare_answer().status, 431);
        assert_eq!(client.rest(), "");
    });
}
