//! Arenas that several clients end, fill, read and end around: whole or not at all, and nothing is left.

use crate::support::{Client, JSON, Server, arena_path, is_uniform, path_of, rounds, seed, wait_until};
use fastrand::Rng;
use serde_json::{Value, json};
use std::sync::Barrier;
use std::time::Duration;

/// Answers that a call about an arena may get while others end it.
fn is_expected(status: u16) -> bool {
    [200, 201, 204, 404, 409, 507].contains(&status)
}

fn post(client: &mut Client, target: &str, body: &Value) -> (u16, Value) {
    let answer = client.call("POST", target, &[JSON], body.to_string());
    (answer.status, answer.json())
}

#[test]
fn of_many_that_end_one_arena_exactly_one_does_and_all_agree_how() {
    let server = Server::start();
    for round in 0..rounds(20) {
        let arena = server.arena(&json!({ "profile": "small" }));
        for size in [100, 1000, 30_000] {
            server.member(&arena, size);
        }
        let barrier = Barrier::new(8);
        let ends: Vec<(u16, Value)> = std::thread::scope(|scope| {
            let end = |number: usize| {
                let mut client = server.connect();
                let verb = if number.is_multiple_of(2) { "commit" } else { "rollback" };
                barrier.wait();
                post(&mut client, &format!("{}/{verb}", arena_path(&arena)), &json!({}))
            };
            let racers: Vec<_> = (0..8).map(|number| scope.spawn(move || end(number))).collect();
            racers.into_iter().map(|racer| racer.join().expect("no racer panics")).collect()
        });
        let winners: Vec<&Value> =
            ends.iter().filter(|(status, _)| *status == 200).map(|(_, body)| body).collect();
        assert_eq!(winners.len(), 1, "round {round}: {ends:?}");
        assert_eq!(winners[0]["freed_allocations"], 3);
        let state = winners[0]["state"].as_str().expect("text");
        for (status, body) in ends.iter().filter(|(status, _)| *status != 200) {
            let detail = body["detail"].as_str().expect("text");
            assert_eq!((*status, detail.contains(state)), (409, true), "{body}");
        }
        assert_eq!(server.arena_now(&arena)["state"], state);
    }
    server.is_empty_and_consistent();
}

