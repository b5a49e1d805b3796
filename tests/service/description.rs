//! `/openapi.json` against the service: every answer it promises is one that can be met.

use crate::support::{
    Client, JSON, OCTETS, Server, arena_path, description, padded, path_of, request, wait_until,
};
use rustix::process::Signal;
use serde_json::json;
use std::collections::BTreeSet;

/// Answers that no client can provoke, on routes that begin so.
const NOT_FROM_OUTSIDE: [(&str, &str, u16, &str); 3] = [
    ("", "", 500, "only a defect of ours is one; a panic in a handler is provoked beside the code"),
    (
        "GET",
        "/allocate/{id}/data",
        503,
        "it takes 65533 readers of one block; the bound is tested beside the record",
    ),
    (
        "POST",
        "/allocate/{id}/advise",
        507,
        "content needs room only beside a reader, who is waited for; what is left is a system that grants no memory",
    ),
];

/// Provokes all that is about content, on a server with one block that has no room for a second version.
fn provoke_content(server: &Server) {
    const SIZE: usize = 16 << 20;
    let octets = ("Content-Type", "application/octet-stream");
    let made = server.allocate(SIZE as u64);
    let data = format!("/allocate/{}/data", made["id"].as_str().expect("text"));
    let gone = "/allocate/00000000-0000-8000-8000-000000000000/data".to_owned();
    let writes = |data: &str| [("PUT", data.to_owned()), ("PATCH", format!("{data}?offset=0"))];
    assert_eq!(server.call("PUT", &data, &[], vec![1; SIZE]).status, 204);
    // GET
    assert_eq!(server.get(&data).status, 200);
    assert_eq!(server.call("GET", &data, &[("Range", "bytes=0-9")], "").status, 206);
    assert_eq!(server.call("GET", &data, &[("If-None-Match", "*")], "").status, 304);
    server.call("GET", &gone, &[], "").is_problem(404, "not-found");
    server.call("GET", &data, &[("If-Match", "\"0\"")], "").is_problem(412, "precondition-failed");
    let beyond = [("Range", "bytes=16777216-")];
    server.call("GET", &data, &beyond, "").is_problem(416, "range-not-satisfiable");
    // PUT and PATCH
    for (method, target) in writes(&gone) {
        server.call(method, &target, &[octets], "x").is_problem(404, "not-found");
    }
    let halves = writes(&data).map(|(method, target)| {
        let mut client = server.connect();
        client.send(format!("{method} {target} HTTP/1.1\r\nHost: test\r\nContent-Type: {}\r\n", octets.1));
        client.send("Content-Length: 16\r\n\r\nhalf");
        (method, target, client)
    });
    for (method, target) in writes(&data) {
        assert_eq!(server.call(method, &target, &[octets], "x").status, 204);
        let stale = [octets, ("If-Match", "\"0\"")];
        server.call(method, &target, &stale, "x").is_problem(412, "precondition-failed");
        let coded = [octets, ("Content-Encoding", "gzip")];
        server.call(method, &target, &coded, "x").is_problem(415, "unsupported-media-type");
        assert_eq!(server.call(method, &target, &[octets, ("Content-Length", "16777217")], "").status, 413);
        let large = vec![2; 100_000];
        server.call(method, &target, &[octets], large).is_problem(507, "no-room-to-replace");
    }
    for (method, target, mut client) in halves {
        client.answer(method, &target).is_problem(408, "body-timeout");
    }
    let mut reader = server.connect();
    reader.send(format!("GET {data} HTTP/1.1\r\nHost: test\r\n\r\n"));
    reader.begin("GET", &data);
    for (method, target) in writes(&data) {
        server.call(method, &target, &[octets], "x").is_problem(503, "write-waited");
    }
    let advise = data.replace("/data", "/advise");
    server.post_to(&advise, "{\"advice\":\"free\"}").is_problem(503, "write-waited");
}

