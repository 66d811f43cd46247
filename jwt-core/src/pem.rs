//! Public keys in PEM (RFC 7468 §13): SubjectPublicKeyInfo (RFC 5280 §4.1.2.7) and PKCS #1 (RFC 8017 §A.1.1). It takes the
//! key's numbers out; whether they make a key is for `jwk` and the library to say. It reads no certificates and no
//! private keys.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::error::JwkError;

/// The numbers of an RSA public key (RFC 8017 §3.1), big-endian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RsaNumbers {
    /// The modulus, without leading zeros.
    pub n: Vec<u8>,
    /// The public exponent, without leading zeros.
    pub e: Vec<u8>,
}

impl RsaNumbers {
    /// Reads a text with one PEM block, `PUBLIC KEY` or `RSA PUBLIC KEY`, and nothing else but white space around it.
    /// Whether the numbers make a key is not judged.
    ///
    /// # Errors
    /// [`JwkError::Pem`] where that is no PEM, [`JwkError::Type`] for a key of another type, [`JwkError::Value`] where
    /// the block holds no key.
    pub fn from_pem(text: &str) -> Result<Self, JwkError> {
        let PublicKey::Rsa { n, e } = PublicKey::from_pem(text)? else {
            return Err(JwkError::Type);
        };
        let stripped = |number: Vec<u8>| number.into_iter().skip_while(|byte| *byte == 0).collect();
        Ok(Self { n: stripped(n), e: stripped(e) })
    }
}

/// The parts of a public key.
#[derive(Debug)]
pub(crate) enum PublicKey {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    Ec {
        /// As a JWK names it.
        crv: &'static str,
        /// Uncompressed (SEC 1 §2.3.3).
        point: Vec<u8>,
    },
    Ed25519(Vec<u8>),
}

impl PublicKey {
    /// Reads a text with one PEM block and nothing else but white space around it.
    pub(crate) fn from_pem(text: &str) -> Result<Self, JwkError> {
        let block = |label: &str| {
            let body = text.trim_ascii().strip_prefix(&*format!("-----BEGIN {label}-----"))?;
            body.strip_suffix(&*format!("-----END {label}-----"))
        };
        if let Some(body) = block("PUBLIC KEY") {
            subject_public_key_info(&decode(body)?)
        } else if let Some(body) = block("RSA PUBLIC KEY") {
            rsa(&decode(body)?).ok_or(JwkError::Value)
        } else {
            Err(JwkError::Pem)
        }
    }
}

fn decode(body: &str) -> Result<Vec<u8>, JwkError> {
    let text: Vec<u8> = body.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    STANDARD.decode(text).map_err(|_| JwkError::Pem)
}

// Tags of DER (X.690 §8).
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const NULL: &[u8] = &[0x05, 0x00];
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;

/// 1.2.840.113549.1.1.1 (RFC 3279 §2.3.1)
const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// 1.2.840.10045.2.1 (RFC 5480 §2.1.1)
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// 1.3.101.112 (RFC 8410 §3)
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
/// Named curves (RFC 5480 §2.1.1.1, SEC 2 §A.2.1) and the sizes of their fields in bytes.
const CURVES: [(&[u8], &str, usize); 4] = [
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07], "P-256", 32),
    (&[0x2b, 0x81, 0x04, 0x00, 0x22], "P-384", 48),
    (&[0x2b, 0x81, 0x04, 0x00, 0x23], "P-521", 66),
    (&[0x2b, 0x81, 0x04, 0x00, 0x0a], "secp256k1", 32),
];

fn subject_public_key_info(der: &[u8]) -> Result<PublicKey, JwkError> {
    let (oid, parameters, key) = info_parts(der).ok_or(JwkError::Value)?;
    match oid {
        RSA_ENCRYPTION if parameters == NULL => rsa(key).ok_or(JwkError::Value),
        EC_PUBLIC_KEY => {
            let (curve, rest) = element(parameters, OBJECT_IDENTIFIER).ok_or(JwkError::Value)?;
            let known = CURVES.iter().find(|(oid, ..)| *oid == curve);
            let &(_, crv, size) = known.ok_or(JwkError::Type)?;
            // As from a JWK: only the uncompressed form, which gives both coordinates.
            if !rest.is_empty() || key.len() != 1 + 2 * size || key[0] != 0x04 {
                return Err(JwkError::Value);
            }
            Ok(PublicKey::Ec { crv, point: key.to_vec() })
        }
        ED25519 if parameters.is_empty() && key.len() == 32 => Ok(PublicKey::Ed25519(key.to_vec())),
        RSA_ENCRYPTION | ED25519 => Err(JwkError::Value),
        _ => Err(JwkError::Type),
    }
}

/// Algorithm, its parameters in DER, and the key's bits.
fn info_parts(der: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (algorithm, rest) = element(whole(der, SEQUENCE)?, SEQUENCE)?;
    let (oid, parameters) = element(algorithm, OBJECT_IDENTIFIER)?;
    // The first byte is the number of unused bits at the end: none in a key.
    let key = whole(rest, BIT_STRING)?.strip_prefix(&[0])?;
    Some((oid, parameters, key))
}

fn rsa(der: &[u8]) -> Option<PublicKey> {
    let (n, rest) = element(whole(der, SEQUENCE)?, INTEGER)?;
    let e = whole(rest, INTEGER)?;
    // The first bit is the sign; neither number is negative.
    let positive = |number: &[u8]| number.first().is_some_and(|byte| byte & 0x80 == 0);
    (positive(n) && positive(e)).then(|| PublicKey::Rsa { n: n.to_vec(), e: e.to_vec() })
}

/// The content of the one element that `der` is.
fn whole(der: &[u8], tag: u8) -> Option<&[u8]> {
    element(der, tag).filter(|(_, rest)| rest.is_empty()).map(|(content, _)| content)
}

