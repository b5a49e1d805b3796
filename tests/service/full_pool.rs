//! The hard limit: exact to the slab under any number of clients, refused with the numbers, usable again at once.

use crate::support::{Client, Server};
use serde_json::{Value, json};
use std::sync::Barrier;

fn fill(server: &Server) -> Vec<String> {
    let path = |made: Value| format!("/allocate/{}", made["id"].as_str().expect("text"));
    (0..10).map(|_| path(server.allocate(1000))).collect()
}

#[test]
fn a_pool_of_10240_with_slabs_of_1024_grants_ten_and_refuses_the_eleventh_with_the_numbers() {
    let server = Server::of_ten_slabs();
    fill(&server);
    let refused = server.post("{\"size_bytes\":1000}");
    let detail = refused.is_problem(507, "pool-exhausted");
    assert!(detail.contains("1000") && detail.contains("10240"), "{detail}");
    let body = refused.json();
    let mut members: Vec<&str> = body.as_object().expect("an object").keys().map(String::as_str).collect();
    members.sort_unstable();
    assert_eq!(
        members,
        [
            "code",
            "detail",
            "free_bytes",
            "in_use_bytes",
            "largest_available_bytes",
            "limit_bytes",
            "refused_by",
            "request_id",
            "requested_bytes",
            "retry_after_seconds",
            "status",
            "title",
            "type"
        ]
    );
    let numbers = ["requested_bytes", "in_use_bytes", "free_bytes", "limit_bytes", "largest_available_bytes"];
    assert_eq!(numbers.map(|name| body[name].clone()), [1000, 10_240, 0, 10_240, 0].map(Value::from));
    assert_eq!((&body["refused_by"], &body["retry_after_seconds"]), (&json!("pool"), &Value::Null));
}

#[test]
fn a_freed_slab_is_granted_again() {
    let server = Server::of_ten_slabs();
    let paths = fill(&server);
    for path in &paths {
        server.post("{\"size_bytes\":1}").is_problem(507, "pool-exhausted");
        assert_eq!(server.delete(path).status, 204);
        server.allocate(1024);
    }
    server.post("{\"size_bytes\":1}").is_problem(507, "pool-exhausted");
    assert_eq!(server.get("/stats").json()["memory"]["active_allocations"], 10);
}

#[test]
fn of_64_connections_that_race_for_the_last_slab_exactly_one_gets_it() {
    const RACERS: usize = 64;
    let server = Server::of_ten_slabs();
    let mut paths = fill(&server);
    for round in 0..5 {
        assert_eq!(server.delete(&paths.pop().expect("one is live")).status, 204);
        let line = Barrier::new(RACERS);
        let address = server.address();
        let answers: Vec<_> = std::thread::scope(|scope| {
            let racer = || {
                let mut client = Client::connect(address);
                client.send("POST /allocate HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n");
                line.wait();
                client.send("Content-Length: 17\r\n\r\n{\"size_bytes\":10}");
                client.answer("POST", "/allocate")
            };
            let racers: Vec<_> = (0..RACERS).map(|_| scope.spawn(racer)).collect();
            racers.into_iter().map(|racer| racer.join().expect("no racer panics")).collect()
        });
        let winners: Vec<_> = answers.iter().filter(|answer| answer.status == 201).collect();
        assert_eq!(winners.len(), 1, "round {round}");
        answers.iter().filter(|answer| answer.status != 201).for_each(|loser| {
            loser.is_problem(507, "pool-exhausted");
        });
        paths.push(winners[0].header("location").expect("a 201 has one").to_owned());
        assert_eq!(server.get("/stats").json()["memory"]["in_use_bytes"], 10_240);
    }
}

#[test]
fn what_rounds_to_more_than_the_pool_can_never_be_had() {
    let server = Server::with()
        .environment("MAX_POOL_SIZE", "10240")
        .environment("SLAB_SIZES", "1024,4096,16384")
        .start();
    server.untouched_by(|| {
        let detail = server.post("{\"size_bytes\":9000}").is_problem(422, "size-too-large");
        assert!(detail.contains("16384"), "{detail}");
        server.post("{\"size_bytes\":16384}").is_problem(422, "size-too-large");
        server.post("{\"size_bytes\":18446744073709551615}").is_problem(422, "size-too-large");
    });
    assert_eq!(server.allocate(4096)["actual_size_bytes"], 4096);
}

#[test]
fn a_size_above_max_allocation_size_is_422() {
    let server = Server::with().set("memory.max_allocation_size", "2000").start();
    server.allocate(2000);
    server.post("{\"size_bytes\":2001}").is_problem(422, "size-too-large");
}

#[test]
fn a_table_that_is_full_refuses_and_says_whose_limit_it_is() {
    let server = Server::with().set("memory.max_allocations", "2").start();
    server.allocate(1);
    server.allocate(1);
    let refused = server.post("{\"size_bytes\":1}");
    refused.is_problem(507, "table-full");
    let refused = refused.json();
    assert_eq!((&refused["refused_by"], &refused["requested_bytes"]), (&json!("table"), &json!(1)));
    for member in
        ["in_use_bytes", "free_bytes", "limit_bytes", "largest_available_bytes", "retry_after_seconds"]
    {
        assert!(refused.get(member).is_some(), "{member} is missing in {refused}");
    }
}

#[test]
fn free_bytes_of_one_class_are_granted_to_another() {
    let server =
        Server::with().environment("MAX_POOL_SIZE", "8192").environment("SLAB_SIZES", "1024,8192").start();
    let small: Vec<String> = (0..8)
        .map(|_| server.allocate(1)["id"].as_str().expect("text").to_owned())
        .map(|id| format!("/allocate/{id}"))
        .collect();
    server.post("{\"size_bytes\":8000}").is_problem(507, "pool-exhausted");
    small.iter().for_each(|path| assert_eq!(server.delete(path).status, 204));
    assert_eq!(server.allocate(8000)["actual_size_bytes"], 8192);
    server.post("{\"size_bytes\":1}").is_problem(507, "pool-exhausted");
}

