//! Is the request's token genuine and in force? Signature, times, issuer, audience, revocation; what more it must
//! satisfy is [`crate::authorize`]'s part.

use std::rc::Rc;
use std::sync::Arc;

use jwt_core::{
    Claims, ClaimsSet, Compact, CompactError, JwkSet, Object, Rejection, VerifiedJws, VerifyError,
    dangerous,
};

use crate::conf::{Cached, LocConf, MainConf, Policies};
use crate::context::{Context, Outcome, Refused, Verified};
use crate::error::{Cause, Refusal};
use crate::ffi::Request;
use crate::key_source::{Issuers, KeySources, Patience, Resolved};
use crate::token;
use crate::watched_file::Content;

/// What the check has come to.
#[derive(Debug)]
pub(crate) enum Progress {
    Done(Outcome),
    /// Keys are on their way. With [`Patience::Now`] it means that nothing can be said.
    Wait,
}

/// Makes the outcome, or takes the one made before under the same configuration, unless that one has missed a key
/// that a request which may wait can still get.
pub(crate) fn authenticate(
    request: &mut Request<'_>,
    conf: &LocConf,
    patience: Patience,
) -> Progress {
    let Some(context) = request.context() else {
        return Progress::Done(refused(Cause::Internal.into(), None));
    };
    if let Some(made) = context.outcome(conf, patience) {
        return Progress::Done(made);
    }
    let progress = context.while_busy(|| judge(request, conf, context, patience));
    if let Progress::Done(outcome) = &progress {
        context.set_outcome(conf, patience, outcome.clone());
    }
    progress
}

fn refused(refusal: Refusal, kid: Option<Box<str>>) -> Outcome {
    Outcome::Refused(Rc::new(Refused { refusal, kid, note: "" }))
}

/// Why there is no verified token.
enum Failure {
    Wait,
    /// Keys are fetched again, for which another attempt waits.
    Again,
    Refused(Box<Blame>),
}

/// A refusal and the key that the token names.
struct Blame {
    refusal: Refusal,
    kid: Option<Box<str>>,
}

impl<T: Into<Refusal>> From<T> for Failure {
    fn from(refusal: T) -> Self {
        Self::Refused(Box::new(Blame { refusal: refusal.into(), kid: None }))
    }
}

impl Failure {
    /// Names the key that the token asks for.
    fn with_kid(mut self, kid: Option<Box<str>>) -> Self {
        if let Self::Refused(blame) = &mut self
            && blame.kid.is_none()
        {
            blame.kid = kid;
        }
        self
    }
}

fn judge(
    request: &mut Request<'_>,
    conf: &LocConf,
    context: &Context,
    patience: Patience,
) -> Progress {
    let mut attempted = attempt(request, conf, context, patience);
    if matches!(attempted, Err(Failure::Again)) {
        attempted = attempt(request, conf, context, patience);
    }
    match attempted {
        Ok(verified) => Progress::Done(Outcome::Verified(verified)),
        Err(Failure::Wait | Failure::Again) => Progress::Wait,
        Err(Failure::Refused(blame)) => {
            let Blame { mut refusal, kid } = *blame;
            if matches!(refusal.cause, Cause::KeysUnavailable) {
                refusal.status = conf.key_error();
            }
            Progress::Done(refused(refusal, kid))
        }
    }
}

fn attempt(
    request: &mut Request<'_>,
    conf: &LocConf,
    context: &Context,
    patience: Patience,
) -> Result<Verified, Failure> {
    if !conf.validates_signature() {
        return without_signature(request, conf);
    }
    if !conf.has_keys() {
        return Err(Cause::NoKeySource.into());
    }
    // Without any key the fault is ours, whatever the client sent.
    let here = match (conf.issuers(), conf.keys()) {
        (None, Some(keys)) if !keys.is_dynamic() => {
            Some(keys.static_keys().ok_or(Cause::KeysUnavailable)?)
        }
        _ => None,
    };
    let token = token::find(request, conf)?.text;
    if token.len() > conf.token_limit() {
        return Err(Rejection::from(CompactError::TooLarge).into());
    }
    let main = request.main_conf();
    let scope = match (&here, conf.issuers()) {
        (Some(keys), _) => Some(keys.id()),
        (None, Some(issuers)) => Some(issuers.scope),
        (None, None) => None,
    };
    if let Some(cached) = scope.and_then(|scope| cached(main, conf, token, scope)) {
        return finish(request, conf, cached, true);
    }

    let compact = match Compact::parse_within(token, conf.token_limit()) {
        Ok(compact) => compact,
        Err(_) if conf.permits_unsecured() => return unsecured(request, conf, token),
        Err(error) => return Err(Rejection::from(error).into()),
    };
    let kid: Option<Box<str>> = compact.header().kid().map(Into::into);
    verify(request, conf, context, patience, Candidate { token, compact, here, scope })
        .map_err(|failure| failure.with_kid(kid))
}

