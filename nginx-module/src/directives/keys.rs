//! Where keys and revocations come from.

use std::rc::Rc;
use std::time::Duration;

use jwt_core::Algorithm;

use super::{Line, once};
use crate::error::ConfError;
use crate::key_request::KeyRequest;
use crate::key_source::{FileByVariable, Issuer, KeySource, KeySources};
use crate::log::Level;
use crate::watched_file::{Format, WatchedFile};

/// `auth_jwt_key_file path [jwks | keyval] [optional]`, which may stand several times
pub(super) fn key_file(line: Line<'_, '_>) -> Result<(), ConfError> {
    let (mut format, mut optional) = (None, false);
    for word in &line.arguments[1..] {
        match *word {
            b"jwks" if format.is_none() => format = Some(Format::Jwks),
            b"keyval" if format.is_none() => format = Some(Format::Keyval),
            b"optional" if !optional => optional = true,
            other => {
                return Err(line.invalid(other, "\"jwks\", \"keyval\" or \"optional\" is expected"));
            }
        }
    }
    let source = file_source(&line, line.first(), format.unwrap_or(Format::Jwks), optional)?;
    add(line, source)
}

/// `auth_jwt_key_request uri [jwks | keyval]`, which may stand several times
pub(super) fn key_request(line: Line<'_, '_>) -> Result<(), ConfError> {
    let format = match line.arguments.get(1).copied() {
        None | Some(b"jwks") => Format::Jwks,
        Some(b"keyval") => Format::Keyval,
        Some(other) => return Err(line.invalid(other, "\"jwks\" or \"keyval\" is expected")),
    };
    let source = request_source(&line, line.first(), format)?;
    add(line, source)
}

fn add(line: Line<'_, '_>, source: KeySource) -> Result<(), ConfError> {
    if !line.loc.issuer_list.is_empty() {
        return Err(mixed());
    }
    let is_known = |earlier: &KeySource| match (earlier, &source) {
        (KeySource::File(a), KeySource::File(b)) => Rc::ptr_eq(a, b),
        _ => false,
    };
    if line.loc.key_sources.iter().any(is_known) {
        return Err(ConfError::Duplicate(line.name));
    }
    line.loc.key_sources.push(source);
    Ok(())
}

fn mixed() -> ConfError {
    ConfError::Conflict(
        "auth_jwt_issuer",
        "auth_jwt_key_file or auth_jwt_key_request",
        "keys that belong to no issuer would verify every issuer's tokens",
    )
}

fn file_source<'c>(
    line: &Line<'_, 'c>,
    path: &'c [u8],
    format: Format,
    optional: bool,
) -> Result<KeySource, ConfError> {
    if path.is_empty() {
        return Err(line.invalid(path, "the path of a JWK Set file is expected"));
    }
    if path.contains(&b'$') {
        let path = line.conf.complex_value(path).ok_or(ConfError::Nginx(line.name))?;
        let folder = line.conf.folder().ok_or(ConfError::Nginx(line.name))?;
        let source = KeySource::FileByVariable(Rc::new(FileByVariable::new(path, folder, format)));
        line.main.sources.borrow_mut().push(source.clone());
        return Ok(source);
    }
    const REMEDY: &str = "mend it, or add \"optional\" to start without it (503 until it is good)";
    Ok(KeySource::File(static_file(line, path, format, optional, REMEDY)?))
}

/// A file that is read now and followed from then on.
fn static_file<'c>(
    line: &Line<'_, 'c>,
    path: &'c [u8],
    format: Format,
    optional: bool,
    remedy: &'static str,
) -> Result<Rc<WatchedFile>, ConfError> {
    let path = line.conf.full_path(path).ok_or(ConfError::Nginx(line.name))?;
    let file = line.main.file(path, format);
    let looked = file.look(|(level, text)| {
        // What stops the start is said once, by the error below; the workers tell which keys they begin with.
        if level == Level::Warn || (optional && level == Level::Error) {
            line.conf.log(level, &text);
        }
    });
    if !optional && !file.is_loaded() {
        let cause = match looked {
            Err(error) => error.to_string(),
            Ok(()) => file.last_error().unwrap_or_else(|| "an earlier line has told why".into()),
        };
        let path = file.path().display().to_string();
        return Err(ConfError::File { directive: line.name, path, cause, remedy });
    }
    Ok(file)
}

