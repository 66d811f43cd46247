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
    members: Vec<(Place, Range<u32>)>,
}

/// Where the name of a member is: nearly always it stands in the text, so that no copy is needed.
#[derive(Clone, Debug)]
enum Place {
    Text(Range<u32>),
    /// The name has an escape.
    Decoded(Box<str>),
}

impl Object {
    /// Reads `bytes`, which must be one JSON object and nothing else but white space.
    ///
    /// # Errors
    /// [`ObjectError`] for anything that two JSON parsers could read differently, or past [`limits`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ObjectError> {
        Self::from_vec(bytes.to_vec())
    }

    /// As [`Object::parse`], without a copy.
    pub(crate) fn from_vec(bytes: Vec<u8>) -> Result<Self, ObjectError> {
        let object = Self::shallow(bytes)?;
        for (_, value) in &object.members {
            let value = object.slice(value);
            if is_plain(value) {
                continue;
            }
            let mut json = serde_json::Deserializer::from_str(value);
            // The object itself is level 1.
            Strict { depth: 2 }.deserialize(&mut json)?;
        }
        Ok(object)
    }

    /// As [`Object::parse`], but with the values of the members only checked to be JSON.
    pub(crate) fn parse_shallow(bytes: &[u8]) -> Result<Self, ObjectError> {
        Self::shallow(bytes.to_vec())
    }

    fn shallow(bytes: Vec<u8>) -> Result<Self, ObjectError> {
        let text = String::from_utf8(bytes).map_err(|_| ObjectError::NotUtf8)?.into_boxed_str();
        // Places are 32 bits wide; everything that is read here has a far smaller limit.
        if u32::try_from(text.len()).is_err() {
            return Err(ObjectError::Syntax { line: 1, column: 0 });
        }
        let Members(found) = serde_json::from_str(&text)?;
        let place = |part: &str| {
            let start = part.as_ptr() as usize - text.as_ptr() as usize;
            #[expect(clippy::cast_possible_truncation, reason = "within the text, see above")]
            (start as u32..(start + part.len()) as u32)
        };
        let members = found
            .into_iter()
            .map(|(name, value)| {
                let name = match name {
                    Cow::Borrowed(name) => Place::Text(place(name)),
                    Cow::Owned(name) => Place::Decoded(name.into()),
                };
                (name, place(value.get()))
            })
            .collect();
        Ok(Self { text, members })
    }

    fn slice(&self, place: &Range<u32>) -> &str {
        &self.text[place.start as usize..place.end as usize]
    }

    fn name<'o>(&'o self, place: &'o Place) -> &'o str {
        match place {
            Place::Text(place) => self.slice(place),
            Place::Decoded(name) => name,
        }
    }

    /// As `self.name(place) == name`, in the fewest steps: each claim that is read passes all those before it.
    fn is_named(&self, place: &Place, name: &str) -> bool {
        match place {
            Place::Text(place) => {
                let (start, end) = (place.start as usize, place.end as usize);
                end - start == name.len() && self.text.as_bytes()[start..end] == *name.as_bytes()
            }
            Place::Decoded(decoded) => **decoded == *name,
        }
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
        self.members.iter().map(|(name, _)| self.name(name))
    }

    /// The members with their JSON texts, in the order of the text.
    pub(crate) fn members(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.members.iter().map(|(name, value)| (self.name(name), self.slice(value)))
    }

    /// The JSON text of the member `name`.
    pub fn raw(&self, name: &str) -> Option<&str> {
        let (_, value) = self.members.iter().find(|(member, _)| self.is_named(member, name))?;
        Some(self.slice(value))
    }

    /// The member `name`, if it is a string.
    pub fn str(&self, name: &str) -> Option<Cow<'_, str>> {
        self.raw(name).and_then(string)
    }

    /// Bytes of memory held outside of `Self`, roughly.
    pub(crate) fn heap_size(&self) -> usize {
        self.text.len() + self.members.capacity() * size_of::<(Place, Range<u32>)>()
    }
}

