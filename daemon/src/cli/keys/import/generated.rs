//! The file with generated keys. It is complete and durable before the first of them is sent, so no key is ever
//! registered that nobody has; and what it holds is used again by the same command, which so goes on.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::super::generate;
use super::table::{Row, Table};
use crate::atomic_file;
use crate::cli::UsageError;
use crate::secret::Secret;

/// The header; the file can itself be imported.
const HEADER: &str = "key,identifier,rotate";

/// Keys for the lines that have none, in their order.
pub(super) struct Generated {
    path: PathBuf,
    table: Table<BufReader<File>>,
}

impl Generated {
    /// # Errors
    /// The file's, or that it is not one of ours, or that others can read it.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let place = || format!("--out {}", path.display());
        let file = File::open(path).with_context(place)?;
        let mode = file.metadata().with_context(place)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            let text = format!(
                "{}: other users can read the keys in it (mode {mode:04o}); run chmod 600, or name another file",
                place()
            );
            return Err(UsageError(text).into());
        }
        match Table::open(BufReader::new(file)).with_context(place)? {
            Ok(table) => Ok(Self { path: path.into(), table }),
            Err(mistakes) => Err(foreign(path, &mistakes[0]).into()),
        }
    }

    /// The key for `row`.
    ///
    /// # Errors
    /// When the file holds none, or for another client.
    pub(super) fn key_for(&mut self, row: &Row) -> anyhow::Result<Secret> {
        let found =
            match self.table.next().with_context(|| format!("--out {}", self.path.display()))? {
                Some(Ok(found)) => found,
                Some(Err(mistakes)) => return Err(foreign(&self.path, &mistakes[0]).into()),
                None => {
                    let why = format!("it has no key for line {}", row.line);
                    return Err(foreign(&self.path, &why).into());
                }
            };
        let why = format!("its line {} is not for line {}", found.line, row.line);
        match found.key {
            Some(key) if found.identifier == row.identifier && found.rotate == row.rotate => {
                Ok(key)
            }
            _ => Err(foreign(&self.path, &why).into()),
        }
    }

    /// # Errors
    /// When there are more keys than lines without one.
    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        match self.table.next().with_context(|| format!("--out {}", self.path.display()))? {
            None => Ok(()),
            Some(_) => {
                Err(foreign(&self.path, &"it has more keys than there are lines without one")
                    .into())
            }
        }
    }
}

fn foreign(path: &Path, why: &dyn std::fmt::Display) -> UsageError {
    UsageError(format!(
        "--out {}: the file exists, and is not that of an earlier run of this import: {why}; name a new file \
         (this one may hold the only copy of keys)",
        path.display()
    ))
}

/// Writes a file with a key for each of `rows`. Nothing is there before all of it is.
///
/// # Errors
/// The disk's, or those of `rows`.
pub(super) fn write(
    path: &Path,
    mut rows: impl FnMut() -> anyhow::Result<Option<Row>>,
) -> anyhow::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let place = || format!("--out {}: cannot write the generated keys", path.display());
    // For its owner alone from the beginning.
    let mut file = tempfile::Builder::new()
        .prefix(".jwtunnel-import-")
        .permissions(std::fs::Permissions::from_mode(atomic_file::PRIVATE))
        .tempfile_in(folder)
        .with_context(place)?;
    let mut out = BufWriter::new(file.as_file_mut());
    writeln!(out, "{HEADER}").with_context(place)?;
    while let Some(row) = rows()? {
        if row.key.is_none() {
            let key = generate()?;
            let Row { identifier, rotate, .. } = row;
            writeln!(out, "{},{identifier},{rotate}", key.expose()).with_context(place)?;
        }
    }
    out.flush().and_then(|()| out.get_ref().sync_all()).with_context(place)?;
    drop(out);
    let kept = file
        .persist_noclobber(path)
        .map_err(|error| error.error)
        .and_then(|_| atomic_file::sync_folder(folder));
    kept.with_context(place)
}
