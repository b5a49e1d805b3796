//! `/stats/leaks`: what grows old without a lease, whose it is, since when nobody touched it, and who asked for it.

use crate::support::{JSON, OCTETS, PATIENCE, Server, path_of, wait_until};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn leaks(server: &Server, older_than_seconds: u64) -> Value {
    let answer = server.get(&format!("/stats/leaks?older_than_seconds={older_than_seconds}"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// What is said of one allocation.
fn told(report: &Value, allocation: &Value) -> Value {
    let all = report["allocations"].as_array().expect("a list");
    let found = all.iter().find(|leaked| leaked["id"] == allocation["id"]);
    found.unwrap_or_else(|| panic!("{allocation} is not in {report}")).clone()
}

/// Takes a number of seconds out, which are few, however busy the machine is.
fn take_few_seconds(object: &mut Value, name: &str) {
    let seconds = object[name].take();
    assert!(seconds.as_u64().is_some_and(|seconds| seconds <= PATIENCE.as_secs()), "{name}: {seconds}");
}

fn names(object: &Value) -> Vec<&str> {
    object.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn what_has_no_lease_is_told_by_tag_with_the_largest_first() {
    let server = Server::start();
    let plain = server.allocate(1000);
    let post = |body: &Value| {
        let answer = server.post(&body.to_string());
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()
    };
    let large = post(&json!({ "size_bytes": 3_000_000, "tag": "cache" }));
    post(&json!({ "size_bytes": 10, "tag": "cache" }));
    post(&json!({ "size_bytes": 10, "tag": "cache", "lease_seconds": 60 }));
    assert_eq!(leaks(&server, 1000)["count"], 0);
    let mut report = leaks(&server, 0);
    let mut members = names(&report);
    members.sort_unstable();
    assert_eq!(members, ["allocations", "bytes", "count", "older_than_seconds", "tags"]);
    assert_eq!((&report["older_than_seconds"], &report["count"]), (&json!(0), &json!(3)));
    let bytes = (4 << 20) + 1024;
    assert_eq!(report["bytes"], bytes + 1024);
    let tag = |name: Value, count: u32, bytes: u32| json!({ "tag": name, "count": count, "bytes": bytes, "oldest_seconds": null, "untouched_seconds": null });
    for tag in report["tags"].as_array_mut().expect("a list") {
        take_few_seconds(tag, "oldest_seconds");
        take_few_seconds(tag, "untouched_seconds");
    }
    assert_eq!(report["tags"], json!([tag(json!("cache"), 2, bytes), tag(Value::Null, 1, 1024)]));
    assert_eq!(report["allocations"][0]["id"], large["id"]);
    let mut expected = json!({
        "id": plain["id"], "size_bytes": 1000, "actual_size_bytes": 1024, "age_seconds": null, "untouched_seconds": null,
        "tag": null, "request_id": null,
    });
    let mut found = told(&report, &plain);
    take_few_seconds(&mut found, "age_seconds");
    take_few_seconds(&mut found, "untouched_seconds");
    expected["request_id"] = found["request_id"].clone();
    assert_eq!(found, expected);
    assert_eq!(server.delete(&path_of(&plain)).status, 204);
    assert_eq!(leaks(&server, 0)["count"], 2);
}

#[test]
fn the_request_that_made_an_allocation_is_known_by_its_id_given_or_made() {
    let server = Server::start();
    let named = |id: &'static str| ("X-Request-Id", id);
    let of = |allocation: &Value| told(&leaks(&server, 0), allocation)["request_id"].clone();

    let given =
        server.call("POST", "/allocate", &[JSON, named("mine, of more than 16 ~")], "{\"size_bytes\":1}");
    assert_eq!(of(&given.json()), "mine, of more than 16 ~");
    for unusable in [None, Some(("X-Request-Id", ""))] {
        let headers: Vec<_> = [JSON].into_iter().chain(unusable).collect();
        let made = server.call("POST", "/allocate", &headers, "{\"size_bytes\":1}");
        assert_eq!(of(&made.json()), made.header("x-request-id").expect("every answer has one"));
    }
    let stored = server.call("POST", "/allocate?tag=a", &[OCTETS, named("one-shot")], "content");
    assert_eq!(of(&stored.json()), "one-shot");
    let large = vec![7; 100_000];
    let stored = server.call("POST", "/allocate", &[OCTETS, named("large")], large);
    assert_eq!(of(&stored.json()), "large");
    let body = json!({ "size_bytes": 9, "count": 3 }).to_string();
    let batch = server.call("POST", "/allocate/batch", &[JSON, named("batch")], body).json();
    for allocation in batch["allocations"].as_array().expect("a list") {
        assert_eq!(of(allocation), "batch");
    }
    let arena = server.arena(&json!({ "profile": "medium" }));
    for size_bytes in [100, 50_000] {
        let path = format!("/arenas/{}/allocate", arena["id"].as_str().expect("text"));
        let body = json!({ "size_bytes": size_bytes }).to_string();
        let member = server.call("POST", &path, &[JSON, named("member")], body).json();
        let found = told(&leaks(&server, 0), &member);
        assert_eq!((&found["request_id"], &found["arena"]), (&json!("member"), &arena["id"]));
    }
}

#[test]
fn a_repeat_changes_nothing_about_who_made_it() {
    let server = Server::start();
    let ask = |id: &'static str, target: &str, body: &str| {
        let headers = [JSON, ("Idempotency-Key", target), ("X-Request-Id", id)];
        server.call("POST", target, &headers, body).json()
    };
    let first = ask("first", "/allocate", "{\"size_bytes\":1}");
    let batch = "{\"size_bytes\":1,\"count\":2}";
    ask("batch", "/allocate/batch", batch);
    assert_eq!(ask("second", "/allocate", "{\"size_bytes\":1}")["id"], first["id"]);
    ask("again", "/allocate/batch", batch);
    let report = leaks(&server, 0);
    let ids =
        report["allocations"].as_array().expect("a list").iter().map(|leaked| leaked["request_id"].clone());
    assert_eq!(ids.collect::<Vec<_>>(), ["first", "batch", "batch"]);
}

#[test]
fn reading_and_writing_count_as_touching_and_nothing_else_does() {
    let server = Server::start();
    let blocks: Vec<Value> = (0..8).map(|_| server.allocate(100)).collect();
    std::thread::sleep(Duration::from_millis(3100));
    let begun = Instant::now();
    let data = |at: usize| format!("{}/data", path_of(&blocks[at]));
    assert_eq!(server.get(&data(0)).status, 200);
    assert_eq!(server.call("HEAD", &data(1), &[], "").status, 200);
    assert_eq!(server.call("PUT", &data(2), &[OCTETS], "x").status, 204);
    assert_eq!(server.call("PATCH", &format!("{}?offset=5", data(3)), &[OCTETS], "x").status, 204);
    let advise = |at: usize, advice: &str| {
        let body = json!({ "advice": advice }).to_string();
        assert_eq!(server.post_to(&format!("{}/advise", path_of(&blocks[at])), &body).status, 204);
    };
    advise(4, "dontneed");
    advise(7, "willneed");
    assert_eq!(server.get(&path_of(&blocks[5])).status, 200);
    assert_eq!(server.call("PUT", &data(6), &[OCTETS, ("If-Match", "\"7\"")], "x").status, 412);
    let report = leaks(&server, 2);
    // However long all that took.
    let touched_seconds_max = begun.elapsed().as_secs() + 1;
    let idle: Vec<u64> = blocks
        .iter()
        .map(|block| told(&report, block)["untouched_seconds"].as_u64().expect("a number"))
        .collect();
    assert!(idle[..5].iter().all(|seconds| *seconds <= touched_seconds_max), "{idle:?}");
    assert!(idle[5..].iter().all(|seconds| *seconds >= 3), "{idle:?}");
    assert!(report["tags"][0]["oldest_seconds"].as_u64() >= Some(3), "{report}");
    assert!(
        report["tags"][0]["untouched_seconds"].as_u64() <= Some(touched_seconds_max),
        "since anybody touched any: {report}"
    );
}

#[test]
fn a_wrong_age_is_refused() {
    let server = Server::start();
    for query in [
        "older_than_seconds=",
        "older_than_seconds=-1",
        "older_than_seconds=1.5",
        "older_than_seconds=4294967296",
        "older=3",
    ] {
        server.get(&format!("/stats/leaks?{query}")).is_problem(400, "invalid-query");
    }
    assert_eq!(leaks(&server, 4_294_967_295)["count"], 0);
    assert_eq!(server.get("/stats/leaks").json()["older_than_seconds"], 300, "as configured");
}

#[test]
fn what_grows_old_is_logged_once_and_has_a_metric_until_it_is_gone() {
    let server = Server::with().set("leaks.interval", "1").set("leaks.older_than", "1").start();
    let leaked = |tag: &str| server.samples().get(&format!("maas_leaked_bytes{{tag=\"{tag}\"}}"));
    assert_eq!(leaked("other"), 0.0);
    let answer = server.post(&json!({ "size_bytes": 2000, "tag": "jobs" }).to_string());
    let plain = server.allocate(500);
    server.wait_for_log("allocations without a lease grow old");
    assert_eq!(server.get("/stats/leaks").json()["older_than_seconds"], 1, "as configured");
    // The two may be found by two looks.
    wait_until("the metric says so of both", || {
        let samples = server.samples();
        let of = |tag: &str| {
            let name = format!("maas_leaked_bytes{{tag=\"{tag}\"}}");
            samples.iter().find(|(known, _)| **known == name).map(|(_, bytes)| bytes)
        };
        (of("jobs"), of("other")) == (Some(2048.0), Some(1024.0))
    });
    server.wait_for_log("count=2");
    std::thread::sleep(Duration::from_millis(2500));
    let log = server.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("grow old")).collect();
    assert!(lines.len() <= 2, "the two may have been found by two looks: {lines:?}");
    let last = lines.last().expect("it was logged");
    for part in ["WARN", "count=2", "bytes=3072", "tag=\"jobs\"", "tag_bytes=2048"] {
        assert!(last.contains(part), "{part} is not in {last}");
    }
    assert_eq!(server.delete(&path_of(&answer.json())).status, 204);
    assert_eq!(server.delete(&path_of(&plain)).status, 204);
    server.wait_for_log("no allocation is old and without a lease any more");
    // It is told a moment before the metric shows it.
    wait_until("the metric has no tag any more", || {
        let samples = server.samples();
        samples.iter().filter(|(name, _)| name.starts_with("maas_leaked_bytes")).count() == 1
    });
    assert_eq!(leaked("other"), 0.0);
}
