//! What is checked of a token's times and signature.

use super::{Line, once};
use crate::error::ConfError;
use crate::log::Level;

/// `auth_jwt_leeway time`
pub(super) fn leeway(line: Line<'_, '_>) -> Result<(), ConfError> {
    let leeway = line.seconds()?;
    once(line.name, &mut line.loc.leeway, leeway)
}

/// `auth_jwt_validate_exp on | off`
pub(super) fn validate_exp(line: Line<'_, '_>) -> Result<(), ConfError> {
    let on = line.flag()?;
    if !on {
        line.conf
            .log(Level::Warn, "\"auth_jwt_validate_exp off\" accepts tokens that have expired");
    }
    once(line.name, &mut line.loc.validate_exp, on)
}

/// `auth_jwt_validate_nbf on | off`
pub(super) fn validate_nbf(line: Line<'_, '_>) -> Result<(), ConfError> {
    let on = line.flag()?;
    if !on {
        line.conf.log(
            Level::Warn,
            "\"auth_jwt_validate_nbf off\" accepts tokens that are not yet valid",
        );
    }
    once(line.name, &mut line.loc.validate_nbf, on)
}

/// `auth_jwt_validate_sig on | off`
pub(super) fn validate_sig(line: Line<'_, '_>) -> Result<(), ConfError> {
    let on = line.flag()?;
    if !on {
        line.conf.log(
            Level::Warn,
            "\"auth_jwt_validate_sig off\" accepts tokens that anybody can make: \
             whoever reaches this place is who they say",
        );
    }
    once(line.name, &mut line.loc.validate_sig, on)
}

/// `auth_jwt_require_exp on | off`
pub(super) fn require_exp(line: Line<'_, '_>) -> Result<(), ConfError> {
    let on = line.flag()?;
    once(line.name, &mut line.loc.require_exp, on)
}

/// `auth_jwt_max_age time | off`
pub(super) fn max_age(line: Line<'_, '_>) -> Result<(), ConfError> {
    let age = line.seconds_or_off()?;
    once(line.name, &mut line.loc.max_age, age)
}

/// `auth_jwt_max_lifetime time | off`
pub(super) fn max_lifetime(line: Line<'_, '_>) -> Result<(), ConfError> {
    let lifetime = line.seconds_or_off()?;
    once(line.name, &mut line.loc.max_lifetime, lifetime)
}