fn request_source<'c>(
    line: &Line<'_, 'c>,
    uri: &'c [u8],
    format: Format,
) -> Result<KeySource, ConfError> {
    if !uri.starts_with(b"/") && !uri.starts_with(b"$") {
        return Err(line.invalid(
            uri,
            "a URI of this server is expected, such as /jwks, for a location with \"internal\" and proxy_pass",
        ));
    }
    let text = String::from_utf8_lossy(uri).into_owned();
    let uri = line.conf.complex_value(uri).ok_or(ConfError::Nginx(line.name))?;
    let source = KeySource::Request(Rc::new(KeyRequest::new(uri, text, format)));
    line.main.sources.borrow_mut().push(source.clone());
    Ok(source)
}

/// `auth_jwt_issuer iss key_file=path | key_request=uri [format=jwks | keyval] [optional] [audience=a[,b]]
/// [alg=ALG[,ALG]]`, which may stand several times
pub(super) fn issuer(line: Line<'_, '_>) -> Result<(), ConfError> {
    if !line.loc.key_sources.is_empty() {
        return Err(mixed());
    }
    let name = line.text(line.first())?.to_owned();
    if line.loc.issuer_list.iter().any(|issuer| issuer.name == name) {
        return Err(line.invalid(
            name.as_bytes(),
            "each issuer may stand once at a level; give it a file with all of its keys",
        ));
    }
    let mut format = Format::Jwks;
    let mut optional = false;
    let (mut file, mut request) = (None, None);
    let (mut audience, mut algorithms) = (Vec::new(), Vec::new());
    for argument in line.arguments[1..].iter().copied() {
        if let Some(path) = argument.strip_prefix(b"key_file=") {
            file = Some(path);
        } else if let Some(uri) = argument.strip_prefix(b"key_request=") {
            request = Some(uri);
        } else if let Some(names) = argument.strip_prefix(b"audience=") {
            audience = list(&line, names)?;
        } else if let Some(names) = argument.strip_prefix(b"alg=") {
            for name in list(&line, names)? {
                algorithms.push(algorithm(&line, &name)?);
            }
        } else {
            match argument {
                b"format=jwks" => format = Format::Jwks,
                b"format=keyval" => format = Format::Keyval,
                b"optional" => optional = true,
                other => {
                    return Err(line.invalid(
                        other,
                        "key_file=, key_request=, format=jwks, format=keyval, audience=, alg= or \
                         \"optional\" is expected",
                    ));
                }
            }
        }
    }
    let source = match (file, request) {
        (Some(path), None) => file_source(&line, path, format, optional)?,
        (None, Some(uri)) => request_source(&line, uri, format)?,
        _ => {
            return Err(
                line.invalid(name.as_bytes(), "an issuer needs either key_file= or key_request=")
            );
        }
    };
    let keys = KeySources::new(vec![source]);
    line.loc.issuer_list.push(Rc::new(Issuer { name, keys, audience, algorithms }));
    Ok(())
}

fn list(line: &Line<'_, '_>, names: &[u8]) -> Result<Vec<String>, ConfError> {
    let text = String::from_utf8_lossy(names).into_owned();
    let list: Vec<String> = text.split(',').map(str::to_owned).collect();
    if list.iter().any(String::is_empty) {
        return Err(line.invalid(names, "a list without empty parts is expected, such as a,b"));
    }
    Ok(list)
}

