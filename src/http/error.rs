//! Errors on the wire: the only place where an error becomes a status, a code and a sentence for the client.
//!
//! Handlers return a [`Problem`]; the service renders it (RFC 9457) when it knows the request's id. What a client
//! reads names the numbers and the way out; what an operator needs beyond that is logged where it happened.

mod arena;
mod refusal;

pub(crate) use arena::arena_refused;
pub(crate) use refusal::{Asked, Refusal, refused};

use super::body::BodyError;
use crate::memory;
use crate::pool::{NotFound, ParseIdError, Placement, RenewError, WriteError};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::ops::RangeInclusive;
use std::time::Duration;
use utoipa::{ToResponse, ToSchema};

/// Every code a client can meet, with its status and title. The contract fixes their spelling.
macro_rules! codes {
    ($($(#[$meta:meta])* $code:ident $name:literal $status:ident $title:literal;)*) => {
        /// What went wrong, for programs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Code { $($(#[$meta])* $code),* }

        impl Code {
            /// Every code, in the order of their numbers.
            pub(crate) const ALL: &[Code] = &[$(Code::$code),*];

            /// The code's spelling on the wire.
            pub(crate) const fn name(self) -> &'static str {
                match self { $(Code::$code => $name),* }
            }

            pub(crate) const fn status(self) -> StatusCode {
                match self { $(Code::$code => StatusCode::$status),* }
            }

            const fn title(self) -> &'static str {
                match self { $(Code::$code => $title),* }
            }
        }
    };
}

codes! {
    InvalidJson "invalid-json" BAD_REQUEST "The body is not valid JSON";
    InvalidField "invalid-field" BAD_REQUEST "A field is not valid";
    UnknownField "unknown-field" BAD_REQUEST "A field is not known";
    InvalidSize "invalid-size" BAD_REQUEST "The size is not valid";
    InvalidId "invalid-id" BAD_REQUEST "The id is not well-formed";
    InvalidQuery "invalid-query" BAD_REQUEST "A query parameter is not valid";
    NotFound "not-found" NOT_FOUND "Nothing has this id";
    ReplayedAndGone "replayed-and-gone" NOT_FOUND "The request was served before, and what it made has ended";
    NoSuchRoute "no-such-route" NOT_FOUND "There is no such route";
    MethodNotAllowed "method-not-allowed" METHOD_NOT_ALLOWED "The route does not take this method";
    KeyInUse "key-in-use" CONFLICT "A request with this key is running";
    ArenaEnded "arena-ended" CONFLICT "The arena has ended";
    LengthRequired "length-required" LENGTH_REQUIRED "The length of the body must be announced";
    PreconditionFailed "precondition-failed" PRECONDITION_FAILED "The content is not the version that was named";
    BodyTimeout "body-timeout" REQUEST_TIMEOUT "The body came too slowly";
    BodyTooLarge "body-too-large" PAYLOAD_TOO_LARGE "The body is too large";
    PastEnd "past-end" PAYLOAD_TOO_LARGE "The body ends beyond the block";
    RangeNotSatisfiable "range-not-satisfiable" RANGE_NOT_SATISFIABLE "The range is outside the content";
    UnsupportedMediaType "unsupported-media-type" UNSUPPORTED_MEDIA_TYPE "The body's media type is not supported";
    SizeTooLarge "size-too-large" UNPROCESSABLE_ENTITY "The size can never be allocated here";
    KeyReused "key-reused" UNPROCESSABLE_ENTITY "The key was used for another request";
    Internal "internal" INTERNAL_SERVER_ERROR "Something went wrong inside";
    AdmissionDeferred "admission-deferred" SERVICE_UNAVAILABLE "Memory is short, and the request can come later";
    CircuitOpen "circuit-open" SERVICE_UNAVAILABLE "So many were refused before that it is not tried";
    InflightExhausted "inflight-exhausted" SERVICE_UNAVAILABLE "Too many bytes are on their way";
    WaitTimeout "wait-timeout" SERVICE_UNAVAILABLE "No room came in time";
    WriteWaited "write-waited" SERVICE_UNAVAILABLE "Readers left no room for the write in time";
    Stopping "stopping" SERVICE_UNAVAILABLE "The service is stopping";
    PoolExhausted "pool-exhausted" INSUFFICIENT_STORAGE "The pool is full";
    SystemMemory "system-memory" INSUFFICIENT_STORAGE "The system grants no memory";
    NoRoomToReplace "no-room-to-replace" INSUFFICIENT_STORAGE "There is no room for a second version";
    TableFull "table-full" INSUFFICIENT_STORAGE "A table is full";
    BudgetExhausted "budget-exhausted" INSUFFICIENT_STORAGE "The tag's budget is used up";
    AdmissionRejected "admission-rejected" INSUFFICIENT_STORAGE "Memory is short, and the request matters little";
    ArenaExhausted "arena-exhausted" INSUFFICIENT_STORAGE "The arena's limit is used up";
}

