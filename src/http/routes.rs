//! All routes in one place, with their description: a route that is served is a route that is described.

use super::api::Api;
use super::error::{Code, Problem, ProblemBody, Refusal};
use super::{advise, allocate, arenas, batch, content, doctor, leaks, pressure, recommendations, service};
use axum::Router;
use axum::extract::Request;
use std::sync::Arc;
use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "MaaS: memory as a service",
        description = "One bounded pool of memory that any process leases over plain HTTP. Every error answer is application/problem+json (RFC 9457) with a `code` for programs. Every answer carries `X-Request-Id`.",
        license(name = "MIT", identifier = "MIT"),
    ),
    components(schemas(Refusal), responses(ProblemBody)),
    tags(
        (name = "allocations", description = "Blocks of memory, one or many: make, look at, renew, list, free."),
        (name = "content", description = "The bytes of a block: read, replace, patch; and how they are used."),
        (name = "arenas", description = "Groups of allocations that end together: make one, allocate in it, commit it or roll it back."),
        (name = "service", description = "The service itself: health, pressure, statistics, metrics, description."),
    )
)]
struct Preamble;

/// Every route that is served, and the document that describes them.
pub(super) fn all() -> (Router<Arc<Api>>, OpenApi) {
    let (router, document) = OpenApiRouter::with_openapi(Preamble::openapi())
        .routes(routes!(allocate::allocate, allocate::list))
        .routes(routes!(batch::allocate))
        .routes(routes!(allocate::get, allocate::free))
        .routes(routes!(allocate::renew))
        .routes(routes!(batch::deallocate))
        .routes(routes!(content::read, content::replace, content::patch))
        .routes(routes!(advise::advise))
        .routes(routes!(arenas::create, arenas::list))
        .routes(routes!(arenas::get))
        .routes(routes!(arenas::renew))
        .routes(routes!(arenas::allocate))
        .routes(routes!(arenas::reset))
        .routes(routes!(arenas::commit))
        .routes(routes!(arenas::rollback))
        .routes(routes!(service::health))
        .routes(routes!(service::livez))
        .routes(routes!(service::readyz))
        .routes(routes!(service::stats))
        .routes(routes!(recommendations::recommendations))
        .routes(routes!(leaks::leaks))
        .routes(routes!(pressure::pressure))
        .routes(routes!(pressure::events))
        .routes(routes!(doctor::doctor))
        .routes(routes!(service::metrics))
        .routes(routes!(service::openapi))
        .routes(routes!(service::landing))
        .split_for_parts();
    (router.fallback(no_such_route), document)
}

async fn no_such_route(request: Request) -> Problem {
    let shown: String = request.uri().path().chars().take(100).collect();
    Problem::new(
        Code::NoSuchRoute,
        format!("{shown:?} is no route of this service; /openapi.json describes all"),
    )
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::super::VERSION;
    use super::super::description::Description;
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
        let document: Value = serde_json::from_slice(&Description::new(all().1).openapi).expect("JSON");
        assert_eq!(document["openapi"], "3.1.0");
        assert_eq!(document["info"]["version"], VERSION);
        check(&document, &document);
    }

    #[test]
    fn refusals_of_the_routes_that_allocate_are_described_with_their_headers() {
        let document: Value = serde_json::from_slice(&Description::new(all().1).openapi).expect("JSON");
        for route in ["/allocate", "/allocate/batch", "/arenas/{id}/allocate"] {
            for status in ["503", "507"] {
                let answer = &document["paths"][route]["post"]["responses"][status];
                let reference = answer["$ref"].as_str().and_then(|name| name.strip_prefix('#'));
                let answer = document.pointer(reference.expect("it is shared")).expect("it leads somewhere");
                for header in ["Retry-After", "X-Maas-Pressure"] {
                    assert!(
                        answer["headers"][header]["description"].is_string(),
                        "{route} {status} {header}"
                    );
                }
                assert!(answer["content"]["application/problem+json"].is_object(), "{route} {status}");
            }
        }
    }

    #[test]
    fn every_status_a_code_has_is_described_where_it_can_happen() {
        let document: Value = serde_json::from_slice(&Description::new(all().1).openapi).expect("JSON");
        let operations = document["paths"].as_object().expect("paths").values();
        let responses = operations.flat_map(|path| path.as_object().expect("operations").values());
        let described: Vec<&str> = responses
            .flat_map(|operation| operation["responses"].as_object().expect("responses").keys())
            .map(String::as_str)
            .collect();
        for code in Code::ALL.iter().filter(|code| **code != Code::MethodNotAllowed) {
            assert!(described.contains(&code.status().as_str()), "{}", code.name());
        }
    }
}
