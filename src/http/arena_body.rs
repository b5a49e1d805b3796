//! The JSON bodies of arenas: what clients say of one, and what they get.

use super::allocation::seconds_left;
use super::batch_body::Ids;
use super::error::{Code, Problem};
use super::fields::{Fields, Nested, Value};
use super::options::{self, Options};
use super::query::shown;
use crate::clock::Now;
use crate::pool::{Arena, ArenaFreed, ArenaId, ArenaRequest, ArenaSize, Keep, Priority, Profile};
use serde::de::SeqAccess;
use serde::{Serialize, Serializer};
use std::time::Duration;
use utoipa::ToSchema;

const FIELDS: &[&str] = &[
    "estimated_size_bytes",
    "profile",
    "parent",
    "limit_bytes",
    "lease_seconds",
    "tag",
    "wait_ms",
    "priority",
];
const MEMBER_FIELDS: &[&str] = &["size_bytes", "wait_ms", "priority"];
const SIZE_RULE: &str = "it is a whole number of bytes, at least 1";
const PARENT_RULE: &str = "it is the id of an open arena";
const KEEP_RULE: &str = "it is true, false, or a list of ids of the arena's allocations";

/// Parses what an arena is to be, and how long the request waits for room.
pub(super) fn parse_arena(body: &[u8]) -> Result<(ArenaRequest, Duration), Problem> {
    let fields = Fields::parse(body, FIELDS)?;
    let request = ArenaRequest {
        size: size_of(&fields)?,
        parent: parent_of(&fields)?,
        limit_bytes: fields.whole("limit_bytes", 1..=u64::MAX, SIZE_RULE)?,
        lease: None,
        tag: None,
        priority: Priority::Normal,
    };
    let Options { lease, tag, priority, wait } = Options::of_fields(&fields)?;
    Ok((ArenaRequest { lease, tag, priority: priority.unwrap_or_default(), ..request }, wait))
}

fn size_of(fields: &Fields) -> Result<ArenaSize, Problem> {
    let has = |name| fields.value(name).is_some();
    if has("estimated_size_bytes") && has("profile") {
        let detail =
            "estimated_size_bytes and profile exclude each other; without either, it is learned by tag";
        return Err(Problem::new(Code::InvalidField, detail));
    }
    if has("estimated_size_bytes") {
        return Ok(ArenaSize::Estimate(fields.size("estimated_size_bytes")?));
    }
    let rule = || {
        let names: Vec<&str> = Profile::ALL.iter().map(|profile| profile.name()).collect();
        format!("it is one of {}", names.join(", "))
    };
    match fields.value("profile") {
        None => Ok(ArenaSize::Learned),
        Some(Value::Text(text)) => match Profile::from_name(text) {
            Some(profile) => Ok(ArenaSize::Profile(profile)),
            None => {
                let detail = format!("profile is {:?}; {}", shown(text), rule());
                Err(Problem::new(Code::InvalidField, detail))
            }
        },
        Some(_) => Err(fields.refuse(Code::InvalidField, "profile", &rule())),
    }
}

fn parent_of(fields: &Fields) -> Result<Option<ArenaId>, Problem> {
    let Some(text) = fields.text("parent", PARENT_RULE)? else { return Ok(None) };
    let id = text.parse().map_err(|error| {
        Problem::new(Code::InvalidId, format!("parent is {:?}, but {error}", shown(text)))
    })?;
    Ok(Some(id))
}

/// What is to be allocated in an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MemberRequest {
    pub(super) size_bytes: u64,
    pub(super) priority: Priority,
    /// How long the request waits for room.
    pub(super) wait: Duration,
}

/// Parses what is to be allocated in an arena.
pub(super) fn parse_member(body: &[u8]) -> Result<MemberRequest, Problem> {
    let fields = Fields::parse(body, MEMBER_FIELDS).map_err(|mut problem| {
        if problem.code == Code::UnknownField {
            problem.detail.push_str("; lease and tag are the arena's");
        }
        problem
    })?;
    let size_bytes = fields.size("size_bytes")?;
    let (wait, priority) = options::wait_and_priority_of(&fields)?;
    Ok(MemberRequest { size_bytes, priority, wait })
}