/// A token that is new to this worker.
struct Candidate<'t> {
    token: &'t [u8],
    compact: Compact<'t>,
    /// The keys, where they depend on nothing.
    here: Option<Arc<JwkSet>>,
    /// What stands for them in the cache.
    scope: Option<u64>,
}

fn verify(
    request: &mut Request<'_>,
    conf: &LocConf,
    context: &Context,
    patience: Patience,
    candidate: Candidate<'_>,
) -> Result<Verified, Failure> {
    let Candidate { token, compact, here, scope } = candidate;
    let main = request.main_conf();
    let Resolution { keys, sources, issuer, claims } = match here {
        Some(keys) => Resolution { keys, sources: conf.keys(), issuer: 0, claims: None },
        None => resolve(request, conf, context, &compact, patience)?,
    };
    let is_dynamic = sources.is_some_and(KeySources::is_dynamic);
    // A set that depends on the request is known only now, and may have verified this token before.
    let scope = if is_dynamic { keys.id() } else { scope.unwrap_or_else(|| keys.id()) };
    if is_dynamic && let Some(cached) = cached(main, conf, token, scope) {
        return finish(request, conf, Cached { issuer, ..cached }, true);
    }
    // Before any key is tried: a refused algorithm costs no signature check.
    policies(conf, issuer).usual.check_header(compact.header())?;
    let set = match compact.verify(&keys) {
        Ok(jws) => jws.into_claims_set().map_err(Rejection::from)?,
        Err(VerifyError::UnknownKey) if let Some(sources) = sources => {
            let mut unknown = || unknown_key(request, conf, sources, patience);
            return Err(match claims {
                // The places of keys may depend on the token here as they did above.
                Some(claims) => context.with_unverified(claims, unknown),
                None => unknown(),
            });
        }
        Err(error) => return Err(Rejection::from(error).into()),
    };
    let cached = Cached { set: Arc::new(set), keys: keys.id(), issuer };
    let cost = cached.set.size();
    main.with_cache(|cache| cache.insert(token, scope, cached.clone(), cost));
    finish(request, conf, cached, false)
}

/// The policies for tokens of this issuer.
fn policies(conf: &LocConf, issuer: usize) -> &Policies {
    conf.issuers().and_then(|issuers| issuers.policies.get(issuer)).unwrap_or(conf.policies())
}

/// A token whose signature this worker has checked before with a key set that is still in force.
fn cached(main: &MainConf, conf: &LocConf, token: &[u8], scope: u64) -> Option<Cached> {
    main.with_cache(|cache| {
        let cached = cache.get(token, scope)?;
        if let Some(issuers) = conf.issuers().filter(|issuers| issuers.scope == scope) {
            // The set of the token's issuer may have changed since.
            let current = issuers.list.get(cached.issuer)?.keys.static_keys();
            if current.is_none_or(|keys| keys.id() != cached.keys) {
                cache.remove(token, scope);
                return None;
            }
        }
        Some(cached.clone())
    })?
}

/// The checks that a token has to pass every time: its header, its times, issuer, audience, and revocations.
fn finish(
    request: &mut Request<'_>,
    conf: &LocConf,
    cached: Cached,
    hit: bool,
) -> Result<Verified, Failure> {
    let Cached { set, issuer, .. } = cached;
    let kid = || set.header().kid().map(Into::into);
    check(request, conf, &set, issuer).map_err(|failure| failure.with_kid(kid())).map(|claims| {
        let uses_cache = request.main_conf().cache_limit() > 0 && conf.validates_signature();
        Verified { claims, cached: uses_cache.then_some(hit) }
    })
}

fn check(
    request: &mut Request<'_>,
    conf: &LocConf,
    set: &Arc<ClaimsSet>,
    issuer: usize,
) -> Result<Claims, Failure> {
    let Policies { usual, without_exp } = policies(conf, issuer);
    usual.check_header(set.header())?;
    let lax = conf.dialect().is_kjdev() && rule_replaces_exp(request, conf, set);
    let policy = if lax { without_exp } else { usual };
    let claims = policy.admit(set, request.now()).map_err(Rejection::from)?;
    check_revocation(conf, set)?;
    Ok(claims)
}

/// In dialect kjdev a rule on `exp` that holds takes the place of the check of `exp`.
fn rule_replaces_exp(request: &mut Request<'_>, conf: &LocConf, set: &ClaimsSet) -> bool {
    conf.rules().iter().filter_map(|(path, rule)| Some((path, rule.comparison()?))).any(
        |(path, comparison)| {
            comparison.replaces_exp(request)
                && comparison.check(path, set.object(), conf.leeway_seconds(), request).is_ok()
        },
    )
}

