//! Starts the programs that the tests drive: nginx with the module, the daemon, the original Python clients.
//!
//! Every program lives in a [`Scratch`] folder with ports of its own, and ends with the value that started it.
//! When a test fails, the ends of the logs are printed. Nothing here judges an answer: that is the tests' part.
//!
//! Settings, from the environment:
//! - `JWTUNNEL_BUILD_DIR`: where `make build` has left the module and the programs (default `build/`)
//! - `NGINX=host`: the installed nginx instead of the one in Docker; `NGINX_BINARY` names another
//! - `JWTUNNEL_TEST_IMAGE`, `JWTUNNEL_PYTHON`, `JWTUNNEL_SCHEMATHESIS`: what `scripts/test-image.sh`,
//!   `scripts/python-peers.sh` and `scripts/python-peers.sh schemathesis` print; unset, the scripts are called
//! - `JWTUNNEL_LONG`: the whole sizes of `make test-long`

mod certificate;
mod daemon;
mod http;
pub mod key_server;
mod network;
mod nginx;
mod poll;
mod ports;
mod process;
mod python;
mod scratch;
mod service;
mod setup;
mod size;
mod token;

pub use certificate::self_signed;
pub use daemon::{
    Client, Daemon, Gateway, PythonGateway, Tunnel, bulk, download, our_client, python_client,
};
pub use http::{Answer, ask, ask_raw, exchange, get};
pub use network::Network;
pub use nginx::{Check, Nginx, NginxBuilder};
pub use poll::{eventually, within};
pub use ports::Port;
pub use process::Process;
pub use python::{PythonServer, StaticTunnel, python, register_peer, schemathesis, static_tunnel};
pub use scratch::Scratch;
pub use service::Service;
pub use setup::{build_dir, built, conf_dir, repository};
pub use size::size;
pub use token::{SigningKey, jwks, now, pem, sign};
