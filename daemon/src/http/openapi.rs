//! The issuer's part of the API document: answers that many routes share, and the list of the routes.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::openapi::schema::AdditionalProperties;
use utoipa::openapi::{ObjectBuilder, OpenApi, RefOr, Schema, Type};
use utoipa::{IntoResponses, OpenApi as _, PartialSchema, ToSchema};

use super::answer::Outcome;
use super::oauth::ErrorCode;
use super::revoke::{Keys, RevokedTokens};

/// An object without members.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Empty {}

/// What a body can be refused for.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "for the document; the answers are made by ApiError")]
pub(super) enum BodyFaults {
    /// The body is not JSON (no member), or not of the right shape: for each field one message in an array. A body
    /// that is no object is the field `_schema`.
    #[response(status = 400)]
    Fields(FieldErrors),
    /// The body did not arrive in time.
    #[response(status = 408, content_type = "text/plain; charset=utf-8")]
    Slow(String),
    /// The body is longer than `body_limit`.
    #[response(status = 413, content_type = "text/plain; charset=utf-8")]
    TooLarge(String),
}

/// A message for each field that is wrong.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the document; the answer is made by ApiError")]
pub(super) struct FieldErrors(BTreeMap<String, [String; 1]>);

/// A text as [`super::body::Fields::text`] takes it. The limit there is in bytes.
pub(super) struct Name;

impl PartialSchema for Name {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new().schema_type(Type::String);
        text.min_length(Some(1)).max_length(Some(256)).pattern(Some(r"^[^\x00]*$")).into()
    }
}

impl ToSchema for Name {}

/// The key or token is unknown, expired or revoked; the log tells which.
#[derive(IntoResponses)]
#[response(status = 401)]
pub(super) struct NotCredentials(Empty);

/// The client has failed too often, and may try again after that time.
#[derive(IntoResponses)]
#[response(status = 429, headers(("Retry-After" = u64, description = "seconds")))]
pub(super) struct Limited(Empty);

/// Web pages may not use the internal listener: the request has an `Origin`, or a `Host` that is no IP address,
/// `localhost` or name in `[netunnel] operator_hosts`.
#[derive(IntoResponses)]
#[response(status = 403)]
pub(super) struct WebPage(Empty);

/// The request cannot be carried out as things are; the message says why.
#[derive(IntoResponses)]
#[response(status = 409)]
#[expect(dead_code, reason = "for the document; the answer is made by ApiError")]
pub(super) struct Conflict(Outcome);

/// Faults of the daemon.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "for the document; the answers are made by ApiError")]
pub(super) enum OwnFaults {
    /// A bug; the log has more.
    #[response(status = 500, content_type = "text/plain; charset=utf-8")]
    Panicked(String),
    /// The database, the disk or the signing key does not answer. The same request may succeed later.
    #[response(status = 503, headers(("Retry-After" = u64, description = "seconds")))]
    Unavailable(Empty),
}

/// A bug; the log has more.
#[derive(IntoResponses)]
#[response(status = 500, content_type = "text/plain; charset=utf-8")]
#[expect(dead_code, reason = "for the document; the answer is made by panicked()")]
pub(super) struct Panic(String);

#[derive(utoipa::OpenApi)]
#[openapi(paths(
    super::health,
    super::jwks::jwks,
    super::authenticate::authenticate,
    super::refresh::refresh,
    super::validate::validate,
    super::validate::validate_request,
    super::oauth::token,
    super::oauth::introspect,
    super::oauth::revoke,
    super::oauth::metadata,
    super::keys::register_key,
    super::keys::is_key_registered,
    super::keys::list_keys,
    super::import::register_keys,
    super::show::show_key,
    super::prune::prune_keys,
    super::revoke::revoke_key,
    super::revoke::revoke_token,
    super::rotate::rotate_signing_key,
))]
struct Issuer;

#[derive(utoipa::OpenApi)]
#[openapi(paths(super::pages::status, super::pages::metrics, super::pages::document))]
struct Pages;

/// Paths that are served by the handler of another one.
const ALIASES: [(&str, &str); 2] = [("/", "/health"), ("/.well-known/jwks.json", "/jwks")];

/// The issuer's routes, with `prefix` in front of every path, and the pages.
pub(crate) fn document(prefix: &str) -> OpenApi {
    let mut document = Issuer::openapi();
    let paths = &mut document.paths.paths;
    for (alias, path) in ALIASES {
        let mut item = paths[path].clone();
        if let Some(operation) = &mut item.get {
            operation.operation_id = Some(format!("{}_alias", path.trim_start_matches('/')));
        }
        paths.insert(alias.into(), item);
    }
    *paths = std::mem::take(paths)
        .into_iter()
        .map(|(path, item)| (format!("{prefix}{path}"), item))
        .collect();
    document.merge(Pages::openapi());
    let schemas = &mut document.components.get_or_insert_default().schemas;
    // Those that only shared answers name, which the macro does not see.
    add::<Empty>(schemas);
    add::<ErrorCode>(schemas);
    add::<FieldErrors>(schemas);
    // Of a body that is one of several, each has its one field; the macro closes only what is a struct.
    for name in [Keys::name(), RevokedTokens::name()] {
        if let Some(RefOr::T(Schema::OneOf(choice))) = schemas.get_mut(&*name) {
            for item in &mut choice.items {
                if let RefOr::T(Schema::Object(object)) = item {
                    object.additional_properties =
                        Some(AdditionalProperties::FreeForm(false).into());
                }
            }
        }
    }
    document
}

fn add<T: ToSchema>(schemas: &mut BTreeMap<String, RefOr<Schema>>) {
    schemas.insert(T::name().into_owned(), T::schema());
}
