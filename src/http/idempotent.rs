//! Requests that say who they are: the `Idempotency-Key` header, and the answers to those that come twice.
//!
//! The pool remembers keys (`pool/idempotency.rs`); here is how they are read and what a repeat is told.

use super::allocation::{ListRoom, created};
use super::api::Api;
use super::error::{Code, Problem};
use crate::clock::Now;
use crate::pool::{Allocation, AllocationId, Begun, Digest, Digester, KeyError, Served, Ticket};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// Bytes of a key at most.
const KEY_BYTES_MAX: usize = 255;

/// The key of a request, where it has one.
pub(super) fn key_of(headers: &HeaderMap) -> Result<Option<&[u8]>, Problem> {
    let refuse = |what: &str| {
        let rule = format!("it stands once and has 1 to {KEY_BYTES_MAX} characters");
        Problem::new(Code::InvalidField, format!("the header Idempotency-Key {what}; {rule}"))
    };
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = keys.next() else { return Ok(None) };
    if keys.next().is_some() {
        return Err(refuse("stands more than once"));
    }
    match key.len() {
        0 => Err(refuse("is empty")),
        1..=KEY_BYTES_MAX => Ok(Some(key.as_bytes())),
        length => Err(refuse(&format!("has {length} characters"))),
    }
}

/// A request that allocates, as far as its key is concerned.
pub(super) enum Attempt<'a> {
    /// It has no key.
    Unkeyed,
    /// It is the first with its key. Dropped before it is served, it leaves no key behind.
    First(Ticket<'a>, Digester),
    /// One with its key was served.
    Repeat(Served, Digester),
}

impl<'a> Attempt<'a> {
    /// Begins a request; its digest begins with the route, the media type of its body, and its query.
    pub(super) fn begin(api: &'a Api, head: &Parts, media_type: &str) -> Result<Attempt<'a>, Problem> {
        let Some(key) = key_of(&head.headers)? else { return Ok(Attempt::Unkeyed) };
        let mut digester = Digester::default();
        for part in [head.uri.path(), media_type, head.uri.query().unwrap_or_default()] {
            digester.part(part.as_bytes());
        }
        match api.pool.idempotency().begin(key, Now::read()) {
            Ok(Begun::New(ticket)) => Ok(Attempt::First(ticket, digester)),
            Ok(Begun::Repeat(served)) => Ok(Attempt::Repeat(served, digester)),
            Err(KeyError::InUse) => {
                let detail =
                    "a request with this Idempotency-Key is still running; ask again when it is done";
                Err(Problem::new(Code::KeyInUse, detail))
            }
            Err(error @ KeyError::Full { .. }) => {
                let refusal = api.refusal(None, None, "keys");
                Err(Problem::new(Code::InflightExhausted, error.to_string()).with_refusal(refusal))
            }
        }
    }

    /// Adds a piece of the body to the digest.
    pub(super) fn digest(&mut self, piece: &[u8]) {
        match self {
            Attempt::Unkeyed => {}
            Attempt::First(_, digester) | Attempt::Repeat(_, digester) => digester.piece(piece),
        }
    }

    /// What the request with the key made, if this is its repeat; called when all of the body was digested.
    pub(super) fn repeats(&self) -> Result<Option<Repeats<'_>>, Problem> {
        let Attempt::Repeat(served, digester) = self else { return Ok(None) };
        let digest: Digest = digester.clone().finish();
        if digest != served.digest {
            let detail = "this Idempotency-Key was used for a request with another route, query or body; \
                          a new request needs a new key";
            return Err(Problem::new(Code::KeyReused, detail));
        }
        Ok(Some(Repeats { ids: &served.ids }))
    }

    /// The request was served: called in one breath with making `ids`.
    pub(super) fn finish(self, ids: &[AllocationId], now: Now) {
        if let Attempt::First(ticket, digester) = self {
            ticket.finish(digester.finish(), ids, now);
        }
    }
}

/// What a repeat is answered with: nothing is allocated again.
pub(super) struct Repeats<'a> {
    ids: &'a [AllocationId],
}

impl Repeats<'_> {
    /// The answer where one allocation was made.
    pub(super) async fn one(&self, api: &Api) -> Result<(Response, Allocation), Problem> {
        let now = Now::read();
        let found = self.living(api, now).await;
        let found = found.into_iter().next().ok_or_else(gone)?;
        Ok((replayed(created(&found, now)), found))
    }

    /// The answer where a batch was made: those that still live.
    pub(super) async fn batch(&self, api: &Api) -> Result<Response, Problem> {
        let now = Now::read();
        let found = self.living(api, now).await;
        if found.is_empty() {
            return Err(gone());
        }
        let tags = found.iter().filter_map(|found| found.tag.as_ref()).map(|tag| tag.as_str().len());
        let room = ListRoom::take(api, found.len(), tags.sum())?;
        Ok(replayed(room.answer(&found, now)))
    }

    async fn living(&self, api: &Api, now: Now) -> Vec<Allocation> {
        let mut found = Vec::with_capacity(self.ids.len());
        for id in self.ids {
            found.extend(api.pool.get(*id, now).await.ok());
        }
        found
    }
}

fn replayed(mut response: Response) -> Response {
    response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    response
}

fn gone() -> Problem {
    let detail = "the request with this Idempotency-Key was served before, and what it allocated has ended since; \
                  nothing was allocated again";
    Problem::new(Code::ReplayedAndGone, detail)
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    #[test]
    fn a_key_stands_once_and_has_1_to_255_characters() {
        let key = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(IDEMPOTENCY_KEY, value.parse().expect("a header value"));
            }
            key_of(&headers).map(|key| key.map(<[u8]>::len)).map_err(|problem| problem.detail)
        };
        assert_eq!(
            (key(&[]), key(&["a b"]), key(&[&"k".repeat(255)])),
            (Ok(None), Ok(Some(3)), Ok(Some(255)))
        );
        assert!(key(&[""]).expect_err("empty").contains("is empty"));
        assert!(
            key(&[&"k".repeat(256)]).expect_err("long").contains("has 256 characters; it stands once and")
        );
        assert!(key(&["a", "a"]).expect_err("twice").contains("more than once"));
    }
}
