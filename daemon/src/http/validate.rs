//! `POST /validate` and `GET /validate_request`: whether a token is one of ours and in time. The
//! database is not asked.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use jwt_core::{
    ClaimError, Claims, ClaimsSet, Compact, Policy, Rejection, TokenCache, VerifiedJws, VerifyError,
};
use serde_json::Value;
use tracing::info;
use utoipa::ToSchema;

use super::answer::{ApiError, Done, Outcome, answer};
use super::openapi::{BodyFaults, Empty, NotCredentials, OwnFaults};
use super::{App, body};
use crate::key_ring::Published;

/// Claims of the original, then ours. Others are refused.
const REQUIRED: [&str; 4] = ["token_id", "identifier", "iat", "exp"];
const STANDARD: [&str; 4] = ["sub", "jti", "key", "iss"];

/// The body of `POST /validate`.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "for the document; the body is read field by field")]
pub(super) struct Presented {
    #[schema(format = Password)]
    jwt: String,
}

/// Tells whether an access token is one of ours and in time.
#[utoipa::path(post, path = "/validate", tag = "public", request_body = Presented,
    responses((status = 200, body = Outcome, description = "The token is good"), BodyFaults, NotCredentials, OwnFaults))]
pub(super) async fn validate(
    State(app): State<Arc<App>>,
    request: Request<Body>,
) -> Result<Done, ApiError> {
    let mut fields = body::read(&app, request).await?;
    let jwt = {
        let jwt = fields.secret("jwt");
        fields.finish(jwt)?
    };
    match app.check_token(jwt.expose().as_bytes()) {
        Ok(()) => Ok(Done(true)),
        Err(Verdict::Refused(reason)) => {
            info!(event = "validate", outcome = "denied", reason);
            Err(ApiError::Refused)
        }
        Err(Verdict::Fields(fields)) => Err(ApiError::Fields(fields)),
    }
}

/// The same for a token in the header, as gateways ask (nginx's `auth_request`).
#[utoipa::path(get, path = "/validate_request", tag = "public", security(("bearer" = [])),
    responses(
        (status = 200, body = Empty, description = "The token is good"),
        (status = 401, body = Empty, description = "The token is not good",
            headers(("WWW-Authenticate" = String))),
        (status = 403, body = Empty, description = "There is no token, or not as `Bearer TOKEN`"),
        OwnFaults))]
pub(super) async fn validate_request(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let token = bearer_token(&headers)?;
    match app.check_token(token) {
        Ok(()) => Ok(answer(StatusCode::OK, &Empty {})),
        Err(verdict) => {
            info!(event = "validate_request", outcome = "denied", reason = verdict.reason());
            Err(ApiError::BadToken)
        }
    }
}

/// The original's reading: exactly `Bearer`, one space, a token without spaces.
fn bearer_token(headers: &HeaderMap) -> Result<&[u8], ApiError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or(ApiError::NoToken)?.as_bytes();
    // Two fields could be read as either by whoever comes after us.
    if values.next().is_some() {
        return Err(ApiError::BadToken);
    }
    let token = value.strip_prefix(b"Bearer ").ok_or(ApiError::NoToken)?;
    if token.is_empty() || token.contains(&b' ') {
        return Err(ApiError::NoToken);
    }
    Ok(token)
}

