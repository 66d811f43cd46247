//! What is made of a token: variables, headers, the challenge, a cookie, the status page.

use std::rc::Rc;

use jwt_core::ClaimPath;

use super::{Line, once};
use crate::conf::WwwAuthenticate;
use crate::error::ConfError;
use crate::output::{ClaimHeader, SetCookie, header_key};
use crate::status::StatusFormat;
use crate::variables::SetVariable;

/// Headers that nginx itself reads, by pointers of its own to what the client has sent
/// (`ngx_http_headers_in_t`): set from a claim, some of its parts would go on seeing the client's.
const RESERVED: [&str; 33] = [
    "accept",
    "accept-encoding",
    "accept-language",
    "authorization",
    "connection",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "depth",
    "destination",
    "expect",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "overwrite",
    "proxy-connection",
    "range",
    "referer",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
    "x-forwarded-for",
    "x-real-ip",
    "http2-settings",
];

/// `auth_jwt_claim_set $variable name...`
pub(super) fn claim_set(line: Line<'_, '_>) -> Result<(), ConfError> {
    variable(line, false)
}

/// `auth_jwt_header_set $variable name...`
pub(super) fn header_set(line: Line<'_, '_>) -> Result<(), ConfError> {
    variable(line, true)
}

fn variable(line: Line<'_, '_>, from_header: bool) -> Result<(), ConfError> {
    let name = line.variable_name(line.first())?;
    let mut names = Vec::new();
    for argument in &line.arguments[1..] {
        names.push(line.text(argument)?.to_owned());
    }
    if let [single] = &*names
        && single.starts_with(['.', '['])
    {
        ClaimPath::parse_jq(single)
            .map_err(|error| line.invalid(single.as_bytes(), error.to_string()))?;
    }
    line.conf
        .add_set_variable(name, SetVariable { from_header, names })
        .ok_or(ConfError::Nginx(line.name))
}

/// `auth_jwt_www_authenticate on | off | string`
pub(super) fn www_authenticate(line: Line<'_, '_>) -> Result<(), ConfError> {
    let mode = match line.first() {
        b"on" => WwwAuthenticate::Standard,
        b"off" => WwwAuthenticate::Off,
        text => WwwAuthenticate::Custom(Rc::new(
            line.conf.complex_value(text).ok_or(ConfError::Nginx(line.name))?,
        )),
    };
    once(line.name, &mut line.loc.www_authenticate, mode)
}

/// `auth_jwt_claim_header name claim`, which may stand several times
pub(super) fn claim_header(line: Line<'_, '_>) -> Result<(), ConfError> {
    let name = line.text(line.first())?;
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if !name.bytes().all(is_token) {
        return Err(
            line.invalid(name.as_bytes(), "a header name is expected (RFC 9110 section 5.6.2)")
        );
    }
    let key = header_key(name.as_bytes());
    if RESERVED.contains(&&*key) {
        return Err(line.invalid(
            name.as_bytes(),
            "a header that nginx itself does not read is expected, such as X-User",
        ));
    }
    let claim = line.text(line.arguments[1])?;
    let claim = if claim.starts_with(['.', '[']) {
        ClaimPath::parse_jq(claim)
            .map_err(|error| line.invalid(claim.as_bytes(), error.to_string()))?
    } else {
        ClaimPath::key(claim)
    };
    let mut headers = line.loc.claim_headers.take().map(|list| list.to_vec()).unwrap_or_default();
    if headers.iter().any(|header| header.key == key) {
        return Err(line.invalid(name.as_bytes(), "each header may stand once at a level"));
    }
    headers.push(ClaimHeader::new(name, claim));
    line.loc.claim_headers = Some(headers.into());
    Ok(())
}

/// `auth_jwt_set_cookie name [path=path] [domain=domain] [samesite=lax | strict | none] [secure=off]
/// [httponly=off] | off`
pub(super) fn set_cookie(line: Line<'_, '_>) -> Result<(), ConfError> {
    if line.arguments == [b"off"] {
        return once(line.name, &mut line.loc.set_cookie, None);
    }
    let name = line.text(line.first())?;
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if !name.bytes().all(is_token) {
        return Err(
            line.invalid(name.as_bytes(), "a cookie name is expected (RFC 6265 section 4.1.1)")
        );
    }
    let (mut path, mut domain, mut samesite) = ("/", None, "Lax");
    let (mut secure, mut httponly) = (true, true);
    for argument in &line.arguments[1..] {
        let text = line.text(argument)?;
        match text.split_once('=') {
            Some(("path", value)) if value.starts_with('/') && is_attribute(value) => path = value,
            Some(("domain", value)) if !value.is_empty() && is_attribute(value) => {
                domain = Some(value);
            }
            Some(("samesite", "lax")) => samesite = "Lax",
            Some(("samesite", "strict")) => samesite = "Strict",
            Some(("samesite", "none")) => samesite = "None",
            Some(("secure", "on")) => secure = true,
            Some(("secure", "off")) => secure = false,
            Some(("httponly", "on")) => httponly = true,
            Some(("httponly", "off")) => httponly = false,
            _ => {
                return Err(line.invalid(
                    argument,
                    "path=/PATH, domain=DOMAIN, samesite=lax, samesite=strict, samesite=none, secure=off or \
                     httponly=off is expected",
                ));
            }
        }
    }
    if samesite == "None" && !secure {
        return Err(line.invalid(b"samesite=none", "browsers take SameSite=None only with Secure"));
    }
    let mut attributes = format!("; Path={path}");
    if let Some(domain) = domain {
        attributes.push_str(&format!("; Domain={domain}"));
    }
    if secure {
        attributes.push_str("; Secure");
    }
    if httponly {
        attributes.push_str("; HttpOnly");
    }
    attributes.push_str(&format!("; SameSite={samesite}"));
    let cookie = Some(Rc::new(SetCookie { name: name.to_owned(), attributes }));
    once(line.name, &mut line.loc.set_cookie, cookie)
}

fn is_attribute(value: &str) -> bool {
    value.bytes().all(|byte| matches!(byte, 0x20..=0x7e) && byte != b';')
}

/// `auth_jwt_status [json | prometheus]`
pub(super) fn status(line: Line<'_, '_>) -> Result<(), ConfError> {
    let format = match line.arguments.first() {
        None => StatusFormat::Json,
        Some(word) => StatusFormat::from_name(word)
            .ok_or_else(|| line.invalid(word, "\"json\" or \"prometheus\" is expected"))?,
    };
    if !line.conf.handle_content() {
        return Err(ConfError::Nginx(line.name));
    }
    once(line.name, &mut line.loc.status_format, format)
}
