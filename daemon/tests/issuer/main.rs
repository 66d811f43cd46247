//! The issuer on SQLite, the command line and the libraries, in one program: a test program for each file would take
//! minutes more to build. Once more on PostgreSQL: `../issuer_postgres`.

mod issuer_harness;
mod key_server;

mod client_library;
mod command_line;
mod examples;
mod issuer_adoption;
mod issuer_http;
mod issuer_keys;
mod issuer_limits;
mod issuer_oauth;
mod issuer_refresh;
mod issuer_revocation;
mod issuer_tokens;
mod protect_layer;
mod remote_jwks;
