//! The client library against a real daemon, and against services that misbehave in ways that the daemon does not.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::issuer_harness::{Daemon, Options, PATIENCE};
use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse as _;
use axum::routing::{any, get, post};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use jwtunnel::client::{Client, Secret, TokenError};
use jwtunnel::clock::Clock;
use jwtunnel::tunnel::client::{ClientError, Connector, Credentials, Trust};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

const U: Uuid = Uuid::from_u128(0x7d2b_0d0c_8d7e_4a51_9f0c_3f1f_8f3f_4f11);

fn count(daemon: &Daemon, event: &str) -> usize {
    daemon.events().iter().filter(|line| line["event"] == event).count()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Passes requests on to the daemon, and holds the answers back as long as it is told to.
struct Relay {
    address: String,
    held: Arc<AtomicBool>,
    go: Arc<Semaphore>,
    /// Answers that have arrived.
    answers: Arc<AtomicUsize>,
}

impl Relay {
    async fn start(to: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (held, answers) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let go = Arc::new(Semaphore::new(0));
        let relay = Self { address, held, go, answers };
        let (to, held, answers, go) =
            (to.to_owned(), relay.held.clone(), relay.answers.clone(), relay.go.clone());
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let daemon = TcpStream::connect(&to).await.unwrap();
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_daemon, mut to_daemon) = daemon.into_split();
                tokio::spawn(async move {
                    let _ = tokio::io::copy(&mut from_client, &mut to_daemon).await;
                });
                let (held, answers, go) = (held.clone(), answers.clone(), go.clone());
                tokio::spawn(async move {
                    let mut bytes = vec![0; 65_536];
                    while let Ok(length @ 1..) = from_daemon.read(&mut bytes).await {
                        answers.fetch_add(1, Ordering::SeqCst);
                        if held.load(Ordering::SeqCst) {
                            go.acquire().await.unwrap().forget();
                        }
                        if to_client.write_all(&bytes[..length]).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        relay
    }
}

/// rel:I5: the service has replaced the refresh token, and whoever asked is gone before the answer comes.
#[tokio::test]
async fn a_refresh_token_that_was_replaced_is_not_lost_with_its_caller() {
    let daemon = Daemon::start(Options::default()).await;
    daemon.register_rotating("K", U);
    let (_, first) = daemon.authenticate("K", U).await;
    let relay = Relay::start(&daemon.public).await;
    let file = daemon.path("refresh-token");
    let build =
        || Client::builder(&format!("http://{}", relay.address)).refresh_token_file(&file).build();
    std::fs::write(&file, &first).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let client = build().await.unwrap();
    relay.held.store(true, Ordering::SeqCst);
    let caller = {
        let client = client.clone();
        tokio::spawn(async move { client.token().await })
    };
    until("an answer", || relay.answers.load(Ordering::SeqCst) > 0).await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    // Others that wait, now and then, get what the first one asked for.
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move { client.token().await })
    };
    relay.held.store(false, Ordering::SeqCst);
    relay.go.add_permits(1);
    let token = waiting.await.unwrap().unwrap();
    assert_eq!(daemon.validate(token.expose()).await.status, 200);
    assert_eq!(count(&daemon, "refresh"), 1);
    let second = client.refresh_token().unwrap();
    assert_ne!(second.expose(), first);
    assert_eq!(std::fs::read_to_string(&file).unwrap().trim(), second.expose());
    assert_eq!(mode(&file), 0o600);
    // It goes on, also after a restart, and nobody is called a thief.
    client.discard(&token);
    client.token().await.unwrap();
    build().await.unwrap().token().await.unwrap();
    assert_eq!(count(&daemon, "refresh"), 3);
    assert_eq!(count(&daemon, "refresh_reuse"), 0);
    let kept = std::fs::read_to_string(&file).unwrap();
    assert!(![first.as_str(), second.expose()].contains(&kept.trim()), "it was not replaced");
}

fn mode(file: &Path) -> u32 {
    std::fs::metadata(file).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn one_exchange_serves_all_who_ask_and_a_refused_refresh_token_gives_way_to_the_key() {
    let daemon = Daemon::start(Options::default()).await;
    daemon.register("K", U).await;
    let client = Client::builder(&format!("http://{}/", daemon.public))
        .key(Secret::new("K"))
        .refresh_token(Secret::new("of another time"))
        .build()
        .await
        .unwrap();
    let tokens = futures_util::future::join_all((0..20).map(|_| client.token())).await;
    let tokens: Vec<_> = tokens.into_iter().map(|token| token.unwrap()).collect();
    assert!(tokens.iter().all(|token| token.expose() == tokens[0].expose()));
    assert_eq!(daemon.validate(tokens[0].expose()).await.status, 200);
    assert_eq!((count(&daemon, "refresh"), count(&daemon, "authenticate")), (1, 1));
    let unknown = Client::builder(&format!("http://{}", daemon.public)).key(Secret::new("X"));
    let error = unknown.build().await.unwrap().token().await.unwrap_err();
    assert!(error.is_refused() && !error.is_retryable(), "{error}");
}

/// Tokens of a service in this process, which are good for an hour.
fn fresh_token() -> String {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::SeqCst);
    let claims = json!({"exp": Clock::system().unix_now() + 3_600, "jti": number});
    let key = EncodingKey::from_secret(b"only for tests");
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap()
}

async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

/// rel:0.1: the original throws its key away at the first 401, and stays locked out.
#[tokio::test]
async fn the_key_stays_whatever_the_service_answers() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let answer = move || {
        let answer = match counted.fetch_add(1, Ordering::SeqCst) {
            0 => StatusCode::SERVICE_UNAVAILABLE.into_response(),
            1 => (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "7")]).into_response(),
            2 => (StatusCode::OK, "not JSON").into_response(),
            3 => StatusCode::UNAUTHORIZED.into_response(),
            _ => json!({"jwt": fresh_token(), "refresh_token": "r"}).to_string().into_response(),
        };
        std::future::ready(answer)
    };
    let url = serve(Router::new().route("/j/authenticate", post(answer))).await;
    let client = Client::builder(&format!("{url}/j")).key(Secret::new("hunter2"));
    let client = client.build().await.unwrap();
    let mut errors = Vec::new();
    for _ in 0..4 {
        errors.push(client.token().await.unwrap_err());
    }
    let retryable: Vec<_> = errors.iter().map(TokenError::is_retryable).collect();
    assert_eq!(retryable, [true, true, false, false]);
    assert_eq!(errors[1].retry_after(), Some(Duration::from_secs(7)));
    assert!(errors[3].is_refused());
    client.token().await.unwrap();
    let shown = format!("{errors:?} {client:?} {}", errors[3]);
    assert!(!shown.contains("hunter2"), "{shown}");
}

