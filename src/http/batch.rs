//! Many allocations in one request: made together or not at all, freed together as far as they live.

use super::allocate::Priority;
use super::allocation::{BatchAnswer, ListRoom, json, serialize_id};
use super::api::Api;
use super::batch_body::{Batch, parse_ids};
use super::error::{Asked, Problem, ProblemBody};
use super::idempotent::Attempt;
use super::query;
use crate::clock::Now;
use crate::pool::AllocationId;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use serde::{Serialize, Serializer};
use std::sync::Arc;
use utoipa::ToSchema;

/// What to allocate together: `size_bytes` and `count`, or `allocations`.
#[derive(ToSchema)]
#[schema(as = AllocateBatchRequest)]
#[expect(
    dead_code,
    reason = "it describes the body; batch_body.rs parses it, for errors that name the field"
)]
pub(super) struct AllocateBatchBody {
    /// Bytes wanted of each of `count` blocks.
    #[schema(nullable = false, minimum = 1, example = 4096)]
    size_bytes: Option<u64>,
    /// Blocks of `size_bytes`.
    #[schema(nullable = false, minimum = 1, maximum = 10_000, example = 3)]
    count: Option<u64>,
    /// Blocks that differ; instead of `size_bytes` and `count`.
    #[schema(nullable = false, min_items = 1, max_items = 10_000)]
    allocations: Option<Vec<BatchEntry>>,
    /// Seconds after which each allocation is freed by itself, unless its entry says otherwise.
    #[schema(nullable = false, minimum = 1)]
    lease_seconds: Option<u64>,
    /// The tag of each allocation, unless its entry says otherwise.
    #[schema(nullable = false, pattern = "^[a-z0-9_.-]{1,64}$")]
    tag: Option<String>,
    /// Milliseconds that the batch waits for room, as one unit; 0 if not given.
    #[schema(nullable = false, maximum = 30_000)]
    wait_ms: Option<u64>,
    /// How much each block matters where room is short, unless its entry says otherwise; `normal` if not given. The batch
    /// matters as much as the least of them.
    #[schema(nullable = false)]
    priority: Option<Priority>,
}

/// One block of a batch.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "it describes the body; batch_body.rs parses it, for errors that name the field"
)]
pub(super) struct BatchEntry {
    /// Bytes wanted.
    #[schema(minimum = 1)]
    size_bytes: u64,
    /// Seconds after which it is freed by itself.
    #[schema(nullable = false, minimum = 1)]
    lease_seconds: Option<u64>,
    /// Its tag.
    #[schema(nullable = false, pattern = "^[a-z0-9_.-]{1,64}$")]
    tag: Option<String>,
    /// How much it matters.
    #[schema(nullable = false)]
    priority: Option<Priority>,
}

/// Allocate many blocks
///
/// All or none. They wait for room as one unit.
#[utoipa::path(
    post, path = "/allocate/batch", tag = "allocations",
    params(("Idempotency-Key" = Option<String>, Header, description = "A repeat with the same key, route, query and body allocates nothing again", max_length = 255)),
    request_body = AllocateBatchBody,
    responses(
        (status = 201, description = "The blocks; of a repeat, those that still live", body = BatchAnswer, headers(
            ("Idempotent-Replayed" = String, description = "`true` where the allocations were made before"),
            ("X-Maas-Pressure" = String, description = "The level of pressure, from `moderate` on"),
        )),
        (status = 400, response = ProblemBody), (status = 404, response = ProblemBody),
        (status = 408, response = ProblemBody), (status = 409, response = ProblemBody),
        (status = 413, response = ProblemBody), (status = 415, response = ProblemBody),
        (status = 422, response = ProblemBody), (status = 503, response = ProblemBody),
        (status = 507, response = ProblemBody),
    )
)]
pub(super) async fn allocate(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    api.refuse_while_stopping()?;
    query::none(&head.uri)?;
    let (batch, attempt) = asked_for(&api, &head, body).await?;
    if let Some(repeats) = attempt.repeats()? {
        return repeats.batch(&api).await;
    }
    let asked = judge(&api, &batch)?;
    let tags = batch.requests.iter().filter_map(|request| request.tag.as_ref());
    let room = ListRoom::take(&api, batch.requests.len(), tags.map(|tag| tag.as_str().len()).sum())?;
    let made = api.pool.allocate_batch(&batch.requests, batch.wait, Now::read()).await;
    let made = made.map_err(|error| api.refused(&error, asked))?;
    let now = Now::read();
    api.note_origin(&head, made.iter().map(|made| made.id), now);
    if !matches!(attempt, Attempt::Unkeyed) {
        let ids: Vec<AllocationId> = made.iter().map(|made| made.id).collect();
        attempt.finish(&ids, now);
    }
    Ok(room.answer(&made, now))
}

