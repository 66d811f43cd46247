//! What reads untrusted bytes, each as a function of bytes that must not panic whatever they are, and that checks its
//! own result where another way to it exists.
//!
//! `make fuzz` runs them under libFuzzer (`fuzz/`, with the feature `fuzzing`), the test below with every input that is
//! kept in `fuzz/corpus/`. An input that once found a fault stays there. The functions for what only one module knows
//! are in that module's own `fuzz.rs`.

mod tokens;

use std::path::Path;

use crate::config::{Environment, Loaded};

pub use crate::http::fuzz::rest_body;
pub use crate::tunnel::fuzz::{bson_control, dest_policy, operator_body, state_file, ws_frames};
pub use tokens::{base64url, claim_path, json_strict, jwks, token};

/// What takes any bytes.
pub type Target = fn(&[u8]);

/// Every target by the name of its folder.
pub const TARGETS: [(&str, Target); 12] = [
    ("base64url", base64url),
    ("bson_control", bson_control),
    ("claim_path", claim_path),
    ("config_file", config_file),
    ("dest_policy", dest_policy),
    ("json_strict", json_strict),
    ("jwks", jwks),
    ("operator_body", operator_body),
    ("rest_body", rest_body),
    ("state_file", state_file),
    ("token", token),
    ("ws_frames", ws_frames),
];

/// `jwtunneld.toml`: read, or refused with problems that can be shown.
pub fn config_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Loaded::parse(Path::new("t.toml"), text, &Environment::new()) {
        Ok(loaded) => {
            // What `--check` prints is TOML again.
            let given = loaded.effective.iter().filter(|setting| setting.value != "(not set)");
            for setting in given {
                let line = format!("{} = {}", setting.key, setting.value);
                assert!(line.parse::<toml::Table>().is_ok(), "[{}] {line}", setting.section);
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// The lines of an input that stands for several texts; those that are missing are empty.
pub(crate) fn lines<const COUNT: usize>(data: &[u8]) -> Option<[&str; COUNT]> {
    let mut lines = std::str::from_utf8(data).ok()?.splitn(COUNT, '\n');
    Some(std::array::from_fn(|_| lines.next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_input_that_is_kept_is_taken_by_its_target() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        let mut folders: Vec<String> = fs::read_dir(&corpus)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        folders.sort();
        assert_eq!(folders, TARGETS.map(|(name, _)| name.to_owned()), "one folder for each target");
        for (name, target) in TARGETS {
            let mut inputs = 0;
            for entry in fs::read_dir(corpus.join(name)).unwrap() {
                let path = entry.unwrap().path();
                let data = fs::read(&path).unwrap();
                let taken = std::panic::catch_unwind(|| target(&data));
                assert!(taken.is_ok(), "{}", path.display());
                inputs += 1;
            }
            assert!(inputs >= 3, "{name}: {inputs} inputs");
            // The shortest input is nobody's to forget.
            target(b"");
        }
        for file in fs::read_dir(corpus.join("../fuzz_targets")).unwrap() {
            let file = file.unwrap().path();
            let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
            assert!(folders.contains(&name), "{name} has no folder");
            let text = fs::read_to_string(&file).unwrap();
            assert!(text.contains(&format!("jwtunnel::fuzz::{name}(data)")), "{name}");
        }
    }
}