/// Refuses what a gateway refuses after an emergency rotation: old tokens, and new ones too for a second, in which its
/// workers do not know their key yet.
#[derive(Clone, Default)]
struct Gateway {
    first: Arc<Mutex<Option<(String, Instant)>>>,
    requests: Arc<AtomicUsize>,
}

impl Gateway {
    fn admits(&self, headers: &HeaderMap) -> bool {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let token = headers[header::AUTHORIZATION].to_str().unwrap().to_owned();
        let mut first = self.first.lock().unwrap();
        let (old, since) = first.get_or_insert_with(|| (token.clone(), Instant::now()));
        *old != token && since.elapsed() >= Duration::from_secs(1)
    }
}

fn issuer() -> Router {
    let answer = || async { json!({"jwt": fresh_token(), "refresh_token": "r"}).to_string() };
    let routes = ["/jwthenticator/authenticate", "/jwthenticator/refresh"];
    routes.into_iter().fold(Router::new(), |router, path| router.route(path, post(answer)))
}

#[tokio::test]
async fn a_request_is_repeated_once_its_new_token_is_known_to_the_gateway() {
    let gateway = Gateway::default();
    let admitting = gateway.clone();
    let answer = move |headers: HeaderMap, body: String| {
        let status = if admitting.admits(&headers) { 200 } else { 401 };
        std::future::ready((StatusCode::from_u16(status).unwrap(), body))
    };
    let never = || async { StatusCode::UNAUTHORIZED };
    let url = serve(issuer().route("/", any(answer)).route("/never", get(never))).await;
    let client = Client::builder(&format!("{url}/jwthenticator")).key(Secret::new("K"));
    let client = client.build().await.unwrap();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let response = client.send(http.post(&url).body("the body")).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.text().await.unwrap(), "the body");
    assert_eq!(gateway.requests.load(Ordering::SeqCst), 2);
    // Once is enough: this is no matter of keys.
    assert_eq!(client.send(http.get(format!("{url}/never"))).await.unwrap().status(), 401);
}

