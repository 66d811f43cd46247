//! The decision about a request.

use crate::authenticate::{Progress, authenticate};
use crate::authorize::authorize;
use crate::conf::{LocConf, Phase};
use crate::context::{Context, Outcome, Refused, Verified};
use crate::dialect;
use crate::error::{Cause, Reason, Refusal};
use crate::ffi::Request;
use crate::key_source::{KeySources, Patience};
use crate::log::Level;
use crate::output;
use crate::token;

/// The answer of a phase handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Nothing is asked here, or in another phase.
    Off,
    Allowed,
    Refused(u16),
    /// Keys are on their way; nginx calls again.
    Wait,
}

/// The access phase.
pub(crate) fn access(request: &mut Request<'_>) -> Decision {
    decide(request, Phase::Access)
}

/// The preaccess phase: headers that only claims may set are taken from the request, and the decision is made where
/// `auth_jwt_phase preaccess` says so.
pub(crate) fn preaccess(request: &mut Request<'_>) -> Decision {
    let conf = request.loc_conf();
    // A subrequest for keys carries no headers of the client, and must not wait for keys itself.
    if request.is_key_request() {
        return Decision::Off;
    }
    if !output::strip_claim_headers(request, conf) {
        return Decision::Refused(Refusal::from(Cause::Internal).status);
    }
    let decision = decide(request, Phase::Preaccess);
    if decision == Decision::Off && !conf.claim_headers().is_empty() {
        // Here and not only in the access phase, which ends early where `satisfy any` lets another module decide.
        expose(request, conf);
    }
    decision
}

/// The precontent phase: the location has let the request in. Where that was another module's doing (`satisfy any`),
/// nginx takes back the challenge that was set last; ours may be an earlier one.
pub(crate) fn precontent(request: &mut Request<'_>) -> Decision {
    let conf = request.loc_conf();
    // The page of an error is another location, and leaves the challenge that it explains as it is.
    if request.current_context().is_some_and(|context| context.is_challenger(conf)) {
        request.withdraw_challenge();
    }
    Decision::Off
}

/// Sets the headers if the token verifies with what is here.
fn expose(request: &mut Request<'_>, conf: &LocConf) {
    if !conf.reads_tokens() {
        return;
    }
    if let Progress::Done(Outcome::Verified(verified)) = authenticate(request, conf, Patience::Now)
        && let Some(context) = request.context()
    {
        output::set_claim_headers(request, conf, context, &verified.claims);
    }
}

fn decide(request: &mut Request<'_>, phase: Phase) -> Decision {
    let conf = request.loc_conf();
    if !conf.is_enforced() {
        return Decision::Off;
    }
    if conf.phase() != phase {
        return Decision::Off;
    }
    if conf.lets_preflight_pass() && request.is_preflight() {
        return Decision::Off;
    }
    let patience = if request.is_main() { Patience::MayWait } else { Patience::Now };
    let outcome = match authenticate(request, conf, patience) {
        Progress::Done(outcome) => outcome,
        Progress::Wait if patience == Patience::MayWait => return Decision::Wait,
        // nginx forbids a subrequest from waiting for another: only keys that are here count.
        Progress::Wait => Outcome::Refused(std::rc::Rc::new(Refused {
            refusal: Refusal { cause: Cause::KeysUnavailable, status: conf.key_error() },
            kid: None,
            note: " cause=\"keys can't be fetched for a subrequest\"",
        })),
    };
    let Some(context) = request.context() else {
        return refuse(request, conf, &Refusal::from(Cause::Internal), None, "");
    };
    match outcome {
        Outcome::Verified(verified) => match authorize(request, conf, &verified.claims) {
            Ok(()) => allow(request, conf, context, &verified),
            Err(refusal) => {
                let kid = verified.claims.header().kid();
                refuse(request, conf, &refusal, kid, "")
            }
        },
        Outcome::Refused(refused) => {
            let Refused { refusal, kid, note } = &*refused;
            refuse(request, conf, refusal, kid.as_deref(), note)
        }
    }
}

fn allow(
    request: &mut Request<'_>,
    conf: &LocConf,
    context: &Context,
    verified: &Verified,
) -> Decision {
    let claims = &verified.claims;
    if !(output::set_claim_headers(request, conf, context, claims)
        && output::set_cookie(request, conf, context, claims)
        && output::challenge_accepted(request, conf))
    {
        return refuse(request, conf, &Refusal::from(Cause::Internal), None, "");
    }
    context.set_final_reason("ok");
    if let Some(metrics) = request.main_conf().metrics.get() {
        metrics.allowed(verified.cached);
    }
    Decision::Allowed
}

fn refuse(
    request: &mut Request<'_>,
    conf: &LocConf,
    refusal: &Refusal,
    kid: Option<&str>,
    note: &str,
) -> Decision {
    let reason = refusal.reason();
    if let Some(context) = request.context() {
        context.set_final_reason(reason.name());
    }
    if let Some(metrics) = request.main_conf().metrics.get() {
        metrics.refused(reason, conf.is_dry_run());
    }
    log(request, conf, refusal, kid, note);
    if conf.is_dry_run() {
        // Not "allowed": where `satisfy any` asks for one grant, this is none.
        return Decision::Off;
    }
    if !output::challenge(request, conf, refusal) {
        return Decision::Refused(Refusal::from(Cause::Internal).status);
    }
    if refusal.status == 503 {
        // The daemon or the operator mends the file within seconds.
        request.add_header_out("Retry-After", b"5");
    }
    Decision::Refused(refusal.status)
}

fn log(
    request: &mut Request<'_>,
    conf: &LocConf,
    refusal: &Refusal,
    kid: Option<&str>,
    note: &str,
) {
    // A flood of bad tokens must not cost the making of lines that nobody sees.
    if !request.logs(refusal.level()) {
        return;
    }
    let verb = if conf.is_dry_run() { "would deny" } else { "denied" };
    let line = if conf.dialect().is_kjdev() && refusal.reason() != Reason::Internal {
        let token = token::find(request, conf).map(|token| token.text).unwrap_or_default();
        dialect::kjdev_line(request, conf, refusal, token)
    } else {
        let keys = conf.keys().map(KeySources::describe).unwrap_or_default();
        refusal.line(verb, kid, &format!("{keys}{note}"))
    };
    request.log(refusal.level(), &line);
}

/// A bug was caught: the request gets an answer, and the log a line.
pub(crate) fn internal_error(request: &Request<'_>) -> u16 {
    let refusal = Refusal::from(Cause::Internal);
    request.log(Level::Error, &refusal.line("denied", None, ""));
    refusal.status
}
