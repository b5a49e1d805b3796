//! Allocating and writing in one request: the body of a `POST /allocate` of raw bytes, stored all or nothing.
//!
//! No id exists before the last byte is there, so whatever breaks off leaves nothing. A small body is collected
//! before memory is asked for: a client that sends slowly holds none of the pool. A larger one takes its memory
//! first, and streams into it.

use super::allocation::created;
use super::api::Api;
use super::body::BodyError;
use super::content::{etag, refuse_encoding};
use super::error::{Asked, Code, Problem};
use super::idempotent::Attempt;
use super::options::{self, Options};
use super::query::Query;
use crate::clock::Now;
use crate::pool::{AllocateRequest, Deposit};
use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_LENGTH, ETAG};
use axum::http::request::Parts;
use axum::response::Response;
use http_body::Body as _;
use http_body_util::BodyExt;

/// Bodies up to this long are received before memory of the pool is asked for. Mostly they come in one piece, and are
/// copied once like any longer one.
const RECEIVED_FIRST_BYTES_MAX: u64 = 16 << 10;

/// Serves a `POST /allocate` whose body is `application/octet-stream`.
pub(super) async fn store(api: &Api, head: &Parts, mut body: Body) -> Result<Response, Problem> {
    // Everything that the head tells is judged before the body is asked for.
    refuse_encoding(&head.headers)?;
    let query = Query::parse(&head.uri, options::NAMES)?;
    let options = Options::of_query(&query)?;
    let size_bytes = length_of(head, &body)?;
    let asked = Asked::Block { bytes: size_bytes };
    api.pool.actual_size(size_bytes).map_err(|error| api.refused(&error, asked))?;
    let request = AllocateRequest {
        size_bytes,
        lease: options.lease,
        tag: options.tag,
        priority: options.priority.unwrap_or_default(),
    };
    let mut attempt = Attempt::begin(api, head, "application/octet-stream")?;
    if let Attempt::Repeat(..) = attempt {
        return repeat(api, attempt, body).await;
    }
    let mut received = None;
    if size_bytes <= RECEIVED_FIRST_BYTES_MAX {
        received = Some(api.read_octets(head, std::mem::take(&mut body)).await?);
    }
    let deposit = api.pool.deposit(&request, options.wait, Now::read()).await;
    let mut deposit = deposit.map_err(|error| api.refused(&error, asked))?;
    if let Some(received) = &received {
        push(&mut deposit, &mut attempt, received.bytes())?;
    }
    // Where it was received whole, nothing is left of it.
    while let Some(frame) = body.frame().await {
        if let Ok(piece) = frame.map_err(BodyError::from)?.into_data() {
            push(&mut deposit, &mut attempt, &piece)?;
        }
    }
    let made = deposit.commit(Now::read()).map_err(|error| api.refused(&error, asked))?;
    let now = Now::read();
    attempt.finish(&[made.id], now);
    api.note_origin(head, [made.id], now);
    let mut response = created(&made, now);
    response.headers_mut().insert(ETAG, HeaderValue::from_static("\"1\""));
    Ok(response)
}

/// The announced length of the body, which is the size of the block.
fn length_of(head: &Parts, body: &Body) -> Result<u64, Problem> {
    let announced = body.size_hint().exact().filter(|_| head.headers.contains_key(CONTENT_LENGTH));
    match announced {
        None => {
            let detail =
                "the block is as large as the body, so its length must be announced: send Content-Length";
            Err(Problem::new(Code::LengthRequired, detail))
        }
        Some(0) => {
            let detail = "the body has 0 bytes, and so would the block; it has at least 1";
            Err(Problem::new(Code::InvalidSize, detail))
        }
        Some(length) => Ok(length),
    }
}

fn push(deposit: &mut Deposit, attempt: &mut Attempt, piece: &[u8]) -> Result<(), Problem> {
    attempt.digest(piece);
    // The protocol cuts a body at the length that was announced: there is never more.
    deposit.push(piece).map_err(|error| Problem::new(Code::BodyTooLarge, error.to_string()))
}

/// Reads the body of a repeat for its digest alone: no memory of the pool is taken.
async fn repeat(api: &Api, mut attempt: Attempt<'_>, mut body: Body) -> Result<Response, Problem> {
    while let Some(frame) = body.frame().await {
        if let Ok(piece) = frame.map_err(BodyError::from)?.into_data() {
            attempt.digest(&piece);
        }
    }
    let repeats = attempt.repeats()?.expect("it was found to be a repeat");
    let (mut response, found) = repeats.one(api).await?;
    // The block may have been written since. Where it ends this instant, the answer is of the instant before.
    if let Ok(content) = api.pool.read(found.id, Now::read()).await {
        response.headers_mut().insert(ETAG, etag(content.version));
    }
    Ok(response)
}
