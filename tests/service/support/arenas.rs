//! Arenas, as tests make and end them.

use super::{Answer, JSON, Server};
use serde_json::{Value, json};

/// The path of an arena.
pub(crate) fn arena_path(arena: &Value) -> String {
    format!("/arenas/{}", arena["id"].as_str().expect("an id is text"))
}

impl Server {
    /// Makes an arena, which must be granted: its body.
    pub(crate) fn arena(&self, body: &Value) -> Value {
        let answer = self.post_to("/arenas", &body.to_string());
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()
    }

    /// Makes an arena within another.
    pub(crate) fn arena_within(&self, parent: &Value) -> Value {
        self.arena(&json!({ "parent": parent["id"], "profile": "tiny" }))
    }

    /// Asks for so many bytes in an arena.
    pub(crate) fn post_member(&self, arena: &Value, size_bytes: u64) -> Answer {
        let body = json!({ "size_bytes": size_bytes }).to_string();
        self.post_to(&format!("{}/allocate", arena_path(arena)), &body)
    }

    /// Allocates so many bytes in an arena, which must be granted: the allocation body.
    pub(crate) fn member(&self, arena: &Value, size_bytes: u64) -> Value {
        let answer = self.post_member(arena, size_bytes);
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()
    }

    /// Tells an arena to end or to be emptied, with no body.
    pub(crate) fn tell_arena(&self, arena: &Value, verb: &str) -> Answer {
        self.call("POST", &format!("{}/{verb}", arena_path(arena)), &[], "")
    }

    /// Commits an arena and keeps what `keep` says.
    pub(crate) fn commit_keeping(&self, arena: &Value, keep: &Value) -> Answer {
        let body = json!({ "keep": keep }).to_string();
        self.call("POST", &format!("{}/commit", arena_path(arena)), &[JSON], body)
    }

    /// What is known of an arena.
    pub(crate) fn arena_now(&self, arena: &Value) -> Value {
        let answer = self.get(&arena_path(arena));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }
}
