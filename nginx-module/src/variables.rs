//! The variables: of a verified token, or nothing; and the few that say what came of the check.

use jwt_core::{ClaimPath, Compact, Object, dangerous, json};

use crate::authenticate::{Progress, authenticate};
use crate::conf::LocConf;
use crate::context::{Context, Outcome, Verified};
use crate::ffi::Request;
use crate::key_source::Patience;
use crate::token;

/// A variable of this module; the prefixed ones carry the rest of their name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Variable<'n> {
    /// `$jwt_claim_NAME`
    Claim(&'n str),
    /// `$jwt_header_NAME`
    Header(&'n str),
    /// `$jwt_claims`: all claims, without white space and sorted by name.
    Claims,
    /// `$jwt_payload`: all claims as they were signed.
    Payload,
    /// `$jwt_nowtime`: seconds since the epoch.
    NowTime,
    /// `$auth_jwt_status`: `ok`, `off`, or why the token is refused.
    Status,
    /// `$auth_jwt_kid`: the `kid` of a verified token.
    Kid,
    /// `$auth_jwt_cache`: `hit` or `miss`.
    Cache,
    /// `$jwt_unverified_claim_NAME`
    UnverifiedClaim(&'n str),
    /// `auth_jwt_claim_set`, `auth_jwt_header_set`
    Set(&'n SetVariable),
}

/// The variable of an `auth_jwt_claim_set` or `auth_jwt_header_set`.
#[derive(Debug)]
pub(crate) struct SetVariable {
    pub(crate) from_header: bool,
    pub(crate) names: Vec<String>,
}

/// The variable's text; `None` if it has none.
pub(crate) fn value(request: &mut Request<'_>, variable: Variable<'_>) -> Option<String> {
    let conf = request.loc_conf();
    let text = match variable {
        Variable::NowTime => return Some(request.now().to_string()),
        Variable::Status => return Some(status(request, conf).to_owned()),
        Variable::UnverifiedClaim(name) => {
            let claims = unverified(request, conf)?;
            text(find(conf, &claims, name)?)?
        }
        Variable::Claim(name) => {
            // While a key source is looked for, and for nothing else: the keys then have to verify it.
            if let Some(claims) = request.context().and_then(Context::unverified) {
                return text(find(conf, &claims, name)?);
            }
            text(find(conf, verified(request, conf)?.claims.object(), name)?)?
        }
        Variable::Header(name) => {
            header_text(conf, find(conf, verified(request, conf)?.claims.header().object(), name)?)?
        }
        Variable::Claims => verified(request, conf)?.claims.object().to_sorted_json(),
        Variable::Payload => verified(request, conf)?.claims.json().to_owned(),
        Variable::Kid => verified(request, conf)?.claims.header().kid()?.to_owned(),
        Variable::Cache => match verified(request, conf)?.cached? {
            true => "hit".to_owned(),
            false => "miss".to_owned(),
        },
        Variable::Set(set) => {
            let verified = verified(request, conf)?;
            let object = match set.from_header {
                true => verified.claims.header().object(),
                false => verified.claims.object(),
            };
            let raw = match &*set.names {
                [name] => conf.path(name).find(object)?,
                names => ClaimPath::keys(names.iter().map(String::as_str)).find(object)?,
            };
            if set.from_header { header_text(conf, raw)? } else { text(raw)? }
        }
    };
    is_safe(&text).then_some(text)
}

/// nginx puts a variable into a header as it is: a line break in a claim would add headers of its own.
fn is_safe(text: &str) -> bool {
    !text.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0))
}

/// The claims that variables show: verified under the rules of the request's current location, whatever the phase.
/// A location that reads no tokens, such as the page of an error, shows what an earlier one of the same request has
/// verified.
fn verified(request: &mut Request<'_>, conf: &LocConf) -> Option<Verified> {
    let context = request.context()?;
    if !conf.reads_tokens() {
        return context.last_verified();
    }
    // The token's own place may not depend on what is in the token.
    if context.is_busy() {
        return None;
    }
    match authenticate(request, conf, Patience::Now) {
        Progress::Done(Outcome::Verified(verified)) => Some(verified),
        _ => None,
    }
}

fn unverified(request: &mut Request<'_>, conf: &LocConf) -> Option<Object> {
    if !conf.reads_tokens() || request.context().is_some_and(Context::is_busy) {
        return None;
    }
    let token = token::find(request, conf).ok()?;
    dangerous::claims(&Compact::parse_within(token.text, conf.token_limit()).ok()?)
}

fn status(request: &mut Request<'_>, conf: &LocConf) -> &'static str {
    let Some(context) = request.context() else { return "internal" };
    if let Some(reason) = context.final_reason() {
        return reason;
    }
    if !conf.reads_tokens() {
        return "off";
    }
    if context.is_busy() {
        return "";
    }
    match authenticate(request, conf, Patience::Now) {
        Progress::Done(Outcome::Verified(_)) => "ok",
        Progress::Done(Outcome::Refused(refused)) => refused.refusal.reason().name(),
        Progress::Wait => "keys_unavailable",
    }
}

fn find<'o>(conf: &LocConf, object: &'o Object, name: &str) -> Option<&'o str> {
    match conf.nested() {
        None => object.raw(name),
        Some(_) => conf.path(name).find(object),
    }
}

/// Strings bare, numbers as they are written, null as nothing, arrays with commas, objects as JSON; `None` for what
/// can't stand in a header.
pub(crate) fn text(raw: &str) -> Option<String> {
    let text = if let Some(items) = json::elements(raw, usize::MAX) {
        items.into_iter().map(scalar).collect::<Vec<_>>().join(",")
    } else {
        scalar(raw)
    };
    is_safe(&text).then_some(text)
}

/// kjdev's module shows an array of the header as JSON.
fn header_text(conf: &LocConf, raw: &str) -> Option<String> {
    if conf.dialect().is_kjdev() && raw.starts_with('[') {
        return Some(json::to_sorted(raw));
    }
    text(raw)
}

fn scalar(raw: &str) -> String {
    match json::string(raw) {
        Some(string) => string.into_owned(),
        None if raw == "null" => String::new(),
        None => json::to_sorted(raw),
    }
}
