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
//! 2. [`Policy::check_header`]: `alg` and `typ`, before any key is looked at.
//! 3. [`Compact::verify`]: key choice by `kid` and `alg`, then the signature. Outside of [`dangerous`] the only way
//!    to a [`VerifiedJws`].
//! 4. [`VerifiedJws::into_claims_set`]: the payload as strict JSON. A [`TokenCache`] may keep this [`ClaimsSet`]: it
//!    depends on the token and the keys alone.
//! 5. [`Policy::admit`] ([`Policy::validate`] is 4 and 5): the header again, then `exp`, `nbf`, `iat`, `iss`, `aud`.
//!    The only way to [`Claims`].
//! 6. The caller's: [`Revocations`], [`Op`] for single claims; [`Policy::check_scope`], which is no longer about
//!    whether the token is good.
//!
//! [`verify()`] runs all but the caller's own. The crate opens nothing, logs nothing and does not read the clock.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod alg;
mod cache;
mod claims;
mod compact;
pub mod dangerous;
mod error;
mod header;
pub mod json;
mod jwk;
mod jwks;
pub mod limits;
mod path;
mod pem;
mod policy;
mod requirement;
mod revocation;
mod verify;

pub use alg::Algorithm;
pub use cache::TokenCache;
pub use claims::{Claims, ClaimsSet};
pub use compact::Compact;
pub use error::{
    ClaimError, CompactError, JwkError, JwksError, PathError, Rejection, RevocationError,
    VerifyError,
};
pub use header::JoseHeader;
pub use json::{Object, ObjectError};
pub use jwk::Jwk;
pub use jwks::{JwkSet, KeyWarning};
pub use path::ClaimPath;
pub use pem::RsaNumbers;
pub use policy::Policy;
pub use requirement::{Json, Op, Operator, Verdict, shifted};
pub use revocation::{DenyList, Revocations, Revoked};
pub use verify::VerifiedJws;

/// Verifies `token` with `keys` and validates its claims against `policy` at the time `now`.
///
/// `now` is in seconds since the epoch, the caller's clock, so that nginx can pass its cached time.
///
/// # Errors
/// The [`Rejection`] of the first check that failed, in the order that the crate's documentation gives.
pub fn verify(token: &[u8], keys: &JwkSet, policy: &Policy, now: i64) -> Result<Claims, Rejection> {
    let compact = Compact::parse(token)?;
    policy.check_header(compact.header())?;
    let claims = policy.validate(compact.verify(keys)?, now)?;
    policy.check_scope(&claims)?;
    Ok(claims)
}
