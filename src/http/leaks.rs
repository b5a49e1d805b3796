//! What may have leaked: `GET /stats/leaks`.

use super::allocation::{json, serialize_id};
use super::api::Api;
use super::arena_body::serialize_arena_id;
use super::error::{Problem, ProblemBody};
use super::query::Query;
use crate::clock::Now;
use crate::pool::{AllocationId, ArenaId, LeakReport, Leaked, LeakedTag};
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde::{Serialize, Serializer};
use std::sync::Arc;
use std::time::Duration;
use utoipa::ToSchema;

/// The most that can be asked for: 136 years.
const OLDER_THAN_MAX: u64 = u32::MAX as u64;
/// Before the configuration is known to handlers, which it is from the first look on.
const OLDER_THAN: Duration = Duration::from_secs(300);

/// Allocations without a lease that are old, and since when nobody has read or written them.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Leaks {
    /// How old an allocation is at least that is counted here.
    older_than_seconds: u64,
    /// Allocations.
    count: u64,
    /// Their actual bytes.
    bytes: u64,
    /// Whose they are, most bytes first: up to 64 tags, those without one, and all others as `other`.
    tags: Vec<LeakyTag>,
    /// The 20 largest, of equal ones the oldest first.
    allocations: Vec<LeakedAllocation>,
}

/// What one tag has of them.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LeakyTag {
    /// Null for those without one.
    #[schema(required)]
    tag: Option<String>,
    /// Allocations.
    count: u64,
    /// Their actual bytes.
    bytes: u64,
    /// Age of the oldest.
    oldest_seconds: u64,
    /// Since when none of them was read or written, to a second.
    untouched_seconds: u64,
}

/// One of them.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LeakedAllocation {
    #[serde(serialize_with = "serialize_id")]
    #[schema(value_type = String, format = "uuid")]
    id: AllocationId,
    /// Bytes asked for.
    size_bytes: u64,
    /// Bytes of the block.
    actual_size_bytes: u64,
    /// Whole seconds since it was made.
    age_seconds: u64,
    /// Whole seconds since its content was read or written, to a second; its age where it never was. Of an allocation of up
    /// to 16 KiB in an arena, since any of these was.
    untouched_seconds: u64,
    /// Null where it has none.
    #[schema(required)]
    tag: Option<String>,
    /// The arena it ends with, which has no lease. Only where there is one.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "serialize_arena")]
    #[schema(value_type = String, format = "uuid", required = false)]
    arena: Option<ArenaId>,
    /// The `X-Request-Id` of the request that made it. Null where that is not known any more: it is of 65,536 allocations.
    #[schema(required)]
    request_id: Option<String>,
}

fn serialize_arena<S: Serializer>(arena: &Option<ArenaId>, serializer: S) -> Result<S::Ok, S::Error> {
    match arena {
        Some(arena) => serialize_arena_id(arena, serializer),
        None => serializer.serialize_none(),
    }
}

fn seconds(at: Now, since: Now) -> u64 {
    at.since(since).as_secs()
}

impl LeakyTag {
    fn new(tag: &LeakedTag, at: Now) -> LeakyTag {
        LeakyTag {
            tag: tag.by.name().map(str::to_owned),
            count: tag.count,
            bytes: tag.bytes,
            oldest_seconds: seconds(at, tag.oldest),
            untouched_seconds: seconds(at, tag.touched),
        }
    }
}

impl LeakedAllocation {
    fn new(api: &Api, leaked: &Leaked, at: Now) -> LeakedAllocation {
        let found = &leaked.allocation;
        LeakedAllocation {
            id: found.id,
            size_bytes: found.size_bytes,
            actual_size_bytes: found.actual_size_bytes,
            age_seconds: seconds(at, found.created),
            untouched_seconds: seconds(at, leaked.touched),
            tag: found.tag.as_ref().map(ToString::to_string),
            arena: found.arena,
            request_id: api.origins.find(found.id).map(|request| request.to_string()),
        }
    }
}

impl Leaks {
    fn new(api: &Api, report: &LeakReport) -> Leaks {
        let allocations = report.allocations.iter();
        Leaks {
            older_than_seconds: report.older_than.as_secs(),
            count: report.count,
            bytes: report.bytes,
            tags: report.tags.iter().map(|tag| LeakyTag::new(tag, report.at)).collect(),
            allocations: allocations.map(|leaked| LeakedAllocation::new(api, leaked, report.at)).collect(),
        }
    }
}

/// Allocations that may have leaked
///
/// Those without a lease, by tag, and the largest with the request that made each. One that has a lease ends by itself, and
/// so does one in an arena that has.
#[utoipa::path(
    get, path = "/stats/leaks", tag = "service",
    params(("older_than_seconds" = Option<u64>, Query, description = "Age from which an allocation is counted; without it, `leaks.older_than`", maximum = 4_294_967_295_u64)),
    responses((status = 200, description = "What was found", body = Leaks), (status = 400, response = ProblemBody))
)]
pub(super) async fn leaks(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    const NAME: &str = "older_than_seconds";
    let query = Query::parse(&uri, &[NAME])?;
    let rule = format!("it is a whole number from 0 to {OLDER_THAN_MAX}");
    let asked = query.whole(NAME, 0..=OLDER_THAN_MAX, &rule)?.map(Duration::from_secs);
    let configured = || api.pool.last_leaks().map_or(OLDER_THAN, |report| report.older_than);
    let older_than = asked.unwrap_or_else(configured);
    let report = {
        // A look at many allocations takes its time, however many ask for one.
        let _alone = api.leak_look.lock().await;
        api.pool.leaks(older_than, Now::read()).await
    };
    Ok(json(StatusCode::OK, &Leaks::new(&api, &report)))
}
