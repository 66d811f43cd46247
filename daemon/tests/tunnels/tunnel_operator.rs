//! The operator's routes: peers, static tunnels, proxy, factory reset. The peer is another server in this process, or
//! the same one; `tests/` tries the original's programs.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::tunnel_harness::*;
use jwtunnel::auth::{Authenticator, Mode};
use jwtunnel::clock::Clock;
use jwtunnel::config::{Environment, Loaded};
use jwtunnel::secret::Secret;
use jwtunnel::tunnel::{Admins, Operator, Server, Settings};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

/// A server with an operator, on a state file of its own.
struct Site {
    bench: Bench,
    operator: Arc<Operator>,
    folder: TempDir,
}

impl Site {
    async fn start() -> Self {
        Self::in_folder(tempfile::tempdir().unwrap(), "auth = \"none\"").await
    }

    async fn in_folder(folder: TempDir, more: &str) -> Self {
        let text = format!(
            "[netunnel]\nstate_file = \"{}/netunnel.json\"\n{more}\n",
            folder.path().display()
        );
        let config = Loaded::parse(Path::new("t.toml"), &text, &Environment::new()).unwrap().config;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut settings =
            Settings { timings: quick(), ..Settings::from_config(&config.netunnel).unwrap() };
        settings.own_listeners.push(address);
        let operator = Operator::start(&config.netunnel, &settings).await.unwrap();
        let auth = Authenticator::new(Mode::Operator, Duration::ZERO, Clock::system()).unwrap();
        let server = Server::new(settings, auth);
        let router = operator.router(&server, Admins::Everyone);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { bench: Bench::of(server, address), operator, folder }
    }

