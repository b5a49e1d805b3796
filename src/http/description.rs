//! The description of all routes: as it is sent, and as the service uses it itself for labels and the landing page.

use super::{VERSION, pressure};
use axum::http::Method;
use bytes::Bytes;
use utoipa::openapi::header::{Header, HeaderBuilder};
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::{Components, Content, ObjectBuilder, OpenApi, Ref, RefOr, Response, Schema, Type};

/// The answer that says what went wrong, as the routes name it, and the same with the headers of a refusal to allocate.
const PROBLEM: &str = "ProblemBody";
const REFUSAL: &str = "AllocationRefused";

/// What is known of the routes once, at start.
#[derive(Debug)]
pub(super) struct Description {
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

impl Description {
    /// From the document that was made beside the routes.
    pub(super) fn new(mut document: OpenApi) -> Description {
        document.info.version = VERSION.to_owned();
        if let Some(components) = &mut document.components {
            add_refusal(components);
        }
        for (template, item) in &mut document.paths.paths {
            if pressure::is_allocating(&Method::POST, template)
                && let Some(operation) = &mut item.post
            {
                for status in ["503", "507"] {
                    let refusal = RefOr::Ref(Ref::from_response_name(REFUSAL));
                    operation.responses.responses.insert(status.to_owned(), refusal);
                }
            }
            each_operation(item, |operation| {
                // Whatever runs can meet a defect of ours.
                let internal = Response::new("An error inside the service");
                operation.responses.responses.entry("500".to_owned()).or_insert(RefOr::T(internal));
                if let Some(RefOr::T(body)) = &mut operation.request_body {
                    body.content.values_mut().for_each(never_null);
                }
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
        Description { templates, matcher, operations, openapi }
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

/// Describes a refusal to allocate beside the problems that have no headers of their own.
fn add_refusal(components: &mut Components) {
    let Some(RefOr::T(problem)) = components.responses.get(PROBLEM) else { return };
    let mut refusal = problem.clone();
    "The request is refused, as application/problem+json".clone_into(&mut refusal.description);
    for (name, schema_type, description) in [
        ("Retry-After", Type::Integer, "Seconds after which it may well be served, 1 to 300"),
        ("X-Maas-Pressure", Type::String, "The level of pressure, from `moderate` on"),
    ] {
        refusal.headers.insert(name.to_owned(), RefOr::T(header(schema_type, description)));
    }
    components.responses.insert(REFUSAL.to_owned(), RefOr::T(refusal));
}

fn header(schema_type: Type, description: &str) -> Header {
    let schema = ObjectBuilder::new().schema_type(schema_type).build();
    HeaderBuilder::new().schema(Some(schema)).description(Some(description)).build()
}

/// A body that may be left out is not null where it is there.
fn never_null(content: &mut RefOr<Content>) {
    if let RefOr::T(Content { schema: Some(schema), .. }) = content
        && let RefOr::T(Schema::OneOf(or_null)) = schema
        && let Some(body) = or_null.items.first().cloned()
    {
        *schema = body;
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
