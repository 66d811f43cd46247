//! Where tokens are asked for, and where they are.

use std::rc::Rc;

use super::{Line, once};
use crate::conf::{AuthJwt, Phase, Realm, TokenSource};
use crate::dialect::Dialect;
use crate::error::ConfError;
use crate::log::Level;

/// Most bytes that `auth_jwt_max_size` may ask for: nginx's header buffers seldom hold more.
const MOST_TOKEN_BYTES: usize = 64 * 1024;
/// The smallest cache of verified tokens that keeps some.
const LEAST_CACHE_BYTES: usize = 64 * 1024;

/// `auth_jwt string [token=$variable[,$variable...]] | off [token=...]`
pub(super) fn auth_jwt(line: Line<'_, '_>) -> Result<(), ConfError> {
    let is_kjdev = line.main.dialect.get().is_kjdev();
    if line.loc.auth.is_some() {
        if !is_kjdev {
            return Err(ConfError::Duplicate(line.name));
        }
        line.conf.log(Level::Warn, "a second \"auth_jwt\" at this level replaces the first");
    }
    let realm = line.first();
    let mut tokens = match line.arguments.get(1) {
        None => Rc::from([]),
        Some(argument) => sources(&line, argument)?,
    };
    if let Some(earlier) = line.loc.auth.as_ref().filter(|_| tokens.is_empty()) {
        tokens = Rc::clone(&earlier.tokens);
    }
    if realm == b"off" {
        line.loc.auth = Some(AuthJwt { realm: None, tokens });
        return Ok(());
    }
    // The realm is sent to every client, so a variable that is likely to hold a token must not be one.
    if tokens.is_empty()
        && !is_kjdev
        && [&b"$cookie_"[..], b"$arg_", b"$http_"].iter().any(|prefix| realm.starts_with(prefix))
    {
        return Err(line.invalid(
            realm,
            "it would be sent as the realm; to read the token from it write auth_jwt \"realm\" token=$variable",
        ));
    }
    if realm == b"on" {
        line.conf.log(Level::Notice, "\"auth_jwt on\" turns it on with the realm \"on\"");
    }
    let realm = if is_kjdev || !realm.contains(&b'$') {
        Realm::Literal(realm.to_vec())
    } else {
        Realm::Variable(line.conf.complex_value(realm).ok_or(ConfError::Nginx(line.name))?)
    };
    line.loc.auth = Some(AuthJwt { realm: Some(Rc::new(realm)), tokens });
    Ok(())
}

fn sources<'c>(line: &Line<'_, 'c>, argument: &'c [u8]) -> Result<Rc<[TokenSource]>, ConfError> {
    const EXPECTED: &str = "token=$variable is expected, or token=$first,$second";
    let list = argument.strip_prefix(b"token=").filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| line.invalid(argument, EXPECTED))?;
    let mut sources = Vec::new();
    for variable in list.split(|byte| *byte == b',') {
        let name = line.variable_name(variable).map_err(|_| line.invalid(argument, EXPECTED))?;
        if name.starts_with(b"jwt_") || name.starts_with(b"auth_jwt_") {
            return Err(
                line.invalid(argument, "a variable that itself needs the token can't hold it")
            );
        }
        // RFC 6750 §2.3 warns of the same.
        if name.starts_with(b"arg_") {
            line.conf.log(
                Level::Warn,
                "\"auth_jwt\" takes the token from the query string, which logs and browser histories keep",
            );
        }
        let variable = line.conf.variable(name).ok_or(ConfError::Nginx(line.name))?;
        sources.push(TokenSource { variable });
    }
    Ok(sources.into())
}

/// `auth_jwt_compat plus | kjdev`
pub(super) fn compat(line: Line<'_, '_>) -> Result<(), ConfError> {
    if line.main.is_begun.get() {
        return Err(ConfError::NotFirst(line.name));
    }
    line.main.dialect.set(match line.first() {
        b"plus" => Dialect::Plus,
        b"kjdev" => Dialect::Kjdev,
        other => return Err(line.invalid(other, "\"plus\" or \"kjdev\" is expected")),
    });
    Ok(())
}

/// `auth_jwt_phase access | preaccess`
pub(super) fn phase(line: Line<'_, '_>) -> Result<(), ConfError> {
    let argument = line.first();
    let phase = match &*argument.to_ascii_lowercase() {
        b"access" => Phase::Access,
        b"preaccess" => Phase::Preaccess,
        _ => return Err(line.invalid(argument, "\"access\" or \"preaccess\" is expected")),
    };
    once(line.name, &mut line.loc.phase, phase)
}

/// `auth_jwt_type signed`
pub(super) fn token_type(line: Line<'_, '_>) -> Result<(), ConfError> {
    match line.first() {
        b"signed" => Ok(()),
        other @ (b"encrypted" | b"nested") => Err(line.invalid(
            other,
            "encrypted tokens (JWE, RFC 7516) are not supported yet; \"signed\" is expected",
        )),
        other => Err(line.invalid(other, "\"signed\" is expected")),
    }
}

/// `auth_jwt_preflight on | off`
pub(super) fn preflight(line: Line<'_, '_>) -> Result<(), ConfError> {
    let on = line.flag()?;
    once(line.name, &mut line.loc.preflight, on)
}

/// `auth_jwt_dry_run on | off`
pub(super) fn dry_run(line: Line<'_, '_>) -> Result<(), ConfError> {
    let on = line.flag()?;
    if on {
        line.conf.log(
            Level::Warn,
            "\"auth_jwt_dry_run on\" lets every request pass: refusals are only logged and counted",
        );
    }
    once(line.name, &mut line.loc.dry_run, on)
}

/// `auth_jwt_max_size size`
pub(super) fn max_size(line: Line<'_, '_>) -> Result<(), ConfError> {
    let argument = line.first();
    let size = line.conf.size(argument).filter(|size| (1..=MOST_TOKEN_BYTES).contains(size));
    let size =
        size.ok_or_else(|| line.invalid(argument, "a size up to 64k is expected, such as 16k"))?;
    once(line.name, &mut line.loc.max_size, size)
}

/// `auth_jwt_reject_multiple on | off`
pub(super) fn reject_multiple(line: Line<'_, '_>) -> Result<(), ConfError> {
    let on = line.flag()?;
    once(line.name, &mut line.loc.reject_multiple, on)
}

/// `auth_jwt_cache size=size | off`
pub(super) fn cache(line: Line<'_, '_>) -> Result<(), ConfError> {
    let argument = line.first();
    let size = match argument.strip_prefix(b"size=") {
        Some(size) => line.conf.size(size).filter(|size| *size >= LEAST_CACHE_BYTES),
        None => (argument == b"off").then_some(0),
    };
    let size = size.ok_or_else(|| {
        line.invalid(argument, "size=SIZE of at least 64k is expected, such as size=8m, or \"off\"")
    })?;
    if line.main.cache_bytes.replace(Some(size)).is_some() {
        return Err(ConfError::Duplicate(line.name));
    }
    Ok(())
}
