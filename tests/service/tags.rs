//! Tags: whose an allocation is, what each component has, and the budgets that bound it.

use crate::support::{JSON, Server, path_of};
use serde_json::{Value, json};

fn tagged(server: &Server, tag: &str, size_bytes: u64) -> Value {
    let answer = server.post(&json!({ "size_bytes": size_bytes, "tag": tag }).to_string());
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json()
}

#[test]
fn a_tag_is_told_wherever_the_allocation_is_and_pages_can_be_of_one() {
    let server = Server::start();
    assert!(server.allocate(1).get("tag").is_none());
    let longest = "x".repeat(64);
    let mine: Vec<Value> = ["a", "b.c-d_9", "a", &longest, "a"].map(|tag| tagged(&server, tag, 1)).into();
    for made in &mine {
        assert_eq!(server.get(&path_of(made)).json()["tag"], made["tag"]);
    }
    let ids = |tag: &str| -> Vec<Value> {
        let (mut found, mut target) = (Vec::new(), format!("/allocate?limit=2&tag={tag}"));
        loop {
            let page = server.get(&target).json();
            let here = page["allocations"].as_array().expect("a list").clone();
            assert!(here.len() <= 2 && here.iter().all(|made| made["tag"] == tag), "{page}");
            found.extend(here.iter().map(|made| made["id"].clone()));
            match page["next_cursor"].as_str() {
                Some(cursor) => target = format!("/allocate?limit=2&tag={tag}&cursor={cursor}"),
                None => return found,
            }
        }
    };
    assert_eq!(ids("a"), [0, 2, 4].map(|at: usize| mine[at]["id"].clone()));
    assert_eq!((ids("b.c-d_9").len(), ids(&longest).len(), ids("never").len()), (1, 1, 0));
    let all = server.get("/allocate").json();
    assert_eq!(all["allocations"].as_array().map(Vec::len), Some(6));
}

#[test]
fn tags_that_are_wrong_are_refused_with_the_rule() {
    let server = Server::start();
    server.untouched_by(|| {
        let long = format!("\"{}\"", "x".repeat(65));
        for value in [
            "\"\"",
            "\"A\"",
            "\"a b\"",
            "\"a/b\"",
            "\"ä\"",
            "\"a\\u0000\"",
            &long,
            "1",
            "null",
            "[]",
            "{}",
            "true",
        ] {
            let detail = server
                .post(&format!("{{\"size_bytes\":1,\"tag\":{value}}}"))
                .is_problem(400, "invalid-field");
            assert!(detail.contains("tag") && detail.contains("1 to 64") && detail.len() < 200, "{detail}");
        }
        for value in ["", "A", "a%20b", "%F0"] {
            server.get(&format!("/allocate?tag={value}")).is_problem(400, "invalid-query");
        }
        for value in ["\"\"", "\"LOW\"", "1", "null"] {
            let body = format!("{{\"size_bytes\":1,\"priority\":{value}}}");
            let detail = server.post(&body).is_problem(400, "invalid-field");
            assert!(detail.contains("low, normal or high"), "{detail}");
        }
    });
    assert_eq!(server.stat("/tags"), json!([]));
}

#[test]
fn what_each_tag_has_is_in_statistics_and_metrics() {
    let server = Server::with().set("budgets.queue", "1MiB").start();
    let queue = json!({ "tag": "queue", "allocations": 0, "allocated_bytes": 0, "budget_bytes": 1 << 20 });
    assert_eq!(server.stat("/tags"), json!([queue]), "a budget is shown before anyone uses it");
    let first = tagged(&server, "cache", 1000);
    tagged(&server, "cache", 2000);
    tagged(&server, "other", 1);
    server.allocate(1);
    let expected = json!([
        { "tag": "cache", "allocations": 2, "allocated_bytes": 3072, "budget_bytes": null },
        { "tag": "other", "allocations": 1, "allocated_bytes": 1024, "budget_bytes": null },
        queue
    ]);
    assert_eq!(server.stat("/tags"), expected);
    // Parsing fails where a sample stands twice: a tag of the name `other` must not.
    let samples = server.samples();
    assert_eq!(samples.get("maas_tag_bytes{tag=\"cache\"}"), 3072.0);
    assert_eq!(samples.get("maas_tag_bytes{tag=\"other\"}"), 1024.0);
    assert_eq!(server.delete(&path_of(&first)).status, 204);
    assert_eq!(server.samples().get("maas_tag_bytes{tag=\"cache\"}"), 2048.0);
}

