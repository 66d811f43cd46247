//! Other issuers' keys: fetched, kept and followed, from real servers.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::issuer_harness::{Daemon, Options, PATIENCE, jwtunnel};
use crate::key_server::{KeyServer, Tls, answer};
use futures_util::StreamExt;
use jwt_core::JwkSet;
use jwtunnel::clock::Clock;
use jwtunnel::config::{Remote, RemoteSource, RsaBits, SigningAlgorithm, Size};
use jwtunnel::remote::RemoteKeys;
use jwtunnel::signing_key::{PublicJwks, SigningKey};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

fn key() -> SigningKey {
    SigningKey::generate(SigningAlgorithm::Es256, RsaBits::B2048).unwrap()
}

fn jwks(keys: &[&SigningKey]) -> String {
    let keys = keys.iter().map(|key| key.jwk().clone()).collect();
    serde_json::to_string(&PublicJwks { keys }).unwrap()
}

/// Fetches all the time, into `folder`.
fn remote(url: &str, folder: &Path) -> Remote {
    Remote {
        name: "corp".into(),
        source: RemoteSource::Keys(url.parse().unwrap()),
        issuer: None,
        audience: Vec::new(),
        file: folder.join("public/corp.json"),
        refresh: Duration::from_millis(50),
        timeout: Duration::from_secs(5),
        max_size: Size(64 * 1024),
        allow_private: false,
        ca_file: None,
        tunnels: false,
    }
}