/// The algorithm of this name.
pub(super) fn algorithm(line: &Line<'_, '_>, name: &str) -> Result<Algorithm, ConfError> {
    Algorithm::from_name(name).ok_or_else(|| {
        let known: Vec<&str> = Algorithm::ALL.iter().map(|alg| alg.name()).collect();
        line.invalid(name.as_bytes(), format!("one of {} is expected", known.join(" ")))
    })
}

/// `auth_jwt_key_cache time`
pub(super) fn key_cache(line: Line<'_, '_>) -> Result<(), ConfError> {
    let argument = line.first();
    let time = line.conf.milliseconds(argument).ok_or_else(|| {
        line.invalid(argument, "a time is expected, such as 5m; 0 fetches keys for every request")
    })?;
    once(line.name, &mut line.loc.key_cache, time)
}

/// `auth_jwt_key_refresh time`
pub(super) fn key_refresh(line: Line<'_, '_>) -> Result<(), ConfError> {
    let argument = line.first();
    let possible = Duration::from_millis(100)..=Duration::from_hours(24);
    let interval = line.conf.milliseconds(argument).filter(|time| possible.contains(time));
    let interval = interval.ok_or_else(|| {
        line.invalid(argument, "a time from 100ms to 24h is expected, such as 1s")
    })?;
    once(line.name, &mut line.loc.key_refresh, interval)
}

/// `auth_jwt_key_inherit on | off | merge`
pub(super) fn key_inherit(line: Line<'_, '_>) -> Result<(), ConfError> {
    let inherit = line.inherit()?;
    once(line.name, &mut line.loc.key_inherit, inherit)
}

/// `auth_jwt_key_error 503 | 500 | 401`
pub(super) fn key_error(line: Line<'_, '_>) -> Result<(), ConfError> {
    let status = match line.first() {
        b"503" => 503,
        b"500" => 500,
        b"401" => 401,
        other => return Err(line.invalid(other, "503, 500 or 401 is expected")),
    };
    once(line.name, &mut line.loc.key_error, status)
}

/// `auth_jwt_revocation_list_sub file`
pub(super) fn revocation_list_sub(line: Line<'_, '_>) -> Result<(), ConfError> {
    revocation_list(line, "sub")
}

/// `auth_jwt_revocation_list_kid file`
pub(super) fn revocation_list_kid(line: Line<'_, '_>) -> Result<(), ConfError> {
    revocation_list(line, "kid")
}

/// `auth_jwt_revocation_list_jti file`
pub(super) fn revocation_list_jti(line: Line<'_, '_>) -> Result<(), ConfError> {
    revocation_list(line, "jti")
}

fn revocation_list(line: Line<'_, '_>, claim: &'static str) -> Result<(), ConfError> {
    let path = line.first();
    if path.is_empty() || path.contains(&b'$') {
        return Err(line.invalid(path, "a path without variables is expected"));
    }
    const REMEDY: &str = "a JSON object is expected, whose member names are the refused values";
    let file = static_file(&line, path, Format::DenyList, false, REMEDY)?;
    line.loc.deny_files.push((claim, file));
    Ok(())
}

/// `auth_jwt_revocation_file path [optional]`
pub(super) fn revocation_file(line: Line<'_, '_>) -> Result<(), ConfError> {
    let path = line.first();
    let optional = match line.arguments.get(1).copied() {
        None => false,
        Some(b"optional") => true,
        Some(other) => return Err(line.invalid(other, "\"optional\" or nothing is expected")),
    };
    if path.is_empty() || path.contains(&b'$') {
        return Err(line.invalid(path, "a path without variables is expected"));
    }
    const REMEDY: &str = "mend it, or add \"optional\" to start without it (503 until it is good)";
    let file = static_file(&line, path, Format::Revocations, optional, REMEDY)?;
    if line.loc.revocation_files.iter().any(|earlier| Rc::ptr_eq(earlier, &file)) {
        return Err(ConfError::Duplicate(line.name));
    }
    line.loc.revocation_files.push(file);
    Ok(())
}
