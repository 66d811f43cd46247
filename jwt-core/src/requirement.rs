//! Comparing one claim, or one header parameter, with what a configuration expects of it: the operators of
//! kjdev/nginx-auth-jwt, whose users rely on their rules. A claim that is absent is the caller's to refuse, also for
//! a negated operator.

use std::cmp::Ordering;
use std::fmt;

use crate::json;
use crate::limits;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// Equal, deeply. An integer never equals a number with a fraction; the order of an object's members is nothing.
    Eq,
    /// A greater number.
    Gt,
    /// A greater number, or the same.
    Ge,
    /// A lesser number.
    Lt,
    /// A lesser number, or the same.
    Le,
    /// An element of the expected array, or a string that names a member of the expected object.
    In,
    /// An array that shares an element with the expected array, or another value that is one of its elements.
    Any,
    /// A string in which the expected regular expression is found, anywhere.
    Match,
}

/// An operator, negated or not, under the name that the configuration gave it. [`Op::from_name`] makes one.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    /// What is compared.
    pub operator: Operator,
    /// Whether the result is turned around. That of operands of the wrong type never is.
    pub negated: bool,
    name: &'static str,
}

impl PartialEq for Op {
    /// `ne` is `!eq`.
    fn eq(&self, other: &Self) -> bool {
        (self.operator, self.negated) == (other.operator, other.negated)
    }
}

impl Eq for Op {}

/// Each name in its plain form and after a `!`.
const OPERATORS: [([&str; 2], Operator, bool); 12] = [
    (["eq", "!eq"], Operator::Eq, false),
    (["ne", "!ne"], Operator::Eq, true),
    (["gt", "!gt"], Operator::Gt, false),
    (["ge", "!ge"], Operator::Ge, false),
    (["lt", "!lt"], Operator::Lt, false),
    (["le", "!le"], Operator::Le, false),
    (["in", "!in"], Operator::In, false),
    (["nin", "!nin"], Operator::In, true),
    (["any", "!any"], Operator::Any, false),
    (["intersect", "!intersect"], Operator::Any, false),
    (["nintersect", "!nintersect"], Operator::Any, true),
    (["match", "!match"], Operator::Match, false),
];

/// The outcome of a comparison before a `!` is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It holds.
    Holds,
    /// It does not hold.
    Fails,
    /// The operands are not of the types that the operator compares: it fails, and `!` does not change that, or a
    /// claim of an unexpected type would pass.
    TypeMismatch,
}

impl Op {
    /// The names that [`Op::from_name`] knows, for the text of an error.
    pub const NAMES: &'static str = "eq, ne, gt, ge, lt, le, in, nin, any, intersect, nintersect or match, also with a \"!\" before it";

    /// Most elements of the expected array of `in` and `any`, as in the original: `any` compares each with each.
    const ARRAY_ITEMS: usize = 1_024;

    /// The operator of this name; `!ne` is `eq`.
    pub fn from_name(name: &str) -> Option<Self> {
        OPERATORS.iter().find_map(|&(names, operator, negated)| {
            let turned = names.iter().position(|&known| known == name)?;
            Some(Self { operator, negated: negated != (turned == 1), name: names[turned] })
        })
    }

    /// Whether `claim` satisfies this operator with `expected`.
    ///
    /// `matches` is the regular expression engine, for [`Operator::Match`] alone: whether the pattern, its second
    /// argument, is found in the first; `None` if the pattern is none or a limit was met, which fails, also negated.
    pub fn compare(
        self,
        claim: &Json,
        expected: &Json,
        matches: &mut dyn FnMut(&str, &str) -> Option<bool>,
    ) -> bool {
        match self.verdict(claim, expected, matches) {
            Verdict::Holds => !self.negated,
            Verdict::Fails => self.negated,
            Verdict::TypeMismatch => false,
        }
    }

