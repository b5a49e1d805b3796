//! Readers of blocks that were freed or replaced: how long they may go on, and how they are ended.

use crate::support::{Client, Server, Starting, wait_until};
use serde_json::Value;
use std::time::{Duration, Instant};

/// More than the buffers of a connection's two sockets take, so that a reader who takes nothing holds the content.
const HELD_BYTES: usize = 16 << 20;
const OCTETS: (&str, &str) = ("Content-Type", "application/octet-stream");

/// A pool of so many blocks of [`HELD_BYTES`].
fn pool_of(blocks: usize) -> Starting {
    Server::with()
        .environment("SLAB_SIZES", &HELD_BYTES.to_string())
        .environment("MAX_POOL_SIZE", &(blocks * HELD_BYTES).to_string())
}

/// The path of a new block with content.
fn written(server: &Server, size_bytes: usize, byte: u8) -> String {
    let made = server.allocate(size_bytes as u64);
    let path = format!("/allocate/{}", made["id"].as_str().expect("an id is text"));
    assert_eq!(server.call("PUT", &format!("{path}/data"), &[], vec![byte; size_bytes]).status, 204);
    path
}

/// Begins to read a block; nothing but the head of the answer is taken.
fn begin(mut client: Client, path: &str) -> Client {
    let data = format!("{path}/data");
    client.send(format!("GET {data} HTTP/1.1\r\nHost: test\r\n\r\n"));
    assert_eq!(client.begin("GET", &data).status, 200);
    client
}

fn stat(server: &Server, name: &str) -> u64 {
    let stats = server.get("/stats").json();
    let value = if name == "draining_bytes" { &stats[name] } else { &stats["memory"][name] };
    value.as_u64().expect("a number")
}

fn readers_cut(server: &Server) -> f64 {
    server.samples().get("maas_readers_cut_total")
}

/// Waits until nothing drains; how long that took.
fn drained(server: &Server) -> Duration {
    let begun = Instant::now();
    wait_until("nothing drains", || stat(server, "draining_bytes") == 0);
    begun.elapsed()
}

#[test]
fn a_reader_of_a_freed_block_that_stands_still_is_cut_and_one_of_a_live_block_is_not() {
    let server = pool_of(2).set("memory.drain_seconds", "1").start();
    let (freed, live) = (written(&server, HELD_BYTES, 1), written(&server, HELD_BYTES, 2));
    let mut of_freed = begin(server.connect(), &freed);
    let mut of_live = begin(server.connect(), &live);
    assert_eq!(server.delete(&freed).status, 204);
    assert_eq!(stat(&server, "draining_bytes"), HELD_BYTES as u64);
    let took = drained(&server);
    assert!((Duration::from_millis(900)..Duration::from_secs(5)).contains(&took), "after {took:?}");
    assert_eq!(stat(&server, "in_use_bytes"), HELD_BYTES as u64, "its memory is back");
    assert_eq!(readers_cut(&server), 1.0);
    assert!(of_freed.rest_bytes().len() < HELD_BYTES, "the answer ended short of its length");
    std::thread::sleep(Duration::from_secs(1));
    assert!(of_live.bytes(HELD_BYTES).iter().all(|byte| *byte == 2));
    assert_eq!(of_live.call("GET", "/livez", &[], "").status, 200, "and its connection goes on");
    assert_eq!(readers_cut(&server), 1.0);
}

#[test]
fn a_reader_of_a_freed_block_finishes_within_its_time_while_nobody_needs_the_memory() {
    let server = pool_of(1).start();
    let path = written(&server, HELD_BYTES, 1);
    let mut reader = begin(server.connect(), &path);
    assert_eq!(server.delete(&path).status, 204);
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(stat(&server, "draining_bytes"), HELD_BYTES as u64);
    assert!(reader.bytes(HELD_BYTES).iter().all(|byte| *byte == 1));
    drained(&server);
    assert_eq!(reader.call("GET", "/livez", &[], "").status, 200);
    assert_eq!(readers_cut(&server), 0.0);
}

