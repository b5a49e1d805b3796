//! Allocations, one at a time: make, look at, renew, list, free.

use super::allocation::{AllocationBody, created, json};
use super::api::{Api, has_media_type};
use super::error::{Asked, Problem, ProblemBody};
use super::fields::Fields;
use super::idempotent::Attempt;
use super::one_shot;
use super::options::{self, Options};
use super::query::{self, Page, Query};
use crate::clock::Now;
use crate::pool::{AllocateRequest, AllocationId, Cursor};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// What to allocate.
#[derive(ToSchema)]
#[schema(as = AllocateRequest)]
#[expect(dead_code, reason = "it describes the body; Fields parses it, for errors that name the field")]
pub(super) struct AllocateBody {
    /// Bytes wanted. The block is at least that large.
    #[schema(minimum = 1, example = 102_400)]
    size_bytes: u64,
    /// Seconds after which the allocation is freed by itself; without it, it lives until it is freed.
    #[schema(nullable = false, minimum = 1)]
    lease_seconds: Option<u64>,
    /// A component's name, for accounting and budgets.
    #[schema(nullable = false, pattern = "^[a-z0-9_.-]{1,64}$")]
    tag: Option<String>,
    /// Milliseconds that the request waits for room; 0 if not given.
    #[schema(nullable = false, maximum = 30_000)]
    wait_ms: Option<u64>,
    /// How much the request matters where room is short; `normal` if not given.
    #[schema(nullable = false)]
    priority: Option<Priority>,
}

/// How much a request matters: `low` gives way as soon as memory gets short, `high` only where there is none.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "it describes a field")]
pub(super) enum Priority {
    Low,
    Normal,
    High,
}

/// How long a lease is to be.
#[derive(ToSchema)]
#[schema(as = RenewRequest)]
#[expect(dead_code, reason = "it describes the body; Fields parses it, for errors that name the field")]
pub(super) struct RenewBody {
    /// Seconds from now.
    #[schema(minimum = 1)]
    lease_seconds: u64,
}

/// A page of a listing.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AllocationList<'a> {
    /// In creation order.
    allocations: Vec<AllocationBody<'a>>,
    /// Pass it as `cursor` to get the next page; null after the last. A page may be short and still have one.
    #[schema(required)]
    next_cursor: Option<String>,
}

/// The id at the end of `/allocate/{id}`. Ids have no character that needs escaping.
fn id_of(uri: &Uri) -> Result<AllocationId, Problem> {
    Ok(uri.path().strip_prefix("/allocate/").unwrap_or_default().parse()?)
}

/// The fields of a JSON body.
const FIELDS: &[&str] = &["size_bytes", "lease_seconds", "tag", "wait_ms", "priority"];

/// Allocate a block
///
/// With a JSON body the block is zeros. With `application/octet-stream` the body itself is stored, all or nothing: the
/// block has its length, and the options are parameters of the query. What does not fit is refused with the reason, at
/// once or after `wait_ms`.
#[utoipa::path(
    post, path = "/allocate", tag = "allocations",
    params(
        ("lease_seconds" = Option<u64>, Query, description = "With an octet-stream only: seconds until it is freed by itself", minimum = 1),
        ("tag" = Option<String>, Query, description = "With an octet-stream only: a component's name", pattern = "^[a-z0-9_.-]{1,64}$"),
        ("wait_ms" = Option<u64>, Query, description = "With an octet-stream only: milliseconds to wait for room", maximum = 30_000),
        ("priority" = Option<Priority>, Query, description = "With an octet-stream only"),
        ("Idempotency-Key" = Option<String>, Header, description = "A repeat with the same key, route, query and body allocates nothing again", max_length = 255),
    ),
    request_body(content((AllocateBody = "application/json"), (Vec<u8> = "application/octet-stream"))),
    responses(
        (status = 201, description = "The block", body = AllocationBody, headers(
            ("Location" = String, description = "Path of the allocation"),
            ("ETag" = String, description = "With an octet-stream: the version of the content"),
            ("Idempotent-Replayed" = String, description = "`true` where the allocation was made before"),
            ("X-Maas-Pressure" = String, description = "The level of pressure, from `moderate` on"),
        )),
        (status = 400, response = ProblemBody), (status = 404, response = ProblemBody),
        (status = 408, response = ProblemBody), (status = 409, response = ProblemBody),
        (status = 411, response = ProblemBody), (status = 413, response = ProblemBody),
        (status = 415, response = ProblemBody), (status = 422, response = ProblemBody),
        (status = 503, response = ProblemBody), (status = 507, response = ProblemBody),
    )
)]
pub(super) async fn allocate(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    api.refuse_while_stopping()?;
    if has_media_type(&head.headers, "application/octet-stream") {
        return one_shot::store(&api, &head, body).await;
    }
    query::none(&head.uri)?;
    let (request, options, attempt) = asked_for(&api, &head, body).await?;
    if let Some(repeats) = attempt.repeats()? {
        return Ok(repeats.one(&api).await?.0);
    }
    // Read here, not at arrival: the body may have taken its time, and so may the wait.
    let asked = Now::read();
    let made = api.pool.allocate(&request, options.wait, asked).await;
    let made = made.map_err(|error| api.refused(&error, Asked::Block { bytes: request.size_bytes }))?;
    let now = if options.wait.is_zero() { asked } else { Now::read() };
    attempt.finish(&[made.id], now);
    api.note_origin(&head, [made.id], now);
    Ok(created(&made, now))
}

