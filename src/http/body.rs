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
use bytes::{Bytes, BytesMut};
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

/// Reads a whole body of at most `limit_bytes`. One that came in one piece is not copied.
///
/// `keep` is told the length with each piece before that is kept, and may refuse it.
///
/// # Errors
/// [`BodyError::TooLarge`] before anything is read where the client announced its length; what `keep` refuses with.
pub async fn collect<E: From<BodyError>>(
    mut body: Body,
    limit_bytes: u64,
    mut keep: impl FnMut(u64) -> Result<(), E>,
) -> Result<Bytes, E> {
    let too_large = || BodyError::TooLarge { limit_bytes };
    if body.size_hint().lower() > limit_bytes {
        return Err(too_large().into());
    }
    let mut collected = Collected::default();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.map_err(BodyError::from)?.into_data() else { continue }; // trailers say nothing to us
        let length = collected.bytes() + piece.len() as u64;
        if length > limit_bytes {
            return Err(too_large().into());
        }
        keep(length)?;
        collected.add(piece);
        if body.is_end_stream() {
            break;
        }
    }
    Ok(collected.finish())
}

/// What has come of a body. One that comes in one piece is not copied.
#[derive(Debug, Default)]
pub(super) struct Collected {
    first: Bytes,
    /// Holds everything once a second piece came.
    all: BytesMut,
}

impl Collected {
    pub(super) fn bytes(&self) -> u64 {
        (self.first.len() + self.all.len()) as u64
    }

    pub(super) fn add(&mut self, piece: Bytes) {
        if self.bytes() == 0 {
            self.first = piece;
        } else {
            // Grows by doubling: a client pays with bytes for the memory it makes us take, not with a promise.
            self.all.extend_from_slice(&std::mem::take(&mut self.first));
            self.all.extend_from_slice(&piece);
        }
    }

    pub(super) fn finish(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
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
