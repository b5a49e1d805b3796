//! Arenas: allocations that are made one by one and end together, word for word.

use crate::support::{JSON, OCTETS, Server, arena_path, path_of, request, wait_until};
use serde_json::{Value, json};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// An id that no arena has.
const NOBODY: &str = "20000000-0000-8000-8000-000000000000";

fn ids(list: &Value) -> Vec<Value> {
    list.as_array().expect("a list").iter().map(|one| one["id"].clone()).collect()
}

#[test]
fn an_arena_is_made_filled_and_committed_word_for_word() {
    let server = Server::start();
    let answer = server.post_to("/arenas", r#"{"profile":"small"}"#);
    assert_eq!((answer.status, answer.header("content-type")), (201, Some("application/json")));
    let arena = answer.json();
    let mut expected = json!({
        "id": arena["id"], "profile": "small", "limit_bytes": 512 * KIB, "used_bytes": 0, "allocations": 0,
        "parent": null, "state": "open", "age_seconds": 0
    });
    assert_eq!(arena, expected);
    assert_eq!(answer.header("location"), Some(arena_path(&arena).as_str()));
    let id = arena["id"].as_str().expect("text");
    let groups: Vec<usize> = id.split('-').map(str::len).collect();
    assert_eq!((groups.as_slice(), &id[14..15]), (&[8, 4, 4, 4, 12][..], "8"), "a version-8 UUID");
    assert_eq!(server.stat("/memory/in_use_bytes"), 32 * KIB, "the first chunk is there at once");

    let answer = server.post_member(&arena, 100);
    assert_eq!((answer.status, answer.header("content-type")), (201, Some("application/json")));
    let made = answer.json();
    #[expect(clippy::cast_precision_loss, reason = "112 is exact")]
    let size_mb = 112_f64 / MIB as f64;
    let member = json!({
        "id": made["id"], "size_bytes": 100, "actual_size_bytes": 112, "size_mb": size_mb, "age_seconds": 0,
        "arena": arena["id"]
    });
    assert_eq!((&made, answer.header("location")), (&member, Some(path_of(&made).as_str())));
    assert_eq!(server.get(&path_of(&made)).json(), member);
    expected["used_bytes"] = json!(112);
    expected["allocations"] = json!(1);
    assert_eq!(server.arena_now(&arena), expected);

    let committed = server.tell_arena(&arena, "commit");
    let freed = json!({ "freed_bytes": 112, "freed_allocations": 1, "state": "committed" });
    assert_eq!((committed.status, committed.json()), (200, freed));
    server.get(&path_of(&made)).is_problem(404, "not-found");
    assert_eq!(server.arena_now(&arena)["state"], "committed", "it is remembered");
    server.is_empty_and_consistent();
}

#[test]
fn a_rollback_ends_everything_and_a_second_end_says_how_it_ended() {
    let server = Server::start();
    let arena = server.arena(&json!({ "profile": "medium" }));
    let small: Vec<Value> = (1..=50).map(|size| server.member(&arena, size * 10)).collect();
    let large = server.member(&arena, 100_000);
    assert_eq!(large["actual_size_bytes"], 102_400, "whole pages");
    let used = server.arena_now(&arena)["used_bytes"].clone();
    let rolled_back = server.tell_arena(&arena, "rollback").json();
    let expected = json!({ "freed_bytes": used, "freed_allocations": 51, "state": "rolled_back" });
    assert_eq!(rolled_back, expected);
    for gone in small.iter().chain([&large]) {
        server.get(&path_of(gone)).is_problem(404, "not-found");
        server.delete(&path_of(gone)).is_problem(404, "not-found");
    }
    server.untouched_by(|| {
        for verb in ["commit", "rollback", "reset"] {
            let detail = server.tell_arena(&arena, verb).is_problem(409, "arena-ended");
            assert!(detail.contains("rolled_back"), "{detail}");
        }
        server.commit_keeping(&arena, &json!([small[0]["id"]])).is_problem(409, "arena-ended");
        server.post_member(&arena, 1).is_problem(409, "arena-ended");
        let renewed = server.post_to(&format!("{}/renew", arena_path(&arena)), r#"{"lease_seconds":1}"#);
        renewed.is_problem(409, "arena-ended");
        let child = server.post_to("/arenas", &json!({ "parent": arena["id"] }).to_string());
        child.is_problem(409, "arena-ended");
    });
    server.is_empty_and_consistent();
}

#[test]
fn a_reset_frees_all_and_leaves_the_arena_open() {
    let server = Server::start();
    let arena = server.arena(&json!({ "estimated_size_bytes": 1000, "limit_bytes": 4096 }));
    let first = server.member(&arena, 4096);
    let child = server.post_to("/arenas", &json!({ "parent": arena["id"], "profile": "tiny" }).to_string());
    let child = child.json();
    server.post_member(&arena, 1).is_problem(507, "arena-exhausted");
    let freed = server.tell_arena(&arena, "reset");
    let expected = json!({ "freed_bytes": 4096, "freed_allocations": 1, "state": "open" });
    assert_eq!((freed.status, freed.json()), (200, expected));
    server.get(&path_of(&first)).is_problem(404, "not-found");
    assert_eq!(server.arena_now(&child)["state"], "rolled_back");
    let after = server.arena_now(&arena);
    assert_eq!(
        (&after["state"], &after["used_bytes"], &after["allocations"]),
        (&json!("open"), &json!(0), &json!(0))
    );
    // What was there can be had again, and nothing of it is seen.
    let again = server.member(&arena, 4096);
    assert_eq!(server.get(&format!("{}/data", path_of(&again))).body, vec![0; 4096]);
    assert_eq!(server.stat("/arenas/resets"), 1);
    assert_eq!(server.tell_arena(&arena, "rollback").status, 200);
    server.is_empty_and_consistent();
}

#[test]
fn profiles_and_estimates_have_the_limits_of_the_contract() {
    let server = Server::with().environment("MAX_POOL_SIZE", "2GiB").start();
    let profiles = [
        ("tiny", 4 * KIB, 64 * KIB),
        ("small", 32 * KIB, 512 * KIB),
        ("medium", 256 * KIB, 4 * MIB),
        ("large", 2 * MIB, 32 * MIB),
        ("huge", 16 * MIB, 256 * MIB),
    ];
    for (profile, initial_bytes, limit_bytes) in profiles {
        let arena = server.arena(&json!({ "profile": profile }));
        assert_eq!((&arena["profile"], &arena["limit_bytes"]), (&json!(profile), &json!(limit_bytes)));
        assert_eq!(server.stat("/memory/in_use_bytes"), initial_bytes, "{profile}");
        assert_eq!(server.tell_arena(&arena, "rollback").status, 200);
    }
    for (estimate, profile) in [
        (1, "tiny"),
        (10 * KIB, "tiny"),
        (10 * KIB + 1, "small"),
        (100 * KIB, "small"),
        (100 * KIB + 1, "medium"),
        (MIB, "medium"),
        (MIB + 1, "large"),
        (10 * MIB, "large"),
        (10 * MIB + 1, "huge"),
        (256 * MIB, "huge"),
        (300 * MIB, "huge"),
    ] {
        let arena = server.arena(&json!({ "estimated_size_bytes": estimate }));
        let limit = profiles.iter().find(|(name, ..)| *name == profile).expect("one of the five").2;
        let expected = (json!(profile), json!(limit.max(estimate)));
        assert_eq!((arena["profile"].clone(), arena["limit_bytes"].clone()), expected, "{estimate}");
        assert_eq!(server.tell_arena(&arena, "commit").status, 200);
    }
    let arena = server.arena(&json!({ "profile": "tiny", "limit_bytes": 100_000 }));
    assert_eq!((&arena["profile"], &arena["limit_bytes"]), (&json!("tiny"), &json!(100_000)));
    server.tell_arena(&arena, "commit");
    server.is_empty_and_consistent();
}

#[test]
fn no_body_at_all_makes_an_arena_and_ends_one() {
    let server = Server::start();
    let made = server.call("POST", "/arenas", &[], "");
    assert_eq!((made.status, &made.json()["profile"]), (201, &json!("small")), "{}", made.text());
    for (headers, body) in [(&[][..], ""), (&[JSON][..], ""), (&[JSON][..], "{}"), (&[JSON][..], " { } ")] {
        let arena = server.call("POST", "/arenas", headers, body).json();
        assert_eq!(server.call("POST", &format!("{}/reset", arena_path(&arena)), headers, body).status, 200);
        assert_eq!(server.call("POST", &format!("{}/commit", arena_path(&arena)), headers, body).status, 200);
        let arena = server.call("POST", "/arenas", headers, body).json();
        assert_eq!(
            server.call("POST", &format!("{}/rollback", arena_path(&arena)), headers, body).status,
            200
        );
    }
    assert_eq!(server.stat("/arenas/active"), 1);
    // What `curl -d ''` sends, and a body whose length nobody announced.
    let form = [("Content-Type", "application/x-www-form-urlencoded"), ("Content-Length", "0")];
    let arena = server.call("POST", "/arenas", &form, "");
    assert_eq!(arena.status, 201, "{}", arena.text());
    let commit = format!("{}/commit", arena_path(&arena.json()));
    let chunked = ("Transfer-Encoding", "chunked");
    let send = |headers: &[(&str, &str)]| {
        let mut client = server.connect();
        client.send(request("POST", &commit, headers, ""));
        client.send("0\r\n\r\n");
        client.answer("POST", &commit)
    };
    send(&[chunked]).is_problem(415, "unsupported-media-type");
    assert_eq!(send(&[JSON, chunked]).status, 200);
    assert_eq!(server.tell_arena(&made.json(), "rollback").status, 200);
    server.is_empty_and_consistent();
}

#[test]
fn members_are_read_written_patched_and_conditioned_as_any_allocation() {
    let server = Server::start();
    let arena = server.arena(&json!({ "profile": "medium" }));
    // One that shares a chunk, one of its own pages.
    for size in [1000_u64, 100_000] {
        let neighbours = [server.member(&arena, 10), server.member(&arena, 10)];
        let made = server.member(&arena, size);
        let after = server.member(&arena, 10);
        let data = format!("{}/data", path_of(&made));
        let length = usize::try_from(size).expect("small");
        let fresh = server.get(&data);
        assert_eq!((fresh.header("etag"), fresh.body == vec![0; length]), (Some("\"0\""), true));
        let content: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).expect("small")).collect();
        let put = server.call("PUT", &data, &[], &content);
        assert_eq!((put.status, put.header("etag")), (204, Some("\"1\"")));
        assert!(server.get(&data).body == content);
        let part = server.call("GET", &data, &[("Range", "bytes=10-19")], "");
        let expected = format!("bytes 10-19/{size}");
        assert_eq!((part.status, part.header("content-range")), (206, Some(expected.as_str())));
        assert_eq!(part.body, content[10..20]);
        let patched = server.call("PATCH", &format!("{data}?offset=5"), &[OCTETS], "hello");
        assert_eq!((patched.status, patched.header("etag")), (204, Some("\"2\"")));
        let tail = server.call("GET", &data, &[("Range", "bytes=0-11")], "");
        assert_eq!(tail.body, [&content[..5], b"hello", &content[10..12]].concat());
        let stale = server.call("PUT", &data, &[("If-Match", "\"1\"")], "late");
        stale.is_problem(412, "precondition-failed");
        assert_eq!(server.call("GET", &data, &[("If-None-Match", "\"2\"")], "").status, 304);
        let beyond = format!("{data}?offset={size}");
        server.call("PATCH", &beyond, &[OCTETS], "x").is_problem(413, "past-end");
        server.call("PUT", &data, &[], vec![1; length + 1]).is_problem(413, "body-too-large");
        let short = server.call("PUT", &data, &[("If-Match", "\"2\"")], "short");
        assert_eq!((short.status, short.header("etag")), (204, None), "zeros were added");
        let padded = server.get(&data);
        assert_eq!((padded.header("etag"), &padded.body[..6]), (Some("\"3\""), &b"short\0"[..]));
        assert!(padded.body[5..].iter().all(|byte| *byte == 0));
        for beside in neighbours.iter().chain([&after]) {
            let untouched = server.get(&format!("{}/data", path_of(beside)));
            assert_eq!(untouched.body, [0; 10], "a write keeps to its own bytes");
        }
    }
    server.tell_arena(&arena, "rollback");
    server.is_empty_and_consistent();
}

