//! The API's document is true: schemathesis sends to a real daemon whatever the document allows and much that it does
//! not, and no answer is a fault or one that the document does not have. What it checks: tests/python/schemathesis.toml.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use system_tests::{Client, Daemon, Network, ask, get, repository, schemathesis};

/// A daemon with every route, which no number of failures makes refuse further ones, and quick to make keys.
fn daemon() -> Daemon {
    let limits = "1000000";
    Daemon::start_with(
        "",
        &[
            ("JWTUNNEL_JWTHENTICATOR_ISSUER", "https://issuer.example"),
            ("JWTUNNEL_JWTHENTICATOR_FAILURES_PER_MINUTE", limits),
            ("JWTUNNEL_JWTHENTICATOR_FAILURE_BURST", limits),
            ("JWTUNNEL_JWTHENTICATOR_KEY_FAILURES_PER_MINUTE", limits),
            ("JWTUNNEL_KEYS_ALGORITHM", "ES256"),
        ],
    )
}

fn document(daemon: &Daemon) -> Value {
    let answer = get(&daemon.internal("/openapi.json"), &[]);
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_str(&answer.body).expect("JSON")
}

fn tokens(daemon: &Daemon, client: &Client) -> (String, String) {
    let body = json!({"key": client.key, "identifier": client.identifier}).to_string();
    let url = format!("http://{}/authenticate", daemon.public().address());
    let answer = ask("POST", &url, &[], Some(&body));
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer: Value = serde_json::from_str(&answer.body).expect("JSON");
    let text = |name: &str| answer[name].as_str().expect("a token").to_owned();
    (text("jwt"), text("refresh_token"))
}

/// The routes of the public listener that grant nothing without a credential.
const WITH_CREDENTIALS: [&str; 7] = [
    "/authenticate",
    "/refresh",
    "/validate",
    "/validate_request",
    "/oauth2/token",
    "/oauth2/introspect",
    "/oauth2/revoke",
];

/// Bodies that are granted, for schemathesis to send first and to make others of.
fn give_examples(document: &mut Value, examples: &[(&str, Value)]) {
    for (path, example) in examples {
        let content = &mut document["paths"][path]["post"]["requestBody"]["content"];
        let content = content.as_object_mut().unwrap_or_else(|| panic!("{path} takes no body"));
        for media in content.values_mut() {
            let examples = media["examples"].as_object().map_or(0, serde_json::Map::len);
            media["examples"][format!("e{examples}")] = json!({"value": example});
        }
    }
}

/// Routes that make requests to addresses in their bodies. They are tried in a network that has no way out.
const OPERATORS: &str = "^/(peers|config)";

/// Runs schemathesis on the operations of one listener but [`OPERATORS`]. The words in braces in its settings are
/// replaced.
#[track_caller]
fn check(daemon: &Daemon, document: &Value, tag: &str, url: &str, settings: &[(&str, &str)]) {
    run(daemon, document, (tag, false), url, settings);
}

/// The same with the operations that are for `operators`, or with all others.
#[track_caller]
fn run(
    daemon: &Daemon,
    document: &Value,
    (tag, operators): (&str, bool),
    url: &str,
    settings: &[(&str, &str)],
) {
    let file = repository().join("tests/python/schemathesis.toml");
    let mut text = fs::read_to_string(file).expect("the settings");
    for (word, value) in settings {
        assert!(text.contains(word), "{word}");
        text = text.replace(word, value);
    }
    let folder = daemon.scratch().path();
    fs::write(folder.join("schemathesis.toml"), text).expect("a file");
    fs::write(folder.join("openapi.json"), document.to_string()).expect("a file");
    // Of two that include, either would do.
    let selected = match operators {
        true => ["--include-path-regex", OPERATORS].to_vec(),
        false => ["--include-tag", tag, "--exclude-path-regex", OPERATORS].to_vec(),
    };
    let output = Command::new(schemathesis())
        .args(["--config-file", "schemathesis.toml", "run", "openapi.json"])
        .args(["--url", url, "--no-color"])
        .args(selected)
        .current_dir(folder)
        .output()
        .expect("schemathesis");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    // The run that tried nothing would succeed too.
    let paths = document["paths"].as_object().expect("paths").iter();
    let is_operators = |path: &str| path.starts_with("/peers") || path.starts_with("/config");
    let tried = paths.filter(|(path, _)| is_operators(path) == operators);
    let operations = tried.flat_map(|(_, item)| item.as_object().expect("operations").values());
    let tagged = operations.filter(|operation| {
        operation["tags"].as_array().is_some_and(|tags| tags.iter().any(|found| found == tag))
    });
    assert!(said.contains(&format!("Tested: {}\n", tagged.count())), "{said}");
}

