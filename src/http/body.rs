//! A request's body on its way in: held to a minimum rate, and never left lying in the client's way.
//!
//! Nothing is buffered here: a piece is handed on as it came. A handler that refuses early just drops the body; what
//! the client still sends is then read and thrown away within bounds, because a client that is still writing would
//! otherwise see a broken connection instead of the answer.

use super::connection::{Connection, Hold};
use super::traffic::TimeOut;
use crate::clock::Now;
use axum::BoxError;
use axum::body::Body;
use axum::http::Version;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// Bytes of a refused body that are read and thrown away at most, so that the client sees the answer.
pub(super) const DISCARDED_BYTES_MAX: u64 = 64 << 20;

/// Time that is spent on it at most.
pub(super) const DISCARD_TIME_MAX: Duration = Duration::from_secs(2);

/// Why a body could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// It came more slowly than the minimum rate: 408.
    #[error("the body stopped at {received_bytes} bytes, below {bytes_per_second_min} bytes a second")]
    Timeout {
        /// Bytes that had come.
        received_bytes: u64,
        /// The rate that was asked of it.
        bytes_per_second_min: u64,
    },
    /// It is longer than the caller takes: 413.
    #[error("the body is longer than {limit_bytes} bytes")]
    TooLarge {
        /// What the caller takes.
        limit_bytes: u64,
    },
    /// The client broke it off, or sent what is no valid body.
    #[error("the body broke off: {0}")]
    Broken(#[source] BoxError),
}

impl From<axum::Error> for BodyError {
    /// Finds the error that a request's body failed with inside what axum made of it.
    fn from(error: axum::Error) -> BodyError {
        match error.into_inner().downcast::<axum::Error>() {
            Ok(inner) => BodyError::from(*inner),
            Err(inner) => match inner.downcast::<BodyError>() {
                Ok(error) => *error,
                Err(foreign) => BodyError::Broken(foreign),
            },
        }
    }
}

/// Bytes of memory that the body takes at least once it has to be copied.
const COPY_BYTES_MIN: usize = 4 << 10;

/// A short body that is read whole: piece by piece, so that the caller can pay for the memory of each before it is
/// taken.
///
/// A piece is a slice of the buffer that it was read into, and keeps all of it: a body that trickles in byte by byte
/// would hold thousands of times its length. So only a body that came in one piece, into the buffer of a connection
/// that carries nothing else meanwhile, is kept as it came. All else is copied together, into memory of known size.
#[derive(Debug)]
pub struct Collector {
    body: Body,
    /// HTTP/2: the buffer is that of many requests.
    shares_buffer: bool,
    is_over: bool,
    limit_bytes: u64,
    /// What can come at most: the limit, or less where the client announced so.
    expected_bytes_max: usize,
    /// The body as it came; empty where it is copied.
    uncopied: Bytes,
    /// Grows by doubling: a client pays with bytes for the memory it makes us take, not with a promise.
    copied: Vec<u8>,
}

impl Collector {
    /// Begins to read a body of at most `limit_bytes`.
    ///
    /// # Errors
    /// [`BodyError::TooLarge`] before anything is read where the client announced its length.
    pub fn new(body: Body, limit_bytes: u64, version: Version) -> Result<Collector, BodyError> {
        let announced = body.size_hint();
        if announced.lower() > limit_bytes {
            return Err(BodyError::TooLarge { limit_bytes });
        }
        let most = announced.upper().map_or(limit_bytes, |upper| upper.min(limit_bytes));
        Ok(Collector {
            body,
            shares_buffer: version >= Version::HTTP_2,
            is_over: false,
            limit_bytes,
            expected_bytes_max: usize::try_from(most).unwrap_or(usize::MAX),
            uncopied: Bytes::new(),
            copied: Vec::new(),
        })
    }

    /// The next piece, which is the caller's until it is added; none at the end.
    ///
    /// # Errors
    /// [`BodyError`]; the body cannot be read any further.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        while !self.is_over {
            let Some(frame) = self.body.frame().await else { break };
            let Ok(piece) = frame?.into_data() else { continue }; // trailers say nothing to us
            self.is_over = self.body.is_end_stream();
            if (self.copied.len() + piece.len()) as u64 > self.limit_bytes {
                return Err(BodyError::TooLarge { limit_bytes: self.limit_bytes });
            }
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
        self.is_over = true;
        Ok(None)
    }

    /// Whether `piece` is the whole body and lies in its connection's own buffer: no copy is needed.
    pub fn is_whole(&self, piece: &Bytes) -> bool {
        self.is_over && !self.shares_buffer && self.copied.is_empty() && !piece.is_empty()
    }

    /// Bytes of memory that the body takes once `piece` is added.
    pub fn bytes_with(&self, piece: &Bytes) -> u64 {
        if self.is_whole(piece) { piece.len() as u64 } else { self.capacity_with(piece.len()) as u64 }
    }

    fn capacity_with(&self, more: usize) -> usize {
        let length = self.copied.len() + more;
        if length <= self.copied.capacity() {
            self.copied.capacity()
        } else if self.is_over {
            length
        } else {
            length.next_power_of_two().max(COPY_BYTES_MIN).min(self.expected_bytes_max).max(length)
        }
    }

    /// Keeps a piece.
    pub fn add(&mut self, piece: Bytes) {
        if self.is_whole(&piece) {
            self.uncopied = piece;
        } else {
            let capacity = self.capacity_with(piece.len());
            self.copied.reserve_exact(capacity - self.copied.len());
            self.copied.extend_from_slice(&piece);
        }
    }

    /// All that came.
    pub fn finish(self) -> Bytes {
        if self.copied.is_empty() { self.uncopied } else { self.copied.into() }
    }
}

