//! Requests that say who they are: sent twice, they allocate once.

use crate::support::{Answer, Client, JSON, OCTETS, Server, path_of, request, wait_until};
use serde_json::{Value, json};

const BATCH: &str = "/allocate/batch";

fn keyed(server: &Server, key: &str, target: &str, body: &str) -> Answer {
    server.call("POST", target, &[JSON, ("Idempotency-Key", key)], body)
}

fn stored(server: &Server, key: &str, target: &str, body: &[u8]) -> Answer {
    server.call("POST", target, &[OCTETS, ("Idempotency-Key", key)], body)
}

fn live(server: &Server) -> Value {
    server.stat("/memory/active_allocations")
}

#[test]
fn a_repeat_is_answered_with_what_the_allocation_is_by_then() {
    let server = Server::start();
    let body = "{\"size_bytes\":1000,\"tag\":\"a\"}";
    let first = keyed(&server, "k 1", "/allocate", body);
    assert_eq!((first.status, first.header("idempotent-replayed")), (201, None));
    let path = path_of(&first.json());
    for _ in 0..2 {
        let again = keyed(&server, "k 1", "/allocate", body);
        assert_eq!((again.status, again.header("idempotent-replayed")), (201, Some("true")));
        assert_eq!(again.header("location"), Some(path.as_str()));
        assert_eq!((&again.json()["id"], &again.json()["tag"]), (&first.json()["id"], &json!("a")));
    }
    assert_eq!(server.post_to(&format!("{path}/renew"), "{\"lease_seconds\":60}").status, 200);
    assert_eq!(keyed(&server, "k 1", "/allocate", body).json()["expires_in_seconds"], 60, "the current body");
    assert_eq!(live(&server), 1);
    // Other keys, and none, are other requests.
    assert_ne!(keyed(&server, "k 2", "/allocate", body).json()["id"], first.json()["id"]);
    assert_ne!(server.post(body).json()["id"], first.json()["id"]);
    assert_eq!(live(&server), 3);
}

#[test]
fn another_request_under_the_same_key_is_422() {
    let server = Server::start();
    assert_eq!(keyed(&server, "k", "/allocate", "{\"size_bytes\":1}").status, 201);
    assert_eq!(stored(&server, "s", "/allocate?tag=a", b"{\"size_bytes\":1}").status, 201);
    server.untouched_by(|| {
        for body in ["{\"size_bytes\":2}", "{\"size_bytes\":1} ", "{\"size_bytes\":1,\"tag\":\"a\"}"] {
            keyed(&server, "k", "/allocate", body).is_problem(422, "key-reused");
        }
        keyed(&server, "k", BATCH, "{\"size_bytes\":1,\"count\":1}").is_problem(422, "key-reused");
        stored(&server, "k", "/allocate", b"{\"size_bytes\":1}").is_problem(422, "key-reused");
        for (target, body) in
            [("/allocate?tag=a", "{\"size_bytes\":2}"), ("/allocate?tag=b", "{\"size_bytes\":1}")]
        {
            stored(&server, "s", target, body.as_bytes()).is_problem(422, "key-reused");
        }
        // What is wrong in itself is told first.
        keyed(&server, "k", "/allocate", "{\"size_bytes\":0}").is_problem(400, "invalid-size");
    });
}

#[test]
fn a_repeat_after_the_end_is_404_and_never_a_second_allocation() {
    let server = Server::start();
    let body = "{\"size_bytes\":1}";
    let made = keyed(&server, "k", "/allocate", body).json();
    assert_eq!(server.delete(&path_of(&made)).status, 204);
    let lease = "{\"size_bytes\":1,\"lease_seconds\":1}";
    let path = path_of(&keyed(&server, "l", "/allocate", lease).json());
    let small = stored(&server, "s", "/allocate", b"x").json();
    assert_eq!(server.delete(&path_of(&small)).status, 204);
    wait_until("the lease is over", || server.get(&path).status == 404);
    for _ in 0..2 {
        keyed(&server, "k", "/allocate", body).is_problem(404, "replayed-and-gone");
        keyed(&server, "l", "/allocate", lease).is_problem(404, "replayed-and-gone");
        stored(&server, "s", "/allocate", b"x").is_problem(404, "replayed-and-gone");
    }
    assert_eq!(live(&server), 0);
}

