//! How this daemon proves to a peer who it is, out of the peer's `auth_data`.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::super::client::Credentials;
use super::super::wire::shown;
use super::MASK;
use crate::config::PeerAuth;
use crate::secret::Secret;

/// The stored form of a peer's credentials, by key.
pub(super) type AuthData = BTreeMap<String, String>;

/// Credentials for a peer.
///
/// # Errors
/// What is wrong with the data, in the words of NETunnel's plugins.
pub(super) fn credentials(
    auth: PeerAuth,
    uri: &str,
    data: &AuthData,
) -> Result<Credentials, String> {
    let known: &[&str] = match auth {
        // As in NETunnel without a plugin: whatever was given is not used.
        PeerAuth::None => return Ok(Credentials::none()),
        PeerAuth::Secret => &["secret"],
        PeerAuth::Jwthenticator => &["key", "refresh_token", "uuid"],
    };
    if let Some(key) = data.keys().find(|key| !known.contains(&key.as_str())) {
        let key = shown(key);
        return Err(format!("get_client_for_peer() got an unexpected keyword argument '{key}'"));
    }
    let secret = |key: &str| data.get(key).map(Secret::new);
    match auth {
        PeerAuth::Jwthenticator => {
            let (key, refresh) = (secret("key"), secret("refresh_token"));
            if key.is_none() && refresh.is_none() {
                return Err("Either `key` or `refresh_token` must be given".into());
            }
            let identifier = data.get("uuid").map_or("", String::as_str);
            let identifier = match identifier {
                "" => Uuid::nil(),
                text => text.parse().map_err(|_| "badly formed hexadecimal UUID string")?,
            };
            Ok(Credentials::jwthenticator(key, refresh, identifier, uri.to_owned()))
        }
        PeerAuth::Secret | PeerAuth::None => {
            let missing = "get_client_for_peer() missing 1 required positional argument: 'secret'";
            Ok(Credentials::shared_secret(secret("secret").ok_or(missing)?))
        }
    }
}

/// What is stored after the credentials have been used: a refresh token, never the key that bought it.
pub(super) fn stored(auth: PeerAuth, data: &AuthData, refresh: Option<Secret>) -> AuthData {
    match auth {
        PeerAuth::None => AuthData::new(),
        PeerAuth::Secret => data.clone(),
        PeerAuth::Jwthenticator => {
            let uuid = data.get("uuid").and_then(|text| text.parse().ok()).unwrap_or(Uuid::nil());
            let refresh = refresh.map_or_else(String::new, |token| token.expose().to_owned());
            [("refresh_token".into(), refresh), ("uuid".into(), uuid.to_string())].into()
        }
    }
}

/// Values that are posted back masked are those that are stored.
pub(super) fn unmasked(mut posted: AuthData, stored: &AuthData) -> AuthData {
    let masked = |value: &String| value == MASK;
    // A new key is not to be used after an old refresh token.
    if posted.get("key").is_some_and(|key| key != MASK)
        && posted.get("refresh_token").is_some_and(masked)
    {
        posted.remove("refresh_token");
    }
    for (key, value) in &mut posted {
        if masked(value)
            && let Some(stored) = stored.get(key)
        {
            value.clone_from(stored);
        }
    }
    posted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(pairs: &[(&str, &str)]) -> AuthData {
        pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    }

    /// nt:18, nt:A61.
    #[test]
    fn the_plugins_arguments_are_checked_with_its_words() {
        let auth = PeerAuth::Jwthenticator;
        let credentials = |auth, data: &AuthData| credentials(auth, "/jwthenticator", data);
        for (given, text) in [
            (data(&[]), "Either `key` or `refresh_token` must be given"),
            (data(&[("uuid", "x")]), "Either `key` or `refresh_token` must be given"),
            (
                data(&[("nokey", "x")]),
                "get_client_for_peer() got an unexpected keyword argument 'nokey'",
            ),
            (data(&[("key", "x"), ("uuid", "x")]), "badly formed hexadecimal UUID string"),
        ] {
            assert_eq!(credentials(auth, &given).unwrap_err(), text);
        }
        let given = data(&[("key", "hunter2"), ("uuid", "12345678123456781234567812345678")]);
        let used = credentials(auth, &given).unwrap();
        assert!(!format!("{used:?}").contains("hunter2"));
        let kept = stored(auth, &given, Some(Secret::new("r")));
        assert_eq!(kept["uuid"], "12345678-1234-5678-1234-567812345678");
        assert_eq!((kept.len(), kept["refresh_token"].as_str()), (2, "r"));
        assert!(credentials(PeerAuth::Secret, &data(&[])).unwrap_err().contains("'secret'"));
        let ignored = data(&[("key", "x")]);
        credentials(PeerAuth::None, &ignored).unwrap();
        assert!(stored(PeerAuth::None, &ignored, None).is_empty());
    }

    #[test]
    fn masked_values_stay_what_they_are() {
        let old = data(&[("refresh_token", "r"), ("uuid", "u")]);
        let posted = data(&[("refresh_token", MASK), ("uuid", MASK)]);
        assert_eq!(unmasked(posted, &old), old);
        let posted = data(&[("key", "k"), ("refresh_token", MASK), ("uuid", MASK)]);
        assert_eq!(unmasked(posted, &old), data(&[("key", "k"), ("uuid", "u")]));
    }
}
