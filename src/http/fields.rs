//! JSON request bodies: flat objects whose fields are known by name.
//!
//! Parsed in one pass that keeps nothing but the values of known fields, so that a hostile body costs no more memory
//! than it has bytes. Every error names the field. Syntax comes first: a body that is no JSON is told so, whatever
//! fields it has. A field that is a list is read by whoever knows what is in it ([`Nested`]), in the same pass.

use super::error::{Code, Problem};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;
use std::ops::RangeInclusive;

/// The value of a field, as far as any field of ours needs it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Unsigned(u64),
    Negative(i64),
    /// A fraction, an exponent, or a number beyond 64 bits.
    Float(f64),
    Text(String),
    Array,
    Object,
}

/// What is inside a value, read while the value is. Whoever wants nothing of it is [`Skipped`].
pub(super) trait Nested {
    fn text(&mut self, text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    fn list<'de, A: SeqAccess<'de>>(&mut self, mut list: A) -> Result<(), A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn object<'de, A: MapAccess<'de>>(&mut self, mut object: A) -> Result<(), A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

/// Nothing inside a value is wanted.
pub(super) struct Skipped;

impl Nested for Skipped {}

/// The fields of a body, or of one entry of a list in it, by name.
#[derive(Debug)]
pub(super) struct Fields {
    known: &'static [&'static str],
    /// One place for each known name.
    values: Vec<Option<Value>>,
    unknown: Option<String>,
    duplicate: Option<&'static str>,
    /// The list and the place in it, where these are the fields of an entry.
    entry: Option<(&'static str, usize)>,
}

/// How a body is told that it is no JSON object.
pub(super) fn not_json(body: &[u8], error: &serde_json::Error) -> Problem {
    let detail = if body.is_empty() {
        "the body is empty; a JSON object was expected".to_owned()
    } else {
        format!("the body is not a JSON object as expected: {error}")
    };
    Problem::new(Code::InvalidJson, detail)
}

impl Fields {
    /// No fields yet, of which those named `known` may come.
    pub(super) fn new(known: &'static [&'static str]) -> Fields {
        Fields { known, values: vec![None; known.len()], unknown: None, duplicate: None, entry: None }
    }

    /// No fields again, of the entry `at` of `list`.
    pub(super) fn begin_entry(&mut self, list: &'static str, at: usize) {
        self.values.fill(None);
        (self.unknown, self.duplicate, self.entry) = (None, None, Some((list, at)));
    }

    /// Parses a body that may have the fields `known` and no others, each at most once.
    pub(super) fn parse(body: &[u8], known: &'static [&'static str]) -> Result<Fields, Problem> {
        Fields::parse_with(body, known, "", &mut Skipped)
    }