/// Parses the body of a call that takes no fields.
pub(super) fn parse_nothing(body: &[u8]) -> Result<(), Problem> {
    Fields::parse(body, &[]).map(drop).map_err(|mut problem| {
        if problem.code == Code::UnknownField {
            problem.detail.push_str("none");
        }
        problem
    })
}

/// Parses what of an arena outlives its commit.
pub(super) fn parse_keep(body: &[u8]) -> Result<Keep, Problem> {
    let mut kept = Kept(Ids::of_list("keep"));
    let fields = Fields::parse_with(body, &["keep"], "keep", &mut kept)?;
    match fields.value("keep") {
        None | Some(Value::Bool(false)) => Ok(Keep::Nothing),
        Some(Value::Bool(true)) => Ok(Keep::All),
        Some(Value::Array) => Ok(Keep::These(kept.0.finish()?)),
        Some(_) => Err(fields.refuse(Code::InvalidField, "keep", KEEP_RULE)),
    }
}

/// The list in `keep`, if it is one.
struct Kept(Ids);

impl Nested for Kept {
    fn list<'de, A: SeqAccess<'de>>(&mut self, list: A) -> Result<(), A::Error> {
        self.0.list(list)
    }
}

/// What an arena is to be. Without `estimated_size_bytes` and `profile` it is what earlier arenas of the same tag came to.
#[derive(ToSchema)]
#[schema(as = ArenaRequest)]
#[expect(dead_code, reason = "it describes the body; Fields parses it, for errors that name the field")]
pub(super) struct CreateBody {
    /// Bytes that it will come to, about; instead of `profile`.
    #[schema(nullable = false, minimum = 1, example = 100_000)]
    estimated_size_bytes: Option<u64>,
    /// How large it is to be.
    #[schema(nullable = false)]
    profile: Option<ProfileName>,
    /// The open arena in which this one is made: it counts against that one's limit, and ends with it at the latest.
    #[schema(nullable = false, format = "uuid")]
    parent: Option<String>,
    /// Bytes that its allocations may take together; the profile's if not given.
    #[schema(nullable = false, minimum = 1)]
    limit_bytes: Option<u64>,
    /// Seconds after which it is rolled back by itself; without it, it lives until it is ended.
    #[schema(nullable = false, minimum = 1)]
    lease_seconds: Option<u64>,
    /// The component whose its allocations are, for accounting and budgets; the parent's if not given.
    #[schema(nullable = false, pattern = "^[a-z0-9_.-]{1,64}$")]
    tag: Option<String>,
    /// Milliseconds that the request waits for room; 0 if not given.
    #[schema(nullable = false, maximum = 30_000)]
    wait_ms: Option<u64>,
    /// How much the request matters where room is short; `normal` if not given.
    #[schema(nullable = false)]
    priority: Option<super::allocate::Priority>,
}

/// How large an arena is to be: bytes taken at first, and its limit.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "it describes a field")]
pub(super) enum ProfileName {
    /// 4 KiB, 64 KiB.
    Tiny,
    /// 32 KiB, 512 KiB.
    Small,
    /// 256 KiB, 4 MiB.
    Medium,
    /// 2 MiB, 32 MiB.
    Large,
    /// 16 MiB, 256 MiB.
    Huge,
}

/// What to allocate in an arena. Lease and tag are the arena's.
#[derive(ToSchema)]
#[schema(as = ArenaAllocateRequest)]
#[expect(dead_code, reason = "it describes the body; Fields parses it, for errors that name the field")]
pub(super) struct MemberBody {
    /// Bytes wanted. They take the next multiple of 16 in the arena, or whole pages if they are more than 16 KiB.
    #[schema(minimum = 1, example = 100)]
    size_bytes: u64,
    /// Milliseconds that the request waits for room; 0 if not given.
    #[schema(nullable = false, maximum = 30_000)]
    wait_ms: Option<u64>,
    /// How much the request matters where room is short; `normal` if not given.
    #[schema(nullable = false)]
    priority: Option<super::allocate::Priority>,
}

/// What outlives a commit.
#[derive(ToSchema)]
#[schema(as = CommitRequest)]
#[expect(dead_code, reason = "it describes the body; Fields parses it, for errors that name the field")]
pub(super) struct CommitBody {
    /// `true`: all allocations of the arena; a list: these. They live on without arena and lease. `false` if not given.
    #[schema(nullable = false)]
    keep: Option<KeepBody>,
}

