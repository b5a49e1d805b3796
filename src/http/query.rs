//! Query strings: parameters known by name, each at most once.

use super::error::{Code, Problem};
use crate::pool::Cursor;
use axum::http::Uri;
use std::borrow::Cow;
use std::ops::RangeInclusive;

/// The parameters of a request, one place for each known name.
#[derive(Debug)]
pub(super) struct Query<'a> {
    known: &'static [&'static str],
    values: Vec<Option<Cow<'a, str>>>,
}

/// Entries on a page of a listing, unless `limit` says otherwise.
const PAGE_LIMIT: usize = 100;
/// `limit` at most.
const PAGE_LIMIT_MAX: u64 = 1000;
const PAGE_LIMIT_RULE: &str = "it is a whole number from 1 to 1000";

/// Which page of a listing is asked for.
#[derive(Debug)]
pub(super) struct Page {
    /// Entries on it at most.
    pub(super) limit: usize,
    /// After which entry it begins; none: at the first.
    pub(super) cursor: Option<Cursor>,
}

/// Refuses a request that has any query parameter.
pub(super) fn none(uri: &Uri) -> Result<(), Problem> {
    match uri.query() {
        None | Some("") => Ok(()),
        Some(_) => Query::parse(uri, &[]).map(drop),
    }
}

impl<'a> Query<'a> {
    pub(super) fn parse(uri: &'a Uri, known: &'static [&'static str]) -> Result<Query<'a>, Problem> {
        let mut values = vec![None; known.len()];
        for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
            let refuse = |what: &str| {
                let shown: String = name.chars().take(64).collect();
                let takes = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                Err(Problem::new(
                    Code::InvalidQuery,
                    format!("the query parameter {shown:?} {what}; this request takes: {takes}"),
                ))
            };
            match known.iter().position(|known| *known == name) {
                None => return refuse("is not known"),
                Some(at) if values[at].is_some() => return refuse("stands more than once"),
                Some(at) => values[at] = Some(value),
            }
        }
        Ok(Query { known, values })
    }

    pub(super) fn get(&self, name: &'static str) -> Option<&str> {
        let at =
            self.known.iter().position(|known| *known == name).expect("only known parameters are asked for");
        self.values[at].as_deref()
    }

    /// The parameters `limit` and `cursor` of a listing.
    pub(super) fn page(&self) -> Result<Page, Problem> {
        let limit = self
            .whole("limit", 1..=PAGE_LIMIT_MAX, PAGE_LIMIT_RULE)?
            .map_or(PAGE_LIMIT, |limit| usize::try_from(limit).expect("at most a thousand"));
        let cursor = self.get("cursor").map(|text| {
            let detail = || format!("cursor is {:?}, which is no next_cursor of a page", shown(text));
            Cursor::decode(text).ok_or_else(|| Problem::new(Code::InvalidQuery, detail()))
        });
        Ok(Page { limit, cursor: cursor.transpose()? })
    }

    /// A whole number within `range`, where the parameter is there. `rule` says what it is, for the error.
    pub(super) fn whole(
        &self,
        name: &'static str,
        range: RangeInclusive<u64>,
        rule: &str,
    ) -> Result<Option<u64>, Problem> {
        let Some(text) = self.get(name) else { return Ok(None) };
        // `parse` alone would also take a plus sign.
        let number = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        match number.filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(refuse(name, text, rule)),
        }
    }
}

/// The problem that a parameter has this value.
pub(super) fn refuse(name: &str, text: &str, rule: &str) -> Problem {
    Problem::new(Code::InvalidQuery, format!("{name} is {:?}; {rule}", shown(text)))
}

/// As much of a client's text as an error needs.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    fn parse(uri: &str) -> Result<Option<String>, String> {
        let uri: Uri = uri.parse().expect("a URI");
        let query = Query::parse(&uri, &["limit", "cursor"]).map_err(|problem| problem.detail)?;
        Ok(query.get("limit").map(str::to_owned))
    }

    #[test]
    fn parameters_are_found_by_name() {
        assert_eq!(parse("/x"), Ok(None));
        assert_eq!(parse("/x?"), Ok(None));
        assert_eq!(parse("/x?cursor=a&limit=%31+2"), Ok(Some("1 2".to_owned())));
    }

    #[test]
    fn unknown_and_repeated_parameters_are_named() {
        assert!(parse("/x?limits=1").expect_err("unknown").contains("\"limits\" is not known"));
        assert!(parse("/x?limit=1&limit=1").expect_err("twice").contains("more than once"));
        assert!(none(&"/x?a".parse().expect("a URI")).is_err());
        assert!(none(&"/x?".parse().expect("a URI")).is_ok());
    }
}
