//! The files that an operator copies are accepted by the programs that read them.

use std::fs;
use std::process::Command;

use system_tests::{NginxBuilder, Scratch, SigningKey, built, conf_dir, jwks};

#[test]
fn nginx_accepts_the_shipped_configuration() {
    let check = NginxBuilder::new().jwks(&jwks(&[&SigningKey::generate("a")])).check();
    assert!(check.accepted, "{}", check.output);
    assert!(!check.output.contains("[warn]"), "{}", check.output);
}

#[test]
fn the_daemon_accepts_its_shipped_configuration() {
    // The paths are those of an installation; --check looks at their folders, so they become ours.
    let scratch = Scratch::new();
    let text = fs::read_to_string(conf_dir().join("jwtunneld.toml")).expect("the file");
    let text = text.replace("/var/lib/jwtunnel", &scratch.path().display().to_string());
    scratch.replace("jwtunneld.toml", text.as_bytes());
    let check = Command::new(built("jwtunneld"))
        .arg("--check")
        .arg("--config")
        .arg(scratch.join("jwtunneld.toml"))
        .output()
        .expect("jwtunneld");
    let output = String::from_utf8(check.stdout).expect("text");
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    assert!(!output.contains("# warning"), "{output}");
    // Every setting that there is stands in the file, commented out if it has no default.
    for line in output.lines().filter(|line| line.contains(" = ")) {
        let key = line.split(" = ").next().expect("a key");
        let named = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{key} = "));
        assert!(text.lines().any(named), "conf/jwtunneld.toml does not explain {key}");
    }
}

#[test]
fn a_mistake_in_the_configuration_names_its_place_and_remedy() {
    let scratch = Scratch::new();
    for (text, parts) in [
        ("[keys]\nalgorithm = \"RS255\"\n", ["jwtunneld.toml", "2", "algorithm", "\"RS256\""]),
        ("[keys]\nalgoritm = \"RS256\"\n", ["jwtunneld.toml", "2", "algoritm", "algorithm"]),
        ("[jwthenticator]\njwt_lifetime = 5\n", ["jwtunneld.toml", "2", "jwt_lifetime", "\"30s\""]),
        ("[netunnel\n", ["jwtunneld.toml", "1", "", ""]),
    ] {
        scratch.replace("jwtunneld.toml", text.as_bytes());
        let output = Command::new(built("jwtunneld"))
            .arg("--config")
            .arg(scratch.join("jwtunneld.toml"))
            .output()
            .expect("jwtunneld");
        assert_eq!(output.status.code(), Some(2), "{text}");
        let said = String::from_utf8(output.stderr).expect("text");
        for part in parts {
            assert!(said.contains(part), "{text}: {said} lacks {part}");
        }
    }
}

/// `systemd-analyze` looks whether the program exists, so the unit names the one that was built.
fn unit() -> (Scratch, String) {
    let scratch = Scratch::new();
    let text = fs::read_to_string(conf_dir().join("jwtunneld.service")).expect("the unit");
    let program = built("jwtunneld").display().to_string();
    let text = text.replace("/usr/bin/jwtunneld", &program);
    scratch.replace("jwtunneld.service", text.as_bytes());
    let path = scratch.join("jwtunneld.service").display().to_string();
    (scratch, path)
}

#[test]
fn systemd_accepts_the_unit() {
    let (_scratch, path) = unit();
    let output = Command::new("systemd-analyze").args(["verify", &path]).output().expect("systemd");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // It also speaks of other units of this machine, which are not ours to judge.
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("jwtunneld")).collect();
    assert!(ours.is_empty(), "{said}");
    assert!(output.status.success(), "{said}");
}

#[test]
fn the_unit_is_exposed_to_two_at_most() {
    let (_scratch, path) = unit();
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=yes", "--threshold=20", "--no-pager", &path])
        .output()
        .expect("systemd");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("Overall exposure level"), "{said}");
    assert!(output.status.success(), "{said}");
}
