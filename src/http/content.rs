//! The bytes of an allocation over HTTP: read whole or in part, replaced, patched.
//!
//! What a client reads is one instant's content however long it streams, lent from the pool without a copy. What it
//! writes is applied whole or not at all: a small body is collected first, a larger one streams into memory that
//! nobody sees before it is complete.

use super::api::{Api, has_media_type};
use super::body::BodyError;
use super::conditions::{self, ByteRange};
use super::error::{Code, Problem, ProblemBody};
use super::query::{self, Query};
use crate::clock::Now;
use crate::pool::{
    AllocationId, Content, Placement, Precondition, ReadError, SMALL_WRITE_BYTES, WriteError, Written,
};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_RANGE, RANGE,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::Response;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use std::convert::Infallible;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

const OCTET_STREAM: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// The id in `/allocate/{id}/data`.
fn id_of(uri: &Uri) -> Result<AllocationId, Problem> {
    let id = uri.path().strip_prefix("/allocate/").and_then(|rest| rest.strip_suffix("/data"));
    Ok(id.unwrap_or_default().parse()?)
}

/// A piece of content on its way to a client.
struct Outgoing {
    pieces: Box<dyn Iterator<Item = Bytes> + Send>,
    left_bytes: u64,
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.pieces.next();
        self.left_bytes -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left_bytes == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left_bytes)
    }
}

pub(super) fn etag(version: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{version}\"")).expect("digits in quotes are a header value")
}

/// Read the content
///
/// All of it, or one range. Parts never written are zeros. The answer is one instant's content, however long it takes.
#[utoipa::path(
    get, path = "/allocate/{id}/data", tag = "content",
    params(
        ("id" = String, Path, description = "The allocation's id"),
        ("Range" = Option<String>, Header, description = "One range of bytes; several are answered with all"),
        ("If-Range" = Option<String>, Header, description = "The ETag that the range is of"),
        ("If-Match" = Option<String>, Header, description = "Answer only if the ETag is one of these"),
        ("If-None-Match" = Option<String>, Header, description = "Answer only if the ETag is none of these"),
    ),
    responses(
        (status = 200, description = "All bytes", body = Vec<u8>, content_type = "application/octet-stream", headers(
            ("ETag" = String, description = "The version"),
            ("Accept-Ranges" = String, description = "`bytes`"),
        )),
        (status = 206, description = "The range", body = Vec<u8>, content_type = "application/octet-stream", headers(
            ("ETag" = String, description = "The version"),
            ("Accept-Ranges" = String, description = "`bytes`"),
            ("Content-Range" = String, description = "The range, and the length of all"),
        )),
        (status = 304, description = "It is the version that the client has", headers(
            ("ETag" = String, description = "The version"),
        )),
        (status = 400, response = ProblemBody), (status = 404, response = ProblemBody),
        (status = 412, response = ProblemBody), (status = 416, response = ProblemBody),
        (status = 503, response = ProblemBody),
    )
)]
pub(super) async fn read(
    State(api): State<Arc<Api>>,
    method: Method,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    query::none(&uri)?;
    let content = api.pool.read(id_of(&uri)?, Now::read()).await?;
    let (size_bytes, version) = (content.size_bytes, content.version);
    let conditions = conditions::of(&headers);
    if conditions.if_match.as_ref().is_some_and(|versions| !versions.contain(version)) {
        return Err(Problem::precondition_failed(version));
    }
    if conditions.if_none_match.as_ref().is_some_and(|versions| versions.contain(version)) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response.headers_mut().insert(ETAG, etag(version));
        return Ok(response);
    }
    let is_current = |condition: &HeaderValue| *condition == etag(version);
    let range =
        headers.get(RANGE).filter(|_| method == Method::GET && headers.get(IF_RANGE).is_none_or(is_current));
    match range.map_or(ByteRange::Whole, |range| conditions::range(range, size_bytes)) {
        ByteRange::Whole => Ok(answer(content, 0..size_bytes, StatusCode::OK)),
        ByteRange::Part(part) => {
            let shown = format!("bytes {}-{}/{size_bytes}", part.start, part.end - 1);
            let mut response = answer(content, part, StatusCode::PARTIAL_CONTENT);
            let shown = HeaderValue::from_str(&shown).expect("digits are a header value");
            response.headers_mut().insert(CONTENT_RANGE, shown);
            Ok(response)
        }
        ByteRange::Unsatisfiable => {
            let detail = format!("the range begins beyond the {size_bytes} bytes of the content");
            let shown =
                HeaderValue::from_str(&format!("bytes */{size_bytes}")).expect("digits are a header value");
            Err(Problem::new(Code::RangeNotSatisfiable, detail).with_header(CONTENT_RANGE, shown))
        }
    }
}

fn answer(content: Content, range: Range<u64>, status: StatusCode) -> Response {
    let version = content.version;
    let left_bytes = range.end - range.start;
    let watch = content.watch();
    let mut response = Response::new(Body::new(Outgoing { pieces: content.read(range), left_bytes }));
    if let Some(watch) = watch {
        response.extensions_mut().insert(watch); // for exchange.rs, which holds the reader to its time
    }
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, OCTET_STREAM);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(left_bytes));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(ETAG, etag(version));
    response
}

