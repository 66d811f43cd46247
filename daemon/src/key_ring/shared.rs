//! Signing keys in the database, shared by its daemons: one of them changes the keys at a time, the others
//! follow. The private halves are there only encrypted, under a key that the database never sees.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::runtime::Handle;
use zeroize::Zeroizing;

use super::RingError;
use super::plan::{Entry, Plan};
use crate::config::SigningAlgorithm;
use crate::signing_key::SigningKey;
use crate::signing_key::directory::{Life, Record};
use crate::store::{SigningKeyRow, Store};

/// The credential that systemd's `LoadCredential=` may bring, instead of `[keys] encryption_key_file`.
const CREDENTIAL: &str = "jwtunnel-keys";

/// In front of what this version seals.
const PREFIX: &str = "v1:";

/// AES-GCM's nonce.
const NONCE: usize = 12;

/// Why the shared keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SharedError {
    /// The file with the encryption key.
    #[error("[keys] encryption_key_file {}: {reason}; make one with: openssl rand -base64 32 > FILE && chmod 600 FILE", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A sealed key does not open.
    #[error(
        "the signing key {0} in the database cannot be decrypted: this daemon has another \
         [keys] encryption_key_file than the one that stored it"
    )]
    Sealed(String),
    /// A row that this program did not write.
    #[error("the signing key {0} in the database is malformed")]
    Malformed(String),
    /// The cryptographic library failed.
    #[error("the cryptographic library failed")]
    Library,
}

/// The keys of a database. Its methods wait for the database, on a thread that may wait.
pub(super) struct SharedKeys {
    store: Store,
    runtime: Handle,
    seal: RandomizedNonceKey,
}

/// The file that has the key under which signing keys are stored, if one is configured.
pub fn encryption_key_file(configured: Option<&Path>) -> Option<PathBuf> {
    let credential = std::env::var_os("CREDENTIALS_DIRECTORY")
        .map(|folder| Path::new(&folder).join(CREDENTIAL))
        .filter(|path| path.exists());
    configured.map(Into::into).or(credential)
}

impl SharedKeys {
    pub(super) fn open(store: Store, runtime: Handle, file: &Path) -> Result<Self, SharedError> {
        let bad = |reason: String| SharedError::File { path: file.into(), reason };
        let metadata = fs::metadata(file).map_err(|error| bad(error.to_string()))?;
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(bad(format!("other users can read it (mode {mode:04o})")));
        }
        let text = fs::read(file).map_err(|error| bad(error.to_string()))?;
        let text = Zeroizing::new(text);
        let key = STANDARD.decode(text.trim_ascii()).map(Zeroizing::new);
        let key = key.ok().filter(|key| key.len() == 32);
        let key = key.ok_or_else(|| bad("expected 32 bytes in base64".into()))?;
        let seal = RandomizedNonceKey::new(&AES_256_GCM, &key).map_err(|_| SharedError::Library)?;
        Ok(Self { store, runtime, seal })
    }

    /// The keys as they are. `known` saves reading those again that are there already.
    pub(super) fn load(&self, known: &[Entry]) -> Result<Vec<Entry>, RingError> {
        let rows = self.runtime.block_on(self.store.signing_keys())?;
        self.entries(&rows, known)
    }

    /// Carries out what `plan` makes of the keys as they are, while no other daemon changes them.
    pub(super) fn alter(
        &self,
        known: &[Entry],
        plan: impl FnOnce(&[Entry]) -> Result<Plan, RingError>,
    ) -> Result<Plan, RingError> {
        self.runtime.block_on(self.store.alter_signing_keys(|rows| {
            let plan = plan(&self.entries(rows, known)?)?;
            let mut next = Vec::new();
            for entry in &plan.next {
                let sealed = rows.iter().find(|row| row.kid == entry.record.kid);
                let sealed = match sealed {
                    Some(row) => row.private_key.clone(),
                    None => self.seal(&entry.key)?,
                };
                next.push(row(&entry.record, sealed));
            }
            // The order in which they are read.
            next.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.kid.cmp(&b.kid)));
            Ok((next, plan))
        }))
    }

    fn entries(&self, rows: &[SigningKeyRow], known: &[Entry]) -> Result<Vec<Entry>, RingError> {
        let mut entries = Vec::new();
        for row in rows {
            let record = record(row)?;
            let key = match known.iter().find(|entry| entry.record.kid == row.kid) {
                Some(entry) => entry.key.clone(),
                None => self.unseal(row)?.into(),
            };
            entries.push(Entry { record, key });
        }
        Ok(entries)
    }

    fn seal(&self, key: &SigningKey) -> Result<String, RingError> {
        let mut text = Zeroizing::new(key.to_pem()?.as_bytes().to_vec());
        // The tag makes it longer; without room it would move, and leave the text behind.
        text.reserve_exact(AES_256_GCM.tag_len());
        let aad = Aad::from(key.kid().as_bytes());
        let nonce = self.seal.seal_in_place_append_tag(aad, &mut *text);
        let nonce = nonce.map_err(|_| SharedError::Library)?;
        let mut sealed = nonce.as_ref().to_vec();
        sealed.extend_from_slice(&text);
        Ok(format!("{PREFIX}{}", STANDARD.encode(sealed)))
    }

    fn unseal(&self, row: &SigningKeyRow) -> Result<SigningKey, RingError> {
        let malformed = || SharedError::Malformed(row.kid.clone());
        let sealed = row.private_key.strip_prefix(PREFIX).ok_or_else(malformed)?;
        let sealed = STANDARD.decode(sealed).map_err(|_| malformed())?;
        let (nonce, text) = sealed.split_at_checked(NONCE).ok_or_else(malformed)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| malformed())?;
        let mut text = Zeroizing::new(text.to_vec());
        let opened = self.seal.open_in_place(nonce, Aad::from(row.kid.as_bytes()), &mut text);
        let pem = opened.map_err(|_| SharedError::Sealed(row.kid.clone()))?;
        let algorithm = SigningAlgorithm::from_name(&row.algorithm).ok_or_else(malformed)?;
        let key = SigningKey::from_pem(pem, algorithm)?;
        if key.kid() == row.kid { Ok(key) } else { Err(malformed().into()) }
    }
}

fn row(record: &Record, private_key: String) -> SigningKeyRow {
    let (state, due) = match record.life {
        Life::Announced { signs_at } => ("announced", Some(signs_at)),
        Life::Signing => ("signing", None),
        Life::Retiring { gone_at } => ("retiring", Some(gone_at)),
    };
    SigningKeyRow {
        kid: record.kid.clone(),
        algorithm: record.algorithm.clone(),
        created: record.created,
        longest_lifetime: i64::try_from(record.longest_lifetime).unwrap_or(i64::MAX),
        state: state.into(),
        due,
        signing_since: record.signing_since,
        private_key,
    }
}

fn record(row: &SigningKeyRow) -> Result<Record, SharedError> {
    let malformed = || SharedError::Malformed(row.kid.clone());
    let life = match (row.state.as_str(), row.due) {
        ("announced", Some(signs_at)) => Life::Announced { signs_at },
        ("signing", None) => Life::Signing,
        ("retiring", Some(gone_at)) => Life::Retiring { gone_at },
        _ => return Err(malformed()),
    };
    Ok(Record {
        kid: row.kid.clone(),
        algorithm: row.algorithm.clone(),
        created: row.created,
        longest_lifetime: u64::try_from(row.longest_lifetime).map_err(|_| malformed())?,
        signing_since: row.signing_since,
        life,
    })
}
