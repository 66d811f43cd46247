//! What both ends of a channel can do beyond NETunnel, agreed on when the channel is created.
//!
//! The client offers names in `POST /channels`, the server answers with those that it has too. NETunnel's ends
//! ignore both lists, so nothing changes towards them.

use serde_json::Value;

const HALF_CLOSE: &str = "half-close";
const ZERO_MASK: &str = "zero-mask";
const R7_STATUS: &str = "r7-status";
const REUSE: &str = "reuse";
const UDP: &str = "udp";

/// The agreed extensions; the default is NETunnel's behaviour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Features {
    /// An empty binary message ends one direction only, and CLOSE follows when both have ended.
    pub(super) half_close: bool,
    /// A tunnel websocket that cannot be had is refused by an HTTP status instead of a CLOSE after the upgrade.
    pub(super) r7_status: bool,
    /// The client's payload is masked with a key of zeros, that is, not at all.
    pub(super) zero_mask: bool,
    /// A tunnel websocket whose connection has ended in order waits for the next one. Only with half-close, whose
    /// markers tell where a connection ends.
    pub(super) reuse: bool,
    /// There are tunnels for datagrams.
    pub(super) udp: bool,
}

impl Features {
    /// Everything that this implementation has.
    pub(super) const ALL: Self =
        Self { half_close: true, r7_status: true, zero_mask: true, reuse: true, udp: true };

    /// Those in the body of a request or answer that are known here.
    pub(super) fn from_body(body: &Value) -> Self {
        let offered = body.get("features").and_then(Value::as_array);
        let has = |name: &str| offered.is_some_and(|names| names.iter().any(|item| item == name));
        let half_close = has(HALF_CLOSE);
        Self {
            half_close,
            r7_status: has(R7_STATUS),
            zero_mask: has(ZERO_MASK),
            reuse: half_close && has(REUSE),
            udp: has(UDP),
        }
    }

    pub(super) fn names(self) -> Vec<&'static str> {
        let names = [
            (self.half_close, HALF_CLOSE),
            (self.r7_status, R7_STATUS),
            (self.zero_mask, ZERO_MASK),
            (self.reuse, REUSE),
            (self.udp, UDP),
        ];
        names.into_iter().filter_map(|(agreed, name)| agreed.then_some(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn unknown_features_and_other_shapes_are_ignored() {
        for body in
            [json!({}), json!({"features": 1}), json!({"features": ["drain", 1]}), json!(null)]
        {
            assert_eq!(Features::from_body(&body), Features::default());
        }
        // Without the markers nobody knows where a connection ends.
        assert_eq!(Features::from_body(&json!({"features": ["reuse"]})), Features::default());
        let all = json!({"features": Features::ALL.names()});
        assert_eq!(Features::from_body(&all), Features::ALL);
    }
}
