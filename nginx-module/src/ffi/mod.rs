//! The only unsafe code: nginx's pointers become safe views here, and nothing else leaves.
//!
//! The SAFETY notes cite these facts about nginx:
//! - \[I1\] A worker has one thread; so does the master while it reads the configuration. Nothing here is shared
//!   between threads.
//! - \[I2\] The pointers that nginx gives to a callback are non-null and valid for that call.
//! - \[I3\] A configuration and the strings of its arguments live in the pool of its cycle, which outlives every
//!   request of that cycle.
//! - \[I4\] A request's pool lives until the request is freed; its cleanup handlers run then, also for values whose
//!   context an internal redirect has zeroed.
//! - \[I5\] A value put into a pool by `Pool::allocate` stays at its address and is dropped by the pool's cleanup.
//! - \[I6\] `r->loc_conf`, `r->main_conf` and `r->ctx` are arrays with an element at this module's `ctx_index`, set
//!   before any request; configurations there were made by `create_main_conf` and `create_loc_conf` below.
//! - \[I7\] nginx's globals (`ngx_cycle`, `ngx_cached_time`) are set before any module's code runs.
#![allow(unsafe_code)]

mod conf;
mod entry;
mod headers;
mod regex;
mod replay;
mod request;
mod shim;
mod sleeper;
mod subrequest;
mod watch;
mod zone;

pub(crate) use conf::{ComplexValue, Conf, VariableIndex};
pub(crate) use regex::Regex;
pub(crate) use replay::{LEAST_BYTES, ReplayZone, Seen};
pub(crate) use request::Request;
pub(crate) use sleeper::Sleeper;
pub(crate) use zone::{Counts, Metrics, Zone};