    fn file(&self) -> Value {
        let text = std::fs::read_to_string(self.folder.path().join("netunnel.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    async fn register(&self, url: &str) -> Answer {
        let body = json!({"name": "b", "target_netunnel_url": url, "auth_data": {}});
        self.bench.post("/peers", &body).await
    }

    /// A static tunnel of the first peer to a port of 127.0.0.1; gives its own port.
    async fn tunnel(&self, port: u16) -> u16 {
        self.tunnel_at("127.0.0.1", port).await.port()
    }

    /// The same with an entrance at this address.
    async fn tunnel_at(&self, address: &str, port: u16) -> SocketAddr {
        let body = json!({"tunnel_remote_port": port, "tunnel_local_address": address});
        let answer = self.bench.post("/peers/1/static_tunnels", &body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let port = u16::try_from(answer.json()["tunnel_local_port"].as_u64().unwrap()).unwrap();
        SocketAddr::new(address.parse().unwrap(), port)
    }
}

async fn carries(port: u16) {
    carries_at(([127, 0, 0, 1], port).into()).await;
}

async fn carries_at(entrance: SocketAddr) {
    let stream = dial(entrance).await;
    assert_eq!(exchange(stream, b"through the static tunnel").await, b"through the static tunnel");
}

#[tokio::test]
async fn peers_are_checked_and_registered_a44_a45_a46_a47_a48() {
    let site = Site::start().await;
    let error = site.bench.post("/peers", &json!({})).await.error(400);
    assert!(error.starts_with("Failed to register peer: {'name': ['Missing data"), "{error}");
    for field in ["name", "target_netunnel_url", "auth_data"] {
        assert!(error.contains(&format!("'{field}'")), "{error}");
    }
    assert_eq!(site.bench.get("/peers/1").await.error(404), "Peer `1` was not found");
    let dead = format!("http://127.0.0.1:{}", closed_port().await);
    assert_eq!(site.register(&dead).await.error(502), "Failed to connect with peer `b`");
    assert_eq!(site.bench.get("/peers").await.json(), json!([]));

    let peer = json!({"id": 1, "name": "b", "target_netunnel_url": site.bench.url(), "auth_data": {},
        "static_tunnels": []});
    assert_eq!(site.register(&site.bench.url()).await.json(), peer);
    assert_eq!(site.register(&site.bench.url()).await.error(400), "Peer `b` already exists");
    assert_eq!(site.bench.get("/peers/1").await.json(), peer);
    assert_eq!(site.bench.get("/peers").await.json(), json!([peer]));
    assert_eq!(site.bench.get("/peers?name=b").await.json(), json!([peer]));
    assert_eq!(site.bench.get("/peers?name=").await.json(), json!([peer]));
    assert_eq!(site.bench.get("/peers?name=x").await.json(), json!([]));
    assert_eq!(site.file()["peers"], json!([peer]));

    let error = site.bench.post("/peers/1", &json!({"id": 5})).await.error(400);
    assert_eq!(error, "{'id': ['Unknown field.']}");
    assert_eq!(site.bench.post("/peers/1", &json!({})).await.json(), peer);
    let error = site.bench.post("/peers/1", &json!({"target_netunnel_url": dead})).await.error(502);
    assert_eq!(error, "Failed to connect with peer `b`");
    assert_eq!(site.file()["peers"], json!([peer]), "a failed change changes nothing");
    let renamed = site.bench.post("/peers/1", &json!({"name": "c"})).await.json();
    assert_eq!(renamed["name"], "c");
    assert_eq!(site.file()["peers"][0]["name"], "c");

    for id in ["2", "99999999999999999999999"] {
        site.bench.get(&format!("/peers/{id}")).await.error(404);
    }
    assert_eq!(site.bench.get("/peers/x").await.status, 404);
    assert_eq!(site.bench.delete("/peers/1", &json!({})).await.text, "");
    site.bench.delete("/peers/1", &json!({})).await.error(404);
    assert_eq!(site.file()["peers"], json!([]));
}

#[tokio::test]
async fn static_tunnels_are_made_and_taken_away_a49_a50() {
    let site = Site::start().await;
    assert_eq!(site.register(&site.bench.url()).await.status, 200);
    let port = echo().await;
    let first = site.tunnel(port).await;
    let second = site.tunnel(port).await;
    assert!((20_000..21_000).contains(&first) && second > first, "{first} {second}");
    carries(first).await;
    carries(second).await;
    let listed = site.bench.get("/peers/1/static_tunnels").await.json();
    assert_eq!(
        listed[1],
        json!({"id": 2, "tunnel_local_address": "127.0.0.1", "tunnel_local_port": second,
        "tunnel_remote_address": "127.0.0.1", "tunnel_remote_port": port})
    );
    assert_eq!(site.bench.get("/peers/1/static_tunnels/2").await.json(), listed[1]);
    assert_eq!(site.bench.get("/peers/1").await.json()["static_tunnels"], listed);
    assert_eq!(site.file()["peers"][0]["static_tunnels"], listed);

    let ask = async |body: Value| site.bench.post("/peers/1/static_tunnels", &body).await;
    let error = ask(json!({"tunnel_remote_port": 1, "tunnel_local_port": 1})).await.error(400);
    assert_eq!(error, "Tunnel's local_port is generated by the netunnel server");
    let error = ask(json!({})).await.error(400);
    let text = "Failed to create static tunnel for peer `b`: {'tunnel_remote_port': ['Missing data";
    assert!(error.starts_with(text), "{error}");
    // The peer refuses this one: its own listener.
    let own = site.bench.address.port();
    let error = ask(json!({"tunnel_remote_port": own})).await.error(502);
    assert!(error.contains("is not allowed as a tunnel destination"), "{error}");
    carries(first).await;
    assert_eq!(site.file()["peers"][0]["static_tunnels"], listed, "nothing is stored");

    assert_eq!(
        site.bench.get("/peers/1/static_tunnels/99").await.error(404),
        "No static tunnel by id `99` on `b`"
    );
    let gone = site.bench.delete("/peers/1/static_tunnels/1", &json!({})).await;
    assert_eq!((gone.status, gone.text.as_str()), (200, ""));
    TcpListener::bind(("127.0.0.1", first)).await.unwrap();
    carries(second).await;
    site.bench.delete("/peers/1", &json!({})).await;
    TcpListener::bind(("127.0.0.1", second)).await.unwrap();
    eventually("no channel is left", || site.bench.server.census().channels == 0).await;
}

/// rel:A3: what a peer is given is never shown again, and a masked value that comes back changes nothing.
#[tokio::test]
async fn credentials_are_not_shown_again() {
    let secret = "hunter2-hunter2";
    let peer = Bench::start(
        Settings { timings: quick(), ..Settings::default() },
        Mode::Secret(Secret::new(secret)),
    )
    .await;
    let folder = tempfile::tempdir().unwrap();
    let site = Site::in_folder(folder, "auth = \"none\"\npeer_auth = \"secret\"").await;
    let body = |secret: &str| json!({"name": "b", "target_netunnel_url": peer.url(), "auth_data": {"secret": secret}});
    let wrong = site.bench.post("/peers", &body("wrong")).await.error(403);
    assert_eq!(wrong, "Failed to authenticate with peer `b`");
    let nothing = json!({"name": "b", "target_netunnel_url": peer.url(), "auth_data": {}});
    assert!(site.bench.post("/peers", &nothing).await.error(400).contains("'secret'"));
    let answer = site.bench.post("/peers", &body(secret)).await;
    assert_eq!(answer.json()["auth_data"], json!({"secret": "******"}));
    let port = site.tunnel(echo().await).await;
    carries(port).await;
    let masked = json!({"auth_data": {"secret": "******"}, "name": "c"});
    let update = site.bench.post("/peers/1", &masked).await;
    assert_eq!(update.status, 200, "{update:?}");
    for answer in [answer, update, site.bench.get("/peers").await, site.bench.get("/peers/1").await]
    {
        assert!(!answer.text.contains("hunter2"), "{answer:?}");
    }
    assert_eq!(site.file()["peers"][0]["auth_data"], json!({"secret": secret}));
    assert_eq!(site.file()["peers"][0]["name"], "c");
    carries(port).await;
}

#[tokio::test]
async fn static_tunnels_survive_restarts_of_either_side() {
    let site = Site::start().await;
    let other = Site::start().await;
    assert_eq!(site.register(&other.bench.url()).await.status, 200);
    // An address that no other test uses: one that runs beside this one could take the port between the two starts.
    let entrance = site.tunnel_at("127.0.0.77", echo().await).await;
    carries_at(entrance).await;
    // The peer loses everything, as at its restart; the port stays bound, and who connects meanwhile waits.
    let reset =
        other.bench.post("/config/factory-reset", &json!({"disconnect_clients": true})).await;
    assert_eq!((reset.status, reset.text.as_str()), (200, ""));
    carries_at(entrance).await;
    // This side starts anew from its file.
    let Site { bench, operator, folder } = site;
    operator.stop().await;
    drop((bench, operator));
    TcpListener::bind(entrance).await.unwrap();
    // The old router still has the operator and with it the file: another folder, as a moved daemon has.
    let moved = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("netunnel.json"), moved.path().join("netunnel.json"));
    std::fs::copy(from, to).unwrap();
    let again = Site::in_folder(moved, "auth = \"none\"").await;
    eventually("the tunnel is online", || json!(again.operator.status())[0]["state"] == "online")
        .await;
    carries_at(entrance).await;
    assert_eq!(
        again.bench.get("/peers/1").await.json()["static_tunnels"][0]["tunnel_local_port"],
        entrance.port()
    );
}

#[tokio::test]
async fn changed_settings_restart_the_tunnels_of_that_peer() {
    let (site, first, second) = (Site::start().await, Site::start().await, Site::start().await);
    assert_eq!(site.register(&first.bench.url()).await.status, 200);
    let port = site.tunnel(echo().await).await;
    eventually("one channel", || first.bench.server.census().channels == 1).await;
    let change = json!({"target_netunnel_url": second.bench.url()});
    assert_eq!(site.bench.post("/peers/1", &change).await.status, 200);
    carries(port).await;
    eventually("no channel", || first.bench.server.census().channels == 0).await;
    assert_eq!(second.bench.server.census().channels, 1);
}

#[tokio::test]
async fn the_proxy_is_stored_encrypted_and_shown_masked_a52_a53_a54() {
    let site = Site::start().await;
    let set = async |body: Value| site.bench.post("/config/http-proxy", &body).await;
    assert_eq!(site.bench.get("/config/http-proxy").await.json(), json!({}));
    assert_eq!(set(json!({})).await.error(400), "Missing 'proxy_url' for proxy");
    let url = format!("http://127.0.0.1:{}", closed_port().await);
    let error =
        set(json!({"proxy_url": url, "username": "u", "check_proxy": false})).await.error(400);
    assert_eq!(error, "HTTP proxy authentication should include both username and password");
    let bad = json!({"proxy_url": url, "test_url": "http://127.0.0.1:1/"});
    set(bad).await.error(502);
    // rel:A4: not even to ask whether the proxy works.
    let metadata = json!({"proxy_url": url, "test_url": "http://169.254.169.254/"});
    assert!(set(metadata).await.error(502).contains("never connected to"));
    assert_eq!(site.bench.get("/config/http-proxy").await.json(), json!({}));

    let masked = json!({"proxy_url": url, "username": "******", "password": "******"});
    let given =
        json!({"proxy_url": url, "username": "user", "password": "hunter2", "check_proxy": false});
    assert_eq!(set(given).await.json(), masked);
    let stored = site.file()["http_proxy"].clone();
    assert!(stored["username"].as_str().unwrap().starts_with("gAAAA"), "{stored}");
    assert!(!stored.to_string().contains("hunter2"));
    // rel:A2: reading it, and posting back what was read, leaves the credentials what they are.
    for _ in 0..10 {
        assert_eq!(site.bench.get("/config/http-proxy").await.json(), masked);
    }
    let mut back = masked.clone();
    back["check_proxy"] = false.into();
    assert_eq!(set(back).await.json(), masked);
    let key = std::fs::read_to_string(site.folder.path().join("netunnel.key")).unwrap();
    let decrypt = |what: &str| {
        let token = site.file()["http_proxy"][what].as_str().unwrap().to_owned();
        String::from_utf8(fernet::Fernet::new(key.trim()).unwrap().decrypt(&token).unwrap())
            .unwrap()
    };
    assert_eq!((decrypt("username"), decrypt("password")), ("user".into(), "hunter2".into()));
    // A proxy without credentials keeps none of those before.
    let plain = set(json!({"proxy_url": url, "check_proxy": false})).await.json();
    assert_eq!(plain, json!({"proxy_url": url, "username": null, "password": null}));

    assert_eq!(set(json!({"proxy_url": null})).await.json(), json!({}));
    assert_eq!(site.bench.get("/config/http-proxy").await.json(), json!({}));
    assert_eq!(site.register(&site.bench.url()).await.status, 200, "peers can be registered");
}

/// nt:D4: what was encrypted with a key that is gone is no reason not to start, and is not used.
#[tokio::test]
async fn credentials_under_another_key_are_left_out_d4() {
    let folder = tempfile::tempdir().unwrap();
    let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let lost = fernet::Fernet::new("3vpPjEJ6pEckqFxQ5Vbtwa9pHw9c6gQUxS8NueEZQII=").unwrap();
    let lost = lost.encrypt(b"user");
    let url = format!("http://127.0.0.1:{}", closed_port().await);
    let file = json!({"secret_key": key,
        "http_proxy": {"proxy_url": url, "username": lost, "password": lost}});
    std::fs::write(folder.path().join("netunnel.json"), file.to_string()).unwrap();
    let site = Site::in_folder(folder, "auth = \"none\"").await;
    let shown = site.bench.get("/config/http-proxy").await.json();
    assert_eq!(shown, json!({"proxy_url": url, "username": "******", "password": "******"}));
    // They can be set anew, and the proxy can be taken away.
    let given = json!({"proxy_url": url, "username": "a", "password": "b", "check_proxy": false});
    assert_eq!(site.bench.post("/config/http-proxy", &given).await.status, 200);
    let none = site.bench.post("/config/http-proxy", &json!({"proxy_url": null})).await;
    assert_eq!(none.json(), json!({}));
}

/// rel:W4: a tunnel that exists is judged again at its next connection.
#[tokio::test]
async fn changed_destinations_hold_for_existing_tunnels_w4() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"reached").await;
        }
    });
    let file = json!({"allowed_tunnel_destinations": {"127.0.0.2": port.to_string()}});
    std::fs::write(folder.path().join("netunnel.json"), file.to_string()).unwrap();
    let site = Site::in_folder(folder, "auth = \"none\"").await;
    let (id, _control) = site.bench.channel("").await;
    let wish = json!({"exit_address": "127.0.0.2", "exit_port": port, "reverse": false});
    let answer = site.bench.post(&format!("/channels/{id}/tunnels"), &wish).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut ws = site.bench.data(id).await;
    text(&mut ws, "pasten").await;
    assert_eq!(next(&mut ws).await, Some(Message::Binary(b"reached".to_vec().into())));
    let mut waiting = site.bench.data(id).await;
    let reset = site.bench.post("/config/factory-reset", &json!({})).await;
    assert_eq!(reset.status, 200, "{reset:?}");
    text(&mut waiting, "pasten").await;
    let end = next(&mut waiting).await;
    assert!(matches!(end, Some(Message::Close(_))), "{end:?}");
    let answer = site.bench.post(&format!("/channels/{id}/tunnels"), &wish).await;
    assert_eq!(answer.error(403), "Address 127.0.0.2 is not allowed as a tunnel destination");
}