#[test]
fn a_one_shot_is_digested_as_it_streams_and_its_repeat_takes_no_memory() {
    let server =
        Server::with().environment("MAX_POOL_SIZE", "1048576").environment("SLAB_SIZES", "1048576").start();
    for length in [100, 500_000] {
        let key = format!("k{length}");
        let mut body = vec![5; length];
        let first = stored(&server, &key, "/allocate", &body);
        assert_eq!(first.status, 201);
        let path = path_of(&first.json());
        // The pool is full: a repeat needs nothing of it.
        let again = stored(&server, &key, "/allocate", &body);
        assert_eq!((again.status, again.header("idempotent-replayed")), (201, Some("true")));
        assert_eq!(
            (again.json()["id"].clone(), again.header("etag")),
            (first.json()["id"].clone(), Some("\"1\""))
        );
        assert_eq!(server.call("PUT", &format!("{path}/data"), &[], "y").status, 204);
        assert_eq!(
            stored(&server, &key, "/allocate", &body).header("etag"),
            Some("\"2\""),
            "the current one"
        );
        body[length - 1] = 6;
        stored(&server, &key, "/allocate", &body).is_problem(422, "key-reused");
        assert_eq!(server.delete(&path).status, 204);
    }
}

#[test]
fn a_repeated_batch_answers_those_that_still_live() {
    let server = Server::start();
    let body = "{\"size_bytes\":1,\"count\":3}";
    let first = keyed(&server, "k", BATCH, body).json();
    let ids: Vec<Value> =
        first["allocations"].as_array().expect("a list").iter().map(|made| made["id"].clone()).collect();
    let free = |id: &Value| {
        assert_eq!(server.delete(&format!("/allocate/{}", id.as_str().expect("text"))).status, 204)
    };
    let again = || keyed(&server, "k", BATCH, body);
    assert_eq!((again().status, again().header("idempotent-replayed")), (201, Some("true")));
    assert_eq!(again().json(), first);
    free(&ids[1]);
    let left: Vec<Value> = again().json()["allocations"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|made| made["id"].clone())
        .collect();
    assert_eq!(left, [ids[0].clone(), ids[2].clone()]);
    free(&ids[0]);
    free(&ids[2]);
    again().is_problem(404, "replayed-and-gone");
    assert_eq!(live(&server), 0);
}

/// A request that waits for room, with a key.
fn waiting(server: &Server, key: &str, body: &str) -> Client {
    let mut client = server.connect();
    client.send(request("POST", "/allocate", &[JSON, ("Idempotency-Key", key)], body));
    wait_until("it waits", || server.stat("/waiting_requests") == 1);
    client
}

#[test]
fn a_key_that_is_running_is_409_and_free_again_when_its_client_hangs_up() {
    let server = Server::of_ten_slabs();
    let paths: Vec<String> = (0..10).map(|_| path_of(&server.allocate(1))).collect();
    let body = "{\"size_bytes\":1,\"wait_ms\":30000}";
    let mut client = waiting(&server, "k", body);
    server.untouched_by(|| {
        keyed(&server, "k", "/allocate", body).is_problem(409, "key-in-use");
        keyed(&server, "k", "/allocate", "{\"size_bytes\":2}").is_problem(409, "key-in-use");
        stored(&server, "k", "/allocate", b"x").is_problem(409, "key-in-use");
    });
    assert_eq!(server.delete(&paths[0]).status, 204);
    let made = client.answer("POST", "/allocate");
    assert_eq!(made.status, 201);
    assert_eq!(keyed(&server, "k", "/allocate", body).json()["id"], made.json()["id"]);

    drop(waiting(&server, "gone", body));
    wait_until("it has left", || server.stat("/waiting_requests") == 0);
    keyed(&server, "gone", "/allocate", "{\"size_bytes\":3}").is_problem(507, "pool-exhausted");
}

