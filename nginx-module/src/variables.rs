//! `$jwt_claim_NAME`, `$jwt_header_NAME`, `$jwt_claims`, `$jwt_payload`: of a verified token, or nothing.

use jwt_core::{Claims, Object, json};

use crate::access;
use crate::ffi::Request;

/// A variable of this module; the prefixed ones carry the rest of their name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Variable<'n> {
    Claim(&'n str),
    Header(&'n str),
    Claims,
    Payload,
}

/// The prefix of claim variables.
pub(crate) const CLAIM: &str = "jwt_claim_";
/// The prefix of header variables.
pub(crate) const HEADER: &str = "jwt_header_";
/// All claims, without white space and sorted by name.
pub(crate) const CLAIMS: &str = "jwt_claims";
/// All claims as they were signed.
pub(crate) const PAYLOAD: &str = "jwt_payload";

/// The variable's text; `None` without a verified token or such a member.
pub(crate) fn value(request: &mut Request<'_>, variable: Variable<'_>) -> Option<String> {
    let verdict = access::verified(request)?;
    let claims: &Claims = verdict.claims()?;
    let text = match variable {
        Variable::Claim(name) => text(claims.object(), name)?,
        Variable::Header(name) => text(claims.header().object(), name)?,
        Variable::Claims => claims.object().to_sorted_json(),
        Variable::Payload => claims.json().to_owned(),
    };
    // nginx puts a variable into a header as it is: a line break in a claim would add headers of its own.
    (!text.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0))).then_some(text)
}

/// Strings bare, numbers as they are written, null as nothing, arrays with commas, objects as JSON.
fn text(object: &Object, name: &str) -> Option<String> {
    let raw = object.raw(name)?;
    Some(if let Some(items) = json::elements(raw, usize::MAX) {
        items.into_iter().map(scalar).collect::<Vec<_>>().join(",")
    } else {
        scalar(raw)
    })
}

fn scalar(raw: &str) -> String {
    match json::string(raw) {
        Some(string) => string.into_owned(),
        None if raw == "null" => String::new(),
        None => json::to_sorted(raw),
    }
}
