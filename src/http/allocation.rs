//! An allocation as clients see it, alone, in a page, in a batch; and the answers that have one.

use super::api::Api;
use super::arena_body::serialize_arena_id;
use super::error::Problem;
use crate::clock::Now;
use crate::pool::{Allocation, AllocationId, ArenaId, InflightCharge};
use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

/// An allocation as clients see it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Allocation)]
pub(super) struct AllocationBody<'a> {
    /// Names the allocation. A freed id never works again.
    #[serde(serialize_with = "serialize_id")]
    #[schema(value_type = String, format = "uuid")]
    id: AllocationId,
    /// Bytes asked for.
    size_bytes: u64,
    /// Bytes of the block.
    actual_size_bytes: u64,
    /// `actual_size_bytes` / 1048576.
    size_mb: f64,
    /// Whole seconds since the allocation was made, rounded down.
    age_seconds: u64,
    /// Whole seconds until the lease ends, rounded up. Only where there is a lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    expires_in_seconds: Option<u64>,
    /// Only where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    tag: Option<&'a str>,
    /// The arena it ends with. Only where there is one.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "serialize_arena")]
    #[schema(value_type = String, format = "uuid", required = false)]
    arena: Option<ArenaId>,
}

/// What was allocated together.
#[derive(Debug, ToSchema)]
#[schema(as = AllocatedBatch)]
#[expect(dead_code, reason = "it describes the answer, which is written straight from the allocations")]
pub(super) struct BatchAnswer<'a> {
    /// In the order asked for.
    allocations: Vec<AllocationBody<'a>>,
}

pub(super) fn serialize_id<S: Serializer>(id: &AllocationId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(id.encode(&mut [0; 36]))
}

fn serialize_arena<S: Serializer>(arena: &Option<ArenaId>, serializer: S) -> Result<S::Ok, S::Error> {
    match arena {
        Some(arena) => serialize_arena_id(arena, serializer),
        None => serializer.serialize_none(),
    }
}

/// Whole seconds until a lease ends, rounded up.
pub(super) fn seconds_left(deadline: Now, now: Now) -> u64 {
    u64::try_from(deadline.since(now).as_nanos().div_ceil(1_000_000_000)).unwrap_or(u64::MAX)
}

impl AllocationBody<'_> {
    pub(super) fn new(allocation: &Allocation, now: Now) -> AllocationBody<'_> {
        #[expect(clippy::cast_precision_loss, reason = "the member is a float by contract")]
        let size_mb = allocation.actual_size_bytes as f64 / 1_048_576.0;
        AllocationBody {
            id: allocation.id,
            size_bytes: allocation.size_bytes,
            actual_size_bytes: allocation.actual_size_bytes,
            size_mb,
            age_seconds: now.since(allocation.created).as_secs(),
            expires_in_seconds: allocation.deadline.map(|deadline| seconds_left(deadline, now)),
            tag: allocation.tag.as_ref().map(|tag| tag.as_str()),
            arena: allocation.arena,
        }
    }
}

/// A JSON answer, written in one go.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    json_text(status, serde_json::to_vec(body).expect("text and numbers always serialise"))
}

fn json_text(status: StatusCode, text: impl Into<Body>) -> Response {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The answer to a request that made an allocation.
pub(super) fn created(made: &Allocation, now: Now) -> Response {
    let mut response = json(StatusCode::CREATED, &AllocationBody::new(made, now));
    response.headers_mut().insert(LOCATION, location_of(made.id));
    response
}

fn location_of(id: AllocationId) -> HeaderValue {
    const PREFIX: &[u8] = b"/allocate/";
    let mut path = [0; PREFIX.len() + 36];
    path[..PREFIX.len()].copy_from_slice(PREFIX);
    path[PREFIX.len()..].copy_from_slice(id.encode(&mut [0; 36]).as_bytes());
    HeaderValue::from_bytes(&path).expect("an id is a header value")
}

/// Bytes of an allocation in a list, at most, beside its tag: 36 of the id, 15 for each of the two sizes (up to 2^46),
/// 22 of `size_mb`, 11 for each of the two times, and 103 of names and signs between them.
const LISTED_BYTES_MAX: usize = 36 + 2 * 15 + 22 + 2 * 11 + 103;
/// Bytes of a list without its allocations.
const LIST_BYTES: usize = r#"{"allocations":[]}"#.len();

/// Room for the answer to a batch, taken from the in-flight budget before anything is allocated, so that no answer
/// can be too large to give. It is given back when the answer was sent, or nobody waits for it any more.
pub(super) struct ListRoom {
    bytes: usize,
    charge: InflightCharge,
}

impl ListRoom {
    /// For so many allocations, whose tags have so many bytes in all.
    pub(super) fn take(api: &Api, allocations: usize, tag_bytes: usize) -> Result<ListRoom, Problem> {
        let bytes = LIST_BYTES + allocations * LISTED_BYTES_MAX + tag_bytes;
        Ok(ListRoom { bytes, charge: api.charge_answer(bytes as u64)? })
    }

    /// The answer with what was allocated.
    pub(super) fn answer(self, allocations: &[Allocation], now: Now) -> Response {
        let mut text = Vec::with_capacity(self.bytes);
        text.extend_from_slice(br#"{"allocations":["#);
        for (at, allocation) in allocations.iter().enumerate() {
            if at > 0 {
                text.push(b',');
            }
            serde_json::to_writer(&mut text, &AllocationBody::new(allocation, now))
                .expect("text and numbers always serialise");
        }
        text.extend_from_slice(b"]}");
        debug_assert!(text.len() <= self.bytes, "{} bytes were written, {} charged", text.len(), self.bytes);
        json_text(StatusCode::CREATED, Bytes::from_owner(Charged { text, _charge: self.charge }))
    }
}

/// The text of an answer, and the charge that ends with its last byte.
struct Charged {
    text: Vec<u8>,
    _charge: InflightCharge,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn no_allocation_takes_more_room_in_a_list_than_is_charged_for_it() {
        let tag = "t".repeat(64);
        // The largest numbers there can be: the sizes are bounded by the configuration, the times by the clock.
        for actual_size_bytes in (10..=46).map(|power| (1_u64 << power) - 8).chain([1 << 46]) {
            let made = Allocation {
                id: "00000000-0000-8000-8000-000000000000".parse().expect("an id"),
                size_bytes: actual_size_bytes,
                actual_size_bytes,
                created: Now(0),
                deadline: Some(Now(u64::MAX)),
                tag: Some(tag.parse().expect("a tag")),
                arena: None,
            };
            for now in [Now(0), Now(u64::MAX / 2), Now(u64::MAX).after(Duration::ZERO)] {
                let text = serde_json::to_string(&AllocationBody::new(&made, now)).expect("it serialises");
                let bound = LISTED_BYTES_MAX + tag.len();
                assert!(text.len() < bound, "{} bytes of {bound}: {text}", text.len());
            }
        }
    }
}