/// The same for the tunnels' client, in its requests and its websockets.
#[tokio::test]
async fn a_tunnel_client_survives_the_second_in_which_its_new_key_spreads() {
    let (channels, websockets) = (Gateway::default(), Gateway::default());
    let (for_channels, for_websockets) = (channels.clone(), websockets.clone());
    let channel = move |headers: HeaderMap| {
        let body = json!({"channel_id": 7, "version": "1.0.13"}).to_string();
        let kind = [(header::CONTENT_TYPE, "application/json")];
        let admitted = for_channels.admits(&headers);
        std::future::ready(if admitted {
            (StatusCode::OK, kind, body)
        } else {
            (StatusCode::UNAUTHORIZED, kind, json!({"error": "no"}).to_string())
        })
    };
    let websocket = move |headers: HeaderMap| {
        let admitted = for_websockets.admits(&headers);
        let status = if admitted { StatusCode::CONFLICT } else { StatusCode::UNAUTHORIZED };
        std::future::ready(status)
    };
    let router = issuer()
        .route("/netunnel/channels", post(channel))
        .route("/netunnel/channels/7/connect", get(websocket));
    let url = serve(router).await;
    let key = Credentials::key(Secret::new("K"), Uuid::nil(), "/jwthenticator".into());
    let server = format!("{url}/netunnel");
    let connector = Connector::new(&server, &Trust::default(), key).await.unwrap();
    // Both have let the second token through: only the conflict is left.
    let error = connector.connect().await.unwrap_err();
    let conflict = matches!(&error, ClientError::Refused { status, .. } if *status == 409);
    assert!(conflict, "{error}");
    let requests = [&channels, &websockets].map(|gateway| gateway.requests.load(Ordering::SeqCst));
    assert_eq!(requests, [2, 2]);
}

/// `jwtunnel connect` with a key whose refresh tokens are used once, over several of its tokens' lives.
#[tokio::test]
async fn connect_lives_on_with_a_key_whose_refresh_tokens_are_used_once() {
    let daemon = Daemon::start(Options::issuer("jwt_lifetime = \"3s\"\n")).await;
    daemon.register_rotating("K", U);
    let netunnel = daemon.netunnel();
    let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = echo.local_addr().unwrap().port().to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = echo.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut reading, mut writing) = stream.split();
                let _ = tokio::io::copy(&mut reading, &mut writing).await;
            });
        }
    });
    let key_file = daemon.path("key");
    std::fs::write(&key_file, "K\n").unwrap();
    let (server, issuer) = (format!("http://{netunnel}"), format!("http://{}", daemon.public));
    let mut connect = tokio::process::Command::new(env!("CARGO_BIN_EXE_jwtunnel"))
        .args(["connect", "-s", &server, "--auth-uri", &issuer, "--remote-port", &target])
        .arg("--key-file")
        .arg(&key_file)
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdout = tokio::io::BufReader::new(connect.stdout.take().unwrap());
    let entrance = timeout(PATIENCE, async {
        use tokio::io::AsyncBufReadExt as _;
        let mut line = String::new();
        while stdout.read_line(&mut line).await.unwrap() > 0 {
            if let Some(entrance) = line.trim().strip_prefix("Tunnel entrance socket: ") {
                return entrance.to_owned();
            }
            line.clear();
        }
        panic!("it has ended");
    });
    let entrance = entrance.await.unwrap();
    // New connections, and websockets for them, until the fourth refresh token is in use.
    let deadline = Instant::now() + PATIENCE;
    let mut at_once = 2;
    while count(&daemon, "refresh") < 3 {
        assert!(Instant::now() < deadline, "{:#?}", daemon.log());
        // More at once than ever: a websocket that is there already needs no token.
        at_once += 1;
        let exchanges = (0..at_once).map(|_| async {
            let mut stream = TcpStream::connect(&entrance).await.unwrap();
            stream.write_all(b"hello").await.unwrap();
            sleep(Duration::from_millis(300)).await;
            stream.shutdown().await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, b"hello");
        });
        let all = futures_util::future::join_all(exchanges);
        timeout(PATIENCE, all).await.expect("an answer through the tunnel");
    }
    assert!(connect.try_wait().unwrap().is_none());
    assert_eq!(count(&daemon, "authenticate"), 1);
    assert_eq!(count(&daemon, "refresh_reuse"), 0);
}