    /// The same, where `inner` reads what is inside the field `list`.
    pub(super) fn parse_with(
        body: &[u8],
        known: &'static [&'static str],
        list: &'static str,
        inner: &mut impl Nested,
    ) -> Result<Fields, Problem> {
        let mut fields = Fields::new(known);
        let mut deserializer = serde_json::Deserializer::from_slice(body);
        let parsed = deserializer.deserialize_map(Members { fields: &mut fields, list, inner });
        let parsed = parsed.and_then(|()| deserializer.end());
        parsed.map_err(|error| not_json(body, &error))?;
        fields.check()?;
        Ok(fields)
    }

    /// Reads the members of an object, whatever they are.
    pub(super) fn read<'de, A: MapAccess<'de>>(&mut self, object: A) -> Result<(), A::Error> {
        Members { fields: self, list: "", inner: &mut Skipped }.visit_map(object)
    }

    /// Refuses fields that are not known, or stand twice.
    pub(super) fn check(&self) -> Result<(), Problem> {
        if let Some(unknown) = &self.unknown {
            let (of, what) = match self.entry {
                Some((list, at)) => (format!(" of {list}[{at}]"), "an entry"),
                None => (String::new(), "this request"),
            };
            let detail =
                format!("the field {unknown:?}{of} is not known; {what} takes: {}", self.known.join(", "));
            return Err(Problem::new(Code::UnknownField, detail));
        }
        if let Some(duplicate) = self.duplicate {
            let detail = match self.entry {
                Some(_) => format!("{} stands more than once", self.spelt(duplicate)),
                None => format!("the field {duplicate:?} stands more than once"),
            };
            return Err(Problem::new(Code::InvalidField, detail));
        }
        Ok(())
    }

    /// A size in bytes that must be there: a whole number from 1 to 2^64 − 1.
    pub(super) fn size(&self, name: &'static str) -> Result<u64, Problem> {
        match self.value(name) {
            Some(Value::Unsigned(size)) if *size > 0 => Ok(*size),
            _ => Err(self.refuse(Code::InvalidSize, name, "it is a whole number of bytes, at least 1")),
        }
    }

    /// A whole number within `range`, where the field is there. `rule` says what it is, for the error.
    pub(super) fn whole(
        &self,
        name: &'static str,
        range: RangeInclusive<u64>,
        rule: &str,
    ) -> Result<Option<u64>, Problem> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Unsigned(number)) if range.contains(number) => Ok(Some(*number)),
            Some(_) => Err(self.refuse(Code::InvalidField, name, rule)),
        }
    }

    /// Text, where the field is there.
    pub(super) fn text(&self, name: &'static str, rule: &str) -> Result<Option<&str>, Problem> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(self.refuse(Code::InvalidField, name, rule)),
        }
    }

    /// The problem that a field has the value that it has, or none.
    pub(super) fn refuse(&self, code: Code, name: &'static str, rule: &str) -> Problem {
        let what = self.value(name).map_or_else(|| "is missing".to_owned(), Value::what);
        Problem::new(code, format!("{} {what}; {rule}", self.spelt(name)))
    }

    /// The field's name as an error says it.
    pub(super) fn spelt(&self, name: &str) -> String {
        match self.entry {
            Some((list, at)) => format!("{list}[{at}].{name}"),
            None => name.to_owned(),
        }
    }

    pub(super) fn value(&self, name: &'static str) -> Option<&Value> {
        let at = self.known.iter().position(|known| *known == name).expect("only known fields are asked for");
        self.values[at].as_ref()
    }
}

impl Value {
    /// What an error says of a value that is not what it should be.
    pub(super) fn what(&self) -> String {
        match self {
            Value::Unsigned(number) => format!("is {number}"),
            Value::Negative(number) => format!("is {number}, which is negative"),
            Value::Float(number) if number.fract() == 0.0 && number.abs() >= 1e15 => {
                format!("is {number:e}, which is beyond 64 bits or has an exponent")
            }
            Value::Float(number) => format!("is {number:?}, which is not a whole number"),
            Value::Text(_) => "is a string".to_owned(),
            Value::Null => "is null".to_owned(),
            Value::Bool(_) => "is true or false".to_owned(),
            Value::Array => "is an array".to_owned(),
            Value::Object => "is an object".to_owned(),
        }
    }
}

/// The members of an object on their way into fields.
struct Members<'a, N> {
    fields: &'a mut Fields,
    /// The field that `inner` reads.
    list: &'static str,
    inner: &'a mut N,
}

impl<'de, N: Nested> Visitor<'de> for Members<'_, N> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let fields = self.fields;
        while let Some(key) = map.next_key_seed(KeySeed(fields.known))? {
            match key {
                // Of a field that stands twice, the second is not looked into: the body is refused for it.
                Key::Known(at) if fields.values[at].is_some() => {
                    map.next_value::<IgnoredAny>()?;
                    fields.duplicate.get_or_insert(fields.known[at]);
                }
                Key::Known(at) if fields.known[at] == self.list => {
                    fields.values[at] = Some(map.next_value_seed(ValueSeed(&mut *self.inner))?);
                }
                Key::Known(at) => fields.values[at] = Some(map.next_value_seed(ValueSeed(&mut Skipped))?),
                Key::Unknown(name) => {
                    map.next_value::<IgnoredAny>()?;
                    fields.unknown.get_or_insert(name);
                }
            }
        }
        Ok(())
    }
}

enum Key {
    Known(usize),
    /// The name, shortened to what an error needs.
    Unknown(String),
}

struct KeySeed(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed {
    type Value = Key;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Key, E> {
        const SHOWN_LETTERS: usize = 64;
        Ok(match self.0.iter().position(|known| *known == name) {
            Some(at) => Key::Known(at),
            None => Key::Unknown(name.chars().take(SHOWN_LETTERS).collect()),
        })
    }
}

/// Reads a value, and what is inside it as the other wants.
pub(super) struct ValueSeed<'a, N>(pub(super) &'a mut N);

