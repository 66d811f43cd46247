//! A folder for one test.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A folder that nginx's worker, another user, can enter; removed with the value, unless the test fails.
#[derive(Debug)]
pub struct Scratch {
    dir: Option<TempDir>,
    path: PathBuf,
}

impl Scratch {
    /// Makes one.
    ///
    /// # Panics
    /// If that fails; so does everything here, because a test can't go on then.
    #[must_use]
    pub fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("jwtunnel-test-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .expect("a folder under the temporary folder");
        let path = dir.path().to_owned();
        Self { dir: Some(dir), path }
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path in it.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file as the daemon does: under another name first, so that no reader sees a part of it.
    ///
    /// # Panics
    /// If that fails.
    pub fn replace(&self, name: &str, content: &[u8]) {
        let path = self.join(name);
        fs::create_dir_all(path.parent().expect("a file in a folder")).expect("the folder");
        let new = path.with_extension("new");
        fs::write(&new, content).expect("the file");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o644)).expect("its mode");
        fs::rename(&new, &path).expect("the rename");
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What a failed test has left is the best hint at why.
        if std::thread::panicking()
            && let Some(dir) = self.dir.take()
        {
            let kept = dir.keep();
            crate::setup::say(&format!("the failed test's folder is kept: {}", kept.display()));
        }
    }
}
