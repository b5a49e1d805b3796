//! Arenas: allocations that end together. Make one, allocate in it, and commit it or roll it back.
//!
//! What is allocated in an arena is an allocation as any other, under `/allocate/{id}`.

use super::allocate::RenewBody;
use super::allocation::{AllocationBody, created, json};
use super::api::{Api, BeyondBudget};
use super::arena_body::{
    ArenaBody, CommitBody, CreateBody, FreedBody, MemberBody, MemberRequest, parse_arena, parse_keep,
    parse_member, parse_nothing,
};
use super::error::{Asked, Problem, ProblemBody};
use super::fields::Fields;
use super::options;
use super::query::{self, Page, Query};
use crate::clock::Now;
use crate::pool::{ArenaError, ArenaFreed, ArenaId, Cursor};
use axum::extract::{Request, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::Response;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// A page of a listing.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ArenaList<'a> {
    /// In the order in which they were made.
    arenas: Vec<ArenaBody<'a>>,
    /// Pass it as `cursor` to get the next page; null after the last. A page may be short and still have one.
    #[schema(required)]
    next_cursor: Option<String>,
}

/// The id in `/arenas/{id}` and what comes below it. Ids have no character that needs escaping.
fn id_of(uri: &Uri) -> Result<ArenaId, Problem> {
    let id = uri.path().strip_prefix("/arenas/").and_then(|rest| rest.split('/').next());
    Ok(id.unwrap_or_default().parse()?)
}

/// Make an arena
///
/// Its first memory is taken at once. Without a body it has no lease, no tag, no parent, and the profile that earlier
/// arenas without a tag came to.
#[utoipa::path(
    post, path = "/arenas", tag = "arenas",
    request_body(content = Option<CreateBody>, content_type = "application/json"),
    responses(
        (status = 201, description = "The arena", body = ArenaBody, headers(
            ("Location" = String, description = "Path of the arena"),
        )),
        (status = 400, response = ProblemBody), (status = 404, response = ProblemBody),
        (status = 408, response = ProblemBody), (status = 409, response = ProblemBody),
        (status = 413, response = ProblemBody), (status = 415, response = ProblemBody),
        (status = 422, response = ProblemBody), (status = 503, response = ProblemBody),
        (status = 507, response = ProblemBody),
    )
)]
pub(super) async fn create(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    api.refuse_while_stopping()?;
    query::none(&head.uri)?;
    // In a block: the body is gone before the request may have to wait.
    let (request, wait) = {
        let body = api.read_json_if_any(&head, body, BeyondBudget::Refused).await?;
        parse_arena(body.bytes())?
    };
    let asked = Now::read();
    let made = api.pool.create_arena(&request, wait, asked).await;
    let made = made.map_err(|error| api.arena_refused(&error, Asked::Arena))?;
    let now = if wait.is_zero() { asked } else { Now::read() };
    let mut response = json(StatusCode::CREATED, &ArenaBody::new(&made, now));
    let location = HeaderValue::try_from(format!("/arenas/{}", made.id)).expect("an id is a header value");
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

/// List open arenas
///
/// In the order in which they were made, page by page.
#[utoipa::path(
    get, path = "/arenas", tag = "arenas",
    params(
        ("limit" = Option<u64>, Query, description = "Arenas on a page, 1 to 1000; 100 if not given", minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page", body = ArenaList), (status = 400, response = ProblemBody))
)]
pub(super) async fn list(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    let Page { limit, cursor } = Query::parse(&uri, &["limit", "cursor"])?.page()?;
    let now = Now::read();
    let page = api.pool.list_arenas(cursor, limit, now).await;
    let body = ArenaList {
        arenas: page.arenas.iter().map(|found| ArenaBody::new(found, now)).collect(),
        next_cursor: page.next.map(Cursor::encode),
    };
    Ok(json(StatusCode::OK, &body))
}

/// Look at an arena
///
/// One that has ended is remembered for ten minutes.
#[utoipa::path(
    get, path = "/arenas/{id}", tag = "arenas",
    params(("id" = String, Path, description = "The arena's id")),
    responses(
        (status = 200, description = "The arena", body = ArenaBody),
        (status = 400, response = ProblemBody), (status = 404, response = ProblemBody),
    )
)]
pub(super) async fn get(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    query::none(&uri)?;
    let now = Now::read();
    let found = api.pool.arena(id_of(&uri)?, now).await?;
    Ok(json(StatusCode::OK, &ArenaBody::new(&found, now)))
}

