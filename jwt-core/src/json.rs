//! JSON objects read so that no two parsers can disagree about them: UTF-8 only, no duplicate member at any
//! level, bounded depth and array length. `serde_json` is the tokenizer; the text of each member is kept, so that
//! numbers can be shown as they were written.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::limits;

/// Why a text is not an object that this crate reads.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectError {
    /// The bytes are not UTF-8 (RFC 8259 §8.1).
    #[error("not UTF-8")]
    NotUtf8,
    /// Not a JSON object, a duplicate member, too deep or an array too long. The column is counted in bytes.
    #[error("not a strict JSON object (line {line}, column {column})")]
    Syntax {
        /// Line of the first offending byte, from 1.
        line: usize,
        /// Column of the first offending byte.
        column: usize,
    },
}

impl From<serde_json::Error> for ObjectError {
    // The library's message may quote the input, which can be part of a token: only the place is kept.
    fn from(error: serde_json::Error) -> Self {
        Self::Syntax { line: error.line(), column: error.column() }
    }
}

/// A JSON object with the text of each of its members.
#[derive(Clone, Debug)]
pub struct Object {
    text: Box<str>,
    members: Vec<(Box<str>, Range<usize>)>,
}

impl Object {
    /// Reads `bytes`, which must be one JSON object and nothing else but white space.
    ///
    /// # Errors
    /// [`ObjectError`] for anything that two JSON parsers could read differently, or past [`limits`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ObjectError> {
        let object = Self::parse_shallow(bytes)?;
        for (_, range) in &object.members {
            let mut json = serde_json::Deserializer::from_str(&object.text[range.clone()]);
            // The object itself is level 1.
            Strict { depth: 2 }.deserialize(&mut json)?;
        }
        Ok(object)
    }

    /// As [`Object::parse`], but with the values of the members only checked to be JSON.
    pub(crate) fn parse_shallow(bytes: &[u8]) -> Result<Self, ObjectError> {
        let text = std::str::from_utf8(bytes).map_err(|_| ObjectError::NotUtf8)?;
        let raw: Members<'_> = serde_json::from_str(text)?;
        let start = text.as_ptr() as usize;
        let members = raw
            .0
            .into_iter()
            .map(|(name, value)| {
                let offset = value.get().as_ptr() as usize - start;
                (name.into(), offset..offset + value.get().len())
            })
            .collect();
        Ok(Self { text: text.into(), members })
    }

    /// The whole text, as it was signed.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The object without white space, its members sorted by name at every level. Numbers and strings stay as
    /// they were written.
    pub fn to_sorted_json(&self) -> String {
        to_sorted(&self.text)
    }

    /// The names of the members, in the order of the text.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|(name, _)| &**name)
    }

    /// The JSON text of the member `name`.
    pub fn raw(&self, name: &str) -> Option<&str> {
        let (_, range) = self.members.iter().find(|(member, _)| **member == *name)?;
        Some(&self.text[range.clone()])
    }

    /// The member `name`, if it is a string.
    pub fn str(&self, name: &str) -> Option<Cow<'_, str>> {
        self.raw(name).and_then(string)
    }
}

/// The value without white space, the members of its objects sorted by name. Numbers and strings stay as written.
///
/// `json` is a part of a text that [`Object::parse`] read, so the recursion is bounded by [`limits::JSON_DEPTH`].
pub fn to_sorted(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    write_sorted(json, &mut out);
    out
}

fn write_sorted(json: &str, out: &mut String) {
    if let Ok(Members(mut members)) = serde_json::from_str(json) {
        members.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        out.push('{');
        for (index, (name, value)) in members.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            out.push_str(&serde_json::Value::from(&**name).to_string());
            out.push(':');
            write_sorted(value.get(), out);
        }
        out.push('}');
    } else if let Some(items) = elements(json, usize::MAX) {
        out.push('[');
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            write_sorted(item, out);
        }
        out.push(']');
    } else {
        out.push_str(json);
    }
}

/// Decodes a JSON string; `None` if the text is another kind of value.
pub fn string(json: &str) -> Option<Cow<'_, str>> {
    /// `Cow`'s own implementation always copies.
    #[derive(serde::Deserialize)]
    struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);
    if !json.starts_with('"') {
        return None;
    }
    serde_json::from_str::<Borrowed<'_>>(json).ok().map(|borrowed| borrowed.0)
}

struct Members<'de>(Vec<(Cow<'de, str>, &'de RawValue)>);

impl<'de> de::Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::new();
                let mut seen = Seen::default();
                while let Some(Name(name)) = map.next_key()? {
                    if !seen.insert(&name, members.iter().map(|(name, _)| &**name)) {
                        return Err(de::Error::custom("duplicate member"));
                    }
                    members.push((name, map.next_value()?));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

#[derive(serde::Deserialize, PartialEq, Eq, Hash)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// Finds duplicates: by comparing while there are few names, as in nearly every token, by a set from then on.
#[derive(Default)]
struct Seen {
    set: HashSet<String>,
}

impl Seen {
    const FEW: usize = 16;

    /// Whether `name` is new among `before`, the names so far.
    fn insert<'n>(
        &mut self,
        name: &str,
        before: impl ExactSizeIterator<Item = &'n str> + Clone,
    ) -> bool {
        if before.len() < Self::FEW {
            return before.into_iter().all(|earlier| earlier != name);
        }
        if self.set.is_empty() {
            self.set = before.map(str::to_owned).collect();
        }
        self.set.insert(name.to_owned())
    }
}

