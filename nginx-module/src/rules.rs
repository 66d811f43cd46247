//! `auth_jwt_require`, `auth_jwt_require_claim` and `auth_jwt_require_header`: what a token must satisfy besides
//! being valid.

use std::borrow::Cow;
use std::cell::Cell;

use jwt_core::{ClaimPath, Json, Object, Op, Operator, json};

use crate::ffi::{ComplexValue, Regex, Request};

/// Most bytes of an expected value after its variables are filled in.
const VALUE_BYTES: usize = 4096;
/// Most bytes of a regular expression.
pub(crate) const PATTERN_BYTES: usize = 1024;

/// One line of the configuration.
#[derive(Debug)]
pub(crate) enum Rule {
    Claim(Comparison),
    Header(Comparison),
    Values(Values),
}

/// `NAME OPERATOR VALUE`.
#[derive(Debug)]
pub(crate) struct Comparison {
    /// `claim` or `header`, for log lines.
    pub(crate) kind: &'static str,
    pub(crate) name: String,
    pub(crate) op: Op,
    pub(crate) expected: Expected,
    /// The answer when it fails; 401 if the line does not say.
    pub(crate) status: u16,
}

/// The right-hand side of a comparison.
#[derive(Debug)]
pub(crate) enum Expected {
    Json {
        value: Json,
        text: String,
    },
    /// A literal regular expression, compiled with the configuration.
    Pattern {
        regex: Regex,
        text: String,
    },
    /// JSON that is known only at the request.
    Variable(ComplexValue),
}

/// `auth_jwt_require $value …`.
#[derive(Debug)]
pub(crate) struct Values {
    /// As written, and compiled.
    pub(crate) values: Vec<(String, ComplexValue)>,
    pub(crate) status: u16,
}

/// Why a rule does not hold. The texts name the configuration's words, never a value of the token.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Mismatch {
    #[error("{kind} {name} is missing")]
    Missing { kind: &'static str, name: String },
    #[error("{kind} {name} is not {op} what is required")]
    Comparison { kind: &'static str, name: String, found: String, op: String, expected: String },
    #[error("the value required of {kind} {name} is not JSON")]
    Expected { kind: &'static str, name: String },
    #[error("the value required of {name} is too large")]
    TooLarge { name: String },
    #[error("a regular expression took too long")]
    RegexLimit,
    #[error("a regular expression can't be compiled")]
    RegexCompile,
    #[error("{variable} is empty or 0")]
    Value { variable: String },
}

impl Rule {
    pub(crate) fn comparison(&self) -> Option<&Comparison> {
        match self {
            Self::Claim(comparison) | Self::Header(comparison) => Some(comparison),
            Self::Values(_) => None,
        }
    }

    /// The answer when it fails.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Claim(comparison) | Self::Header(comparison) => comparison.status,
            Self::Values(values) => values.status,
        }
    }
}

impl Comparison {
    /// Whether `object`, the claims or the header, satisfies this. `leeway` widens rules on `exp` and `nbf`.
    pub(crate) fn check(
        &self,
        path: &ClaimPath,
        object: &Object,
        leeway: i64,
        request: &mut Request<'_>,
    ) -> Result<(), Mismatch> {
        let missing = || Mismatch::Missing { kind: self.kind, name: self.name.clone() };
        let found = path.find(object).ok_or_else(missing)?;
        let claim = Json::parse(found).ok_or_else(missing)?;
        let (expected, text) = self.expected(request)?;
        let expected = self.shift(expected, leeway);
        let trouble = Cell::new(None);
        let held = self.op.compare(&claim, &expected, &mut |subject, pattern| {
            match &self.expected {
                Expected::Pattern { regex, .. } => regex.matches(subject),
                _ if pattern.len() > PATTERN_BYTES => None,
                _ => match request.compile_regex(pattern) {
                    Some(regex) => regex.matches(subject),
                    None => {
                        trouble.set(Some(Mismatch::RegexCompile));
                        return None;
                    }
                },
            }
            .or_else(|| {
                trouble.set(Some(Mismatch::RegexLimit));
                None
            })
        });
        match trouble.into_inner() {
            Some(trouble) => Err(trouble),
            None if held => Ok(()),
            None => Err(Mismatch::Comparison {
                kind: self.kind,
                name: self.name.clone(),
                found: json::to_sorted(found),
                op: self.op.to_string(),
                expected: text.into_owned(),
            }),
        }
    }