/// Provokes what the routes that take a body or a key can answer, on a server of ten slabs that is empty.
fn provoke_allocating(server: &Server) {
    let gone = "/allocate/00000000-0000-8000-8000-000000000000/renew";
    let made = server.store("", "x");
    assert_eq!(made.status, 201);
    let path = path_of(&made.json());
    let renew = format!("{path}/renew");
    assert_eq!(server.post_to(&renew, "{\"lease_seconds\":60}").status, 200);
    server.post_to(gone, "{\"lease_seconds\":60}").is_problem(404, "not-found");
    let advise = format!("{path}/advise");
    assert_eq!(server.post_to(&advise, "{\"advice\":\"random\"}").status, 204);
    server.post_to(&gone.replace("renew", "advise"), "{\"advice\":\"random\"}").is_problem(404, "not-found");
    let chunked = [OCTETS, ("Transfer-Encoding", "chunked")];
    server.call("POST", "/allocate", &chunked, "").is_problem(411, "length-required");
    assert_eq!(server.delete(&path).status, 204);
    // Keys, of one block and of a batch.
    let routes = [
        ("/allocate", "{\"size_bytes\":1,\"wait_ms\":30000}"),
        ("/allocate/batch", "{\"size_bytes\":1,\"count\":1,\"wait_ms\":30000}"),
    ];
    for (target, body) in routes {
        let headers = [JSON, ("Idempotency-Key", target)];
        assert_eq!(server.call("POST", target, &headers, body).status, 201);
        let again = server.call("POST", target, &headers, body).json();
        let made = again.pointer("/allocations/0").unwrap_or(&again);
        assert_eq!(server.delete(&path_of(made)).status, 204);
        server.call("POST", target, &headers, body).is_problem(404, "replayed-and-gone");
    }
    let filled = server.post_to("/allocate/batch", "{\"size_bytes\":1,\"count\":10}").json();
    for (target, body) in routes {
        let headers = [JSON, ("Idempotency-Key", "running")];
        let mut waiting = server.connect();
        waiting.send(request("POST", target, &headers, body));
        wait_until("it waits", || server.stat("/waiting_requests") == 1);
        server.call("POST", target, &headers, body).is_problem(409, "key-in-use");
        drop(waiting);
        wait_until("it has left", || server.stat("/waiting_requests") == 0);
    }
    let batch = "/allocate/batch";
    server.post_to(batch, "{\"size_bytes\":1,\"count\":1}").is_problem(507, "pool-exhausted");
    server.post_to(batch, "{\"size_bytes\":1,\"count\":11}").is_problem(422, "size-too-large");
    for target in [batch, "/deallocate/batch", &renew, &advise] {
        server.call("POST", target, &[], "{}").is_problem(415, "unsupported-media-type");
        server.post_to(target, &padded(2000)).is_problem(413, "body-too-large");
        let mut half = server.connect();
        half.send(format!(
            "POST {target} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{{"
        ));
        half.answer("POST", target).is_problem(408, "body-timeout");
    }
    let ids: Vec<_> =
        filled["allocations"].as_array().expect("a list").iter().map(|one| &one["id"]).collect();
    let freed = server.post_to("/deallocate/batch", &json!({ "ids": ids }).to_string());
    assert_eq!((freed.status, &freed.json()["freed"]), (200, &json!(10)));
}