/// What the body asks for. The body itself is gone before the request may have to wait.
async fn asked_for<'a>(api: &'a Api, head: &Parts, body: Body) -> Result<(Batch, Attempt<'a>), Problem> {
    let body = api.read_json(head, body, "").await?;
    let batch = Batch::parse(body.bytes())?;
    let mut attempt = Attempt::begin(api, head, "application/json")?;
    attempt.digest(body.bytes());
    Ok((batch, attempt))
}

/// Refuses a batch one of whose blocks can never be made. Whether all of them together can, the pool says.
fn judge(api: &Api, batch: &Batch) -> Result<Asked, Problem> {
    let mut bytes = 0_u64;
    let mut last = None;
    for (at, request) in batch.requests.iter().enumerate() {
        let size_bytes = request.size_bytes;
        bytes = bytes.saturating_add(size_bytes);
        // Blocks of one size mostly stand together, and all of them do without a list.
        if last.replace(size_bytes) == Some(size_bytes) {
            continue;
        }
        api.pool.actual_size(size_bytes).map_err(|error| {
            let mut problem = api.refused(&error, Asked::Block { bytes: size_bytes });
            if batch.is_list {
                problem.detail = format!("allocations[{at}]: {}", problem.detail);
            }
            problem
        })?;
    }
    Ok(Asked::Blocks { bytes, count: batch.requests.len() })
}

/// What to free.
#[derive(ToSchema)]
#[schema(as = DeallocateBatchRequest)]
#[expect(dead_code, reason = "it describes the body; batch_body.rs parses it, for errors that name the id")]
pub(super) struct DeallocateBatchBody {
    /// Ids of allocations. One that stands twice is freed once, and not found the second time.
    #[schema(value_type = Vec<String>)]
    ids: Vec<AllocationId>,
}

/// What was freed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Deallocated {
    /// Allocations that were freed.
    freed: usize,
    /// Ids of which no allocation was live, in the order given.
    #[schema(value_type = Vec<String>)]
    not_found: Vec<ListedId>,
}

/// An id in a list.
#[derive(Debug)]
pub(super) struct ListedId(AllocationId);

impl Serialize for ListedId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_id(&self.0, serializer)
    }
}

/// Free many allocations
///
/// As far as they live. One id that is malformed, and nothing is freed.
#[utoipa::path(
    post, path = "/deallocate/batch", tag = "allocations",
    request_body = DeallocateBatchBody,
    responses(
        (status = 200, description = "What was freed, and what was not found", body = Deallocated),
        (status = 400, response = ProblemBody), (status = 408, response = ProblemBody),
        (status = 413, response = ProblemBody), (status = 415, response = ProblemBody),
    )
)]
pub(super) async fn deallocate(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    query::none(&head.uri)?;
    let body = api.read_json_always(&head, body).await?;
    let ids = parse_ids(body.bytes())?;
    let not_found = api.pool.free_batch(&ids, Now::read()).await;
    let freed = ids.len() - not_found.len();
    let not_found = not_found.into_iter().map(ListedId).collect();
    Ok(json(StatusCode::OK, &Deallocated { freed, not_found }))
}
