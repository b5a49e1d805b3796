//! What a client says of how it uses a block, over HTTP: one word, which the pool passes on, or does.

use super::api::Api;
use super::content::etag;
use super::error::{Code, Problem, ProblemBody};
use super::fields::Fields;
use super::query;
use crate::clock::Now;
use crate::memory::Advice;
use crate::pool::{AdviseError, AllocationId, Placement};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::ETAG;
use axum::response::Response;
use std::sync::Arc;
use utoipa::ToSchema;

const ADVICE_RULE: &str = "it is willneed, sequential, random, hugepage, nohugepage, mergeable, unmergeable, free, \
                           dontneed or remove";

/// What to advise.
#[derive(Debug, ToSchema)]
#[schema(as = Advise)]
#[expect(dead_code, reason = "it describes the body, which is read field by field")]
pub(super) struct AdviseBody {
    /// A hint, which changes no byte: `willneed`, `sequential`, `random`, `hugepage`, `nohugepage`, `mergeable`,
    /// `unmergeable`. Or one of three that give the content up: `free`, `dontneed`, `remove`.
    #[schema(example = "dontneed")]
    advice: String,
}

/// Advise on a block
///
/// Hints are for the whole pages of the block as it lies now; what the system does not know is counted and not done. `free`,
/// `dontneed` and `remove` make the content zeros, as one write more, and give its pages back; readers keep what they have.
#[utoipa::path(
    post, path = "/allocate/{id}/advise", tag = "content",
    params(("id" = String, Path, description = "The allocation's id")),
    request_body = AdviseBody,
    responses(
        (status = 204, description = "Taken", headers(
            ("ETag" = String, description = "The new version, where the content was given up"),
        )),
        (status = 400, response = ProblemBody), (status = 404, response = ProblemBody),
        (status = 408, response = ProblemBody), (status = 413, response = ProblemBody),
        (status = 415, response = ProblemBody), (status = 503, response = ProblemBody),
        (status = 507, response = ProblemBody),
    )
)]
pub(super) async fn advise(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    query::none(&head.uri)?;
    let id = head.uri.path().strip_prefix("/allocate/").and_then(|rest| rest.strip_suffix("/advise"));
    let id: AllocationId = id.unwrap_or_default().parse()?;
    let body = api.read_json_always(&head, body).await?;
    let advice = advice_of(&Fields::parse(body.bytes(), &["advice"])?)?;
    let written = api.pool.advise(id, advice, Now::read()).await.map_err(|error| match error {
        AdviseError::NotFound(error) => error.into(),
        AdviseError::MayNotMerge => Problem::new(
            Code::InvalidField,
            "advice is \"mergeable\", which lets others measure what a block holds; the operator allows it by \
             memory.allow_mergeable",
        ),
        AdviseError::Write(error) => {
            Problem::written(&error, Placement::Replace, |pool, by| api.refusal(None, pool, by))
        }
    })?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    if let Some(written) = written {
        response.headers_mut().insert(ETAG, etag(written.version));
    }
    Ok(response)
}

fn advice_of(fields: &Fields) -> Result<Advice, Problem> {
    let Some(text) = fields.text("advice", ADVICE_RULE)? else {
        return Err(fields.refuse(Code::InvalidField, "advice", ADVICE_RULE));
    };
    Advice::ALL.into_iter().find(|advice| advice.name() == text).ok_or_else(|| {
        Problem::new(Code::InvalidField, format!("advice is {:?}; {ADVICE_RULE}", query::shown(text)))
    })
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<Advice, (Code, String)> {
        let advice = Fields::parse(body.as_bytes(), &["advice"]).and_then(|fields| advice_of(&fields));
        advice.map_err(|problem| (problem.code, problem.detail))
    }

    #[test]
    fn every_advice_is_known_by_its_name_and_the_rule_names_all() {
        for advice in Advice::ALL {
            assert_eq!(parse(&format!(r#"{{"advice":"{}"}}"#, advice.name())), Ok(advice));
            assert!(ADVICE_RULE.contains(advice.name()));
        }
    }

    #[test]
    fn what_is_no_advice_is_told_which_there_are() {
        for body in
            ["{}", r#"{"advice":1}"#, r#"{"advice":"DONTNEED"}"#, r#"{"advice":""}"#, r#"{"advice":null}"#]
        {
            let (code, detail) = parse(body).expect_err(body);
            assert_eq!(code, Code::InvalidField);
            assert!(detail.starts_with("advice is ") && detail.ends_with(ADVICE_RULE), "{detail}");
        }
        let (code, _) = parse(r#"{"advice":"free","size":1}"#).expect_err("two fields");
        assert_eq!(code, Code::UnknownField);
    }
}
