//! The signing keys as an administrator sees them.

use serde::Serialize;
use utoipa::ToSchema;

use super::KeyRing;
use crate::signing_key::directory::Life;

/// A signing key, its private part aside. Times are Unix seconds.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyOverview {
    /// Its name in tokens and in the JWKS.
    pub kid: String,
    /// What it signs with.
    pub algorithm: String,
    /// `announced`, `signing` or `retiring`.
    pub state: &'static str,
    /// When it was made.
    pub created: i64,
    /// When it began to sign, if that is known.
    #[schema(required)]
    pub signing_since: Option<i64>,
    /// When it signs, once verifiers know it.
    #[schema(required)]
    pub signs_at: Option<i64>,
    /// When it leaves the JWKS, its last token having expired.
    #[schema(required)]
    pub gone_at: Option<i64>,
}

impl KeyRing {
    /// The signing keys, in the order in which they were made. May wait for the disk, or the database.
    pub fn overview(&self) -> Vec<KeyOverview> {
        let of = |entry: &super::Entry| {
            let record = &entry.record;
            let (state, signs_at, gone_at) = match record.life {
                Life::Announced { signs_at } => ("announced", Some(signs_at), None),
                Life::Signing => ("signing", None, None),
                Life::Retiring { gone_at } => ("retiring", None, Some(gone_at)),
            };
            KeyOverview {
                kid: record.kid.clone(),
                algorithm: record.algorithm.clone(),
                state,
                created: record.created,
                signing_since: record.signing_since,
                signs_at,
                gone_at,
            }
        };
        let mut keys: Vec<_> = self.lock().iter().map(of).collect();
        keys.sort_by_key(|key| key.created);
        keys
    }
}