/// Whether a value that is known to be JSON has nothing that the strict walk would look at: a string without an
/// escape, a literal, an integer of at most 18 digits.
fn is_plain(value: &str) -> bool {
    match value.as_bytes() {
        [b'"', text @ ..] => !text.contains(&b'\\'),
        [b'{' | b'[', ..] => false,
        number if number.len() <= 18 => {
            number.iter().all(|byte| !matches!(byte, b'.' | b'e' | b'E'))
                || matches!(number, b"true" | b"false")
        }
        _ => false,
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
    let inner = json.strip_prefix('"')?;
    // As a rule there is nothing to decode: no escape, and no byte that a string must not have.
    if let Some(text) = inner.strip_suffix('"')
        && text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\')
    {
        return Some(Cow::Borrowed(text));
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
                // Most headers have less, most payloads not many more.
                let mut members: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::with_capacity(8);
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
    let mut elements = Vec::new();
    let mut fits = true;
    each_element(json, |element| {
        fits = elements.len() < most;
        if fits {
            elements.push(element);
        }
        fits
    })
    .filter(|()| fits)
    .map(|()| elements)
}

/// Whether `test` holds for the text of an element; `false` if the text is no array. Allocates nothing.
pub(crate) fn any_element(json: &str, mut test: impl FnMut(&str) -> bool) -> bool {
    let mut found = false;
    each_element(json, |element| {
        found = test(element);
        !found
    });
    found
}

/// The members of a JSON object, each with its text; `None` if the text is no object or has a member twice.
pub(crate) fn members(json: &str) -> Option<Vec<(Cow<'_, str>, &str)>> {
    let Members(members) = serde_json::from_str(json).ok()?;
    Some(members.into_iter().map(|(name, value)| (name, value.get())).collect())
}

/// The element at `index`, from 0; `None` if the text is no array or a shorter one.
pub(crate) fn element(json: &str, index: usize) -> Option<&str> {
    let (mut at, mut found) = (0, None);
    each_element(json, |element| {
        if at == index {
            found = Some(element);
        }
        at += 1;
        found.is_none()
    })?;
    found
}

/// The text of the member `name`; `None` if the text is no object or has none. Allocates nothing, unless names have
/// escapes.
pub(crate) fn member<'j>(json: &'j str, name: &str) -> Option<&'j str> {
    struct MemberVisitor<'n>(&'n str);
    impl<'de> Visitor<'de> for MemberVisitor<'_> {
        type Value = Option<&'de str>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut found = None;
            while let Some(Name(name)) = map.next_key()? {
                if found.is_none() && name == self.0 {
                    found = Some(map.next_value::<&RawValue>()?.get());
                } else {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            Ok(found)
        }
    }
    if !json.starts_with('{') {
        return None;
    }
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let found = deserializer.deserialize_map(MemberVisitor(name)).ok()?;
    deserializer.end().ok()?;
    found
}

/// Whether the text is the JSON string that means `expected`. Allocates nothing, unless it has escapes.
pub(crate) fn is_string(json: &str, expected: &str) -> bool {
    string(json).is_some_and(|text| text == expected)
}

/// Calls `visit` with the text of each element while it wants more; `None` if the text is no array.
fn each_element<'j>(json: &'j str, visit: impl FnMut(&'j str) -> bool) -> Option<()> {
    struct ElementsVisitor<F>(F);
    impl<'de, F: FnMut(&'de str) -> bool> Visitor<'de> for ElementsVisitor<F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
            while let Some(value) = seq.next_element::<&'de RawValue>()? {
                if !(self.0)(value.get()) {
                    break;
                }
            }
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            Ok(())
        }
    }
    if !json.starts_with('[') {
        return None;
    }
    let mut deserializer = serde_json::Deserializer::from_str(json);
    deserializer.deserialize_seq(ElementsVisitor(visit)).ok()?;
    deserializer.end().ok()
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

    #[test]
    fn names_with_escapes_are_found() {
        let object = Object::parse(br#"{"\u0061\n":1,"b":2}"#).expect("valid");
        assert_eq!((object.raw("a\n"), object.raw("b")), (Some("1"), Some("2")));
        assert_eq!(object.names().collect::<Vec<_>>(), ["a\n", "b"]);
    }

    #[test]
    fn values_that_look_plain_are_still_strict() {
        for value in [
            r#""\ud800""#,
            r#""\x""#,
            "\"\u{1}\"",
            "1e999",
            "01",
            "1.",
            "tru",
            "nulll",
            "-",
            "1e",
            "--1",
            "+1",
        ] {
            assert!(Object::parse(format!("{{\"a\":{value}}}").as_bytes()).is_err(), "{value}");
        }
        for value in [
            "-0",
            "1e9",
            "123456789012345678",
            "1234567890123456789012",
            "null",
            "true",
            "false",
            r#""é""#,
        ] {
            assert!(Object::parse(format!("{{\"a\":{value}}}").as_bytes()).is_ok(), "{value}");
        }
    }

    #[test]
    fn parts_of_a_value() {
        let array = r#"[1,"a\u0062",[2],{"x":3}]"#;
        assert_eq!(elements(array, 4), Some(vec!["1", r#""a\u0062""#, "[2]", r#"{"x":3}"#]));
        assert_eq!(elements(array, 3), None);
        assert_eq!((element(array, 2), element(array, 4)), (Some("[2]"), None));
        assert!(any_element(array, |element| is_string(element, "ab")));
        assert!(!any_element(array, |element| is_string(element, "a")));
        for none in ["{}", "1", "\"[]\"", "", "[1", "[1] 2"] {
            assert_eq!((elements(none, 9), element(none, 0)), (None, None), "{none}");
        }
        let object = r#"{"a":{"b":1},"c":[2]}"#;
        assert_eq!((member(object, "a"), member(object, "b")), (Some(r#"{"b":1}"#), None));
        assert_eq!(members(object).map(|members| members.len()), Some(2));
        for none in ["[]", "1", "", r#"{"a":1"#, r#"{"a":1} 2"#] {
            assert_eq!((member(none, "a"), members(none).is_some()), (None, false), "{none}");
        }
    }
}
