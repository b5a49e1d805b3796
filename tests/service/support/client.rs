//! A client that sends exactly the bytes it is given, and reads answers one by one.

use super::{Answer, PATIENCE};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

/// The header that a JSON body needs.
pub(crate) const JSON: (&str, &str) = ("Content-Type", "application/json");

/// The header that raw bytes need.
pub(crate) const OCTETS: (&str, &str) = ("Content-Type", "application/octet-stream");

/// One connection.
pub(crate) struct Client {
    stream: TcpStream,
    /// Read and not yet part of an answer.
    unread: Vec<u8>,
}

/// A body of exactly this length whose size is 0: never granted, whatever its length.
pub(crate) fn padded(length: usize) -> String {
    let body = "{\"size_bytes\":0}";
    format!("{body}{}", " ".repeat(length - body.len()))
}

/// The bytes of a request as any client would send it.
pub(crate) fn request(
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: impl AsRef<[u8]>,
) -> Vec<u8> {
    let body = body.as_ref();
    let mut text = format!("{method} {target} HTTP/1.1\r\nHost: test\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    [text.as_bytes(), body].concat()
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
        stream.set_nodelay(true).expect("the socket is open");
        Client { stream, unread: Vec::new() }
    }

    /// A connection whose socket takes little before it is read from.
    pub(crate) fn with_small_buffer(address: SocketAddr) -> Client {
        use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt};
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket can be had");
        // Before the call, so that the window is never larger.
        sockopt::set_socket_recv_buffer_size(&socket, 16 << 10).expect("any size is taken");
        connect(&socket, &address).expect("the server listens");
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
        Client { stream, unread: Vec::new() }
    }

    /// Sends these bytes. A server that has closed already will show that in what is read next.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    /// Says that nothing more comes, as a client that hangs up in the middle does.
    pub(crate) fn close_write(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Sends a whole request and reads its answer.
    pub(crate) fn call(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Answer {
        self.send(request(method, target, headers, body));
        self.answer(method, target)
    }

    /// Reads the answer to the request with this method and target, and holds it against the description.
    pub(crate) fn answer(&mut self, method: &str, target: &str) -> Answer {
        let answer = self.read(method);
        answer.hold(method, target);
        answer
    }

    /// Reads the head of a good answer, and holds it against the description; [`Client::bytes`] reads its body.
    pub(crate) fn begin(&mut self, method: &str, target: &str) -> Answer {
        let head_length = self.head_length(method);
        let answer = Answer::parse(&self.unread[..head_length]);
        self.unread.drain(..head_length);
        answer.hold(method, target);
        answer
    }

    /// Reads exactly so many bytes.
    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        while self.unread.len() < length {
            assert!(self.receive(), "the connection ended {} bytes too early", length - self.unread.len());
        }
        let rest = self.unread.split_off(length);
        std::mem::replace(&mut self.unread, rest)
    }

    /// Reads an answer that came from below the routes: it says nothing but its status.
    pub(crate) fn bare_answer(&mut self) -> Answer {
        let answer = self.read("GET");
        assert!(answer.body.is_empty() && answer.header("x-request-id").is_none(), "{answer:?}");
        answer
    }

    /// Reads an answer whatever it is, where only its status matters.
    pub(crate) fn is_answered_with(&mut self, status: u16) -> bool {
        self.read("GET").status == status
    }

    /// Reads exactly these bytes.
    pub(crate) fn expect(&mut self, text: &str) {
        assert_eq!(String::from_utf8_lossy(&self.bytes(text.len())), text);
    }

    /// Reads to the end of the connection: what came before it.
    pub(crate) fn rest(&mut self) -> String {
        String::from_utf8_lossy(&self.rest_bytes()).into_owned()
    }

    /// The same as bytes.
    pub(crate) fn rest_bytes(&mut self) -> Vec<u8> {
        while self.receive() {}
        std::mem::take(&mut self.unread)
    }

    /// Takes what comes next: how many bytes; none at the end of the connection.
    pub(crate) fn some_bytes(&mut self) -> Option<usize> {
        if self.unread.is_empty() && !self.receive() {
            return None;
        }
        Some(std::mem::take(&mut self.unread).len())
    }

    /// Reads what is there; false at the end of the connection.
    fn receive(&mut self) -> bool {
        let mut bytes = [0; 16 << 10];
        match self.stream.read(&mut bytes) {
            Ok(length) => {
                self.unread.extend_from_slice(&bytes[..length]);
                length > 0
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&self.unread)),
        }
    }

    /// Waits for the whole head of an answer: its length.
    fn head_length(&mut self, method: &str) -> usize {
        loop {
            if let Some(end) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                return end + 4;
            }
            let so_far = String::from_utf8_lossy(&self.unread).into_owned();
            assert!(self.receive(), "no answer to {method}: the connection ended after {so_far:?}");
        }
    }

    fn read(&mut self, method: &str) -> Answer {
        let head_length = self.head_length(method);
        let mut answer = Answer::parse(&self.unread[..head_length]);
        let has_body = method != "HEAD" && !matches!(answer.status, 100..200 | 204 | 304);
        let body_length = if has_body { answer.content_length() } else { 0 };
        let length = head_length + body_length;
        while self.unread.len() < length {
            assert!(self.receive(), "the connection ended inside an answer");
        }
        answer.body = self.unread[head_length..length].to_vec();
        answer.length_bytes = length;
        self.unread.drain(..length);
        answer
    }
}