/// All, none, or these.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it describes a field")]
pub(super) enum KeepBody {
    All(bool),
    These(Vec<String>),
}

/// An arena as clients see it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Arena)]
pub(super) struct ArenaBody<'a> {
    /// Names the arena.
    #[serde(serialize_with = "serialize_arena_id")]
    #[schema(value_type = String, format = "uuid")]
    id: ArenaId,
    /// `tiny`, `small`, `medium`, `large` or `huge`.
    profile: &'static str,
    /// What `used_bytes` may come to.
    limit_bytes: u64,
    /// Bytes that allocations took since it was made or reset, those of arenas within it that are open included. Freeing
    /// one allocation does not lower it.
    used_bytes: u64,
    /// Its live allocations, without those of arenas within it.
    allocations: u64,
    /// The arena in which it was made; null where there is none.
    #[serde(serialize_with = "serialize_parent")]
    #[schema(value_type = Option<String>, format = "uuid", required)]
    parent: Option<ArenaId>,
    /// `open`, `committed`, `rolled_back` or `expired`.
    state: &'static str,
    /// Whole seconds since it was made, rounded down.
    age_seconds: u64,
    /// Whole seconds until its lease ends, rounded up. Only where there is a lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    expires_in_seconds: Option<u64>,
    /// Only where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    tag: Option<&'a str>,
}

/// What ended with an arena, or with its content.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ArenaFreed)]
pub(super) struct FreedBody {
    /// What its `used_bytes` were, without what is kept.
    freed_bytes: u64,
    /// Allocations that ended, those of arenas within it included.
    freed_allocations: u64,
    /// What state it is in now.
    state: &'static str,
}

/// An arena's id as text.
pub(super) fn serialize_arena_id<S: Serializer>(id: &ArenaId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(id.encode(&mut [0; 36]))
}

fn serialize_parent<S: Serializer>(parent: &Option<ArenaId>, serializer: S) -> Result<S::Ok, S::Error> {
    match parent {
        Some(parent) => serialize_arena_id(parent, serializer),
        None => serializer.serialize_none(),
    }
}

impl ArenaBody<'_> {
    pub(super) fn new(arena: &Arena, now: Now) -> ArenaBody<'_> {
        ArenaBody {
            id: arena.id,
            profile: arena.profile.name(),
            limit_bytes: arena.limit_bytes,
            used_bytes: arena.used_bytes,
            allocations: arena.allocations,
            parent: arena.parent,
            state: arena.state.name(),
            age_seconds: now.since(arena.created).as_secs(),
            expires_in_seconds: arena.deadline.map(|deadline| seconds_left(deadline, now)),
            tag: arena.tag.as_ref().map(|tag| tag.as_str()),
        }
    }
}

