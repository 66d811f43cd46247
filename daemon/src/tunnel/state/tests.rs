use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::super::configured::ConfiguredError;
use super::super::settings::Settings;
use super::*;
use crate::config::{Environment, Loaded, Netunnel};
use crate::secret::Secret;

/// The example of NETunnel's own repository, `examples/server-server/server2.conf`.
const SERVER2: &str = r#"{
    "peers": [
        {
            "id": 1,
            "name": "server1",
            "target_netunnel_url": "http://127.0.0.1:4040",
            "auth_data": {},
            "static_tunnels": [
                {
                    "id": 1,
                    "tunnel_local_address": "127.0.0.1",
                    "tunnel_local_port": 20000,
                    "tunnel_remote_address": "127.0.0.1",
                    "tunnel_remote_port": 22
                }
            ]
        }
    ]
}"#;

fn config(folder: &Path, environment: &[(&str, &str)]) -> Netunnel {
    let text = format!("[netunnel]\nstate_file = \"{}/netunnel.json\"\n", folder.display());
    let environment: Environment =
        environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Loaded::parse(Path::new("t.toml"), &text, &environment).unwrap().config.netunnel
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn netunnels_example_is_adopted_a56() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("netunnel.json");
    fs::write(&path, SERVER2).unwrap();
    let opened = StateFile::open(&config(folder.path(), &[])).unwrap();
    let peers = opened.document.peers();
    assert_eq!(peers[0].name, "server1");
    assert_eq!(peers[0].static_tunnels[0].tunnel_remote_port, 22);
    let saved: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(saved["allowed_tunnel_destinations"], json!({"127.0.0.1": "*"}));
    assert_eq!(saved["http_proxy_test_url"], "https://google.com");
    for key in ["http_proxy", "allow_unverified_ssl_peers", "revision"] {
        assert!(saved.get(key).is_some(), "{key} was not added");
    }
    let given: Value = serde_json::from_str(SERVER2).unwrap();
    assert_eq!(saved["peers"], given["peers"]);
}

/// rel:A6: private, complete, and without the key in it.
#[test]
fn the_file_is_saved_whole_and_private() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("netunnel.json");
    let key = "3vpPjEJ6pEckqFxQ5Vbtwa9pHw9c6gQUxS8NueEZQII=";
    let text = json!({"x_mine": {"a": [1, 2]}, "secret_key": key, "revision": 7});
    fs::write(&path, text.to_string()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(folder.path().join(".netunnel.json.tmp-1"), "stale").unwrap();
    let opened = StateFile::open(&config(folder.path(), &[])).unwrap();
    let saved = fs::read_to_string(&path).unwrap();
    assert!(saved.contains("\n    \"x_mine\": {\n        \"a\": ["), "{saved}");
    assert!(!saved.contains("secret_key") && !saved.contains(key), "{saved}");
    let saved: Value = serde_json::from_str(&saved).unwrap();
    assert_eq!((&saved["x_mine"], &saved["revision"]), (&json!({"a": [1, 2]}), &json!(7)));
    let key_file = folder.path().join("netunnel.key");
    assert_eq!(fs::read_to_string(&key_file).unwrap().trim(), key);
    assert_eq!((mode(&path), mode(&key_file)), (0o600, 0o600));
    assert!(!folder.path().join(".netunnel.json.tmp-1").exists());
    // The key stays what it was.
    let token = "gAAAAABf_sxibg1FnyJWYRS5j4FlJPhbMqxjrjidUB7y1OTjSAZZsp0lyuvB1jhlbEuzghYszO_E4Td-kLK0rLBKoWhWC1fWKQ==";
    assert_eq!(opened.key.decrypt(token).unwrap().expose(), "user");
    drop(opened);
    let again = StateFile::open(&config(folder.path(), &[])).unwrap();
    assert_eq!(again.key.decrypt(token).unwrap().expose(), "user");
}

