//! The line of `--status`: what the tunnels carry, on a terminal, once a second.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::sleep;

use crate::tunnel::Counts;
use crate::tunnel::client::Connector;

/// Back to the start of the line, and nothing left on it.
const CLEAR: &str = "\r\x1b[K";

static SHOWN: AtomicBool = AtomicBool::new(false);

/// Shows the line until it is dropped. On anything but a terminal there is none: a log is no place for it.
pub(super) async fn show(connector: Connector) {
    if !io::stderr().is_terminal() {
        return std::future::pending().await;
    }
    loop {
        SHOWN.store(true, Ordering::Relaxed);
        let mut out = io::stderr();
        let _ = write!(out, "{CLEAR}{}", line(connector.counts()));
        let _ = out.flush();
        sleep(Duration::from_secs(1)).await;
    }
}

/// Makes room for a line of another kind, and at the end.
pub(super) fn clear() {
    if SHOWN.swap(false, Ordering::Relaxed) {
        let _ = write!(io::stderr(), "{CLEAR}");
    }
}

fn line(counts: Counts) -> String {
    let Counts { open, connections, failed, sent, received, dropped } = counts;
    let mut line = format!(
        "{open} open, {connections} so far, sent {}, received {}",
        size(sent),
        size(received)
    );
    if failed > 0 {
        line.push_str(&format!(", {failed} not reached"));
    }
    if dropped > 0 {
        line.push_str(&format!(", {dropped} datagrams dropped"));
    }
    line
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_what_is_carried() {
        let counts =
            Counts { open: 2, connections: 17, sent: 1023, received: 3 << 29, ..Counts::default() };
        assert_eq!(line(counts), "2 open, 17 so far, sent 1023 B, received 1.5 GiB");
        let counts = Counts { failed: 1, received: u64::MAX, ..counts };
        assert!(line(counts).ends_with("TiB, 1 not reached"));
        assert!(line(Counts { dropped: 2, ..counts }).ends_with(", 2 datagrams dropped"));
    }
}
