//! What is being done, on standard error, so that standard output holds the results alone.

use std::io::Write as _;
use std::sync::OnceLock;
use std::time::Instant;

/// Writes a line with the seconds since the first one.
pub(crate) fn say(text: &str) {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed().as_secs();
    // Nobody is left to hear that standard error is closed.
    let _ = writeln!(std::io::stderr(), "==> {elapsed:4} s  {text}");
}
