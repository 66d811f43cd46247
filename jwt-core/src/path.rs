//! The way to a claim within nested objects and arrays, as a configuration writes it.

use crate::error::PathError;
use crate::json::{self, Object};

/// A path to a value within a JSON object, read once when the configuration is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// A member of an object.
    Key(Box<str>),
    /// An element of an array, from 0.
    Index(usize),
}

impl ClaimPath {
    /// The member `name` of the object itself, whatever characters the name has.
    pub fn key(name: &str) -> Self {
        Self::keys([name])
    }

    /// A member, in it a member, and so on (`auth_jwt_claim_set` with several names). No names: nothing is found.
    pub fn keys<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        Self(names.into_iter().map(|name| Step::Key(name.into())).collect())
    }

    /// Reads a path of the form that `jq` uses: `.key`, where a key is a letter or `_` and then letters, digits, `_`
    /// and `-`; `."any key"`, without escapes; `[0]`, an element of an array. Each may follow any other.
    ///
    /// # Errors
    /// [`PathError`] with the first byte that does not fit.
    pub fn parse_jq(text: &str) -> Result<Self, PathError> {
        let mut steps = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let error =
                |problem, within: &str| Err(PathError { problem, at: text.len() - within.len() });
            if let Some(key) = rest.strip_prefix(".\"") {
                let Some((key, after)) = key.split_once('"') else {
                    return error("the quote is not closed", key);
                };
                if key.is_empty() {
                    return error("the quoted key is empty", &rest[2..]);
                }
                steps.push(Step::Key(key.into()));
                rest = after;
            } else if let Some(key) = rest.strip_prefix('.') {
                if !key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
                    return error("a key begins with a letter, _ or a quote", key);
                }
                let end = key
                    .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-'))
                    .unwrap_or(key.len());
                steps.push(Step::Key(key[..end].into()));
                rest = &key[end..];
            } else if let Some(index) = rest.strip_prefix('[') {
                let end = index.find(|c: char| !c.is_ascii_digit()).unwrap_or(index.len());
                let digits = &index[..end];
                if digits.is_empty() {
                    return error("an index is a number", index);
                }
                if digits.len() > 1 && digits.starts_with('0') {
                    return error("an index has no leading zeros", index);
                }
                let Ok(number) = digits.parse() else {
                    return error("the index is too large", index);
                };
                let Some(after) = index[end..].strip_prefix(']') else {
                    return error("a ] is missing", &index[end..]);
                };
                steps.push(Step::Index(number));
                rest = after;
            } else {
                return error("a step begins with . or [", rest);
            }
        }
        if steps.is_empty() {
            return Err(PathError { problem: "the path is empty", at: 0 });
        }
        Ok(Self(steps))
    }

    /// Splits `text` at each `delimiter` (`auth_jwt_allow_nested`). A part that begins with `quote` is literal up to
    /// the next one, or to the end of the text; parts without a character are skipped. Neither has to be a single
    /// character; an empty one splits or quotes nothing.
    pub fn parse_delimited(text: &str, delimiter: &str, quote: &str) -> Self {
        let mut keys = Vec::new();
        let mut rest = Some(text);
        while let Some(mut part) = rest {
            if !quote.is_empty()
                && let Some(quoted) = part.strip_prefix(quote)
            {
                let (key, after) = quoted.split_once(quote).unwrap_or((quoted, ""));
                keys.push(key);
                // What follows a closing quote up to the delimiter is a key of its own; as a rule, nothing.
                part = after;
            }
            let (key, after) = match part.split_once(delimiter) {
                Some((key, after)) if !delimiter.is_empty() => (key, Some(after)),
                _ => (part, None),
            };
            keys.push(key);
            rest = after;
        }
        Self::keys(keys.into_iter().filter(|key| !key.is_empty()))
    }

    /// The JSON text of the value in `object`; `None` where a step finds no member or element, or another type.
    pub fn find<'o>(&self, object: &'o Object) -> Option<&'o str> {
        match &*self.0 {
            // The object knows where its members are.
            [Step::Key(name), rest @ ..] => walk(rest, object.raw(name)?),
            _ => None,
        }
    }

    /// As [`ClaimPath::find`], in the JSON text of a value.
    pub fn find_in<'o>(&self, json: &'o str) -> Option<&'o str> {
        if self.0.is_empty() { None } else { walk(&self.0, json.trim_ascii_start()) }
    }
}

