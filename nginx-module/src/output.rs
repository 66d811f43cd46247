//! What goes out besides the verdict: the challenge, headers for the upstream, the cookie.

use jwt_core::{ClaimPath, ClaimsSet};

use crate::conf::{LocConf, Realm, WwwAuthenticate};
use crate::context::Context;
use crate::error::{Cause, Refusal};
use crate::ffi::Request;
use crate::token;
use crate::variables;

/// One `auth_jwt_claim_header`.
#[derive(Clone, Debug)]
pub(crate) struct ClaimHeader {
    /// As it is sent.
    pub(crate) name: String,
    /// In the spelling by which headers are compared: lower case, `-` for `_`.
    pub(crate) key: String,
    pub(crate) claim: ClaimPath,
}

impl ClaimHeader {
    pub(crate) fn new(name: &str, claim: ClaimPath) -> Self {
        Self { name: name.to_owned(), key: header_key(name.as_bytes()), claim }
    }
}

/// The spelling by which headers are compared. Upstreams see `X_User` and `x-user` as one (CGI, WSGI).
pub(crate) fn header_key(name: &[u8]) -> String {
    name.iter().map(|byte| char::from(key_byte(*byte))).collect()
}

/// Whether [`header_key`] of `name` is `key`, without making it: every field of every request is looked at.
fn has_key(name: &[u8], key: &str) -> bool {
    name.len() == key.len()
        && name.iter().zip(key.bytes()).all(|(byte, key)| key_byte(*byte) == key)
}

fn key_byte(byte: u8) -> u8 {
    if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() }
}

/// Removes every client copy of the location's claim headers, and what an earlier location has set.
///
/// Before the access phase and whatever its outcome: a header that is there has been set by us. `false`: no memory.
pub(crate) fn strip_claim_headers(request: &mut Request<'_>, conf: &LocConf) -> bool {
    let Some(context) = request.context() else { return conf.claim_headers().is_empty() };
    let earlier = context.claim_headers.take();
    if earlier.is_empty() && conf.claim_headers().is_empty() {
        return true;
    }
    let is_ours = |name: &[u8]| {
        earlier.iter().any(|earlier| has_key(name, earlier))
            || conf.claim_headers().iter().any(|header| has_key(name, &header.key))
    };
    request.forget_header_variables(is_ours);
    request.remove_headers_in(is_ours)
}

/// Sets the location's claim headers from verified claims. `false`: no memory.
pub(crate) fn set_claim_headers(
    request: &mut Request<'_>,
    conf: &LocConf,
    context: &Context,
    claims: &ClaimsSet,
) -> bool {
    if conf.claim_headers().is_empty() || !context.claim_headers.borrow().is_empty() {
        return true;
    }
    let mut set: Vec<Box<str>> = Vec::new();
    for header in conf.claim_headers() {
        // Absent, or nothing that a header can carry: no header, so that none is forged by a line break.
        let Some(text) = header.claim.find(claims.object()).and_then(variables::text) else {
            continue;
        };
        if text.is_empty() {
            continue;
        }
        if !request.add_header_in(&header.name, text.as_bytes()) {
            return false;
        }
        set.push(header.key.as_str().into());
    }
    request.forget_header_variables(|name| set.iter().any(|set| has_key(name, set)));
    context.claim_headers.replace(set);
    true
}

/// One `auth_jwt_set_cookie`.
#[derive(Clone, Debug)]
pub(crate) struct SetCookie {
    pub(crate) name: String,
    /// What follows the value: `; Path=/; Secure; …`.
    pub(crate) attributes: String,
}

/// Gives the accepted token to the client as a cookie, unless it came in it. `false`: no memory.
pub(crate) fn set_cookie(
    request: &mut Request<'_>,
    conf: &LocConf,
    context: &Context,
    claims: &ClaimsSet,
) -> bool {
    let Some(cookie) = conf.set_cookie() else { return true };
    let Ok(found) = token::find(request, conf) else { return true };
    if context.is_cookie_set.replace(true) || request.has_cookie(&cookie.name, found.text) {
        return true;
    }
    let age = claims.exp().map(|exp| exp.saturating_sub(request.now()).max(0));
    let age = age.map(|age| format!("; Max-Age={age}")).unwrap_or_default();
    // A token that was verified consists of base64url and dots.
    let text = String::from_utf8_lossy(found.text);
    let value = format!("{}={text}{}{age}", cookie.name, cookie.attributes);
    request.add_header_out("Set-Cookie", value.as_bytes()).is_some()
}

/// Sets `WWW-Authenticate` for a refusal. `false`: no memory.
pub(crate) fn challenge(request: &mut Request<'_>, conf: &LocConf, refusal: &Refusal) -> bool {
    let Some(auth) = &conf.auth else { return true };
    let from_header = auth.tokens.is_empty();
    let text = match conf.www_authenticate() {
        WwwAuthenticate::Off => return true,
        WwwAuthenticate::Custom(_) | WwwAuthenticate::Standard
            if conf.dialect().is_kjdev() && !has_bearer(request) =>
        {
            return true;
        }
        WwwAuthenticate::Custom(text) => {
            if refusal.status != 401 && refusal.status != 403 {
                return true;
            }
            request.complex_value(text).to_vec()
        }
        // Without a token from elsewhere nothing is said about the Authorization header, which is not looked at.
        WwwAuthenticate::Standard
            if !from_header && matches!(refusal.cause, Cause::Missing { .. }) =>
        {
            return true;
        }
        WwwAuthenticate::Standard => {
            let realm = realm(request, conf);
            match refusal.challenge(&realm) {
                Some(text) if conf.dialect().is_kjdev() => kjdev_challenge(&text, refusal, &realm),
                Some(text) => text,
                None => return true,
            }
        }
    };
    if text.is_empty() {
        return true;
    }
    if let Some(context) = request.context() {
        context.set_challenger(conf);
    }
    request.set_www_authenticate(&text)
}

/// kjdev's module says `invalid_token` whatever the status.
fn kjdev_challenge(text: &[u8], refusal: &Refusal, realm: &[u8]) -> Vec<u8> {
    if refusal.status == 401 || !refusal.blames_token() {
        return text.to_vec();
    }
    let mut text = b"Bearer realm=\"".to_vec();
    text.extend(realm);
    text.extend(b"\", error=\"invalid_token\"");
    text
}

/// Dialect kjdev sends its challenge also with an answer that was let through.
pub(crate) fn challenge_accepted(request: &mut Request<'_>, conf: &LocConf) -> bool {
    if !conf.dialect().is_kjdev() || !has_bearer(request) {
        return true;
    }
    if !matches!(conf.www_authenticate(), WwwAuthenticate::Standard) {
        return true;
    }
    let realm = realm(request, conf);
    let challenge = Refusal::from(Cause::Missing { from_variable: false }).challenge(&realm);
    challenge.is_none_or(|challenge| request.set_www_authenticate(&challenge))
}

fn has_bearer(request: &Request<'_>) -> bool {
    request.authorization().is_some_and(|value| value.starts_with(b"Bearer "))
}

fn realm(request: &mut Request<'_>, conf: &LocConf) -> Vec<u8> {
    match conf.auth.as_ref().and_then(|auth| auth.realm.as_deref()) {
        Some(Realm::Literal(text)) => text.clone(),
        Some(Realm::Variable(text)) => request.complex_value(text).to_vec(),
        None => Vec::new(),
    }
}
