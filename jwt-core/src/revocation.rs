//! Lists of what is revoked: the daemon's `revoked.json`, and lists that an operator writes.
//!
//! Like a key set, a list is read whole or not at all: one that can't be read in every detail is an error, and the
//! caller keeps the one before it.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;

use crate::claims::ClaimsSet;
use crate::error::RevocationError;
use crate::json::{self, Object};
use crate::limits;

/// The revocations that the daemon writes:
///
/// ```json
/// {"version":1, "token_id":{V:UNTIL}, "identifier":{V:[BEFORE,UNTIL]}, "key":{V:UNTIL}, "kid":{V:UNTIL}}
/// ```
///
/// All times are seconds since the epoch; UNTIL is when the last token that an entry is about has expired, and the
/// daemon drops the entry. Each member but the version may be left out.
#[derive(Debug, Default)]
pub struct Revocations {
    token_id: HashSet<Box<str>>,
    /// With the second before which a token must not have been issued.
    identifier: HashMap<Box<str>, i64>,
    key: HashSet<Box<str>>,
    kid: HashSet<Box<str>>,
}

/// Which entry a token falls under. Its text, for a log line, has no value of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// `token_id` or `jti`.
    TokenId,
    /// `identifier` or `sub`, for a token issued too early.
    Identifier,
    /// `key`, the public id of the registered key that the token was issued for.
    Key,
    /// The header's `kid`.
    Kid,
}

impl fmt::Display for Revoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TokenId => "the token is revoked",
            Self::Identifier => "the identifier's tokens of that time are revoked",
            Self::Key => "the registered key is revoked",
            Self::Kid => "the signing key is revoked",
        })
    }
}

impl Revocations {
    /// Reads version 1, strictly: what this program does not know could be what revokes a token.
    ///
    /// # Errors
    /// [`RevocationError`] by the first thing that is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, RevocationError> {
        const UNTIL: &str = "a time in whole seconds";
        let root = root(bytes)?;
        if root.raw("version") != Some("1") {
            return Err(RevocationError::Version);
        }
        let mut list = Self::default();
        for (name, json) in root.members() {
            match name {
                "version" => {}
                "token_id" => list.token_id = entries(json, "token_id", UNTIL, until)?,
                "key" => list.key = entries(json, "key", UNTIL, until)?,
                "kid" => list.kid = entries(json, "kid", UNTIL, until)?,
                "identifier" => {
                    let expected = "an array of two times in whole seconds";
                    list.identifier = entries(json, "identifier", expected, before)?;
                }
                unknown => return Err(RevocationError::UnknownMember(unknown.to_owned())),
            }
        }
        Ok(list)
    }

    /// The entry that the token falls under, if there is one. A claim that is absent, or no string, falls under none;
    /// but a token without a readable `iat` counts as issued before every time.
    pub fn check(&self, set: &ClaimsSet) -> Option<Revoked> {
        self.find(None, set)
    }

    /// As [`Revocations::check`] for a token of another issuer: its values stand in the list as `ISSUER:VALUE`, where
    /// `issuer` is what it is called here, so that they are never mistaken for equal ones of this issuer.
    pub fn check_issued_by(&self, issuer: &str, set: &ClaimsSet) -> Option<Revoked> {
        self.find(Some(issuer), set)
    }

    fn find(&self, issuer: Option<&str>, set: &ClaimsSet) -> Option<Revoked> {
        if self.is_empty() {
            return None;
        }
        // The common case, a token of this issuer, allocates nothing.
        fn listed<'v>(issuer: Option<&str>, value: Cow<'v, str>) -> Cow<'v, str> {
            match issuer {
                None => value,
                Some(issuer) => format!("{issuer}:{value}").into(),
            }
        }
        let text = |claim: &str| set.str(claim).map(|value| listed(issuer, value));
        let names_one_of = |claim: &str, list: &HashSet<Box<str>>| {
            !list.is_empty() && text(claim).is_some_and(|value| list.contains(&*value))
        };
        let too_early = |claim: &str| {
            !self.identifier.is_empty()
                && text(claim)
                    .and_then(|value| self.identifier.get(&*value))
                    .is_some_and(|before| set.iat().is_none_or(|iat| iat < *before))
        };
        if names_one_of("token_id", &self.token_id) || names_one_of("jti", &self.token_id) {
            Some(Revoked::TokenId)
        } else if too_early("identifier") || too_early("sub") {
            Some(Revoked::Identifier)
        } else if names_one_of("key", &self.key) {
            Some(Revoked::Key)
        } else if set
            .header()
            .kid()
            .is_some_and(|kid| self.kid.contains(&*listed(issuer, kid.into())))
        {
            Some(Revoked::Kid)
        } else {
            None
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.token_id.len() + self.identifier.len() + self.key.len() + self.kid.len()
    }

    /// Whether nothing is revoked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Values that an operator refuses (`auth_jwt_revocation_list_sub`, `auth_jwt_revocation_list_kid`): the names of a
