//! Registered keys with all that can be told about them, for an administrator.

use std::time::SystemTime;

use uuid::Uuid;

use super::connection::on;
use super::keys::{KeyHash, KeyRow, StoredKey, key_columns};
use super::value::{Id, Time};
use super::{Store, StoreError};

/// What a key, or several, are told by.
#[derive(Debug, Clone, Default)]
pub struct KeyName {
    /// The digest.
    pub hash: Option<KeyHash>,
    /// The claim `key` of its tokens.
    pub public_id: Option<String>,
    /// What it was registered for.
    pub identifier: Option<Uuid>,
}

/// Of the refresh tokens with which a client gets something.
macro_rules! alive {
    ($what:literal) => {
        concat!(
            "(SELECT ",
            $what,
            " FROM refresh_tokens r WHERE r.key_id = keys.id AND r.expires_at > $4 \
             AND r.revoked_at IS NULL AND r.used_at IS NULL)"
        )
    };
}

/// A key and what became of it.
#[derive(Debug, Clone)]
pub struct KeyDetails {
    /// The key.
    pub key: StoredKey,
    /// When it was registered first.
    pub created: Option<SystemTime>,
    /// When it was revoked.
    pub revoked_at: Option<SystemTime>,
    /// How many of its refresh tokens get something.
    pub refresh_tokens: i64,
    /// When the last of those expires.
    pub last_refresh_expires_at: Option<SystemTime>,
}

#[derive(sqlx::FromRow)]
struct DetailsRow {
    #[sqlx(flatten)]
    key: KeyRow,
    created: Option<Time>,
    revoked_on: Option<Time>,
    refresh_tokens: i64,
    last_refresh: Option<Time>,
}

impl Store {
    /// The keys of that name, at most `limit`, with what is alive at `now`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn key_details(
        &self,
        name: &KeyName,
        now: SystemTime,
        limit: i64,
    ) -> Result<Vec<KeyDetails>, StoreError> {
        const QUERY: &str = concat!(
            "SELECT ",
            key_columns!(),
            ", created, revoked_at AS revoked_on, ",
            alive!("count(*)"),
            " AS refresh_tokens, ",
            alive!("max(r.expires_at)"),
            " AS last_refresh FROM keys WHERE key_hash = $1 OR public_id = $2 OR identifier = $3 \
             ORDER BY id LIMIT $5"
        );
        let rows: Vec<DetailsRow> = self
            .patiently(async {
                let mut reader = self.reader().await?;
                let rows = on!(&mut reader.connection(), c => sqlx::query_as(QUERY)
                    .bind(name.hash.as_ref().map(KeyHash::as_str))
                    .bind(&name.public_id)
                    .bind(name.identifier.map(Id))
                    .bind(Time(now))
                    .bind(limit)
                    .fetch_all(c));
                Ok(rows?)
            })
            .await?;
        rows.into_iter().map(KeyDetails::try_from).collect()
    }
}

impl TryFrom<DetailsRow> for KeyDetails {
    type Error = StoreError;

    fn try_from(row: DetailsRow) -> Result<Self, StoreError> {
        let time = |time: Option<Time>| time.map(|time| time.0);
        Ok(Self {
            key: row.key.try_into()?,
            created: time(row.created),
            revoked_at: time(row.revoked_on),
            refresh_tokens: row.refresh_tokens,
            last_refresh_expires_at: time(row.last_refresh),
        })
    }
}
