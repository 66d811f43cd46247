//! The folder of private keys: one PEM file for each key, and `state.json`, which says which of
//! them signs. Everything in it is its owner's only.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{KeyError, SigningKey};
use crate::atomic_file;
use crate::config::SigningAlgorithm;

const STATE_FILE: &str = "state.json";

/// Why the folder of private keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A private key that others can read is no longer private.
    #[error(
        "key_file_mode: {} is accessible by other users (mode {mode:04o}); if no one has read it, \
         run: chmod 600 {}",
        path.display(), path.display()
    )]
    Mode {
        /// The key's file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A file does not hold the key that it should.
    #[error("{} cannot be used: {source}", path.display())]
    Key {
        /// The key's file.
        path: PathBuf,
        /// What is wrong with it.
        source: KeyError,
    },
    /// `state.json` is damaged.
    #[error(
        "{} cannot be used: {reason}; restore it from a backup, or remove it: the newest key then \
         signs, and the others stay published for one token life", path.display()
    )]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The two files of a given pair do not belong together, or one is missing.
    #[error("{0}")]
    Pair(String),
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    move |source| DirectoryError::Io { action, path: path.into(), source }
}

/// A key's place in its life. Times are Unix seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub(crate) enum Life {
    /// Published, so that every verifier knows it before its first token.
    Announced {
        /// When it starts to sign.
        signs_at: i64,
    },
    /// Signs every new token. Exactly one key does.
    Signing,
    /// Published until its last token has expired.
    Retiring {
        /// When it leaves.
        gone_at: i64,
    },
}

/// What `state.json` knows about a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) kid: String,
    pub(crate) algorithm: String,
    pub(crate) created: i64,
    /// The longest token life, in seconds, that was configured while the key signed: how long it
    /// must stay published afterwards.
    pub(crate) longest_lifetime: u64,
    /// When it began to sign; unknown for keys of before this was written down, and for announced ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) signing_since: Option<i64>,
    #[serde(flatten)]
    pub(crate) life: Life,
}

#[derive(Serialize, Deserialize)]
struct State {
    version: u32,
    keys: Vec<Record>,
}

/// What the folder held.
pub(crate) struct Found {
    pub(crate) keys: Vec<(Record, SigningKey)>,
    /// Key files that `state.json` does not name.
    pub(crate) strangers: Vec<PathBuf>,
}

pub(crate) struct KeyDirectory {
    path: PathBuf,
}

impl KeyDirectory {
    /// Opens the folder, which is made if missing.
    pub(crate) fn open(path: &Path) -> Result<Self, DirectoryError> {
        atomic_file::make_folder(path, 0o700).map_err(io_error("use the folder", path))?;
        let directory = Self { path: path.into() };
        let state = directory.state_path();
        atomic_file::remove_leftovers(&state).map_err(io_error("clean up beside", &state))?;
        Ok(directory)
    }

    fn state_path(&self) -> PathBuf {
        self.path.join(STATE_FILE)
    }

    fn key_path(&self, kid: &str) -> PathBuf {
        // A kid may start with a dash, which is a nuisance as a file name.
        self.path.join(format!("key-{kid}.pem"))
    }

    /// Reads every key. Without `state.json`, the newest file signs from now on and the others stay
    /// published for `stay` seconds, long enough for the last token that they may have signed.
    pub(crate) fn load(
        &self,
        algorithm: SigningAlgorithm,
        now: i64,
        stay: u64,
    ) -> Result<Found, DirectoryError> {
        let files = self.key_files()?;
        let Some(state) = self.load_state()? else {
            return Ok(Found { keys: adopt(files, algorithm, now, stay)?, strangers: Vec::new() });
        };
        let mut keys = Vec::new();
        for record in state.keys {
            let path = self.key_path(&record.kid);
            // The file goes first and the record last; between the two the process may have ended.
            if matches!(record.life, Life::Retiring { gone_at } if gone_at <= now) && !path.exists()
            {
                continue;
            }
            let Some(algorithm) = SigningAlgorithm::from_name(&record.algorithm) else {
                return Err(self.bad_state(format!("unknown algorithm for the key {}", record.kid)));
            };
            let key = read_key(&path, &[algorithm])?;
            if key.kid() != record.kid {
                return Err(self.bad_state(format!("{} holds another key", path.display())));
            }
            keys.push((record, key));
        }
        if keys.iter().filter(|(record, _)| record.life == Life::Signing).count() != 1 {
            return Err(self.bad_state("it does not name exactly one signing key".into()));
        }
        let strangers = files
            .into_iter()
            .filter(|path| !keys.iter().any(|(record, _)| self.key_path(&record.kid) == *path))
            .collect();
        Ok(Found { keys, strangers })
    }