    /// As [`Op::compare`], before [`Op::negated`] is looked at.
    pub fn verdict(
        self,
        claim: &Json,
        expected: &Json,
        matches: &mut dyn FnMut(&str, &str) -> Option<bool>,
    ) -> Verdict {
        let outcome = match self.operator {
            Operator::Eq => Some(claim == expected),
            Operator::Gt => order(claim, expected).map(Ordering::is_gt),
            Operator::Ge => order(claim, expected).map(Ordering::is_ge),
            Operator::Lt => order(claim, expected).map(Ordering::is_lt),
            Operator::Le => order(claim, expected).map(Ordering::is_le),
            Operator::In => is_in(claim, expected),
            Operator::Any => shares(claim, expected),
            Operator::Match => match (claim, expected) {
                (Json::Str(subject), Json::Str(pattern)) => matches(subject, pattern),
                _ => None,
            },
        };
        match outcome {
            Some(true) => Verdict::Holds,
            Some(false) => Verdict::Fails,
            None => Verdict::TypeMismatch,
        }
    }
}

impl fmt::Display for Op {
    /// The name that the configuration gave it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

fn is_in(claim: &Json, expected: &Json) -> Option<bool> {
    match (claim, expected) {
        (_, Json::Array(items)) if items.len() <= Op::ARRAY_ITEMS => Some(items.contains(claim)),
        (Json::Str(name), Json::Object(members)) => {
            Some(members.iter().any(|(member, _)| member == name))
        }
        _ => None,
    }
}

fn shares(claim: &Json, expected: &Json) -> Option<bool> {
    match (claim, expected) {
        (_, Json::Array(items)) if items.len() > Op::ARRAY_ITEMS => None,
        (Json::Array(claims), Json::Array(items)) => {
            Some(claims.iter().any(|claim| items.contains(claim)))
        }
        (claim, Json::Array(items)) => Some(items.contains(claim)),
        _ => None,
    }
}

/// How two numbers compare: exactly, or not at all.
fn order(a: &Json, b: &Json) -> Option<Ordering> {
    match (a, b) {
        (Json::Int(a), Json::Int(b)) => Some(a.cmp(b)),
        (Json::BigInt(a), Json::BigInt(b)) => Some(order_of_digits(a, b)),
        // Past the range of 64 bits on the side of its sign.
        (Json::BigInt(a), Json::Int(_)) => Some(past_the_range(a)),
        (Json::Int(_), Json::BigInt(b)) => Some(past_the_range(b).reverse()),
        (Json::Real(a), Json::Real(b)) => a.partial_cmp(b),
        (Json::Int(a), Json::Real(b)) => order_of_mixed(*a, *b),
        (Json::Real(a), Json::Int(b)) => order_of_mixed(*b, *a).map(Ordering::reverse),
        _ => None,
    }
}

fn order_of_mixed(int: i64, real: f64) -> Option<Ordering> {
    const EXACT: u64 = 1 << 53;
    // 2^63 is a double, i64::MAX is not.
    const RANGE: f64 = 9_223_372_036_854_775_808.0;
    if real.fract() == 0.0 && (-RANGE..RANGE).contains(&real) {
        #[expect(clippy::cast_possible_truncation, reason = "a whole number within the range")]
        return Some(int.cmp(&(real as i64)));
    }
    if int.unsigned_abs() > EXACT {
        // As a double it may become its neighbour: no answer rather than a wrong one.
        return None;
    }
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53, see above")]
    (int as f64).partial_cmp(&real)
}

fn past_the_range(digits: &str) -> Ordering {
    if digits.starts_with('-') { Ordering::Less } else { Ordering::Greater }
}

/// JSON's integers have no leading zeros: the longer one is larger.
fn order_of_digits(a: &str, b: &str) -> Ordering {
    match (a.strip_prefix('-'), b.strip_prefix('-')) {
        (None, None) => a.len().cmp(&b.len()).then_with(|| a.cmp(b)),
        (Some(a), Some(b)) => order_of_digits(b, a),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
    }
}

/// A JSON value as the operators see it.
#[derive(Clone, Debug)]
pub enum Json {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// An integer of 64 bits.
    Int(i64),
    /// A larger integer, as it is written.
    BigInt(Box<str>),
    /// A number that is written with a fraction or an exponent.
    Real(f64),
    /// A string.
    Str(Box<str>),
    /// An array.
    Array(Vec<Json>),
    /// An object, its members in the order of the text, with distinct names.
    Object(Vec<(Box<str>, Json)>),
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::BigInt(a), Self::BigInt(b)) | (Self::Str(a), Self::Str(b)) => a == b,
            (Self::Real(a), Self::Real(b)) => a == b,
            (Self::Array(a), Self::Array(b)) => a == b,
            (Self::Object(a), Self::Object(b)) => {
                // In the same order as a rule; names are distinct, so that equal numbers of them suffice.
                a.len() == b.len()
                    && a.iter().enumerate().all(|(at, member)| {
                        b[at] == *member || b.iter().any(|other| other == member)
                    })
            }
            _ => false,
        }
    }
}

