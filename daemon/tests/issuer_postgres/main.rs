//! The issuer on PostgreSQL: the examples of `../issuer` that hold there too, and what only that has. The name of this
//! program makes its daemons use PostgreSQL.

#[path = "../issuer/issuer_harness/mod.rs"]
mod issuer_harness;

#[path = "../issuer/issuer_http.rs"]
mod issuer_http;
#[path = "../issuer/issuer_keys.rs"]
mod issuer_keys;
#[path = "../issuer/issuer_refresh.rs"]
mod issuer_refresh;
#[path = "../issuer/issuer_revocation.rs"]
mod issuer_revocation;

mod issuer_http_postgres;
mod issuer_nodes_postgres;
mod issuer_refresh_postgres;
mod issuer_revocation_postgres;
