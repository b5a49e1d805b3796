//! The JSON bodies of batches, parsed in one pass without a tree: entries become requests, and ids become ids, while
//! they are read. What is kept is bounded by [`BATCH_MAX`] entries, and by the length of the body.

use super::error::{Code, Problem};
use super::fields::{Fields, Nested, Value, ValueSeed};
use super::options::Options;
use crate::pool::{AllocateRequest, AllocationId, ParseIdError, Priority};
use serde::de::{MapAccess, SeqAccess};
use std::time::Duration;

/// Allocations that one batch makes at most.
pub(super) const BATCH_MAX: usize = 10_000;

const FIELDS: &[&str] =
    &["size_bytes", "count", "allocations", "lease_seconds", "tag", "wait_ms", "priority"];
const ENTRY_FIELDS: &[&str] = &["size_bytes", "lease_seconds", "tag", "priority"];
const LIST: &str = "allocations";
const COUNT_RULE: &str = "it is a whole number from 1 to 10000";
const LIST_RULE: &str = "it is a list of 1 to 10000 objects with size_bytes";

/// What a batch asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// At least one, at most [`BATCH_MAX`].
    pub(super) requests: Vec<AllocateRequest>,
    pub(super) wait: Duration,
    /// Whether the requests stood in a list, each for itself, so that an error names its place.
    pub(super) is_list: bool,
}

impl Batch {
    /// Parses either form of a batch.
    pub(super) fn parse(body: &[u8]) -> Result<Batch, Problem> {
        let mut entries = Entries::default();
        let fields = Fields::parse_with(body, FIELDS, LIST, &mut entries)?;
        let options = Options::of_fields(&fields)?;
        let is_list = fields.value(LIST).is_some();
        let requests = if is_list {
            if let Some(name) = ["size_bytes", "count"].into_iter().find(|name| fields.value(name).is_some())
            {
                let detail = format!(
                    "{name} and allocations exclude each other; a batch is a size_bytes and a count, or a list"
                );
                return Err(Problem::new(Code::InvalidField, detail));
            }
            entries.finish(&fields, &options)?
        } else if fields.value("size_bytes").is_none() && fields.value("count").is_none() {
            let detail = "the body has neither size_bytes and count, nor allocations; one of them says what is asked for";
            return Err(Problem::new(Code::InvalidField, detail));
        } else {
            let size_bytes = fields.size("size_bytes")?;
            let count = fields.whole("count", 1..=BATCH_MAX as u64, COUNT_RULE)?;
            let count = count.ok_or_else(|| fields.refuse(Code::InvalidField, "count", COUNT_RULE))?;
            let request = AllocateRequest {
                size_bytes,
                lease: options.lease,
                tag: options.tag,
                priority: options.priority.unwrap_or_default(),
            };
            vec![request; usize::try_from(count).expect("it is at most 10,000")]
        };
        Ok(Batch { requests, wait: options.wait, is_list })
    }
}

/// The list of a batch on its way. After the first problem nothing more is kept: only the syntax still counts.
#[derive(Default)]
struct Entries {
    /// What an entry does not say is filled in at the end: the defaults may stand behind the list.
    requests: Vec<AllocateRequest>,
    /// What each says of how much it matters.
    priorities: Vec<Option<Priority>>,
    problem: Option<Problem>,
    /// Of all elements, however many there are.
    count: usize,
}

impl Entries {
    fn finish(mut self, fields: &Fields, options: &Options) -> Result<Vec<AllocateRequest>, Problem> {
        if fields.value(LIST) != Some(&Value::Array) {
            return Err(fields.refuse(Code::InvalidField, LIST, LIST_RULE));
        }
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        if !(1..=BATCH_MAX).contains(&self.count) {
            let detail = format!("{LIST} has {} entries; {LIST_RULE}", self.count);
            return Err(Problem::new(Code::InvalidField, detail));
        }
        for (request, priority) in self.requests.iter_mut().zip(self.priorities) {
            request.priority = priority.or(options.priority).unwrap_or_default();
            request.lease = request.lease.or(options.lease);
            if request.tag.is_none() {
                request.tag.clone_from(&options.tag);
            }
        }
        Ok(self.requests)
    }
}

impl Nested for Entries {
    fn list<'de, A: SeqAccess<'de>>(&mut self, mut list: A) -> Result<(), A::Error> {
        let mut entry = Entry { fields: Fields::new(ENTRY_FIELDS) };
        loop {
            entry.fields.begin_entry(LIST, self.count);
            let Some(value) = list.next_element_seed(ValueSeed(&mut entry))? else { return Ok(()) };
            if self.problem.is_none() && self.count < BATCH_MAX {
                match entry.request(&value, self.count) {
                    Ok((request, priority)) => {
                        self.requests.push(request);
                        self.priorities.push(priority);
                    }
                    Err(problem) => self.problem = Some(problem),
                }
            }
            self.count += 1;
        }
    }
}

/// One entry of the list.
struct Entry {
    fields: Fields,
}