impl Json {
    /// Reads a JSON text; `None` if it is none, has a member twice, a number past the range of a double, or is past
    /// [`limits::JSON_DEPTH`] or [`limits::JSON_ARRAY_ITEMS`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::nested(text.trim_matches([' ', '\t', '\n', '\r']), 1)
    }

    fn nested(text: &str, depth: usize) -> Option<Self> {
        let deeper = || (depth <= limits::JSON_DEPTH).then_some(depth + 1);
        match text.as_bytes().first()? {
            b'"' => json::string(text).map(|text| Self::Str(text.into())),
            b'[' => {
                let depth = deeper()?;
                let items = json::elements(text, limits::JSON_ARRAY_ITEMS)?;
                let items = items.into_iter().map(|item| Self::nested(item, depth));
                items.collect::<Option<_>>().map(Self::Array)
            }
            b'{' => {
                let depth = deeper()?;
                let members = json::members(text)?.into_iter();
                let members =
                    members.map(|(name, value)| Some((name.into(), Self::nested(value, depth)?)));
                members.collect::<Option<_>>().map(Self::Object)
            }
            b'n' => (text == "null").then_some(Self::Null),
            b't' => (text == "true").then_some(Self::Bool(true)),
            b'f' => (text == "false").then_some(Self::Bool(false)),
            _ => Self::number(text),
        }
    }

    fn number(text: &str) -> Option<Self> {
        // JSON's grammar, not Rust's, which also takes "+1", "01" and "inf".
        let real: f64 = serde_json::from_str(text).ok()?;
        if text.contains(['.', 'e', 'E']) {
            return Some(Self::Real(real));
        }
        Some(text.parse().map_or_else(|_| Self::BigInt(text.into()), Self::Int))
    }

    /// Whether it is a number of any kind.
    pub fn is_number(&self) -> bool {
        matches!(self, Self::Int(_) | Self::BigInt(_) | Self::Real(_))
    }

    /// The number, if it is one; an integer past 2^53 as the nearest double.
    #[expect(clippy::cast_precision_loss, reason = "said so")]
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Int(number) => Some(*number as f64),
            Self::BigInt(digits) => digits.parse().ok(),
            Self::Real(number) => Some(*number),
            _ => None,
        }
    }

    /// The integer, if it is one of 64 bits.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            _ => None,
        }
    }

    /// The text, if it is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) => Some(text),
            _ => None,
        }
    }
}

