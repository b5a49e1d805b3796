//! One request and its answer: what the protocol hands us becomes what the service takes, and back.
//!
//! The service sees a plain axum request with its [`Arrival`]; the connection is held until the answer's last byte has
//! been handed to the protocol, or the client is gone.
//!
//! An answer with content carries a watch of its read. Here it is handed to the connection, and here the answer ends
//! short where the content was freed or replaced and its reader has had its time.

use super::body::RequestBody;
use super::connection::{Connection, Hold};
use super::server::HTTP2_SEND_BUFFER_BYTES_MAX;
use super::signal::Stage;
use crate::clock::Now;
use crate::pool::ReaderWatch;
use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONNECTION, COOKIE, EXPECT, HeaderMap, HeaderValue, PROXY_AUTHORIZATION};
use hyper::{Request, Response};
use pin_project_lite::pin_project;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// When and from where a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When its first byte was read: the one clock reading of the request.
    pub now: Now,
    /// The client's address.
    pub peer: SocketAddr,
}

/// The service of one connection.
pub(super) struct Exchange<S> {
    service: S,
    connection: Arc<Connection>,
}

impl<S> Exchange<S> {
    pub(super) fn new(service: S, connection: Arc<Connection>) -> Exchange<S> {
        Exchange { service, connection }
    }
}

impl<S, F> hyper::service::Service<Request<Incoming>> for Exchange<S>
where
    S: Fn(Request<Body>, Arrival) -> F,
    F: Future<Output = Response<Body>>,
{
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Answer<F>;

    fn call(&self, request: Request<Incoming>) -> Answer<F> {
        let connection = &self.connection;
        let arrival = Arrival { now: connection.head_ended(), peer: connection.peer };
        let running = Running::new(connection.clone());
        let (mut head, incoming) = request.into_parts();
        let traits = Traits::of(&mut head.headers);
        let body = if incoming.is_end_stream() {
            Body::empty()
        } else {
            Body::new(RequestBody::new(incoming, connection.clone(), traits.expects_continue))
        };
        let future = (self.service)(Request::from_parts(head, body), arrival);
        Answer { future, running: Some(running) }
    }
}

/// What the server itself must know of a request's headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Traits {
    expects_continue: bool,
}

impl Traits {
    /// Looks at each header once, and marks those that must never be shown.
    fn of(headers: &mut HeaderMap) -> Traits {
        let mut traits = Traits::default();
        for (name, value) in headers.iter_mut() {
            if *name == AUTHORIZATION || *name == COOKIE || *name == PROXY_AUTHORIZATION {
                value.set_sensitive(true);
            } else if *name == EXPECT {
                traits.expects_continue = value.as_bytes().eq_ignore_ascii_case(b"100-continue");
            }
        }
        traits
    }
}

/// A request that is running: counted, and holding its connection.
#[derive(Debug)]
struct Running(Hold);

impl Running {
    #[inline]
    fn new(connection: Arc<Connection>) -> Running {
        connection.shared.traffic.request_started();
        let foreign = connection.is_multiplexed();
        Running(Hold::new(connection, foreign))
    }
}

impl Drop for Running {
    #[inline]
    fn drop(&mut self) {
        self.0.connection().shared.traffic.request_ended();
    }
}

pin_project! {
    /// The service's answer under way.
    pub(super) struct Answer<F> {
        #[pin]
        future: F,
        running: Option<Running>,
    }
}

impl<F: Future<Output = Response<Body>>> Future for Answer<F> {
    type Output = Result<Response<ResponseBody>, Infallible>;

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = self.project();
        let mut response = ready!(answer.future.poll(context));
        let running = answer.running.take().expect("a future is not polled after it was ready");
        let connection = running.0.connection();
        let multiplexed = connection.is_multiplexed();
        let stopping = connection.shared.stage() != Stage::Serving;
        if stopping && !multiplexed {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let reader = response.extensions_mut().remove::<ReaderWatch>();
        if let Some(reader) = &reader {
            connection.watch(reader.clone());
        }
        let rest = Bytes::new();
        let answer = |body| ResponseBody { body, rest, reader, running, multiplexed, waits: false };
        Poll::Ready(Ok(response.map(answer)))
    }
}

/// What HTTP/2 is handed at once of an answer. It takes a piece whole, however small the reader's window is; so that
/// the answer runs until its reader has nearly all of it, and can be ended in between, pieces are no longer than what
/// is buffered of a stream anyway.
const HTTP2_PIECE_BYTES_MAX: usize = HTTP2_SEND_BUFFER_BYTES_MAX;

/// The content was freed or replaced, and its reader has had its time.
#[derive(Debug, thiserror::Error)]
#[error("the content was freed or replaced, and the time of its readers is over")]
struct ReaderOverdue;

/// An answer's body; while it lives its request is running.
pub(super) struct ResponseBody {
    body: Body,
    /// HTTP/2: what is left of a long piece.
    rest: Bytes,
    /// Watches the read, where the body is content.
    reader: Option<ReaderWatch>,
    running: Running,
    /// Whether it shares its connection with other answers.
    multiplexed: bool,
    /// Counted among the answers whose next piece was not asked for yet.
    waits: bool,
}

impl ResponseBody {
    /// HTTP/2 readers stall stream by stream, unseen by the socket: keeps count of the answers that wait for them.
    fn set_waits(&mut self, waits: bool) {
        if self.waits != waits {
            self.waits = waits;
            let connection = self.running.0.connection();
            if waits { connection.answer_waits() } else { connection.answer_goes_on() }
        }
    }

    /// Breaks the answer off: HTTP/2 resets its stream, HTTP/1 closes the connection.
    #[cold]
    fn end_reader(&mut self, reader: &ReaderWatch) -> axum::Error {
        self.running.0.connection().end_reader(reader);
        (self.body, self.rest) = (Body::empty(), Bytes::new()); // lets go of what it holds at once
        axum::Error::new(ReaderOverdue)
    }

    /// The next piece, for HTTP/2 one that is not too long.
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(piece))) => self.rest = piece,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let length = self.rest.len().min(HTTP2_PIECE_BYTES_MAX);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let answer = self.get_mut();
        if let Some(reader) = answer.reader.take_if(|reader| reader.is_overdue()) {
            return Poll::Ready(Some(Err(answer.end_reader(&reader))));
        }
        if !answer.multiplexed {
            return Pin::new(&mut answer.body).poll_frame(context);
        }
        let frame = answer.poll_piece(context);
        answer.set_waits(matches!(frame, Poll::Ready(Some(Ok(_)))));
        frame
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        if !self.rest.is_empty() {
            let rest = self.rest.len() as u64;
            let upper = hint.upper().map(|upper| upper + rest);
            let lower = hint.lower() + rest;
            hint = SizeHint::new();
            hint.set_lower(lower);
            upper.into_iter().for_each(|upper| hint.set_upper(upper));
        }
        hint
    }
}

impl Drop for ResponseBody {
    #[inline]
    fn drop(&mut self) {
        self.set_waits(false);
    }
}
