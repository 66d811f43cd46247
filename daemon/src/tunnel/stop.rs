//! Why and when something stops: a cancellation token that carries its reason, arranged as a tree
//! (server, channel, tunnel), so that no task outlives the thing it works for.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a forced end waits for the other side's agreement.
const FORCED: Duration = Duration::from_secs(1);

/// Why open websockets are being closed by us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The tunnel was deleted, or its program ends.
    Deleted,
    /// The control channel ended, so everything that belongs to it does.
    ChannelLost,
    /// The daemon is being stopped.
    Drain,
    /// The token with which the channel was opened has been revoked.
    Revoked,
}

impl StopReason {
    /// The close code of RFC 6455 §7.4.1 that says so.
    pub(super) fn close_code(self) -> CloseCode {
        match self {
            Self::Deleted => CloseCode::Normal,
            Self::ChannelLost => CloseCode::Away,
            // "Service Restart": a client may come back at once, to another process.
            Self::Drain => CloseCode::Restart,
            Self::Revoked => CloseCode::Policy,
        }
    }

    /// The same for a connection that is cut: its end is not the end of its data, and so not 1000.
    pub(super) fn cut_code(self) -> CloseCode {
        match self {
            Self::Deleted => CloseCode::Away,
            other => other.close_code(),
        }
    }
}

/// One node of the tree. Triggering it triggers all its children.
#[derive(Clone, Debug)]
pub(super) struct Stop(Arc<Node>);

#[derive(Debug)]
struct Node {
    token: CancellationToken,
    reason: OnceLock<StopReason>,
    parent: Option<Stop>,
}

impl Stop {
    pub(super) fn new() -> Self {
        Self::node(CancellationToken::new(), None)
    }

    pub(super) fn child(&self) -> Self {
        Self::node(self.0.token.child_token(), Some(self.clone()))
    }

    fn node(token: CancellationToken, parent: Option<Self>) -> Self {
        Self(Arc::new(Node { token, reason: OnceLock::new(), parent }))
    }

    /// Stops this node and its children; the first reason given stays.
    pub(super) fn trigger(&self, reason: StopReason) {
        let _ = self.0.reason.set(reason);
        self.0.token.cancel();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.0.token.is_cancelled()
    }

    /// Waits for the stop. Owned, so that a hand-written future can keep it.
    pub(super) fn stopped(&self) -> impl Future<Output = StopReason> + Send + use<> {
        let stop = self.clone();
        async move {
            stop.0.token.cancelled().await;
            stop.reason()
        }
    }

    /// The reason, of this node or of the nearest one above.
    fn reason(&self) -> StopReason {
        match (self.0.reason.get(), &self.0.parent) {
            (Some(reason), _) => *reason,
            (None, Some(parent)) => parent.reason(),
            (None, None) => StopReason::Deleted,
        }
    }
}

/// The work of one tunnel, at either end.
#[derive(Clone, Debug)]
pub(super) struct Life {
    /// No new connections, and waiting websockets are closed.
    pub(super) retired: Stop,
    /// Live connections are cut as well.
    pub(super) stop: Stop,
    pub(super) tasks: TaskTracker,
}

impl Life {
    pub(super) fn new(parent: &Stop) -> Self {
        let stop = parent.child();
        Self { retired: stop.child(), stop, tasks: TaskTracker::new() }
    }

    /// No new connections from now on.
    pub(super) fn retire(&self, reason: StopReason) {
        self.retired.trigger(reason);
        self.tasks.close();
    }

    /// Ends the work: at once with `force`, else when the connections have ended, at the latest after
    /// `graceful`.
    pub(super) async fn end(&self, force: bool, graceful: Duration) {
        self.retire(StopReason::Deleted);
        if !force && timeout(graceful, self.tasks.wait()).await.is_ok() {
            return;
        }
        self.stop.trigger(StopReason::Deleted);
        let _ = timeout(FORCED, self.tasks.wait()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_child_stops_with_its_parent_and_for_its_reason() {
        let parent = Stop::new();
        let child = parent.child().child();
        parent.trigger(StopReason::Drain);
        assert_eq!(child.stopped().await, StopReason::Drain);
    }

    #[tokio::test]
    async fn a_parent_outlives_its_child_and_the_first_reason_stays() {
        let parent = Stop::new();
        let child = parent.child();
        child.trigger(StopReason::Deleted);
        parent.trigger(StopReason::Drain);
        child.trigger(StopReason::ChannelLost);
        assert_eq!(child.stopped().await, StopReason::Deleted);
        assert!(parent.is_stopped());
    }
}
