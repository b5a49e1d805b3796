//! `/openapi.json`, and whether an answer is one that it promises.

use super::{Answer, Client, Server};
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::OnceLock;

/// The description that the program under test gives of itself.
pub(crate) struct Description {
    document: Value,
    /// Method, template and status of every documented answer that this process has met.
    met: Mutex<BTreeSet<(String, String, u16)>>,
}

static DESCRIPTION: OnceLock<Description> = OnceLock::new();

/// The description, asked for once: it is part of the program, not of one server.
pub(crate) fn description(server: &Server) -> &'static Description {
    DESCRIPTION.get_or_init(|| {
        let mut client = Client::connect(server.address());
        client.send("GET /openapi.json HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        let answer = client.rest();
        let (_, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let document = serde_json::from_str(body).expect("the description is JSON");
        Description { document, met: Mutex::default() }
    })
}

impl Description {
    /// The description that the first server gave.
    pub(super) fn current() -> &'static Description {
        DESCRIPTION.get().expect("a server was started before it was asked")
    }

    /// Every documented answer: (method, template, status).
    pub(crate) fn documented(&self) -> BTreeSet<(String, String, u16)> {
        let mut all = BTreeSet::new();
        for (template, item) in self.paths() {
            for (method, operation) in item.as_object().expect("a path's item is an object") {
                let statuses = operation["responses"].as_object().expect("an operation has responses");
                all.extend(statuses.keys().map(|status| {
                    let status = status.parse().expect("statuses are numbers");
                    (method.to_uppercase(), template.clone(), status)
                }));
            }
        }
        all
    }

    /// The templates of all routes, each with its methods.
    pub(crate) fn routes(&self) -> Vec<(String, Vec<String>)> {
        let methods = |item: &Value| {
            item.as_object().expect("an object").keys().map(|method| method.to_uppercase()).collect()
        };
        self.paths().iter().map(|(template, item)| (template.clone(), methods(item))).collect()
    }

    /// Documented answers that were met so far.
    pub(crate) fn met(&self) -> BTreeSet<(String, String, u16)> {
        self.met.lock().clone()
    }

    fn paths(&self) -> &serde_json::Map<String, Value> {
        self.document["paths"].as_object().expect("the description has paths")
    }

    fn template(&self, target: &str) -> Option<&str> {
        let target = target.strip_prefix("http://test").unwrap_or(target);
        let path = target.split('?').next().unwrap_or_default();
        let matches = |template: &str| {
            let (parts, given): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
            let fits =
                |(part, given): (&&str, &&str)| part == given || (part.starts_with('{') && !given.is_empty());
            parts.len() == given.len() && parts.iter().zip(&given).all(fits)
        };
        self.paths().keys().map(String::as_str).find(|template| matches(template))
    }

    /// The answer is documented for the route and method, or one of those that any path and method may get.
    pub(super) fn hold(&self, method: &str, target: &str, answer: &Answer, code: &str, what: &str) {
        let Some(template) = self.template(target) else {
            assert_eq!(answer.status, 404, "the route is not documented: {what}");
            assert!(method == "HEAD" || code == "no-such-route", "{what}");
            return;
        };
        let item = &self.paths()[template];
        // HEAD is answered wherever GET is.
        // Methods are told apart by case: `get` is none.
        let documented = if method == "HEAD" { "get".to_owned() } else { method.to_lowercase() };
        let operation = item.get(&documented).filter(|_| documented != method);
        let Some(operation) = operation else {
            assert_eq!((answer.status, code), (405, "method-not-allowed"), "undocumented: {what}");
            return;
        };
        let status = answer.status.to_string();
        let response = operation["responses"].get(&status);
        let response = response.unwrap_or_else(|| panic!("the status is not documented: {what}"));
        let response = self.resolve(response);
        let content = response.get("content").and_then(Value::as_object);
        let documented = content.is_some_and(|content| !content.is_empty());
        if let Some(given) = answer.header("content-type") {
            let essence = given.split(';').next().unwrap_or_default();
            let fits = content.is_some_and(|content| content.keys().any(|known| known == essence));
            assert!(fits, "the media type is not documented: {what}");
        } else {
            assert!(!documented, "the body's media type is missing: {what}");
        }
        self.met.lock().insert((method.to_owned(), template.to_owned(), answer.status));
    }

    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        let Some(reference) = value.get("$ref").and_then(Value::as_str) else { return value };
        let pointer = reference.strip_prefix('#').expect("references stay inside the document");
        self.document.pointer(pointer).expect("references lead somewhere")
    }
}