/// Renew an arena's lease
///
/// It counts from now, for all of its allocations. An arena without a lease gets one.
#[utoipa::path(
    post, path = "/arenas/{id}/renew", tag = "arenas",
    params(("id" = String, Path, description = "The arena's id")),
    request_body = RenewBody,
    responses(
        (status = 200, description = "The arena", body = ArenaBody),
        (status = 400, response = ProblemBody), (status = 404, response = ProblemBody),
        (status = 408, response = ProblemBody), (status = 409, response = ProblemBody),
        (status = 413, response = ProblemBody), (status = 415, response = ProblemBody),
    )
)]
pub(super) async fn renew(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    query::none(&head.uri)?;
    let id = id_of(&head.uri)?;
    let body = api.read_json_always(&head, body).await?;
    let lease = options::lease_of(&Fields::parse(body.bytes(), &["lease_seconds"])?)?;
    let now = Now::read();
    let renewed = api.pool.renew_arena(id, lease, now).await?;
    Ok(json(StatusCode::OK, &ArenaBody::new(&renewed, now)))
}

/// Allocate in an arena
///
/// The block is zeros. It has the arena's lease and tag, and ends with it.
#[utoipa::path(
    post, path = "/arenas/{id}/allocate", tag = "arenas",
    params(("id" = String, Path, description = "The arena's id")),
    request_body = MemberBody,
    responses(
        (status = 201, description = "The block", body = AllocationBody, headers(
            ("Location" = String, description = "Path of the allocation"),
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
    let id = id_of(&head.uri)?;
    let MemberRequest { size_bytes, priority, wait } = {
        let body = api.read_json(&head, body, "").await?;
        parse_member(body.bytes())?
    };
    let asked = Now::read();
    let made = api.pool.allocate_in_arena(id, size_bytes, priority, wait, asked).await;
    let asked_for = Asked::Member { bytes: size_bytes, arena: id };
    let made = made.map_err(|error| api.arena_refused(&error, asked_for))?;
    let now = if wait.is_zero() { asked } else { Now::read() };
    api.note_origin(&head, [made.id], now);
    Ok(created(&made, now))
}

/// Free all of an arena's allocations
///
/// It stays open, with its lease, and its first memory. Arenas within it are rolled back.
#[utoipa::path(
    post, path = "/arenas/{id}/reset", tag = "arenas",
    params(("id" = String, Path, description = "The arena's id")),
    responses(
        (status = 200, description = "What was freed", body = FreedBody),
        (status = 400, response = ProblemBody), (status = 404, response = ProblemBody),
        (status = 408, response = ProblemBody), (status = 409, response = ProblemBody),
        (status = 413, response = ProblemBody), (status = 415, response = ProblemBody),
    )
)]
pub(super) async fn reset(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let id = asked_without_fields(&api, request).await?;
    freed(api.pool.reset_arena(id, Now::read()).await)
}

/// Commit an arena
///
/// It ends, and its allocations with it, but for those that are kept: these live on by themselves, until they are freed.
/// Arenas within it that are open are rolled back.
#[utoipa::path(
    post, path = "/arenas/{id}/commit", tag = "arenas",
    params(("id" = String, Path, description = "The arena's id")),
    request_body(content = Option<CommitBody>, content_type = "application/json"),
    responses(
        (status = 200, description = "What was freed", body = FreedBody),
        (status = 400, response = ProblemBody), (status = 404, response = ProblemBody),
        (status = 408, response = ProblemBody), (status = 409, response = ProblemBody),
        (status = 413, response = ProblemBody), (status = 415, response = ProblemBody),
    )
)]
pub(super) async fn commit(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    query::none(&head.uri)?;
    let id = id_of(&head.uri)?;
    let body = api.read_json_if_any(&head, body, BeyondBudget::Laned).await?;
    let keep = parse_keep(body.bytes())?;
    freed(api.pool.commit_arena(id, &keep, Now::read()).await)
}

/// Roll an arena back
///
/// It ends, and all of its allocations with it, those of arenas within it included.
#[utoipa::path(
    post, path = "/arenas/{id}/rollback", tag = "arenas",
    params(("id" = String, Path, description = "The arena's id")),
    responses(
        (status = 200, description = "What was freed", body = FreedBody),
        (status = 400, response = ProblemBody), (status = 404, response = ProblemBody),
        (status = 408, response = ProblemBody), (status = 409, response = ProblemBody),
        (status = 413, response = ProblemBody), (status = 415, response = ProblemBody),
    )
)]
pub(super) async fn rollback(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let id = asked_without_fields(&api, request).await?;
    freed(api.pool.rollback_arena(id, Now::read()).await)
}

/// The id that a request without a body, or with an empty object, is about.
async fn asked_without_fields(api: &Api, request: Request) -> Result<ArenaId, Problem> {
    let (head, body) = request.into_parts();
    query::none(&head.uri)?;
    let id = id_of(&head.uri)?;
    let body = api.read_json_if_any(&head, body, BeyondBudget::Laned).await?;
    parse_nothing(body.bytes())?;
    Ok(id)
}

fn freed(outcome: Result<ArenaFreed, ArenaError>) -> Result<Response, Problem> {
    Ok(json(StatusCode::OK, &FreedBody::new(&outcome?)))
}
