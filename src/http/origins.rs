//! Which request made which allocation, for whoever hunts a leak: the pool never sees a request's id.
//!
//! Of the numbers that the pool gives to allocations the live ones differ, and mostly the small ones are in use. So the
//! number says the place here, and an allocation that is made takes the place of one that is gone, without anybody having
//! to say that it is: nothing is searched, nothing is swept. Places end at a bound; beyond it two numbers share one, and
//! whose allocation was made first keeps it as long as that lives.

use super::api::Api;
use super::request_id;
use crate::clock::Now;
use crate::pool::{AllocationId, Pool, PoolStats};
use axum::http::HeaderValue;
use parking_lot::Mutex;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Allocations whose request is known, at most. A place has 40 bytes, and an id of more than 16 characters up to 80 beside
/// it, once for all that its request made: 8 MiB at most, of what was ever used.
pub(super) const ORIGINS_MAX: usize = 1 << 16;
/// Bytes that all of it can become.
pub const BYTES_MAX: u64 = (ORIGINS_MAX * LONG_BYTES
    + ORIGINS_MAX / LANE_PLACES * (size_of::<OnceLock<Box<Lane>>>() + size_of::<Lane>()))
    as u64;
/// The longest id beside its place, with the two counters of who shares it.
const LONG_BYTES: usize = request_id::LENGTH_MAX + 2 * size_of::<usize>();
/// Places under one lock: as many as a thread takes numbers of the pool's table at a time, so that threads rarely meet.
const LANE_PLACES: usize = 64;
/// Characters of an id that are kept in its place: all of one of ours.
const SHORT_LENGTH: usize = 16;

/// A request's id, in little room.
#[derive(Clone, Debug)]
pub(super) struct RequestId(Text);

#[derive(Clone, Debug)]
enum Text {
    Short { bytes: [u8; SHORT_LENGTH], length: u8 },
    Long(Arc<[u8]>),
}

impl RequestId {
    fn is_long(&self) -> bool {
        matches!(self.0, Text::Long(_))
    }

    /// The id in this header, which has no more of its buffer then.
    pub(super) fn of(header: &HeaderValue) -> RequestId {
        let text = header.as_bytes();
        match u8::try_from(text.len()) {
            Ok(length) if text.len() <= SHORT_LENGTH => {
                let mut bytes = [0; SHORT_LENGTH];
                bytes[..text.len()].copy_from_slice(text);
                RequestId(Text::Short { bytes, length })
            }
            _ => RequestId(Text::Long(text.into())),
        }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = match &self.0 {
            Text::Short { bytes, length } => &bytes[..usize::from(*length)],
            Text::Long(bytes) => bytes,
        };
        out.write_str(&String::from_utf8_lossy(bytes)) // it is printable ASCII
    }
}

type Lane = Mutex<[Option<(AllocationId, RequestId)>; LANE_PLACES]>;

const _: () = assert!(size_of::<Option<(AllocationId, RequestId)>>() == 40, "as the bound above says");
const _: () = assert!(BYTES_MAX <= 8 << 20, "as the bound above says");

/// See the module.
#[derive(Debug)]
pub(super) struct Origins {
    lanes: Box<[OnceLock<Box<Lane>>]>,
    /// Places whose id lies beside them. Changed with the lane locked.
    long: AtomicU64,
}

impl Api {
    /// The pool's numbers, with the records that are kept here among the metadata.
    pub(super) async fn pool_stats(&self) -> PoolStats {
        let mut stats = self.pool.stats().await;
        stats.metadata_bytes += self.origins.metadata_bytes();
        stats.metadata_bytes_max += BYTES_MAX;
        stats
    }
}

impl Origins {
    pub(super) fn new() -> Origins {
        Origins {
            lanes: (0..ORIGINS_MAX / LANE_PLACES).map(|_| OnceLock::new()).collect(),
            long: AtomicU64::new(0),
        }
    }

    /// Bytes of it. An id of more than 16 characters counts as one of 64, and for each allocation that its request made.
    fn metadata_bytes(&self) -> u64 {
        let lanes = self.lanes.iter().filter(|lane| lane.get().is_some()).count();
        (size_of_val(&*self.lanes) + lanes * size_of::<Lane>()) as u64
            + self.long.load(Ordering::Relaxed) * LONG_BYTES as u64
    }

    /// Notes that these allocations, which the pool made a moment ago, were made for that request.
    pub(super) fn note(
        &self,
        pool: &Pool,
        ids: impl IntoIterator<Item = AllocationId>,
        request: Option<&RequestId>,
        now: Now,
    ) {
        let Some(request) = request else { return };
        for id in ids {
            let (lane, at) = place(id);
            let mut lane =
                self.lanes[lane].get_or_init(|| Box::new(Mutex::new([const { None }; LANE_PLACES]))).lock();
            let is_taken = lane[at].as_ref().is_some_and(|(other, _)| {
                // A number is given away again when what had it is gone.
                other.number() != id.number() && pool.is_live(*other, now)
            });
            if !is_taken {
                let before = lane[at].replace((id, request.clone()));
                match (before.is_some_and(|(_, before)| before.is_long()), request.is_long()) {
                    (false, true) => _ = self.long.fetch_add(1, Ordering::Relaxed),
                    (true, false) => _ = self.long.fetch_sub(1, Ordering::Relaxed),
                    _ => {}
                }
            }
        }
    }

