//! What a request that allocates may say beside its size: a lease, a tag, how much it matters, how long it waits.
//!
//! The same four come as fields of a JSON body and as parameters of a query; the rules are here once.

use super::error::{Code, Problem};
use super::fields::Fields;
use super::query::{self, Query};
use crate::pool::{Priority, Tag};
use std::ops::RangeInclusive;
use std::time::Duration;

/// `wait_ms` at most. The client's connection is held as long.
pub(super) const WAIT_MS_MAX: u64 = 30_000;

const LEASE_SECONDS: RangeInclusive<u64> = 1..=u64::MAX;
const LEASE_RULE: &str = "it is a whole number of seconds, at least 1";
const WAIT_RULE: &str = "it is a whole number of milliseconds from 0 to 30000";
const TAG_RULE: &str = "it is 1 to 64 of the characters a to z, 0 to 9, _, . and -";
const PRIORITY_RULE: &str = "it is low, normal or high";

/// The names of all options, which a one-shot request takes as parameters.
pub(super) const NAMES: &[&str] = &["lease_seconds", "tag", "wait_ms", "priority"];

/// What was said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) lease: Option<Duration>,
    pub(super) tag: Option<Tag>,
    /// None where nothing was said: it is normal then, or what stands beside the entry of a batch.
    pub(super) priority: Option<Priority>,
    /// Zero where the request does not wait.
    pub(super) wait: Duration,
}

impl Options {
    /// From the fields of a body, all of which must be known to it.
    pub(super) fn of_fields(fields: &Fields) -> Result<Options, Problem> {
        Ok(Options { wait: wait_ms_of(fields)?, ..Options::of_entry(fields)? })
    }

    /// From the fields of an entry of a batch, which waits as one unit: an entry has no `wait_ms`.
    pub(super) fn of_entry(fields: &Fields) -> Result<Options, Problem> {
        let lease = fields.whole("lease_seconds", LEASE_SECONDS, LEASE_RULE)?.map(Duration::from_secs);
        let tag = match fields.text("tag", TAG_RULE)? {
            Some(text) => Some(text.parse().map_err(|_| refuse(fields, "tag", text, TAG_RULE))?),
            None => None,
        };
        Ok(Options { lease, tag, priority: priority_of(fields)?, wait: Duration::ZERO })
    }

    /// From the parameters of a query that takes [`NAMES`].
    pub(super) fn of_query(query: &Query) -> Result<Options, Problem> {
        let lease = query.whole("lease_seconds", LEASE_SECONDS, LEASE_RULE)?.map(Duration::from_secs);
        let wait_ms = query.whole("wait_ms", 0..=WAIT_MS_MAX, WAIT_RULE)?.unwrap_or(0);
        let priority = |text| named(text).ok_or_else(|| query::refuse("priority", text, PRIORITY_RULE));
        let priority = query.get("priority").map(priority).transpose()?;
        Ok(Options { lease, tag: tag_of(query)?, priority, wait: Duration::from_millis(wait_ms) })
    }
}

/// How long a request waits that can say nothing but that, and its priority.
pub(super) fn wait_and_priority_of(fields: &Fields) -> Result<(Duration, Priority), Problem> {
    let priority = priority_of(fields)?;
    Ok((wait_ms_of(fields)?, priority.unwrap_or_default()))
}

fn wait_ms_of(fields: &Fields) -> Result<Duration, Problem> {
    let wait_ms = fields.whole("wait_ms", 0..=WAIT_MS_MAX, WAIT_RULE)?;
    Ok(Duration::from_millis(wait_ms.unwrap_or(0)))
}

fn named(text: &str) -> Option<Priority> {
    Priority::ALL.into_iter().find(|priority| priority.name() == text)
}

fn priority_of(fields: &Fields) -> Result<Option<Priority>, Problem> {
    let Some(text) = fields.text("priority", PRIORITY_RULE)? else { return Ok(None) };
    named(text).map(Some).ok_or_else(|| refuse(fields, "priority", text, PRIORITY_RULE))
}

/// The length of a lease that must be there.
pub(super) fn lease_of(fields: &Fields) -> Result<Duration, Problem> {
    let seconds = fields.whole("lease_seconds", LEASE_SECONDS, LEASE_RULE)?;
    let seconds = seconds.ok_or_else(|| fields.refuse(Code::InvalidField, "lease_seconds", LEASE_RULE))?;
    Ok(Duration::from_secs(seconds))
}

