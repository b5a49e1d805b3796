//! Which protocol a connection speaks, and how it begins and ends.
//!
//! ```text
//!   Opening ──▶ Http1 ──▶ Closing (reads what still comes, so that the last answer is not lost) ──▶ Closed
//!          └──▶ Http2 ──▶ Closed
//! ```
//!
//! The first bytes are read here and given back to the protocol they announce; from then on hyper has the socket.

use super::body::{DISCARD_TIME_MAX, DISCARDED_BYTES_MAX};
use super::connection::Connection;
use super::exchange::{Arrival, Exchange};
use super::socket::Socket;
use crate::clock::Now;
use axum::body::Body;
use bytes::Bytes;
use hyper::server::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::task::TaskTracker;

/// What a client with prior knowledge of HTTP/2 sends first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes read at once to tell the protocols apart: more than the preface, so that a whole request comes with it.
const FIRST_READ_BYTES: usize = 1024;

/// Bytes thrown away at once at the end.
const LAST_READ_BYTES: usize = 4096;

/// Runs spawned HTTP/2 streams; the server waits for each of them.
#[derive(Clone, Debug)]
pub(super) struct Streams(pub(super) TaskTracker);

impl<T> hyper::rt::Executor<T> for Streams
where
    T: Future + Send + 'static,
    T::Output: Send,
{
    fn execute(&self, stream: T) {
        self.0.spawn(stream);
    }
}

type Http1<S> = http1::Connection<TokioIo<Socket>, Exchange<S>>;
type Http2<S> = http2::Connection<TokioIo<Socket>, Exchange<S>, Streams>;

/// The protocol of one connection, and its socket. Boxed, so that a socket that says nothing costs little.
pub(super) enum Protocol<S, F>
where
    S: Fn(Request<Body>, Arrival) -> F,
    F: Future<Output = Response<Body>> + 'static,
{
    /// The first bytes will tell.
    Opening {
        socket: Socket,
        /// As far as they have come: all or the beginning of HTTP/2's preface.
        seen: Vec<u8>,
        service: S,
    },
    Http1(Box<Http1<S>>),
    Http2(Pin<Box<Http2<S>>>),
    /// Our side is closed; what the client still sends is thrown away.
    Closing {
        socket: Socket,
        /// Whether to wait for more, or only to take what is there.
        more_comes: bool,
        until: Now,
        left_bytes: u64,
    },
    Closed,
}

impl<S, F> Protocol<S, F>
where
    S: Fn(Request<Body>, Arrival) -> F,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    /// Goes on as far as it can. Ready at the end of the connection.
    #[inline]
    pub(super) fn poll(&mut self, context: &mut Context<'_>, connection: &Arc<Connection>) -> Poll<()> {
        loop {
            match self {
                Protocol::Http1(http1) => {
                    let result = ready!(Pin::new(&mut **http1).poll(context));
                    self.end_http1(&result);
                }
                Protocol::Http2(http2) => return http2.as_mut().poll(context).map(|_| ()),
                Protocol::Opening { .. } => ready!(self.poll_opening(context, connection)),
                Protocol::Closing { .. } => return self.poll_closing(context),
                Protocol::Closed => return Poll::Ready(()),
            }
        }
    }

    /// Asks the client to end: no further request is taken, running ones are finished.
    pub(super) fn shut_down_gracefully(&mut self) {
        match self {
            Protocol::Http1(http1) => Pin::new(&mut **http1).graceful_shutdown(),
            Protocol::Http2(http2) => http2.as_mut().graceful_shutdown(),
            Protocol::Opening { .. } | Protocol::Closing { .. } | Protocol::Closed => {}
        }
    }

    /// Until when the end may take, if it has begun.
    pub(super) fn closing_deadline(&self) -> Option<Now> {
        match self {
            Protocol::Closing { until, .. } => Some(*until),
            _ => None,
        }
    }

    /// Reads until the first bytes tell the protocol, and begins it.
    #[cold]
    fn poll_opening(&mut self, context: &mut Context<'_>, connection: &Arc<Connection>) -> Poll<()> {
        let Protocol::Opening { socket, seen, .. } = self else { return Poll::Ready(()) };
        loop {
            let mut bytes = [0; FIRST_READ_BYTES];
            let mut buffer = ReadBuf::new(&mut bytes);
            let failed = ready!(Pin::new(&mut *socket).poll_read(context, &mut buffer)).is_err();
            if failed || buffer.filled().is_empty() {
                *self = Protocol::Closed;
                return Poll::Ready(());
            }
            seen.extend_from_slice(buffer.filled());
            if seen.len() >= PREFACE.len() || !PREFACE.starts_with(seen) {
                break;
            }
        }
        let Protocol::Opening { mut socket, seen, service } = std::mem::replace(self, Protocol::Closed)
        else {
            return Poll::Ready(());
        };
        let speaks_http2 = seen.starts_with(PREFACE);
        socket.put_back(Bytes::from(seen));
        let exchange = Exchange::new(service, connection.clone());
        let shared = &connection.shared;
        *self = if speaks_http2 {
            connection.multiplex();
            Protocol::Http2(Box::pin(shared.http2.serve_connection(TokioIo::new(socket), exchange)))
        } else {
            Protocol::Http1(Box::new(shared.http1.serve_connection(TokioIo::new(socket), exchange)))
        };
        Poll::Ready(())
    }

    /// HTTP/1 has come to its end. A client that is still sending would lose the last answer to the reset that
    /// closing a socket with unread bytes causes; so its bytes are read for a while.
    #[cold]
    fn end_http1(&mut self, result: &hyper::Result<()>) {
        let Protocol::Http1(http1) = std::mem::replace(self, Protocol::Closed) else { return };
        let socket = http1.into_parts().io.into_inner();
        let head_was_refused = result.as_ref().is_err_and(hyper::Error::is_parse);
        // Any other error broke an answer off: nothing is left to save.
        if (result.is_ok() || head_was_refused) && !socket.has_ended() {
            *self = Protocol::Closing {
                socket,
                more_comes: head_was_refused,
                until: Now::read().after(DISCARD_TIME_MAX),
                left_bytes: DISCARDED_BYTES_MAX,
            };
        }
    }

    #[cold]
    fn poll_closing(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Protocol::Closing { socket, more_comes, left_bytes, .. } = self else { return Poll::Ready(()) };
        let mut bytes = [0; LAST_READ_BYTES];
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            let Poll::Ready(read) = Pin::new(&mut *socket).poll_read(context, &mut buffer) else {
                return if *more_comes { Poll::Pending } else { Poll::Ready(()) };
            };
            let length = buffer.filled().len() as u64;
            *more_comes = true;
            *left_bytes = left_bytes.saturating_sub(length);
            if read.is_err() || length == 0 || *left_bytes == 0 {
                return Poll::Ready(());
            }
        }
    }
}
