//! `ngx_http_jwt_module`: validates JSON Web Tokens inside nginx against a JWK Set file.
//!
//! # The life of a request
//! The access phase calls [`access::decide`]: it finds the token, takes the current keys of the location, and
//! lets [`jwt_core`] verify and validate. The verdict is kept in the request's context, bound to the location's
//! configuration, so that variables show the claims that were verified under the rules now in force; after an
//! internal redirect it is made anew. Whatever is not an explicit acceptance ends in 401, 503 or 500.
//!
//! # The life of the keys
//! The master reads each key file while it reads the configuration ([`directives`]). Every worker looks at the
//! file from a timer ([`key_file`]) and swaps the whole set when a new version is good; a bad one changes nothing.
//!
//! # Where the unsafe code is
//! In [`ffi`] alone, which lists the nginx invariants that it relies on.
#![deny(unsafe_code)]

mod access;
mod authenticate;
mod authorize;
mod conf;
mod context;
mod dialect;
mod directives;
mod error;
mod ffi;
mod key_request;
mod key_source;
mod log;
mod output;
mod rules;
mod status;
mod token;
mod variables;
mod watched_file;