#[test]
fn a_member_that_is_freed_is_gone_and_its_bytes_stay_used_until_the_end() {
    let server = Server::start();
    let arena = server.arena(&json!({ "profile": "medium" }));
    let made: Vec<Value> = [100, 50_000, 100].map(|size| server.member(&arena, size)).into();
    let used = server.arena_now(&arena)["used_bytes"].clone();
    for gone in &made[..2] {
        assert_eq!(server.delete(&path_of(gone)).status, 204);
        server.delete(&path_of(gone)).is_problem(404, "not-found");
        server.get(&format!("{}/data", path_of(gone))).is_problem(404, "not-found");
    }
    let batch = json!({ "ids": [made[0]["id"], made[2]["id"]] }).to_string();
    let freed = server.post_to("/deallocate/batch", &batch).json();
    assert_eq!(freed, json!({ "freed": 1, "not_found": [made[0]["id"]] }));
    let after = server.arena_now(&arena);
    assert_eq!((&after["used_bytes"], &after["allocations"]), (&used, &json!(0)));
    assert_eq!(server.stat("/memory/active_allocations"), 0);
    let committed = server.tell_arena(&arena, "commit").json();
    assert_eq!((&committed["freed_bytes"], &committed["freed_allocations"]), (&used, &json!(0)));
    server.is_empty_and_consistent();
}

