//! Allocations that go well, word for word.

use crate::support::{Server, path_of, wait_until};
use serde_json::{Value, json};

fn members(body: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = body.as_object().expect("an object").keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

fn ids(allocations: &Value) -> Vec<String> {
    let list = allocations.as_array().expect("a list");
    list.iter().map(|allocation| allocation["id"].as_str().expect("text").to_owned()).collect()
}

#[test]
fn a_block_is_granted_looked_at_and_freed_word_for_word() {
    let server = Server::start();
    let answer = server.post("{\"size_bytes\":102400}");
    assert_eq!(answer.status, 201);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let made = answer.json();
    assert_eq!(members(&made), ["actual_size_bytes", "age_seconds", "id", "size_bytes", "size_mb"]);
    let expected = json!({
        "id": made["id"], "size_bytes": 102_400, "actual_size_bytes": 131_072, "size_mb": 0.125, "age_seconds": 0
    });
    assert_eq!(made, expected);
    assert_eq!(answer.header("location"), Some(path_of(&made).as_str()));
    let id = made["id"].as_str().expect("text");
    let groups: Vec<usize> = id.split('-').map(str::len).collect();
    assert_eq!((groups.as_slice(), &id[14..15]), (&[8, 4, 4, 4, 12][..], "8"), "a version-8 UUID");

    let found = server.get(&path_of(&made));
    assert_eq!((found.status, members(&found.json())), (200, members(&made)));
    assert_eq!((&found.json()["id"], &found.json()["size_mb"]), (&made["id"], &json!(0.125)));

    let freed = server.delete(&path_of(&made));
    assert_eq!((freed.status, freed.body.len(), freed.header("content-type")), (204, 0, None));
}

#[test]
fn a_freed_id_never_works_again() {
    let server = Server::start();
    let path = path_of(&server.allocate(1));
    assert_eq!(server.delete(&path).status, 204);
    let again = server.allocate(1);
    assert_ne!(path_of(&again), path, "the slab is the same, the id is not");
    for _ in 0..2 {
        server.delete(&path).is_problem(404, "not-found");
        server.get(&path).is_problem(404, "not-found");
    }
    assert_eq!(server.get(&path_of(&again)).status, 200);
}

#[test]
fn a_size_takes_the_smallest_class_that_holds_it() {
    let server = Server::start();
    for (size, actual) in [(1, 1024), (1024, 1024), (1025, 2048), (1 << 20, 1 << 20), (4_194_304, 4_194_304)]
    {
        let made = server.allocate(size);
        assert_eq!((&made["size_bytes"], &made["actual_size_bytes"]), (&json!(size), &json!(actual)));
    }
    assert_eq!(server.allocate(4_194_304)["size_mb"], json!(4.0));
    // What no class holds is made of whole pages.
    assert_eq!(server.allocate(4_194_305)["actual_size_bytes"], 4_194_304 + 4096);
}

#[test]
fn with_the_seven_classes_of_the_example_102400_bytes_take_262144() {
    let classes = "1024,4096,16384,65536,262144,1048576,4194304";
    let server = Server::with().environment("SLAB_SIZES", classes).start();
    let made = server.allocate(102_400);
    assert_eq!((&made["actual_size_bytes"], &made["size_mb"]), (&json!(262_144), &json!(0.25)));
}

#[test]
fn an_allocation_grows_older_by_whole_seconds() {
    let server = Server::start();
    let path = path_of(&server.allocate(1));
    assert_eq!(server.get(&path).json()["age_seconds"], 0);
    wait_until("a second has passed", || server.get(&path).json()["age_seconds"] == 1);
}

#[test]
fn ids_are_accepted_in_upper_case_and_an_absolute_target_is_the_same_route() {
    let server = Server::start();
    let made = server.allocate(1);
    let upper = format!("/allocate/{}", made["id"].as_str().expect("text").to_uppercase());
    assert_eq!(server.get(&upper).json()["id"], made["id"], "answers have it in lower case");
    assert_eq!(server.get(&format!("http://test{}", path_of(&made))).json()["id"], made["id"]);
    assert_eq!(server.delete(&upper).status, 204);
    server.delete(&upper).is_problem(404, "not-found");
}

#[test]
fn a_listing_goes_page_by_page_in_creation_order() {
    let server = Server::start();
    assert_eq!(server.get("/allocate").json(), json!({"allocations": [], "next_cursor": null}));
    let made: Vec<Value> = (1..=5).map(|size| server.allocate(size)).collect();
    let whole = server.get("/allocate").json();
    assert_eq!((&whole["next_cursor"], members(&whole).len()), (&Value::Null, 2));
    let (listed, made) = (ids(&whole["allocations"]), ids(&Value::Array(made)));
    assert_eq!(listed, made);
    assert_eq!(members(&whole["allocations"][0]).len(), 5);

    let (mut paged, mut target, mut pages) = (Vec::new(), "/allocate?limit=2".to_owned(), 0);
    loop {
        let page = server.get(&target).json();
        let here = ids(&page["allocations"]);
        assert!(here.len() <= 2, "{page}");
        paged.extend(here);
        pages += 1;
        match page["next_cursor"].as_str() {
            Some(cursor) => target = format!("/allocate?cursor={cursor}&limit=2"),
            None => break,
        }
    }
    assert_eq!(paged, made);
    assert!((3..=4).contains(&pages), "{pages}");
}

#[test]
fn what_lives_through_a_whole_listing_appears_exactly_once() {
    let server = Server::start();
    let made: Vec<Value> = (0..20).map(|_| server.allocate(1)).collect();
    let page = server.get("/allocate?limit=8").json();
    let cursor = page["next_cursor"].as_str().expect("twelve are left").to_owned();
    let first = ids(&page["allocations"]);
    // Those the cursor stands on and beside go, one far ahead goes, and others come.
    for gone in [0, 6, 7, 8, 15] {
        assert_eq!(server.delete(&path_of(&made[gone])).status, 204);
    }
    let newcomers: Vec<Value> = (0..5).map(|_| server.allocate(1)).collect();
    let rest = server.get(&format!("/allocate?limit=1000&cursor={cursor}")).json();
    assert_eq!(rest["next_cursor"], Value::Null);
    let rest = ids(&rest["allocations"]);
    let made = ids(&Value::Array(made));
    for (at, id) in made.iter().enumerate() {
        let times = first.iter().chain(&rest).filter(|listed| *listed == id).count();
        let expected = usize::from(at < 8 || ![8, 15].contains(&at));
        assert_eq!(times, expected, "allocation {at}");
    }
    let newcomers = ids(&Value::Array(newcomers));
    assert!(newcomers.iter().all(|id| rest.iter().filter(|listed| *listed == id).count() <= 1));
    // The cursor is no session: it can be used again.
    let again = server.get(&format!("/allocate?limit=1000&cursor={cursor}")).json();
    assert_eq!(ids(&again["allocations"]), rest);
}

#[test]
fn a_page_has_a_hundred_allocations_unless_told_and_a_thousand_at_most() {
    let server = Server::start();
    let mut client = server.connect();
    for _ in 0..101 {
        let headers = [crate::support::JSON];
        assert_eq!(client.call("POST", "/allocate", &headers, "{\"size_bytes\":1}").status, 201);
    }
    let page = server.get("/allocate").json();
    assert_eq!(ids(&page["allocations"]).len(), 100);
    assert!(page["next_cursor"].is_string());
    let page = server.get("/allocate?limit=1000").json();
    assert_eq!((ids(&page["allocations"]).len(), &page["next_cursor"]), (101, &Value::Null));
    for limit in ["0", "1001", "-1", "1.5", "", "ten", "%2B5", "18446744073709551616"] {
        server.get(&format!("/allocate?limit={limit}")).is_problem(400, "invalid-query");
    }
    for cursor in ["", "x", "%00", "AAAA", "-1", "99999999999999999999999999"] {
        server.get(&format!("/allocate?cursor={cursor}")).is_problem(400, "invalid-query");
    }
}
