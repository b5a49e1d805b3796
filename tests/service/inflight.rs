//! Bytes of bodies on their way: what they hold in memory is charged, whatever form it comes in.

use crate::support::{Client, JSON, OCTETS, Server, path_of, request, wait_until};
use bytes::Bytes;
use http_body::Frame;
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

/// A request that was announced with a body of `length` bytes, of which none is sent.
fn begin(server: &Server, method: &str, target: &str, length: usize) -> Client {
    let mut client = server.connect();
    let head = request(method, target, &[OCTETS, ("Content-Length", &length.to_string())], "");
    client.send(head);
    client
}

/// Sends a byte to each in turn, so many times over, and returns by how much that made the program grow.
fn grown_by_single_bytes(server: &Server, clients: &mut [Client], times: usize) -> f64 {
    let (resident, received) = ("process_resident_memory_bytes", "maas_http_received_bytes_total");
    let before = server.samples();
    for _ in 0..times {
        clients.iter_mut().for_each(|client| client.send("x"));
    }
    #[expect(clippy::cast_precision_loss, reason = "it is exact")]
    let sent = (times * clients.len()) as f64;
    wait_until("all is received", || server.samples().get(received) >= before.get(received) + sent);
    server.samples().get(resident) - before.get(resident)
}

#[test]
fn bodies_that_come_byte_by_byte_hold_no_more_memory_than_is_charged() {
    const GROWTH_MAX: f64 = (16 << 20) as f64;
    let server = Server::start();
    let mut clients: Vec<Client> = (0..20).map(|_| begin(&server, "POST", "/allocate", 8192)).collect();
    let grown = grown_by_single_bytes(&server, &mut clients, 4000);
    assert!(grown < GROWTH_MAX, "{grown} bytes for 80000");
    assert_eq!(server.stat("/inflight_bytes"), 20 * 4096);
    drop(clients);
    wait_until("nothing is in flight", || server.stat("/inflight_bytes") == 0);

    let data = format!("{}/data", path_of(&server.allocate(65_536)));
    let patch = format!("{data}?offset=0");
    let mut clients: Vec<Client> =
        [("PUT", &data), ("PATCH", &patch)].map(|(method, to)| begin(&server, method, to, 65_536)).into();
    let grown = grown_by_single_bytes(&server, &mut clients, 20_000);
    assert!(grown < GROWTH_MAX, "{grown} bytes for 40000");
    assert_eq!(server.stat("/inflight_bytes"), 2 * 32_768);
}

#[test]
fn a_body_of_one_piece_is_stored_though_nothing_may_be_on_its_way() {
    let server =
        Server::with().set("memory.max_inflight_bytes", "8192").set("server.body_limit", "8192").start();
    let mut holder = begin(&server, "POST", "/allocate", 8192);
    holder.send("x".repeat(8191));
    wait_until("it is received", || server.stat("/inflight_bytes") == 8192);
    // The first bytes of a connection, which tell its protocol, are a piece of their own.
    let mut client = server.connect();
    assert_eq!(client.call("GET", "/livez", &[], "").status, 200);
    let made = client.call("POST", "/allocate", &[OCTETS], "x".repeat(4000));
    assert_eq!(made.status, 201);
    let put = client.call("PUT", &format!("{}/data", path_of(&made.json())), &[], "x".repeat(4000));
    assert_eq!(put.status, 204, "{}", put.text());
    // What comes in two pieces is not.
    let mut client = server.connect();
    client.send(request("POST", "/allocate", &[JSON, ("Content-Length", "16")], ""));
    client.send("{\"size");
    std::thread::sleep(std::time::Duration::from_millis(50));
    client.send("_bytes\":1}");
    let refused = client.answer("POST", "/allocate");
    let detail = refused.is_problem(503, "inflight-exhausted");
    assert!(detail.starts_with("a body of 16 bytes does not fit beside 8192 of 8192"), "{detail}");
    let refused = refused.json();
    assert_eq!((&refused["requested_bytes"], &refused["refused_by"]), (&16.into(), &"inflight".into()));
}

#[test]
fn what_is_larger_than_the_whole_budget_is_told_that_it_can_never_come() {
    let server =
        Server::with().set("memory.max_inflight_bytes", "16384").set("server.body_limit", "16384").start();
    let body = "x".repeat(20_000);
    let data = format!("{}/data", path_of(&server.allocate(20_000)));
    let refused = server.call("PUT", &data, &[], &body);
    let detail = refused.is_problem(503, "inflight-exhausted");
    assert!(detail.contains("20000 bytes can never be taken") && detail.contains("16384"), "{detail}");
    assert_eq!(refused.json()["requested_bytes"], 20_000);
    let refused = server.post_to("/allocate/batch", "{\"size_bytes\":1,\"count\":1000}");
    let detail = refused.is_problem(503, "inflight-exhausted");
    assert!(detail.starts_with("an answer of up to ") && detail.contains("can never be taken"), "{detail}");
    assert!(refused.json()["requested_bytes"].as_u64() > Some(16_384));
    assert_eq!(server.stat("/inflight_bytes"), 0);
}

/// Sends one piece, and never ends.
struct Unended(Option<Bytes>);

impl http_body::Body for Unended {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.take().map_or(Poll::Pending, |piece| Poll::Ready(Some(Ok(Frame::data(piece)))))
    }
}

#[test]
fn short_http_2_bodies_without_an_end_are_charged_until_the_budget_refuses() {
    let server = Server::with().set("memory.max_inflight_bytes", "1MiB").start();
    let data = format!("{}/data", path_of(&server.allocate(8192)));
    let patch = format!("{data}?offset=0");
    for (method, target, (name, value), is_announced) in [
        ("POST", "/allocate", JSON, false),
        ("POST", "/deallocate/batch", JSON, false),
        ("POST", "/allocate", OCTETS, true),
        ("PUT", &data, OCTETS, true),
        ("PATCH", &patch, OCTETS, true),
    ] {
        let refused = Arc::new(AtomicU64::new(0));
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.spawn({
            let (address, target, refused) = (server.address(), target.to_owned(), refused.clone());
            async move {
                let stream = tokio::net::TcpStream::connect(address).await.expect("the server listens");
                let (sender, connection) =
                    handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("h2");
                for _ in 0..150 {
                    let mut request = hyper::Request::builder()
                        .method(method)
                        .uri(format!("http://test{target}"))
                        .header(name, value);
                    if is_announced {
                        request = request.header("Content-Length", 8192);
                    }
                    let request = request.body(Unended(Some(vec![b' '; 8191].into()))).expect("a request");
                    let (mut sender, refused) = (sender.clone(), refused.clone());
                    tokio::spawn(async move {
                        if let Ok(answer) = sender.send_request(request).await {
                            assert_eq!(answer.status(), 503);
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
                connection.await
            }
        });
        // 128 times 8192 bytes are the budget. Bodies that come in two pieces may refuse each other the last of it.
        let what = format!("all room is taken by {method} {target} {value}");
        wait_until(&what, || server.stat("/inflight_bytes").as_u64() > Some((1 << 20) - 4 * 8192));
        if target != "/deallocate/batch" {
            // What gives memory back is not refused, but waits for a lane.
            wait_until("the rest is refused", || refused.load(Ordering::Relaxed) >= 150 - 128);
            assert!(
                refused.load(Ordering::Relaxed) < 150 - 124,
                "more are refused than there is no room for"
            );
        }
        runtime.shutdown_background(); // and with it the connection
        wait_until("nothing is in flight", || server.stat("/inflight_bytes") == 0);
    }
}
