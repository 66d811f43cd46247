//! What a valid token must satisfy besides: scopes, requirements, and that it was not used before.

use jwt_core::{ClaimError, ClaimsSet, Rejection};

use crate::conf::LocConf;
use crate::error::{Cause, Refusal};
use crate::ffi::{Request, Seen};
use crate::rules::Rule;

/// Checks what the location asks of a token that was verified under its rules.
///
/// # Errors
/// The first check that fails, with the status that its directive names.
pub(crate) fn authorize(
    request: &mut Request<'_>,
    conf: &LocConf,
    claims: &ClaimsSet,
) -> Result<(), Refusal> {
    if let Err(error) = conf.policy().check_scope(claims) {
        return Err(match error {
            ClaimError::Scope => Cause::Scope(conf.policy().scope.join(" ")).into(),
            other => Rejection::from(other).into(),
        });
    }
    let leeway = conf.leeway_seconds();
    // Headers, claims, values, whatever the order of the lines: the last may depend on anything.
    let kinds: [fn(&Rule) -> bool; 3] = [
        |rule| matches!(rule, Rule::Header(_)),
        |rule| matches!(rule, Rule::Claim(_)),
        |rule| matches!(rule, Rule::Values(_)),
    ];
    for kind in kinds {
        for (path, rule) in conf.rules().iter().filter(|(_, rule)| kind(rule)) {
            let held = match &**rule {
                Rule::Header(comparison) => {
                    comparison.check(path, claims.header().object(), leeway, request)
                }
                Rule::Claim(comparison) => comparison.check(path, claims.object(), leeway, request),
                Rule::Values(values) => values.check(request),
            };
            held.map_err(|mismatch| Refusal {
                cause: Cause::Rule(mismatch),
                status: rule.status(),
            })?;
        }
    }
    use_up(request, conf, claims)
}

/// `auth_jwt_replay`: last of all, so that a token which is refused for something else is not used up.
fn use_up(request: &mut Request<'_>, conf: &LocConf, claims: &ClaimsSet) -> Result<(), Refusal> {
    let Some(zone) = conf.replay() else { return Ok(()) };
    let jti = claims.str("jti").or_else(|| claims.str("token_id")).filter(|jti| !jti.is_empty());
    let (Some(jti), Some(exp)) = (jti, claims.exp()) else {
        return Err(Cause::NoReplayClaims.into());
    };
    // RFC 7519 §4.1.7: unique for its issuer. A NUL can't be confused with a part of either.
    let iss = claims.str("iss").unwrap_or_default();
    let id = [iss.as_bytes(), b"\0", jti.as_bytes()].concat();
    // An internal redirect leads the same request through here again, and so does a subrequest of its own.
    let Some(context) = request.main_context() else { return Err(Cause::Internal.into()) };
    if context.has_used(zone, &id) {
        return Ok(());
    }
    // Within the leeway an expired token is still accepted, so it must still be known.
    let until = exp.saturating_add(conf.leeway_seconds());
    if until < request.now() {
        // Where nobody else looks at exp: what is not remembered any more could be used again and again.
        return Err(Rejection::from(ClaimError::Expired).into());
    }
    match zone.insert(&id, until, request.now()) {
        Seen::New => {
            context.set_used(zone, &id);
            Ok(())
        }
        Seen::Before => Err(Cause::Replayed.into()),
        Seen::Full => Err(Cause::ReplayFull.into()),
    }
}
