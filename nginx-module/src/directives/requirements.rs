//! What a token must say.

use std::rc::Rc;

use jwt_core::{ClaimPath, Json, Op};

use super::keys::algorithm;
use super::{Line, once};
use crate::conf::Nested;
use crate::error::ConfError;
use crate::ffi::LEAST_BYTES;
use crate::log::Level;
use crate::rules::{Comparison, Expected, PATTERN_BYTES, Rule, Values, Written, is_match, written};

/// `auth_jwt_alg any | ALG...`
pub(super) fn alg(line: Line<'_, '_>) -> Result<(), ConfError> {
    let mut algorithms = Vec::new();
    if line.arguments != [b"any"] {
        for name in &line.arguments {
            algorithms.push(algorithm(&line, &String::from_utf8_lossy(name))?);
        }
    }
    once(line.name, &mut line.loc.algorithms, algorithms)
}

/// `auth_jwt_typ typ | off`
pub(super) fn typ(line: Line<'_, '_>) -> Result<(), ConfError> {
    let typ = line.text(line.first())?;
    let typ = (typ != "off").then(|| typ.to_owned());
    once(line.name, &mut line.loc.typ, typ)
}

/// `auth_jwt_audience name... | off`
pub(super) fn audience(line: Line<'_, '_>) -> Result<(), ConfError> {
    let names = names(&line)?;
    once(line.name, &mut line.loc.audience, names)
}

/// `auth_jwt_scope scope... | off`
pub(super) fn scope(line: Line<'_, '_>) -> Result<(), ConfError> {
    let names = names(&line)?;
    if let Some(name) = names.iter().find(|name| name.contains(' ')) {
        return Err(line.invalid(
            name.as_bytes(),
            "scopes without spaces are expected, each an argument of its own",
        ));
    }
    once(line.name, &mut line.loc.scope, names)
}

fn names(line: &Line<'_, '_>) -> Result<Vec<String>, ConfError> {
    if line.arguments == [b"off"] {
        return Ok(Vec::new());
    }
    line.arguments.iter().map(|name| Ok(line.text(name)?.to_owned())).collect()
}

/// The status of a trailing `error=code`, and the arguments before it.
fn error_code<'c>(line: &Line<'_, 'c>) -> Result<(u16, Vec<&'c [u8]>), ConfError> {
    let mut arguments = line.arguments.clone();
    let Some(last) = arguments.last().and_then(|last| last.strip_prefix(b"error=")) else {
        return Ok((401, arguments));
    };
    let status = std::str::from_utf8(last).ok().and_then(|text| text.parse().ok());
    // 444 and 499 are nginx's own: no answer at all.
    let status =
        status.filter(|status| matches!(status, 400..=599 if ![444, 499].contains(status)));
    let status = status.ok_or_else(|| {
        line.invalid(last, "error= takes a status from 400 to 599, but not 444 and 499")
    })?;
    arguments.pop();
    Ok((status, arguments))
}

/// `auth_jwt_require $value... [error=code]`
pub(super) fn require(line: Line<'_, '_>) -> Result<(), ConfError> {
    let (status, arguments) = error_code(&line)?;
    if arguments.is_empty() {
        return Err(line.invalid(b"", "a variable is expected before error="));
    }
    let mut values = Vec::new();
    for argument in arguments {
        if !argument.starts_with(b"$") {
            return Err(line.invalid(argument, "a variable is expected, such as $jwt_claim_sub"));
        }
        let text = String::from_utf8_lossy(argument).into_owned();
        let value = line.conf.complex_value(argument).ok_or(ConfError::Nginx(line.name))?;
        values.push((text, value));
    }
    line.loc.own_rules.push(Rc::new(Rule::Values(Values { values, status })));
    Ok(())
}

/// `auth_jwt_require_claim name operator value [error=code]`
pub(super) fn require_claim(mut line: Line<'_, '_>) -> Result<(), ConfError> {
    let comparison = comparison(&mut line, "claim")?;
    line.loc.own_rules.push(Rc::new(Rule::Claim(comparison)));
    Ok(())
}

/// `auth_jwt_require_header name operator value [error=code]`
pub(super) fn require_header(mut line: Line<'_, '_>) -> Result<(), ConfError> {
    let comparison = comparison(&mut line, "header")?;
    if comparison.permits_none() {
        let text = if line.main.dialect.get().is_kjdev() {
            "this \"auth_jwt_require_header\" lets unsecured tokens in: anybody can make one"
        } else {
            "\"none\" is no signature algorithm: no token will satisfy this \"auth_jwt_require_header\""
        };
        line.conf.log(Level::Warn, text);
    }
    line.loc.own_rules.push(Rc::new(Rule::Header(comparison)));
    Ok(())
}

