//! `ngx_http_jwt_module`: validates JSON Web Tokens inside nginx.
//!
//! # The life of a request
//! 1. The preaccess phase ([`access::preaccess`], where a location sets headers from claims): client copies of those
//!    headers go, whatever comes later.
//! 2. The access phase ([`access::access`]; `auth_jwt_phase` moves it): [`token`] finds the token, [`key_source`] the
//!    keys, [`authenticate`] lets [`jwt_core`] verify the signature, or finds the token in this worker's cache, and
//!    checks header, times, issuer, audience and revocations. [`authorize`] checks what else the location asks:
//!    scopes, [`rules`], replay.
//! 3. [`output`] writes the challenge, or sets headers and the cookie. [`error`] maps every cause to a status and a
//!    line of the log.
//!
//! What came of step 2's first half is kept with the request ([`context`]), bound to the location's configuration:
//! variables show the claims that were verified under the rules now in force, in whatever phase they are read first,
//! and after an internal redirect it is done anew. Whatever is not an explicit acceptance ends in a refusal.
//!
//! # The life of the keys
//! The master reads each file while it reads the configuration ([`directives`]). Every worker looks at the files from
//! a timer ([`watched_file`]) and swaps a whole set when a new version is good; a bad one changes nothing, and the
//! last good one outlives reloads and workers in shared memory. Keys of another server come by subrequest
//! ([`key_request`]), one at a time for each address. A worker does no other input or output.
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