/// `expected` moved by `seconds`, if it is a number of 64 bits or a double: for the leeway on `exp` and `nbf`.
pub fn shifted(expected: &Json, seconds: i64) -> Json {
    match expected {
        Json::Int(number) => Json::Int(number.saturating_add(seconds)),
        #[expect(clippy::cast_precision_loss, reason = "a leeway is far below 2^53")]
        Json::Real(number) => Json::Real(number + seconds as f64),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Json {
        Json::parse(text).unwrap_or_else(|| panic!("{text}"))
    }

    fn op(name: &str) -> Op {
        Op::from_name(name).unwrap_or_else(|| panic!("{name}"))
    }

    /// An engine that knows plain text and, as others do, has patterns that are none and a limit.
    fn contains(subject: &str, pattern: &str) -> Option<bool> {
        (!pattern.starts_with('*') && subject != "endless").then(|| subject.contains(pattern))
    }

    #[test]
    fn each_operator_as_the_specification_says() {
        use Verdict::{Fails, Holds, TypeMismatch};
        // module-directives 5.4, one row or more for each of its statements.
        for (claim, name, expected, verdict) in [
            // eq: deep equality, integer never equals real, member order irrelevant.
            ("1", "eq", "1", Holds),
            ("1", "eq", "2", Fails),
            ("1", "eq", "1.0", Fails),
            ("1.0", "eq", "1", Fails),
            ("1.50", "eq", "1.5", Holds),
            ("1e0", "eq", "1.0", Holds),
            ("1", "eq", r#""1""#, Fails),
            ("true", "eq", "true", Holds),
            ("true", "eq", "false", Fails),
            ("null", "eq", "null", Holds),
            ("null", "eq", "false", Fails),
            (r#""a""#, "eq", r#""a""#, Holds),
            (r#""a""#, "eq", r#""A""#, Fails),
            (r#""a\u0062""#, "eq", r#""ab""#, Holds),
            ("[1,2]", "eq", "[1,2]", Holds),
            ("[1,2]", "eq", "[2,1]", Fails),
            ("[1]", "eq", "1", Fails),
            ("[1]", "eq", "[1.0]", Fails),
            (r#"{"a":1,"b":[{}]}"#, "eq", r#"{ "b": [ { } ], "a": 1 }"#, Holds),
            (r#"{"a":1}"#, "eq", r#"{"a":1,"b":2}"#, Fails),
            (r#"{"a":1,"b":2}"#, "eq", r#"{"a":1,"c":2}"#, Fails),
            ("9223372036854775808", "eq", "9223372036854775808", Holds),
            ("9223372036854775808", "eq", "9223372036854775809", Fails),
            // gt..le: numbers only, exact int64, strings fail.
            ("2", "gt", "1", Holds),
            ("1", "gt", "1", Fails),
            ("1", "ge", "1", Holds),
            ("0", "ge", "1", Fails),
            ("1", "lt", "2", Holds),
            ("1", "lt", "1", Fails),
            ("1", "le", "1", Holds),
            ("2", "le", "1", Fails),
            ("1.5", "gt", "1.25", Holds),
            ("9007199254740993", "gt", "9007199254740992", Holds),
            ("9223372036854775807", "gt", "9223372036854775806", Holds),
            ("-9223372036854775808", "lt", "-9223372036854775807", Holds),
            (r#""2""#, "gt", "1", TypeMismatch),
            ("2", "gt", r#""1""#, TypeMismatch),
            (r#""b""#, "gt", r#""a""#, TypeMismatch),
            ("true", "ge", "true", TypeMismatch),
            ("null", "le", "null", TypeMismatch),
            ("[2]", "gt", "[1]", TypeMismatch),
            ("{}", "lt", "1", TypeMismatch),
            // Mixed: exact when lossless, integers beyond 2^53 against reals fail.
            ("1", "ge", "1.0", Holds),
            ("1", "lt", "1.5", Holds),
            ("1.5", "gt", "1", Holds),
            ("-1", "gt", "-1.5", Holds),
            ("9007199254740993", "gt", "9007199254740992.0", Holds),
            ("9007199254740992.0", "lt", "9007199254740993", Holds),
            ("9007199254740992", "gt", "0.5", Holds),
            ("9007199254740993", "gt", "0.5", TypeMismatch),
            ("0.5", "lt", "-9007199254740993", TypeMismatch),
            ("9223372036854775807", "lt", "9223372036854775808.0", TypeMismatch),
            ("1", "lt", "1e300", Holds),
            ("1", "gt", "-1e300", Holds),
            // Larger integers: exact among integers, never against reals.
            ("9223372036854775808", "gt", "9223372036854775807", Holds),
            ("-9223372036854775809", "lt", "-9223372036854775808", Holds),
            ("9223372036854775807", "lt", "18446744073709551616", Holds),
            ("-9223372036854775808", "gt", "-18446744073709551616", Holds),
            ("99999999999999999999", "lt", "100000000000000000000", Holds),
            ("-99999999999999999999", "gt", "-100000000000000000000", Holds),
            ("-99999999999999999999", "lt", "99999999999999999999", Holds),
            ("99999999999999999999", "gt", "-99999999999999999999", Holds),
            ("99999999999999999999", "ge", "99999999999999999999", Holds),
            ("99999999999999999999", "gt", "1.5", TypeMismatch),
            ("1.5", "lt", "99999999999999999999", TypeMismatch),
            // in: an element of the expected array, or a string that is a key of the expected object.
            (r#""a""#, "in", r#"["b","a"]"#, Holds),
            (r#""a""#, "in", r#"["b"]"#, Fails),
            (r#""a""#, "in", "[]", Fails),
            ("1", "in", "[1.0]", Fails),
            ("[1]", "in", "[[1]]", Holds),
            ("[1]", "in", "[1]", Fails),
            ("null", "in", "[null]", Holds),
            (r#""a""#, "in", r#"{"a":false}"#, Holds),
            (r#""b""#, "in", r#"{"a":"b"}"#, Fails),
            ("1", "in", r#"{"1":1}"#, TypeMismatch),
            (r#"["a"]"#, "in", r#"{"a":1}"#, TypeMismatch),
            (r#""a""#, "in", r#""abc""#, TypeMismatch),
            ("1", "in", "1", TypeMismatch),
            // any: the expected value is an array; shared element, or scalar element.
            (r#"["a","b"]"#, "any", r#"["c","b"]"#, Holds),
            (r#"["a"]"#, "any", r#"["b"]"#, Fails),
            ("[]", "any", "[]", Fails),
            (r#""a""#, "any", r#"["a"]"#, Holds),
            (r#""a""#, "any", r#"["b"]"#, Fails),
            ("[[1]]", "any", "[[1]]", Holds),
            ("[1]", "any", "[1.0]", Fails),
            (r#"{"a":1}"#, "any", r#"[{"a":1}]"#, Holds),
            (r#"["a"]"#, "any", r#""a""#, TypeMismatch),
            (r#"["a"]"#, "any", r#"{"a":1}"#, TypeMismatch),
            // match: a string claim, unanchored; no pattern and a limit fail.
            (r#""abc""#, "match", r#""b""#, Holds),
            (r#""abc""#, "match", r#""d""#, Fails),
            ("1", "match", r#""1""#, TypeMismatch),
            (r#"["abc"]"#, "match", r#""b""#, TypeMismatch),
            (r#""1""#, "match", "1", TypeMismatch),
            (r#""abc""#, "match", r#""*""#, TypeMismatch),
            (r#""endless""#, "match", r#""b""#, TypeMismatch),
        ] {
            let (claim_json, expected_json) = (json(claim), json(expected));
            let row = format!("{claim} {name} {expected}");
            let plain = op(name);
            assert_eq!(plain.verdict(&claim_json, &expected_json, &mut contains), verdict, "{row}");
            let holds = |op: Op| op.compare(&claim_json, &expected_json, &mut contains);
            assert_eq!(holds(plain), verdict == Holds, "{row}");
            // Type errors fail and are never flipped.
            assert_eq!(holds(op(&format!("!{name}"))), verdict == Fails, "!{row}");
        }
    }

    #[test]
    fn names_and_aliases() {
        for (alias, name) in [
            ("ne", "!eq"),
            ("!ne", "eq"),
            ("nin", "!in"),
            ("!nin", "in"),
            ("intersect", "any"),
            ("!intersect", "!any"),
            ("nintersect", "!any"),
            ("!nintersect", "any"),
        ] {
            assert_eq!(op(alias), op(name));
            // A log line shows what the configuration says.
            assert_eq!((op(alias).to_string(), op(name).to_string()), (alias.into(), name.into()));
        }
        for name in ["eq", "gt", "ge", "lt", "le", "in", "any", "match"] {
            assert!(!op(name).negated && op(&format!("!{name}")).negated);
            assert_ne!(op(name), op(&format!("!{name}")));
            assert!(Op::NAMES.contains(name));
        }
        for name in ["", "!", "!!eq", "EQ", "eq ", "==", "regex"] {
            assert_eq!(Op::from_name(name), None, "{name}");
        }
    }

    #[test]
    fn arrays_past_the_limit_of_the_operators_fail_also_negated() {
        let array = |n: usize| json(&format!("[{}]", vec!["1"; n].join(",")));
        for name in ["in", "any"] {
            for (n, holds) in [(Op::ARRAY_ITEMS, true), (Op::ARRAY_ITEMS + 1, false)] {
                assert_eq!(op(name).compare(&Json::Int(1), &array(n), &mut contains), holds);
                let negated = op(&format!("!{name}"));
                assert!(!negated.compare(&Json::Int(1), &array(n), &mut contains));
            }
        }
        assert!(op("any").compare(&array(limits::JSON_ARRAY_ITEMS), &array(1), &mut contains));
    }

    #[test]
    fn values_are_read_strictly() {
        assert!(matches!(json(" -0 "), Json::Int(0)));
        assert!(matches!(json("-0.0"), Json::Real(_)));
        assert!(matches!(json("9223372036854775807"), Json::Int(i64::MAX)));
        assert!(matches!(json("-9223372036854775809"), Json::BigInt(_)));
        assert!(matches!(json("1E2"), Json::Real(100.0)));
        assert_eq!(json("[ ]"), Json::Array(vec![]));
        for text in [
            "",
            " ",
            "nul",
            "nulls",
            "True",
            "01",
            "+1",
            "1.",
            ".5",
            "1e",
            "1e999",
            "inf",
            "NaN",
            "-",
            "- 1",
            "1 2",
            "'a'",
            r#""a"#,
            r#""a" "b""#,
            r#""\ud800""#,
            "\"\u{1}\"",
            "[1,]",
            "[1",
            "[1] 2",
            "{a:1}",
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"[{"a":{"b":1,"b":1}}]"#,
            "{} {}",
            "\u{a0}1",
        ] {
            assert!(Json::parse(text).is_none(), "{text}");
        }
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(Json::parse(&nested(limits::JSON_DEPTH)).is_some());
        assert!(Json::parse(&nested(limits::JSON_DEPTH + 1)).is_none());
        assert!(Json::parse(&nested(100_000)).is_none());
        let array = |n: usize| format!("[{}]", vec!["1"; n].join(","));
        assert!(Json::parse(&array(limits::JSON_ARRAY_ITEMS)).is_some());
        assert!(Json::parse(&array(limits::JSON_ARRAY_ITEMS + 1)).is_none());
    }

    #[test]
    fn parts_of_values() {
        assert_eq!((json("7").as_number(), json("7").as_i64()), (Some(7.0), Some(7)));
        assert_eq!((json("7.5").as_number(), json("7.5").as_i64()), (Some(7.5), None));
        assert_eq!(json("100000000000000000000").as_number(), Some(1e20));
        assert_eq!((json(r#""7""#).as_number(), json(r#""7""#).as_str()), (None, Some("7")));
        assert_eq!(json("7").as_str(), None);
        assert!(json("1e3").is_number() && !json("true").is_number());
    }

    #[test]
    fn only_numbers_are_shifted() {
        assert_eq!(shifted(&json("100"), -60), json("40"));
        assert_eq!(shifted(&json("100.5"), 60), json("160.5"));
        assert_eq!(shifted(&Json::Int(i64::MAX), 1), Json::Int(i64::MAX));
        for text in [r#""100""#, "[100]", "null", "99999999999999999999"] {
            assert_eq!(shifted(&json(text), 60), json(text));
        }
    }
}