/// Walks a value without keeping it.
struct Strict {
    depth: usize,
}

impl Strict {
    fn nested<E: de::Error>(&self) -> Result<Self, E> {
        if self.depth > limits::JSON_DEPTH {
            return Err(E::custom("too deep"));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut items = 0;
        while seq.next_element_seed(self.nested()?)?.is_some() {
            items += 1;
            if items > limits::JSON_ARRAY_ITEMS {
                return Err(de::Error::custom("too many elements"));
            }
        }
        self.nested().map(|_| ())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let nested = self.nested()?.depth;
        let mut names: Vec<Name<'de>> = Vec::new();
        let mut seen = Seen::default();
        while let Some(name) = map.next_key::<Name<'de>>()? {
            if !seen.insert(&name.0, names.iter().map(|name| &*name.0)) {
                return Err(de::Error::custom("duplicate member"));
            }
            names.push(name);
            map.next_value_seed(Strict { depth: nested })?;
        }
        Ok(())
    }
}

/// The elements of a JSON array, each as its text; `None` if the text is no array or has more than `most`.
pub fn elements(json: &str, most: usize) -> Option<Vec<&str>> {
    struct ElementsVisitor(usize);
    impl<'de> Visitor<'de> for ElementsVisitor {
        type Value = Option<Vec<&'de str>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut elements = Vec::new();
            while elements.len() < self.0 {
                match seq.next_element::<&'de RawValue>()? {
                    Some(value) => elements.push(value.get()),
                    None => return Ok(Some(elements)),
                }
            }
            let whole = seq.next_element::<IgnoredAny>()?.is_none();
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            Ok(whole.then_some(elements))
        }
    }
    let mut deserializer = serde_json::Deserializer::from_str(json);
    deserializer.deserialize_seq(ElementsVisitor(most)).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(levels: usize) -> String {
        format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels))
    }

    #[test]
    fn depth_is_bounded_at_the_limit() {
        assert!(Object::parse(nested(limits::JSON_DEPTH).as_bytes()).is_ok());
        assert!(Object::parse(nested(limits::JSON_DEPTH + 1).as_bytes()).is_err());
        assert!(Object::parse(nested(100_000).as_bytes()).is_err());
        let arrays = |levels: usize| {
            format!(r#"{{"a":{}{}}}"#, "[".repeat(levels - 1), "]".repeat(levels - 1))
        };
        assert!(Object::parse(arrays(limits::JSON_DEPTH).as_bytes()).is_ok());
        assert!(Object::parse(arrays(limits::JSON_DEPTH + 1).as_bytes()).is_err());
    }

    #[test]
    fn arrays_are_bounded_at_the_limit() {
        let array = |n: usize| format!(r#"{{"a":[{}]}}"#, vec!["1"; n].join(","));
        assert!(Object::parse(array(limits::JSON_ARRAY_ITEMS).as_bytes()).is_ok());
        assert!(Object::parse(array(limits::JSON_ARRAY_ITEMS + 1).as_bytes()).is_err());
    }

    #[test]
    fn duplicate_members_are_refused_at_every_level_and_in_every_spelling() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":1}"#,
            r#"{"x":{"a":1,"a":1}}"#,
            r#"{"x":[{"a":1,"a":2}]}"#,
        ] {
            assert!(Object::parse(text.as_bytes()).is_err(), "{text}");
        }
        let many = |last: usize| {
            let names: Vec<_> = (0..100).chain([last]).map(|n| format!(r#""n{n}":0"#)).collect();
            format!("{{{}}}", names.join(","))
        };
        assert!(Object::parse(many(100).as_bytes()).is_ok());
        assert!(Object::parse(many(0).as_bytes()).is_err());
        assert!(Object::parse(many(99).as_bytes()).is_err());
    }

    #[test]
    fn sorted_json_keeps_values_and_drops_white_space() {
        let text = br#" { "b" : [ 1.50 , { "z":null, "y":"a b" } ], "a\n" : {} } "#;
        let sorted = Object::parse(text).expect("valid").to_sorted_json();
        assert_eq!(sorted, r#"{"a\n":{},"b":[1.50,{"y":"a b","z":null}]}"#);
    }

    #[test]
    fn members_keep_their_text() {
        let object =
            Object::parse(br#" {"n": 1.50 ,"s":"a\nb","big":123456789012345678901234567890} "#)
                .expect("valid");
        assert_eq!(object.raw("n"), Some("1.50"));
        assert_eq!(object.raw("big"), Some("123456789012345678901234567890"));
        assert_eq!(object.str("s").as_deref(), Some("a\nb"));
        assert_eq!(object.str("n"), None);
        assert_eq!(object.raw("absent"), None);
    }
}
