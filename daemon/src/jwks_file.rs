//! The JWKS file: what verifiers such as nginx know about our keys, or about those of another issuer.
//!
//! Replaced atomically, readable by everyone, and serialised from a type that has no private member.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::atomic_file;
use crate::metrics::{FileMetrics, Metrics};
use crate::signing_key::PublicJwks;

/// Writes one JWKS file.
#[derive(Debug, Clone)]
pub struct JwksFile {
    path: PathBuf,
    metrics: FileMetrics,
}

impl JwksFile {
    /// Prepares the folder, mode 0755 whatever the umask, and removes what a killed process left.
    ///
    /// # Errors
    /// When the folder cannot be made or changed.
    pub fn open(path: &Path) -> io::Result<Self> {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        atomic_file::make_folder(folder, 0o755)?;
        atomic_file::remove_leftovers(path)?;
        Ok(Self { path: path.into(), metrics: FileMetrics::new("jwks") })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the file.
    ///
    /// # Errors
    /// When a step fails; the old file is then unchanged.
    pub fn replace(&self, text: &Bytes) -> io::Result<()> {
        self.metrics.wrote(atomic_file::replace(&self.path, text, atomic_file::PUBLIC))
    }

    /// Lets `metrics` show when it was written.
    pub(crate) fn show(&self, metrics: &Metrics) {
        self.metrics.show(metrics);
    }
}

/// The document as bytes, the same for the file and for GET /jwks.
pub fn document(keys: &PublicJwks) -> Bytes {
    serde_json::to_vec(keys).expect("strings and arrays always serialise").into()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn k9_file_and_folder_are_readable_by_others() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("public/jwks.json");
        let file = JwksFile::open(&path).unwrap();
        file.replace(&document(&PublicJwks { keys: Vec::new() })).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o644, 0o755));
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"keys\":[]}");
        // A start repairs modes and removes leftovers.
        fs::set_permissions(path.parent().unwrap(), Permissions::from_mode(0o700)).unwrap();
        fs::write(path.with_file_name(".jwks.json.tmp-x"), "{").unwrap();
        JwksFile::open(&path).unwrap();
        assert_eq!(mode(path.parent().unwrap()), 0o755);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