/// JSON object's members. What the members hold is for the log alone.
#[derive(Debug, Default)]
pub struct DenyList(HashMap<Box<str>, Box<str>>);

impl DenyList {
    /// Reads a list; an object without members refuses nothing.
    ///
    /// # Errors
    /// [`RevocationError::TooLarge`], [`RevocationError::Empty`], or [`RevocationError::Syntax`] for what is no
    /// object with distinct members.
    pub fn parse(bytes: &[u8]) -> Result<Self, RevocationError> {
        let root = root(bytes)?;
        let entries = root.members();
        Ok(Self(entries.map(|(name, json)| (name.into(), json::to_sorted(json).into())).collect()))
    }

    /// What the list says of `value`, as compact JSON; `None` if `value` is not on it.
    pub fn get(&self, value: &str) -> Option<&str> {
        self.0.get(value).map(|json| &**json)
    }

    /// How many values are refused.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no value is refused.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn root(bytes: &[u8]) -> Result<Object, RevocationError> {
    if bytes.len() > limits::REVOCATION_BYTES {
        return Err(RevocationError::TooLarge);
    }
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(RevocationError::Empty);
    }
    Object::parse(bytes).map_err(RevocationError::Syntax)
}

/// The entries of one member, each read by `read`.
fn entries<E, C: FromIterator<E>>(
    json: &str,
    member: &'static str,
    expected: &'static str,
    read: impl Fn(&str, &str) -> Option<E>,
) -> Result<C, RevocationError> {
    let members = json::members(json).ok_or(RevocationError::NotAnObject(member))?;
    members
        .iter()
        .enumerate()
        .map(|(place, (value, json))| {
            let entry = place + 1;
            read(value, json).ok_or(RevocationError::Entry { member, entry, expected })
        })
        .collect()
}

fn until(value: &str, json: &str) -> Option<Box<str>> {
    json.parse::<i64>().ok().map(|_| value.into())
}

