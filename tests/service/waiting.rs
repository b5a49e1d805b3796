//! Waiting for room: served when it comes, told when it does not, and gone with the client.

use crate::support::{Client, JSON, Server, path_of, request, wait_until};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Ten slabs, all in use: their paths.
fn full(server: &Server) -> Vec<String> {
    (0..10).map(|_| path_of(&server.allocate(1))).collect()
}

/// A request on its way, without its answer, once it is one of so many that wait.
fn waiting(server: &Server, target: &str, body: &str, in_all: u64) -> Client {
    let mut client = server.connect();
    client.send(request("POST", target, &[JSON], body));
    wait_until("it waits", || server.stat("/waiting_requests") == in_all);
    client
}

#[test]
fn a_request_that_waits_is_served_when_something_is_freed() {
    let server = Server::of_ten_slabs();
    let paths = full(&server);
    let mut client =
        waiting(&server, "/allocate", "{\"size_bytes\":1000,\"wait_ms\":30000,\"lease_seconds\":60}", 1);
    assert_eq!(server.samples().get("maas_waiting_requests"), 1.0);
    assert_eq!(server.delete(&paths[0]).status, 204);
    let made = client.answer("POST", "/allocate");
    assert_eq!(made.status, 201);
    let made = made.json();
    assert_eq!(
        (&made["age_seconds"], &made["expires_in_seconds"]),
        (&json!(0), &json!(60)),
        "from the grant on"
    );
    assert_eq!(
        (server.stat("/waiting_requests"), server.stat("/memory/in_use_bytes")),
        (json!(0), json!(10_240))
    );
}

#[test]
fn waiting_in_vain_is_503_with_the_numbers_and_not_before_its_time() {
    let server = Server::of_ten_slabs();
    full(&server);
    server.untouched_by(|| {
        for (target, body, asked) in [
            ("/allocate", "{\"size_bytes\":1000,\"wait_ms\":100}", 1000),
            ("/allocate/batch", "{\"size_bytes\":1000,\"count\":2,\"wait_ms\":100}", 2000),
        ] {
            let begun = Instant::now();
            let refused = server.post_to(target, body);
            assert!(begun.elapsed() >= Duration::from_millis(100), "{:?}", begun.elapsed());
            let detail = refused.is_problem(503, "wait-timeout");
            assert!(detail.contains("ms") && detail.contains("10240"), "{detail}");
            let refused = refused.json();
            let numbers =
                ["requested_bytes", "in_use_bytes", "free_bytes", "limit_bytes", "largest_available_bytes"];
            assert_eq!(
                numbers.map(|name| refused[name].clone()),
                [asked, 10_240, 0, 10_240, 0].map(Value::from)
            );
            assert_eq!(
                (&refused["refused_by"], &refused["retry_after_seconds"]),
                (&json!("pool"), &json!(1))
            );
        }
        server.store("?wait_ms=50", "x").is_problem(503, "wait-timeout");
        server.store("?wait_ms=0", "x").is_problem(507, "pool-exhausted");
        server.post("{\"size_bytes\":1,\"wait_ms\":0}").is_problem(507, "pool-exhausted");
        // What can never fit is not waited for.
        server.post("{\"size_bytes\":10241,\"wait_ms\":30000}").is_problem(422, "size-too-large");
    });
    assert_eq!(server.samples().get("maas_refused_total{reason=\"wait-timeout\"}"), 3.0);
}

#[test]
fn how_long_to_wait_has_a_bound() {
    let server = Server::start();
    server.untouched_by(|| {
        for value in ["30001", "-1", "0.5", "\"1\"", "null", "18446744073709551616"] {
            let detail = server
                .post(&format!("{{\"size_bytes\":1,\"wait_ms\":{value}}}"))
                .is_problem(400, "invalid-field");
            assert!(detail.contains("wait_ms") && detail.contains("30000"), "{detail}");
        }
    });
    assert_eq!(server.post("{\"size_bytes\":1,\"wait_ms\":30000}").status, 201, "what fits does not wait");
}