/// What a JSON body asks for. The body itself is gone before the request may have to wait.
async fn asked_for<'a>(
    api: &'a Api,
    head: &Parts,
    body: Body,
) -> Result<(AllocateRequest, Options, Attempt<'a>), Problem> {
    const OR: &str = "; or \"Content-Type: application/octet-stream\", to store the body itself";
    let body = api.read_json(head, body, OR).await?;
    let fields = Fields::parse(body.bytes(), FIELDS)?;
    let size_bytes = fields.size("size_bytes")?;
    let options = Options::of_fields(&fields)?;
    let mut attempt = Attempt::begin(api, head, "application/json")?;
    attempt.digest(body.bytes());
    let request = AllocateRequest {
        size_bytes,
        lease: options.lease,
        tag: options.tag.clone(),
        priority: options.priority.unwrap_or_default(),
    };
    Ok((request, options, attempt))
}

/// Look at an allocation
#[utoipa::path(
    get, path = "/allocate/{id}", tag = "allocations",
    params(("id" = String, Path, description = "The allocation's id")),
    responses(
        (status = 200, description = "The allocation", body = AllocationBody),
        (status = 400, response = ProblemBody), (status = 404, response = ProblemBody),
    )
)]
pub(super) async fn get(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    query::none(&uri)?;
    let now = Now::read();
    let found = api.pool.get(id_of(&uri)?, now).await?;
    Ok(json(StatusCode::OK, &AllocationBody::new(&found, now)))
}

/// Free an allocation
///
/// Its id never works again. Its bytes are zeroed before anyone else gets them.
#[utoipa::path(
    delete, path = "/allocate/{id}", tag = "allocations",
    params(("id" = String, Path, description = "The allocation's id")),
    responses(
        (status = 204, description = "Freed"),
        (status = 400, response = ProblemBody), (status = 404, response = ProblemBody),
    )
)]
pub(super) async fn free(State(api): State<Arc<Api>>, uri: Uri) -> Result<StatusCode, Problem> {
    query::none(&uri)?;
    api.pool.free(id_of(&uri)?, Now::read()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Renew a lease
///
/// It counts from now. An allocation without a lease gets one.
#[utoipa::path(
    post, path = "/allocate/{id}/renew", tag = "allocations",
    params(("id" = String, Path, description = "The allocation's id")),
    request_body = RenewBody,
    responses(
        (status = 200, description = "The allocation", body = AllocationBody),
        (status = 400, response = ProblemBody), (status = 404, response = ProblemBody),
        (status = 408, response = ProblemBody), (status = 413, response = ProblemBody),
        (status = 415, response = ProblemBody),
    )
)]
pub(super) async fn renew(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    query::none(&head.uri)?;
    let id = head.uri.path().strip_prefix("/allocate/").and_then(|rest| rest.strip_suffix("/renew"));
    let id: AllocationId = id.unwrap_or_default().parse()?;
    let body = api.read_json_always(&head, body).await?;
    let lease = options::lease_of(&Fields::parse(body.bytes(), &["lease_seconds"])?)?;
    let now = Now::read();
    let renewed = api.pool.renew(id, lease, now).await?;
    Ok(json(StatusCode::OK, &AllocationBody::new(&renewed, now)))
}

/// List allocations
///
/// In creation order, page by page. What lives through the whole listing appears exactly once.
#[utoipa::path(
    get, path = "/allocate", tag = "allocations",
    params(
        ("tag" = Option<String>, Query, description = "Only allocations with this tag"),
        ("limit" = Option<u64>, Query, description = "Allocations on a page, 1 to 1000; 100 if not given", minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page", body = AllocationList), (status = 400, response = ProblemBody))
)]
pub(super) async fn list(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    let query = Query::parse(&uri, &["tag", "limit", "cursor"])?;
    let Page { limit, cursor } = query.page()?;
    let tag = options::tag_of(&query)?;
    let now = Now::read();
    let page = api.pool.list(cursor, limit, tag.as_ref(), now).await;
    let body = AllocationList {
        allocations: page.allocations.iter().map(|found| AllocationBody::new(found, now)).collect(),
        next_cursor: page.next.map(Cursor::encode),
    };
    Ok(json(StatusCode::OK, &body))
}
