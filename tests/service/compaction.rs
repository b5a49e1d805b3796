//! A pool full of scattered small blocks still has all its free bytes to give, and pages follow what is held.

use crate::support::{JSON, Server};
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering};

const LIMIT: u64 = 32 << 20;
const LARGE: u64 = 4 << 20;

/// Fills the pool with blocks of one size, which say their number, and frees three of four: the rest, by number.
fn scattered(server: &Server, size: usize) -> Vec<(usize, String)> {
    let mut client = server.connect();
    let mut ids = Vec::new();
    let count = usize::try_from(LIMIT).expect("small") / size;
    while ids.len() < count {
        let body = format!("{{\"size_bytes\":{size},\"count\":{}}}", (count - ids.len()).min(10_000));
        let answer = client.call("POST", "/allocate/batch", &[JSON], body);
        assert_eq!(answer.status, 201, "{}", answer.text());
        let made = answer.json();
        let made = made["allocations"].as_array().expect("a list");
        ids.extend(made.iter().map(|one| one["id"].as_str().expect("text").to_owned()));
    }
    let (kept, freed): (Vec<_>, Vec<_>) = ids.into_iter().enumerate().partition(|(at, _)| at % 4 == 0);
    for ids in freed.chunks(10_000) {
        let ids: Vec<&String> = ids.iter().map(|(_, id)| id).collect();
        let answer = client.call("POST", "/deallocate/batch", &[JSON], json!({ "ids": ids }).to_string());
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    kept
}

#[test]
fn large_blocks_take_the_room_of_scattered_small_ones_while_others_are_served() {
    let server = Server::with()
        .environment("MAX_POOL_SIZE", &LIMIT.to_string())
        .environment("SLAB_SIZES", "1000,4194304")
        .set("server.worker_threads", "1")
        .start();
    let kept = scattered(&server, 1000);
    let written: Vec<(String, String)> = kept
        .iter()
        .step_by(40)
        .map(|(number, id)| {
            let path = format!("/allocate/{id}/data");
            let text = format!("{number:0>1000}");
            assert_eq!(server.call("PUT", &path, &[], &text).status, 204);
            (path, text)
        })
        .collect();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let others = scope.spawn(|| {
            let mut client = server.connect();
            let mut served = 0;
            while !is_over.load(Ordering::Relaxed) || served == 0 {
                let (path, text) = &written[served % written.len()];
                let answer = client.call("GET", path, &[], "");
                assert_eq!((answer.header("etag"), answer.text()), (Some("\"1\""), text.clone()));
                served += 1;
            }
        });
        let free = LIMIT - server.stat("/memory/in_use_bytes").as_u64().expect("a number");
        let large: Vec<_> = (0..free / LARGE)
            .map(|_| scope.spawn(|| server.post(&format!("{{\"size_bytes\":{LARGE}}}")).status))
            .collect();
        let statuses: Vec<u16> = large.into_iter().map(|one| one.join().expect("no panic")).collect();
        assert!(statuses.len() >= 5 && statuses.iter().all(|status| *status == 201), "{statuses:?}");
        is_over.store(true, Ordering::Relaxed);
        others.join().expect("no panic");
    });
    server.post(&format!("{{\"size_bytes\":{LARGE}}}")).is_problem(507, "pool-exhausted");
    let samples = server.samples();
    assert!(samples.get("maas_compaction_moves_total") > 1000.0);
    assert!(samples.get("maas_compaction_bytes_total") > 1e6);
    assert!(samples.get("maas_reclaim_total{action=\"backing\"}") > 0.0);
    assert!(samples.get("maas_reclaimed_bytes_total") >= 16e6);
    // A page for the class whose slabs share pages, and two for each block that was just being read.
    let beyond = samples.get("maas_committed_bytes") - samples.get("maas_pool_size_bytes");
    assert!(beyond <= 4096.0 * 9.0, "{beyond}");
    assert!(server.stat("/reclaim/janitor/chores").as_u64() > Some(0), "long work is the janitor's");
    for (path, text) in &written {
        let answer = server.get(path);
        assert_eq!((answer.header("etag"), answer.text()), (Some("\"1\""), text.clone()));
    }
}