#[test]
fn a_client_that_hangs_up_leaves_the_queue() {
    let server = Server::of_ten_slabs();
    let paths = full(&server);
    let gone = waiting(&server, "/allocate", "{\"size_bytes\":1,\"wait_ms\":30000}", 1);
    let mut stays = waiting(&server, "/allocate", "{\"size_bytes\":1,\"wait_ms\":30000}", 2);
    drop(gone);
    wait_until("one is left", || server.stat("/waiting_requests") == 1);
    assert_eq!(server.delete(&paths[0]).status, 204);
    assert_eq!(stays.answer("POST", "/allocate").status, 201, "the slab went to who is still there");
    assert_eq!(server.stat("/memory/active_allocations"), 10);
}

#[test]
fn a_batch_waits_as_one_and_who_asks_for_less_is_served_meanwhile() {
    let server = Server::of_ten_slabs();
    let paths = full(&server);
    let mut batch =
        waiting(&server, "/allocate/batch", "{\"size_bytes\":1,\"count\":3,\"wait_ms\":30000}", 1);
    assert_eq!(server.delete(&paths[0]).status, 204);
    // Room for one is not room for three: it goes to whoever fits.
    let meanwhile = path_of(&server.allocate(1));
    assert_eq!(server.stat("/waiting_requests"), 1);
    for path in [&paths[1], &paths[2], &meanwhile] {
        assert_eq!(server.delete(path).status, 204);
    }
    let made = batch.answer("POST", "/allocate/batch");
    assert_eq!((made.status, made.json()["allocations"].as_array().map(Vec::len)), (201, Some(3)));
    assert_eq!(server.stat("/memory/in_use_bytes"), 10_240);
}

#[test]
fn those_that_wait_are_served_in_order() {
    let server = Server::of_ten_slabs();
    let paths = full(&server);
    let mut line: Vec<Client> = (1..=3)
        .map(|number| waiting(&server, "/allocate", "{\"size_bytes\":1,\"wait_ms\":30000}", number))
        .collect();
    for (at, path) in paths.iter().take(3).enumerate() {
        assert_eq!(server.delete(path).status, 204);
        assert_eq!(line[at].answer("POST", "/allocate").status, 201);
        assert_eq!(server.stat("/waiting_requests"), 2 - at);
    }
}

#[test]
fn a_lease_that_ends_makes_room_for_who_waits() {
    let server = Server::of_ten_slabs();
    for _ in 0..10 {
        assert_eq!(server.post("{\"size_bytes\":1,\"lease_seconds\":1}").status, 201);
    }
    assert_eq!(server.post("{\"size_bytes\":1,\"wait_ms\":30000}").status, 201);
}

#[test]
fn a_budget_is_waited_for_as_well() {
    let server = Server::with().set("budgets.cache", "1KiB").start();
    let made = server.post("{\"size_bytes\":1,\"tag\":\"cache\"}").json();
    let refused = server.post("{\"size_bytes\":1,\"tag\":\"cache\",\"wait_ms\":50}");
    refused.is_problem(503, "wait-timeout");
    assert_eq!(refused.json()["refused_by"], "budget");
    let mut client =
        waiting(&server, "/allocate", "{\"size_bytes\":1,\"tag\":\"cache\",\"wait_ms\":30000}", 1);
    assert_eq!(server.allocate(1)["size_bytes"], 1, "others do not wait for it");
    assert_eq!(server.delete(&path_of(&made)).status, 204);
    assert_eq!(client.answer("POST", "/allocate").status, 201);
}

#[test]
fn one_shots_wait_for_room_before_or_after_their_body() {
    let server =
        Server::with().environment("MAX_POOL_SIZE", "1048576").environment("SLAB_SIZES", "1048576").start();
    for length in [10_usize, 500_000] {
        let path = path_of(&server.allocate(1));
        let mut client = server.connect();
        client.send(format!(
            "POST /allocate?wait_ms=30000 HTTP/1.1\r\nHost: test\r\nContent-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n"
        ));
        client.send(vec![9; length]);
        wait_until("it waits", || server.stat("/waiting_requests") == 1);
        assert_eq!(server.delete(&path).status, 204);
        let made = client.answer("POST", "/allocate");
        assert_eq!(made.status, 201, "{}", made.text());
        let path = path_of(&made.json());
        assert!(server.get(&format!("{path}/data")).body == vec![9; length]);
        assert_eq!(server.delete(&path).status, 204);
    }
}