#[test]
fn health_stats_and_metrics_say_what_happened() {
    let server = Server::with()
        .environment("MAX_POOL_SIZE", "10240")
        .environment("SLAB_SIZES", "1024")
        .set("pressure.cooldown", "1h")
        .start();
    let paths = fill(&server);
    // From here on nothing that is freed goes back to the system.
    server.wait_for_log("action=\"emergency\"");
    server.post("{\"size_bytes\":1}").is_problem(507, "pool-exhausted");
    server.post("{\"size_bytes\":10241}").is_problem(422, "size-too-large");
    server.delete(&paths[0]);
    server.delete(&paths[1]);
    server.allocate(1); // reuses one of the two
    server.delete("/allocate/00000000-0000-8000-8000-000000000000").is_problem(404, "not-found");

    let memory = json!({
        "in_use_bytes": 9216, "pool_size_bytes": 10_240, "max_pool_size_bytes": 10_240,
        "utilization_percent": 90.0, "active_allocations": 9
    });
    let health = server.get("/health").json();
    assert_eq!((&health["status"], &health["memory"]), (&json!("healthy"), &memory));
    let stats = server.get("/stats").json();
    assert_eq!((&stats["memory"], &stats["peak_in_use_bytes"]), (&memory, &json!(10_240)));
    let rate = 1.0 / 11.0;
    let given_rate = &stats["slab_sizes"][0]["reuse_rate"];
    assert!((given_rate.as_f64().expect("a number") - rate).abs() < 1e-9, "{given_rate}");
    let class = json!({
        "slab_size_bytes": 1024, "total": 10, "used": 9, "free": 1, "created": 10, "reused": 1,
        "reuse_rate": given_rate
    });
    assert_eq!(stats["slab_sizes"], json!([class]));
    assert_eq!((&stats["draining_bytes"], &stats["inflight_bytes"]), (&json!(0), &json!(0)));

    let samples = server.samples();
    assert_eq!(samples.get("maas_active_allocations"), 9.0);
    assert_eq!(samples.get("maas_allocation_size_bytes"), 9216.0);
    assert_eq!(samples.get("maas_pool_size_bytes"), 10_240.0);
    assert_eq!(samples.get("maas_utilization_percent"), 90.0);
    assert_eq!(samples.get("maas_slab_reuse_total{slab_size=\"1024\"}"), 1.0);
    for (method, route, status, count) in [
        ("POST", "/allocate", 201, 11.0),
        ("POST", "/allocate", 507, 1.0),
        ("POST", "/allocate", 422, 1.0),
        ("DELETE", "/allocate/{id}", 204, 2.0),
        ("DELETE", "/allocate/{id}", 404, 1.0),
        ("GET", "/health", 200, 1.0),
        ("GET", "/stats", 200, 1.0),
        ("GET", "/metrics", 200, 0.0),
    ] {
        for family in ["maas_request_count", "maas_http_requests_total"] {
            let name = format!("{family}{{method=\"{method}\",route=\"{route}\",status=\"{status}\"}}");
            assert_eq!(samples.get(&name), count, "{name}");
        }
    }
    assert_eq!(samples.get("maas_refused_total{reason=\"pool-exhausted\"}"), 1.0);
    assert_eq!(samples.get("maas_peak_in_use_bytes"), 10_240.0);
    assert_eq!(samples.get("maas_slabs{slab_size=\"1024\",state=\"used\"}"), 9.0);
    assert_eq!(samples.get("maas_slab_created_total{slab_size=\"1024\"}"), 10.0);
    assert!((samples.get("maas_slab_reuse_ratio{slab_size=\"1024\"}") - rate).abs() < 1e-9);
}

#[test]
fn a_full_pool_stays_healthy_and_ready() {
    let server = Server::of_ten_slabs();
    fill(&server);
    let health = server.get("/health").json();
    assert_eq!(
        (&health["status"], &health["memory"]["utilization_percent"]),
        (&json!("healthy"), &json!(100.0))
    );
    assert_eq!(server.get("/readyz").json(), json!({"status": "ready"}));
    let verbose = server.get("/readyz?verbose").json();
    assert_eq!((&verbose["status"], verbose["checks"][0]["name"].as_str()), (&json!("ready"), Some("pool")));
    assert_eq!(server.get("/livez").json(), json!({"status": "alive"}));
}

#[test]
fn health_has_the_members_of_the_contract_and_no_others() {
    let server = Server::start();
    let health = server.get("/health").json();
    let members = |value: &Value| {
        let mut names: Vec<String> = value.as_object().expect("an object").keys().cloned().collect();
        names.sort();
        names.join(" ")
    };
    assert_eq!(members(&health), "connection memory pushgateway status uptime_seconds version");
    let link = "attempts last_error next_retry_seconds since_seconds state";
    for peer in ["connection", "pushgateway"] {
        assert_eq!((members(&health[peer]).as_str(), &health[peer]["state"]), (link, &json!("off")));
    }
    assert_eq!(health["version"], env!("CARGO_PKG_VERSION"));
    let stats = members(&server.get("/stats").json());
    for name in
        "memory peak_in_use_bytes draining_bytes retired_bytes inflight_bytes slab_sizes tags arenas large_objects reclaim compaction health"
            .split(' ')
    {
        assert!(stats.split(' ').any(|member| member == name), "{name} is missing in {stats}");
    }
}