    /// Whether this is a rule on `exp` with a number: in dialect kjdev one that holds takes the place of the check
    /// of `exp` itself.
    pub(crate) fn replaces_exp(&self, request: &mut Request<'_>) -> bool {
        self.kind == "claim"
            && self.name == "exp"
            && self
                .expected(request)
                .is_ok_and(|(value, _)| matches!(*value, Json::Int(_) | Json::Real(_)))
    }

    fn expected(
        &self,
        request: &mut Request<'_>,
    ) -> Result<(Cow<'_, Json>, Cow<'_, str>), Mismatch> {
        Ok(match &self.expected {
            Expected::Json { value, text } => (Cow::Borrowed(value), Cow::Borrowed(&**text)),
            Expected::Pattern { text, .. } => {
                (Cow::Owned(Json::Str(text.as_str().into())), Cow::Borrowed(&**text))
            }
            Expected::Variable(value) => {
                let bytes = request.complex_value(value);
                if bytes.len() > VALUE_BYTES {
                    return Err(Mismatch::TooLarge { name: self.name.clone() });
                }
                let text = std::str::from_utf8(bytes).ok().filter(|text| !text.is_empty());
                let json = text.and_then(|text| Some((Json::parse(text)?, text)));
                let (json, text) = json.ok_or_else(|| Mismatch::Expected {
                    kind: self.kind,
                    name: self.name.clone(),
                })?;
                (Cow::Owned(json), Cow::Owned(text.to_owned()))
            }
        })
    }

    /// A rule on a time gives the leeway that the built-in checks of `exp` and `nbf` give.
    fn shift<'e>(&self, expected: Cow<'e, Json>, leeway: i64) -> Cow<'e, Json> {
        let by = match (self.kind, &*self.name) {
            ("claim", "exp") => leeway.saturating_neg(),
            ("claim", "nbf") => leeway,
            _ => return expected,
        };
        if by == 0 { expected } else { Cow::Owned(jwt_core::shifted(&expected, by)) }
    }
}

impl Values {
    /// Every value must be there and not be "0".
    pub(crate) fn check(&self, request: &mut Request<'_>) -> Result<(), Mismatch> {
        for (variable, value) in &self.values {
            let text = request.complex_value(value);
            if text.is_empty() || text == b"0" {
                return Err(Mismatch::Value { variable: variable.clone() });
            }
        }
        Ok(())
    }
}

/// The right-hand side of a comparison as it is written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Written<'w> {
    Variable,
    Json(&'w str),
    Text(&'w str),
}

/// How `value` is meant: `$…` is filled in at the request, `json=…` is JSON, everything else a string.
pub(crate) fn written(value: &str) -> Written<'_> {
    if value.starts_with('$') {
        Written::Variable
    } else if let Some(json) = value.strip_prefix("json=") {
        Written::Json(json)
    } else {
        Written::Text(value)
    }
}

/// Whether the operator takes a regular expression.
pub(crate) fn is_match(op: Op) -> bool {
    op.operator == Operator::Match
}

impl Comparison {
    /// Whether this is `alg eq none`, or a list that names `none`: what lets unsecured tokens in where the dialect
    /// permits it at all.
    pub(crate) fn permits_none(&self) -> bool {
        let Expected::Json { value, .. } = &self.expected else { return false };
        let is_none = |value: &Json| matches!(value, Json::Str(text) if **text == *"none");
        self.name == "alg"
            && !self.op.negated
            && match (self.op.operator, value) {
                (Operator::Eq, value) => is_none(value),
                (Operator::In | Operator::Any, Json::Array(items)) => items.iter().any(is_none),
                _ => false,
            }
    }
}