/// The body of a request, from the protocol to the handler.
#[derive(Debug)]
pub(super) struct RequestBody {
    incoming: Option<Incoming>,
    hold: Option<Hold>,
    /// The client waits for `100 Continue`, which the first poll sends.
    expects_continue: bool,
    was_polled: bool,
    /// It ended or failed: there is nothing more to read, nor to discard.
    is_over: bool,
    received_bytes: u64,
    /// Time the handler has waited for the client in all. Time it took for itself is not the client's fault.
    waited: Duration,
    waiting: Option<Waiting>,
}

/// Made at the first wait; most bodies are there when they are asked for.
#[derive(Debug)]
struct Waiting {
    /// When the running wait began; `None` between waits.
    since: Option<Now>,
    /// When the timer rings: never later than the deadline, often earlier.
    armed: Now,
    timer: Pin<Box<Sleep>>,
}

impl RequestBody {
    pub(super) fn new(
        incoming: Incoming,
        connection: Arc<Connection>,
        expects_continue: bool,
    ) -> RequestBody {
        RequestBody {
            incoming: Some(incoming),
            hold: Some(Hold::new(connection, true)),
            expects_continue,
            was_polled: false,
            is_over: false,
            received_bytes: 0,
            waited: Duration::ZERO,
            waiting: None,
        }
    }

    fn connection(&self) -> &Connection {
        self.hold.as_ref().expect("the hold leaves only with the body").connection()
    }

    /// Nothing is there. Ready where the client has had all the time that its bytes bought.
    #[cold]
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<BodyError> {
        let limits = self.connection().shared.limits;
        let Some(allowed) = limits.allowance(self.received_bytes) else { return Poll::Pending };
        let mut now = Now::read();
        let left = allowed.saturating_sub(self.waited);
        let waiting = self.waiting.get_or_insert_with(|| Waiting {
            since: None,
            armed: now.after(left),
            timer: Box::pin(tokio::time::sleep(left)),
        });
        let deadline = waiting.since.get_or_insert(now).after(left);
        while now < deadline {
            // Set only where it would ring too late: each piece moves the deadline on, and most are never reached.
            if deadline < waiting.armed || waiting.timer.is_elapsed() {
                waiting.armed = deadline;
                waiting.timer.as_mut().reset(Instant::now() + deadline.since(now));
            }
            if waiting.timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            now = Now::read();
        }
        self.is_over = true;
        self.connection().shared.traffic.timed_out(TimeOut::Body);
        Poll::Ready(BodyError::Timeout {
            received_bytes: self.received_bytes,
            bytes_per_second_min: limits.bytes_per_second_min,
        })
    }

    /// A wait is over, if there was one.
    fn count_wait(&mut self) {
        if let Some(since) = self.waiting.as_mut().and_then(|waiting| waiting.since.take()) {
            self.waited += Now::read().since(since);
        }
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let body = self.get_mut();
        body.was_polled = true;
        if body.is_over {
            return Poll::Ready(None);
        }
        let incoming = body.incoming.as_mut().expect("the protocol's body leaves only with ours");
        let Poll::Ready(frame) = Pin::new(incoming).poll_frame(context) else {
            return body.wait(context).map(|error| Some(Err(error)));
        };
        body.count_wait();
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                body.received_bytes += frame.data_ref().map_or(0, |piece| piece.len() as u64);
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                body.is_over = true;
                Some(Err(BodyError::Broken(error.into())))
            }
            None => {
                body.is_over = true;
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(SizeHint::default, http_body::Body::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let (Some(incoming), Some(hold)) = (self.incoming.take(), self.hold.take()) else { return };
        // A client that waits for `100 Continue` sends nothing unless we ask. HTTP/2 could refuse a single stream's rest
        // by itself (RST_STREAM with NO_ERROR after the answer), but some clients, curl 7.88 among them, take that for a
        // broken stream and lose the answer.
        let client_waits = self.expects_continue && !self.was_polled;
        if self.is_over
            || client_waits
            || incoming.is_end_stream()
            || tokio::runtime::Handle::try_current().is_err()
        {
            return;
        }
        let shared = hold.connection().shared.clone();
        shared.tasks.spawn(discard(incoming, hold));
    }
}

/// Reads what the client still sends, within bounds. Ends early when the connection does.
async fn discard(mut incoming: Incoming, hold: Hold) {
    let mut left_bytes = DISCARDED_BYTES_MAX;
    let read = async {
        while let Some(Ok(frame)) = incoming.frame().await {
            let length = frame.data_ref().map_or(0, |piece| piece.len() as u64);
            let Some(left) = left_bytes.checked_sub(length) else { return };
            left_bytes = left;
        }
    };
    // Too slow is as good as too long: the protocol closes the connection when the body goes.
    let _ = tokio::time::timeout(DISCARD_TIME_MAX, read).await;
    drop(incoming);
    drop(hold);
}