/// Lists (the manual way) need their claim; the daemon's file makes none mandatory.
fn check_revocation(conf: &LocConf, set: &ClaimsSet) -> Result<(), Refusal> {
    for (name, file) in &conf.deny_files {
        let Some(Content::DenyList(list)) = file.content() else {
            return Err(Cause::KeysUnavailable.into());
        };
        let value = match *name {
            "kid" => set.header().kid().map(Into::into),
            name => set.str(name),
        };
        let Some(value) = value.filter(|value| !value.is_empty()) else {
            return Err(Refusal::no_list_value(name));
        };
        if let Some(text) = list.get(&value) {
            let cause =
                Cause::Denied { list: name, value: value.into_owned(), text: text.to_owned() };
            return Err(cause.into());
        }
    }
    for file in &conf.revocation_files {
        match file.content() {
            Some(Content::Revocations(revocations)) => {
                if let Some(what) = revocations.check(set) {
                    return Err(Cause::Revoked(what).into());
                }
            }
            // Never seen: who is revoked can't be told, and nobody may pass.
            _ => return Err(Cause::KeysUnavailable.into()),
        }
    }
    Ok(())
}

/// The keys for a token, and where they are from.
struct Resolution<'c> {
    keys: Arc<JwkSet>,
    sources: Option<&'c KeySources>,
    issuer: usize,
    /// The unverified claims that have chosen the keys, if they could.
    claims: Option<Rc<Object>>,
}

/// The keys for this token, where they depend on it or on the request.
fn resolve<'c>(
    request: &mut Request<'_>,
    conf: &'c LocConf,
    context: &Context,
    compact: &Compact<'_>,
    patience: Patience,
) -> Result<Resolution<'c>, Failure> {
    // Unverified, and used for nothing but to choose the keys that then have to verify it.
    let claims =
        Rc::new(dangerous::claims(compact).ok_or(Rejection::from(CompactError::Segments))?);
    let (sources, issuer) = match (conf.issuers(), conf.keys()) {
        (Some(issuers), _) => {
            let issuer = find_issuer(issuers, &claims).ok_or(Cause::Issuer)?;
            (&issuers.list[issuer].keys, issuer)
        }
        (None, Some(keys)) => (keys, 0),
        (None, None) => return Err(Cause::NoKeySource.into()),
    };
    match context.with_unverified(Rc::clone(&claims), || {
        sources.resolve(request, patience, conf.freshness())
    }) {
        Resolved::Keys(keys) => {
            Ok(Resolution { keys, sources: Some(sources), issuer, claims: Some(claims) })
        }
        Resolved::Unavailable => Err(Cause::KeysUnavailable.into()),
        Resolved::Wait => Err(Failure::Wait),
    }
}

fn find_issuer(issuers: &Issuers, claims: &Object) -> Option<usize> {
    issuers.find(&claims.str("iss")?)
}

/// A key that nobody knows may stand in a newer version: the next look at a file is brought forward, and keys that
/// are fetched are fetched again. While the newest version is one that could not be used, the fault is ours.
fn unknown_key(
    request: &mut Request<'_>,
    conf: &LocConf,
    sources: &KeySources,
    patience: Patience,
) -> Failure {
    sources.look_soon();
    if patience == Patience::MayWait && sources.refetch(request) {
        return Failure::Again;
    }
    if sources.is_refused(request, conf.freshness()) {
        return Cause::KeysUnavailable.into();
    }
    Rejection::from(VerifyError::UnknownKey).into()
}

/// `auth_jwt_validate_sig off`: whoever writes that vouches for the signature by other means.
fn without_signature(request: &mut Request<'_>, conf: &LocConf) -> Result<Verified, Failure> {
    let token = token::find(request, conf)?.text;
    let compact = Compact::parse_within(token, conf.token_limit()).map_err(Rejection::from)?;
    accept_unchecked(request, conf, dangerous::assume_verified(compact))
}

/// `alg: none`, where dialect and rules name it.
fn unsecured(request: &mut Request<'_>, conf: &LocConf, token: &[u8]) -> Result<Verified, Failure> {
    let jws = dangerous::parse_unsecured(token, conf.token_limit()).map_err(Rejection::from)?;
    accept_unchecked(request, conf, jws)
}

fn accept_unchecked(
    request: &mut Request<'_>,
    conf: &LocConf,
    jws: VerifiedJws,
) -> Result<Verified, Failure> {
    let set = Arc::new(jws.into_claims_set().map_err(Rejection::from)?);
    let issuer = match conf.issuers() {
        Some(issuers) => find_issuer(issuers, set.object()).ok_or(Cause::Issuer)?,
        None => 0,
    };
    let verified = finish(request, conf, Cached { set, keys: 0, issuer }, false)?;
    Ok(Verified { cached: None, ..verified })
}
