//! OAuth 2.0 for ordinary clients: `client_id` is the identifier, `client_secret` the registered key.
//! Token (RFC 6749 §4.4, §6), introspection (RFC 7662), revocation (RFC 7009), metadata (RFC 8414).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Map, Value};
use tracing::info;
use utoipa::{IntoResponses, ToSchema};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::answer::{ApiError, answer};
use super::openapi::{Empty, Limited, OwnFaults};
use super::{App, Peer, body};
use crate::issuer::Grant;
use crate::revocation::Target;
use crate::secret::Secret;
use crate::store::{KeyHash, RefreshToken, StoredKey};

/// Why a request is not granted, in the words of RFC 6749 §5.2.
pub(super) enum OauthError {
    /// 400 with this code.
    Invalid(&'static str),
    /// 401: the client is not who it says it is. A challenge, if it used HTTP Basic.
    Client { basic: bool },
    /// What has no word there.
    Api(ApiError),
}

impl From<ApiError> for OauthError {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl IntoResponse for OauthError {
    fn into_response(self) -> Response {
        let (status, code, basic) = match self {
            Self::Invalid(code) => (StatusCode::BAD_REQUEST, code, false),
            Self::Client { basic } => (StatusCode::UNAUTHORIZED, "invalid_client", basic),
            Self::Api(error) => return error.into_response(),
        };
        let mut response = uncached(answer(status, &ErrorCode { error: code }));
        if basic {
            let challenge = HeaderValue::from_static("Basic realm=\"oauth2\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// RFC 6749 §5.1.
fn uncached(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    response
}

/// The form of `POST /oauth2/token`. A client may also name itself by HTTP Basic.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the document; the form is read field by field")]
pub(super) struct TokenForm {
    grant_type: GrantType,
    /// The identifier, a UUID. With `refresh_token` the client may be left out: the token names it.
    #[schema(nullable = false)]
    client_id: Option<String>,
    /// The registered key.
    #[schema(nullable = false, format = Password)]
    client_secret: Option<String>,
    #[schema(nullable = false, format = Password)]
    refresh_token: Option<String>,
}

#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "for the document; the form is read field by field")]
enum GrantType {
    ClientCredentials,
    RefreshToken,
}

/// The form of `POST /oauth2/introspect` and `/oauth2/revoke`. A client may also name itself by HTTP Basic.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the document; the form is read field by field")]
pub(super) struct OneToken {
    /// An access or a refresh token.
    #[schema(min_length = 1, format = Password)]
    token: String,
    /// The identifier, a UUID.
    #[schema(nullable = false)]
    client_id: Option<String>,
    /// The registered key.
    #[schema(nullable = false, format = Password)]
    client_secret: Option<String>,
}

/// RFC 6749 §5.1.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Granted<'t> {
    access_token: &'t str,
    token_type: TokenType,
    /// Seconds.
    expires_in: u64,
    /// The next one, if the one that was presented is used up.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    refresh_token: Option<&'t str>,
}

impl<'t> Granted<'t> {
    fn answer(
        access_token: &'t str,
        lifetime: Duration,
        refresh_token: Option<&'t str>,
    ) -> Response {
        let token_type = TokenType::Bearer;
        let granted =
            Self { access_token, token_type, expires_in: lifetime.as_secs(), refresh_token };
        uncached(answer(StatusCode::OK, &granted))
    }
}

#[derive(Serialize, ToSchema)]
enum TokenType {
    Bearer,
}

/// RFC 7662 §2.2. Of an access token the answer has all claims.
#[derive(Default, Serialize, ToSchema)]
pub(super) struct Introspected {
    active: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    client_id: Option<Uuid>,
    /// Unix seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    exp: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    token_type: Option<TokenType>,
    #[serde(flatten)]
    #[schema(ignore)]
    claims: Map<String, Value>,
}

/// RFC 6749 §5.2.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ErrorCode {
    error: &'static str,
}

/// RFC 6749 §5.2: what is wrong with a request.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "for the document; the answers are made by OauthError")]
enum OauthFaults {
    /// The request is malformed, or not granted; the code says which.
    #[response(status = 400)]
    Invalid(ErrorCode),
    /// The client is not who it says it is, or does not say it.
    #[response(status = 401)]
    Client(ErrorCode),
    /// The form did not arrive in time.
    #[response(status = 408, content_type = "text/plain; charset=utf-8")]
    Slow(String),
    /// The form is longer than `body_limit`.
    #[response(status = 413, content_type = "text/plain; charset=utf-8")]
    TooLarge(String),
}

/// Issues an access token to a client, by its secret or by a refresh token.
#[utoipa::path(post, path = "/oauth2/token", operation_id = "oauth2_token", tag = "public",
    request_body(content = TokenForm, content_type = "application/x-www-form-urlencoded"),
    security((), ("client" = [])),
    responses((status = 200, body = Granted, description = "The token"), OauthFaults, Limited, OwnFaults))]
pub(super) async fn token(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    request: Request<Body>,
) -> Result<Response, OauthError> {
    let form = Form::read(&app, request).await?;
    let client = form.client()?;
    // There are no scopes here; a client that is given less than it asked for would find out too late.
    if form.get("scope").is_some() {
        return Err(OauthError::Invalid("invalid_scope"));
    }
    let granted = match form.get("grant_type") {
        Some("client_credentials") => {
            let client = client.ok_or(OauthError::Client { basic: false })?;
            let (key, identifier) = app.client(&client, peer).await?;
            let token_id = Uuid::new_v4();
            let grant = Grant { token_id, identifier, key: key.public_id, short: true };
            let jwt = app.issuer.issue(grant).await;
            let jwt = jwt.map_err(|error| app.unavailable(&error))?;
            let key_fp = key.hash.fingerprint();
            info!(event = "oauth2_token", outcome = "ok", ip = %peer, ident = %identifier, key_fp);
            app.metrics.audit.count(["oauth2_token", "ok"]);
            // No refresh token (RFC 6749 §4.4.3): the client has its secret.
            Granted::answer(&jwt, app.issuer.lifetime(true), None)
        }
        Some("refresh_token") => {
            let token = form.get("refresh_token").ok_or(OauthError::Invalid("invalid_request"))?;
            let token = RefreshToken::of(token);
            // Who the client is, is in the token; if it says so too, both must agree.
            let (client, asserted) = match &client {
                Some(client) => {
                    let (key, identifier) = app.client(client, peer).await?;
                    (Some(key.id), identifier)
                }
                None => (None, Uuid::nil()),
            };
            let done = match app.refresh(token, asserted, client, peer).await {
                Err(ApiError::Refused) => return Err(OauthError::Invalid("invalid_grant")),
                done => done?,
            };
            let successor = done.successor.as_ref().map(|token| token.as_str());
            Granted::answer(&done.jwt, done.lifetime, successor)
        }
        Some(_) => return Err(OauthError::Invalid("unsupported_grant_type")),
        None => return Err(OauthError::Invalid("invalid_request")),
    };
    Ok(granted)
}

/// Tells a client what a token is worth.
#[utoipa::path(post, path = "/oauth2/introspect", operation_id = "oauth2_introspect", tag = "public",
    request_body(content = OneToken, content_type = "application/x-www-form-urlencoded"),
    security((), ("client" = [])),
    responses((status = 200, body = Introspected, description = "What it is worth"), OauthFaults, Limited, OwnFaults))]
