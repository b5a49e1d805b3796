//! Clients that want to be told how full memory is, as server-sent events: on each change of level at once, and every so
//! often.
//!
//! Nothing is kept for them: an event is made of what is true when the client takes it, so one that reads slowly gets
//! fewer, and holds no memory: levels that were passed through meanwhile are one event. A stream ends when the service stops,
//! so that it does not hold that up.

use super::api::Api;
use super::error::{Code, Problem};
use crate::clock::Now;
use crate::pressure::{Gauge, Level};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

/// Streams that are open at once. Each is one of `server.max_connections`, or of an HTTP/2 connection's streams.
pub(super) const STREAMS_MAX: usize = 256;
/// Without anything to say, a comment is sent so often: what lies in between takes the stream for alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The level is observed so often for whoever listens: a level that falls, because memory was freed, is observed by nobody
/// else.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// So many changes lead back to the level that was told last. A single one may be that level itself: it is seen a moment before it
/// is counted.
const THERE_AND_BACK: u64 = 2;
/// What a client is told to wait before it comes again after its stream ended.
const RECONNECT_MILLISECONDS: u64 = 2000;

/// See the module. One of a service.
#[derive(Debug)]
pub(super) struct Events {
    interval: Duration,
    changes: watch::Sender<Changes>,
    places: Arc<Semaphore>,
}

/// What streams are woken for.
#[derive(Clone, Copy, Debug, Default)]
struct Changes {
    /// Of the level, so far.
    count: u64,
    /// Nobody is told anything any more.
    over: bool,
}

impl Events {
    /// Told by `gauge`, and every `interval`.
    pub(super) fn new(gauge: &Gauge, interval: Duration) -> Events {
        let (changes, _) = watch::channel(Changes::default());
        let told = changes.clone();
        gauge.tell(Box::new(move |_| told.send_modify(|changes| changes.count += 1)));
        Events { interval, changes, places: Arc::new(Semaphore::new(STREAMS_MAX)) }
    }

    /// Ends all streams, now and later.
    pub(super) fn close(&self) {
        self.changes.send_modify(|changes| changes.over = true);
    }

    /// A stream of events named `name`, whose data `tell` says; in one line each.
    pub(super) fn stream(&self, api: &Arc<Api>, tell: Tell) -> Result<EventStream, Problem> {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let detail =
                format!("{STREAMS_MAX} streams of events are open, as many as can be; ask GET /pressure");
            return Err(Problem::new(Code::InflightExhausted, detail));
        };
        let now = Instant::now();
        let listener = Listener {
            api: api.clone(),
            tell,
            interval: self.interval,
            changes: self.changes.subscribe(),
            level: None,
            count: 0,
            due: now,
            spoke: now,
            _place: place,
        };
        Ok(EventStream(Some(Box::pin(listener.next()))))
    }
}

/// Makes the data of an event: one line, and the level that it tells.
type Tell = fn(&Api, Now) -> (Level, String);

/// What one stream knows.
struct Listener {
    api: Arc<Api>,
    tell: Tell,
    interval: Duration,
    changes: watch::Receiver<Changes>,
    /// As it was told last; none before the first event.
    level: Option<Level>,
    /// Changes that were counted when that was looked up.
    count: u64,
    /// When the next event is due, whatever happens.
    due: Instant,
    /// When anything was said last.
    spoke: Instant,
    _place: OwnedSemaphorePermit,
}

impl Listener {
    /// Waits until there is something to say; none at the end.
    async fn next(mut self) -> Option<(Bytes, Listener)> {
        loop {
            let changes = *self.changes.borrow_and_update();
            if changes.over {
                return None;
            }
            let now = Instant::now();
            let level = self.api.pool.pressure(Now::read()).level;
            if now >= self.due || self.level != Some(level) || changes.count >= self.count + THERE_AND_BACK {
                return Some((self.event(now), self));
            }
            if now >= self.spoke + KEEP_ALIVE {
                self.spoke = now;
                return Some((Bytes::from_static(b": still here\n\n"), self));
            }
            let look = self.due.min(now + LOOK_EVERY);
            tokio::select! {
                // Fails only where the sender is gone, with the service.
                changed = self.changes.changed() => changed.ok()?,
                () = tokio::time::sleep_until(look) => {}
            }
        }
    }

    fn event(&mut self, now: Instant) -> Bytes {
        // Before the level is looked up: what changes from here on is told by the next event.
        self.count = self.changes.borrow().count;
        let (level, data) = (self.tell)(&self.api, Now::read());
        let retry = match self.level {
            None => format!("retry: {RECONNECT_MILLISECONDS}\n"),
            Some(_) => String::new(),
        };
        self.level = Some(level);
        self.spoke = now;
        // Where a change made an event, the next regular one comes when it would have come.
        if now >= self.due {
            self.due = now + self.interval;
        }
        Bytes::from(format!("{retry}event: pressure\ndata: {data}\n\n"))
    }
}

type Next = Pin<Box<dyn Future<Output = Option<(Bytes, Listener)>> + Send>>;

/// The body of a stream; none at its end.
pub(super) struct EventStream(Option<Next>);

impl http_body::Body for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(next) = &mut self.0 else { return Poll::Ready(None) };
        match ready!(next.as_mut().poll(context)) {
            Some((event, listener)) => {
                self.0 = Some(Box::pin(listener.next()));
                Poll::Ready(Some(Ok(Frame::data(event))))
            }
            None => {
                self.0 = None;
                Poll::Ready(None)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