/// Its content leaves piece by piece: almost all of it was never written.
#[test]
fn a_reader_that_moves_is_ended_when_its_time_is_over() {
    let server = pool_of(1).set("memory.drain_seconds", "1").start();
    let made = server.allocate(HELD_BYTES as u64);
    let path = format!("/allocate/{}", made["id"].as_str().expect("an id is text"));
    let target = format!("{path}/data?offset=0");
    assert_eq!(server.call("PATCH", &target, &[OCTETS], "x").status, 204);
    let mut reader = begin(Client::with_small_buffer(server.address()), &path);
    assert_eq!(server.delete(&path).status, 204);
    let begun = Instant::now();
    let mut taken = 0;
    while let Some(bytes) = reader.some_bytes() {
        taken += bytes;
        std::thread::sleep(Duration::from_millis(5)); // a whole read would take 5 s at least
        assert!(begun.elapsed() < Duration::from_secs(10), "{taken} bytes and no end");
    }
    assert!(begun.elapsed() > Duration::from_millis(900) && taken > 0 && taken < HELD_BYTES, "{taken}");
    drained(&server);
    assert_eq!(readers_cut(&server), 1.0);
}

#[test]
fn an_allocation_that_was_refused_has_the_memory_of_a_freed_block_soon() {
    let server = pool_of(1).start();
    let path = written(&server, HELD_BYTES, 1);
    let _reader = begin(server.connect(), &path);
    assert_eq!(server.delete(&path).status, 204);
    let begun = Instant::now();
    server.post(&format!("{{\"size_bytes\":{HELD_BYTES}}}")).is_problem(507, "pool-exhausted");
    drained(&server);
    let took = begun.elapsed();
    assert!((Duration::from_millis(900)..Duration::from_secs(5)).contains(&took), "after {took:?}");
    server.allocate(HELD_BYTES as u64);
    assert_eq!(readers_cut(&server), 1.0);
}

#[test]
fn a_write_that_needs_the_memory_of_a_replaced_version_has_it_soon() {
    let server = pool_of(2).start();
    let path = written(&server, HELD_BYTES, 1);
    let mut of_first = begin(server.connect(), &path);
    let data = format!("{path}/data");
    assert_eq!(server.call("PUT", &data, &[], vec![2; HELD_BYTES]).status, 204);
    assert_eq!(stat(&server, "draining_bytes"), HELD_BYTES as u64);
    let mut of_second = begin(server.connect(), &path);
    let begun = Instant::now();
    assert_eq!(server.call("PUT", &data, &[], vec![3; HELD_BYTES]).status, 204);
    let took = begun.elapsed();
    assert!((Duration::from_millis(500)..Duration::from_secs(5)).contains(&took), "after {took:?}");
    assert!(of_first.rest_bytes().len() < HELD_BYTES);
    assert!(of_second.bytes(HELD_BYTES).iter().all(|byte| *byte == 2), "nobody needed what this one reads");
    assert_eq!(readers_cut(&server), 1.0);
    drained(&server);
}

/// A version that was replaced has the same time as a block that was freed.
#[test]
fn a_reader_of_a_replaced_version_that_stands_still_is_cut() {
    let server = pool_of(2).set("memory.drain_seconds", "1").start();
    let path = written(&server, HELD_BYTES, 1);
    let mut reader = begin(server.connect(), &path);
    assert_eq!(server.call("PUT", &format!("{path}/data"), &[], vec![2; HELD_BYTES]).status, 204);
    drained(&server);
    assert_eq!((readers_cut(&server), stat(&server, "in_use_bytes")), (1.0, HELD_BYTES as u64));
    assert!(reader.rest_bytes().len() < HELD_BYTES);
}

mod http2 {
    use super::*;
    use bytes::Bytes;
    use http_body_util::{BodyExt, Empty};
    use hyper::client::conn::http2::{Builder, SendRequest};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use std::net::SocketAddr;
    use tokio::task::JoinHandle;

    type Connection = JoinHandle<hyper::Result<()>>;

    async fn connect(address: SocketAddr) -> (SendRequest<Empty<Bytes>>, Connection) {
        let stream = tokio::net::TcpStream::connect(address).await.expect("the server listens");
        let handshake = Builder::new(TokioExecutor::new())
            .initial_stream_window_size(64 << 10)
            .handshake(TokioIo::new(stream));
        let (sender, connection) = handshake.await.expect("the server speaks HTTP/2");
        (sender, tokio::spawn(connection))
    }

