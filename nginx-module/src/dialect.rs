//! `auth_jwt_compat`: the defaults and the log lines that users of another module rely on.
//!
//! A dialect only chooses defaults of knobs that can also be set one by one, what repeated `auth_jwt` lines mean,
//! and the texts below. What a token must satisfy is decided by the same code in both.

use jwt_core::{ClaimsSet, Compact, dangerous};

use crate::conf::LocConf;
use crate::error::{Cause, Reason, Refusal};
use crate::ffi::Request;
use crate::key_request::{Fetch, Response};
use crate::log::escape;
use crate::rules::{Mismatch, Rule};
use crate::watched_file::{Format, WatchedFile};

/// Whose habits the defaults follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// NGINX Plus `auth_jwt`.
    #[default]
    Plus,
    /// kjdev/nginx-auth-jwt.
    Kjdev,
}

impl Dialect {
    pub(crate) fn is_kjdev(self) -> bool {
        self == Self::Kjdev
    }
}

/// The log line of kjdev's module for a refusal, which its users alert on.
///
/// Its checks run in another order than ours and on unverified claims: revocation and claim rules before the times
/// and the signature. Only the text follows that order; the refusal was decided before, and what is read here from
/// an unverified token is shown to nobody but this line's reader.
pub(crate) fn kjdev_line(
    request: &mut Request<'_>,
    conf: &LocConf,
    refusal: &Refusal,
    token: &[u8],
) -> String {
    let unverified = Compact::parse_within(token, conf.token_limit())
        .map(dangerous::assume_verified)
        .or_else(|_| dangerous::parse_unsecured(token, conf.token_limit()))
        .ok()
        .and_then(|jws| jws.into_claims_set().ok());
    let text = own_text(refusal)
        .or_else(|| early_text(request, conf, unverified.as_ref()?))
        .unwrap_or_else(|| late_text(request, conf, refusal, unverified.as_ref()));
    format!("auth_jwt: {text}")
}

/// What is the same whatever the order.
fn own_text(refusal: &Refusal) -> Option<String> {
    Some(match &refusal.cause {
        Cause::Missing { from_variable: false } => "token was not provided".to_owned(),
        Cause::Missing { from_variable: true } => {
            "token variable specified was not provided".to_owned()
        }
        Cause::Rule(mismatch) => rule_text(mismatch),
        Cause::Denied { list, value, text } => denied_text(list, value, text),
        Cause::NoListValue(name) => no_list_value_text(name),
        _ => return None,
    })
}

fn denied_text(list: &str, value: &str, text: &str) -> String {
    format!(
        "rejected due to {list} in revocation list: {list}=\"{}\" {}",
        escape(value),
        json_text(text)
    )
}

fn no_list_value_text(name: &str) -> String {
    match name {
        "kid" => "rejected due to kid cannot be empty when revocation_kids set".to_owned(),
        name => format!("rejected due to missing claim: {name}"),
    }
}

/// Revocation lists and claim rules, which kjdev's module looks at before times and signature.
fn early_text(request: &mut Request<'_>, conf: &LocConf, claims: &ClaimsSet) -> Option<String> {
    for (name, list) in conf.deny_lists() {
        let value = match name {
            "kid" => claims.header().kid().map(Into::into),
            name => claims.str(name),
        };
        let Some(value) = value else { return Some(no_list_value_text(name)) };
        if let Some(text) = list.get(&value) {
            return Some(denied_text(name, &value, text));
        }
    }
    conf.rules().iter().find_map(|(path, rule)| match &**rule {
        Rule::Claim(comparison) => comparison
            .check(path, claims.object(), conf.leeway_seconds(), request)
            .err()
            .map(|mismatch| rule_text(&mismatch)),
        _ => None,
    })
}

fn late_text(
    request: &Request<'_>,
    conf: &LocConf,
    refusal: &Refusal,
    claims: Option<&ClaimsSet>,
) -> String {
    let Some(claims) = claims else { return "failed to parse jwt token".to_owned() };
    match refusal.reason() {
        Reason::Expired => format!(
            "rejected due to token expired: exp={exp}: greater than expected={} actual={}",
            request.now(),
            claims.exp().unwrap_or_default().saturating_add(conf.leeway_seconds()),
            exp = claims.exp().unwrap_or_default(),
        ),
        Reason::Claim if refusal.lacks_exp() => {
            "rejected due to exp claim could not be obtained".to_owned()
        }
        Reason::Sig => format!(
            "rejected due to signature validate failure: kid=\"{}\"",
            escape(claims.header().kid().unwrap_or_default())
        ),
        Reason::Alg if refusal.is_algorithm() => "rejected due to none algorithm".to_owned(),
        Reason::KeyUnknown | Reason::Alg => {
            "rejected due to missing signature key or signature validate failure".to_owned()
        }
        Reason::KeysUnavailable => "rejected due to without signature key".to_owned(),
        Reason::Malformed | Reason::TooLarge | Reason::Crit => {
            "failed to parse jwt token".to_owned()
        }
        other => format!("rejected due to {}", other.name()),
    }
}

/// The log lines of kjdev's module for keys that a subrequest did not bring.
pub(crate) fn kjdev_fetch_lines(fetch: &Fetch, response: &Response<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(encoding) = &response.content_encoding {
        lines.push(format!(
            "auth_jwt: JWKS subrequest returned compressed response (Content-Encoding: {}), rejecting",
            escape(encoding)
        ));
    }
    lines.push(format!("auth_jwt: failed to load {}: \"{}\"", noun(fetch.format()), fetch.show()));
    lines
}

/// The log line of kjdev's module for a file that can't be used.
pub(crate) fn kjdev_file_line(file: &WatchedFile) -> String {
    let path = escape(&file.path().display().to_string());
    format!("auth_jwt: failed to load {} file: \"{path}\"", noun(file.format()))
}

fn noun(format: Format) -> &'static str {
    if format == Format::Keyval { "key" } else { "jwks" }
}

fn rule_text(mismatch: &Mismatch) -> String {
    match mismatch {
        Mismatch::Missing { name, .. } => format!("rejected due to missing claim: {name}"),
        Mismatch::Comparison { kind, name, found, op, expected } => format!(
            "rejected due to {name} {kind} requirement: \"{}\" is not \"{op}\" \"{}\"",
            json_text(found),
            json_text(expected)
        ),
        Mismatch::Expected { kind, name } => {
            format!("failed to json load {kind} requirement: {name}")
        }
        Mismatch::TooLarge { name } => format!("claim requirement value too large: {name}"),
        Mismatch::RegexLimit => "regex match limit exceeded".to_owned(),
        Mismatch::RegexCompile => "regex compile failed".to_owned(),
        Mismatch::Value { variable } => format!("rejected due to {variable} variable invalid"),
    }
}

/// JSON as it stands in the lines of kjdev's module: cut as all foreign text, but with its own quotes, which JSON
/// itself keeps apart from control characters.
fn json_text(json: &str) -> String {
    escape(json).replace("\\\"", "\"").replace("\\\\", "\\")
}