/// Provokes what the routes of arenas can answer, on a server of 10240 bytes that is empty.
fn provoke_arenas(server: &Server) {
    const GONE: &str = "20000000-0000-8000-8000-000000000000";
    let arena = server.arena(&json!({ "profile": "tiny" }));
    let path = arena_path(&arena);
    let verbs = ["allocate", "renew", "reset", "commit", "rollback"];
    let body = |verb: &str| match verb {
        "allocate" => "{\"size_bytes\":1}",
        "renew" => "{\"lease_seconds\":60}",
        _ => "{}",
    };
    for target in ["/arenas", &path] {
        assert_eq!(server.get(target).status, 200);
    }
    server.get(&format!("/arenas/{GONE}")).is_problem(404, "not-found");
    server.post_to("/arenas", &json!({ "parent": GONE }).to_string()).is_problem(404, "not-found");
    for verb in verbs {
        server.post_to(&format!("/arenas/{GONE}/{verb}"), body(verb)).is_problem(404, "not-found");
    }
    server.post_to("/arenas", "{\"estimated_size_bytes\":10241}").is_problem(422, "size-too-large");
    server.post_member(&arena, 10_241).is_problem(422, "size-too-large");
    let tagged = server.post_to("/arenas", "{\"profile\":\"tiny\",\"limit_bytes\":1}").json();
    server.post_member(&tagged, 1).is_problem(507, "arena-exhausted");
    server.post_to("/arenas", "{\"profile\":\"tiny\"}").is_problem(507, "pool-exhausted");
    server.post_to("/arenas", "{\"profile\":\"tiny\",\"wait_ms\":1}").is_problem(503, "wait-timeout");
    let full = json!({ "size_bytes": 8000, "wait_ms": 1 }).to_string();
    server.post_to(&format!("{path}/allocate"), &full).is_problem(503, "wait-timeout");
    let targets = verbs.map(|verb| format!("{path}/{verb}"));
    for target in targets.iter().map(String::as_str).chain(["/arenas"]) {
        server.call("POST", target, &[], "{}").is_problem(415, "unsupported-media-type");
        server.post_to(target, &padded(2000)).is_problem(413, "body-too-large");
        let mut half = server.connect();
        half.send(format!(
            "POST {target} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{{"
        ));
        half.answer("POST", target).is_problem(408, "body-timeout");
    }
    for verb in ["allocate", "renew", "reset", "commit"] {
        let expected = if verb == "allocate" { 201 } else { 200 };
        assert_eq!(server.post_to(&format!("{path}/{verb}"), body(verb)).status, expected, "{verb}");
    }
    assert_eq!(server.tell_arena(&tagged, "rollback").status, 200);
    for target in targets {
        let verb = target.rsplit('/').next().unwrap_or_default();
        server.post_to(&target, body(verb)).is_problem(409, "arena-ended");
    }
    server.post_to("/arenas", &json!({ "parent": arena["id"] }).to_string()).is_problem(409, "arena-ended");
}

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
        "/stats/leaks",
        "/stats/recommendations",
        "/metrics",
        "/openapi.json",
        "/pressure",
        "/doctor",
    ] {
        assert_eq!(server.get(target).status, 200, "{target}");
    }
    let mut listener = server.connect();
    listener.send("GET /pressure/events HTTP/1.1\r\nHost: test\r\n\r\n");
    listener.begin("GET", "/pressure/events");
    drop(listener);
    assert_eq!(server.delete(&path).status, 204);
    provoke_allocating(server);
    provoke_arenas(server);
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
    server.post("{\"size_bytes\":10241}").is_problem(422, "size-too-large");
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
    for target in ["/health", "/readyz", "/pressure/events"] {
        server.get(target).is_problem(503, "stopping");
    }
    server.post("{\"size_bytes\":1}").is_problem(503, "stopping");
    server.post_to("/allocate/batch", "{\"size_bytes\":1,\"count\":1}").is_problem(503, "stopping");
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
    let one_block = Server::with()
        .environment("MAX_POOL_SIZE", "16777216")
        .environment("SLAB_SIZES", "16777216")
        .set("memory.write_wait_ms", "10")
        .set("server.header_timeout", "2s")
        .set("server.min_body_bytes_per_second", "1000000")
        .start();
    provoke_content(&one_block);
    let met = described.met();
    let cannot = |(method, template, status): &(String, String, u16)| {
        NOT_FROM_OUTSIDE.iter().any(|(of_method, of_route, known, _)| {
            known == status && method.starts_with(of_method) && template.starts_with(of_route)
        })
    };
    let missing: BTreeSet<_> = described.documented().into_iter().filter(|met| !cannot(met)).collect();
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
        "GET /allocate/{id}/data",
        "GET /arenas",
        "GET /arenas/{id}",
        "GET /doctor",
        "GET /health",
        "GET /livez",
        "GET /metrics",
        "GET /openapi.json",
        "GET /pressure",
        "GET /pressure/events",
        "GET /readyz",
        "GET /stats",
        "GET /stats/leaks",
        "GET /stats/recommendations",
        "PATCH /allocate/{id}/data",
        "POST /allocate",
        "POST /allocate/batch",
        "POST /allocate/{id}/advise",
        "POST /allocate/{id}/renew",
        "POST /arenas",
        "POST /arenas/{id}/allocate",
        "POST /arenas/{id}/commit",
        "POST /arenas/{id}/renew",
        "POST /arenas/{id}/reset",
        "POST /arenas/{id}/rollback",
        "POST /deallocate/batch",
        "PUT /allocate/{id}/data",
    ];
    assert_eq!(rows, expected);
}