/// Why a token is not good.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Not ours, or out of time; a word for the log.
    Refused(&'static str),
    /// Ours, but its claims are not those of an access token; `POST /validate` says which.
    Fields(BTreeMap<String, &'static str>),
}

impl Verdict {
    fn of(error: ClaimError) -> Self {
        match error {
            ClaimError::NotADate("exp") => {
                Self::Fields([("exp".to_owned(), "Not a valid integer.")].into())
            }
            error => Self::Refused(Rejection::from(error).reason()),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Refused(reason) => reason,
            Self::Fields(_) => "claim",
        }
    }
}

impl App {
    fn check_token(&self, token: &[u8]) -> Result<(), Verdict> {
        self.live_claims(token).map(drop)
    }

    /// The claims of a token that is good now; `None` for every other.
    pub(super) fn good_claims(&self, token: &[u8]) -> Option<Claims> {
        self.live_claims(token).ok()
    }

    fn live_claims(&self, token: &[u8]) -> Result<Claims, Verdict> {
        let published = self.ring.published();
        let scope = published.keys.id();
        let known = self.verified_tokens().get(token, scope).cloned();
        let is_known = known.is_some();
        let set = match known {
            Some(set) => set,
            None => {
                let verified = verify(token, &published);
                let jws = verified.map_err(|error| Verdict::Refused(error.reason()))?;
                Arc::new(jws.into_claims_set().map_err(Verdict::of)?)
            }
        };
        let now = self.clock.unix_now();
        let leeway = i64::try_from(self.settings.leeway.as_secs()).unwrap_or(i64::MAX);
        // Times have the original's rules, below; here only the form of the payload counts.
        let form = Policy { leeway: Duration::from_secs(i64::MAX as u64), ..Policy::default() };
        let claims = form.admit(&set, now).map_err(Verdict::of)?;
        if !is_known {
            let size = set.size();
            self.verified_tokens().insert(token, scope, set, size);
        }
        check_claims(&claims, now, leeway, &self.settings.audience)?;
        if self.revocations.live().load().refuses(&claims) {
            return Err(Verdict::Refused("revoked"));
        }
        Ok(claims)
    }

    /// The `token_id` of a token that one of our keys has signed, be it expired.
    pub(super) fn token_id(&self, token: &[u8]) -> Option<String> {
        let jws = verify(token, &self.ring.published()).ok()?;
        let form = Policy { leeway: Duration::from_secs(i64::MAX as u64), ..Policy::default() };
        let claims = form.validate(jws, self.clock.unix_now()).ok()?;
        claims.str("token_id").map(Into::into)
    }

    fn verified_tokens(&self) -> MutexGuard<'_, VerifiedTokens> {
        self.verified_tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tokens whose signature and form were good with the published keys of the scope: a gateway asks about the same token
/// with every request. Whatever depends on more than token and keys is judged each time.
pub(crate) type VerifiedTokens = TokenCache<Arc<ClaimsSet>>;

/// What they may take: about as many tokens as there are KiB.
pub(crate) const VERIFIED_BYTES: usize = 4 * 1024 * 1024;

/// The original has one key and does not look at `kid`; so a token whose `kid` is missing or
/// unknown is tried with every key.
fn verify(token: &[u8], published: &Published) -> Result<VerifiedJws, Rejection> {
    match Compact::parse(token)?.verify(&published.keys) {
        Err(VerifyError::UnknownKey) => Ok(Compact::parse(token)?.verify(&published.anonymous)?),
        result => Ok(result?),
    }
}

/// The order of checks is the original's: times and audience, then the claims' form, then expiry.
fn check_claims(
    claims: &Claims,
    now: i64,
    leeway: i64,
    audience: &[String],
) -> Result<(), Verdict> {
    let from_now_on = now.saturating_add(leeway);
    if claims.iat().is_some_and(|iat| iat > from_now_on)
        || claims.nbf().is_some_and(|nbf| nbf > from_now_on)
    {
        return Err(Verdict::Refused("not_yet"));
    }
    if !audience_fits(claims.raw("aud"), audience) {
        return Err(Verdict::Refused("aud"));
    }
    let mut errors = BTreeMap::new();
    for name in REQUIRED {
        let value = claims.raw(name).and_then(|raw| serde_json::from_str(raw).ok());
        let message = match (name, value) {
            (_, None) => Some("Missing data for required field."),
            (_, Some(Value::Null)) => Some("Field may not be null."),
            ("iat" | "exp", Some(Value::Number(_))) => None,
            ("iat" | "exp", Some(_)) => Some("Not a valid integer."),
            (_, Some(Value::String(text))) if body::parse_uuid(&text).is_some() => None,
            (_, Some(_)) => Some("Not a valid UUID."),
        };
        if let Some(message) = message {
            errors.insert(name.to_owned(), message);
        }
    }
    for name in claims.names() {
        if STANDARD.contains(&name) {
            if claims.str(name).is_none() {
                errors.insert(name.to_owned(), "Not a valid string.");
            }
        } else if !REQUIRED.contains(&name) && name != "aud" {
            errors.insert(name.to_owned(), "Unknown field.");
        }
    }
    if !errors.is_empty() {
        return Err(Verdict::Fields(errors));
    }
    // RFC 7519 §4.1.4, and without leeway, as the original.
    match claims.exp() {
        Some(exp) if exp > now => Ok(()),
        _ => Err(Verdict::Refused("expired")),
    }
}

/// RFC 7519 §4.1.3: a token with audiences is for those alone; one without is for everyone.
fn audience_fits(aud: Option<&str>, ours: &[String]) -> bool {
    let named = match aud.map(serde_json::from_str) {
        None | Some(Ok(Value::Null)) => return true,
        Some(Ok(Value::String(name))) => vec![name],
        Some(Ok(Value::Array(items))) => {
            let names: Option<Vec<_>> =
                items.into_iter().map(|item| item.as_str().map(str::to_owned)).collect();
            let Some(names) = names else { return false };
            names
        }
        Some(_) => return false,
    };
    named.iter().all(String::is_empty) || named.iter().any(|name| ours.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t31_the_header_has_exactly_one_form() {
        let token = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            bearer_token(&headers).map(<[u8]>::to_vec)
        };
        assert_eq!(token(&["Bearer a.b.c"]), Ok(b"a.b.c".to_vec()));
        for value in ["", "Bearer", "Bearer ", "bearer x", "Basic x", "Bearer  x", "Bearer x y"] {
            assert_eq!(token(&[value]), Err(ApiError::NoToken), "{value:?}");
        }
        assert_eq!(token(&[]), Err(ApiError::NoToken));
        assert_eq!(token(&["Bearer a", "Bearer a"]), Err(ApiError::BadToken));
    }

    #[test]
    fn audiences_must_meet() {
        let ours = vec!["a".to_owned(), "b".to_owned()];
        for (aud, ours, fits) in [
            (None, &ours, true),
            (Some("[\"b\",\"c\"]"), &ours, true),
            (Some("\"a\""), &ours, true),
            (Some("[\"c\"]"), &ours, false),
            (Some("[1]"), &ours, false),
            (Some("1"), &ours, false),
            (Some("[\"a\"]"), &Vec::new(), false),
            (Some("[]"), &Vec::new(), true),
            (Some("\"\""), &Vec::new(), true),
        ] {
            assert_eq!(audience_fits(aud, ours), fits, "{aud:?}");
        }
    }
}
