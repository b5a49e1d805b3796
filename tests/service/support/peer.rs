//! A peer to push to, played by threads of the test: well or badly, as it is told.

use parking_lot::Mutex;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How the peer answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// 200.
    Well,
    /// This status, and a Location that leads back here.
    Status(u16),
    /// Bytes that are no HTTP, then the end.
    Garbage,
    /// Nothing, on an open connection.
    Hang,
    /// 200 and 500 in turns.
    Flap,
}

struct Shared {
    mode: Mutex<Mode>,
    /// `METHOD path`, headers in lower case, and body of every request.
    seen: Mutex<Vec<(String, String, String)>>,
    requests: AtomicUsize,
    over: AtomicBool,
}

/// Listens until it is dropped.
pub(crate) struct TestPeer {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl TestPeer {
    pub(crate) fn start(mode: Mode) -> TestPeer {
        TestPeer::listen("127.0.0.1:0".parse().expect("an address"), mode)
    }

    /// Listens on this address, as one that comes back does.
    pub(crate) fn listen(address: SocketAddr, mode: Mode) -> TestPeer {
        let listener = TcpListener::bind(address).expect("the port is free");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            mode: Mutex::new(mode),
            seen: Mutex::default(),
            requests: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        });
        let accepted = shared.clone();
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if accepted.over.load(Ordering::Relaxed) {
                    return;
                }
                let (stream, shared) = (stream.expect("a connection"), accepted.clone());
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        TestPeer { address, shared, accepting: Some(accepting) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn turn(&self, mode: Mode) {
        *self.shared.mode.lock() = mode;
    }

    /// Every request so far: `METHOD path`, headers in lower case, body.
    pub(crate) fn seen(&self) -> Vec<(String, String, String)> {
        self.shared.seen.lock().clone()
    }
}

impl Drop for TestPeer {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address); // wakes the listener
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

fn serve(stream: TcpStream, shared: &Shared) {
    // Ends idle connections soon, so that a peer that is gone is gone.
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let mut reader = BufReader::new(stream);
    while let Some(()) = answer(&mut reader, shared) {}
}

/// Answers one request; none when the connection is not good for another.
fn answer(reader: &mut BufReader<TcpStream>, shared: &Shared) -> Option<()> {
    let mut first = String::new();
    reader.read_line(&mut first).ok().filter(|length| *length > 0)?;
    let (mut headers, mut body_length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
        if line == "\r\n" {
            break;
        }
        let line = line.to_lowercase();
        if let Some(length) = line.strip_prefix("content-length: ") {
            body_length = length.trim().parse().expect("a client sends a number");
        }
        headers.push_str(&line);
    }
    let mut body = vec![0; body_length];
    reader.read_exact(&mut body).ok()?;
    if shared.over.load(Ordering::Relaxed) {
        return None;
    }
    let asked = first.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
    shared.seen.lock().push((asked, headers, String::from_utf8_lossy(&body).into_owned()));
    let number = shared.requests.fetch_add(1, Ordering::Relaxed);
    let mode = *shared.mode.lock();
    let status = match mode {
        Mode::Well => 200,
        Mode::Status(status) => status,
        Mode::Flap if number.is_multiple_of(2) => 200,
        Mode::Flap => 500,
        Mode::Garbage => {
            reader.get_mut().write_all(b"\x16\x03\x01 this is no HTTP\x1b[31m\r\n\r\n").ok()?;
            return None;
        }
        Mode::Hang => {
            std::thread::sleep(Duration::from_secs(60));
            return None;
        }
    };
    let head = format!("HTTP/1.1 {status} Whatever\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n");
    reader.get_mut().write_all(head.as_bytes()).ok()
}