/// The parameter `tag`, where it is there.
pub(super) fn tag_of(query: &Query) -> Result<Option<Tag>, Problem> {
    let tag = |text: &str| text.parse().map_err(|_| query::refuse("tag", text, TAG_RULE));
    query.get("tag").map(tag).transpose()
}

/// The problem that a field is this text.
fn refuse(fields: &Fields, name: &str, text: &str, rule: &str) -> Problem {
    let detail = format!("{} is {:?}; {rule}", fields.spelt(name), query::shown(text));
    Problem::new(Code::InvalidField, detail)
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    fn of_fields(members: &str) -> Result<Options, (Code, String)> {
        let fields = Fields::parse(format!("{{{members}}}").as_bytes(), NAMES);
        fields
            .and_then(|fields| Options::of_fields(&fields))
            .map_err(|refused| (refused.code, refused.detail))
    }

    fn of_query(query: &str) -> Result<Options, (Code, String)> {
        let uri = format!("/allocate?{query}").parse().expect("a URI");
        let query = Query::parse(&uri, NAMES);
        query.and_then(|query| Options::of_query(&query)).map_err(|refused| (refused.code, refused.detail))
    }

    #[test]
    fn both_forms_say_the_same() {
        let whole = Options {
            lease: Some(Duration::from_secs(u64::MAX)),
            tag: Some("a.b-c_9".parse().expect("a tag")),
            priority: Some(Priority::Low),
            wait: Duration::from_secs(30),
        };
        let fields =
            r#""lease_seconds":18446744073709551615,"tag":"a.b-c_9","wait_ms":30000,"priority":"low""#;
        assert_eq!(of_fields(fields), Ok(whole.clone()));
        let query = "lease_seconds=18446744073709551615&tag=a.b-c_9&wait_ms=30000&priority=low";
        assert_eq!(of_query(query), Ok(whole));
        assert_eq!((of_fields(""), of_query("")), (Ok(Options::default()), Ok(Options::default())));
        for priority in Priority::ALL {
            let expected = Options { priority: Some(priority), ..Options::default() };
            let name = priority.name();
            assert_eq!(of_fields(&format!("\"priority\":\"{name}\"")), Ok(expected.clone()));
            assert_eq!(of_query(&format!("priority={name}")), Ok(expected));
        }
    }

    #[test]
    fn what_can_never_be_right_names_the_option_and_its_rule() {
        for (members, name, rule) in [
            (r#""lease_seconds":0"#, "lease_seconds is 0", LEASE_RULE),
            (r#""lease_seconds":1.5"#, "lease_seconds is 1.5", LEASE_RULE),
            (r#""lease_seconds":-1"#, "lease_seconds is -1", LEASE_RULE),
            (r#""lease_seconds":"60""#, "lease_seconds is a string", LEASE_RULE),
            (r#""lease_seconds":18446744073709551616"#, "beyond 64 bits", LEASE_RULE),
            (r#""lease_seconds":null"#, "lease_seconds is null", LEASE_RULE),
            (r#""wait_ms":30001"#, "wait_ms is 30001", WAIT_RULE),
            (r#""wait_ms":-1"#, "wait_ms is -1", WAIT_RULE),
            (r#""priority":"urgent""#, "priority is \"urgent\"", PRIORITY_RULE),
            (r#""priority":1"#, "priority is 1", PRIORITY_RULE),
            (r#""tag":"Cache""#, "tag is \"Cache\"", "1 to 64"),
            (r#""tag":"""#, "tag is \"\"", "1 to 64"),
            (r#""tag":7"#, "tag is 7", "1 to 64"),
        ] {
            let (code, detail) = of_fields(members).expect_err(members);
            assert_eq!(code, Code::InvalidField, "{members}");
            assert!(detail.contains(name) && detail.contains(rule), "{detail}");
        }
        for query in [
            "lease_seconds=0",
            "lease_seconds=",
            "lease_seconds=%2B1",
            "lease_seconds=1.0",
            "lease_seconds=-1",
            "lease_seconds=18446744073709551616",
            "wait_ms=30001",
            "wait_ms=x",
            "priority=",
            "priority=LOW",
            "tag=",
            "tag=A",
            "tag=a%20b",
        ] {
            let (code, detail) = of_query(query).expect_err(query);
            assert_eq!(code, Code::InvalidQuery, "{query}");
            assert!(detail.starts_with(query.split('=').next().expect("a name")), "{detail}");
        }
    }
}