    async fn get(sender: &mut SendRequest<Empty<Bytes>>, path: &str) -> hyper::body::Incoming {
        let request =
            hyper::Request::get(format!("http://test{path}")).body(Empty::new()).expect("a request");
        let answer = sender.send_request(request).await.expect("the server answers");
        assert_eq!(answer.status(), 200);
        answer.into_body()
    }

    #[test]
    fn a_stream_that_moves_is_reset_alone_and_one_that_stands_still_ends_its_connection() {
        let server = pool_of(1).set("memory.drain_seconds", "1").start();
        let path = written(&server, HELD_BYTES, 1);
        let data = format!("{path}/data");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let (mut moving, _connection) = connect(server.address()).await;
            let (mut still, still_connection) = connect(server.address()).await;
            let mut taken = get(&mut moving, &data).await;
            let held = get(&mut still, &data).await;
            let deleted = tokio::task::block_in_place(|| server.delete(&path));
            assert_eq!(deleted.status, 204);
            let mut taken_bytes = 0;
            let error = loop {
                match taken.frame().await.expect("the answer does not end in order") {
                    Ok(frame) => taken_bytes += frame.data_ref().map_or(0, Bytes::len),
                    Err(error) => break error,
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            };
            assert!(taken_bytes > 0 && taken_bytes < HELD_BYTES, "{taken_bytes}");
            let is_reset = format!("{error:?}").contains("INTERNAL_ERROR");
            assert!(is_reset, "{error:?}");
            let alive = get(&mut moving, "/livez").await.collect().await.expect("its connection goes on");
            assert_eq!(alive.to_bytes(), "{\"status\":\"alive\"}");
            let ended = tokio::time::timeout(Duration::from_secs(10), still_connection).await;
            assert!(ended.expect("it is ended").expect("it does not panic").is_err(), "and not in order");
            drop(held);
        });
        drained(&server);
        assert_eq!(readers_cut(&server), 2.0);
        assert_eq!(stat(&server, "in_use_bytes"), 0);
    }

    /// What is handed to the protocol in pieces arrives as it is.
    #[test]
    fn content_is_whole_over_http2() {
        let server = pool_of(1).start();
        let path = written(&server, HELD_BYTES, 7);
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let bytes = runtime.block_on(async {
            let (mut sender, _connection) = connect(server.address()).await;
            let body = get(&mut sender, &format!("{path}/data")).await;
            body.collect().await.expect("the answer is whole").to_bytes()
        });
        assert!(bytes.len() == HELD_BYTES && bytes.iter().all(|byte| *byte == 7));
    }
}

/// What a stalled reader may take of the server's memory beside the pool.
const READER_BYTES_MAX: f64 = 200.0 * 1024.0;

#[test]
fn many_readers_that_stand_still_cost_little_and_hold_nobody_up() {
    const READERS: usize = 300;
    const BLOCKS: usize = 4;
    const BLOCK_BYTES: usize = 4 << 20;
    let server = Server::with().set("memory.drain_seconds", "1").start();
    let blocks: Vec<String> = (0..BLOCKS).map(|_| written(&server, BLOCK_BYTES, 1)).collect();
    let beside_pool = || {
        let samples = server.samples();
        samples.get("process_resident_memory_bytes") - samples.get("maas_committed_bytes")
    };
    let before = beside_pool();
    let readers: Vec<Client> = (0..READERS)
        .map(|number| begin(Client::with_small_buffer(server.address()), &blocks[number % BLOCKS]))
        .collect();
    let each = (beside_pool() - before) / READERS as f64;
    assert!(each < READER_BYTES_MAX, "{each} bytes each");
    for path in &blocks {
        let begun = Instant::now();
        assert_eq!(server.delete(path).status, 204);
        assert!(begun.elapsed() < Duration::from_secs(1), "others are served meanwhile");
    }
    assert_eq!(stat(&server, "draining_bytes"), (BLOCKS * BLOCK_BYTES) as u64);
    drained(&server);
    assert_eq!(readers_cut(&server), READERS as f64);
    let stats = server.get("/stats").json();
    assert_eq!(stats["memory"]["in_use_bytes"], Value::from(0));
    wait_until("their connections are gone", || server.samples().get("maas_http_connections") < 3.0);
    drop(readers);
}