#[test]
fn whoever_allocates_and_reads_while_the_end_comes_is_served_or_told_and_nothing_is_left() {
    let server = Server::start();
    let seed = seed("ends of arenas");
    for round in 0..rounds(12) {
        let outer = server.arena(&json!({ "profile": "medium", "tag": "race" }));
        let inner = server.arena(&json!({ "profile": "medium", "parent": outer["id"] }));
        let barrier = Barrier::new(7);
        let ids: Vec<Value> = std::thread::scope(|scope| {
            let fill = |number: u64| {
                let mut rng = Rng::with_seed(seed ^ round << 8 ^ number);
                let arena = if number.is_multiple_of(2) { &inner } else { &outer };
                let mut client = server.connect();
                let (mut made, mut byte) = (Vec::new(), 0_u8);
                barrier.wait();
                loop {
                    let size = [rng.u64(1..2000), rng.u64(10_000..60_000)][usize::from(rng.u8(..8) == 0)];
                    let target = format!("{}/allocate", arena_path(arena));
                    let (status, member) = post(&mut client, &target, &json!({ "size_bytes": size }));
                    assert!(is_expected(status), "{status}: {member}");
                    match status {
                        201 => made.push(member.clone()),
                        507 => assert_eq!(member["code"], "arena-exhausted"),
                        _ => return made,
                    }
                    let of = if status == 201 { &member } else { made.last().expect("there was room") };
                    let length =
                        usize::try_from(of["size_bytes"].as_u64().expect("a number")).expect("small");
                    let data = format!("{}/data", path_of(of));
                    byte = byte.wrapping_add(1);
                    let put = client.call("PUT", &data, &[], vec![byte; length]).status;
                    assert!([204, 404].contains(&put), "{put}");
                    let read = client.call("GET", &data, &[], "");
                    assert!([200, 404].contains(&read.status), "{read:?}");
                    if read.status == 200 {
                        let whole = read.body.len() == length && is_uniform(&read.body);
                        assert!(whole && read.body[0] == byte, "torn, or of somebody else");
                    }
                    if rng.u8(..8) == 0 {
                        assert!(is_expected(client.call("DELETE", &path_of(of), &[], "").status));
                    }
                }
            };
            let end = |arena: &Value, verb: &str, pause_ms: u64| {
                let mut client = server.connect();
                barrier.wait();
                std::thread::sleep(Duration::from_millis(pause_ms));
                let (status, body) = post(&mut client, &format!("{}/{verb}", arena_path(arena)), &json!({}));
                assert!([200, 409].contains(&status), "{body}");
            };
            let fillers: Vec<_> = (0..4).map(|number| scope.spawn(move || fill(number))).collect();
            let mut rng = Rng::with_seed(seed ^ round);
            let (first, second) = (rng.u64(10..60), rng.u64(10..60));
            let ends =
                [(&inner, "commit", first), (&inner, "reset", first / 2), (&outer, "rollback", second)];
            let enders = ends.map(|(arena, verb, pause_ms)| scope.spawn(move || end(arena, verb, pause_ms)));
            let made: Vec<Value> =
                fillers.into_iter().flat_map(|filler| filler.join().expect("no filler panics")).collect();
            enders.into_iter().for_each(|ender| ender.join().expect("no ender panics"));
            made
        });
        for one in &ids {
            server.get(&path_of(one)).is_problem(404, "not-found");
        }
        assert_eq!(server.arena_now(&outer)["state"], "rolled_back");
        let states = ["committed", "rolled_back"].map(Value::from);
        assert!(states.contains(&server.arena_now(&inner)["state"]));
    }
    server.is_empty_and_consistent();
    assert_eq!(server.stat("/arenas/active"), 0);
    assert_eq!(server.stat("/arenas/chunk_bytes"), 0);
}

#[test]
fn of_a_commit_that_keeps_and_frees_that_race_each_member_ends_exactly_once() {
    let server = Server::start();
    for _ in 0..rounds(20) {
        let arena = server.arena(&json!({ "profile": "medium" }));
        let made: Vec<Value> =
            (0..20).map(|at| server.member(&arena, if at % 4 == 0 { 20_000 } else { 100 })).collect();
        let barrier = Barrier::new(2);
        std::thread::scope(|scope| {
            let freeing = scope.spawn(|| {
                let mut client = server.connect();
                barrier.wait();
                for one in &made {
                    assert_eq!(
                        client.call("DELETE", &path_of(one), &[], "").status,
                        204,
                        "it is kept or freed"
                    );
                }
            });
            let mut client = server.connect();
            barrier.wait();
            let (status, body) =
                post(&mut client, &format!("{}/commit", arena_path(&arena)), &json!({ "keep": true }));
            assert_eq!(status, 200, "{body}");
            freeing.join().expect("no panic");
        });
    }
    server.is_empty_and_consistent();
}