impl Code {
    /// Whether it says that there is no room, now or in time: these are counted as refusals.
    pub(crate) fn is_refusal(self) -> bool {
        matches!(self.status(), StatusCode::SERVICE_UNAVAILABLE | StatusCode::INSUFFICIENT_STORAGE)
    }
}

/// Seconds after which a client may try again where nothing better is known.
const RETRY_AFTER_SECONDS: u64 = 1;
/// The same where there is no room: by then there is another forecast, as `pressure.interval` is meant to be.
const RETRY_AFTER_NO_ROOM_SECONDS: u64 = 5;
/// What a forecast is brought between: a client that comes back so soon does no harm, and one that comes back so late has
/// missed little.
const RETRY_AFTER_SECONDS_BOUNDS: RangeInclusive<u64> = 1..=300;

/// An error that a client can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) code: Code,
    pub(crate) detail: String,
    refusal: Option<Box<Refusal>>,
    header: Option<Box<(HeaderName, HeaderValue)>>,
}

/// The body of every error answer (RFC 9457).
#[derive(Debug, Serialize, ToSchema, ToResponse)]
#[response(
    description = "What went wrong, as application/problem+json",
    content_type = "application/problem+json"
)]
pub(crate) struct ProblemBody<'a> {
    /// Names the kind of problem: `urn:maas:problem:` and the code.
    r#type: String,
    /// The kind of problem in words.
    title: &'a str,
    /// The answer's status.
    status: u16,
    /// What happened this time, with the numbers.
    detail: &'a str,
    /// The kind of problem for programs.
    code: &'a str,
    /// The request's id, as in the X-Request-Id header and the log.
    request_id: &'a str,
    /// On a refusal to allocate: the numbers behind it.
    #[serde(flatten)]
    refusal: Option<&'a Refusal>,
}

impl Problem {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Problem {
        Problem { code, detail: detail.into(), refusal: None, header: None }
    }

    pub(crate) fn with_refusal(self, mut refusal: Refusal) -> Problem {
        // The body says what the Retry-After header says.
        if self.code.status() == StatusCode::SERVICE_UNAVAILABLE {
            refusal.retry_after_seconds.get_or_insert(RETRY_AFTER_SECONDS);
        }
        Problem { refusal: Some(Box::new(refusal)), ..self }
    }

    /// When the client may come back is known.
    pub(crate) fn with_retry_after(mut self, length: Option<Duration>) -> Problem {
        if let (Some(refusal), Some(length)) = (&mut self.refusal, length) {
            let seconds = length.as_secs() + u64::from(length.subsec_nanos() > 0);
            let (least, most) = RETRY_AFTER_SECONDS_BOUNDS.into_inner();
            refusal.retry_after_seconds = Some(seconds.clamp(least, most));
        }
        self
    }

    /// The answer carries this header too.
    pub(crate) fn with_header(self, name: HeaderName, value: HeaderValue) -> Problem {
        Problem { header: Some(Box::new((name, value))), ..self }
    }

    /// A panic, or anything else that is our fault. The client learns no more; the log does.
    pub(crate) fn internal() -> Problem {
        Problem::new(
            Code::Internal,
            "the request met an error inside the service; its log has more under this request id",
        )
    }

    /// The service is draining.
    pub(crate) fn stopping() -> Problem {
        Problem::new(
            Code::Stopping,
            "the service is stopping and takes no new work; try another instance, or again later",
        )
    }

