//! The decision about a request: token, keys, policy, verdict.

use std::rc::Rc;

use jwt_core::{Claims, Compact};

use crate::conf::LocConf;
use crate::error::Refusal;
use crate::ffi::Request;
use crate::key_file::KeyRing;
use crate::log::Level;

/// What is known about the request's token under the rules of one location.
#[derive(Debug)]
pub(crate) struct Verdict {
    outcome: Result<Claims, Refusal>,
    /// The line that the error log gets if the request is refused.
    line: String,
}

impl Verdict {
    pub(crate) fn claims(&self) -> Option<&Claims> {
        self.outcome.as_ref().ok()
    }
}

/// The answer of the access phase.
pub(crate) enum Decision {
    /// This location does not ask for a token.
    Off,
    Allowed,
    Refused(u16),
}

/// Decides in the access phase, and says why in the log and in the challenge.
pub(crate) fn decide(request: &mut Request<'_>) -> Decision {
    let conf = request.loc_conf();
    let Some(auth) = conf.auth.as_ref() else { return Decision::Off };
    let Some(realm) = &auth.realm else { return Decision::Off };
    let verdict = verdict(request, conf);
    let refusal = match verdict.as_deref() {
        Some(Verdict { outcome: Ok(_), .. }) => return Decision::Allowed,
        Some(Verdict { outcome: Err(refusal), line }) => {
            request.log(refusal.level(), line);
            refusal
        }
        None => {
            request.log(Level::Error, &Refusal::Internal.line(None, ""));
            &Refusal::Internal
        }
    };
    // Without a token from elsewhere nothing is said about the Authorization header, which is not looked at.
    let silent = auth.token.is_some() && matches!(refusal, Refusal::Missing);
    if !silent
        && let Some(challenge) = refusal.challenge(&request.complex_value(realm))
        && !request.set_www_authenticate(&challenge)
    {
        return Decision::Refused(Refusal::Internal.status());
    }
    if refusal.status() == 503 {
        // The daemon or the operator mends the file within seconds.
        request.add_header_out("Retry-After", b"5");
    }
    Decision::Refused(refusal.status())
}

/// The claims that variables show: verified under the rules of the request's current location, whatever the
/// phase; `None` for a location that does not read tokens and for a token that is not accepted.
pub(crate) fn verified(request: &mut Request<'_>) -> Option<Rc<Verdict>> {
    let conf = request.loc_conf();
    // `auth_jwt off` alone: tokens mean nothing here. With token= they are read, though not required.
    let reads = conf.auth.as_ref().is_some_and(|auth| auth.realm.is_some() || auth.token.is_some());
    if !reads {
        return None;
    }
    verdict(request, conf)
}

/// Makes the verdict, or takes the one made before under the same configuration. `None`: no memory.
fn verdict(request: &mut Request<'_>, conf: &LocConf) -> Option<Rc<Verdict>> {
    if let Some(made) = request.verdict_for(conf) {
        return Some(made);
    }
    let verdict = Rc::new(judge(request, conf));
    request.keep_verdict(conf, Rc::clone(&verdict)).then_some(verdict)
}

fn judge(request: &mut Request<'_>, conf: &LocConf) -> Verdict {
    let Some(ring) = conf.ring() else {
        let refusal = Refusal::NoKeySource;
        return Verdict { line: refusal.line(None, ""), outcome: Err(refusal) };
    };
    let Some(keys) = ring.keys() else {
        let refusal = Refusal::KeysUnavailable;
        return Verdict { line: refusal.line(None, &ring.describe()), outcome: Err(refusal) };
    };
    let Some(token) = token(request, conf) else {
        let refusal = Refusal::Missing;
        return Verdict { line: refusal.line(None, &ring.describe()), outcome: Err(refusal) };
    };
    let compact = match Compact::parse(&token) {
        Ok(compact) => compact,
        Err(error) => {
            let refusal = Refusal::Token(error.into());
            return Verdict { line: refusal.line(None, &ring.describe()), outcome: Err(refusal) };
        }
    };
    let kid = compact.header().kid().map(str::to_owned);
    let outcome = compact
        .verify(&keys)
        .map_err(jwt_core::Rejection::from)
        .and_then(|jws| Ok(conf.policy().validate(jws, request.now())?))
        .map_err(|rejection| unknown_key(ring, Refusal::Token(rejection)));
    let line = match &outcome {
        Ok(_) => String::new(),
        Err(refusal) => refusal.line(kid.as_deref(), &ring.describe()),
    };
    Verdict { outcome, line }
}

/// A key that nobody knows may stand in a newer version of the file: the next look is brought forward, and while
/// that version is one that could not be used, the fault is ours.
fn unknown_key(ring: &KeyRing, refusal: Refusal) -> Refusal {
    if !refusal.is_unknown_key() {
        return refusal;
    }
    for file in ring.files() {
        file.look_soon();
    }
    if ring.is_refused() { Refusal::KeysUnavailable } else { refusal }
}

/// The token's text: from `token=`, or from `Authorization: Bearer` (RFC 6750 §2.1).
fn token(request: &mut Request<'_>, conf: &LocConf) -> Option<Vec<u8>> {
    match conf.auth.as_ref().and_then(|auth| auth.token.as_ref()) {
        Some(variable) => {
            let value = request.variable(variable)?;
            let token = bearer(&value).unwrap_or(&value);
            (!token.is_empty()).then(|| token.to_vec())
        }
        None => {
            let token = bearer(request.authorization()?)?;
            (!token.is_empty()).then(|| token.to_vec())
        }
    }
}

/// What follows the scheme, whose case does not matter (RFC 9110 §11.1).
fn bearer(credentials: &[u8]) -> Option<&[u8]> {
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
