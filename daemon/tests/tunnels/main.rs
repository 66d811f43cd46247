//! The tunnels, on real sockets, in one program: a test program for each file would take minutes more to build.

mod tunnel_harness;

mod remote_tunnels;
mod tunnel_client;
mod tunnel_close;
mod tunnel_data;
mod tunnel_in_program;
mod tunnel_operator;
mod tunnel_reuse;
mod tunnel_server;
mod tunnel_udp;
