//! One error for each stage. None holds a byte of the token: it can be logged and shown.

use crate::json::ObjectError;

/// Why a text is not a JWS in compact serialization that this crate reads.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompactError {
    /// Longer than [`crate::limits::TOKEN_BYTES`], or than the limit that the caller gave.
    #[error("the token is larger than the limit")]
    TooLarge,
    /// Not exactly three segments separated by two dots (RFC 7515 §7.1).
    #[error("the token does not have three segments")]
    Segments,
    /// Padding, a character outside the alphabet or non-zero trailing bits (RFC 7515 §2, RFC 4648 §3.5).
    #[error("the {0} is not base64url without padding")]
    Base64(&'static str),
    /// The header is not a JSON object.
    #[error("the header is {0}")]
    Header(#[source] ObjectError),
    /// A registered header parameter has the wrong type.
    #[error("the header's {0} has the wrong type or size")]
    Parameter(&'static str),
    /// `alg` is absent, `none`, or not a signature algorithm that this crate knows.
    #[error("the header names no algorithm that is supported")]
    Algorithm,
    /// A critical extension, none of which this crate implements (RFC 7515 §4.1.11), or `b64: false` (RFC 7797).
    #[error("the header names a critical extension")]
    Critical,
    /// An unsecured token with a signature (RFC 7518 §3.6).
    #[error("the unsecured token has a signature")]
    Signature,
}

/// Why a signature was not verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// No key has the token's `kid` and none without a `kid` fits, or there are more candidates than the limit.
    #[error("no key in the set fits the token")]
    UnknownKey,
    /// A key has the token's `kid`, but does not permit the token's `alg`.
    #[error("the key does not permit the token's algorithm")]
    Algorithm,
    /// Every key that fits was tried.
    #[error("the signature does not match")]
    Signature,
}

/// Why a policy refuses a token: its claims, or what its header says of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// The payload is not a JSON object.
    #[error("the payload is {0}")]
    Payload(#[source] ObjectError),
    /// A registered claim that must be a NumericDate is not one.
    #[error("the claim {0} is not a NumericDate")]
    NotADate(&'static str),
    /// `now >= exp + leeway`.
    #[error("the token has expired")]
    Expired,
    /// The policy requires `exp`.
    #[error("the token has no exp")]
    NoExpiry,
    /// `now < nbf - leeway`, or `iat` in the future where the policy refuses that.
    #[error("the token is not yet valid")]
    NotYetValid,
    /// `iss` is not the policy's issuer.
    #[error("the token is from another issuer")]
    Issuer,
    /// `aud` names none of the policy's audiences.
    #[error("the token is for another audience")]
    Audience,
    /// The policy does not list the token's `alg`.
    #[error("the token's algorithm is not among those allowed")]
    Algorithm,
    /// The header's `typ` is not the policy's, or absent.
    #[error("the token is of another type")]
    Typ,
    /// The policy needs `iat` for the token's age or lifetime.
    #[error("the token has no iat")]
    NoIssuedAt,
    /// `now - iat` is past the policy's greatest age.
    #[error("the token was issued too long ago")]
    TooOld,
    /// `exp - iat` is past the policy's longest lifetime.
    #[error("the token's lifetime is too long")]
    Lifetime,
    /// A scope that the policy asks for is missing. The token is good: HTTP answers 403 (RFC 6750 §3.1).
    #[error("the token lacks a scope")]
    Scope,
}

/// Why a token was refused, whatever the stage.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// Refused before any key was looked at.
    #[error(transparent)]
    Compact(#[from] CompactError),
    /// Refused for its signature.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// Refused for its claims.
    #[error(transparent)]
    Claim(#[from] ClaimError),
}

impl Rejection {
    /// The reason word of log lines and of `jwtunnel token verify`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Compact(error) => match error {
                CompactError::TooLarge => "too_large",
                CompactError::Algorithm => "alg",
                CompactError::Critical => "crit",
                CompactError::Segments
                | CompactError::Base64(_)
                | CompactError::Header(_)
                | CompactError::Parameter(_)
                | CompactError::Signature => "malformed",
            },
            Self::Verify(error) => match error {
                VerifyError::UnknownKey => "key_unknown",
                VerifyError::Algorithm => "alg",
                VerifyError::Signature => "sig",
            },
            Self::Claim(error) => match error {
                ClaimError::Payload(_) => "malformed",
                ClaimError::NotADate(_)
                | ClaimError::NoExpiry
                | ClaimError::NoIssuedAt
                | ClaimError::Lifetime
                | ClaimError::Scope => "claim",
                ClaimError::Expired | ClaimError::TooOld => "expired",
                ClaimError::NotYetValid => "not_yet",
                ClaimError::Issuer => "iss",
                ClaimError::Audience => "aud",
                ClaimError::Algorithm => "alg",
                ClaimError::Typ => "typ",
            },
        }
    }
}

