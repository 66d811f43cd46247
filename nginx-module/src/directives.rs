//! The directives: arguments in, typed configuration out. `arguments` leaves out the directive's name; nginx has
//! checked their number.

use std::rc::Rc;
use std::time::Duration;

use crate::conf::{AuthJwt, LocConf, MainConf};
use crate::error::ConfError;
use crate::ffi::Conf;
use crate::log::Level;

/// Sets one directive in `loc`.
pub(crate) type Setter =
    fn(conf: &mut Conf<'_>, main: &MainConf, loc: &mut LocConf) -> Result<(), ConfError>;

/// `auth_jwt string [token=$variable] | off [token=$variable]`
pub(crate) fn auth_jwt(
    conf: &mut Conf<'_>,
    _: &MainConf,
    loc: &mut LocConf,
) -> Result<(), ConfError> {
    const NAME: &str = "auth_jwt";
    if loc.auth.is_some() {
        return Err(ConfError::Duplicate(NAME));
    }
    let arguments = conf.arguments();
    let realm = arguments[0];
    let token = match arguments.get(1) {
        None => None,
        Some(argument) => {
            let variable = argument
                .strip_prefix(b"token=$")
                .filter(|name| !name.is_empty() && name.iter().all(|&byte| is_name(byte)))
                .ok_or_else(|| invalid(NAME, argument, "token=$variable is expected"))?;
            if variable.starts_with(b"jwt_") {
                return Err(invalid(
                    NAME,
                    argument,
                    "a variable that itself needs the token can't hold it",
                ));
            }
            // RFC 6750 §2.3 warns of the same.
            if variable.starts_with(b"arg_") {
                conf.log(
                    Level::Warn,
                    "\"auth_jwt\" takes the token from the query string, which logs and browser histories keep",
                );
            }
            Some(conf.variable(variable).ok_or(ConfError::Nginx(NAME))?)
        }
    };
    if realm == b"off" {
        loc.auth = Some(AuthJwt { realm: None, token });
        return Ok(());
    }
    // The realm is sent to every client, so a variable that is likely to hold a token must not be one.
    if token.is_none()
        && [&b"$cookie_"[..], b"$arg_", b"$http_"].iter().any(|prefix| realm.starts_with(prefix))
    {
        return Err(invalid(
            NAME,
            realm,
            "it would be sent as the realm; to read the token from it write auth_jwt \"realm\" token=$variable",
        ));
    }
    if realm == b"on" {
        conf.log(Level::Notice, "\"auth_jwt on\" turns it on with the realm \"on\"");
    }
    let realm = conf.complex_value(realm).ok_or(ConfError::Nginx(NAME))?;
    loc.auth = Some(AuthJwt { realm: Some(Rc::new(realm)), token });
    Ok(())
}

/// `auth_jwt_key_file path [optional]`, which may stand several times
pub(crate) fn auth_jwt_key_file(
    conf: &mut Conf<'_>,
    main: &MainConf,
    loc: &mut LocConf,
) -> Result<(), ConfError> {
    const NAME: &str = "auth_jwt_key_file";
    let arguments = conf.arguments();
    let path = arguments[0];
    let optional = match arguments.get(1).copied() {
        None => false,
        Some(b"optional") => true,
        Some(other) => return Err(invalid(NAME, other, "\"optional\" or nothing is expected")),
    };
    if path.is_empty() {
        return Err(invalid(NAME, path, "the path of a JWK Set file is expected"));
    }
    if path.contains(&b'$') {
        return Err(invalid(NAME, path, "a path without variables is expected"));
    }
    let path = conf.full_path(path).ok_or(ConfError::Nginx(NAME))?;
    let file = main.key_file(path);
    if loc.key_files.iter().any(|earlier| Rc::ptr_eq(earlier, &file)) {
        return Err(ConfError::Duplicate(NAME));
    }
    let looked = file.look(|(level, line)| {
        // What stops the start is said once, by the error below; the workers tell which keys they begin with.
        if level == Level::Warn || (optional && level == Level::Error) {
            conf.log(level, &line);
        }
    });
    if !optional && file.keys().is_none() {
        let cause = match looked {
            Err(error) => error.to_string(),
            Ok(()) => "an earlier line has told why".to_owned(),
        };
        return Err(ConfError::KeyFile { path: file.path().display().to_string(), cause });
    }
    loc.key_files.push(file);
    Ok(())
}

/// `auth_jwt_key_refresh time`
pub(crate) fn auth_jwt_key_refresh(
    conf: &mut Conf<'_>,
    _: &MainConf,
    loc: &mut LocConf,
) -> Result<(), ConfError> {
    const NAME: &str = "auth_jwt_key_refresh";
    let argument = conf.arguments()[0];
    let interval = conf
        .milliseconds(argument)
        .filter(|interval| {
            (Duration::from_millis(100)..=Duration::from_hours(24)).contains(interval)
        })
        .ok_or_else(|| {
            invalid(NAME, argument, "a time from 100ms to 24h is expected, such as 1s")
        })?;
    set(NAME, &mut loc.key_refresh, interval)
}

/// `auth_jwt_leeway time`
pub(crate) fn auth_jwt_leeway(
    conf: &mut Conf<'_>,
    _: &MainConf,
    loc: &mut LocConf,
) -> Result<(), ConfError> {
    const NAME: &str = "auth_jwt_leeway";
    let argument = conf.arguments()[0];
    let leeway = conf.seconds(argument).ok_or_else(|| {
        invalid(NAME, argument, "a time in whole seconds is expected, such as 60s")
    })?;
    set(NAME, &mut loc.leeway, leeway)
}

/// `auth_jwt_require_exp on | off`
pub(crate) fn auth_jwt_require_exp(
    conf: &mut Conf<'_>,
    _: &MainConf,
    loc: &mut LocConf,
) -> Result<(), ConfError> {
    const NAME: &str = "auth_jwt_require_exp";
    let argument = conf.arguments()[0];
    let required = match argument {
        b"on" => true,
        b"off" => false,
        _ => return Err(invalid(NAME, argument, "\"on\" or \"off\" is expected")),
    };
    set(NAME, &mut loc.require_exp, required)
}

fn set<T>(name: &'static str, slot: &mut Option<T>, value: T) -> Result<(), ConfError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(ConfError::Duplicate(name)),
    }
}

fn invalid(directive: &'static str, value: &[u8], expected: &'static str) -> ConfError {
    ConfError::Value { directive, value: String::from_utf8_lossy(value).into_owned(), expected }
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}