fn comparison(line: &mut Line<'_, '_>, kind: &'static str) -> Result<Comparison, ConfError> {
    let (status, arguments) = error_code(line)?;
    let [name, operator, value] = *arguments else {
        return Err(line.invalid(
            line.arguments.last().copied().unwrap_or_default(),
            "a name, an operator, a value and at most error=code are expected",
        ));
    };
    let name = line.text(name)?;
    if name.starts_with(['.', '[']) {
        ClaimPath::parse_jq(name)
            .map_err(|error| line.invalid(name.as_bytes(), error.to_string()))?;
    }
    let op = Op::from_name(line.text(operator)?).ok_or_else(|| {
        line.invalid(operator, format!("one of the operators {} is expected", Op::NAMES))
    })?;
    let text = line.text(value)?;
    let expected = match written(text) {
        Written::Variable => {
            Expected::Variable(line.conf.complex_value(value).ok_or(ConfError::Nginx(line.name))?)
        }
        Written::Json(json) => {
            let parsed = Json::parse(json)
                .ok_or_else(|| line.invalid(value, "JSON is expected after json="))?;
            literal(line, op, parsed, json)?
        }
        Written::Text(text) => literal(line, op, Json::Str(text.into()), text)?,
    };
    Ok(Comparison { kind, name: name.to_owned(), op, expected, status })
}

fn literal(
    line: &mut Line<'_, '_>,
    op: Op,
    value: Json,
    text: &str,
) -> Result<Expected, ConfError> {
    if !is_match(op) {
        return Ok(Expected::Json { value, text: text.to_owned() });
    }
    let Json::Str(pattern) = &value else {
        return Err(line.invalid(text.as_bytes(), "match needs a string as its pattern"));
    };
    if pattern.len() > PATTERN_BYTES {
        return Err(line.invalid(text.as_bytes(), "a pattern of at most 1024 bytes is expected"));
    }
    let regex = line.conf.regex(pattern);
    let regex = regex.map_err(|error| {
        line.invalid(text.as_bytes(), format!("a regular expression is expected: {error}"))
    })?;
    Ok(Expected::Pattern { regex, text: pattern.to_string() })
}

/// `auth_jwt_require_inherit merge | on | off`
pub(super) fn require_inherit(line: Line<'_, '_>) -> Result<(), ConfError> {
    let inherit = line.inherit()?;
    once(line.name, &mut line.loc.require_inherit, inherit)
}

/// `auth_jwt_allow_nested [delimiter=text] [quote=text] | off`
pub(super) fn allow_nested(line: Line<'_, '_>) -> Result<(), ConfError> {
    if line.arguments == [b"off"] {
        return once(line.name, &mut line.loc.nested, None);
    }
    let mut nested = Nested { delimiter: ".".to_owned(), quote: "\"".to_owned() };
    for argument in &line.arguments {
        let text = line.text(argument)?;
        if let Some(delimiter) = text.strip_prefix("delimiter=").filter(|text| !text.is_empty()) {
            delimiter.clone_into(&mut nested.delimiter);
        } else if let Some(quote) = text.strip_prefix("quote=").filter(|text| !text.is_empty()) {
            quote.clone_into(&mut nested.quote);
        } else {
            return Err(line.invalid(argument, "delimiter=TEXT, quote=TEXT or \"off\" is expected"));
        }
    }
    if nested.delimiter == nested.quote {
        return Err(line.invalid(
            nested.quote.as_bytes(),
            "the quote must be another text than the delimiter",
        ));
    }
    once(line.name, &mut line.loc.nested, Some(nested))
}

/// `auth_jwt_replay zone=name:size | zone=name | off`
pub(super) fn replay(line: Line<'_, '_>) -> Result<(), ConfError> {
    const EXPECTED: &str = "zone=NAME:SIZE of at least 1m, zone=NAME of one that is made elsewhere, or \"off\" is expected";
    let argument = line.first();
    if argument == b"off" {
        return once(line.name, &mut line.loc.replay, None);
    }
    let zone = argument.strip_prefix(b"zone=").ok_or_else(|| line.invalid(argument, EXPECTED))?;
    let (name, size) = match zone.iter().position(|byte| *byte == b':') {
        Some(at) => (&zone[..at], Some(&zone[at + 1..])),
        None => (zone, None),
    };
    let key = line.text(name)?.to_owned();
    let size = match size {
        None => None,
        Some(size) => {
            let size = line.conf.size(size).filter(|size| *size >= LEAST_BYTES);
            Some(size.ok_or_else(|| line.invalid(argument, EXPECTED))?)
        }
    };
    let known = line.main.replay_zones.borrow().get(&key).cloned();
    let zone = match (known, size) {
        (Some(zone), None) => zone,
        (Some(zone), Some(size)) if zone.size == size => zone,
        (Some(_), Some(_)) => {
            return Err(line.invalid(argument, "the zone was made with another size before"));
        }
        (None, None) => {
            return Err(
                line.invalid(argument, "the first use of a zone needs its size, zone=NAME:SIZE")
            );
        }
        (None, Some(size)) => {
            let zone = line.conf.replay_zone(name, size).ok_or(ConfError::Nginx(line.name))?;
            let zone = Rc::new(zone);
            line.main.replay_zones.borrow_mut().insert(key, Rc::clone(&zone));
            zone
        }
    };
    once(line.name, &mut line.loc.replay, Some(zone))
}