#[test]
fn nobody_sees_what_an_arena_left_behind() {
    let server = Server::with().environment("MAX_POOL_SIZE", "4MiB").start();
    let mut rng = Rng::with_seed(seed("what arenas leave"));
    let mut client = server.connect();
    for round in 0..rounds(20) {
        let profile = ["tiny", "small", "medium"][rng.usize(0..3)];
        let arena = server.arena(&json!({ "profile": profile }));
        let target = format!("{}/allocate", arena_path(&arena));
        let mut kept = Vec::new();
        // A reset between two fillings, and whatever ends the second.
        for verb in ["reset", ["commit", "rollback"][rng.usize(0..2)]] {
            for _ in 0..rng.usize(1..40) {
                let size = [rng.usize(1..300), rng.usize(1..20_000)][usize::from(rng.u8(..8) == 0)];
                let (status, made) = post(&mut client, &target, &json!({ "size_bytes": size }));
                if status == 507 {
                    break;
                }
                let data = format!("{}/data", path_of(&made));
                let fresh = client.call("GET", &data, &[], "");
                assert!(fresh.status == 200 && fresh.body == vec![0; size], "round {round}: not zeros");
                assert_eq!(client.call("PUT", &data, &[], vec![0xa5; size]).status, 204);
                kept = vec![made["id"].clone()];
            }
            let keep = if verb == "commit" { json!({ "keep": kept }) } else { json!({}) };
            let (status, body) = post(&mut client, &format!("{}/{verb}", arena_path(&arena)), &keep);
            assert_eq!(status, 200, "{body}");
        }
        // And plain blocks get that memory too.
        for size in [1000, 100_000] {
            let made = server.allocate(size);
            let fresh = client.call("GET", &format!("{}/data", path_of(&made)), &[], "");
            assert!(fresh.body.iter().all(|byte| *byte == 0), "round {round}: not zeros");
            client.call("PUT", &format!("{}/data", path_of(&made)), &[], vec![0x5a; 1000]);
            assert_eq!(client.call("DELETE", &path_of(&made), &[], "").status, 204);
        }
        for id in kept {
            let path = format!("/allocate/{}", id.as_str().expect("text"));
            assert!([204, 404].contains(&client.call("DELETE", &path, &[], "").status));
        }
    }
    drop(client);
    server.is_empty_and_consistent();
}

#[test]
fn a_member_that_is_being_read_when_its_arena_ends_is_read_to_its_end() {
    let server = Server::start();
    const SIZE: usize = 4 << 20;
    let arena = server.arena(&json!({ "profile": "large" }));
    let made = server.member(&arena, SIZE as u64);
    let data = format!("{}/data", path_of(&made));
    assert_eq!(server.call("PUT", &data, &[], vec![7; SIZE]).status, 204);
    let mut reader = server.connect();
    reader.send(format!("GET {data} HTTP/1.1\r\nHost: test\r\n\r\n"));
    reader.begin("GET", &data);
    assert_eq!(server.tell_arena(&arena, "rollback").status, 200);
    server.get(&data).is_problem(404, "not-found");
    assert!(reader.bytes(SIZE).iter().all(|byte| *byte == 7));
    drop(reader);
    server.is_empty_and_consistent();
}

#[test]
fn a_write_whose_arena_ends_midway_finds_nothing_to_write_to() {
    let server = Server::start();
    for size in [1000, 300_000] {
        let arena = server.arena(&json!({ "profile": "medium" }));
        let data = format!("{}/data", path_of(&server.member(&arena, size)));
        let mut writer = server.connect();
        writer.send(format!("PUT {data} HTTP/1.1\r\nHost: test\r\nContent-Length: {size}\r\n\r\nhalf"));
        // Its head was read: the connection is busy.
        wait_until("it is connected", || server.samples().get("maas_http_connections") == 2.0);
        assert_eq!(server.tell_arena(&arena, "commit").status, 200);
        writer.send(vec![1; usize::try_from(size).expect("small") - 4]);
        writer.answer("PUT", &data).is_problem(404, "not-found");
    }
    server.is_empty_and_consistent();
}

#[test]
fn clients_that_vanish_leave_arenas_that_their_lease_ends() {
    let server = Server::start();
    for number in 0..20_u64 {
        let mut client = server.connect();
        let body = json!({ "profile": "small", "lease_seconds": 1 });
        let (status, arena) = post(&mut client, "/arenas", &body);
        assert_eq!(status, 201, "{arena}");
        let target = format!("{}/allocate", arena_path(&arena));
        for at in 0..number % 5 {
            let (status, _) = post(&mut client, &target, &json!({ "size_bytes": 100 + at * 20_000 }));
            assert_eq!(status, 201);
        }
        // In the middle of a request, and of an answer that nobody reads.
        client.send(format!("POST {target} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{{"));
        if number.is_multiple_of(2) {
            client.close_write();
        }
    }
    assert_eq!(server.stat("/arenas/active"), 20);
    wait_until("their leases are over", || server.stat("/arenas/active") == 0);
    wait_until("the memory is back", || server.stat("/memory/in_use_bytes") == 0);
    assert_eq!(server.stat("/arenas/expirations"), 20);
    server.is_empty_and_consistent();
}
