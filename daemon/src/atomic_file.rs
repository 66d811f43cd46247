//! Replaces a file so that a reader sees the old content or the new, never a part, whenever the
//! process or the machine stops: temporary file in the same folder, fsync, rename, fsync of the
//! folder.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A private file: its owner's only.
pub const PRIVATE: u32 = 0o600;
/// A public file: readable by everyone, such as nginx's workers.
pub const PUBLIC: u32 = 0o644;

/// What has become durable or visible so far; the order is what a power cut relies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Written,
    Synced,
    Renamed,
    FolderSynced,
}

/// Puts `bytes` in place of the file `path`, with exactly the permissions `mode` whatever the umask.
///
/// # Errors
/// When a step fails. The old file is then unchanged, and the temporary one is gone.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    replace_observed(path, bytes, mode, &mut |_| {})
}

fn replace_observed(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    observe: &mut dyn FnMut(Step),
) -> io::Result<()> {
    let temporary = temporary_path(path)?;
    let result = (|| {
        // `create_new` is O_EXCL: a planted file or link is not followed.
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(&temporary)?;
        file.write_all(bytes)?;
        // Not by `mode` above: the umask would apply.
        file.set_permissions(Permissions::from_mode(mode))?;
        observe(Step::Written);
        file.sync_all()?;
        observe(Step::Synced);
        fs::rename(&temporary, path)?;
        observe(Step::Renamed);
        sync_folder(parent(path))?;
        observe(Step::FolderSynced);
        Ok(())
    })();
    if result.is_err() {
        // Gone already if the rename was the last step that worked.
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// Removes temporary files that a killed process left beside `path`.
///
/// # Errors
/// When the folder cannot be read or a file not be removed.
pub fn remove_leftovers(path: &Path) -> io::Result<usize> {
    let prefix = temporary_prefix(path)?;
    let mut removed = 0;
    for entry in fs::read_dir(parent(path))? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(prefix.as_encoded_bytes()) {
            fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Makes `folder` and what is missing above it. Only `folder` itself gets `mode`, and gets it
/// whatever the umask; the ones above are made searchable.
///
/// # Errors
/// When a folder cannot be made, or exists as something else, or its mode not be set.
pub fn make_folder(folder: &Path, mode: u32) -> io::Result<()> {
    if let Some(above) = folder.parent().filter(|p| !p.as_os_str().is_empty())
        && !above.is_dir()
    {
        make_folder(above, 0o755)?;
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
        Err(error) => return Err(error),
    }
    let present = fs::metadata(folder)?.permissions().mode() & 0o7777;
    if present & 0o1000 != 0 {
        // /tmp and its like: shared by everyone, and not ours to change.
        return Err(io::Error::other("the folder is shared by all users; name one of its own"));
    }
    if present != mode {
        fs::set_permissions(folder, Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Makes renames and removals in `folder` durable.
///
/// # Errors
/// When the folder cannot be opened or synced.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn temporary_prefix(path: &Path) -> io::Result<OsString> {
    let name: &OsStr = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut prefix = OsString::from(".");
    prefix.push(name);
    prefix.push(".tmp-");
    Ok(prefix)
}

fn temporary_path(path: &Path) -> io::Result<PathBuf> {
    let mut name = temporary_prefix(path)?;
    name.push(uuid::Uuid::new_v4().simple().to_string());
    Ok(parent(path).join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn f2_the_old_file_stays_until_the_new_one_is_durable() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jwks.json");
        fs::write(&path, "old").unwrap();
        let mut seen = Vec::new();
        replace_observed(&path, b"new", PUBLIC, &mut |step| {
            seen.push((step, fs::read_to_string(&path).unwrap()));
        })
        .unwrap();
        let seen: Vec<_> = seen.iter().map(|(step, text)| (*step, text.as_str())).collect();
        assert_eq!(
            seen,
            [
                (Step::Written, "old"),
                (Step::Synced, "old"),
                (Step::Renamed, "new"),
                (Step::FolderSynced, "new")
            ]
        );
        assert_eq!(mode(&path), 0o644);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn f14_a_failed_replacement_leaves_no_trace() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("occupied");
        fs::create_dir(&path).unwrap();
        replace(&path, b"new", PRIVATE).unwrap_err();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn leftovers_of_this_file_only_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jwks.json");
        for name in [".jwks.json.tmp-1", ".jwks.json.tmp-2", ".other.tmp-1", "jwks.json"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        assert_eq!(remove_leftovers(&path).unwrap(), 2);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn folders_get_their_mode_and_shared_ones_are_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a/b");
        make_folder(&folder, 0o700).unwrap();
        assert_eq!((mode(&root.path().join("a")), mode(&folder)), (0o755, 0o700));
        make_folder(&folder, 0o755).unwrap();
        assert_eq!(mode(&folder), 0o755);
        fs::set_permissions(&folder, Permissions::from_mode(0o1777)).unwrap();
        make_folder(&folder, 0o755).unwrap_err();
        assert_eq!(mode(&folder), 0o1777);
    }
}