#[test]
fn the_environment_sets_defaults_and_the_file_wins_a57_a58() {
    let folder = tempfile::tempdir().unwrap();
    let variable = ("NETUNNEL_ALLOWED_TUNNEL_DESTINATIONS", r#"{"127.0.0.1": "22"}"#);
    let config = config(folder.path(), &[variable]);
    let destinations = |config: &Netunnel| Document::load(config).unwrap().destinations().unwrap();
    assert_eq!(destinations(&config)["127.0.0.1"], "22");
    let file = folder.path().join("netunnel.json");
    fs::write(&file, r#"{"allowed_tunnel_destinations": {"127.0.0.1": "80"}}"#).unwrap();
    assert_eq!(destinations(&config)["127.0.0.1"], "80");
    assert!(Settings::from_config(&config).is_ok());
    // As the merged content is saved, an override becomes permanent.
    fs::remove_file(&file).unwrap();
    drop(StateFile::open(&config).unwrap());
    assert!(fs::read_to_string(&file).unwrap().contains("\"127.0.0.1\": \"22\""));
}

#[test]
fn two_daemons_do_not_share_a_file_e13() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), &[]);
    let first = StateFile::open(&config).unwrap();
    let error = StateFile::open(&config).unwrap_err();
    assert!(
        matches!(&error, ConfiguredError::InUse(path) if *path == config.state_file),
        "{error}"
    );
    assert!(error.to_string().contains("another jwtunneld"), "{error}");
    drop(first);
    StateFile::open(&config).unwrap();
}

#[test]
fn a_configured_key_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let config = config(folder.path(), &[("NETUNNEL_SECRET_KEY", key)]);
    assert!(!format!("{config:?}").contains(key));
    let opened = StateFile::open(&config).unwrap();
    assert!(!folder.path().join("netunnel.key").exists());
    assert!(!fs::read_to_string(&config.state_file).unwrap().contains(key));
    assert!(opened.key.decrypt(VECTOR).is_some());
    let config = Netunnel { secret_key: Some(Secret::new("short")), ..config };
    drop(opened);
    let error = StateFile::open(&config).unwrap_err().to_string();
    assert!(error.contains("[netunnel] secret_key") && !error.contains("short"), "{error}");
}

const VECTOR: &str = "gAAAAABlU_EAAAECAwQFBgcICQoLDA0OD4_9EBVfNSDZ7XtRxaHNdkXtnpiOvBp_5rgCTWkWJ4a71RudAww7-qtFixrYFculFQ==";

#[test]
fn fernet_is_netunnels_a59() {
    let key = SecretKey::parse("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
    assert_eq!(key.decrypt(VECTOR).unwrap().expose(), "hello");
    let key = SecretKey::parse("3vpPjEJ6pEckqFxQ5Vbtwa9pHw9c6gQUxS8NueEZQII=").unwrap();
    assert!(key.decrypt(VECTOR).is_none());
    assert_eq!(key.decrypt(&key.encrypt("ü")).unwrap().expose(), "ü");
    for text in ["", "short", &"A".repeat(44), &format!("{}=", "!".repeat(43))] {
        assert!(SecretKey::parse(text).is_err(), "{text}");
    }
    assert_eq!(format!("{key:?}"), "SecretKey");
}

#[test]
fn what_cannot_be_used_is_named_without_its_value() {
    for (text, part) in [
        ("{", "line 1, column 1: not JSON"),
        ("[]", "JSON object"),
        (r#"{"allowed_tunnel_destinations": null}"#, "\"allowed_tunnel_destinations\""),
        (r#"{"peers": {}}"#, "\"peers\": expected a list"),
        (r#"{"peers": [{"id": 1}]}"#, "\"peers\" number 1: missing field `name`"),
        (r#"{"peers": [{"id": "hunter2"}]}"#, "\"peers\" number 1: a value of the wrong kind"),
        (
            r#"{"peers": [{"id": 1, "name": "b", "target_netunnel_url": "u", "auth_data": null}]}"#,
            "number 1",
        ),
        (
            r#"{"peers": [{"id": 1, "name": "b", "target_netunnel_url": "u", "auth_data": {}, "x": 1}]}"#,
            "`x`",
        ),
        (
            r#"{"peers": [{"id": 18446744073709551615, "name": "b", "target_netunnel_url": "u", "auth_data": {}}]}"#,
            "\"peers\" number 1: an id is too large",
        ),
        (r#"{"http_proxy": "hunter2"}"#, "\"http_proxy\""),
        (r#"{"allow_unverified_ssl_peers": 1}"#, "true or false"),
        (r#"{"secret_key": 1}"#, "\"secret_key\""),
    ] {
        let error = Document::merged(&StateOverrides::default(), Some(text)).unwrap_err();
        assert!(error.contains(part) && !error.contains("hunter2"), "{text}: {error}");
    }
    let peer = json!({"id": 1, "name": "b", "target_netunnel_url": "u", "auth_data": {}});
    let twice = json!({"peers": [peer, peer]}).to_string();
    assert!(
        Document::merged(&StateOverrides::default(), Some(&twice))
            .unwrap_err()
            .contains("another's")
    );
}