pub(super) async fn introspect(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    request: Request<Body>,
) -> Result<Response, OauthError> {
    let form = Form::read(&app, request).await?;
    // RFC 7662 §2.1: without that, anybody could try tokens here.
    let client = form.client()?.ok_or(OauthError::Client { basic: false })?;
    app.client(&client, peer).await?;
    let token = form.get("token").ok_or(OauthError::Invalid("invalid_request"))?;
    let mut told = Introspected::default();
    if let Some(claims) = app.good_claims(token.as_bytes()) {
        told.active = true;
        told.token_type = Some(TokenType::Bearer);
        told.client_id = claims.str("identifier").and_then(|text| body::parse_uuid(&text));
        told.claims = serde_json::from_str(claims.json()).unwrap_or_default();
    } else {
        let found = app.store.find_refresh_token(&RefreshToken::of(token)).await;
        let now = app.clock.now();
        if let Some(found) = found.map_err(|error| app.unavailable(&error))?
            && !(found.revoked || found.used)
            && !found.key.revoked
            && found.expires_at > now
        {
            let exp = found.expires_at.duration_since(std::time::UNIX_EPOCH);
            told.active = true;
            told.client_id = Some(found.key.identifier);
            told.exp = Some(exp.map_or(0, |exp| exp.as_secs()));
        }
    }
    Ok(uncached(answer(StatusCode::OK, &told)))
}