/// Replace the content
///
/// The body from byte 0, the rest zeros; whole or not at all. The answer has an ETag only if the body filled the block.
#[utoipa::path(
    put, path = "/allocate/{id}/data", tag = "content",
    params(
        ("id" = String, Path, description = "The allocation's id"),
        ("If-Match" = Option<String>, Header, description = "Apply only if the ETag is one of these at that instant"),
        ("If-None-Match" = Option<String>, Header, description = "Apply only if the ETag is none of these at that instant"),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 204, description = "Applied", headers(
            ("ETag" = String, description = "The new version, where the body filled the block"),
        )),
        (status = 400, response = ProblemBody), (status = 404, response = ProblemBody),
        (status = 408, response = ProblemBody), (status = 412, response = ProblemBody),
        (status = 413, response = ProblemBody), (status = 415, response = ProblemBody),
        (status = 503, response = ProblemBody), (status = 507, response = ProblemBody),
    )
)]
pub(super) async fn replace(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    query::none(&head.uri)?;
    let id = id_of(&head.uri)?;
    if head.headers.contains_key(CONTENT_RANGE) {
        let detail = "a PUT with Content-Range would replace a part only; use PATCH with ?offset=";
        return Err(Problem::new(Code::InvalidField, detail));
    }
    refuse_encoding(&head.headers)?;
    let written = write(&api, id, Placement::Replace, &head, body).await?;
    Ok(applied(&written, written.whole))
}

/// Patch the content
///
/// The body goes to `offset`, everything else stays; whole or not at all.
#[utoipa::path(
    patch, path = "/allocate/{id}/data", tag = "content",
    params(
        ("id" = String, Path, description = "The allocation's id"),
        ("offset" = u64, Query, description = "The first byte that is written"),
        ("If-Match" = Option<String>, Header, description = "Apply only if the ETag is one of these at that instant"),
        ("If-None-Match" = Option<String>, Header, description = "Apply only if the ETag is none of these at that instant"),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 204, description = "Applied", headers(("ETag" = String, description = "The new version"))),
        (status = 400, response = ProblemBody), (status = 404, response = ProblemBody),
        (status = 408, response = ProblemBody), (status = 412, response = ProblemBody),
        (status = 413, response = ProblemBody), (status = 415, response = ProblemBody),
        (status = 503, response = ProblemBody), (status = 507, response = ProblemBody),
    )
)]
pub(super) async fn patch(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    let query = Query::parse(&head.uri, &["offset"])?;
    let id = id_of(&head.uri)?;
    let offset = query
        .whole("offset", 0..=u64::MAX, "it is a whole number of bytes")?
        .ok_or_else(|| Problem::new(Code::InvalidQuery, "offset is missing; write PATCH …/data?offset=0"))?;
    if !has_media_type(&head.headers, "application/octet-stream") {
        let detail = "a PATCH is raw bytes; send the header \"Content-Type: application/octet-stream\"";
        return Err(Problem::new(Code::UnsupportedMediaType, detail));
    }
    refuse_encoding(&head.headers)?;
    let written = write(&api, id, Placement::Patch { offset }, &head, body).await?;
    Ok(applied(&written, true))
}

pub(super) fn refuse_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    let mut codings = headers.get_all(CONTENT_ENCODING).iter();
    if codings.all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Ok(());
    }
    let detail = "content is stored as it comes; send it without Content-Encoding";
    Err(Problem::new(Code::UnsupportedMediaType, detail))
}

fn applied(written: &Written, with_etag: bool) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    if with_etag {
        response.headers_mut().insert(ETAG, etag(written.version));
    }
    response
}

/// Takes a body into an allocation: collected if it is short, else streamed.
async fn write(
    api: &Api,
    id: AllocationId,
    placement: Placement,
    head: &Parts,
    mut body: Body,
) -> Result<Written, Problem> {
    let problem =
        |error: WriteError| Problem::written(&error, placement, |pool, by| api.refusal(None, pool, by));
    let precondition: Precondition = conditions::of(&head.headers);
    // What the head tells already is refused before the body is asked for.
    let size_bytes = api.pool.get(id, Now::read()).await?.size_bytes;
    let announced = body.size_hint().exact();
    let offset = if let Placement::Patch { offset } = placement { offset } else { 0 };
    let end_bytes = offset.saturating_add(announced.unwrap_or(0));
    if end_bytes > size_bytes {
        return Err(problem(WriteError::PastEnd { end_bytes, size_bytes }));
    }
    if announced.is_some_and(|length| length <= SMALL_WRITE_BYTES) {
        let received = api.read_octets(head, body).await?;
        let pieces = std::slice::from_ref(received.bytes());
        return api.pool.write(id, placement, pieces, &precondition, Now::read()).await.map_err(problem);
    }
    let now = Now::read();
    let upload = match announced {
        Some(length) => api.pool.upload_exactly(id, placement, length, &precondition, now).await,
        None => api.pool.upload(id, placement, &precondition, now).await,
    };
    let mut upload = upload.map_err(problem)?;
    while let Some(frame) = body.frame().await {
        if let Ok(piece) = frame.map_err(BodyError::from)?.into_data() {
            upload.push(&piece).map_err(problem)?;
        }
    }
    upload.finish(&precondition, Now::read()).await.map_err(problem)
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Problem {
        match error {
            ReadError::NotFound(error) => error.into(),
            ReadError::TooManyReaders => Problem::new(Code::InflightExhausted, error.to_string()),
        }
    }
}
