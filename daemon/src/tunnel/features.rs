//! What both ends of a channel can do beyond NETunnel, agreed on when the channel is created.
//!
//! The client offers names in `POST /channels`, the server answers with those that it has too. NETunnel's ends
//! ignore both lists, so nothing changes towards them.

use serde_json::Value;

const HALF_CLOSE: &str = "half-close";

/// The agreed extensions; the default is NETunnel's behaviour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Features {
    /// An empty binary message ends one direction only, and CLOSE follows when both have ended.
    pub(super) half_close: bool,
}

impl Features {
    /// Everything that this implementation has.
    pub(super) const ALL: Self = Self { half_close: true };

    /// Those in the body of a request or answer that are known here.
    pub(super) fn from_body(body: &Value) -> Self {
        let offered = body.get("features").and_then(Value::as_array);
        let has = |name: &str| offered.is_some_and(|names| names.iter().any(|item| item == name));
        Self { half_close: has(HALF_CLOSE) }
    }

    pub(super) fn names(self) -> Vec<&'static str> {
        if self.half_close { vec![HALF_CLOSE] } else { vec![] }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn unknown_features_and_other_shapes_are_ignored() {
        for body in
            [json!({}), json!({"features": 1}), json!({"features": ["udp", 1]}), json!(null)]
        {
            assert_eq!(Features::from_body(&body), Features::default());
        }
        let all = json!({"features": Features::ALL.names()});
        assert_eq!(Features::from_body(&all), Features::ALL);
    }
}
