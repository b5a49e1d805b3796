//! A peer on a real socket for the drivers' tests: answers as it is told, well or badly, and remembers what it was sent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// How the peer answers one request.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    /// An empty answer with this status; the connection stays open.
    Status(u16),
    /// A redirect to this address.
    Redirect(String),
    /// These bytes, then the end of the connection.
    Raw(Vec<u8>),
    /// These bytes, then the second ones over and over, as fast as they are read.
    Flood(&'static str, Vec<u8>),
    /// 200, then one byte of a body without an end every few milliseconds.
    Drip,
    /// Nothing, on an open connection.
    Hang,
}

/// What the peer was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) path: String,
    /// The head as it came, in lower case.
    pub(super) head: String,
    pub(super) body: String,
}

type Script = dyn Fn(&Seen, usize) -> Reply + Send + Sync;

struct Shared {
    script: Box<Script>,
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    sent_bytes: AtomicUsize,
}

/// Lives until it is dropped.
pub(super) struct TestPeer {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl TestPeer {
    /// Listens on a free port. `script` is given each request and how many came before it.
    pub(super) async fn start(script: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> TestPeer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let shared = Arc::new(Shared {
            script: Box::new(script),
            seen: Mutex::default(),
            connections: AtomicUsize::new(0),
            sent_bytes: AtomicUsize::new(0),
        });
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        TestPeer { address, shared, accepting }
    }

    /// A peer that answers every request alike.
    pub(super) async fn always(reply: Reply) -> TestPeer {
        TestPeer::start(move |_, _| reply.clone()).await
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().clone()
    }

    /// What was asked for, as `METHOD path`.
    pub(super) fn asked(&self) -> Vec<String> {
        self.seen().iter().map(|seen| format!("{} {}", seen.method, seen.path)).collect()
    }

    pub(super) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Bytes that the other side, or the socket's buffers, took from floods.
    pub(super) fn sent_bytes(&self) -> usize {
        self.shared.sent_bytes.load(Ordering::Relaxed)
    }
}

impl Drop for TestPeer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this future, and so are the connections in it.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        shared.connections.fetch_add(1, Ordering::Relaxed);
        connections.spawn(serve(stream, shared.clone()));
    }
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    while let Some(request) = read_request(&mut stream).await {
        let before = {
            let mut seen = shared.seen.lock();
            seen.push(request.clone());
            seen.len() - 1
        };
        if answer(&mut stream, (shared.script)(&request, before), &shared).await.is_none() {
            return;
        }
    }
}

/// Sends a reply; none when the connection is not good for another.
async fn answer(stream: &mut TcpStream, reply: Reply, shared: &Shared) -> Option<()> {
    match reply {
        Reply::Status(code) => {
            let text = format!("HTTP/1.1 {code} Whatever\r\ncontent-length: 2\r\n\r\nok");
            stream.write_all(text.as_bytes()).await.ok()
        }
        Reply::Redirect(target) => {
            let text = format!("HTTP/1.1 307 Elsewhere\r\nlocation: {target}\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(text.as_bytes()).await.ok()
        }
        Reply::Raw(bytes) => {
            stream.write_all(&bytes).await.ok()?;
            stream.shutdown().await.ok()?;
            None
        }
        Reply::Flood(head, piece) => {
            stream.write_all(head.as_bytes()).await.ok()?;
            loop {
                stream.write_all(&piece).await.ok()?;
                shared.sent_bytes.fetch_add(piece.len(), Ordering::Relaxed);
            }
        }
        Reply::Drip => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok()?;
            loop {
                stream.write_all(b"x").await.ok()?;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        Reply::Hang => std::future::pending().await,
    }
}

/// Reads one request; none at the end of the connection.
async fn read_request(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    let head_length = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_length]).into_owned();
    let mut words = head.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let head = head.to_lowercase();
    let body_length: usize = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.parse().expect("a client sends a number"));
    while bytes.len() < head_length + body_length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let body = String::from_utf8_lossy(&bytes[head_length..head_length + body_length]).into_owned();
    Some(Seen { method, path, head, body })
}