#[test]
fn answers_to_clients_with_credentials_are_those_of_the_document() {
    let daemon = daemon();
    // Two, since schemathesis remembers tokens, and sends any of them to be revoked; each client has only its own ones.
    let (client, oauth) = (daemon.register(), daemon.register());
    let ((jwt, refresh), (oauth_jwt, oauth_refresh)) =
        (tokens(&daemon, &client), tokens(&daemon, &oauth));
    let mut document = document(&daemon);
    let Client { key, identifier } = &client;
    give_examples(
        &mut document,
        &[
            ("/authenticate", json!({"key": key, "identifier": identifier})),
            ("/refresh", json!({"refresh_token": refresh, "identifier": identifier})),
            ("/validate", json!({"jwt": jwt})),
            ("/oauth2/token", json!({"grant_type": "client_credentials"})),
            (
                "/oauth2/token",
                json!({"grant_type": "refresh_token", "refresh_token": oauth_refresh}),
            ),
            ("/oauth2/introspect", json!({"token": oauth_jwt})),
            ("/oauth2/introspect", json!({"token": oauth_refresh})),
            ("/oauth2/revoke", json!({"token": oauth_jwt})),
            ("/oauth2/revoke", json!({"token": oauth_refresh})),
        ],
    );
    let settings = [("{jwt}", &*jwt), ("{identifier}", &oauth.identifier), ("{key}", &oauth.key)];
    let url = format!("http://{}", daemon.public().address());
    check(&daemon, &document, "public", &url, &settings);
    for route in WITH_CREDENTIALS {
        assert_eq!(classes(&daemon, route), ["2xx", "4xx"], "{route}");
    }
}

#[test]
fn answers_to_clients_without_credentials_are_those_of_the_document() {
    let daemon = daemon();
    // What is in the settings is refused, and what schemathesis makes up is.
    let settings = [("{jwt}", "x"), ("{identifier}", "nobody"), ("{key}", "none")];
    let url = format!("http://{}", daemon.public().address());
    check(&daemon, &document(&daemon), "public", &url, &settings);
    for route in WITH_CREDENTIALS {
        assert_eq!(classes(&daemon, route), ["4xx"], "{route}");
    }
}

#[test]
fn answers_to_administrators_are_those_of_the_document() {
    let daemon = daemon();
    let client = daemon.register();
    let (jwt, _) = tokens(&daemon, &client);
    let mut document = document(&daemon);
    give_examples(
        &mut document,
        &[
            ("/is_key_registered", json!({"key": client.key})),
            ("/revoke_token", json!({"jwt": jwt})),
            ("/revoke_token", json!({"kid": "none"})),
            ("/revoke_key", json!({"key": client.key})),
            ("/rotate_signing_key", json!({"now": false})),
            ("/rotate_signing_key", json!({"now": true, "emergency": true})),
        ],
    );
    check(&daemon, &document, "internal", &daemon.internal(""), &[]);
}

#[test]
fn answers_to_clients_of_tunnels_are_those_of_the_document() {
    let daemon = daemon();
    let (jwt, _) = tokens(&daemon, &daemon.register());
    let document = document(&daemon);
    check(&daemon, &document, "netunnel", &daemon.netunnel(""), &[("{jwt}", &jwt)]);
    // Whose token is not good.
    check(&daemon, &document, "netunnel", &daemon.netunnel(""), &[("{jwt}", "x")]);
}

#[test]
fn answers_to_operators_are_those_of_the_document() {
    Network::within(|_| {
        let other = Daemon::start("auth = \"none\"");
        let daemon = Daemon::start("peer_auth = \"none\"");
        let mut document = document(&daemon);
        let peer = |name: &str| json!({"name": name, "target_netunnel_url": other.netunnel(""), "auth_data": {}});
        let answer = ask("POST", &daemon.internal("/peers"), &[], Some(&peer("known").to_string()));
        assert_eq!(answer.status, 200, "{answer:?}");
        give_examples(
            &mut document,
            &[
                ("/peers", peer("known")),
                ("/peers", peer("new")),
                ("/peers/{peer}", json!({"name": "other"})),
                ("/peers/{peer}/static_tunnels", json!({"tunnel_remote_port": 9})),
                ("/config/http-proxy", json!({"proxy_url": null})),
                (
                    "/config/http-proxy",
                    json!({"proxy_url": "http://127.0.0.1:1", "check_proxy": false}),
                ),
            ],
        );
        run(&daemon, &document, ("internal", true), &daemon.internal(""), &[]);
    });
}

/// The classes of status that a route of the public listener has answered.
fn classes(daemon: &Daemon, route: &str) -> Vec<String> {
    let answer = get(&daemon.internal("/metrics"), &[]);
    let of_route = answer.body.lines().filter(|line| {
        line.starts_with("jwtunnel_http_requests_total")
            && line.contains("listener=\"public\"")
            && line.contains(&format!("route=\"{route}\""))
            && !line.ends_with(" 0")
    });
    let class = |line: &str| {
        let (_, rest) = line.split_once("status=\"").expect("a status");
        rest.split_once('"').expect("its end").0.to_owned()
    };
    of_route.map(class).collect()
}