#[test]
fn members_are_listed_beside_others_in_the_order_in_which_they_were_made() {
    let server = Server::start();
    let arena = server.arena(&json!({ "tag": "txn", "profile": "medium" }));
    let mut made = Vec::new();
    for round in 0..5 {
        made.push(server.allocate(10 + round));
        made.push(server.member(&arena, 10 + round));
        made.push(server.member(&arena, 20_000 + round));
    }
    let all = server.get("/allocate").json();
    assert_eq!(ids(&all["allocations"]), ids(&Value::Array(made.clone())));
    let (mut paged, mut target) = (Vec::new(), "/allocate?limit=4".to_owned());
    loop {
        let page = server.get(&target).json();
        paged.extend(ids(&page["allocations"]));
        match page["next_cursor"].as_str() {
            Some(cursor) => target = format!("/allocate?limit=4&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(paged, ids(&Value::Array(made.clone())));
    let tagged = server.get("/allocate?tag=txn").json();
    let of_arena: Vec<Value> = made.iter().filter(|one| one.get("arena").is_some()).cloned().collect();
    assert_eq!(of_arena.len(), 10);
    assert_eq!(ids(&tagged["allocations"]), ids(&Value::Array(of_arena)));
    for listed in tagged["allocations"].as_array().expect("a list") {
        assert_eq!((&listed["arena"], &listed["tag"]), (&arena["id"], &json!("txn")));
    }
    server.tell_arena(&arena, "rollback");
    let rest = server.get("/allocate").json();
    assert_eq!(rest["allocations"].as_array().map(Vec::len), Some(5));
}

#[test]
fn open_arenas_are_listed_in_the_order_in_which_they_were_made() {
    let server = Server::start();
    assert_eq!(server.get("/arenas").json(), json!({ "arenas": [], "next_cursor": null }));
    let mut made: Vec<Value> = (0..7).map(|_| server.arena(&json!({ "profile": "tiny" }))).collect();
    made.push(server.arena_within(&made[2]));
    server.tell_arena(&made[4], "commit");
    made.remove(4);
    let whole = server.get("/arenas").json();
    assert_eq!(
        (ids(&whole["arenas"]), &whole["next_cursor"]),
        (ids(&Value::Array(made.clone())), &Value::Null)
    );
    assert_eq!(whole["arenas"][6]["parent"], made[2]["id"]);
    let (mut paged, mut target) = (Vec::new(), "/arenas?limit=3".to_owned());
    loop {
        let page = server.get(&target).json();
        let here = ids(&page["arenas"]);
        assert!(here.len() <= 3, "{page}");
        paged.extend(here);
        match page["next_cursor"].as_str() {
            Some(cursor) => target = format!("/arenas?cursor={cursor}&limit=3"),
            None => break,
        }
    }
    assert_eq!(paged, ids(&Value::Array(made.clone())));
    for arena in [0, 1, 2, 3, 4, 5].map(|at: usize| &made[at]) {
        assert_eq!(server.tell_arena(arena, "rollback").status, 200);
    }
    assert_eq!(server.get("/arenas").json()["arenas"], json!([]), "the child ended with its parent");
    server.is_empty_and_consistent();
}

#[test]
fn a_limit_is_exact_and_a_refusal_explains_itself() {
    let server = Server::start();
    let arena = server.arena(&json!({ "profile": "tiny", "limit_bytes": 1000 }));
    server.member(&arena, 900);
    server.untouched_by(|| {
        let refused = server.post_member(&arena, 100);
        let detail = refused.is_problem(507, "arena-exhausted");
        let id = arena["id"].as_str().expect("text");
        assert!(detail.contains(id) && detail.contains("912") && detail.contains("1000"), "{detail}");
        let refused = refused.json();
        let numbers =
            ["requested_bytes", "in_use_bytes", "free_bytes", "limit_bytes", "largest_available_bytes"];
        assert_eq!(numbers.map(|name| refused[name].clone()), [100, 912, 88, 1000, 80].map(Value::from));
        assert_eq!(
            (&refused["refused_by"], &refused["retry_after_seconds"]),
            (&json!("arena"), &Value::Null)
        );
    });
    assert_eq!(server.samples().get("maas_refused_total{reason=\"arena-exhausted\"}"), 1.0);
    server.member(&arena, 80);
    server.post_member(&arena, 1).is_problem(507, "arena-exhausted");
    assert_eq!(server.arena_now(&arena)["used_bytes"], 992);
}

#[test]
fn arenas_stand_within_each_other_and_count_against_those_around_them() {
    let server = Server::start();
    let outer =
        server.arena(&json!({ "limit_bytes": 8192, "profile": "tiny", "tag": "txn", "lease_seconds": 60 }));
    let inner = server.arena(&json!({ "parent": outer["id"], "profile": "tiny" }));
    assert_eq!((&inner["parent"], &inner["tag"]), (&outer["id"], &json!("txn")));
    let mine = server.member(&outer, 4000);
    let theirs = server.member(&inner, 4000);
    assert_eq!((&theirs["arena"], &theirs["tag"]), (&inner["id"], &json!("txn")));
    assert_eq!(server.arena_now(&outer)["used_bytes"], 8000);
    assert_eq!(server.arena_now(&inner)["used_bytes"], 4000);
    let detail = server.post_member(&inner, 1000).is_problem(507, "arena-exhausted");
    assert!(detail.contains(outer["id"].as_str().expect("text")), "whose limit it is: {detail}");
    // What a child gives back, its parent can have again.
    let freed = server.tell_arena(&inner, "commit").json();
    assert_eq!(freed, json!({ "freed_bytes": 4000, "freed_allocations": 1, "state": "committed" }));
    assert_eq!(server.arena_now(&outer)["used_bytes"], 4000);
    server.get(&path_of(&theirs)).is_problem(404, "not-found");
    assert_eq!(server.get(&path_of(&mine)).status, 200);
    // And what is within ends with what is around.
    let within = server.arena_within(&outer);
    let deepest = server.arena_within(&within);
    let lost = server.member(&deepest, 100);
    let freed = server.tell_arena(&outer, "commit").json();
    assert_eq!(freed, json!({ "freed_bytes": 4112, "freed_allocations": 2, "state": "committed" }));
    server.get(&path_of(&lost)).is_problem(404, "not-found");
    for ended in [&within, &deepest] {
        assert_eq!(server.arena_now(ended)["state"], "rolled_back");
        server.post_member(ended, 1).is_problem(409, "arena-ended");
    }
    server.is_empty_and_consistent();
}

#[test]
fn arenas_stand_sixteen_deep_and_no_deeper() {
    let server = Server::start();
    let mut chain = vec![server.arena(&json!({ "profile": "tiny" }))];
    let refused = loop {
        let body = json!({ "parent": chain.last().expect("one")["id"], "profile": "tiny" }).to_string();
        let answer = server.post_to("/arenas", &body);
        if answer.status != 201 {
            break answer;
        }
        chain.push(answer.json());
        assert!(chain.len() < 100, "there is a bound");
    };
    let detail = refused.is_problem(400, "invalid-field");
    assert!(detail.contains("16"), "{detail}");
    assert_eq!(chain.len(), 16);
    let deepest = chain.last().expect("one");
    server.member(deepest, 10);
    assert_eq!(server.arena_now(&chain[0])["used_bytes"], 16);
    let freed = server.tell_arena(&chain[0], "rollback").json();
    assert_eq!((&freed["freed_bytes"], &freed["freed_allocations"]), (&json!(16), &json!(1)));
    server.is_empty_and_consistent();
}

#[test]
fn what_a_commit_keeps_lives_on_without_arena_and_lease() {
    let server = Server::start();
    for keep_all in [false, true] {
        let arena = server.arena(&json!({ "lease_seconds": 60, "tag": "txn", "profile": "medium" }));
        let made: Vec<Value> = [100, 30_000, 200, 40_000].map(|size| server.member(&arena, size)).into();
        for (number, one) in made.iter().enumerate() {
            let data = format!("{}/data", path_of(one));
            assert_eq!(server.call("PUT", &data, &[], format!("content {number}")).status, 204);
        }
        let kept: Vec<usize> = if keep_all { vec![0, 1, 2, 3] } else { vec![1, 2] };
        let keep = match keep_all {
            true => json!(true),
            false => kept.iter().map(|at| made[*at]["id"].clone()).collect(),
        };
        let committed = server.commit_keeping(&arena, &keep);
        assert_eq!(committed.status, 200, "{}", committed.text());
        assert_eq!(committed.json()["freed_allocations"], 4 - kept.len());
        let sizes: u64 = made
            .iter()
            .enumerate()
            .filter(|(at, _)| !kept.contains(at))
            .map(|(_, one)| one["actual_size_bytes"].as_u64().expect("a number"))
            .sum();
        assert_eq!(committed.json()["freed_bytes"], sizes);
        for (at, one) in made.iter().enumerate() {
            let found = server.get(&path_of(one));
            if !kept.contains(&at) {
                found.is_problem(404, "not-found");
                continue;
            }
            let found = found.json();
            assert_eq!((&found["size_bytes"], &found["tag"]), (&one["size_bytes"], &json!("txn")));
            assert!(found.get("arena").is_none() && found.get("expires_in_seconds").is_none(), "{found}");
            let data = format!("{}/data", path_of(one));
            let content = server.get(&data).body;
            assert_eq!(&content[..9], format!("content {at}").as_bytes());
            assert_eq!(server.call("PATCH", &format!("{data}?offset=0"), &[OCTETS], "still").status, 204);
            // One with pages of its own can be given a lease; one that shares a chunk lives until it is freed.
            let renewed = server.post_to(&format!("{}/renew", path_of(one)), r#"{"lease_seconds":60}"#);
            if at % 2 == 0 {
                renewed.is_problem(400, "invalid-field");
            } else {
                assert_eq!((renewed.status, &renewed.json()["expires_in_seconds"]), (200, &json!(60)));
            }
        }
        assert_eq!(server.stat("/memory/active_allocations"), kept.len());
        for at in kept {
            assert!(server.stat("/memory/in_use_bytes").as_u64() > Some(0));
            assert_eq!(server.delete(&path_of(&made[at])).status, 204);
        }
        server.is_empty_and_consistent();
    }
}

#[test]
fn keep_takes_members_of_an_arena_without_parent_and_nothing_else() {
    let server = Server::start();
    let arena = server.arena(&json!({ "profile": "tiny" }));
    let other = server.arena(&json!({ "profile": "tiny" }));
    let child = server.arena_within(&arena);
    let (mine, theirs, inner) =
        (server.member(&arena, 1), server.member(&other, 1), server.member(&child, 1));
    let freed = server.member(&arena, 1);
    assert_eq!(server.delete(&path_of(&freed)).status, 204);
    let plain = server.allocate(1);
    server.untouched_by(|| {
        let foreign = [&theirs, &inner, &freed, &plain].map(|one| one["id"].clone());
        for id in foreign.into_iter().chain([json!("00000000-0000-8000-8000-000000000000")]) {
            let detail =
                server.commit_keeping(&arena, &json!([mine["id"], id])).is_problem(400, "invalid-field");
            assert!(detail.contains(id.as_str().expect("text")), "{detail}");
        }
        for keep in [json!(true), json!([inner["id"]])] {
            server.commit_keeping(&child, &keep).is_problem(400, "invalid-field");
        }
        server.commit_keeping(&arena, &json!(["7"])).is_problem(400, "invalid-id");
        server.commit_keeping(&arena, &json!([mine["id"], 7])).is_problem(400, "invalid-id");
        for keep in [json!(null), json!(1), json!("all"), json!({})] {
            server.commit_keeping(&arena, &keep).is_problem(400, "invalid-field");
        }
    });
    assert_eq!(server.arena_now(&arena)["state"], "open", "nothing was lost");
    assert_eq!(server.commit_keeping(&child, &json!(false)).status, 200);
    assert_eq!(server.commit_keeping(&other, &json!([])).status, 200);
    // One that is named twice is kept once.
    assert_eq!(server.commit_keeping(&arena, &json!([mine["id"], mine["id"]])).status, 200);
    for left in [&mine, &plain] {
        assert_eq!(server.delete(&path_of(left)).status, 204);
    }
    server.is_empty_and_consistent();
}

#[test]
fn a_chunk_with_a_kept_member_counts_whole_until_that_is_freed() {
    let server = Server::start();
    let arena = server.arena(&json!({ "profile": "small" }));
    let made: Vec<Value> = (0..10).map(|_| server.member(&arena, 1000)).collect();
    assert_eq!(server.stat("/memory/in_use_bytes"), 32 * KIB);
    let keep = json!([made[3]["id"], made[7]["id"]]);
    assert_eq!(server.commit_keeping(&arena, &keep).status, 200);
    for (at, in_use) in [(3, 32 * KIB), (7, 0)] {
        assert_eq!(server.stat("/memory/in_use_bytes"), 32 * KIB, "before {at} is freed");
        assert_eq!(server.delete(&path_of(&made[at])).status, 204);
        assert_eq!(server.stat("/memory/in_use_bytes"), in_use);
    }
    server.is_empty_and_consistent();
}

#[test]
fn a_lease_ends_an_arena_whose_client_is_gone() {
    let server = Server::start();
    let arena = server.arena(&json!({ "profile": "small", "lease_seconds": 1 }));
    assert_eq!(arena["expires_in_seconds"], 1, "rounded up");
    let child = server.arena_within(&arena);
    let made = [server.member(&arena, 100), server.member(&arena, 50_000), server.member(&child, 100)];
    assert_eq!(made[0]["expires_in_seconds"], 1);
    // Its client is gone: nobody ends it, and nobody asks for it before it is over.
    wait_until("the memory is back", || server.stat("/memory/in_use_bytes") == 0);
    for gone in &made {
        server.get(&path_of(gone)).is_problem(404, "not-found");
    }
    for (ended, state) in [(&arena, "expired"), (&child, "rolled_back")] {
        assert_eq!(server.arena_now(ended)["state"], state);
        for verb in ["commit", "rollback", "reset"] {
            let detail = server.tell_arena(ended, verb).is_problem(409, "arena-ended");
            assert!(detail.contains(state), "{detail}");
        }
    }
    assert_eq!(server.get("/arenas").json()["arenas"], json!([]));
    assert_eq!(server.stat("/arenas/expirations"), 1);
    server.is_empty_and_consistent();
}

#[test]
fn a_lease_is_renewed_for_the_arena_and_all_of_its_members() {
    let server = Server::start();
    let arena = server.arena(&json!({ "profile": "medium", "lease_seconds": 2 }));
    let made = [server.member(&arena, 100), server.member(&arena, 50_000)];
    server.untouched_by(|| {
        for one in &made {
            let renewed = server.post_to(&format!("{}/renew", path_of(one)), r#"{"lease_seconds":60}"#);
            let detail = renewed.is_problem(400, "invalid-field");
            assert!(detail.contains(&format!("POST {}/renew", arena_path(&arena))), "{detail}");
        }
    });
    let renew = format!("{}/renew", arena_path(&arena));
    let renewed = server.post_to(&renew, r#"{"lease_seconds":3600}"#);
    assert_eq!((renewed.status, &renewed.json()["expires_in_seconds"]), (200, &json!(3600)));
    for one in &made {
        assert_eq!(server.get(&path_of(one)).json()["expires_in_seconds"], 3600);
    }
    assert_eq!(server.post_to(&renew, r#"{"lease_seconds":1}"#).json()["expires_in_seconds"], 1);
    wait_until("the shorter lease is over", || server.get(&path_of(&made[0])).status == 404);
    server.get(&path_of(&made[1])).is_problem(404, "not-found");
    let unleased = server.arena(&json!({ "profile": "tiny" }));
    assert!(unleased.get("expires_in_seconds").is_none());
    let renewed = server.post_to(&format!("{}/renew", arena_path(&unleased)), r#"{"lease_seconds":60}"#);
    assert_eq!(renewed.json()["expires_in_seconds"], 60);
    server.tell_arena(&unleased, "rollback");
    server.is_empty_and_consistent();
}

#[test]
fn chunks_count_in_the_tags_budget_and_a_full_budget_takes_no_more() {
    let server = Server::with().set("budgets.txn", "32KiB").start();
    let arena = server.arena(&json!({ "profile": "small", "tag": "txn" }));
    assert_eq!(server.stat("/tags/0/allocated_bytes"), 32 * KIB, "the chunk, whole");
    server.untouched_by(|| {
        let refused = server.post_to("/arenas", &json!({ "profile": "tiny", "tag": "txn" }).to_string());
        let detail = refused.is_problem(507, "budget-exhausted");
        assert!(detail.contains("txn") && detail.contains("an arena was asked for"), "{detail}");
        assert_eq!(refused.json()["requested_bytes"], 4 * KIB, "the least that it begins with");
        server.post_member(&arena, 50_000).is_problem(507, "budget-exhausted");
        server.post(r#"{"size_bytes":1,"tag":"txn"}"#).is_problem(507, "budget-exhausted");
    });
    // There is room for two members in the chunk, and for no third.
    for _ in 0..2 {
        server.member(&arena, 16_384);
    }
    server.post_member(&arena, 1).is_problem(507, "budget-exhausted");
    assert_eq!(server.stat("/tags/0/allocations"), 2);
    server.tell_arena(&arena, "commit");
    assert_eq!(server.stat("/tags/0/allocated_bytes"), 0);
    server.is_empty_and_consistent();
}

#[test]
fn an_arena_that_finds_no_room_is_refused_or_waits_for_it() {
    let server = Server::with().environment("MAX_POOL_SIZE", "1MiB").start();
    let [filling, more] = [512 * KIB, 512 * KIB].map(|size| server.allocate(size));
    let body = |wait_ms: u64| json!({ "profile": "large", "wait_ms": wait_ms }).to_string();
    server.untouched_by(|| {
        let refused = server.post_to("/arenas", &body(0));
        let detail = refused.is_problem(507, "pool-exhausted");
        assert!(detail.contains("an arena was asked for"), "{detail}");
        let refused = refused.json();
        assert_eq!((&refused["requested_bytes"], &refused["refused_by"]), (&json!(4 * KIB), &json!("pool")));
        server.post_to("/arenas", &body(50)).is_problem(503, "wait-timeout");
    });
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| server.post_to("/arenas", &body(30_000)));
        wait_until("it waits", || server.stat("/waiting_requests") == 1);
        assert_eq!(server.delete(&path_of(&more)).status, 204);
        let arena = waiting.join().expect("no panic");
        assert_eq!(arena.status, 201, "{}", arena.text());
        let arena = arena.json();
        let target = format!("{}/allocate", arena_path(&arena));
        let asking = |wait_ms: u64| {
            let body = json!({ "size_bytes": 521_000, "wait_ms": wait_ms }).to_string();
            let (server, target) = (&server, target.clone());
            move || server.post_to(&target, &body)
        };
        let refused = asking(0)();
        refused.is_problem(507, "pool-exhausted");
        // Whole pages, where a block of its own would have to be of a class.
        assert_eq!(refused.json()["largest_available_bytes"], 508 * KIB);
        asking(50)().is_problem(503, "wait-timeout");
        let waiting = scope.spawn(asking(30_000));
        wait_until("it waits", || server.stat("/waiting_requests") == 1);
        assert_eq!(server.delete(&path_of(&filling)).status, 204);
        let made = waiting.join().expect("no panic");
        assert_eq!(made.status, 201, "{}", made.text());
        // One that waits in an arena which ends is told so.
        let waiting = scope.spawn(asking(30_000));
        wait_until("it waits", || server.stat("/waiting_requests") == 1);
        assert_eq!(server.tell_arena(&arena, "rollback").status, 200);
        waiting.join().expect("no panic").is_problem(409, "arena-ended");
    });
    server.is_empty_and_consistent();
}

#[test]
fn statistics_and_metrics_count_what_became_of_arenas() {
    let server = Server::start();
    let nothing = server.stat("/arenas");
    let profiles: Vec<Value> = ["tiny", "small", "medium", "large", "huge"]
        .map(|profile| json!({ "profile": profile, "created": 0 }))
        .into();
    assert_eq!(
        nothing,
        json!({
            "active": 0, "created": 0, "commits": 0, "rollbacks": 0, "expirations": 0, "resets": 0,
            "allocations": 0, "used_bytes": 0, "chunk_bytes": 0, "profiles": profiles, "learned": [],
            "fragmentation_avoided_bytes": 0
        })
    );
    let [open, committed, rolled_back] =
        [0, 1, 2].map(|_| server.arena(&json!({ "profile": "tiny", "tag": "txn" })));
    for _ in 0..10 {
        server.member(&open, 100);
        server.member(&committed, 100);
    }
    server.arena_within(&rolled_back);
    server.tell_arena(&committed, "commit");
    server.tell_arena(&rolled_back, "rollback");
    let stats = server.stat("/arenas");
    let numbers = ["active", "created", "commits", "rollbacks", "expirations", "resets", "allocations"];
    assert_eq!(numbers.map(|name| stats[name].clone()), [1, 4, 1, 2, 0, 0, 10].map(Value::from));
    assert_eq!((&stats["used_bytes"], &stats["chunk_bytes"]), (&json!(1120), &json!(4096)));
    assert_eq!(stats["fragmentation_avoided_bytes"], 20 * (1024 - 112));
    assert_eq!(stats["profiles"][0], json!({ "profile": "tiny", "created": 4 }));
    let learned = stats["learned"].as_array().expect("a list");
    assert!(learned.contains(&json!({ "tag": "txn", "profile": "tiny" })), "{stats}");
    let samples = server.samples();
    for (sample, value) in [
        ("maas_arenas", 1.0),
        ("maas_arenas_created_total{profile=\"tiny\"}", 4.0),
        ("maas_arenas_created_total{profile=\"huge\"}", 0.0),
        ("maas_arenas_ended_total{state=\"committed\"}", 1.0),
        ("maas_arenas_ended_total{state=\"rolled_back\"}", 2.0),
        ("maas_arenas_ended_total{state=\"expired\"}", 0.0),
        ("maas_arena_chunk_bytes", 4096.0),
        ("maas_arena_used_bytes", 1120.0),
        ("maas_active_allocations", 10.0),
    ] {
        assert_eq!(samples.get(sample), value, "{sample}");
    }
    server.tell_arena(&open, "commit");
    server.is_empty_and_consistent();
}

#[test]
fn what_arenas_of_a_tag_came_to_is_what_the_next_one_gets() {
    let server = Server::start();
    let small = server.arena(&json!({ "tag": "learner" }));
    assert_eq!(small["profile"], "small", "without history");
    server.tell_arena(&small, "rollback");
    for _ in 0..20 {
        let arena = server.arena(&json!({ "profile": "medium", "tag": "learner" }));
        server.member(&arena, 900_000);
        server.tell_arena(&arena, "commit");
    }
    assert_eq!(server.arena(&json!({ "tag": "learner" }))["profile"], "medium");
    assert_eq!(server.arena(&json!({ "tag": "another" }))["profile"], "small");
    let learned = server.stat("/arenas/learned");
    assert!(
        learned.as_array().expect("a list").contains(&json!({ "tag": "learner", "profile": "medium" })),
        "{learned}"
    );
}

#[test]
fn unknown_arenas_and_ids_of_something_else_are_not_found() {
    let server = Server::start();
    let plain = server.allocate(1);
    let arena = server.arena(&json!({ "profile": "tiny" }));
    let member = server.member(&arena, 1);
    server.untouched_by(|| {
        for id in [NOBODY, plain["id"].as_str().expect("text"), member["id"].as_str().expect("text")] {
            let detail = server.get(&format!("/arenas/{id}")).is_problem(404, "not-found");
            assert!(detail.contains(id), "{detail}");
            for verb in ["commit", "rollback", "reset"] {
                server.call("POST", &format!("/arenas/{id}/{verb}"), &[], "").is_problem(404, "not-found");
            }
            server
                .post_to(&format!("/arenas/{id}/allocate"), r#"{"size_bytes":1}"#)
                .is_problem(404, "not-found");
            server
                .post_to(&format!("/arenas/{id}/renew"), r#"{"lease_seconds":1}"#)
                .is_problem(404, "not-found");
            server.post_to("/arenas", &json!({ "parent": id }).to_string()).is_problem(404, "not-found");
        }
        // And an arena is no allocation.
        let id = arena["id"].as_str().expect("text");
        server.get(&format!("/allocate/{id}")).is_problem(404, "not-found");
        server.delete(&format!("/allocate/{id}")).is_problem(404, "not-found");
        server.get(&format!("/allocate/{id}/data")).is_problem(404, "not-found");
    });
    let upper = format!("/arenas/{}", arena["id"].as_str().expect("text").to_uppercase());
    assert_eq!(server.get(&upper).json()["id"], arena["id"]);
    assert_eq!(server.call("HEAD", &upper, &[], "").status, 200);
}