/// The content of the first element, which must have this `tag`, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (length, rest) = match *der.strip_prefix(&[tag])? {
        [length @ 0..=0x7f, ref rest @ ..] => (usize::from(length), rest),
        // X.690 §10.1: the shortest form of a length alone is DER. Two bytes are far above any key's.
        [0x81, length @ 0x80..=0xff, ref rest @ ..] => (usize::from(length), rest),
        [0x82, high @ 1..=0xff, low, ref rest @ ..] => {
            (usize::from(u16::from_be_bytes([high, low])), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of RFC 8410 §10.1.
    const ED: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";

    fn pem(label: &str, der: &[u8]) -> String {
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
    }

    fn sequence(parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let length = u8::try_from(content.len()).expect("short");
        [&[SEQUENCE, length][..], &content].concat()
    }

    #[test]
    fn a_published_key_is_read() {
        let Ok(PublicKey::Ed25519(key)) = PublicKey::from_pem(ED) else { panic!("Ed25519") };
        assert_eq!((key[0], key[31], key.len()), (0x19, 0xe1, 32));
        assert!(PublicKey::from_pem(&ED.replace('\n', "\r\n")).is_ok());
        assert!(PublicKey::from_pem(&format!("\n {ED}")).is_ok());
    }

    #[test]
    fn texts_that_are_no_pem() {
        for text in [
            String::new(),
            "secret".to_owned(),
            ED.replace("BEGIN", "BEGINS"),
            ED.replace("PUBLIC KEY", "PRIVATE KEY"),
            ED.replace("PUBLIC KEY", "CERTIFICATE"),
            ED.replace("END PUBLIC KEY", "END RSA PUBLIC KEY"),
            ED.replace("MCow", "MCo*"),
            ED.replace("ZuE=", "ZuE"),
            format!("{ED}{ED}"),
            format!("comment\n{ED}"),
        ] {
            assert_eq!(PublicKey::from_pem(&text).map(|_| ()), Err(JwkError::Pem), "{text}");
        }
    }

    #[test]
    fn der_that_is_no_key() {
        let der = STANDARD
            .decode("MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=")
            .expect("base64");
        let read = |der: &[u8]| PublicKey::from_pem(&pem("PUBLIC KEY", der)).map(|_| ());
        assert_eq!(read(&der), Ok(()));
        for length in 0..der.len() {
            assert_eq!(read(&der[..length]), Err(JwkError::Value), "{length}");
        }
        assert_eq!(read(&[&der[..], &[0]].concat()), Err(JwkError::Value));
        // A length that could be written shorter.
        assert_eq!(read(&[&[SEQUENCE, 0x81], &der[1..]].concat()), Err(JwkError::Value));
        assert_eq!(read(&[&[SEQUENCE, 0x82, 0], &der[1..]].concat()), Err(JwkError::Value));
        let x25519 = [&der[..8], &[0x6e], &der[9..]].concat();
        assert_eq!(read(&x25519), Err(JwkError::Type));
        let unused_bits = [&der[..11], &[1], &der[12..]].concat();
        assert_eq!(read(&unused_bits), Err(JwkError::Value));
    }

    #[test]
    fn elliptic_curves() {
        let read = |curve: &[u8], point: &[u8]| {
            let oid = |oid: &[u8]| [&[OBJECT_IDENTIFIER, oid.len() as u8], oid].concat();
            let bits = [&[BIT_STRING, point.len() as u8 + 1, 0], point].concat();
            let der = sequence(&[&sequence(&[&oid(EC_PUBLIC_KEY), &oid(curve)]), &bits]);
            PublicKey::from_pem(&pem("PUBLIC KEY", &der)).map(|_| ())
        };
        let uncompressed = [&[4][..], &[1; 64]].concat();
        assert_eq!(read(CURVES[0].0, &uncompressed), Ok(()));
        assert_eq!(read(CURVES[3].0, &uncompressed), Ok(()));
        assert_eq!(read(CURVES[1].0, &uncompressed), Err(JwkError::Value));
        assert_eq!(read(CURVES[0].0, &[&[2][..], &[1; 32]].concat()), Err(JwkError::Value));
        assert_eq!(read(&[0x2b, 0x81, 0x04, 0x00, 0x01], &uncompressed), Err(JwkError::Type));
    }

    #[test]
    fn rsa_numbers() {
        let read = |der: &[u8]| PublicKey::from_pem(&pem("RSA PUBLIC KEY", der));
        let Ok(PublicKey::Rsa { n, e }) = read(&sequence(&[&[2, 2, 0, 0x80], &[2, 1, 3]])) else {
            panic!("RSA")
        };
        assert_eq!((n, e), (vec![0, 0x80], vec![3]));
        let good = pem("RSA PUBLIC KEY", &sequence(&[&[2, 2, 0, 0x80], &[2, 1, 3]]));
        let numbers = RsaNumbers { n: vec![0x80], e: vec![3] };
        assert_eq!(RsaNumbers::from_pem(&good), Ok(numbers));
        assert_eq!(RsaNumbers::from_pem(ED), Err(JwkError::Type));
        for der in [
            sequence(&[&[2, 1, 0x80], &[2, 1, 3]]),
            sequence(&[&[2, 1, 5], &[2, 1, 0x83]]),
            sequence(&[&[2, 0], &[2, 1, 3]]),
            sequence(&[&[2, 1, 5]]),
            sequence(&[&[2, 1, 5], &[2, 1, 3], &[2, 1, 3]]),
            sequence(&[&[4, 1, 5], &[2, 1, 3]]),
        ] {
            assert_eq!(read(&der).map(|_| ()), Err(JwkError::Value), "{der:?}");
        }
    }
}
