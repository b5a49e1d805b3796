//! An answer, and what must hold of every answer whatever the test is about.

use super::Description;
use serde_json::Value;
use std::fmt;

/// The members of every problem body.
const PROBLEM_MEMBERS: [&str; 6] = ["code", "detail", "request_id", "status", "title", "type"];

/// What the server answered.
pub(crate) struct Answer {
    pub(crate) version: String,
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Bytes on the wire, head and body.
    pub(crate) length_bytes: usize,
}

impl fmt::Debug for Answer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = String::from_utf8_lossy(&self.body[..self.body.len().min(500)]);
        write!(out, "{} {} {:?} {body}", self.version, self.status, self.headers)
    }
}

impl Answer {
    /// The head, body still to come.
    pub(super) fn parse(head: &[u8]) -> Answer {
        let head = std::str::from_utf8(head).expect("a head is text");
        let mut lines = head.trim_end().split("\r\n");
        let mut words = lines.next().expect("a status line").splitn(3, ' ');
        let version = words.next().expect("a version").to_owned();
        let status = words.next().and_then(|status| status.parse().ok()).expect("a status");
        let header = |line: &str| {
            let (name, value) = line.split_once(": ").expect("a header is a name and a value");
            (name.to_ascii_lowercase(), value.to_owned())
        };
        let headers = lines.map(header).collect();
        Answer { version, status, headers, body: Vec::new(), length_bytes: 0 }
    }

    /// The value of the header with this name in lower case; there must not be two.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found =
            self.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let first = found.next();
        assert_eq!(found.next(), None, "{name} stands twice");
        first
    }

    pub(super) fn content_length(&self) -> usize {
        let length = self.header("content-length").expect("every answer with a body says its length");
        length.parse().expect("a length is a number")
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("the body is text")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    /// Asserts status and code, and returns the detail.
    pub(crate) fn is_problem(&self, status: u16, code: &str) -> String {
        assert_eq!((self.status, self.code().as_str()), (status, code), "{}", self.text());
        self.json()["detail"].as_str().expect("held already").to_owned()
    }

    /// The answer to a routed request keeps the rules that hold for all of them.
    pub(super) fn hold(&self, method: &str, target: &str) {
        let shown: String = target.chars().take(200).collect();
        let what = format!("{method} {shown}: {self:?}");
        let id = self.header("x-request-id").unwrap_or_else(|| panic!("no X-Request-Id: {what}"));
        assert!((1..=64).contains(&id.len()) && id.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{what}");
        let mut code = String::new();
        if self.status >= 400 {
            assert_eq!(self.header("content-type"), Some("application/problem+json"), "{what}");
            if method != "HEAD" {
                self.hold_problem(id, &what);
                code = self.code();
            }
        }
        if self.status == 503 {
            let seconds = self.header("retry-after").and_then(|seconds| seconds.parse::<u32>().ok());
            assert!(seconds.is_some(), "a 503 says when to come again: {what}");
        }
        Description::current().hold(method, target, self, &code, &what);
    }

    fn hold_problem(&self, id: &str, what: &str) {
        let body = self.json();
        let members = body.as_object().expect("a problem is an object");
        for member in PROBLEM_MEMBERS {
            assert!(members.contains_key(member), "no {member}: {what}");
        }
        assert_eq!(body["status"], self.status, "{what}");
        assert_eq!(body["request_id"], id, "{what}");
        let code = body["code"].as_str().expect("a code is text");
        assert_eq!(body["type"], format!("urn:maas:problem:{code}"), "{what}");
        for member in ["title", "detail"] {
            assert!(body[member].as_str().is_some_and(|text| !text.is_empty()), "{member} is empty: {what}");
        }
    }
}
