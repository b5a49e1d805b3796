//! Bodies that are refused, awaited or left unread.

use super::*;

#[test]
fn a_client_that_sends_eight_mebibytes_reads_the_early_refusal_and_goes_on() {
    let server = Server::start(patient());
    let mut client = server.connect();
    let body = vec![b'x'; 8 << 20];
    for _ in 0..3 {
        client.send(&format!("PUT /refuse HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n", body.len()));
        client.0.write_all(&body).expect("the server goes on reading");
        let (head, body) = client.response();
        assert!(head.starts_with("HTTP/1.1 409 ") && body == "refused", "{head}");
    }
    client.get("/hello");
    assert_eq!(client.response().1, "hello");
    assert_eq!(server.traffic.totals().opened, 1, "all on one connection");
}

#[test]
fn a_chunked_body_that_is_refused_early_does_not_hide_the_answer() {
    let server = Server::start(patient());
    let mut client = server.connect();
    client.send("PUT /refuse HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n");
    let piece = format!("{:x}\r\n{}\r\n", 1 << 20, "x".repeat(1 << 20));
    for _ in 0..8 {
        client.send(&piece);
    }
    client.send("0\r\n\r\n");
    let (head, body) = client.response();
    assert!(head.starts_with("HTTP/1.1 409 ") && body == "refused", "{head}");
    client.get("/hello");
    assert_eq!(client.response().1, "hello", "the connection goes on");
}

#[test]
fn discarding_a_body_that_never_comes_ends_the_connection_in_bounded_time() {
    let server = Server::start(patient());
    let mut client = server.connect();
    client.send("PUT /refuse HTTP/1.1\r\nHost: t\r\nContent-Length: 1000\r\n\r\n");
    assert!(client.response().0.starts_with("HTTP/1.1 409 "));
    let begun = Instant::now();
    assert_eq!(client.rest(), "");
    assert!(begun.elapsed() < Duration::from_secs(4), "took {:?}", begun.elapsed());
}

#[test]
fn an_announced_length_over_the_limit_is_refused_before_the_body_comes() {
    let server = Server::start(patient());
    let mut client = server.connect();
    client.send("PUT /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n");
    let answer = client.rest();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(!answer.contains("100 Continue"), "{answer}");
}

#[test]
fn a_chunked_body_over_the_limit_is_refused_while_it_comes() {
    let server = Server::start(patient());
    let mut client = server.connect();
    client.send("PUT /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n");
    let piece = format!("{:x}\r\n{}\r\n", 1 << 20, "x".repeat(1 << 20));
    for _ in 0..20 {
        client.send(&piece);
    }
    client.send("0\r\n\r\n");
    assert!(client.response().0.starts_with("HTTP/1.1 413 "));
    client.get("/hello");
    assert_eq!(client.response().1, "hello", "the connection goes on");
}

#[test]
fn continue_is_sent_when_the_handler_reads() {
    let server = Server::start(patient());
    let mut client = server.connect();
    client.send("PUT /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.head(), "HTTP/1.1 100 Continue");
    client.send("hello");
    assert_eq!(client.response().1, "hello");
    client.get("/hello");
    assert_eq!(client.response().1, "hello");
}

#[test]
fn continue_is_not_sent_when_the_handler_refuses() {
    let server = Server::start(patient());
    let mut client = server.connect();
    client.send("PUT /refuse HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    let answer = client.rest();
    assert!(answer.starts_with("HTTP/1.1 409 ") && answer.ends_with("refused"), "{answer}");
}

#[test]
fn a_body_that_breaks_off_is_an_error_of_the_handler() {
    let mut server = Server::start(patient());
    let mut client = server.connect();
    client.send("PUT /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 500\r\n\r\nhello");
    drop(client);
    server.wait_until("the connection is gone", |totals| totals.opened == 1 && totals.connections == 0);
    assert_eq!(server.shut_down(), Drained::Cleanly);
}

#[tokio::test]
async fn a_body_of_one_piece_is_not_copied() {
    let piece = Bytes::from(vec![1; 1000]);
    let collected = collect(Body::from(piece.clone()), 1000).await.expect("it fits");
    assert_eq!(collected.as_ptr(), piece.as_ptr());
    assert!(matches!(collect(Body::from(piece), 999).await, Err(BodyError::TooLarge { limit_bytes: 999 })));
}

/// A body of these pieces. It is over with the last, if its length is known.
struct Pieces(Vec<Bytes>, bool);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let piece = (!self.0.is_empty()).then(|| self.0.remove(0));
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.1 && self.0.is_empty()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        let length = self.0.iter().map(|piece| piece.len() as u64).sum();
        if self.1 { http_body::SizeHint::with_exact(length) } else { http_body::SizeHint::new() }
    }
}

#[tokio::test]
async fn pieces_of_one_byte_do_not_keep_the_buffers_that_they_were_read_into() {
    for (count, version, is_known) in [
        (1, Version::HTTP_2, true),
        (1, Version::HTTP_11, false),
        (4000, Version::HTTP_11, true),
        (4000, Version::HTTP_2, false),
    ] {
        let buffers: Vec<Bytes> = (0..count).map(|_| Bytes::from(vec![7; 8192])).collect();
        let pieces = buffers.iter().map(|buffer| buffer.slice(..1)).collect();
        let mut collector =
            Collector::new(Body::new(Pieces(pieces, is_known)), 1 << 20, version).expect("it is short");
        let (mut received, mut charged) = (0, 0);
        while let Some(piece) = collector.next().await.expect("it is whole") {
            received += 1;
            let bytes = collector.bytes_with(&piece);
            assert!(
                (received.max(charged)..=4096.max(2 * received)).contains(&bytes),
                "{bytes} for {received}"
            );
            charged = bytes;
            collector.add(piece);
        }
        assert_eq!(received, count);
        for buffer in buffers {
            buffer.try_into_mut().expect("no piece of it is left");
        }
        assert_eq!(collector.finish(), vec![7; usize::try_from(count).expect("few")]);
    }
}