fn before(value: &str, json: &str) -> Option<(Box<str>, i64)> {
    match &*json::elements(json, 2)? {
        [before, until] => {
            until.parse::<i64>().ok()?;
            Some((value.into(), before.parse().ok()?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::JoseHeader;

    fn set(header: &str, claims: &str) -> ClaimsSet {
        ClaimsSet::new(
            JoseHeader::parse(header.as_bytes().to_vec()).expect("header"),
            Object::parse(claims.as_bytes()).expect("claims"),
        )
    }

    #[test]
    fn each_kind_of_entry_and_absent_claims() {
        let list = Revocations::parse(
            br#"{"version":1,"token_id":{"t":9},"identifier":{"i":[100,9]},"key":{"k":9},"kid":{"x":9}}"#,
        )
        .expect("valid");
        assert_eq!((list.len(), list.is_empty()), (4, false));
        for (claims, expected) in [
            ("{}", None),
            (r#"{"token_id":"t"}"#, Some(Revoked::TokenId)),
            (r#"{"jti":"t"}"#, Some(Revoked::TokenId)),
            (r#"{"jti":"\u0074"}"#, Some(Revoked::TokenId)),
            (r#"{"token_id":"other","jti":"t"}"#, Some(Revoked::TokenId)),
            (r#"{"jti":"other","sub":"t","key":"t"}"#, None),
            (r#"{"jti":["t"]}"#, None),
            (r#"{"identifier":"i","iat":99}"#, Some(Revoked::Identifier)),
            (r#"{"identifier":"i","iat":99.9}"#, Some(Revoked::Identifier)),
            (r#"{"identifier":"i","iat":100}"#, None),
            (r#"{"sub":"i","iat":99}"#, Some(Revoked::Identifier)),
            (r#"{"sub":"i","iat":101}"#, None),
            (r#"{"sub":"i"}"#, Some(Revoked::Identifier)),
            (r#"{"sub":"i","iat":"101"}"#, Some(Revoked::Identifier)),
            (r#"{"sub":"other"}"#, None),
            (r#"{"key":"k"}"#, Some(Revoked::Key)),
            (r#"{"key":"other"}"#, None),
        ] {
            assert_eq!(list.check(&set(r#"{"alg":"HS256"}"#, claims)), expected, "{claims}");
        }
        assert_eq!(list.check(&set(r#"{"alg":"HS256","kid":"x"}"#, "{}")), Some(Revoked::Kid));
        assert_eq!(list.check(&set(r#"{"alg":"HS256","kid":"y"}"#, r#"{"kid":"x"}"#)), None);
        let kinds = [Revoked::TokenId, Revoked::Identifier, Revoked::Key, Revoked::Kid];
        assert!(kinds.iter().all(|kind| kind.to_string().ends_with("revoked")));
    }

    #[test]
    fn members_may_be_left_out_or_empty() {
        for text in [&br#"{"version":1}"#[..], br#" {"kid":{}, "version":1, "token_id":{}} "#] {
            let list = Revocations::parse(text).expect("valid");
            assert!(list.is_empty());
            assert_eq!(list.check(&set(r#"{"alg":"HS256","kid":""}"#, r#"{"sub":""}"#)), None);
        }
    }

    #[test]
    fn lists_that_are_none() {
        for (text, error) in [
            ("", "it is empty"),
            (" \n", "it is empty"),
            ("[]", "it is not a strict JSON object (line 1, column 0)"),
            (r#"{"version":1"#, "it is not a strict JSON object (line 1, column 12)"),
            (r#"{"version":1,"version":1}"#, "it is not a strict JSON object (line 1, column 22)"),
            ("{}", r#"its member "version" is not 1"#),
            (r#"{"version":2,"new":{}}"#, r#"its member "version" is not 1"#),
            (r#"{"version":"1"}"#, r#"its member "version" is not 1"#),
            (
                r#"{"version":1,"tokens":{}}"#,
                r#"it has a member that version 1 does not know: "tokens""#,
            ),
            (
                r#"{"version":1,"key":[]}"#,
                r#"its member "key" is not an object with distinct members"#,
            ),
            (
                r#"{"version":1,"kid":null}"#,
                r#"its member "kid" is not an object with distinct members"#,
            ),
            (
                r#"{"version":1,"token_id":{"a":1,"b":"2"}}"#,
                r#"entry 2 of its member "token_id" is not a time in whole seconds"#,
            ),
            (
                r#"{"version":1,"token_id":{"a":1.5}}"#,
                r#"entry 1 of its member "token_id" is not a time in whole seconds"#,
            ),
            (
                r#"{"version":1,"identifier":{"a":5}}"#,
                r#"entry 1 of its member "identifier" is not an array of two times in whole seconds"#,
            ),
            (
                r#"{"version":1,"identifier":{"a":[1,2,3]}}"#,
                r#"entry 1 of its member "identifier" is not an array of two times in whole seconds"#,
            ),
            (
                r#"{"version":1,"identifier":{"a":[1,null]}}"#,
                r#"entry 1 of its member "identifier" is not an array of two times in whole seconds"#,
            ),
        ] {
            let verdict = Revocations::parse(text.as_bytes()).expect_err(text).to_string();
            assert_eq!(verdict, error, "{text}");
        }
        // Members twice within a member are found by the strict reading of the whole.
        let twice = Revocations::parse(br#"{"version":1,"kid":{"a":1,"a":1}}"#);
        assert!(matches!(twice, Err(RevocationError::Syntax(_))));
        let large = vec![b' '; limits::REVOCATION_BYTES + 1];
        assert!(matches!(Revocations::parse(&large), Err(RevocationError::TooLarge)));
        assert!(matches!(DenyList::parse(&large), Err(RevocationError::TooLarge)));
    }

    #[test]
    fn a_list_of_many_entries_is_read() {
        let entries: Vec<String> = (0..50_000).map(|n| format!(r#""{n:032}":1"#)).collect();
        let text = format!(r#"{{"version":1,"token_id":{{{}}}}}"#, entries.join(","));
        assert_eq!(Revocations::parse(text.as_bytes()).expect("valid").len(), 50_000);
    }

    #[test]
    fn deny_lists() {
        let list = DenyList::parse(br#" {"a\u0062": {"why": "left", "at": 1}, "c": null} "#);
        let list = list.expect("valid");
        assert_eq!((list.len(), list.is_empty()), (2, false));
        assert_eq!(list.get("ab"), Some(r#"{"at":1,"why":"left"}"#));
        assert_eq!((list.get("c"), list.get("d")), (Some("null"), None));
        assert!(DenyList::parse(b"{}").expect("valid").is_empty());
        for text in ["", " ", "[]", "null", "garbage", r#"{"a":1"#, r#"{"a":1,"a":1}"#] {
            assert!(DenyList::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