    /// The whole answer.
    pub(crate) fn render(&self, request_id: &str) -> Response {
        let body = ProblemBody {
            r#type: format!("urn:maas:problem:{}", self.code.name()),
            title: self.code.title(),
            status: self.code.status().as_u16(),
            detail: &self.detail,
            code: self.code.name(),
            request_id,
            refusal: self.refusal.as_deref(),
        };
        let body = serde_json::to_vec(&body).expect("text and numbers always serialise");
        let mut response = (self.code.status(), body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.code.is_refusal() {
            let known = self.refusal.as_ref().and_then(|refusal| refusal.retry_after_seconds);
            let seconds = known.unwrap_or(match self.code.status() {
                StatusCode::INSUFFICIENT_STORAGE => RETRY_AFTER_NO_ROOM_SECONDS,
                _ => RETRY_AFTER_SECONDS,
            });
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some((name, value)) = self.header.as_deref() {
            headers.insert(name, value.clone());
        }
        response
    }

    /// The content is of `version`, and the client wanted another.
    pub(crate) fn precondition_failed(version: u64) -> Problem {
        let detail =
            format!("the content's ETag is \"{version}\", which the request's conditions do not allow");
        Problem::new(Code::PreconditionFailed, detail)
    }

    /// A write that was not applied, as its client is told.
    pub(crate) fn written(
        error: &WriteError,
        placement: Placement,
        refusal: impl Fn(Option<(u64, u64)>, &'static str) -> Refusal,
    ) -> Problem {
        match error {
            WriteError::NotFound(error) => (*error).into(),
            WriteError::PreconditionFailed { version } => Problem::precondition_failed(*version),
            WriteError::PastEnd { .. } => {
                let code = if placement == Placement::Replace { Code::BodyTooLarge } else { Code::PastEnd };
                Problem::new(code, error.to_string())
            }
            WriteError::NoRoom(memory::AllocateError::System { requested_bytes, .. }) => {
                Problem::new(Code::SystemMemory, error.to_string())
                    .with_refusal(refusal(None, "system").or_requested(*requested_bytes))
            }
            WriteError::NoRoom(memory::AllocateError::Exhausted {
                requested_bytes,
                in_use_bytes,
                limit_bytes,
            }) => Problem::new(Code::NoRoomToReplace, error.to_string()).with_refusal(
                refusal(Some((*in_use_bytes, *limit_bytes)), "pool").or_requested(*requested_bytes),
            ),
            WriteError::Waited { .. } => {
                Problem::new(Code::WriteWaited, error.to_string()).with_refusal(refusal(None, "readers"))
            }
            WriteError::Inflight { .. } => Problem::new(Code::InflightExhausted, error.to_string())
                .with_refusal(refusal(None, "inflight")),
        }
    }
}

/// A handler's error travels as an extension to the service, which renders it.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.code.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<ParseIdError> for Problem {
    fn from(error: ParseIdError) -> Problem {
        Problem::new(Code::InvalidId, error.to_string())
    }
}

impl From<RenewError> for Problem {
    fn from(error: RenewError) -> Problem {
        match error {
            RenewError::NotFound(error) => error.into(),
            RenewError::InArena(id) => {
                Problem::new(Code::InvalidField, format!("its lease is its arena's: POST /arenas/{id}/renew"))
            }
            RenewError::Kept(_) => Problem::new(Code::InvalidField, error.to_string()),
        }
    }
}

impl From<NotFound> for Problem {
    fn from(error: NotFound) -> Problem {
        Problem::new(Code::NotFound, format!("{error}: it was never given out, or was freed"))
    }
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Problem {
        let code = match error {
            BodyError::Timeout { .. } => Code::BodyTimeout,
            BodyError::TooLarge { .. } => Code::BodyTooLarge,
            // Nobody reads this answer: the client is gone, or its connection closes with the answer.
            BodyError::Broken(_) => Code::InvalidJson,
        };
        Problem::new(code, error.to_string())
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_problem_is_told_with_everything_rfc_9457_and_the_contract_ask_for() {
        let error = memory::AllocateError::Exhausted {
            requested_bytes: 1024,
            in_use_bytes: 10_000,
            limit_bytes: 10_240,
        };
        let refusal = |pool: Option<(u64, u64)>, by| {
            Refusal::new(Some(100), pool.expect("the pool knows"), |free| (free >= 240).then_some(128), by)
        };
        let problem = refused(&error.into(), Asked::Block { bytes: 100 }, &refusal);
        let response = problem.render("abc");
        assert_eq!(response.status(), 507);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.expect("a body in memory");
        let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(
            body,
            serde_json::json!({
                "type": "urn:maas:problem:pool-exhausted", "title": "The pool is full", "status": 507,
                "detail": "100 bytes were asked for, which take a block of 1024, but 10000 of 10240 are in use and 240 are free",
                "code": "pool-exhausted", "request_id": "abc", "requested_bytes": 100, "in_use_bytes": 10_000,
                "free_bytes": 240, "limit_bytes": 10_240, "largest_available_bytes": 128, "refused_by": "pool",
                "retry_after_seconds": null
            })
        );
    }

    #[test]
    fn every_503_and_507_says_when_to_come_back() {
        for code in Code::ALL.iter().filter(|code| code.is_refusal()) {
            let retry_after = Problem::new(*code, "").render("x").headers()[RETRY_AFTER].clone();
            assert_eq!(retry_after, if code.status() == 503 { "1" } else { "5" }, "{}", code.name());
        }
    }

    #[test]
    fn when_to_come_back_is_rounded_up_to_whole_seconds_within_bounds_and_the_same_in_head_and_body() {
        for (milliseconds, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (299_500, 300), (400_000, 300)]
        {
            let refusal = Refusal::new(None, (1, 2), Some, "pool");
            let problem = Problem::new(Code::PoolExhausted, "").with_refusal(refusal);
            let problem = problem.with_retry_after(Some(Duration::from_millis(milliseconds)));
            assert_eq!(problem.render("x").headers()[RETRY_AFTER], seconds.to_string().as_str());
            let refusal = problem.refusal.as_ref().expect("it was given one");
            assert_eq!(refusal.retry_after_seconds, Some(seconds));
        }
    }

    #[test]
    fn no_two_codes_share_a_name() {
        let names: std::collections::HashSet<_> = Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), Code::ALL.len());
    }
}
