//! The state file on disk: one daemon at a time, replaced as a whole, its key in a file of its own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::super::configured::ConfiguredError;
use super::{Document, SecretKey};
use crate::atomic_file::{PRIVATE, make_folder, remove_leftovers, replace};
use crate::config::{Netunnel, StateOverrides};
use crate::secret::Secret;

/// The state file. As long as this lives, no other daemon can open it.
#[derive(Debug)]
pub(in crate::tunnel) struct StateFile {
    path: PathBuf,
    key_file: PathBuf,
    /// The key comes from the configuration and is never written.
    key_given: bool,
    overrides: StateOverrides,
    _lock: File,
}

/// A state file with its content.
#[derive(Debug)]
pub(in crate::tunnel) struct Opened {
    pub(in crate::tunnel) file: StateFile,
    pub(in crate::tunnel) document: Document,
    pub(in crate::tunnel) key: SecretKey,
}

impl Document {
    /// What `config` and its state file say together. Nothing is written.
    ///
    /// # Errors
    /// [`ConfiguredError`], naming the file and what is expected there.
    pub(in crate::tunnel) fn load(config: &Netunnel) -> Result<Self, ConfiguredError> {
        let path = &config.state_file;
        let text = match fs::read_to_string(path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(source) => return Err(ConfiguredError::Read { path: path.into(), source }),
        };
        let merged = Self::merged(&config.state_overrides, text.as_deref());
        merged.map_err(|text| ConfiguredError::State { path: path.into(), text })
    }
}

impl StateFile {
    /// Takes the file for this process, and saves what holds from now on.
    ///
    /// # Errors
    /// [`ConfiguredError`], if another daemon has it, or it or its key cannot be read or written.
    pub(in crate::tunnel) fn open(config: &Netunnel) -> Result<Opened, ConfiguredError> {
        let path = config.state_file.clone();
        let written = |source| ConfiguredError::Write { path: path.clone(), source };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            make_folder(folder, 0o755).map_err(written)?;
        }
        let lock = lock(&path)?;
        let _ = remove_leftovers(&path);
        let mut document = Document::load(config)?;
        let key_file = config.secret_key_file.clone();
        let file = Self {
            path: path.clone(),
            key_file,
            key_given: config.secret_key.is_some(),
            overrides: config.state_overrides.clone(),
            _lock: lock,
        };
        let key = file.key(config.secret_key.as_ref(), &mut document)?;
        file.save(&document).map_err(written)?;
        Ok(Opened { file, document, key })
    }

    /// The key: the configured one, the one that NETunnel left in the file, the one in our key file, a new one.
    fn key(
        &self,
        given: Option<&Secret>,
        document: &mut Document,
    ) -> Result<SecretKey, ConfiguredError> {
        let bad = |path: &Path| {
            let path = path.to_owned();
            move |error: super::InvalidSecretKey| ConfiguredError::State {
                path,
                text: format!("secret key: {error}"),
            }
        };
        if let Some(key) = given {
            return SecretKey::parse(key.expose()).map_err(|_| ConfiguredError::SecretKey);
        }
        // What NETunnel encrypted in this file it encrypted with the key beside it, so that one counts.
        if let Some(text) = document.take_secret_key() {
            let key = SecretKey::parse(&text).map_err(bad(&self.path))?;
            self.write_key(&Secret::new(text)).map_err(|source| self.key_not_written(source))?;
            tracing::info!(event = "secret_key_moved", file = %self.path.display(),
                to = %self.key_file.display(),
                "NETunnel's secret_key is in a file of its own from now on; a Python server needs it back as \
                 NETUNNEL_SECRET_KEY");
            return Ok(key);
        }
        match fs::read_to_string(&self.key_file) {
            Ok(text) => SecretKey::parse(&text).map_err(bad(&self.key_file)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.new_key().map_err(|source| self.key_not_written(source))
            }
            Err(source) => Err(ConfiguredError::Read { path: self.key_file.clone(), source }),
        }
    }

    fn key_not_written(&self, source: io::Error) -> ConfiguredError {
        ConfiguredError::Write { path: self.key_file.clone(), source }
    }

    fn new_key(&self) -> io::Result<SecretKey> {
        let (key, text) = SecretKey::generate();
        self.write_key(&text)?;
        Ok(key)
    }

    fn write_key(&self, key: &Secret) -> io::Result<()> {
        replace(&self.key_file, format!("{}\n", key.expose()).as_bytes(), PRIVATE)
    }

    /// Replaces the file, so that a reader finds the old content or the new.
    pub(in crate::tunnel) fn save(&self, document: &Document) -> io::Result<()> {
        replace(&self.path, &document.text(), PRIVATE)
    }

    /// Keeps a copy of file and key, then puts the defaults and a new key in their place. Gives the copy's path.
    pub(in crate::tunnel) fn reset(&self) -> io::Result<(Document, Option<SecretKey>, PathBuf)> {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let copy_of = |path: &Path| {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".before-reset-{seconds}"));
            PathBuf::from(name)
        };
        let copy = copy_of(&self.path);
        replace(&copy, &fs::read(&self.path)?, PRIVATE)?;
        let document = Document::defaults(&self.overrides).map_err(io::Error::other)?;
        let key = if self.key_given {
            None
        } else {
            replace(&copy_of(&self.key_file), &fs::read(&self.key_file)?, PRIVATE)?;
            Some(self.new_key()?)
        };
        self.save(&document)?;
        Ok((document, key, copy))
    }
}

/// A file of its own: the state file itself is another one after each save.
fn lock(path: &Path) -> Result<File, ConfiguredError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let open =
        OpenOptions::new().create(true).truncate(false).write(true).mode(PRIVATE).open(&name);
    let lock = open.map_err(|source| ConfiguredError::Write { path: name.clone(), source })?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => Err(ConfiguredError::InUse(path.to_owned())),
        Err(fs::TryLockError::Error(source)) => Err(ConfiguredError::Write { path: name, source }),
    }
}