/// One issuer whose keys are being fetched.
struct Fetching {
    keys: RemoteKeys,
    file: PathBuf,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Fetching {
    async fn start(remote: Remote) -> Self {
        let keys = RemoteKeys::open(std::slice::from_ref(&remote), &Clock::system()).unwrap();
        let stop = CancellationToken::new();
        let tasks = keys.start(&stop).await;
        Self { keys, file: remote.file, stop, tasks }
    }

    async fn end(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }

    fn status(&self) -> Value {
        serde_json::to_value(&self.keys.status()[0]).unwrap()
    }

    fn error(&self) -> String {
        self.status()["error"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the last fetch failed for this reason.
    async fn fails(&self, reason: &str) {
        let reached = eventually(|| self.error().contains(reason)).await;
        assert!(reached, "{:?} does not become {reason:?}", self.error());
    }

    /// Waits until the file holds these keys.
    async fn holds(&self, keys: &[&SigningKey]) {
        let reached = eventually(|| kids(&self.file) == names(keys)).await;
        assert!(reached, "{:?}, {:?}", kids(&self.file), self.status());
    }
}

async fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        if Instant::now() > end {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    true
}

/// The keys that nginx finds in a file; none if it would refuse the file.
fn kids(file: &Path) -> Vec<String> {
    let set = fs::read(file).ok().and_then(|text| JwkSet::parse(&text).ok());
    set.map_or_else(Vec::new, |set| set.kids().map(str::to_owned).collect())
}

fn names(keys: &[&SigningKey]) -> Vec<String> {
    keys.iter().map(|key| key.kid().to_owned()).collect()
}

#[tokio::test]
async fn keys_are_asked_for_by_their_etag_and_a_rotation_is_followed() {
    let (first, second) = (key(), key());
    let server = KeyServer::start(tagged("\"1\"", &jwks(&[&first]))).await;
    let folder = tempfile::tempdir().unwrap();
    let fetching = Fetching::start(remote(&server.url("/jwks"), folder.path())).await;
    fetching.holds(&[&first]).await;
    assert!(eventually(|| server.count() >= 4).await);
    let requests = server.requests();
    assert!(!requests[0].contains("if-none-match"), "{requests:?}");
    assert!(requests[1..].iter().all(|r| r.contains("if-none-match: \"1\"\r\n")), "{requests:?}");
    let metadata = fs::metadata(&fetching.file).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o644);
    // An answer of 304 is a success, and changes no file.
    let status = fetching.status();
    assert_eq!((&status["keys"], &status["error"]), (&json!(1), &Value::Null), "{status}");
    assert!(status["last_success"].is_i64() && status["next_fetch"].is_i64(), "{status}");
    let server_has = |etag: &str, keys: &str| server.behave(tagged(etag, keys));
    server_has("\"2\"", &jwks(&[&first, &second]));
    fetching.holds(&[&first, &second]).await;
    assert_ne!(fs::metadata(&fetching.file).unwrap().ino(), metadata.ino(), "not by renaming");
    server_has("\"3\"", &jwks(&[&second]));
    fetching.holds(&[&second]).await;
    // Whoever removes the file gets it back, though the server only says 304.
    fs::remove_file(&fetching.file).unwrap();
    fetching.holds(&[&second]).await;
    fetching.end().await;
    let count = server.count();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(server.count(), count, "it has ended");
}

/// Answers with these keys, or 304 to who has them.
fn tagged(etag: &str, keys: &str) -> impl Fn(&str) -> String + Send + Sync + 'static {
    let full = answer("200 OK", &format!("ETag: {etag}\r\n"), keys);
    let known = format!("if-none-match: {etag}\r\n");
    let unchanged =
        format!("HTTP/1.1 304 Not Modified\r\nETag: {etag}\r\nConnection: close\r\n\r\n");
    move |request| if request.contains(&known) { unchanged.clone() } else { full.clone() }
}

#[tokio::test]
async fn what_cannot_be_used_changes_nothing() {
    let good = key();
    let server = KeyServer::of(&jwks(&[&good])).await;
    let elsewhere = KeyServer::of(&jwks(&[&key()])).await;
    let folder = tempfile::tempdir().unwrap();
    let mut slow = remote(&server.url("/jwks"), folder.path());
    slow.timeout = Duration::from_secs(1);
    let fetching = Fetching::start(slow).await;
    fetching.holds(&[&good]).await;
    let before = fs::read(&fetching.file).unwrap();
    let secret = r#"{"keys":[{"kty":"oct","alg":"HS256","k":"dGhpcyBrZXkgaXMgb25seSBmb3IgdGVzdHMsIDMyKyBieXRlcw"}]}"#;
    let ok = |body: &str| answer("200 OK", "", body);
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(4_096));
    let endless =
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}", chunk.repeat(32));
    let moved = format!("Location: {}\r\n", elsewhere.url("/jwks"));
    for (answer, reason) in [
        (ok(""), "no usable JWK Set: it is empty"),
        (ok("<html>"), "no usable JWK Set"),
        (ok("[]"), "no usable JWK Set"),
        (ok(r#"{"keys":[]}"#), "it has no usable key"),
        (ok(secret), "it has no usable key"),
        (ok(&" ".repeat(64 * 1024 + 1)), "more than max_size = 65536 bytes"),
        (endless, "more than max_size"),
        (answer("200 OK", "Content-Encoding: gzip\r\n", &jwks(&[&key()])), "Content-Encoding"),
        (answer("500 Internal Server Error", "", &jwks(&[&key()])), "answers 500"),
        (answer("304 Not Modified", "", ""), "answers 304"),
        (answer("302 Found", &moved, ""), "redirects are not followed"),
        (
            answer("307 Temporary Redirect", "Location: https://10.0.0.1/\r\n", ""),
            "redirects are not",
        ),
        // Half an answer, and then nothing; and none at all.
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{\"ke".into(), "longer than timeout = 1 s"),
        (String::new(), "longer than timeout = 1 s"),
    ] {
        server.behave(move |_| answer.clone());
        fetching.fails(reason).await;
        assert_eq!(fs::read(&fetching.file).unwrap(), before, "{reason}");
        assert_eq!(fetching.status()["keys"], 1, "{reason}");
    }
    assert_eq!(elsewhere.count(), 0, "where a redirect leads");
    let next = key();
    let text = jwks(&[&next]);
    server.behave(move |_| answer("200 OK", "", &text));
    fetching.holds(&[&next]).await;
    assert!(eventually(|| fetching.status()["error"].is_null()).await);
    fetching.end().await;
}

#[tokio::test]
async fn the_last_good_keys_outlive_a_restart_without_their_issuer() {
    let good = key();
    let server = KeyServer::of(&jwks(&[&good])).await;
    let folder = tempfile::tempdir().unwrap();
    let remote = remote(&server.url("/jwks"), folder.path());
    let fetching = Fetching::start(remote.clone()).await;
    fetching.holds(&[&good]).await;
    fetching.end().await;
    drop(server);
    let fetching = Fetching::start(remote.clone()).await;
    assert_eq!(fetching.status()["keys"], 1, "at once");
    fetching.fails("cannot be reached").await;
    assert_eq!(
        (kids(&fetching.file), fetching.status()["keys"].clone()),
        (names(&[&good]), json!(1))
    );
    assert_eq!(fetching.status()["last_success"], Value::Null);
    fetching.end().await;
    // Keys that were fetched from another URL are not this issuer's.
    let other =
        Remote { source: RemoteSource::Keys("http://127.0.0.1:1/".parse().unwrap()), ..remote };
    let fetching = Fetching::start(other).await;
    assert_eq!(fetching.status()["keys"], 0);
    fetching.end().await;
}

#[tokio::test]
async fn a_server_tells_how_long_its_keys_are_fresh_and_how_long_to_leave_it_alone() {
    let headers = "Cache-Control: public, max-age=120\r\n";
    let server = KeyServer::start({
        let fresh = answer("200 OK", headers, &jwks(&[&key()]));
        move |_| fresh.clone()
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let mut hourly = remote(&server.url("/jwks"), folder.path());
    hourly.refresh = Duration::from_secs(3_600);
    let fetching = Fetching::start(hourly).await;
    assert!(eventually(|| fetching.status()["last_success"].is_i64()).await);
    let status = fetching.status();
    let number = |name: &str| status[name].as_i64().unwrap();
    let pause = number("next_fetch") - number("last_success");
    assert!((107..=121).contains(&pause), "{status}");
    for (headers, from, to) in [("Retry-After: 600\r\n", 599, 661), ("", 0, 5)] {
        let before = server.count();
        let busy = answer("503 Service Unavailable", headers, "");
        server.behave(move |_| busy.clone());
        let asked = Clock::system().unix_now();
        // As SIGHUP does.
        fetching.keys.refresh();
        let failed = |status: &Value| {
            let next = status["next_fetch"].as_i64().unwrap_or_default();
            status["error"].is_string() && (asked + from..=asked + to + 30).contains(&next)
        };
        assert!(eventually(|| server.count() > before && failed(&fetching.status())).await);
    }
    fetching.end().await;
}

/// OpenID Connect Discovery 1.0, section 4.
#[tokio::test]
async fn keys_are_discovered_by_their_issuer_and_by_no_other() {
    let good = key();
    let keys = KeyServer::of(&jwks(&[&good])).await;
    let server = KeyServer::of("{}").await;
    let issuer = server.url("/realms/a");
    let folder = tempfile::tempdir().unwrap();
    let mut remote = remote(&issuer, folder.path());
    let document = format!("{issuer}/.well-known/openid-configuration");
    remote.source = RemoteSource::Discovery(document.parse().unwrap());
    remote.issuer = Some(issuer.clone());
    let fetching = Fetching::start(remote).await;
    let doc = |issuer: &str, uri: &str| json!({"issuer": issuer, "jwks_uri": uri}).to_string();
    for (document, reason) in [
        ("{}".to_owned(), "is no discovery document: it is not JSON with"),
        (doc(&server.url("/realms/b"), &keys.url("/")), "its issuer is not exactly"),
        (doc(&format!("{issuer}/"), &keys.url("/")), "its issuer is not exactly"),
        (doc(&issuer, "jwks"), "its jwks_uri is no URL"),
        // rel:A4, rel:W6: the document leads where the operator's URL may, and no further.
        (doc(&issuer, "https://10.0.0.1/jwks"), "private network; allow_private"),
        (doc(&issuer, "https://169.254.169.254/latest"), "never connected to"),
        (doc(&issuer, "http://corp.example/jwks"), "is not https"),
        (doc(&issuer, "file:///etc/passwd"), "is neither https nor http"),
    ] {
        server.behave(move |_| answer("200 OK", "", &document));
        fetching.fails(reason).await;
        assert!(!fetching.file.exists(), "{reason}");
    }
    assert_eq!(keys.count(), 0);
    let right = doc(&issuer, &keys.url("/keys"));
    server.behave(move |_| answer("200 OK", "", &right));
    fetching.holds(&[&good]).await;
    assert!(server.requests()[0].starts_with("GET /realms/a/.well-known/openid-configuration "));
    assert!(keys.requests()[0].starts_with("GET /keys "));
    fetching.end().await;
}

#[tokio::test]
async fn a_private_certificate_authority_has_to_be_named() {
    let good = key();
    let folder = tempfile::tempdir().unwrap();
    let tls = Tls::make(folder.path());
    let server = KeyServer::with_tls(&tls, &jwks(&[&good])).await;
    let url = server.url("/jwks");
    assert!(url.starts_with("https://127.0.0.1:"), "{url}");
    let mut remote = remote(&url, folder.path());
    let fetching = Fetching::start(remote.clone()).await;
    fetching.fails("certificate").await;
    assert_eq!(server.count(), 0, "nothing is asked of a server that is not believed");
    fetching.end().await;
    remote.ca_file = Some(tls.certificate.clone());
    let fetching = Fetching::start(remote.clone()).await;
    fetching.holds(&[&good]).await;
    fetching.end().await;
    remote.ca_file = Some(folder.path().join("missing.pem"));
    let error = RemoteKeys::open(&[remote], &Clock::system()).err().unwrap().to_string();
    assert!(error.starts_with("[[jwks.remote]] corp: ca_file: "), "{error}");
}

/// design.md section 10, in the daemon: from the configuration to a channel, and to its end.
#[tokio::test]
async fn the_daemon_serves_another_issuers_callers_and_tells_how_their_keys_are() {
    let (first, second) = (key(), key());
    let server = KeyServer::of(&jwks(&[&first])).await;
    let rest = format!(
        "[[jwks.remote]]\nname = \"corp\"\nurl = \"{}\"\nissuer = \"https://corp.example\"\n\
         audience = [\"tunnels\"]\ntunnels = true\nrefresh = \"1h\"\n",
        server.url("/jwks")
    );
    let mut daemon = Daemon::start(Options { rest: rest.clone(), ..Options::default() }).await;
    let fetched =
        |keys: usize| move |line: &Value| line["event"] == "remote_keys" && line["keys"] == keys;
    daemon.wait_for(fetched(1)).await;
    let file = daemon.path("public/corp.json");
    assert_eq!(kids(&file), names(&[&first]));
    let identifier = Uuid::from_u128(7);
    let (local, _) = daemon.tokens("K", identifier).await;
    let from_corp = |key: &SigningKey, audience: &str| {
        let exp = Clock::system().unix_now() + 600;
        let claims = json!({"iss": "https://corp.example", "aud": audience, "sub": identifier,
            "jti": "t1", "iat": exp - 600, "exp": exp});
        key.sign(&claims).unwrap()
    };
    let remote = from_corp(&first, "tunnels");
    let (mut theirs, id) = open(&daemon, &remote).await.unwrap();
    let (mut ours, _) = open(&daemon, &local).await.unwrap();
    // The same name at another issuer is somebody else.
    let netunnel = netunnel(&daemon);
    let delete = async |token: &str| {
        let url = format!("http://{netunnel}/channels/{id}");
        daemon.client.delete(url).bearer_auth(token).send().await.unwrap().status()
    };
    assert_eq!(delete(&local).await, 404);
    assert_eq!(open(&daemon, &from_corp(&first, "wiki")).await.err(), Some(401));
    assert_eq!(open(&daemon, &from_corp(&second, "tunnels")).await.err(), Some(401));
    let internal = format!("http://{}", daemon.internal);
    let (code, shown, _) = jwtunnel(&["status", "--server", &internal], "");
    assert_eq!(code, 0, "{shown}");
    assert!(
        shown.contains("remote keys corp: 1 keys in ") && shown.contains("fetched "),
        "{shown}"
    );
    assert!(shown.contains(&format!("corp:{identifier}: 1 channels")), "{shown}");
    // What is revoked of the one is not revoked of the other, whatever they are called.
    let name = format!("corp:{identifier}");
    for (revoked, closed) in [(&name, &mut theirs), (&identifier.to_string(), &mut ours)] {
        let arguments = ["token", "revoke", "--identifier", revoked, "--server", &internal];
        assert_eq!(jwtunnel(&arguments, "").0, 0);
        assert_eq!(closed_with(closed).await, Some(CloseCode::Policy), "{revoked}");
        let refused = [open(&daemon, &remote).await.err(), open(&daemon, &local).await.err()];
        let expected = if *revoked == name { [Some(401), None] } else { [Some(401); 2] };
        assert_eq!(refused, expected, "{revoked}");
    }
    // A rotation is seen at once by who asks for it.
    let both = jwks(&[&first, &second]);
    server.behave(move |_| answer("200 OK", "", &both));
    daemon.signal("HUP");
    daemon.wait_for(fetched(2)).await;
    assert_eq!(kids(&file), names(&[&first, &second]));
    let later = json!({"iss": "https://corp.example", "aud": "tunnels", "sub": "carol",
        "exp": Clock::system().unix_now() + 600});
    open(&daemon, &second.sign(&later).unwrap()).await.unwrap();
    // The keys outlive the daemon, and it starts without their issuer.
    drop(server);
    let root = daemon.stop().await;
    let mut daemon = Daemon::start_in(root, Options { rest, ..Options::default() }).await;
    open(&daemon, &second.sign(&later).unwrap()).await.unwrap();
    let failed = |line: &Value| line["event"] == "remote_keys" && line["outcome"] == "error";
    assert_eq!(daemon.wait_for(failed).await["keys_kept"], 2);
    let internal = format!("http://{}", daemon.internal);
    let (code, shown, _) = jwtunnel(&["status", "--server", &internal], "");
    assert!(code == 3 && shown.contains("cannot be reached"), "{code} {shown}");
    assert_eq!(open(&daemon, &remote).await.err(), Some(401), "it stays revoked");
}

fn netunnel(daemon: &Daemon) -> String {
    let is_netunnel = |line: &Value| line["event"] == "listening" && line["listener"] == "netunnel";
    let line = daemon.events().into_iter().find(is_netunnel).unwrap();
    line["address"].as_str().unwrap().to_owned()
}

type Ws =
    tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

/// A connected channel and its id, or the status of the refusal.
async fn open(daemon: &Daemon, token: &str) -> Result<(Ws, u64), u16> {
    let address = netunnel(daemon);
    let request = daemon.client.post(format!("http://{address}/channels")).bearer_auth(token);
    let answer = request.body("{\"version\":\"1.0.13\"}").send().await.unwrap();
    if answer.status() != 200 {
        return Err(answer.status().as_u16());
    }
    let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    let id = answer["channel_id"].as_u64().unwrap();
    let mut request =
        format!("ws://{address}/channels/{id}/connect").into_client_request().unwrap();
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    Ok((tokio_tungstenite::connect_async(request).await.unwrap().0, id))
}

/// The code of the CLOSE that comes next.
async fn closed_with(ws: &mut Ws) -> Option<CloseCode> {
    let close = async {
        loop {
            match ws.next().await? {
                Ok(Message::Close(frame)) => return frame.map(|frame| frame.code),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    };
    tokio::time::timeout(PATIENCE, close).await.expect("a CLOSE in time")
}

/// A mistake is found before anything is started, and what holds is shown.
#[tokio::test]
async fn check_shows_a_remote_issuer_and_finds_its_mistakes() {
    let root =
        tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir().unwrap();
    let check = |lines: &str| {
        let rest = format!("[[jwks.remote]]\nname = \"corp\"\n{lines}");
        let mut command =
            crate::issuer_harness::command(root.path(), &Options { rest, ..Options::default() });
        let output = command.arg("--check").output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, shown, said) = check("url = \"https://corp.example/jwks\"\n");
    assert_eq!(code, Some(0), "{said}");
    let shown = shown.split_once("[[jwks.remote]]\n").unwrap().1;
    assert!(shown.starts_with("name = \"corp\""), "{shown}");
    assert!(
        shown.contains("url = \"https://corp.example/jwks\"") && shown.contains("refresh = \"5m\"")
    );
    let (code, _, said) = check("url = \"http://corp.example/jwks\"\n");
    assert_eq!(code, Some(2));
    assert!(said.contains("[[jwks.remote]] url: the URL is not https"), "{said}");
    let (code, _, said) =
        check("url = \"https://corp.example/jwks\"\nca_file = \"/nowhere.pem\"\n");
    assert_eq!(code, Some(2));
    assert!(said.contains("[[jwks.remote]] corp: ca_file: /nowhere.pem"), "{said}");
    // A listener that nobody uses: the check has connected nowhere.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("url = \"http://{}/jwks\"\n", listener.local_addr().unwrap());
    assert_eq!(check(&url).0, Some(0));
    let accepted = tokio::time::timeout(Duration::from_millis(100), listener.accept()).await;
    assert!(accepted.is_err(), "--check fetches nothing");
}
