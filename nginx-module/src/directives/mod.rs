//! The directives: arguments in, typed configuration out. nginx has checked the number of arguments, which are
//! without the directive's name.

mod keys;
mod output;
mod requirements;
mod switch;
mod times;

use std::ffi::CStr;
use std::time::Duration;

use crate::conf::{Inherit, LocConf, MainConf};
use crate::error::ConfError;
use crate::ffi::Conf;

/// Where a directive may stand.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Contexts {
    Http,
    Location,
    /// http, server, location
    ToLocation,
    /// http, server, location, limit_except
    ToLimitExcept,
}

/// How many arguments a directive takes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arguments {
    NoneOrOne,
    UpToTwo,
    One,
    OneOrTwo,
    OneToThree,
    Two,
    ThreeOrFour,
    OneOrMore,
    TwoOrMore,
}

/// One directive while it is read.
pub(crate) struct Line<'l, 'c> {
    pub(crate) name: &'static str,
    pub(crate) arguments: Vec<&'c [u8]>,
    pub(crate) conf: &'l mut Conf<'c>,
    pub(crate) main: &'l MainConf,
    pub(crate) loc: &'l mut LocConf,
}

type Setter = fn(Line<'_, '_>) -> Result<(), ConfError>;

/// A row of the module's table.
pub(crate) struct Directive {
    pub(crate) name: &'static str,
    /// With the NUL that nginx's comparison of names stops at.
    pub(crate) c_name: &'static CStr,
    pub(crate) contexts: Contexts,
    pub(crate) arguments: Arguments,
    setter: Setter,
}

impl Directive {
    /// Sets the directive at the level `loc`.
    pub(crate) fn set(
        &self,
        conf: &mut Conf<'_>,
        main: &MainConf,
        loc: &mut LocConf,
    ) -> Result<(), ConfError> {
        let arguments = conf.arguments();
        let done = (self.setter)(Line { name: self.name, arguments, conf, main, loc });
        main.is_begun.set(true);
        done
    }
}

const fn row(
    c_name: &'static CStr,
    contexts: Contexts,
    arguments: Arguments,
    setter: Setter,
) -> Directive {
    let Ok(name) = c_name.to_str() else { panic!("names are ASCII") };
    Directive { name, c_name, contexts, arguments, setter }
}

use Arguments::{
    NoneOrOne, One, OneOrMore, OneOrTwo, OneToThree, ThreeOrFour, Two, TwoOrMore, UpToTwo,
};
use Contexts::{Http, Location, ToLimitExcept, ToLocation};

/// Every directive of the module.
pub(crate) static DIRECTIVES: [Directive; 43] = [
    row(c"auth_jwt", ToLimitExcept, OneOrTwo, switch::auth_jwt),
    row(c"auth_jwt_compat", Http, One, switch::compat),
    row(c"auth_jwt_phase", ToLocation, One, switch::phase),
    row(c"auth_jwt_type", ToLimitExcept, One, switch::token_type),
    row(c"auth_jwt_preflight", ToLocation, One, switch::preflight),
    row(c"auth_jwt_dry_run", ToLimitExcept, One, switch::dry_run),
    row(c"auth_jwt_max_size", ToLimitExcept, One, switch::max_size),
    row(c"auth_jwt_reject_multiple", ToLimitExcept, One, switch::reject_multiple),
    row(c"auth_jwt_cache", Http, One, switch::cache),
    row(c"auth_jwt_key_file", ToLimitExcept, OneToThree, keys::key_file),
    row(c"auth_jwt_key_request", ToLimitExcept, OneOrTwo, keys::key_request),
    row(c"auth_jwt_key_cache", ToLocation, One, keys::key_cache),
    row(c"auth_jwt_key_refresh", ToLimitExcept, One, keys::key_refresh),
    row(c"auth_jwt_key_inherit", ToLimitExcept, One, keys::key_inherit),
    row(c"auth_jwt_key_error", ToLimitExcept, One, keys::key_error),
    row(c"auth_jwt_issuer", ToLimitExcept, TwoOrMore, keys::issuer),
    row(c"auth_jwt_leeway", ToLimitExcept, One, times::leeway),
    row(c"auth_jwt_validate_exp", ToLimitExcept, One, times::validate_exp),
    row(c"auth_jwt_validate_nbf", ToLimitExcept, One, times::validate_nbf),
    row(c"auth_jwt_validate_sig", ToLimitExcept, One, times::validate_sig),
    row(c"auth_jwt_require_exp", ToLimitExcept, One, times::require_exp),
    row(c"auth_jwt_max_age", ToLimitExcept, One, times::max_age),
    row(c"auth_jwt_max_lifetime", ToLimitExcept, One, times::max_lifetime),
    row(c"auth_jwt_alg", ToLimitExcept, OneOrMore, requirements::alg),
    row(c"auth_jwt_typ", ToLimitExcept, One, requirements::typ),
    row(c"auth_jwt_audience", ToLimitExcept, OneOrMore, requirements::audience),
    row(c"auth_jwt_scope", ToLimitExcept, OneOrMore, requirements::scope),
    row(c"auth_jwt_require", ToLimitExcept, OneOrMore, requirements::require),
    row(c"auth_jwt_require_claim", ToLimitExcept, ThreeOrFour, requirements::require_claim),
    row(c"auth_jwt_require_header", ToLimitExcept, ThreeOrFour, requirements::require_header),
    row(c"auth_jwt_require_inherit", ToLimitExcept, One, requirements::require_inherit),
    row(c"auth_jwt_allow_nested", ToLocation, UpToTwo, requirements::allow_nested),
    row(c"auth_jwt_revocation_list_sub", ToLimitExcept, One, keys::revocation_list_sub),
    row(c"auth_jwt_revocation_list_kid", ToLimitExcept, One, keys::revocation_list_kid),
    row(c"auth_jwt_revocation_list_jti", ToLimitExcept, One, keys::revocation_list_jti),
    row(c"auth_jwt_revocation_file", ToLimitExcept, OneOrTwo, keys::revocation_file),
    row(c"auth_jwt_replay", ToLimitExcept, One, requirements::replay),
    row(c"auth_jwt_claim_set", Http, TwoOrMore, output::claim_set),
    row(c"auth_jwt_header_set", Http, TwoOrMore, output::header_set),
    row(c"auth_jwt_www_authenticate", ToLimitExcept, One, output::www_authenticate),
    row(c"auth_jwt_claim_header", ToLocation, Two, output::claim_header),
    row(c"auth_jwt_set_cookie", ToLocation, OneOrMore, output::set_cookie),
    row(c"auth_jwt_status", Location, NoneOrOne, output::status),
];

