//! JSON request bodies: one flat object whose fields are known by name.
//!
//! Parsed in one pass that keeps nothing but the values of known fields, so that a hostile body costs no more memory
//! than it has bytes. Every error names the field. Syntax comes first: a body that is no JSON is told so, whatever
//! fields it has.

use super::error::{Code, Problem};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

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

/// The fields of a body, by name.
#[derive(Debug)]
pub(super) struct Fields {
    known: &'static [&'static str],
    /// One place for each known name.
    values: Vec<Option<Value>>,
    unknown: Option<String>,
    duplicate: Option<&'static str>,
}

impl Fields {
    /// Parses a body that may have the fields `known` and no others, each at most once.
    pub(super) fn parse(body: &[u8], known: &'static [&'static str]) -> Result<Fields, Problem> {
        let mut fields = Fields { known, values: vec![None; known.len()], unknown: None, duplicate: None };
        let mut deserializer = serde_json::Deserializer::from_slice(body);
        let parsed = FieldsSeed(&mut fields).deserialize(&mut deserializer).and_then(|()| deserializer.end());
        if let Err(error) = parsed {
            let detail = if body.is_empty() {
                "the body is empty; a JSON object was expected".to_owned()
            } else {
                format!("the body is not a JSON object as expected: {error}")
            };
            return Err(Problem::new(Code::InvalidJson, detail));
        }
        if let Some(unknown) = &fields.unknown {
            let detail =
                format!("the field {unknown:?} is not known; this request takes: {}", known.join(", "));
            return Err(Problem::new(Code::UnknownField, detail));
        }
        if let Some(duplicate) = fields.duplicate {
            return Err(Problem::new(
                Code::InvalidField,
                format!("the field {duplicate:?} stands more than once"),
            ));
        }
        Ok(fields)
    }

    /// A size in bytes that must be there: a whole number from 1 to 2^64 − 1.
    pub(super) fn size(&self, name: &'static str) -> Result<u64, Problem> {
        let rule = "it is a whole number of bytes, at least 1";
        let refuse = |what: String| Err(Problem::new(Code::InvalidSize, format!("{name} {what}; {rule}")));
        match self.value(name) {
            Some(Value::Unsigned(0)) => refuse("is 0".to_owned()),
            Some(Value::Unsigned(size)) => Ok(*size),
            Some(Value::Negative(number)) => refuse(format!("is {number}, which is negative")),
            Some(Value::Float(number)) if number.fract() == 0.0 && number.abs() >= 1e15 => {
                refuse(format!("is {number:e}, which is beyond 64 bits or has an exponent"))
            }
            Some(Value::Float(number)) => refuse(format!("is {number:?}, which is not a whole number")),
            Some(Value::Text(_)) => refuse("is a string".to_owned()),
            Some(Value::Null) => refuse("is null".to_owned()),
            Some(Value::Bool(_)) => refuse("is true or false".to_owned()),
            Some(Value::Array) => refuse("is an array".to_owned()),
            Some(Value::Object) => refuse("is an object".to_owned()),
            None => refuse("is missing".to_owned()),
        }
    }

    fn value(&self, name: &'static str) -> Option<&Value> {
        let at = self.known.iter().position(|known| *known == name).expect("only known fields are asked for");
        self.values[at].as_ref()
    }
}

struct FieldsSeed<'a>(&'a mut Fields);

impl<'de> DeserializeSeed<'de> for FieldsSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FieldsSeed<'_> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let fields = self.0;
        while let Some(key) = map.next_key_seed(KeySeed(fields.known))? {
            match key {
                Key::Known(at) => {
                    if fields.values[at].replace(map.next_value_seed(ValueSeed)?).is_some() {
                        fields.duplicate.get_or_insert(fields.known[at]);
                    }
                }
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

struct ValueSeed;

impl<'de> DeserializeSeed<'de> for ValueSeed {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed {
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
        Ok(Value::Text(value.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Array)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
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