fn walk<'o>(steps: &[Step], json: &'o str) -> Option<&'o str> {
    steps.iter().try_fold(json, |json, step| match step {
        Step::Key(name) => json::member(json, name),
        Step::Index(index) => json::element(json, *index),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#" {"a":{"b":{"c":1},"b.c":2,"d":[10,{"e":"x"},[3,4]]},"a.b":5,"":{"":6},
        "k-1":7,"any key":{"_":8},"\u0062":9,"a_b":{"c":{"x":0}}} "#;

    fn found(path: &ClaimPath) -> Option<String> {
        let object = Object::parse(TEXT.as_bytes()).expect("valid");
        let value = path.find(&object).map(str::to_owned);
        assert_eq!(path.find_in(TEXT).map(str::to_owned), value);
        value
    }

    #[test]
    fn jq_paths() {
        for (path, value) in [
            (".a.b.c", Some("1")),
            (r#".a."b.c""#, Some("2")),
            (".a.d[0]", Some("10")),
            (".a.d[1].e", Some(r#""x""#)),
            (".a.d[2][1]", Some("4")),
            (".a.d[2][2]", None),
            (".a.d[18446744073709551615]", None),
            (".a[0]", None),
            (".a.d.e", None),
            (".a.b.c.d", None),
            (r#"."a.b""#, Some("5")),
            (".k-1", Some("7")),
            (r#"."any key"._"#, Some("8")),
            (".b", Some("9")),
            (".absent", None),
            ("[0]", None),
        ] {
            let path = ClaimPath::parse_jq(path).unwrap_or_else(|e| panic!("{path}: {e}"));
            assert_eq!(found(&path).as_deref(), value, "{path:?}");
        }
        let array = ClaimPath::parse_jq("[1].x").expect("valid");
        assert_eq!(array.find_in(r#"[0,{"x":[true]}]"#), Some("[true]"));
    }

    #[test]
    fn jq_paths_that_are_none() {
        for (path, error) in [
            ("", "the path is empty at byte 0"),
            ("a", "a step begins with . or [ at byte 0"),
            (".", "a key begins with a letter, _ or a quote at byte 1"),
            (".a.", "a key begins with a letter, _ or a quote at byte 3"),
            (".1", "a key begins with a letter, _ or a quote at byte 1"),
            (".é", "a key begins with a letter, _ or a quote at byte 1"),
            (".a b", "a step begins with . or [ at byte 2"),
            (r#".a""#, "a step begins with . or [ at byte 2"),
            (r#"."a"#, "the quote is not closed at byte 2"),
            (r#"."""#, "the quoted key is empty at byte 2"),
            (r#"."a"b"#, "a step begins with . or [ at byte 4"),
            ("[]", "an index is a number at byte 1"),
            ("[*]", "an index is a number at byte 1"),
            ("[-1]", "an index is a number at byte 1"),
            ("[01]", "an index has no leading zeros at byte 1"),
            ("[1", "a ] is missing at byte 2"),
            ("[1.a]", "a ] is missing at byte 2"),
            ("[18446744073709551616]", "the index is too large at byte 1"),
        ] {
            let verdict = ClaimPath::parse_jq(path).map_err(|e| e.to_string());
            assert_eq!(verdict, Err(error.to_owned()), "{path}");
        }
    }

    #[test]
    fn delimited_paths() {
        for (text, delimiter, quote, keys) in [
            ("a", ".", "\"", &["a"][..]),
            ("a.b.c", ".", "\"", &["a", "b", "c"]),
            ("..a..b.", ".", "\"", &["a", "b"]),
            (r#"a."b.c""#, ".", "\"", &["a", "b.c"]),
            (r#""a.b".c"#, ".", "\"", &["a.b", "c"]),
            (r#""a.b"c.d"#, ".", "\"", &["a.b", "c", "d"]),
            (r#""a.b"#, ".", "\"", &["a.b"]),
            (r#""".a"#, ".", "\"", &["a"]),
            (r#"a"b.c"#, ".", "\"", &["a\"b", "c"]),
            ("a_b", "_", "'", &["a", "b"]),
            ("'a_b'_c", "_", "'", &["a_b", "c"]),
            ("a::b:c::<<d::e<<::f", "::", "<<", &["a", "b:c", "d::e", "f"]),
            ("a.b", "", "", &["a.b"]),
            ("", ".", "\"", &[]),
            ("...", ".", "\"", &[]),
            ("[0].a", ".", "\"", &["[0]", "a"]),
        ] {
            let path = ClaimPath::parse_delimited(text, delimiter, quote);
            assert_eq!(path, ClaimPath::keys(keys.iter().copied()), "{text}");
        }
        assert_eq!(found(&ClaimPath::parse_delimited("a.b.c", ".", "\"")).as_deref(), Some("1"));
        assert_eq!(found(&ClaimPath::parse_delimited("a._b", "_", "\"")), None);
        assert_eq!(found(&ClaimPath::parse_delimited("...", ".", "\"")), None);
    }

    #[test]
    fn a_key_is_literal() {
        assert_eq!(found(&ClaimPath::key("a.b")).as_deref(), Some("5"));
        assert_eq!(found(&ClaimPath::keys(["", ""])).as_deref(), Some("6"));
        assert_eq!(found(&ClaimPath::keys([])), None);
        assert_eq!(ClaimPath::key("a").find_in("[1]"), None);
        assert_eq!(ClaimPath::key("a").find_in("garbage"), None);
        assert_eq!(ClaimPath::key("a").find_in(r#"{"a":1"#), None);
    }
}
