//! Which algorithm a key is good for: header's `alg` x key x what the location lists.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P256K1_SHA256_FIXED_SIGNING,
    ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
    RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use system_tests::{Nginx, NginxBuilder, ask_raw, eventually, now};

/// The algorithms of mod 4.4 but Ed448, which the library for cryptography does not have.
const ALGORITHMS: [&str; 14] = [
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256",
    "ES384", "ES512", "ES256K", "EdDSA",
];

/// One private key of each type.
struct Keys {
    secret: [u8; 64],
    rsa: RsaKeyPair,
    /// P-256, P-384, P-521, secp256k1.
    curves: [EcdsaKeyPair; 4],
    ed25519: Ed25519KeyPair,
}

impl Keys {
    fn generate() -> Self {
        let curve = |algorithm| EcdsaKeyPair::generate(algorithm).expect("a key");
        Self {
            secret: [7; 64],
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).expect("a key"),
            curves: [
                curve(&ECDSA_P256_SHA256_FIXED_SIGNING),
                curve(&ECDSA_P384_SHA384_FIXED_SIGNING),
                curve(&ECDSA_P521_SHA512_FIXED_SIGNING),
                curve(&ECDSA_P256K1_SHA256_FIXED_SIGNING),
            ],
            ed25519: Ed25519KeyPair::generate().expect("a key"),
        }
    }

    fn curve(&self, algorithm: &str) -> (&EcdsaKeyPair, &'static str) {
        let (place, name) = match algorithm {
            "ES256" => (0, "P-256"),
            "ES384" => (1, "P-384"),
            "ES512" => (2, "P-521"),
            _ => (3, "secp256k1"),
        };
        (&self.curves[place], name)
    }

    /// The key for this algorithm as a JWK, without `kid` and `alg`.
    fn jwk(&self, algorithm: &str) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match family(algorithm) {
            "oct" => json!({"kty": "oct", "k": text(&self.secret)}),
            "RSA" => {
                let key = self.rsa.public_key();
                let n = text(key.modulus().big_endian_without_leading_zero());
                let e = text(key.exponent().big_endian_without_leading_zero());
                json!({"kty": "RSA", "n": n, "e": e})
            }
            "OKP" => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": text(self.ed25519.public_key().as_ref())})
            }
            _ => {
                let (key, name) = self.curve(algorithm);
                // SEC 1 §2.3.3: 04, then the two coordinates.
                let point = &key.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({"kty": "EC", "crv": name, "x": text(x), "y": text(y)})
            }
        }
    }

    /// The best that can be had for a token that says `algorithm`, of the key that is meant for `own`: by that very
    /// algorithm where the key can, else what an attacker would try.
    fn sign(&self, algorithm: &str, own: &str, input: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let used = if family(algorithm) == family(own) || algorithm.starts_with("HS") {
            algorithm
        } else {
            own
        };
        match family(used) {
            "oct" => {
                let hash = match used {
                    "HS256" => hmac::HMAC_SHA256,
                    "HS384" => hmac::HMAC_SHA384,
                    _ => hmac::HMAC_SHA512,
                };
                // With the public key as the secret: what makes HS256 of a confused verifier.
                let public = self.jwk(own).to_string();
                let secret =
                    if family(own) == "oct" { &self.secret[..] } else { public.as_bytes() };
                hmac::sign(&hmac::Key::new(hash, secret), input).as_ref().to_vec()
            }
            "RSA" => {
                let encoding: &'static dyn RsaEncoding = match used {
                    "RS256" => &RSA_PKCS1_SHA256,
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    "PS384" => &RSA_PSS_SHA384,
                    _ => &RSA_PSS_SHA512,
                };
                let mut signature = vec![0; self.rsa.public_modulus_len()];
                self.rsa.sign(encoding, &random, input, &mut signature).expect("a signature");
                signature
            }
            "OKP" => self.ed25519.sign(input).as_ref().to_vec(),
            _ => self.curve(used).0.sign(&random, input).expect("a signature").as_ref().to_vec(),
        }
    }

    /// A token that says `named` in its header, signed as [`Keys::sign`] does for `algorithm`.
    fn token(&self, named: &str, algorithm: &str, own: &str, kid: &str) -> String {
        let header = json!({"alg": named, "kid": kid}).to_string();
        let claims = json!({"sub": "me", "exp": now() + 300}).to_string();
        let input = [header, claims].map(|text| URL_SAFE_NO_PAD.encode(text)).join(".");
        let signature = self.sign(algorithm, own, input.as_bytes());
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// The type of key that an algorithm takes; for a curve the algorithm itself.
fn family(algorithm: &str) -> &str {
    match &algorithm[..2] {
        "HS" => "oct",
        "RS" | "PS" => "RSA",
        "Ed" => "OKP",
        _ => algorithm,
    }
}

fn status(nginx: &Nginx, path: &str, token: &str) -> u16 {
    ask_raw(nginx.port().address(), path, &[("Authorization", &format!("Bearer {token}"))])
}

/// rel:T1, mod 4.4: header's alg x key x list of the location, 588 cells; only the diagonal passes.
#[test]
fn a_token_passes_only_with_the_algorithm_of_its_key_and_its_location() {
    let keys = Keys::generate();
    let set: Vec<Value> = ALGORITHMS
        .iter()
        .map(|alg| {
            let mut jwk = keys.jwk(alg);
            jwk["kid"] = json!(alg);
            jwk["alg"] = json!(alg);
            jwk
        })
        .collect();
    let location = |path: &str, list: &str| {
        format!("location = {path} {{ auth_jwt x; {list} alias DIR/public/jwks.json; }}\n")
    };
    let lists: String = ALGORITHMS
        .iter()
        .map(|alg| {
            let others = ALGORITHMS.map(|other| if other == *alg { "" } else { other }).join(" ");
            location(&format!("/only/{alg}"), &format!("auth_jwt_alg {alg};"))
                + &location(&format!("/others/{alg}"), &format!("auth_jwt_alg {others};"))
        })
        .collect();
    let text = format!(
        "server {{ listen LISTEN; auth_jwt_key_file DIR/public/jwks.json;\n{}{lists} }}",
        location("/any", "")
    );
    let nginx = NginxBuilder::bare(&text).jwks(&json!({"keys": set}).to_string()).start();
    for alg in ALGORITHMS {
        for own in ALGORITHMS {
            let token = keys.token(alg, alg, own, own);
            let paths = ["/any".to_owned(), format!("/only/{alg}"), format!("/others/{alg}")];
            let statuses = paths.each_ref().map(|path| status(&nginx, path, &token));
            let expected = if alg == own { [200, 200, 401] } else { [401, 401, 401] };
            assert_eq!(statuses, expected, "alg {alg}, key for {own}");
        }
    }
    // Each refusal is one of the algorithm.
    let refused = ALGORITHMS.len().pow(2) * 3 - ALGORITHMS.len() * 2;
    eventually("a line for each refusal", || {
        (nginx.error_log().matches("jwt: denied reason=alg status=401 ").count() == refused)
            .then_some(())
    });
    // Names that are none, over a good signature and over none at all.
    for own in ALGORITHMS {
        for named in ["none", "NoNe", "", &own.to_lowercase(), &format!("{own} "), "HS255"] {
            let token = keys.token(named, own, own, own);
            assert_eq!(status(&nginx, "/any", &token), 401, "{named:?} with the key for {own}");
            let (unsigned, _) = token.rsplit_once('.').expect("three parts");
            assert_eq!(status(&nginx, "/any", &format!("{unsigned}.")), 401, "{named:?}, unsigned");
        }
    }
}

/// mod 4.3, 4.4: a key without `alg` permits what its type can; Ed25519 has two names (RFC 9864).
#[test]
fn a_key_without_alg_permits_the_algorithms_of_its_type() {
    let keys = Keys::generate();
    let owners = ["HS256", "RS256", "ES256", "ES384", "ES512", "ES256K", "EdDSA"];
    let set: Vec<Value> = owners
        .iter()
        .map(|own| {
            let mut jwk = keys.jwk(own);
            jwk["kid"] = json!(own);
            jwk
        })
        .collect();
    let nginx = NginxBuilder::bare(
        "server {
            listen LISTEN; auth_jwt_key_file DIR/public/jwks.json; auth_jwt x;
            location = /any { alias DIR/public/jwks.json; }
            location = /old { auth_jwt_alg EdDSA; alias DIR/public/jwks.json; }
            location = /new { auth_jwt_alg Ed25519; alias DIR/public/jwks.json; }
            location /rs {
                auth_jwt_alg RS256;
                location = /rs/any { auth_jwt_alg any; alias DIR/public/jwks.json; }
                alias DIR/public/jwks.json;
            }
        }",
    )
    .jwks(&json!({"keys": set}).to_string())
    .start();
    for alg in ALGORITHMS {
        for own in owners {
            let expected = if family(alg) == family(own) { 200 } else { 401 };
            let token = keys.token(alg, alg, own, own);
            assert_eq!(status(&nginx, "/any", &token), expected, "alg {alg}, key for {own}");
        }
    }
    for name in ["EdDSA", "Ed25519"] {
        let token = keys.token(name, "EdDSA", "EdDSA", "EdDSA");
        let statuses = ["/any", "/old", "/new"].map(|path| status(&nginx, path, &token));
        assert_eq!(statuses, [200, 200, 200], "{name}");
    }
    let token = keys.token("ES256", "ES256", "ES256", "ES256");
    assert_eq!(["/rs", "/rs/any"].map(|path| status(&nginx, path, &token)), [401, 200]);
}
