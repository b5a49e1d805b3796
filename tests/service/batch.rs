//! Many allocations in one request: all or none, named by their place where one is wrong, freed as far as they live.

use crate::support::{Client, JSON, Server, path_of, wait_until};
use serde_json::{Value, json};

const BATCH: &str = "/allocate/batch";
const FREE: &str = "/deallocate/batch";
const STRANGER: &str = "5a8c1b2e-0000-8000-8000-0123456789ab";

fn allocations(made: &Value) -> Vec<Value> {
    made["allocations"].as_array().expect("a list").clone()
}

fn ids(made: &Value) -> Vec<String> {
    let id = |made: &Value| made["id"].as_str().expect("text").to_owned();
    allocations(made).iter().map(id).collect()
}

#[test]
fn the_peak_of_a_batch_is_what_it_took() {
    let server = Server::start();
    // Small enough for magazines, which the second finds filled.
    for count in [9, 100] {
        let made = server.post_to(BATCH, &json!({ "size_bytes": 1000, "count": count }).to_string()).json();
        assert_eq!(server.stat("/peak_in_use_bytes"), count * 1024);
        assert_eq!(server.post_to(FREE, &json!({ "ids": ids(&made) }).to_string()).json()["freed"], count);
    }
}

#[test]
fn equal_blocks_are_made_word_for_word() {
    let server = Server::start();
    let answer = server.post_to(BATCH, r#"{"size_bytes":1000,"count":3,"tag":"a","lease_seconds":60}"#);
    assert_eq!((answer.status, answer.header("content-type")), (201, Some("application/json")));
    let made = answer.json();
    assert_eq!(made.as_object().expect("an object").len(), 1);
    for one in allocations(&made) {
        let expected = json!({
            "id": one["id"], "size_bytes": 1000, "actual_size_bytes": 1024, "size_mb": 0.000_976_562_5,
            "age_seconds": 0, "expires_in_seconds": 60, "tag": "a"
        });
        assert_eq!(one, expected);
        assert_eq!(server.get(&path_of(&one)).status, 200);
    }
    let mut ids = ids(&made);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3);
    assert_eq!(server.stat("/memory/active_allocations"), 3);
}

#[test]
fn blocks_that_differ_come_in_the_order_asked_for_with_the_defaults_beside_the_list() {
    let server = Server::start();
    let body = r#"{"tag":"d","allocations":[{"size_bytes":5000},{"size_bytes":1,"tag":"e","priority":"low"},
        {"size_bytes":70000,"lease_seconds":9}],"lease_seconds":60,"wait_ms":100,"priority":"high"}"#;
    let made = allocations(&server.post_to(BATCH, body).json());
    let told =
        |made: &Value| (made["size_bytes"].clone(), made["tag"].clone(), made["expires_in_seconds"].clone());
    let expected = [(5000, "d", 60), (1, "e", 60), (70_000, "d", 9)];
    let expected = expected.map(|(size, tag, left)| (json!(size), json!(tag), json!(left)));
    assert_eq!(made.iter().map(told).collect::<Vec<_>>(), expected);
    // They are listed in that order, too.
    let listed = allocations(&server.get("/allocate").json());
    assert_eq!(listed.iter().map(told).collect::<Vec<_>>(), expected);
}

