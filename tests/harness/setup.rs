//! Where the things are that the tests need.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The repository.
#[must_use]
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the repository")
}

/// What an operator copies.
#[must_use]
pub fn conf_dir() -> PathBuf {
    repository().join("conf")
}

/// The folder with the module and the programs.
///
/// # Panics
/// If it is not there.
#[must_use]
pub fn build_dir() -> PathBuf {
    let dir = std::env::var_os("JWTUNNEL_BUILD_DIR")
        .map_or_else(|| repository().join("build"), PathBuf::from);
    dir.canonicalize()
        .unwrap_or_else(|error| panic!("{}: {error}; `make build` makes it", dir.display()))
}

/// One of the programs that `make build` leaves.
///
/// # Panics
/// If it is not there.
#[must_use]
pub fn built(name: &str) -> PathBuf {
    let path = build_dir().join(name);
    assert!(path.is_file(), "there is no {}: `make build` makes it", path.display());
    path
}

/// Whether nginx runs on this machine itself rather than in Docker.
pub(crate) fn is_host() -> bool {
    std::env::var_os("NGINX").is_some_and(|value| value == "host")
}

/// The Docker image with nginx and the module.
pub(crate) fn image() -> &'static str {
    static IMAGE: OnceLock<String> = OnceLock::new();
    IMAGE.get_or_init(|| {
        std::env::var("JWTUNNEL_TEST_IMAGE")
            .unwrap_or_else(|_| script("test-image.sh", &[&build_dir().display().to_string()]))
    })
}

/// Runs a script of the repository and returns the one line that it prints.
pub(crate) fn script(name: &str, arguments: &[&str]) -> String {
    let path = repository().join("scripts").join(name);
    let output = Command::new(&path)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(
        output.status.success(),
        "{} failed: {}",
        path.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

/// Tells the reader of a failed test's output something.
#[expect(clippy::print_stderr, reason = "this is where a test's output goes")]
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}