/// Revokes a token of the client's own.
#[utoipa::path(post, path = "/oauth2/revoke", operation_id = "oauth2_revoke", tag = "public",
    request_body(content = OneToken, content_type = "application/x-www-form-urlencoded"),
    security((), ("client" = [])),
    responses((status = 200, body = Empty, description = "It is not good any more, or was none of this client"), OauthFaults, Limited, OwnFaults))]
pub(super) async fn revoke(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    request: Request<Body>,
) -> Result<Response, OauthError> {
    let form = Form::read(&app, request).await?;
    let client = form.client()?.ok_or(OauthError::Client { basic: false })?;
    let (key, identifier) = app.client(&client, peer).await?;
    let token = form.get("token").ok_or(OauthError::Invalid("invalid_request"))?;
    let unix_now = app.clock.unix_now();
    let until = app.ring.last_token_ends(unix_now);
    let kind = if let Some(claims) = app.good_claims(token.as_bytes()) {
        // RFC 7009 §2.1: a client's own tokens only. Those that do not name their key name its client.
        let own = match claims.str("key") {
            Some(name) => key.public_id.as_deref() == Some(&*name),
            None => claims.str("identifier").as_deref() == Some(&*identifier.to_string()),
        };
        let id = claims.str("token_id").filter(|_| own);
        let id = id.ok_or(OauthError::Invalid("invalid_grant"))?.into_owned();
        let revoked = app.revocations.revoke(&Target::TokenId(id), until).await;
        app.close_revoked();
        revoked.map_err(|error| app.unavailable(&error))?;
        "access_token"
    } else {
        let now = app.clock.now();
        let oldest = now - app.issuer.lifetime(true) - app.settings.leeway;
        let token = RefreshToken::of(token);
        let revoked = app.store.revoke_refresh_token(token, &key, now, oldest, until).await;
        // What is no token of this client is as good as revoked (RFC 7009 §2.2).
        if revoked.map_err(|error| app.unavailable(&error))? {
            let reloaded = app.revocations.reload().await;
            app.close_revoked();
            reloaded.map_err(|error| app.unavailable(&error))?;
        }
        "refresh_token"
    };
    let key_fp = key.hash.fingerprint();
    info!(event = "oauth2_revoke", outcome = "ok", ip = %peer, ident = %identifier, key_fp, kind);
    app.metrics.audit.count(["oauth2_revoke", "ok"]);
    Ok(uncached(answer(StatusCode::OK, &Empty {})))
}

