//! Strict verification of JSON Web Tokens: bytes, keys, a policy and the time go in, claims come out.
//!
//! # Threat model
//! Every byte of a token is hostile until its signature has been checked, and its claims stay data after that.
//! The key set decides which algorithms are possible; nothing in a token can choose a key source
//! (`jwk`, `jku`, `x5u` and `x5c` are never read) or an algorithm that the chosen key does not permit.
//! Whatever is not an explicit success is an error; no input panics.
//!
//! # Order of checks
//! 1. [`Compact::parse`]: size, three segments, strict base64url, strict JSON header, known `alg`, no `crit`.
//! 2. [`Compact::verify`]: key choice by `kid` and `alg`, then the signature. The only way to a [`VerifiedJws`].
//! 3. [`Policy::validate`]: `exp`, `nbf`, `iat`, `iss`, `aud`. The only way to [`Claims`].
//!
//! [`verify()`] runs all three. The crate opens nothing, logs nothing and does not read the clock.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod alg;
mod claims;
mod compact;
mod error;
mod header;
pub mod json;
mod jwk;
mod jwks;
pub mod limits;
mod policy;
mod verify;

pub use alg::Algorithm;
pub use claims::Claims;
pub use compact::Compact;
pub use error::{ClaimError, CompactError, JwkError, JwksError, Rejection, VerifyError};
pub use header::JoseHeader;
pub use json::{Object, ObjectError};
pub use jwk::Jwk;
pub use jwks::{JwkSet, KeyWarning};
pub use policy::Policy;
pub use verify::VerifiedJws;

/// Verifies `token` with `keys` and validates its claims against `policy` at the time `now`.
///
/// `now` is in seconds since the epoch, the caller's clock, so that nginx can pass its cached time.
///
/// # Errors
/// The [`Rejection`] of the first check that failed, in the order that the crate's documentation gives.
pub fn verify(token: &[u8], keys: &JwkSet, policy: &Policy, now: i64) -> Result<Claims, Rejection> {
    let jws = Compact::parse(token)?.verify(keys)?;
    Ok(policy.validate(jws, now)?)
}