    fn key_files(&self) -> Result<Vec<PathBuf>, DirectoryError> {
        let unreadable = || io_error("read the folder", &self.path);
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(unreadable())? {
            let path = entry.map_err(unreadable())?.path();
            if path.extension().is_some_and(|extension| extension == "pem") {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }

    fn load_state(&self) -> Result<Option<State>, DirectoryError> {
        let path = self.state_path();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        let state: State =
            serde_json::from_slice(&text).map_err(|error| self.bad_state(error.to_string()))?;
        if state.version != 1 {
            return Err(self.bad_state(format!(
                "it has version {}, and this program knows version 1",
                state.version
            )));
        }
        Ok(Some(state))
    }

    fn bad_state(&self, reason: String) -> DirectoryError {
        DirectoryError::State { path: self.state_path(), reason }
    }

    /// Makes a new private key durable.
    pub(crate) fn save_key(&self, key: &SigningKey) -> Result<(), DirectoryError> {
        let path = self.key_path(key.kid());
        let pem =
            key.to_pem().map_err(|source| DirectoryError::Key { path: path.clone(), source })?;
        atomic_file::replace(&path, pem.as_bytes(), atomic_file::PRIVATE)
            .map_err(io_error("write", &path))
    }

    /// Records which key is in which state.
    pub(crate) fn save_state(&self, records: Vec<Record>) -> Result<(), DirectoryError> {
        let path = self.state_path();
        let state = State { version: 1, keys: records };
        let text = serde_json::to_vec_pretty(&state).map_err(|e| self.bad_state(e.to_string()))?;
        atomic_file::replace(&path, &text, atomic_file::PRIVATE).map_err(io_error("write", &path))
    }

    /// Removes a private key that signs nothing any more.
    pub(crate) fn delete_key(&self, kid: &str) -> Result<(), DirectoryError> {
        let path = self.key_path(kid);
        match fs::remove_file(&path) {
            Ok(()) => atomic_file::sync_folder(&self.path).map_err(io_error("sync", &self.path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(io_error("remove", &path)(error)),
        }
    }
}

fn adopt(
    files: Vec<PathBuf>,
    algorithm: SigningAlgorithm,
    now: i64,
    stay: u64,
) -> Result<Vec<(Record, SigningKey)>, DirectoryError> {
    let mut dated = Vec::new();
    for path in files {
        let modified = fs::metadata(&path)
            .and_then(|metadata| metadata.modified())
            .map_err(io_error("read", &path))?;
        let candidates = [
            algorithm,
            SigningAlgorithm::Rs256,
            SigningAlgorithm::Es256,
            SigningAlgorithm::Es384,
            SigningAlgorithm::EdDsa,
        ];
        dated.push((modified, read_key(&path, &candidates)?));
    }
    dated.sort_by_key(|(modified, _)| std::cmp::Reverse(*modified));
    let gone_at = now.saturating_add_unsigned(stay);
    Ok(dated
        .into_iter()
        .enumerate()
        .map(|(index, (_, key))| {
            let life = if index == 0 { Life::Signing } else { Life::Retiring { gone_at } };
            let record = Record {
                kid: key.kid().to_owned(),
                algorithm: key.algorithm().as_str().to_owned(),
                created: now,
                longest_lifetime: stay,
                signing_since: None,
                life,
            };
            (record, key)
        })
        .collect())
}

/// Reads a private key for the first of `algorithms` that it fits.
pub(crate) fn read_key(
    path: &Path,
    algorithms: &[SigningAlgorithm],
) -> Result<SigningKey, DirectoryError> {
    let mode = fs::metadata(path).map_err(io_error("read", path))?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(DirectoryError::Mode { path: path.into(), mode });
    }
    let pem = zeroize::Zeroizing::new(fs::read(path).map_err(io_error("read", path))?);
    let mut result = Err(KeyError::Pem);
    for algorithm in algorithms {
        result = SigningKey::from_pem(&pem, *algorithm);
        if result.is_ok() {
            break;
        }
    }
    result.map_err(|source| DirectoryError::Key { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;
    use crate::config::RsaBits;

    const ES256: SigningAlgorithm = SigningAlgorithm::Es256;

    fn key() -> SigningKey {
        SigningKey::generate(ES256, RsaBits::B2048).unwrap()
    }

    fn record(key: &SigningKey, life: Life) -> Record {
        Record {
            kid: key.kid().into(),
            algorithm: "ES256".into(),
            created: 0,
            longest_lifetime: 60,
            signing_since: None,
            life,
        }
    }

    #[test]
    fn keys_and_their_states_survive_a_restart() {
        let root = tempfile::tempdir().unwrap();
        let directory = KeyDirectory::open(&root.path().join("keys")).unwrap();
        assert!(directory.load(ES256, 0, 60).unwrap().keys.is_empty());
        let (first, second) = (key(), key());
        directory.save_key(&first).unwrap();
        directory.save_key(&second).unwrap();
        let records =
            vec![record(&first, Life::Signing), record(&second, Life::Announced { signs_at: 7 })];
        directory.save_state(records.clone()).unwrap();
        let found = directory.load(ES256, 0, 60).unwrap();
        assert_eq!(found.keys.iter().map(|(r, _)| r.clone()).collect::<Vec<_>>(), records);
        // What nobody named is told, not used and not removed.
        directory.save_key(&key()).unwrap();
        assert_eq!(directory.load(ES256, 0, 60).unwrap().strangers.len(), 1);
    }

    #[test]
    fn k9_a_key_that_others_can_read_stops_the_start() {
        let root = tempfile::tempdir().unwrap();
        let directory = KeyDirectory::open(&root.path().join("keys")).unwrap();
        let key = key();
        directory.save_key(&key).unwrap();
        let path = directory.key_path(key.kid());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        for bad in [0o640, 0o604, 0o644, 0o620] {
            fs::set_permissions(&path, Permissions::from_mode(bad)).unwrap();
            let error = directory.load(ES256, 0, 60).err().unwrap();
            assert!(error.to_string().starts_with("key_file_mode:"), "{error}");
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
    }

    #[test]
    fn without_a_state_file_the_newest_key_signs_and_the_others_retire() {
        let root = tempfile::tempdir().unwrap();
        let directory = KeyDirectory::open(root.path()).unwrap();
        let (old, new) = (key(), key());
        for (key, seconds) in [(&old, 1_000), (&new, 2_000)] {
            directory.save_key(key).unwrap();
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            let file = fs::File::open(directory.key_path(key.kid())).unwrap();
            file.set_modified(time).unwrap();
        }
        let found = directory.load(SigningAlgorithm::Rs256, 100, 60).unwrap().keys;
        assert_eq!((found[0].1.kid(), &found[0].0.life), (new.kid(), &Life::Signing));
        assert_eq!(found[1].0.life, Life::Retiring { gone_at: 160 });
    }

    #[test]
    fn a_damaged_state_file_is_an_error_and_not_a_new_key() {
        let root = tempfile::tempdir().unwrap();
        let directory = KeyDirectory::open(root.path()).unwrap();
        let key = key();
        directory.save_key(&key).unwrap();
        for text in ["", "{", "{\"version\":2,\"keys\":[]}", "{\"version\":1,\"keys\":[]}"] {
            fs::write(directory.state_path(), text).unwrap();
            let error = directory.load(ES256, 0, 60).err().unwrap();
            assert!(matches!(error, DirectoryError::State { .. }), "{text}: {error}");
        }
        directory.save_state(vec![record(&key, Life::Signing)]).unwrap();
        directory.delete_key(key.kid()).unwrap();
        assert!(directory.load(ES256, 0, 60).is_err());
    }
}