#[test]
fn ten_thousand_blocks_are_one_batch() {
    let server = Server::start();
    let made = server.post_to(BATCH, r#"{"size_bytes":1,"count":10000}"#);
    assert_eq!(made.status, 201);
    let ids = ids(&made.json());
    assert_eq!((ids.len(), server.stat("/memory/active_allocations")), (10_000, json!(10_000)));
    let freed = server.post_to(FREE, &json!({ "ids": ids }).to_string());
    assert_eq!(freed.json(), json!({ "freed": 10_000, "not_found": [] }));
    assert_eq!(server.stat("/memory/in_use_bytes"), 0);
    wait_until("the answer's room is given back", || server.stat("/inflight_bytes") == 0);
}

#[test]
fn all_are_made_or_none() {
    let server = Server::of_ten_slabs();
    for _ in 0..5 {
        server.allocate(1);
    }
    server.untouched_by(|| {
        for body in [
            r#"{"size_bytes":1000,"count":6}"#.to_owned(),
            json!({ "allocations": vec![json!({ "size_bytes": 1000 }); 6] }).to_string(),
        ] {
            let refused = server.post_to(BATCH, &body);
            let detail = refused.is_problem(507, "pool-exhausted");
            assert!(detail.contains("6000 bytes in 6 blocks") && detail.contains("6144"), "{detail}");
            let refused = refused.json();
            let numbers = ["requested_bytes", "in_use_bytes", "free_bytes", "limit_bytes"];
            assert_eq!(
                numbers.map(|name| refused[name].clone()),
                [6000, 5120, 5120, 10_240].map(Value::from)
            );
            assert_eq!(refused["refused_by"], "pool");
        }
    });
    assert_eq!(server.post_to(BATCH, r#"{"size_bytes":1000,"count":5}"#).status, 201);
    assert_eq!(server.stat("/memory/in_use_bytes"), 10_240);
}

#[test]
fn what_can_never_be_made_is_422_and_names_the_entry() {
    let server = Server::of_ten_slabs();
    server.untouched_by(|| {
        let body = r#"{"allocations":[{"size_bytes":1},{"size_bytes":1},{"size_bytes":10241}]}"#;
        let detail = server.post_to(BATCH, body).is_problem(422, "size-too-large");
        assert!(detail.contains("allocations[2]") && detail.contains("10241"), "{detail}");
        let detail =
            server.post_to(BATCH, r#"{"size_bytes":10241,"count":2}"#).is_problem(422, "size-too-large");
        assert!(!detail.contains('['), "{detail}");
        let detail =
            server.post_to(BATCH, r#"{"size_bytes":1,"count":11}"#).is_problem(422, "size-too-large");
        assert!(detail.contains("11 bytes in 11 blocks") && detail.contains("10240"), "{detail}");
        let huge = r#"{"size_bytes":18446744073709551615,"count":10000}"#;
        server.post_to(BATCH, huge).is_problem(422, "size-too-large");
        let waits = r#"{"size_bytes":1,"count":11,"wait_ms":30000}"#;
        server.post_to(BATCH, waits).is_problem(422, "size-too-large");
    });
}

#[test]
fn bodies_that_are_wrong_name_what_and_where() {
    let server = Server::start();
    server.untouched_by(|| {
        for (body, code, named) in [
            ("", "invalid-json", ""),
            ("[]", "invalid-json", ""),
            (r#"{"allocations":[{"size_bytes":1}]"#, "invalid-json", ""),
            (r#"{"allocations":[{"size_bytes":0},]}"#, "invalid-json", ""),
            ("{}", "invalid-field", "count"),
            (r#"{"size_bytes":1}"#, "invalid-field", "count is missing"),
            (r#"{"count":1}"#, "invalid-size", "size_bytes is missing"),
            (r#"{"size_bytes":1,"count":0}"#, "invalid-field", "count is 0"),
            (r#"{"size_bytes":1,"count":10001}"#, "invalid-field", "10000"),
            (r#"{"size_bytes":1,"count":-1}"#, "invalid-field", "count is -1"),
            (r#"{"size_bytes":1,"count":"2"}"#, "invalid-field", "count is a string"),
            (r#"{"size_bytes":0,"count":1}"#, "invalid-size", "size_bytes is 0"),
            (r#"{"size_bytes":1,"count":1,"size":2}"#, "unknown-field", "size"),
            (r#"{"size_bytes":1,"count":1,"count":1}"#, "invalid-field", "more than once"),
            (r#"{"size_bytes":1,"count":1,"wait_ms":30001}"#, "invalid-field", "wait_ms"),
            (r#"{"size_bytes":1,"count":1,"tag":"A"}"#, "invalid-field", "tag"),
            (r#"{"size_bytes":1,"allocations":[{"size_bytes":1}]}"#, "invalid-field", "exclude"),
            (r#"{"allocations":[]}"#, "invalid-field", "0 entries"),
            (r#"{"allocations":{"size_bytes":1}}"#, "invalid-field", "allocations is an object"),
            (r#"{"allocations":[1]}"#, "invalid-field", "allocations[0] is 1"),
            (r#"{"allocations":[{"size_bytes":1},{}]}"#, "invalid-size", "allocations[1].size_bytes"),
            (r#"{"allocations":[{"size_bytes":1,"wait_ms":1}]}"#, "unknown-field", "wait_ms"),
            (r#"{"allocations":[{"size_bytes":1,"lease_seconds":0}]}"#, "invalid-field", "[0].lease_seconds"),
            (r#"{"allocations":[{"size_bytes":1,"priority":"no"}]}"#, "invalid-field", "[0].priority"),
        ] {
            let detail = server.post_to(BATCH, body).is_problem(400, code);
            assert!(detail.contains(named), "{body}: {detail}");
        }
        let many = format!("{{\"allocations\":[{}]}}", vec!["{\"size_bytes\":1}"; 10_001].join(","));
        let detail = server.post_to(BATCH, &many).is_problem(400, "invalid-field");
        assert!(detail.contains("10001"), "{detail}");
        server.post_to("/allocate/batch?x=1", "{}").is_problem(400, "invalid-query");
        server.call("POST", BATCH, &[], "{}").is_problem(415, "unsupported-media-type");
        server.get(BATCH).is_problem(405, "method-not-allowed");
    });
}

#[test]
fn an_answer_that_has_no_room_in_flight_is_refused_before_anything_is_made() {
    let server = Server::with().set("memory.max_inflight_bytes", "1MiB").start();
    server.untouched_by(|| {
        let refused = server.post_to(BATCH, r#"{"size_bytes":1,"count":10000}"#);
        let detail = refused.is_problem(503, "inflight-exhausted");
        assert!(detail.contains("an answer of up to") && detail.contains("1048576"), "{detail}");
    });
    assert_eq!(server.post_to(BATCH, r#"{"size_bytes":1,"count":1000}"#).status, 201);
}

#[test]
fn ids_are_freed_as_far_as_they_live_and_a_second_time_they_are_not_found() {
    let server = Server::start();
    let ids = ids(&server.post_to(BATCH, r#"{"size_bytes":1,"count":4}"#).json());
    assert_eq!(server.delete(&format!("/allocate/{}", ids[3])).status, 204);
    let asked = json!({ "ids": [ids[0], STRANGER, ids[1].to_uppercase(), ids[0], ids[3]] });
    let freed = server.post_to(FREE, &asked.to_string());
    assert_eq!(
        (freed.status, freed.json()),
        (200, json!({ "freed": 2, "not_found": [STRANGER, ids[0], ids[3]] }))
    );
    assert_eq!(server.stat("/memory/active_allocations"), 1);
    let none = server.post_to(FREE, "{\"ids\":[]}").json();
    assert_eq!(none, json!({ "freed": 0, "not_found": [] }));
}

#[test]
fn one_malformed_id_and_nothing_is_freed() {
    let server = Server::start();
    let made = server.allocate(1);
    let id = made["id"].as_str().expect("text");
    server.untouched_by(|| {
        for wrong in [
            "\"7\"".to_owned(),
            "7".to_owned(),
            "null".to_owned(),
            "[]".to_owned(),
            format!("\"{{{id}}}\""),
            format!("\"urn:uuid:{id}\""),
            format!("\"{}\"", id.replace('-', "")),
        ] {
            let body = format!("{{\"ids\":[\"{id}\",{wrong}]}}");
            let detail = server.post_to(FREE, &body).is_problem(400, "invalid-id");
            assert!(detail.contains("ids[1]"), "{detail}");
        }
        for body in ["{}", "{\"ids\":null}", "{\"ids\":\"x\"}", "{\"ids\":[],\"ids\":[]}"] {
            server.post_to(FREE, body).is_problem(400, "invalid-field");
        }
        server.post_to(FREE, "{\"id\":[]}").is_problem(400, "unknown-field");
        server.post_to(FREE, "{\"ids\":[}").is_problem(400, "invalid-json");
        server.call("POST", FREE, &[], "{\"ids\":[]}").is_problem(415, "unsupported-media-type");
    });
    assert_eq!(server.get(&path_of(&made)).status, 200);
}

#[test]
fn freeing_and_renewing_are_never_refused_for_bytes_in_flight() {
    let server = Server::with().set("memory.max_inflight_bytes", "1MiB").start();
    let block = server.allocate(65_536);
    let data = format!("{}/data", path_of(&block));
    let ids = ids(&server.post_to(BATCH, r#"{"size_bytes":1,"count":1000}"#).json());
    wait_until("nothing is in flight", || server.stat("/inflight_bytes") == 0);
    let holders: Vec<Client> = (0..16)
        .map(|_| {
            let mut client = server.connect();
            client.send(format!("PUT {data} HTTP/1.1\r\nHost: test\r\nContent-Length: 65536\r\n\r\n"));
            client.send("x".repeat(32_769)); // what holds it grows by doubling
            client
        })
        .collect();
    wait_until("the budget is used up", || server.stat("/inflight_bytes") == 1 << 20);
    let padding = " ".repeat(20_000);
    server.post(&format!("{{\"size_bytes\":1}}{padding}")).is_problem(503, "inflight-exhausted");
    let renewed =
        server.post_to(&format!("{}/renew", path_of(&block)), &format!("{{\"lease_seconds\":60}}{padding}"));
    assert_eq!(renewed.status, 200);
    let body = json!({ "ids": ids }).to_string();
    let freed: Vec<Value> = std::thread::scope(|scope| {
        let free = || server.call("POST", FREE, &[JSON], &body).json();
        let all: Vec<_> = (0..20).map(|_| scope.spawn(free)).collect();
        all.into_iter().map(|one| one.join().expect("no caller panics")).collect()
    });
    let counted: u64 = freed.iter().map(|freed| freed["freed"].as_u64().expect("a number")).sum();
    assert_eq!(counted, 1000, "each is freed once, whoever asks");
    drop(holders);
    wait_until("nothing is in flight", || server.stat("/inflight_bytes") == 0);
}