/// rel:A7: a copy is made first.
#[tokio::test]
async fn a_factory_reset_erases_after_a_copy_a55() {
    let site = Site::start().await;
    assert_eq!(site.register(&site.bench.url()).await.status, 200);
    let port = site.tunnel(echo().await).await;
    let (before, file) = (site.file(), site.folder.path().join("netunnel.json"));
    let key = std::fs::read_to_string(site.folder.path().join("netunnel.key")).unwrap();
    for body in ["[]", "", "{\"disconnect_clients\": 1}"] {
        site.bench.send("POST", "/config/factory-reset", "", body).await.error(400);
        assert_eq!(site.file(), before, "nothing happens before the body is understood");
    }
    let (_, mut control) = site.bench.channel("").await;
    let reset = site.bench.post("/config/factory-reset", &json!({})).await;
    assert_eq!((reset.status, reset.text.as_str()), (200, ""));
    assert_eq!(reset.kind, "application/json");
    assert_eq!(site.file()["peers"], json!([]));
    assert_eq!(site.bench.get("/peers").await.json(), json!([]));
    assert_ne!(std::fs::read_to_string(site.folder.path().join("netunnel.key")).unwrap(), key);
    TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let copy = std::fs::read_dir(site.folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let copy = copy.filter(|path| path.to_string_lossy().contains("netunnel.json.before-reset-"));
    let copy: Vec<_> = copy.collect();
    let copied: Value = serde_json::from_str(&std::fs::read_to_string(&copy[0]).unwrap()).unwrap();
    assert_eq!(copied, before);
    assert!(file.exists());
    // Channels stay, unless they are to go.
    eventually("one channel", || site.bench.server.census().channels == 1).await;
    let reset =
        site.bench.post("/config/factory-reset", &json!({"disconnect_clients": true})).await;
    assert_eq!(reset.status, 200);
    assert_eq!(close_code(&mut control).await, Some(1000));
}

#[tokio::test]
async fn a_stopped_static_tunnel_cuts_its_connections() {
    let site = Site::start().await;
    assert_eq!(site.register(&site.bench.url()).await.status, 200);
    let port = site.tunnel(echo().await).await;
    let mut open = dial(([127, 0, 0, 1], port).into()).await;
    open.write_all(b"x").await.unwrap();
    let mut byte = [0];
    open.read_exact(&mut byte).await.unwrap();
    site.bench.delete("/peers/1/static_tunnels/1", &json!({})).await;
    // Cut, not ended: what was carried is not complete.
    let end = timeout(LIMIT, open.read(&mut byte)).await.unwrap();
    assert!(end.is_err(), "{end:?}");
}
