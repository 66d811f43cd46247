//! Where the token of a request is.

use crate::conf::LocConf;
use crate::error::Cause;
use crate::ffi::Request;

/// The token's text, and whether its place is the Authorization header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token<'r> {
    pub(crate) text: &'r [u8],
}

/// Finds the token: in the Authorization header (RFC 6750 §2.1), or in the first variable of `token=` that has one.
///
/// # Errors
/// [`Cause::Missing`], and [`Cause::Multiple`] where a second one is refused.
pub(crate) fn find<'r>(request: &mut Request<'r>, conf: &LocConf) -> Result<Token<'r>, Cause> {
    let sources = conf.auth.as_ref().map(|auth| &*auth.tokens).unwrap_or_default();
    if sources.is_empty() {
        let credentials = request.authorization().and_then(bearer);
        return match credentials.filter(|token| !token.is_empty()) {
            Some(text) => Ok(Token { text }),
            None => Err(Cause::Missing { from_variable: false }),
        };
    }
    let mut found: Option<Token<'r>> = None;
    for source in sources {
        let Some(value) = request.variable(source.variable) else { continue };
        let text = bearer(value).unwrap_or(value);
        if text.is_empty() {
            continue;
        }
        match found {
            // RFC 6750 §2: a client must not use more than one method.
            Some(first) if first.text != text => return Err(Cause::Multiple),
            Some(_) => {}
            None => found = Some(Token { text }),
        }
        if !conf.rejects_multiple() {
            break;
        }
    }
    if conf.rejects_multiple() && found.is_some() && is_elsewhere(request, found) {
        return Err(Cause::Multiple);
    }
    found.ok_or(Cause::Missing { from_variable: true })
}

/// Whether the Authorization header carries another bearer token than the one that was found.
fn is_elsewhere(request: &Request<'_>, found: Option<Token<'_>>) -> bool {
    let header = request.authorization().and_then(bearer).filter(|token| !token.is_empty());
    header.is_some_and(|header| found.is_some_and(|found| found.text != header))
}

/// What follows the scheme, whose case does not matter (RFC 9110 §11.1).
pub(crate) fn bearer(credentials: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = credentials.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return None;
    }
    match rest.first() {
        None => Some(rest),
        Some(b' ') => Some(rest.trim_ascii_start()),
        Some(_) => None,
    }
}
