//! Allocations: make, look at, list, free.

use super::api::Api;
use super::error::{Code, Problem, ProblemBody, refused};
use super::fields::Fields;
use super::query::{self, Query};
use crate::clock::Now;
use crate::pool::{AllocateRequest, Allocation, AllocationId, Cursor};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::{Serialize, Serializer};
use std::sync::Arc;
use std::time::Duration;
use utoipa::ToSchema;

/// Allocations on a page of a listing, unless `limit` says otherwise.
const LIST_LIMIT: usize = 100;
/// `limit` at most.
const LIST_LIMIT_MAX: usize = 1000;

/// What to allocate.
#[derive(ToSchema)]
#[schema(as = AllocateRequest)]
#[expect(dead_code, reason = "it describes the body; Fields parses it, for errors that name the field")]
pub(super) struct AllocateBody {
    /// Bytes wanted. The block is at least that large.
    #[schema(minimum = 1, example = 102_400)]
    size_bytes: u64,
}

/// An allocation as clients see it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Allocation)]
pub(super) struct AllocationBody {
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
    expires_in_seconds: Option<u64>,
}

fn serialize_id<S: Serializer>(id: &AllocationId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(id.encode(&mut [0; 36]))
}

/// A page of a listing.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AllocationList {
    /// In creation order.
    allocations: Vec<AllocationBody>,
    /// Pass it as `cursor` to get the next page; null after the last. A page may be short and still have one.
    #[schema(required)]
    next_cursor: Option<String>,
}

impl AllocationBody {
    fn new(allocation: &Allocation, now: Now) -> AllocationBody {
        #[expect(clippy::cast_precision_loss, reason = "the member is a float by contract")]
        let size_mb = allocation.actual_size_bytes as f64 / 1_048_576.0;
        let left = |deadline: Now| deadline.since(now).as_nanos().div_ceil(1_000_000_000);
        AllocationBody {
            id: allocation.id,
            size_bytes: allocation.size_bytes,
            actual_size_bytes: allocation.actual_size_bytes,
            size_mb,
            age_seconds: now.since(allocation.created).as_secs(),
            expires_in_seconds: allocation
                .deadline
                .map(|deadline| u64::try_from(left(deadline)).unwrap_or(u64::MAX)),
        }
    }
}

/// A JSON answer, written in one go.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let body = serde_json::to_vec(body).expect("text and numbers always serialise");
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The id at the end of `/allocate/{id}`. Ids have no character that needs escaping.
fn id_of(uri: &Uri) -> Result<AllocationId, Problem> {
    Ok(uri.path().strip_prefix("/allocate/").unwrap_or_default().parse()?)
}

/// Allocate a block
///
/// The block is zeros, and the caller's until freed. What does not fit is refused at once, with the reason.
#[utoipa::path(
    post, path = "/allocate", tag = "allocations", request_body = AllocateBody,
    responses(
        (status = 201, description = "The block", body = AllocationBody, headers(("Location" = String, description = "Path of the allocation"))),
        (status = 400, response = ProblemBody), (status = 408, response = ProblemBody),
        (status = 413, response = ProblemBody), (status = 415, response = ProblemBody),
        (status = 422, response = ProblemBody), (status = 503, response = ProblemBody),
        (status = 507, response = ProblemBody),
    )
)]
pub(super) async fn allocate(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    if api.is_stopping() {
        return Err(Problem::stopping().with_refusal(api.refusal(None, None, "stopping")));
    }
    query::none(&head.uri)?;
    let body = api.read_json(&head.headers, body).await?;
    let size_bytes = Fields::parse(&body, &["size_bytes"])?.size("size_bytes")?;
    let request = AllocateRequest { size_bytes, lease: None, tag: None };
    // Read here, not at arrival: the body may have taken its time, and a lease counts from when it is granted.
    let now = Now::read();
    let made = api.pool.allocate(&request, Duration::ZERO, now).await;
    let made = made
        .map_err(|error| refused(&error, size_bytes, |pool, by| api.refusal(Some(size_bytes), pool, by)))?;
    let mut response = json(StatusCode::CREATED, &AllocationBody::new(&made, now));
    response.headers_mut().insert(LOCATION, location_of(made.id));
    Ok(response)
}

fn location_of(id: AllocationId) -> HeaderValue {
    const PREFIX: &[u8] = b"/allocate/";
    let mut path = [0; PREFIX.len() + 36];
    path[..PREFIX.len()].copy_from_slice(PREFIX);
    path[PREFIX.len()..].copy_from_slice(id.encode(&mut [0; 36]).as_bytes());
    HeaderValue::from_bytes(&path).expect("an id is a header value")
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

/// List allocations
///
/// In creation order, page by page. What lives through the whole listing appears exactly once.
#[utoipa::path(
    get, path = "/allocate", tag = "allocations",
    params(
        ("limit" = Option<u64>, Query, description = "Allocations on a page, 1 to 1000; 100 if not given", minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page", body = AllocationList), (status = 400, response = ProblemBody))
)]
pub(super) async fn list(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    let query = Query::parse(&uri, &["limit", "cursor"])?;
    let limit = query.get("limit").map_or(Ok(LIST_LIMIT), |text| {
        let limit = text.parse().ok().filter(|limit| (1..=LIST_LIMIT_MAX).contains(limit));
        let detail =
            || format!("limit is {:?}; it is a whole number from 1 to {LIST_LIMIT_MAX}", shown(text));
        limit.ok_or_else(|| Problem::new(Code::InvalidQuery, detail()))
    })?;
    let cursor = query.get("cursor").map(|text| {
        let detail = || format!("cursor is {:?}, which is no next_cursor of a page", shown(text));
        Cursor::decode(text).ok_or_else(|| Problem::new(Code::InvalidQuery, detail()))
    });
    let now = Now::read();
    let page = api.pool.list(cursor.transpose()?, limit, None, now).await;
    let body = AllocationList {
        allocations: page.allocations.iter().map(|found| AllocationBody::new(found, now)).collect(),
        next_cursor: page.next.map(Cursor::encode),
    };
    Ok(json(StatusCode::OK, &body).into_response())
}

/// As much of a client's text as an error needs.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}
