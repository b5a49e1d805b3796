//! The server against real sockets: blocking clients that misbehave byte by byte.

mod bodies;
mod draining;
mod framing;
mod http2;
mod timeouts;

use super::body::{BodyError, Collector};
use super::listener::bind;
use super::server::{Drained, Stop, serve};
use super::signal::Signal;
use super::traffic::{TimeOut, Traffic};
use super::{Arrival, Config};
use axum::body::Body;
use bytes::Bytes;
use http_body::Frame;
use hyper::{Request, Response, StatusCode, Version};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// Short times, far enough apart to be told apart on a busy machine.
fn quick() -> Config {
    Config {
        port: 0,
        header_timeout: Duration::from_millis(200),
        idle_timeout: Duration::from_millis(500),
        min_body_bytes_per_second: 1_000_000,
        drain_timeout: Duration::from_secs(5),
        ..Config::default()
    }
}

/// Times that no test waits for.
fn patient() -> Config {
    Config { port: 0, drain_timeout: Duration::from_secs(5), ..Config::default() }
}

struct Server {
    runtime: Runtime,
    address: SocketAddr,
    traffic: Arc<Traffic>,
    stop: Stop,
    running: Option<JoinHandle<Drained>>,
}

impl Server {
    fn start(config: Config) -> Server {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("the machine has room for two threads");
        let (traffic, stop) = (Arc::new(Traffic::default()), Stop::default());
        let listener = runtime.block_on(bind("127.0.0.1", 0)).expect("some port is free");
        let address = listener.address();
        let (counters, stopping) = (traffic.clone(), stop.clone());
        let running = Some(runtime.spawn(async move {
            serve(listener, &config, counters, Signal::default(), stopping, answer).await
        }));
        Server { runtime, address, traffic, stop, running }
    }

    fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).expect("the server listens");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("five seconds are not zero");
        stream.set_nodelay(true).expect("the socket is open");
        Client(stream)
    }

    /// Waits for the outcome; nothing of the server may be left then.
    fn outcome(&mut self) -> Drained {
        let running = self.running.take().expect("the outcome is asked for once");
        let drained = self.runtime.block_on(running).expect("the server does not panic");
        assert_eq!(self.traffic.totals().connections, 0, "a connection is left");
        assert_eq!(self.traffic.totals().running, 0, "a request is left");
        let metrics = self.runtime.metrics();
        // The runtime takes a task off its list a moment after the task's waiter knows.
        self.wait_until("no task is left", |_| metrics.num_alive_tasks() == 0);
        drained
    }

    fn shut_down(&mut self) -> Drained {
        self.stop.shutdown.cancel();
        self.outcome()
    }

    fn wait_until(&self, what: &str, condition: impl Fn(super::traffic::Totals) -> bool) {
        let begun = Instant::now();
        while !condition(self.traffic.totals()) {
            assert!(begun.elapsed() < Duration::from_secs(5), "waited in vain until {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn timed_out(&self, kind: TimeOut) -> u64 {
        self.traffic.totals().timed_out(kind)
    }
}

async fn collect(body: Body, limit_bytes: u64) -> Result<Bytes, BodyError> {
    let mut collector = Collector::new(body, limit_bytes, Version::HTTP_11)?;
    while let Some(piece) = collector.next().await? {
        collector.add(piece);
    }
    Ok(collector.finish())
}

/// What the service under test answers, by path.
async fn answer(request: Request<Body>, arrival: Arrival) -> Response<Body> {
    assert!(arrival.now <= crate::clock::Now::read());
    assert!(arrival.peer.ip().is_loopback());
    let (head, body) = request.into_parts();
    let mut response = Response::new(Body::empty());
    match head.uri.path() {
        "/hello" => *response.body_mut() = Body::from("hello"),
        "/secret" => {
            let hidden = head.headers.values().filter(|value| value.is_sensitive()).count();
            *response.body_mut() = Body::from(hidden.to_string());
        }
        "/echo" => match collect(body, 16 << 20).await {
            Ok(bytes) => *response.body_mut() = Body::from(bytes),
            Err(BodyError::Timeout { .. }) => *response.status_mut() = StatusCode::REQUEST_TIMEOUT,
            Err(BodyError::TooLarge { .. }) => *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE,
            Err(BodyError::Broken(_)) => *response.status_mut() = StatusCode::BAD_REQUEST,
        },
        "/refuse" => {
            *response.status_mut() = StatusCode::CONFLICT;
            *response.body_mut() = Body::from("refused");
        }
        "/slow" => {
            tokio::time::sleep(Duration::from_millis(700)).await;
            *response.body_mut() = Body::from("slow");
        }
        "/never" => std::future::pending().await,
        "/flood" => *response.body_mut() = Body::new(Flood { left: 1024 }),
        _ => *response.status_mut() = StatusCode::NOT_FOUND,
    }
    response
}

/// Pieces of 64 KiB.
struct Flood {
    left: u32,
}

impl http_body::Body for Flood {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        static PIECE: [u8; 64 << 10] = [7; 64 << 10];
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&PIECE)))))
    }
}

struct Client(TcpStream);

impl Client {
    fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).expect("the server reads");
    }

    /// One answer's head, up to and without the empty line.
    fn head(&mut self) -> String {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            self.0.read_exact(&mut byte).unwrap_or_else(|error| {
                panic!("{error} after {:?}", String::from_utf8_lossy(&head));
            });
            head.push(byte[0]);
        }
        head.truncate(head.len() - 4);
        String::from_utf8(head).expect("a head is text")
    }

    /// One answer with a Content-Length: its head and body.
    fn response(&mut self) -> (String, String) {
        let head = self.head();
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok())
            .expect("the answer says its length");
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).expect("the answer is whole");
        (head, String::from_utf8_lossy(&body).into_owned())
    }

    /// Everything up to the server's closing.
    fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).expect("the server closes in order");
        String::from_utf8_lossy(&rest).into_owned()
    }

    fn get(&mut self, path: &str) {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
    }
}
