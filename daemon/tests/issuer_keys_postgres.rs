//! The examples of `issuer_keys` once more, on PostgreSQL.

#[path = "issuer_keys.rs"]
mod issuer_keys;
