//! HTTP/2 with prior knowledge, on the same port.

use super::*;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};

type Sender = SendRequest<Full<Bytes>>;

async fn connect(address: SocketAddr) -> (Sender, JoinHandle<hyper::Result<()>>) {
    let stream = tokio::net::TcpStream::connect(address).await.expect("the server listens");
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("the server speaks HTTP/2");
    (sender, tokio::spawn(connection))
}

async fn exchange(sender: &mut Sender, path: &str, body: Bytes) -> (StatusCode, Bytes) {
    let request =
        Request::put(format!("http://test{path}")).body(Full::new(body)).expect("the path is valid");
    let response = sender.send_request(request).await.expect("the server answers");
    let status = response.status();
    (status, response.into_body().collect().await.expect("the answer is whole").to_bytes())
}

#[test]
fn requests_share_a_connection_and_an_early_refusal_leaves_it_usable() {
    let mut server = Server::start(patient());
    let address = server.address;
    let client = Runtime::new().expect("the machine has room for a runtime");
    client.block_on(async {
        let (mut sender, connection) = connect(address).await;
        let body = Bytes::from(vec![b'x'; 3 << 20]);
        assert_eq!(exchange(&mut sender, "/echo", body.clone()).await, (StatusCode::OK, body.clone()));
        for _ in 0..3 {
            let refused = exchange(&mut sender, "/refuse", body.clone()).await;
            assert_eq!(refused, (StatusCode::CONFLICT, Bytes::from("refused")));
        }
        let mut other = sender.clone();
        let slow = tokio::spawn(async move { exchange(&mut other, "/slow", Bytes::new()).await });
        assert_eq!(exchange(&mut sender, "/hello", Bytes::new()).await.1, "hello");
        assert_eq!(slow.await.expect("it does not panic").1, "slow");
        drop(sender);
        let _ = connection.await;
    });
    server.wait_until("the client is gone", |totals| totals.connections == 0);
    assert_eq!(server.traffic.totals().opened, 1);
    assert_eq!(server.shut_down(), Drained::Cleanly);
}

#[test]
fn a_connection_without_streams_is_closed_after_the_idle_timeout() {
    let server = Server::start(quick());
    let address = server.address;
    let client = Runtime::new().expect("the machine has room for a runtime");
    client.block_on(async {
        let (mut sender, connection) = connect(address).await;
        assert_eq!(exchange(&mut sender, "/slow", Bytes::new()).await.1, "slow");
        let begun = Instant::now();
        let _ = connection.await;
        let took = begun.elapsed();
        assert!(took > quick().idle_timeout.mul_f64(0.9) && took < quick().idle_timeout * 3, "took {took:?}");
    });
    assert_eq!(server.timed_out(TimeOut::Idle), 1);
}

#[test]
fn a_reader_that_opens_no_window_is_cut() {
    let server = Server::start(quick());
    let address = server.address;
    let client = Runtime::new().expect("the machine has room for a runtime");
    client.block_on(async {
        let (mut sender, _connection) = connect(address).await;
        let request =
            Request::get("http://test/flood").body(Full::new(Bytes::new())).expect("the path is valid");
        let response = sender.send_request(request).await.expect("the server answers");
        let held = response.into_body(); // never read
        while server.timed_out(TimeOut::Reader) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drop(held);
    });
    server.wait_until("nothing runs", |totals| totals.running == 0 && totals.connections == 0);
}

#[test]
fn running_streams_are_waited_for_and_endless_ones_broken_off() {
    let mut server = Server::start(Config { drain_timeout: Duration::from_millis(1500), ..patient() });
    let address = server.address;
    let client = Runtime::new().expect("the machine has room for a runtime");
    let slow = client.spawn(async move {
        let (mut sender, _connection) = connect(address).await;
        exchange(&mut sender, "/slow", Bytes::new()).await.1
    });
    let endless = client.spawn(async move {
        let (mut sender, _connection) = connect(address).await;
        let request =
            Request::get("http://test/never").body(Full::new(Bytes::new())).expect("the path is valid");
        sender.send_request(request).await.is_err()
    });
    server.wait_until("both run", |totals| totals.running == 2);
    assert_eq!(server.shut_down(), Drained::DeadlinePassed { running: 1 });
    assert_eq!(client.block_on(slow).expect("it does not panic"), "slow");
    assert!(client.block_on(endless).expect("it does not panic"), "it was broken off");
}

#[test]
fn an_idle_client_takes_its_leave_at_once() {
    let mut server = Server::start(patient());
    let address = server.address;
    let client = Runtime::new().expect("the machine has room for a runtime");
    let (mut sender, _connection) = client.block_on(connect(address));
    assert_eq!(client.block_on(exchange(&mut sender, "/hello", Bytes::new())).1, "hello");
    let begun = Instant::now();
    assert_eq!(server.shut_down(), Drained::Cleanly);
    assert!(begun.elapsed() < Duration::from_millis(900), "took {:?}", begun.elapsed());
}