impl FreedBody {
    pub(super) fn new(freed: &ArenaFreed) -> FreedBody {
        FreedBody {
            freed_bytes: freed.freed_bytes,
            freed_allocations: freed.freed_allocations,
            state: freed.state.name(),
        }
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    const ID: &str = "20000000-0000-8000-8000-000000000000";

    fn arena(body: &str) -> Result<(ArenaRequest, Duration), (Code, String)> {
        parse_arena(body.as_bytes()).map_err(|problem| (problem.code, problem.detail))
    }

    #[test]
    fn an_empty_object_asks_for_what_was_learned_and_nothing_else() {
        let (request, wait) = arena("{}").expect("an arena");
        let expected = ArenaRequest {
            size: ArenaSize::Learned,
            parent: None,
            limit_bytes: None,
            lease: None,
            tag: None,
            priority: Priority::Normal,
        };
        assert_eq!((request, wait), (expected, Duration::ZERO));
    }

    #[test]
    fn everything_that_can_be_said_of_an_arena_is_understood() {
        let body = format!(
            r#"{{"profile":"huge","parent":"{ID}","limit_bytes":1,"lease_seconds":2,"tag":"a","wait_ms":3,"priority":"low"}}"#
        );
        let (request, wait) = arena(&body).expect("an arena");
        let expected = ArenaRequest {
            size: ArenaSize::Profile(Profile::Huge),
            parent: Some(ID.parse().expect("an id")),
            limit_bytes: Some(1),
            lease: Some(Duration::from_secs(2)),
            tag: Some("a".parse().expect("a tag")),
            priority: Priority::Low,
        };
        assert_eq!((request, wait), (expected, Duration::from_millis(3)));
        let (request, _) = arena(r#"{"estimated_size_bytes":18446744073709551615}"#).expect("an arena");
        assert_eq!(request.size, ArenaSize::Estimate(u64::MAX));
    }

    #[test]
    fn what_is_wrong_names_the_field_and_its_rule() {
        for (body, code, detail) in [
            (r#"{"estimated_size_bytes":0}"#, Code::InvalidSize, "estimated_size_bytes is 0"),
            (r#"{"limit_bytes":0}"#, Code::InvalidField, "limit_bytes is 0; it is a whole number of bytes"),
            (
                r#"{"profile":"grand"}"#,
                Code::InvalidField,
                "profile is \"grand\"; it is one of tiny, small, medium, large, huge",
            ),
            (r#"{"profile":1}"#, Code::InvalidField, "profile is 1; it is one of tiny"),
            (r#"{"parent":"x"}"#, Code::InvalidId, "parent is \"x\", but an id is a hyphenated UUID"),
            (r#"{"parent":null}"#, Code::InvalidField, "parent is null; it is the id"),
            (r#"{"profile":"tiny","estimated_size_bytes":0}"#, Code::InvalidField, "exclude each other"),
            (r#"{"keep":true}"#, Code::UnknownField, "this request takes: estimated_size_bytes, profile"),
        ] {
            let refused = arena(body).expect_err(body);
            assert_eq!(refused.0, code, "{body}");
            assert!(refused.1.contains(detail), "{body}: {}", refused.1);
        }
    }

    #[test]
    fn a_member_that_says_its_tag_is_told_whose_that_is() {
        let member =
            |body: &str| parse_member(body.as_bytes()).map_err(|problem| (problem.code, problem.detail));
        let said = MemberRequest { size_bytes: 7, priority: Priority::High, wait: Duration::from_millis(9) };
        assert_eq!(member(r#"{"size_bytes":7,"wait_ms":9,"priority":"high"}"#), Ok(said));
        let (code, detail) = member(r#"{"size_bytes":7,"tag":"a"}"#).expect_err("a tag");
        assert_eq!(code, Code::UnknownField);
        let expected = "the field \"tag\" is not known; this request takes: size_bytes, wait_ms, priority; lease and tag are the arena's";
        assert_eq!(detail, expected);
    }

    #[test]
    fn keep_is_all_nothing_or_a_list_of_ids() {
        let keep = |body: &str| parse_keep(body.as_bytes()).map_err(|problem| (problem.code, problem.detail));
        let id = ID.parse().expect("an id");
        for (body, expected) in [
            ("{}", Keep::Nothing),
            (r#"{"keep":false}"#, Keep::Nothing),
            (r#"{"keep":true}"#, Keep::All),
            (r#"{"keep":[]}"#, Keep::These(vec![])),
            (&format!(r#"{{"keep":["{ID}","{ID}"]}}"#), Keep::These(vec![id, id])),
        ] {
            assert_eq!(keep(body), Ok(expected), "{body}");
        }
        for (body, code, detail) in [
            (r#"{"keep":null}"#, Code::InvalidField, "keep is null; it is true, false, or a list"),
            (r#"{"keep":"all"}"#, Code::InvalidField, "keep is a string; it is true"),
            (r#"{"keep":["x"]}"#, Code::InvalidId, "keep[0] is \"x\"; an id is"),
            (&format!(r#"{{"keep":["{ID}",1]}}"#), Code::InvalidId, "keep[1] is 1; an id is"),
            (r#"{"kept":[]}"#, Code::UnknownField, "this request takes: keep"),
        ] {
            let refused = keep(body).expect_err(body);
            assert_eq!(refused.0, code, "{body}");
            assert!(refused.1.contains(detail), "{body}: {}", refused.1);
        }
    }

    #[test]
    fn a_call_that_takes_no_fields_says_so() {
        assert_eq!(parse_nothing(b" {} "), Ok(()));
        let problem = parse_nothing(b"{\"keep\":true}").expect_err("a field");
        assert_eq!(problem.code, Code::UnknownField);
        assert_eq!(problem.detail, "the field \"keep\" is not known; this request takes: none");
    }
}
