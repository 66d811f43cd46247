//! Many registrations at once, in one transaction and one statement.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::time::SystemTime;

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::change::Change;
use super::connection::{Connection, on};
use super::keys::KeyHash;
use super::value::{Id, Time};
use super::{Store, StoreError};

/// A key that shall be registered.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Its digest.
    pub hash: KeyHash,
    /// The client that tokens for it name.
    pub identifier: Uuid,
    /// Whether its refresh tokens are used once.
    pub rotates: bool,
}

/// What became of one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Imported {
    /// It is registered now, and was not before.
    New,
    /// It was registered for this identifier already; its life is extended.
    Known,
    /// It is registered for another identifier, which stays so: nothing has changed.
    OtherIdentifier,
    /// It has been revoked, which is for good: nothing has changed.
    Revoked,
}

impl Store {
    /// Registers `keys`, all of them or, after an error, none. What becomes of each one is told in their order.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing is registered.
    pub async fn register_keys(
        &self,
        keys: Vec<NewKey>,
        now: SystemTime,
        expires_at: SystemTime,
    ) -> Result<Vec<Imported>, StoreError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        self.write(RegisterAll { keys, now: Time(now), expires_at: Time(expires_at) }).await
    }
}

struct RegisterAll {
    keys: Vec<NewKey>,
    now: Time,
    expires_at: Time,
}

/// One row of the statement. A key that is given twice is one row: a statement can change a row only once.
struct Row {
    identifier: Uuid,
    rotates: bool,
    public_id: String,
}

/// A key as it is in the table now.
#[derive(sqlx::FromRow)]
struct Found {
    key_hash: String,
    identifier: Id,
    public_id: Option<String>,
    is_revoked: bool,
}

/// The first identifier and name hold, and nothing changes for a key of another identifier or a revoked one.
const INSERT: &str = "INSERT INTO keys \
    (created, expires_at, identity, key_hash, identifier, public_id, refresh_policy) VALUES ";
const ON_CONFLICT: &str = " ON CONFLICT (key_hash) DO UPDATE SET \
    expires_at = CASE WHEN keys.revoked_at IS NULL AND keys.identifier = excluded.identifier \
    AND keys.expires_at < excluded.expires_at THEN excluded.expires_at ELSE keys.expires_at END, \
    refresh_policy = CASE WHEN keys.revoked_at IS NULL AND keys.identifier = excluded.identifier \
    THEN coalesce(excluded.refresh_policy, keys.refresh_policy) ELSE keys.refresh_policy END \
    RETURNING key_hash, identifier, public_id, revoked_at IS NOT NULL AS is_revoked";

impl Change for RegisterAll {
    type Output = Vec<Imported>;

    async fn apply(&self, connection: &mut Connection<'_>) -> Result<Vec<Imported>, sqlx::Error> {
        let rows = self.rows();
        let values: Vec<_> = (0..rows.len())
            .map(|index| {
                let first = 3 + 4 * index;
                let (identifier, public_id, policy) = (first + 1, first + 2, first + 3);
                format!("($1, $2, 'registered', ${first}, ${identifier}, ${public_id}, ${policy})")
            })
            .collect();
        let statement = format!("{INSERT}{}{ON_CONFLICT}", values.join(", "));
        let found: Vec<Found> = on!(connection, c => async {
            let mut query = sqlx::query_as(AssertSqlSafe(statement))
                .bind(self.now)
                .bind(self.expires_at);
            for (hash, row) in &rows {
                query = query
                    .bind(*hash)
                    .bind(Id(row.identifier))
                    .bind(&row.public_id)
                    .bind(row.rotates.then_some("rotate"));
            }
            // Kept ready in the connection it would only take room: few batches are of the same size as this one.
            query.persistent(false).fetch_all(c).await
        })?;
        let found: BTreeMap<_, _> =
            found.iter().map(|found| (found.key_hash.as_str(), found)).collect();
        let mut first = BTreeSet::new();
        let outcome = |key: &NewKey| {
            let hash = key.hash.as_str();
            let (Some(found), Some(row)) = (found.get(hash), rows.get(hash)) else {
                return Err(sqlx::Error::RowNotFound);
            };
            let is_new = found.public_id.as_ref() == Some(&row.public_id);
            Ok(match found {
                Found { is_revoked: true, .. } => Imported::Revoked,
                _ if found.identifier.0 != key.identifier => Imported::OtherIdentifier,
                _ if is_new && first.insert(found.key_hash.as_str()) => Imported::New,
                _ => Imported::Known,
            })
        };
        self.keys.iter().map(outcome).collect()
    }
}

impl RegisterAll {
    /// In the order of their digests: two daemons that import the same keys then wait for each other, and
    /// never in a circle.
    fn rows(&self) -> BTreeMap<&str, Row> {
        let mut rows = BTreeMap::new();
        for key in &self.keys {
            match rows.entry(key.hash.as_str()) {
                btree_map::Entry::Vacant(entry) => {
                    let public_id = Uuid::new_v4().simple().to_string();
                    let (identifier, rotates) = (key.identifier, key.rotates);
                    entry.insert(Row { identifier, rotates, public_id });
                }
                btree_map::Entry::Occupied(mut entry) => {
                    let row = entry.get_mut();
                    row.rotates |= key.rotates && row.identifier == key.identifier;
                }
            }
        }
        rows
    }
}
