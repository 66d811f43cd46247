//! `POST /register_keys`: many registrations in one transaction, for administrators of large fleets.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use tracing::{info, warn};
use utoipa::ToSchema;

use super::answer::{ApiError, answer};
use super::keys::{self, is_weak};
use super::openapi::{BodyFaults, OwnFaults, WebPage};
use super::{App, Peer, body};
use crate::store::{Imported, KeyHash, NewKey};

/// So many keys in one request: a transaction of some ten milliseconds, and nobody waits for the writer longer.
const MOST: usize = 1_000;

/// Room for so many keys of a usual length, whatever `body_limit` is.
const BODY: u64 = 1 << 20;

/// The body of `POST /register_keys`.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "for the document; the body is read field by field")]
pub(super) struct NewKeys {
    #[schema(max_items = 1000)]
    keys: Vec<keys::NewKey>,
}

/// What became of the keys.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Registered {
    /// For each key, in the order of the request.
    outcomes: Vec<Registration>,
}

/// What became of a key.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Registration {
    /// It is registered, and was not before.
    Registered,
    /// It was registered for this identifier before; its life is extended.
    Known,
    /// It is registered for another identifier: nothing has changed.
    OtherIdentifier,
    /// It has been revoked: nothing has changed.
    Revoked,
}

impl From<Imported> for Registration {
    fn from(imported: Imported) -> Self {
        match imported {
            Imported::New => Self::Registered,
            Imported::Known => Self::Known,
            Imported::OtherIdentifier => Self::OtherIdentifier,
            Imported::Revoked => Self::Revoked,
        }
    }
}

/// Registers many keys in one transaction. Those that can't be registered do not stop the others.
#[utoipa::path(post, path = "/register_keys", tag = "internal", request_body = NewKeys,
    responses((status = 200, body = Registered, description = "What became of each"), BodyFaults, WebPage, OwnFaults))]
pub(super) async fn register_keys(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let mut fields = body::read_large(&app, request, BODY).await?;
    let keys = {
        let keys = fields.objects("keys", MOST, |fields| {
            let (key, identifier) = (fields.secret("key"), fields.uuid("identifier"));
            let rotates = fields.optional_flag("rotate");
            let ((key, identifier), rotates) = key.zip(identifier).zip(rotates)?;
            let key = key.expose();
            let new = NewKey { hash: KeyHash::of(key), identifier, rotates };
            Some((new, is_weak(key)))
        });
        fields.finish(keys)?
    };
    let now = app.clock.now();
    let expires_at = now + app.settings.key_lifetime;
    let new = keys.iter().map(|(new, _)| new.clone()).collect();
    // Not in a hurry: it is more than one row, and whoever sends many keys waits.
    let registered = app.store.register_keys(new, now, expires_at).await;
    let registered = registered.map_err(|error| app.unavailable(&error))?;
    for ((new, is_weak), imported) in keys.iter().zip(&registered) {
        let (ident, key_fp) = (new.identifier, new.hash.fingerprint());
        let refused = match imported {
            Imported::New | Imported::Known => None,
            Imported::OtherIdentifier => Some("another identifier"),
            Imported::Revoked => Some("revoked"),
        };
        match refused {
            None => {
                info!(event = "register_key", outcome = "ok", ip = %peer, %ident, key_fp);
                app.metrics.audit.count(["register_key", "ok"]);
            }
            Some(reason) => {
                app.metrics.audit.count(["register_key", "denied"]);
                info!(event = "register_key", outcome = "denied", reason, ip = %peer, %ident, key_fp);
            }
        }
        if *is_weak && refused.is_none() {
            warn!(event = "weak_key", key_fp);
            app.metrics.audit.count(["weak_key", "ok"]);
        }
    }
    let outcomes = registered.into_iter().map(Registration::from).collect();
    Ok(answer(StatusCode::OK, &Registered { outcomes }))
}
