//! Bounds on what is read from outside. A value past its bound is refused, never cut.

/// Longest token in bytes: a header line of nginx's default size carries no more.
pub const TOKEN_BYTES: usize = 16 * 1024;
/// Deepest nesting of a header or a payload; the outermost object is level 1.
pub const JSON_DEPTH: usize = 16;
/// Most elements of one JSON array: group claims of large directories have hundreds.
pub const JSON_ARRAY_ITEMS: usize = 2_000;
/// Longest `kid` in bytes, in a token and in a key.
pub const KID_BYTES: usize = 256;
/// Largest JWK Set in bytes.
pub const JWKS_BYTES: usize = 1024 * 1024;
/// Most keys in a JWK Set, usable or not.
pub const JWKS_KEYS: usize = 1_000;
/// Signature checks for one token whose `kid` several keys share.
pub const SHARED_KID_TRIES: usize = 8;
/// Signature checks for one token that is tried against keys that its `kid` does not name.
pub const NO_KID_TRIES: usize = 16;
/// Smallest RSA modulus in bits (RFC 7518 §3.3).
pub const RSA_MIN_BITS: usize = 2_048;
/// Largest RSA modulus in bits: a check costs the square of it.
pub const RSA_MAX_BITS: usize = 8_192;
/// Largest list of revocations in bytes: about 300,000 token ids.
pub const REVOCATION_BYTES: usize = 16 * 1024 * 1024;
