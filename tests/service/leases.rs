//! Leases: an allocation ends by itself, as soon as its time is over, unless it is renewed.

use crate::support::{PATIENCE, Server, path_of, wait_until};
use serde_json::json;
use std::time::Instant;

#[test]
fn an_allocation_ends_with_its_lease_and_its_memory_comes_back() {
    let server = Server::start();
    let begun = Instant::now();
    let made = server.post("{\"size_bytes\":5000,\"lease_seconds\":1}").json();
    assert_eq!(made["expires_in_seconds"], 1, "rounded up");
    let path = path_of(&made);
    assert_eq!(server.get(&path).json()["expires_in_seconds"], 1);
    wait_until("the lease is over", || server.get(&path).status == 404);
    let took = begun.elapsed();
    assert!(took.as_millis() >= 1000 && took < PATIENCE, "{took:?}");
    wait_until("the memory is back", || server.stat("/memory/in_use_bytes") == 0);
    server.get(&format!("{path}/data")).is_problem(404, "not-found");
    server.delete(&path).is_problem(404, "not-found");
    server.post_to(&format!("{path}/renew"), "{\"lease_seconds\":1}").is_problem(404, "not-found");
    assert_eq!(server.get("/allocate").json()["allocations"], json!([]));
    wait_until("it is counted", || server.samples().get("maas_lease_expired_total") == 1.0);
    let samples = server.samples();
    assert_eq!(samples.get("maas_lease_expiry_lag_seconds_count"), 1.0);
    assert_eq!(samples.get("maas_lease_expiry_lag_seconds_bucket{le=\"+Inf\"}"), 1.0);
    assert_eq!(samples.get("maas_active_allocations"), 0.0);
}

#[test]
fn a_lease_is_renewed_from_now_and_set_where_there_was_none() {
    let server = Server::start();
    let path = path_of(&server.post("{\"size_bytes\":1,\"lease_seconds\":2}").json());
    let renew = format!("{path}/renew");
    let renewed = server.post_to(&renew, "{\"lease_seconds\":3600}");
    assert_eq!((renewed.status, &renewed.json()["expires_in_seconds"]), (200, &json!(3600)));
    assert_eq!(server.get(&path).json()["expires_in_seconds"], 3600);
    // It may become shorter, and does not outlive that.
    assert_eq!(server.post_to(&renew, "{\"lease_seconds\":1}").json()["expires_in_seconds"], 1);
    wait_until("the shorter lease is over", || server.get(&path).status == 404);

    let path = path_of(&server.allocate(1));
    assert!(server.get(&path).json().get("expires_in_seconds").is_none());
    let renewed = server.post_to(&format!("{path}/renew"), "{\"lease_seconds\":60}").json();
    assert_eq!(renewed["expires_in_seconds"], 60);
}

#[test]
fn a_renewal_keeps_what_would_have_ended() {
    let server = Server::start();
    let kept = path_of(&server.post("{\"size_bytes\":1,\"lease_seconds\":1}").json());
    let lost = path_of(&server.post("{\"size_bytes\":1,\"lease_seconds\":1}").json());
    assert_eq!(server.post_to(&format!("{kept}/renew"), "{\"lease_seconds\":60}").status, 200);
    wait_until("the other is over", || server.get(&lost).status == 404);
    assert_eq!(server.get(&kept).status, 200);
}

#[test]
fn the_longest_lease_is_as_good_as_none() {
    let server = Server::start();
    let made = server.post("{\"size_bytes\":1,\"lease_seconds\":18446744073709551615}").json();
    let left = made["expires_in_seconds"].as_u64().expect("a number");
    assert!(left > 100 * 365 * 86_400, "{left}");
    assert_eq!(server.get(&path_of(&made)).status, 200);
}

#[test]
fn leases_that_are_wrong_are_refused_with_the_rule() {
    let server = Server::start();
    let path = path_of(&server.allocate(1));
    server.untouched_by(|| {
        for value in
            ["0", "-1", "1.5", "1.0", "\"60\"", "null", "true", "[]", "{}", "18446744073709551616", "1e3"]
        {
            let lease = format!("\"lease_seconds\":{value}");
            for answer in [
                server.post(&format!("{{\"size_bytes\":1,{lease}}}")),
                server.post_to(&format!("{path}/renew"), &format!("{{{lease}}}")),
            ] {
                let detail = answer.is_problem(400, "invalid-field");
                assert!(detail.contains("lease_seconds") && detail.contains("at least 1"), "{detail}");
            }
        }
        let renew = format!("{path}/renew");
        server.post_to(&renew, "{}").is_problem(400, "invalid-field");
        server.post_to(&renew, "").is_problem(400, "invalid-json");
        server.post_to(&renew, "{\"lease_seconds\":1,\"tag\":\"a\"}").is_problem(400, "unknown-field");
        server.post_to(&format!("{renew}?x=1"), "{\"lease_seconds\":1}").is_problem(400, "invalid-query");
        server.call("POST", &renew, &[], "{\"lease_seconds\":1}").is_problem(415, "unsupported-media-type");
        server.post_to("/allocate/7/renew", "{\"lease_seconds\":1}").is_problem(400, "invalid-id");
        let gone = "/allocate/00000000-0000-8000-8000-000000000000/renew";
        server.post_to(gone, "{\"lease_seconds\":1}").is_problem(404, "not-found");
    });
    assert!(server.get(&path).json().get("expires_in_seconds").is_none());
}

#[test]
fn a_read_that_runs_when_the_lease_ends_is_finished() {
    let server = Server::start();
    const SIZE: usize = 4 << 20;
    let made = server.store("?lease_seconds=1", vec![7; SIZE]).json();
    let data = format!("{}/data", path_of(&made));
    let mut reader = server.connect();
    reader.send(format!("GET {data} HTTP/1.1\r\nHost: test\r\n\r\n"));
    reader.begin("GET", &data);
    wait_until("the lease is over", || server.get(&data).status == 404);
    assert!(reader.bytes(SIZE).iter().all(|byte| *byte == 7));
}
