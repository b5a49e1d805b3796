//! Requests about arenas that are wrong: each gets its 4xx with its code, and nothing happens.

use crate::support::{JSON, Server, arena_path, padded};
use serde_json::json;

/// Values that are no whole number from 1 to 2^64 − 1.
const NO_SIZES: [&str; 13] = [
    "0",
    "-0",
    "-1",
    "0.5",
    "1.0",
    "1e3",
    "18446744073709551616",
    "1e300",
    "\"1024\"",
    "null",
    "true",
    "[1]",
    "{}",
];

#[test]
fn an_arena_that_can_never_be_right_is_refused_with_the_rule() {
    let server = Server::start();
    server.untouched_by(|| {
        for (field, code) in [
            ("estimated_size_bytes", "invalid-size"),
            ("limit_bytes", "invalid-field"),
            ("lease_seconds", "invalid-field"),
        ] {
            for value in NO_SIZES {
                let detail =
                    server.post_to("/arenas", &format!("{{\"{field}\":{value}}}")).is_problem(400, code);
                assert!(detail.contains(field) && detail.contains("at least 1"), "{detail}");
            }
        }
        for value in ["\"Tiny\"", "\"\"", "\"gigantic\"", "1", "null", "[]", "{}", "true"] {
            let detail = server
                .post_to("/arenas", &format!("{{\"profile\":{value}}}"))
                .is_problem(400, "invalid-field");
            for name in ["profile", "tiny", "small", "medium", "large", "huge"] {
                assert!(detail.contains(name), "{detail}");
            }
        }
        let both = r#"{"profile":"tiny","estimated_size_bytes":1}"#;
        let detail = server.post_to("/arenas", both).is_problem(400, "invalid-field");
        assert!(detail.contains("profile") && detail.contains("estimated_size_bytes"), "{detail}");
        for (value, code) in [
            ("7", "invalid-field"),
            ("null", "invalid-field"),
            ("[]", "invalid-field"),
            ("\"\"", "invalid-id"),
            ("\"7\"", "invalid-id"),
            ("\"20000000000080008000000000000000\"", "invalid-id"),
            ("\"{20000000-0000-8000-8000-000000000000}\"", "invalid-id"),
        ] {
            let detail = server.post_to("/arenas", &format!("{{\"parent\":{value}}}")).is_problem(400, code);
            assert!(detail.contains("parent"), "{detail}");
        }
        for body in [r#"{"tag":"A"}"#, r#"{"wait_ms":30001}"#, r#"{"priority":"urgent"}"#] {
            server.post_to("/arenas", body).is_problem(400, "invalid-field");
        }
        for body in [r#"{"size_bytes":1}"#, r#"{"profile":"tiny","limit":1}"#] {
            let detail = server.post_to("/arenas", body).is_problem(400, "unknown-field");
            assert!(detail.contains("estimated_size_bytes"), "{detail}");
        }
        server.post_to("/arenas", r#"{"tag":"a","tag":"a"}"#).is_problem(400, "invalid-field");
        for body in ["{", "[]", "null", "{}x", " "] {
            server.post_to("/arenas", body).is_problem(400, "invalid-json");
        }
        let typed = [("Content-Type", "text/plain")];
        let detail = server.call("POST", "/arenas", &typed, "{}").is_problem(415, "unsupported-media-type");
        assert!(detail.contains("Content-Type: application/json"), "{detail}");
        server.call("POST", "/arenas", &[], "{}").is_problem(415, "unsupported-media-type");
        server.post_to("/arenas?tag=a", "{}").is_problem(400, "invalid-query");
        server.post_to("/arenas", &padded((1 << 20) + 1)).is_problem(413, "body-too-large");
        for query in ["limit=0", "limit=1001", "limit=x", "cursor=", "cursor=x", "tag=a"] {
            server.get(&format!("/arenas?{query}")).is_problem(400, "invalid-query");
        }
        server.call("PUT", "/arenas", &[], "").is_problem(405, "method-not-allowed");
    });
    assert_eq!(server.stat("/arenas/created"), 0);
    server.is_empty_and_consistent();
}

#[test]
fn an_estimate_above_the_pool_can_never_be_had_and_one_of_all_of_it_can() {
    let server = Server::with().environment("MAX_POOL_SIZE", "1MiB").start();
    server.untouched_by(|| {
        for estimate in [(1 << 20) + 1, 1 << 40, u64::MAX] {
            let body = json!({ "estimated_size_bytes": estimate }).to_string();
            let detail = server.post_to("/arenas", &body).is_problem(422, "size-too-large");
            assert!(detail.contains(&estimate.to_string()) && detail.contains("1048576"), "{detail}");
        }
    });
    let whole = server.arena(&json!({ "estimated_size_bytes": 1 << 20 }));
    server.post_member(&whole, (1 << 20) + 1).is_problem(422, "size-too-large");
    server.tell_arena(&whole, "rollback");
    server.is_empty_and_consistent();
}

#[test]
fn no_arena_makes_larger_allocations_than_the_service_does() {
    let bounded = Server::with().set("memory.max_allocation_size", "4096").start();
    let tiny = Server::with().environment("MAX_POOL_SIZE", "10240").environment("SLAB_SIZES", "1024").start();
    for (server, most, too_large) in [(&bounded, 4096, [4097, 100_000]), (&tiny, 8192, [8193, 10_241])] {
        let arena = server.arena(&json!({ "profile": "tiny" }));
        server.untouched_by(|| {
            for size in too_large {
                server.post_member(&arena, size).is_problem(422, "size-too-large");
            }
        });
        server.member(&arena, most);
        server.tell_arena(&arena, "rollback");
        server.is_empty_and_consistent();
    }
}

#[test]
fn what_is_wrong_about_a_member_is_said_and_nothing_is_allocated() {
    let server = Server::start();
    let arena = server.arena(&json!({ "profile": "tiny" }));
    let target = format!("{}/allocate", arena_path(&arena));
    server.untouched_by(|| {
        for value in NO_SIZES {
            let body = format!("{{\"size_bytes\":{value}}}");
            server.post_to(&target, &body).is_problem(400, "invalid-size");
        }
        server.post_to(&target, "{}").is_problem(400, "invalid-size");
        for field in ["\"tag\":\"a\"", "\"lease_seconds\":1", "\"count\":2"] {
            let body = format!("{{\"size_bytes\":1,{field}}}");
            let detail = server.post_to(&target, &body).is_problem(400, "unknown-field");
            assert!(detail.contains("lease and tag are the arena's"), "{detail}");
        }
        for field in ["\"wait_ms\":30001", "\"wait_ms\":-1", "\"priority\":\"urgent\""] {
            let body = format!("{{\"size_bytes\":1,{field}}}");
            server.post_to(&target, &body).is_problem(400, "invalid-field");
        }
        server.post_to(&target, "").is_problem(400, "invalid-json");
        server.call("POST", &target, &[], "").is_problem(415, "unsupported-media-type");
        server.call("POST", &target, &[], "{\"size_bytes\":1}").is_problem(415, "unsupported-media-type");
        server.post_to(&format!("{target}?x=1"), "{\"size_bytes\":1}").is_problem(400, "invalid-query");
        server.post_to(&target, "{\"size_bytes\":18446744073709551615}").is_problem(422, "size-too-large");
    });
    assert_eq!(
        (server.arena_now(&arena)["used_bytes"].clone(), server.stat("/arenas/allocations")),
        (json!(0), json!(0))
    );
}

#[test]
fn what_is_wrong_about_an_end_leaves_the_arena_open() {
    let server = Server::start();
    let arena = server.arena(&json!({ "profile": "tiny" }));
    let member = server.member(&arena, 10);
    server.untouched_by(|| {
        for verb in ["commit", "rollback", "reset"] {
            let target = format!("{}/{verb}", arena_path(&arena));
            server.post_to(&target, "{\"force\":true}").is_problem(400, "unknown-field");
            for body in ["{", "[]", "true"] {
                server.post_to(&target, body).is_problem(400, "invalid-json");
            }
            server.call("POST", &target, &[], "{}").is_problem(415, "unsupported-media-type");
            server.call("POST", &target, &[JSON], padded((1 << 20) + 1)).is_problem(413, "body-too-large");
            server.call("POST", &format!("{target}?keep=true"), &[], "").is_problem(400, "invalid-query");
            server.call("GET", &target, &[], "").is_problem(405, "method-not-allowed");
            for id in ["7", "20000000000080008000000000000000"] {
                server.call("POST", &format!("/arenas/{id}/{verb}"), &[], "").is_problem(400, "invalid-id");
            }
        }
        for verb in ["rollback", "reset"] {
            let target = format!("{}/{verb}", arena_path(&arena));
            server.post_to(&target, "{\"keep\":true}").is_problem(400, "unknown-field");
        }
        let commit = format!("{}/commit", arena_path(&arena));
        server.post_to(&commit, "{\"keep\":true,\"keep\":true}").is_problem(400, "invalid-field");
        let renew = format!("{}/renew", arena_path(&arena));
        for value in NO_SIZES {
            let body = format!("{{\"lease_seconds\":{value}}}");
            server.post_to(&renew, &body).is_problem(400, "invalid-field");
        }
        server.post_to(&renew, "{}").is_problem(400, "invalid-field");
        server.call("POST", &renew, &[], "").is_problem(415, "unsupported-media-type");
        server.get("/arenas/7").is_problem(400, "invalid-id");
    });
    assert_eq!(server.arena_now(&arena)["state"], "open");
    assert_eq!(server.get(&crate::support::path_of(&member)).status, 200);
}