    /// The id of the request that made an allocation, if it is known.
    pub(super) fn find(&self, id: AllocationId) -> Option<RequestId> {
        let (lane, at) = place(id);
        let lane = self.lanes[lane].get()?.lock();
        lane[at].as_ref().filter(|(known, _)| *known == id).map(|(_, request)| request.clone())
    }
}

/// Lane and place of an id. Those of members are counted from the end: of both kinds the small numbers are in use.
fn place(id: AllocationId) -> (usize, usize) {
    let at = id.number().index as usize % ORIGINS_MAX;
    let at = if id.number().is_member { ORIGINS_MAX - 1 - at } else { at };
    (at / LANE_PLACES, at % LANE_PLACES)
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use crate::memory::{self, Heap};
    use crate::pool::{AllocateRequest, Config};
    use std::time::Duration;

    const NOW: Now = Now(1_000_000_000);

    fn pool() -> Pool {
        let sizes =
            memory::Config { slab_sizes: vec![64], max_pool_size: 64 << 20, ..memory::Config::default() };
        Pool::new(Heap::new(&sizes).expect("the configuration is right"), &Config::default())
    }

    async fn make(pool: &Pool) -> AllocationId {
        pool.allocate(&AllocateRequest::new(8), Duration::ZERO, NOW).await.expect("there is room").id
    }

    fn request(text: &str) -> RequestId {
        RequestId::of(&HeaderValue::from_str(text).expect("a header value"))
    }

    fn found(origins: &Origins, id: AllocationId) -> Option<String> {
        origins.find(id).map(|request| request.to_string())
    }

    #[test]
    fn ids_of_every_length_read_back() {
        for length in 1..=64 {
            let text = "0123456789abcdef ~xyz".chars().cycle().take(length).collect::<String>();
            assert_eq!(request(&text).to_string(), text);
        }
    }

    #[tokio::test]
    async fn an_origin_is_known_as_long_as_its_allocation_lives() {
        let (pool, origins) = (pool(), Origins::new());
        let id = make(&pool).await;
        assert_eq!(found(&origins, id), None);
        origins.note(&pool, [id], Some(&request("first")), NOW);
        origins.note(&pool, [id], None, NOW);
        assert_eq!(found(&origins, id).as_deref(), Some("first"));
        pool.free(id, NOW).await.expect("it is live");
        let next = make(&pool).await;
        assert_eq!(next.number(), id.number(), "the entry is used again");
        assert_eq!(found(&origins, next), None, "nobody inherits");
        origins.note(&pool, [next], Some(&request("second")), NOW);
        assert_eq!((found(&origins, id), found(&origins, next).as_deref()), (None, Some("second")));
    }

    #[tokio::test]
    async fn its_bytes_are_of_what_was_used_and_of_ids_that_lie_beside() {
        let (pool, origins) = (pool(), Origins::new());
        let empty = origins.metadata_bytes();
        let id = make(&pool).await;
        let long = request("longer than 16 characters");
        let mut bytes = Vec::new();
        for request in [request("short"), long.clone(), long, request("short")] {
            origins.note(&pool, [id], Some(&request), NOW);
            bytes.push(origins.metadata_bytes());
        }
        let lane = empty + size_of::<Lane>() as u64;
        assert_eq!(bytes, [lane, lane + 80, lane + 80, lane]);
        pool.free(id, NOW).await.expect("it is live");
        let longest = request(&"x".repeat(64));
        for _ in 0..=ORIGINS_MAX + 64 {
            origins.note(&pool, [make(&pool).await], Some(&longest), NOW);
        }
        assert_eq!(origins.metadata_bytes(), BYTES_MAX);
    }

    #[tokio::test]
    async fn beyond_the_bound_who_was_first_keeps_the_place_while_it_lives() {
        let (pool, origins) = (pool(), Origins::new());
        let mut ids = Vec::new();
        for _ in 0..=ORIGINS_MAX + 64 {
            let id = make(&pool).await;
            origins.note(&pool, [id], Some(&request("r")), NOW);
            ids.push(id);
        }
        let known = ids.iter().filter(|id| found(&origins, **id).is_some()).count();
        assert_eq!(known, ORIGINS_MAX, "as many as there are places");
        let beyond = *ids.iter().find(|id| found(&origins, **id).is_none()).expect("one has none");
        let first = *ids.iter().find(|id| place(**id) == place(beyond)).expect("it shares a place");
        pool.free(first, NOW).await.expect("it is live");
        origins.note(&pool, [beyond], Some(&request("late")), NOW);
        assert_eq!((found(&origins, first), found(&origins, beyond).as_deref()), (None, Some("late")));
    }
}
