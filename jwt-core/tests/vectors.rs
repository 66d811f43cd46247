//! The verdicts of the vector file that the project keeps beside its design (its README tells the format).

use std::path::PathBuf;
use std::{env, fs};

use jwt_core::{JwkSet, Policy, verify};
use serde_json::Value;

/// Needs the folder, which is not part of this repository: `JWTUNNEL_VECTORS=… cargo test -- --ignored`.
/// `make test` runs it wherever the variable is set, and CI always does.
#[test]
#[ignore = "needs JWTUNNEL_VECTORS, the folder of tokens.jsonl"]
fn every_vector_gets_its_verdict() {
    let folder =
        env::var_os("JWTUNNEL_VECTORS").expect("JWTUNNEL_VECTORS names the vectors' folder");
    let path = PathBuf::from(folder).join("tokens.jsonl");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (mut accepted, mut rejected, mut wrong) = (0, 0, Vec::new());
    for line in text.lines() {
        let vector: Value = serde_json::from_str(line).expect("a vector is JSON");
        let now = vector["now"].as_i64().unwrap_or(0);
        let token = vector["token"].as_str().expect("token");
        let verdict = JwkSet::parse(vector["jwks"].to_string().as_bytes())
            .map_err(|e| e.to_string())
            .and_then(|keys| {
                verify(token.as_bytes(), &keys, &Policy::default(), now).map_err(|e| e.to_string())
            });
        // Ed448 is the one optional algorithm that we leave out.
        let ed448 = vector["optional_alg"] == true && vector["jwks"].to_string().contains("Ed448");
        match (vector["expect"].as_str().expect("expect"), &verdict) {
            ("accept", Ok(_)) => accepted += 1,
            ("accept", Err(_)) if ed448 => {}
            ("reject", Err(_)) => rejected += 1,
            ("either", _) => {}
            (expect, _) => wrong.push(format!(
                "{}: expected {expect}, got {}",
                vector["id"],
                verdict.map_or_else(|e| e, |_| "accept".to_owned())
            )),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(accepted >= 90 && rejected >= 500, "{accepted} accepted, {rejected} rejected: too few");
}
