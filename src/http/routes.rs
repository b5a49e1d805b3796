//! All routes in one place, with their description: a route that is served is a route that is described.

use super::api::{Api, VERSION};
use super::error::{Code, Problem, ProblemBody, Refusal};
use super::{allocate, service};
use axum::Router;
use axum::extract::Request;
use bytes::Bytes;
use std::sync::Arc;
use utoipa::OpenApi as _;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::{RefOr, Response as DescribedResponse};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// What is known of the routes once, at start.
#[derive(Debug)]
pub(super) struct Routes {
    templates: Vec<String>,
    matcher: matchit::Router<usize>,
    operations: Vec<Described>,
    /// The OpenAPI document as it is sent.
    pub(super) openapi: Bytes,
}

/// One method of one route.
#[derive(Clone, Debug)]
pub(super) struct Described {
    pub(super) method: String,
    pub(super) template: String,
    pub(super) summary: String,
    /// Status of the answer when all goes well.
    success: u16,
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "MaaS: memory as a service",
        description = "One bounded pool of memory that any process leases over plain HTTP. Every error answer is application/problem+json (RFC 9457) with a `code` for programs. Every answer carries `X-Request-Id`.",
        license(name = "MIT", identifier = "MIT"),
    ),
    components(schemas(Refusal), responses(ProblemBody)),
    tags(
        (name = "allocations", description = "Blocks of memory: make, look at, list, free."),
        (name = "service", description = "The service itself: health, statistics, metrics, description."),
    )
)]
struct Description;

fn described_router() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(allocate::allocate, allocate::list))
        .routes(routes!(allocate::get, allocate::free))
        .routes(routes!(service::health))
        .routes(routes!(service::livez))
        .routes(routes!(service::readyz))
        .routes(routes!(service::stats))
        .routes(routes!(service::metrics))
        .routes(routes!(service::openapi))
        .routes(routes!(service::landing))
}

/// The router that serves all routes.
pub(super) fn router(api: Arc<Api>) -> Router {
    let (router, _) = described_router().split_for_parts();
    router.fallback(no_such_route).with_state(api)
}

async fn no_such_route(request: Request) -> Problem {
    let shown: String = request.uri().path().chars().take(100).collect();
    Problem::new(
        Code::NoSuchRoute,
        format!("{shown:?} is no route of this service; /openapi.json describes all"),
    )
}

impl Routes {
    pub(super) fn new() -> Routes {
        let (_, mut document) = described_router().split_for_parts();
        document.info.version = VERSION.to_owned();
        for item in document.paths.paths.values_mut() {
            each_operation(item, |operation| {
                // Whatever runs can meet a defect of ours.
                let internal = DescribedResponse::new("An error inside the service");
                operation.responses.responses.entry("500".to_owned()).or_insert(RefOr::T(internal));
            });
        }
        let templates: Vec<String> = document.paths.paths.keys().cloned().collect();
        let mut matcher = matchit::Router::new();
        for (number, template) in templates.iter().enumerate() {
            matcher.insert(template, number).expect("the router took the same templates");
        }
        let mut operations = Vec::new();
        for (template, item) in &mut document.paths.paths {
            for (method, operation) in methods(item) {
                let statuses = operation.responses.responses.keys();
                operations.push(Described {
                    method: method.to_owned(),
                    template: template.clone(),
                    summary: operation.summary.clone().unwrap_or_default(),
                    success: statuses.filter_map(|status| status.parse().ok()).min().unwrap_or(200),
                });
            }
        }
        let openapi = document.to_pretty_json().expect("a description always serialises").into();
        Routes { templates, matcher, operations, openapi }
    }

    /// Number of the template that a path matches.
    pub(super) fn find(&self, path: &str) -> Option<usize> {
        self.matcher.at(path).ok().map(|found| *found.value)
    }

    /// The template of that number, for a log.
    pub(super) fn name(&self, route: Option<usize>) -> &str {
        route.map_or("unmatched", |route| &self.templates[route])
    }

    pub(super) fn templates(&self) -> &[String] {
        &self.templates
    }

    pub(super) fn operations(&self) -> &[Described] {
        &self.operations
    }

    /// Method, template and status of success of every operation.
    pub(super) fn documented(&self) -> Vec<(String, String, u16)> {
        let row =
            |described: &Described| (described.method.clone(), described.template.clone(), described.success);
        self.operations.iter().map(row).collect()
    }
}

fn methods(item: &PathItem) -> impl Iterator<Item = (&'static str, &Operation)> {
    let all = [
        ("GET", &item.get),
        ("HEAD", &item.head),
        ("POST", &item.post),
        ("PUT", &item.put),
        ("PATCH", &item.patch),
        ("DELETE", &item.delete),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_ref()?)))
}

fn each_operation(item: &mut PathItem, mut change: impl FnMut(&mut Operation)) {
    let all =
        [&mut item.get, &mut item.head, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete];
    all.into_iter().flatten().for_each(&mut change);
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn every_reference_in_the_description_leads_somewhere() {
        fn check(document: &Value, value: &Value) {
            match value {
                Value::Object(members) => {
                    if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
                        let pointer =
                            reference.strip_prefix('#').expect("references stay inside the document");
                        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
                    }
                    members.values().for_each(|member| check(document, member));
                }
                Value::Array(items) => items.iter().for_each(|item| check(document, item)),
                _ => {}
            }
        }
        let document: Value = serde_json::from_slice(&Routes::new().openapi).expect("JSON");
        assert_eq!(document["openapi"], "3.1.0");
        assert_eq!(document["info"]["version"], VERSION);
        check(&document, &document);
    }

    #[test]
    fn every_status_a_code_has_is_described_where_it_can_happen() {
        let document: Value = serde_json::from_slice(&Routes::new().openapi).expect("JSON");
        let on_allocate = &document["paths"]["/allocate"]["post"]["responses"];
        for code in Code::ALL {
            let elsewhere =
                matches!(code, Code::InvalidId | Code::NotFound | Code::NoSuchRoute | Code::MethodNotAllowed);
            assert!(elsewhere || on_allocate.get(code.status().as_str()).is_some(), "{}", code.name());
        }
        let on_get = &document["paths"]["/allocate/{id}"]["get"]["responses"];
        assert!(on_get.get("400").is_some() && on_get.get("404").is_some());
    }
}