impl Entry {
    /// What it asks for, and what it says of how much that matters.
    fn request(&self, value: &Value, at: usize) -> Result<(AllocateRequest, Option<Priority>), Problem> {
        if *value != Value::Object {
            let detail = format!("{LIST}[{at}] {}; it is an object with size_bytes", value.what());
            return Err(Problem::new(Code::InvalidField, detail));
        }
        self.fields.check()?;
        let size_bytes = self.fields.size("size_bytes")?;
        let Options { lease, tag, priority, .. } = Options::of_entry(&self.fields)?;
        Ok((AllocateRequest { size_bytes, lease, tag, ..AllocateRequest::new(size_bytes) }, priority))
    }
}

impl Nested for Entry {
    fn object<'de, A: MapAccess<'de>>(&mut self, object: A) -> Result<(), A::Error> {
        self.fields.read(object)
    }
}

/// Parses the body of a batch that frees: `{"ids":[…]}`.
pub(super) fn parse_ids(body: &[u8]) -> Result<Vec<AllocationId>, Problem> {
    let mut ids = Ids::of_list("ids");
    let fields = Fields::parse_with(body, &["ids"], "ids", &mut ids)?;
    if fields.value("ids") != Some(&Value::Array) {
        return Err(fields.refuse(Code::InvalidField, "ids", "it is a list of ids"));
    }
    ids.finish()
}

/// A list of ids on its way.
pub(super) struct Ids {
    /// The field that it is, for errors.
    list: &'static str,
    ids: Vec<AllocationId>,
    problem: Option<Problem>,
}

impl Ids {
    /// None yet, of the field `list`.
    pub(super) fn of_list(list: &'static str) -> Ids {
        Ids { list, ids: Vec::new(), problem: None }
    }

    /// All of them, or the problem of the first that is none.
    pub(super) fn finish(self) -> Result<Vec<AllocationId>, Problem> {
        self.problem.map_or(Ok(self.ids), Err)
    }

    fn no_id(&self, at: usize, what: &str) -> Problem {
        Problem::new(Code::InvalidId, format!("{}[{at}] {what}; {ParseIdError}", self.list))
    }
}

impl Nested for Ids {
    fn list<'de, A: SeqAccess<'de>>(&mut self, mut list: A) -> Result<(), A::Error> {
        loop {
            let mut id = Id(None);
            let Some(value) = list.next_element_seed(ValueSeed(&mut id))? else { return Ok(()) };
            if self.problem.is_some() {
                continue;
            }
            let at = self.ids.len();
            match id.0 {
                Some(Ok(id)) => self.ids.push(id),
                Some(Err(shown)) => self.problem = Some(self.no_id(at, &format!("is {shown:?}"))),
                None => self.problem = Some(self.no_id(at, &value.what())),
            }
        }
    }
}

/// An id, or as much of the text as an error needs.
struct Id(Option<Result<AllocationId, String>>);