#[test]
fn a_request_that_failed_leaves_no_key_behind() {
    let server = Server::of_ten_slabs();
    let paths: Vec<String> = (0..10).map(|_| path_of(&server.allocate(1))).collect();
    let body = "{\"size_bytes\":1}";
    keyed(&server, "a", "/allocate", "{\"size_bytes\":").is_problem(400, "invalid-json");
    keyed(&server, "a", "/allocate", "{\"size_bytes\":10241}").is_problem(422, "size-too-large");
    keyed(&server, "b", BATCH, "{\"size_bytes\":1,\"count\":11}").is_problem(422, "size-too-large");
    for key in ["a", "b", "c"] {
        keyed(&server, key, "/allocate", body).is_problem(507, "pool-exhausted");
    }
    stored(&server, "c", "/allocate", b"x").is_problem(507, "pool-exhausted");
    keyed(&server, "c", "/allocate", "{\"size_bytes\":1,\"wait_ms\":10}").is_problem(503, "wait-timeout");
    // A body that broke off.
    let mut client = server.connect();
    let head = "POST /allocate HTTP/1.1\r\nHost: test\r\nContent-Type: application/octet-stream\r\nIdempotency-Key: d\r\n";
    client.send(format!("{head}Content-Length: 1000\r\n\r\n"));
    // Not by asking with its key: that would be the one that runs.
    wait_until("it runs", || {
        client.send("x"); // a body in more than one piece is charged
        server.stat("/inflight_bytes") != 0
    });
    assert_eq!(stored(&server, "d", "/allocate", b"x").code(), "key-in-use");
    drop(client);
    for path in &paths[..4] {
        assert_eq!(server.delete(path).status, 204);
    }
    wait_until("its key is free", || stored(&server, "d", "/allocate", b"y").status == 201);
    for key in ["a", "b", "c"] {
        let made = keyed(&server, key, "/allocate", body);
        assert_eq!((made.status, made.header("idempotent-replayed")), (201, None));
    }
}

#[test]
fn keys_that_are_wrong_are_refused() {
    let server = Server::start();
    server.untouched_by(|| {
        let long = "k".repeat(256);
        for (target, content, body) in [
            ("/allocate", JSON, "{\"size_bytes\":1}"),
            ("/allocate", OCTETS, "x"),
            (BATCH, JSON, "{\"size_bytes\":1,\"count\":1}"),
        ] {
            for keys in [&[""][..], &[" "], &[&long], &["a", "b"], &["a", "a"]] {
                let mut headers = vec![content];
                headers.extend(keys.iter().map(|key| ("Idempotency-Key", *key)));
                let detail = server.call("POST", target, &headers, body).is_problem(400, "invalid-field");
                assert!(detail.contains("Idempotency-Key") && detail.contains("255"), "{detail}");
            }
        }
    });
    assert_eq!(keyed(&server, &"k".repeat(255), "/allocate", "{\"size_bytes\":1}").status, 201);
    assert_eq!(keyed(&server, "Schlüssel", "/allocate", "{\"size_bytes\":1}").status, 201);
}

#[test]
fn of_many_repeats_at_once_one_allocates() {
    let server = Server::start();
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let repeat = || keyed(&server, "k", "/allocate", "{\"size_bytes\":1}");
        let repeats: Vec<_> = (0..32).map(|_| scope.spawn(repeat)).collect();
        repeats.into_iter().map(|repeat| repeat.join().expect("no client panics")).collect()
    });
    let first = answers
        .iter()
        .filter(|answer| answer.status == 201 && answer.header("idempotent-replayed").is_none());
    assert_eq!(first.count(), 1);
    for answer in answers.iter().filter(|answer| answer.status != 201) {
        answer.is_problem(409, "key-in-use");
    }
    assert_eq!(live(&server), 1);
}