/// RFC 8414 §2.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Metadata<'i> {
    issuer: &'i str,
    token_endpoint: String,
    introspection_endpoint: String,
    revocation_endpoint: String,
    jwks_uri: String,
    grant_types_supported: [&'static str; 2],
    /// None: there is no authorization endpoint.
    response_types_supported: [&'static str; 0],
    token_endpoint_auth_methods_supported: [&'static str; 2],
    introspection_endpoint_auth_methods_supported: [&'static str; 2],
    revocation_endpoint_auth_methods_supported: [&'static str; 2],
}

/// Tells an OAuth 2.0 client where to ask. Only where `[jwthenticator] issuer` says what this server is called.
#[utoipa::path(get, path = "/.well-known/oauth-authorization-server", operation_id = "oauth2_metadata",
    tag = "public", responses((status = 200, body = Metadata, description = "The metadata"), OwnFaults))]
pub(super) async fn metadata(State(app): State<Arc<App>>) -> Response {
    let issuer = app.settings.issuer.as_deref().unwrap_or_default();
    let base = issuer.trim_end_matches('/');
    let at = |path: &str| format!("{base}{path}");
    let authentication = ["client_secret_basic", "client_secret_post"];
    let metadata = Metadata {
        issuer,
        token_endpoint: at("/oauth2/token"),
        introspection_endpoint: at("/oauth2/introspect"),
        revocation_endpoint: at("/oauth2/revoke"),
        jwks_uri: at("/.well-known/jwks.json"),
        grant_types_supported: ["client_credentials", "refresh_token"],
        response_types_supported: [],
        token_endpoint_auth_methods_supported: authentication,
        introspection_endpoint_auth_methods_supported: authentication,
        revocation_endpoint_auth_methods_supported: authentication,
    };
    answer(StatusCode::OK, &metadata)
}

/// Who a client says it is.
struct Client {
    id: String,
    secret: Secret,
    basic: bool,
}

impl App {
    /// The registered key of a client, and whom it stands for.
    async fn client(&self, client: &Client, peer: Peer) -> Result<(StoredKey, Uuid), OauthError> {
        let refused = || OauthError::Client { basic: client.basic };
        let asserted = body::parse_uuid(&client.id).ok_or_else(refused)?;
        let hash = KeyHash::of(client.secret.expose());
        let key = match self.live_key(&hash, asserted, peer).await {
            Err(ApiError::Refused) => return Err(refused()),
            key => key?,
        };
        // Here a client says who it is, and is not told otherwise.
        if self.identifier(&key, asserted) != asserted {
            let key_fp = hash.fingerprint();
            info!(event = "oauth2", outcome = "denied", reason = "client_id", ip = %peer, key_fp);
            return Err(refused());
        }
        Ok((key, asserted))
    }
}

/// A form and who sent it.
struct Form {
    fields: BTreeMap<String, Zeroizing<String>>,
    basic: Option<(String, Secret)>,
}

impl Form {
    async fn read(app: &App, request: Request<Body>) -> Result<Self, OauthError> {
        let (headers, bytes) = body::read_bytes(app, request).await?;
        let invalid = || OauthError::Invalid("invalid_request");
        let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Err(invalid());
        }
        let mut fields = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(&bytes) {
            // RFC 6749 §3.2: an empty one is none, and none stands there twice.
            let value = Zeroizing::new(value.into_owned());
            if !value.is_empty() && fields.insert(name.into_owned(), value).is_some() {
                return Err(invalid());
            }
        }
        Ok(Self { fields, basic: basic(&headers)? })
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(|value| value.as_str())
    }

    /// The client, if it says who it is; in one way only (RFC 6749 §2.3).
    fn client(&self) -> Result<Option<Client>, OauthError> {
        match (&self.basic, self.get("client_id"), self.get("client_secret")) {
            (Some(_), _, Some(_)) => Err(OauthError::Invalid("invalid_request")),
            (Some((id, _)), Some(other), _) if id != other => {
                Err(OauthError::Invalid("invalid_request"))
            }
            (Some((id, secret)), ..) => {
                Ok(Some(Client { id: id.clone(), secret: secret.clone(), basic: true }))
            }
            (None, Some(id), Some(secret)) => {
                Ok(Some(Client { id: id.into(), secret: Secret::new(secret), basic: false }))
            }
            (None, None, Some(_)) => Err(OauthError::Invalid("invalid_request")),
            (None, _, None) => Ok(None),
        }
    }
}

/// HTTP Basic, with both halves form-encoded (RFC 6749 §2.3.1).
fn basic(headers: &HeaderMap) -> Result<Option<(String, Secret)>, OauthError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let refused = || OauthError::Client { basic: true };
    if values.next().is_some() {
        return Err(OauthError::Invalid("invalid_request"));
    }
    let (scheme, credentials) = value.as_bytes().split_at_checked(6).ok_or_else(refused)?;
    if !scheme.eq_ignore_ascii_case(b"Basic ") {
        return Err(refused());
    }
    let text = STANDARD.decode(credentials).map(Zeroizing::new).map_err(|_| refused())?;
    let text = std::str::from_utf8(&text).map_err(|_| refused())?;
    let (id, secret) = text.split_once(':').ok_or_else(refused)?;
    Ok(Some((form_decoded(id), Secret::new(form_decoded(secret)))))
}

fn form_decoded(text: &str) -> String {
    // A value alone, so that `=` and `&` in it, which a careless client leaves as they are, stay.
    let text = text.replace('&', "%26");
    let pair = format!("v={text}");
    form_urlencoded::parse(pair.as_bytes()).next().map(|(_, v)| v.into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_halves_of_basic_are_form_decoded() {
        for (text, decoded) in
            [("abc", "abc"), ("a%3Ab", "a:b"), ("a+b", "a b"), ("a=b&c", "a=b&c"), ("%C3%A4", "ä")]
        {
            assert_eq!(form_decoded(text), decoded);
        }
    }
}
