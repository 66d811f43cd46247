//! Certificates for tests, made anew each time.

use std::path::Path;
use std::process::Command;

/// Makes `NAME.pem` and `NAME.key` in `folder`: a certificate for 127.0.0.1 that is its own authority.
///
/// # Panics
/// If openssl does not.
pub fn self_signed(folder: &Path, name: &str) {
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"])
        .args(["-subj", &format!("/CN={name}"), "-addext", "subjectAltName=IP:127.0.0.1"])
        // What shows a certificate must not be an authority for rustls; nginx takes one as such all the same.
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.pem")])
        .current_dir(folder)
        .output()
        .expect("openssl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
