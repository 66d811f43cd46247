//! How far an import is: a bar on a terminal, a line now and then anywhere else.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// Back to the start of the line, and nothing left on it.
const CLEAR: &str = "\r\x1b[K";

/// In characters.
const WIDTH: u64 = 30;

/// Between two pictures of the bar: enough for the eye.
const FRAME: Duration = Duration::from_millis(100);

/// Between two lines in a log.
const LINE: Duration = Duration::from_secs(10);

/// Shows itself on standard error.
pub(super) struct Progress {
    total: u64,
    begun: Instant,
    shown: Option<Instant>,
    on_terminal: bool,
}

impl Progress {
    pub(super) fn new(total: u64) -> Self {
        let begun = Instant::now();
        let on_terminal = io::stderr().is_terminal();
        // A short import needs no line of its own in a log.
        let shown = (!on_terminal).then_some(begun);
        Self { total, begun, shown, on_terminal }
    }

    /// Shows that `done` of all lines are done, if it is time to.
    pub(super) fn show(&mut self, done: u64) {
        let pause = if self.on_terminal { FRAME } else { LINE };
        if self.shown.is_some_and(|shown| shown.elapsed() < pause) {
            return;
        }
        self.shown = Some(Instant::now());
        let text = text(done, self.total, self.begun.elapsed());
        let mut err = io::stderr();
        let _ = if self.on_terminal {
            write!(err, "{CLEAR}{} {text}", bar(done, self.total))
        } else {
            writeln!(err, "jwtunnel: {text}")
        };
        let _ = err.flush();
    }

    /// Makes room for a line of another kind, and at the end.
    pub(super) fn clear(&mut self) {
        if self.on_terminal && self.shown.take().is_some() {
            let _ = write!(io::stderr(), "{CLEAR}");
        }
    }
}

fn bar(done: u64, total: u64) -> String {
    let full = usize::try_from(done * WIDTH / total.max(1)).unwrap_or_default();
    let empty = usize::try_from(WIDTH).unwrap_or_default().saturating_sub(full);
    format!("[{}{}]", "#".repeat(full), " ".repeat(empty))
}

fn text(done: u64, total: u64, elapsed: Duration) -> String {
    let percent = done * 100 / total.max(1);
    let mut text = format!("{done} of {total} lines, {percent} %");
    if done > 0 && done < total {
        let left = elapsed.as_secs_f64() / done as f64 * (total - done) as f64;
        text.push_str(&format!(", {left:.0} s left"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tells_how_far_it_is_and_how_long_it_takes() {
        assert_eq!(text(0, 200, Duration::ZERO), "0 of 200 lines, 0 %");
        assert_eq!(text(50, 200, Duration::from_secs(2)), "50 of 200 lines, 25 %, 6 s left");
        assert_eq!(text(200, 200, Duration::from_secs(8)), "200 of 200 lines, 100 %");
        assert_eq!(bar(0, 200), format!("[{}]", " ".repeat(30)));
        assert_eq!(bar(50, 200), format!("[{}{}]", "#".repeat(7), " ".repeat(23)));
        assert_eq!(bar(200, 200), format!("[{}]", "#".repeat(30)));
    }
}
