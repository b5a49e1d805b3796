//! `/openapi.json` against the service: every answer it promises is one that can be met.

use crate::support::{Client, JSON, Server, description, padded};
use rustix::process::Signal;
use std::collections::BTreeSet;

/// Statuses that no client can provoke, whatever the route.
const NOT_FROM_OUTSIDE: [(u16, &str); 1] =
    [(500, "only a defect of ours is one; a panic in a handler is provoked beside the code")];

fn provoke_everything(server: &mut Server) {
    const ID: &str = "5a8c1b2e-0000-8000-8000-0123456789ab";
    // 200, 201, 204
    let made = server.allocate(1);
    let path = format!("/allocate/{}", made["id"].as_str().expect("text"));
    for target in [
        path.as_str(),
        "/",
        "/allocate",
        "/health",
        "/livez",
        "/readyz",
        "/stats",
        "/metrics",
        "/openapi.json",
    ] {
        assert_eq!(server.get(target).status, 200, "{target}");
    }
    assert_eq!(server.delete(&path).status, 204);
    // 404, 400
    for method in ["GET", "DELETE"] {
        server.call(method, &path, &[], "").is_problem(404, "not-found");
    }
    for (template, methods) in description(server).routes() {
        for method in methods {
            let target = format!("{}?unknown=1", template.replace("{id}", ID));
            server.call(&method, &target, &[JSON], "").is_problem(400, "invalid-query");
        }
    }
    // What only an allocation can get.
    server.call("POST", "/allocate", &[], "{}").is_problem(415, "unsupported-media-type");
    server.post(&padded(2000)).is_problem(413, "body-too-large");
    server.post("{\"size_bytes\":1025}").is_problem(422, "size-too-large");
    for _ in 0..10 {
        server.allocate(1);
    }
    server.post("{\"size_bytes\":1}").is_problem(507, "pool-exhausted");
    let head =
        "POST /allocate HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: 16\r\n";
    let half = |server: &Server| -> Client {
        let mut client = server.connect();
        client.send(format!("{head}Expect: 100-continue\r\n\r\n"));
        client.expect("HTTP/1.1 100 Continue\r\n\r\n");
        client
    };
    half(server).answer("POST", "/allocate").is_problem(408, "body-timeout");
    // 503, while somebody holds up the end.
    let mut holder = half(server);
    server.signal(Signal::TERM);
    server.wait_for_log("draining connections");
    for target in ["/health", "/readyz"] {
        server.get(target).is_problem(503, "stopping");
    }
    server.post("{\"size_bytes\":1}").is_problem(503, "stopping");
    holder.answer("POST", "/allocate").is_problem(408, "body-timeout");
    assert_eq!(server.exit_code(), 0);
}

#[test]
fn every_documented_answer_of_every_route_can_be_met() {
    let mut server = Server::with()
        .environment("MAX_POOL_SIZE", "10240")
        .environment("SLAB_SIZES", "1024")
        .set("server.body_limit", "1000")
        .set("server.header_timeout", "3s")
        .set("server.min_body_bytes_per_second", "1000000")
        .start();
    let described = description(&server);
    provoke_everything(&mut server);
    let met = described.met();
    let cannot = |status: u16| NOT_FROM_OUTSIDE.iter().any(|(known, _)| *known == status);
    let missing: BTreeSet<_> =
        described.documented().into_iter().filter(|(_, _, status)| !cannot(*status)).collect();
    let missing: Vec<_> = missing.difference(&met).collect();
    assert!(missing.is_empty(), "documented and never met: {missing:?}");
}

#[test]
fn the_routes_are_those_of_the_contract() {
    let server = Server::start();
    let mut rows: Vec<String> = description(&server)
        .routes()
        .into_iter()
        .flat_map(|(template, methods)| methods.into_iter().map(move |method| format!("{method} {template}")))
        .collect();
    rows.sort();
    let expected = [
        "DELETE /allocate/{id}",
        "GET /",
        "GET /allocate",
        "GET /allocate/{id}",
        "GET /health",
        "GET /livez",
        "GET /metrics",
        "GET /openapi.json",
        "GET /readyz",
        "GET /stats",
        "POST /allocate",
    ];
    assert_eq!(rows, expected);
}