impl<'de, N: Nested> DeserializeSeed<'de> for ValueSeed<'_, N> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, N: Nested> Visitor<'de> for ValueSeed<'_, N> {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Unsigned(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Negative(value))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(self.0.text(value))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Value, A::Error> {
        self.0.list(list)?;
        Ok(Value::Array)
    }
    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Value, A::Error> {
        self.0.object(object)?;
        Ok(Value::Object)
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn size(body: &str) -> Result<u64, (Code, String)> {
        let fields = Fields::parse(body.as_bytes(), &["size_bytes", "tag"]);
        fields.and_then(|fields| fields.size("size_bytes")).map_err(|problem| (problem.code, problem.detail))
    }

    #[test]
    fn whole_numbers_from_one_up_are_sizes() {
        assert_eq!(size(r#"{"size_bytes":1}"#), Ok(1));
        assert_eq!(size(r#" { "size_bytes" : 18446744073709551615 , "tag" : "x" } "#), Ok(u64::MAX));
        assert_eq!(size(r#"{"size\u005fbytes":7}"#), Ok(7), "escapes in names are undone");
    }

    #[test]
    fn everything_else_is_no_size_and_the_answer_says_why() {
        for (value, why) in [
            ("0", "is 0"),
            ("-5", "negative"),
            ("-0", "not a whole number"),
            ("1.5", "1.5, which is not a whole number"),
            ("1.0", "not a whole number"),
            ("1e3", "not a whole number"),
            ("18446744073709551616", "beyond 64 bits"),
            ("1e400", ""),
            ("\"1024\"", "is a string"),
            ("null", "is null"),
            ("true", "true or false"),
            ("[1]", "is an array"),
            ("{\"a\":1}", "is an object"),
        ] {
            let (code, detail) = size(&format!("{{\"size_bytes\":{value}}}")).expect_err(value);
            let expected = if value == "1e400" { Code::InvalidJson } else { Code::InvalidSize };
            assert_eq!(code, expected, "{value}: {detail}");
            assert!(detail.contains(why), "{value}: {detail}");
        }
        assert_eq!(size("{}").expect_err("missing").0, Code::InvalidSize);
    }

    #[test]
    fn what_is_no_json_object_is_invalid_json() {
        for body in [
            "",
            "{",
            "[1]",
            "7",
            "\"x\"",
            "null",
            "{\"size_bytes\":1",
            "{\"size_bytes\":1} x",
            "{\"size_bytes\":1,}",
            "{size_bytes:1}",
            "\u{feff}{}",
        ] {
            assert_eq!(size(body).expect_err(body).0, Code::InvalidJson, "{body}");
        }
        assert!(Fields::parse(b"{\"\xff\":1}", &["size_bytes"]).is_err());
    }

    #[test]
    fn a_deeply_nested_body_is_refused_without_deep_recursion() {
        let (open, close) = ("[".repeat(500_000), "]".repeat(500_000));
        assert_eq!(
            size(&format!("{{\"size_bytes\":{open}{close}}}")).expect_err("an array").0,
            Code::InvalidSize
        );
        assert_eq!(size(&format!("{{\"x\":{open}{close}}}")).expect_err("unknown").0, Code::UnknownField);
        assert_eq!(size(&format!("{{\"x\":{open}")).expect_err("truncated").0, Code::InvalidJson);
        let objects = "{\"a\":".repeat(500_000);
        assert_eq!(size(&format!("{{\"size_bytes\":{objects}")).expect_err("truncated").0, Code::InvalidJson);
    }

    #[test]
    fn unknown_and_repeated_fields_are_named() {
        let (code, detail) = size(r#"{"size_bytes":1,"size":2,"sizes":3}"#).expect_err("unknown");
        assert_eq!(code, Code::UnknownField);
        assert!(detail.contains("\"size\"") && detail.contains("size_bytes, tag"), "{detail}");
        let (code, detail) = size(r#"{"size_bytes":1,"size_bytes":1}"#).expect_err("twice");
        assert_eq!(code, Code::InvalidField);
        assert!(detail.contains("\"size_bytes\""), "{detail}");
        let long = format!("{{\"{}\":1}}", "x".repeat(100_000));
        assert!(size(&long).expect_err("unknown").1.len() < 200);
    }

    proptest! {
        #[test]
        fn no_bytes_make_parsing_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Fields::parse(&body, &["size_bytes"]).map(|fields| fields.size("size_bytes").is_ok());
        }
    }
}