impl<'c> Line<'_, 'c> {
    /// The first argument.
    fn first(&self) -> &'c [u8] {
        self.arguments.first().copied().unwrap_or_default()
    }

    /// A mistake in an argument; `expected` is the form that is right.
    fn invalid(&self, value: &[u8], expected: impl Into<String>) -> ConfError {
        // nginx cuts a line at 2 KiB: a long value must not hide what is expected.
        const SHOWN: usize = 200;
        let mut shown = String::from_utf8_lossy(&value[..value.len().min(SHOWN)]).into_owned();
        if value.len() > SHOWN {
            shown.push_str("...");
        }
        ConfError::Value { directive: self.name, value: shown, expected: expected.into() }
    }

    /// An argument as text.
    fn text(&self, argument: &'c [u8]) -> Result<&'c str, ConfError> {
        let text = std::str::from_utf8(argument);
        let text = text.map_err(|_| self.invalid(argument, "a text in UTF-8 is expected"))?;
        if text.is_empty() {
            return Err(self.invalid(argument, "it must not be empty"));
        }
        Ok(text)
    }

    fn flag(&self) -> Result<bool, ConfError> {
        match self.first() {
            b"on" => Ok(true),
            b"off" => Ok(false),
            other => Err(self.invalid(other, "\"on\" or \"off\" is expected")),
        }
    }

    /// A time in whole seconds.
    fn seconds(&self) -> Result<Duration, ConfError> {
        let argument = self.first();
        self.conf.seconds(argument).ok_or_else(|| {
            self.invalid(argument, "a time in whole seconds is expected, such as 60s")
        })
    }

    /// A time in whole seconds, or `off`.
    fn seconds_or_off(&self) -> Result<Option<Duration>, ConfError> {
        let argument = self.first();
        if argument == b"off" {
            return Ok(None);
        }
        let time = self.conf.seconds(argument).filter(|time| !time.is_zero());
        time.map(Some).ok_or_else(|| {
            self.invalid(argument, "a time in whole seconds is expected, such as 1h, or \"off\"")
        })
    }

    fn inherit(&self) -> Result<Inherit, ConfError> {
        match self.first() {
            b"on" => Ok(Inherit::On),
            b"off" => Ok(Inherit::Off),
            b"merge" => Ok(Inherit::Merge),
            other => Err(self.invalid(other, "\"on\", \"off\" or \"merge\" is expected")),
        }
    }

    /// A name of a variable, with its `$`.
    fn variable_name(&self, argument: &'c [u8]) -> Result<&'c [u8], ConfError> {
        argument
            .strip_prefix(b"$")
            .filter(|name| !name.is_empty() && name.iter().all(|&byte| is_name(byte)))
            .ok_or_else(|| self.invalid(argument, "a variable is expected, such as $name"))
    }
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Sets what may stand once at a level.
fn once<T>(name: &'static str, slot: &mut Option<T>, value: T) -> Result<(), ConfError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(ConfError::Duplicate(name)),
    }
}