#[test]
fn a_hundred_tags_are_64_and_the_rest_in_the_metrics() {
    let server = Server::start();
    let entries: Vec<Value> =
        (0..100).map(|number| json!({ "size_bytes": 1, "tag": format!("t{number}") })).collect();
    let made = server.post_to("/allocate/batch", &json!({ "allocations": entries }).to_string());
    assert_eq!(made.status, 201);
    let samples = server.samples();
    let shown: Vec<f64> = samples
        .iter()
        .filter(|(name, _)| name.starts_with("maas_tag_bytes{"))
        .map(|(_, bytes)| bytes)
        .collect();
    assert_eq!((shown.len(), shown.iter().sum::<f64>()), (65, 102_400.0));
    assert_eq!(samples.get("maas_tag_bytes{tag=\"other\"}"), 36.0 * 1024.0);
    assert_eq!(server.stat("/tags").as_array().map(Vec::len), Some(100), "statistics have all");
}

#[test]
fn a_budget_is_exact_and_explains_itself() {
    let server = Server::with()
        .set("budgets.cache", "3000")
        .environment("MAAS__BUDGETS__A__B", "1KiB")
        .environment("MAX_POOL_SIZE", "10240")
        .environment("SLAB_SIZES", "1024")
        .start();
    let first = tagged(&server, "cache", 1);
    tagged(&server, "cache", 1000);
    server.untouched_by(|| {
        let refused = server.post("{\"size_bytes\":900,\"tag\":\"cache\"}");
        let detail = refused.is_problem(507, "budget-exhausted");
        assert!(detail.contains("cache") && detail.contains("2048") && detail.contains("3000"), "{detail}");
        let refused = refused.json();
        let numbers =
            ["requested_bytes", "in_use_bytes", "free_bytes", "limit_bytes", "largest_available_bytes"];
        let expected = [900, 2048, 952, 3000, 0].map(Value::from);
        assert_eq!(numbers.map(|name| refused[name].clone()), expected);
        assert_eq!(
            (&refused["refused_by"], &refused["retry_after_seconds"]),
            (&json!("budget"), &Value::Null)
        );
        server.store("?tag=cache", "x").is_problem(507, "budget-exhausted");
        let two = r#"{"allocations":[{"size_bytes":1,"tag":"a.b"},{"size_bytes":1,"tag":"cache"}]}"#;
        server.post_to("/allocate/batch", two).is_problem(507, "budget-exhausted");
    });
    assert_eq!(server.samples().get("maas_refused_total{reason=\"budget-exhausted\"}"), 3.0);
    // Others are not bounded by it, and what is given back can be had again.
    tagged(&server, "a.b", 1);
    server.post("{\"size_bytes\":1,\"tag\":\"a.b\"}").is_problem(507, "budget-exhausted");
    tagged(&server, "free", 1);
    server.allocate(1);
    assert_eq!(server.delete(&path_of(&first)).status, 204);
    tagged(&server, "cache", 1);
}

#[test]
fn of_many_that_race_for_the_rest_of_a_budget_exactly_one_gets_it() {
    let server = Server::with().set("budgets.cache", "4KiB").start();
    for _ in 0..3 {
        tagged(&server, "cache", 1);
    }
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let racer =
            || server.call("POST", "/allocate", &[JSON], "{\"size_bytes\":1,\"tag\":\"cache\"}").status;
        let racers: Vec<_> = (0..32).map(|_| scope.spawn(racer)).collect();
        racers.into_iter().map(|racer| racer.join().expect("no racer panics")).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| [201, 507].contains(status)), "{statuses:?}");
    assert_eq!(server.stat("/tags/0/allocated_bytes"), 4096);
}
