//! What `jwtunneld --check` looks at besides the configuration's text: whether nginx's workers,
//! which run as a user of their own, can reach the JWKS file.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The first folder on the way to `file` that other users cannot search, with its mode.
///
/// The folder of the file itself is left out, as the daemon sets its mode at every start; folders
/// that do not exist yet are made searchable by the daemon.
///
/// # Errors
/// When the working directory or a folder cannot be looked at.
pub fn unsearchable_parent(file: &Path) -> io::Result<Option<(PathBuf, u32)>> {
    let absolute = std::path::absolute(file)?;
    let parents: Vec<&Path> = absolute.ancestors().skip(2).collect();
    for folder in parents.into_iter().rev() {
        let mode = match folder.metadata() {
            Ok(metadata) => metadata.permissions().mode() & 0o7777,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if mode & 0o001 == 0 {
            return Ok(Some((folder.into(), mode)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    #[test]
    fn a_private_folder_on_the_way_is_named() {
        let root =
            tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().unwrap();
        let file = root.path().join("a/b/jwks.json");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        assert_eq!(unsearchable_parent(&file).unwrap(), None);
        fs::set_permissions(root.path().join("a"), Permissions::from_mode(0o750)).unwrap();
        assert_eq!(unsearchable_parent(&file).unwrap(), Some((root.path().join("a"), 0o750)));
    }
}