impl Nested for Id {
    fn text(&mut self, text: &str) -> Value {
        self.0 = Some(text.parse().map_err(|_| super::query::shown(text)));
        Value::Text(String::new())
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(body: &str) -> Result<Batch, (Code, String)> {
        Batch::parse(body.as_bytes()).map_err(|problem| (problem.code, problem.detail))
    }

    fn request(size_bytes: u64, lease: Option<u64>, tag: Option<&str>) -> AllocateRequest {
        let tag = tag.map(|tag| tag.parse().expect("a tag"));
        AllocateRequest {
            size_bytes,
            lease: lease.map(Duration::from_secs),
            tag,
            ..AllocateRequest::new(size_bytes)
        }
    }

    #[test]
    fn both_forms_are_understood_and_what_stands_beside_a_list_is_its_default() {
        let batch = parse(r#"{"count":3,"size_bytes":7,"tag":"a","wait_ms":5}"#).expect("a batch");
        assert_eq!(batch.requests, vec![request(7, None, Some("a")); 3]);
        assert_eq!((batch.wait, batch.is_list), (Duration::from_millis(5), false));
        let low = parse(r#"{"count":1,"size_bytes":7,"priority":"low"}"#).expect("a batch");
        assert_eq!(low.requests[0].priority, Priority::Low);
        let list = r#"{"allocations":[{"size_bytes":1},{"tag":"b","size_bytes":2,"lease_seconds":9},
            {"size_bytes":3,"priority":"low"}],"lease_seconds":60,"tag":"a","priority":"high"}"#;
        let batch = parse(list).expect("a batch");
        let of = |priority, request| AllocateRequest { priority, ..request };
        let expected = [
            of(Priority::High, request(1, Some(60), Some("a"))),
            of(Priority::High, request(2, Some(9), Some("b"))),
            of(Priority::Low, request(3, Some(60), Some("a"))),
        ];
        assert_eq!((batch.requests, batch.wait, batch.is_list), (expected.to_vec(), Duration::ZERO, true));
    }

    #[test]
    fn errors_name_the_entry_and_its_field() {
        let entry = |text: &str| format!("{{\"allocations\":[{{\"size_bytes\":1}},{text}]}}");
        for (body, code, what) in [
            (entry("{}"), Code::InvalidSize, "allocations[1].size_bytes is missing"),
            (entry("{\"size_bytes\":0}"), Code::InvalidSize, "allocations[1].size_bytes is 0"),
            (
                entry("{\"size_bytes\":1,\"wait_ms\":1}"),
                Code::UnknownField,
                "\"wait_ms\" of allocations[1] is not",
            ),
            (
                entry("{\"size_bytes\":1,\"size_bytes\":1}"),
                Code::InvalidField,
                "allocations[1].size_bytes stands",
            ),
            (entry("{\"size_bytes\":1,\"tag\":\"A\"}"), Code::InvalidField, "allocations[1].tag is \"A\""),
            (
                entry("{\"size_bytes\":1,\"lease_seconds\":0}"),
                Code::InvalidField,
                "allocations[1].lease_seconds is 0",
            ),
            (
                entry("{\"size_bytes\":1,\"priority\":\"x\"}"),
                Code::InvalidField,
                "allocations[1].priority is",
            ),
            (entry("7"), Code::InvalidField, "allocations[1] is 7"),
            (entry("null"), Code::InvalidField, "allocations[1] is null"),
            (entry("[{}]"), Code::InvalidField, "allocations[1] is an array"),
            (entry("{\"size_bytes\":{\"size_bytes\":1}}"), Code::InvalidSize, "is an object"),
            ("{}".into(), Code::InvalidField, "neither"),
            ("{\"count\":1}".into(), Code::InvalidSize, "size_bytes is missing"),
            ("{\"size_bytes\":1}".into(), Code::InvalidField, "count is missing"),
            ("{\"size_bytes\":1,\"count\":0}".into(), Code::InvalidField, "count is 0"),
            ("{\"size_bytes\":1,\"count\":10001}".into(), Code::InvalidField, "count is 10001"),
            ("{\"size_bytes\":1,\"count\":1.5}".into(), Code::InvalidField, "count is 1.5"),
            ("{\"allocations\":[]}".into(), Code::InvalidField, "has 0 entries"),
            ("{\"allocations\":{}}".into(), Code::InvalidField, "is an object"),
            ("{\"allocations\":null}".into(), Code::InvalidField, "is null"),
            ("{\"allocations\":[{\"size_bytes\":1}],\"count\":1}".into(), Code::InvalidField, "exclude"),
            ("{\"allocations\":[],\"allocations\":[]}".into(), Code::InvalidField, "more than once"),
            (entry("{\"size_bytes\":0}") + "x", Code::InvalidJson, "not a JSON object"),
        ] {
            let (refused, detail) = parse(&body).expect_err(&body);
            assert!(refused == code && detail.contains(what), "{body}: {} {detail}", refused.name());
        }
    }

    #[test]
    fn ten_thousand_entries_are_taken_and_no_more() {
        let list =
            |count: usize| format!("{{\"allocations\":[{}]}}", vec!["{\"size_bytes\":1}"; count].join(","));
        assert_eq!(parse(&list(BATCH_MAX)).expect("a batch").requests.len(), BATCH_MAX);
        let (code, detail) = parse(&list(BATCH_MAX + 1)).expect_err("too many");
        assert!(code == Code::InvalidField && detail.contains("has 10001 entries"), "{detail}");
    }

    #[test]
    fn ids_are_parsed_and_one_that_is_none_is_named_by_its_place() {
        const ID: &str = "5a8c1b2e-0000-8000-8000-0123456789ab";
        let ids = parse_ids(format!("{{\"ids\":[\"{ID}\",\"{}\"]}}", ID.to_uppercase()).as_bytes());
        assert_eq!(ids, Ok(vec![ID.parse().expect("an id"); 2]));
        assert_eq!(parse_ids(b"{\"ids\":[]}"), Ok(Vec::new()));
        for (list, what) in [("\"x\"", "ids[1] is \"x\""), ("7", "ids[1] is 7"), ("null", "ids[1] is null")] {
            let problem = parse_ids(format!("{{\"ids\":[\"{ID}\",{list},8]}}").as_bytes()).expect_err(list);
            assert!(problem.code == Code::InvalidId && problem.detail.contains(what), "{}", problem.detail);
        }
        for body in ["{}", "{\"ids\":null}", "{\"ids\":\"x\"}", "{\"ids\":{}}", "{\"ids\":[],\"ids\":[]}"] {
            assert_eq!(parse_ids(body.as_bytes()).expect_err(body).code, Code::InvalidField, "{body}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_parsing_panic(body in "[{}\\[\\]\",:a-z0-9_]{0,80}|\\{\"allocations\":\\[[{}\\[\\]\",:0-9]{0,40}") {
            let _ = (Batch::parse(body.as_bytes()).is_ok(), parse_ids(body.as_bytes()).is_ok());
        }
    }
}