/// Why a key of a set can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwkError {
    /// Not a JSON object, or one with a duplicate member.
    #[error("it is not a JSON object with distinct members")]
    NotAnObject,
    /// The `kid` of a key in a key-value file is the empty text.
    #[error("its kid is empty")]
    EmptyKid,
    /// Not a PEM text of a public key.
    #[error("it is not a public key in PEM")]
    Pem,
    /// A required member is absent or has the wrong type.
    #[error("its member {0} is missing or has the wrong type")]
    Member(&'static str),
    /// A binary member is not base64url without padding.
    #[error("its member {0} is not base64url without padding")]
    Base64(&'static str),
    /// `kty` or `crv` is none that can verify here.
    #[error("its kty or crv is not supported")]
    Type,
    /// `alg` names no signature algorithm of the key's type.
    #[error("its alg is not a signature algorithm of its kty and crv")]
    Algorithm,
    /// `use` or `key_ops` excludes verifying signatures.
    #[error("its use or key_ops does not permit to verify")]
    Use,
    /// An RSA modulus outside 2,048 to 8,192 bits.
    #[error(
        "its modulus is not between {} and {} bits",
        crate::limits::RSA_MIN_BITS,
        crate::limits::RSA_MAX_BITS
    )]
    ModulusBits,
    /// The values are no key: a point off the curve, an even exponent, an empty secret, a wrong length.
    #[error("its values are not a valid public key")]
    Value,
}

/// Why a text is not a JWK Set (RFC 7517 §5) that can be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JwksError {
    /// Larger than [`crate::limits::JWKS_BYTES`].
    #[error("it is larger than {} bytes", crate::limits::JWKS_BYTES)]
    TooLarge,
    /// No content at all.
    #[error("it is empty")]
    Empty,
    /// Not a JSON object.
    #[error("it is {0}")]
    Syntax(#[source] ObjectError),
    /// No member `keys` that is an array.
    #[error("it has no array \"keys\": a JWK Set is expected, {{\"keys\":[…]}}")]
    NoKeys,
    /// More than [`crate::limits::JWKS_KEYS`].
    #[error("it has more than {} keys", crate::limits::JWKS_KEYS)]
    TooManyKeys,
    /// Every key was skipped, or there is none.
    #[error("it has no usable key ({skipped} skipped{})", first.as_ref().map(|e| format!("; the first: {e}")).unwrap_or_default())]
    NoUsableKey {
        /// How many keys were there.
        skipped: usize,
        /// Why the first could not be used.
        first: Option<JwkError>,
    },
}

/// Why a text is not a path to a claim. The byte is counted from 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem} at byte {at}")]
pub struct PathError {
    pub(crate) problem: &'static str,
    pub(crate) at: usize,
}

/// Why a text is not a list of revocations.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RevocationError {
    /// Larger than [`crate::limits::REVOCATION_BYTES`].
    #[error("it is larger than {} bytes", crate::limits::REVOCATION_BYTES)]
    TooLarge,
    /// No content at all.
    #[error("it is empty")]
    Empty,
    /// Not a JSON object.
    #[error("it is {0}")]
    Syntax(#[source] ObjectError),
    /// No `version`, or one that this program does not know.
    #[error("its member \"version\" is not 1")]
    Version,
    /// A member that version 1 does not have. Ignoring it could pass what it revokes.
    #[error("it has a member that version 1 does not know: {0:?}")]
    UnknownMember(String),
    /// A member that is no JSON object with distinct members.
    #[error("its member {0:?} is not an object with distinct members")]
    NotAnObject(&'static str),
    /// The value of an entry has the wrong form.
    #[error("entry {entry} of its member {member:?} is not {expected}")]
    Entry {
        /// The top-level member.
        member: &'static str,
        /// Place of the entry within it, from 1.
        entry: usize,
        /// What it should be.
        expected: &'static str,
    },
}
