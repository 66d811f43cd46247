//! A tunnel server in this process, on real sockets, and raw clients that speak to it without our client.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::{SinkExt, StreamExt};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use jwt_core::JwkSet;
use jwtunnel::auth::{Authenticator, Mode};
use jwtunnel::clock::Clock;
use jwtunnel::tunnel::{Census, Server, Settings, Timings};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

/// Longer than anything here takes; a test that reaches it has failed.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// The base64url form of the test key that signs every token here.
const TEST_KEY: &str = "dGhpcyBrZXkgaXMgb25seSBmb3IgdGVzdHMsIDMyKyBieXRlcw";

pub(crate) type Ws = WebSocketStream<TcpStream>;

/// A server that is being served until the test ends.
pub(crate) struct Bench {
    pub(crate) server: Arc<Server>,
    pub(crate) address: SocketAddr,
    http: reqwest::Client,
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) kind: String,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// The text of a JSON error with this status.
    #[track_caller]
    pub(crate) fn error(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert!(self.kind.starts_with("application/json"), "{self:?}");
        self.json()["error"].as_str().unwrap_or_else(|| panic!("no error: {self:?}")).to_owned()
    }
}

/// Timings that make tests quick where they wait for a deadline.
pub(crate) fn quick() -> Timings {
    Timings {
        linger: Duration::from_millis(300),
        close: Duration::from_secs(1),
        ..Timings::default()
    }
}

pub(crate) fn settings() -> Settings {
    Settings { timings: quick(), ..Settings::default() }
}

/// A token for `identifier`, valid for an hour.
pub(crate) fn token(identifier: &str) -> String {
    token_with(&json!({"identifier": identifier, "exp": Clock::system().unix_now() + 3_600}))
}

pub(crate) fn token_with(claims: &Value) -> String {
    let key = EncodingKey::from_base64_secret(&format!("{TEST_KEY}==")).unwrap_or_else(|_| {
        use base64::Engine;
        let raw = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(TEST_KEY).unwrap();
        EncodingKey::from_secret(&raw)
    });
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key).unwrap()
}

impl Bench {
    /// A server where everybody is the same caller.
    pub(crate) async fn open(settings: Settings) -> Self {
        Self::start(settings, Mode::None).await
    }

    /// A server that wants [`token`]s.
    pub(crate) async fn with_tokens(settings: Settings) -> Self {
        let set = json!({"keys": [{"kty": "oct", "alg": "HS256", "k": TEST_KEY}]}).to_string();
        let keys = JwkSet::parse(set.as_bytes()).unwrap();
        Self::start(settings, Mode::Jwt(Arc::new(ArcSwap::from_pointee(keys)))).await
    }

    pub(crate) async fn start(settings: Settings, mode: Mode) -> Self {
        let auth = Authenticator::new(mode, Duration::from_secs(60), Clock::system()).unwrap();
        Self::serve(settings, auth).await
    }

    pub(crate) async fn serve(mut settings: Settings, auth: Authenticator) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        settings.own_listeners.push(address);
        let server = Server::new(settings, auth);
        let router = server.router();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self::of(server, address)
    }

    /// A server that is being served at this address.
    pub fn of(server: Arc<Server>, address: SocketAddr) -> Self {
        let http = reqwest::Client::builder().no_proxy().timeout(LIMIT).build().unwrap();
        Self { server, address, http }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A request with a body that need not be JSON.
    pub(crate) async fn send(&self, method: &str, path: &str, token: &str, body: &str) -> Answer {
        let method = method.parse().unwrap();
        let mut request = self.http.request(method, format!("{}{path}", self.url()));
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        let response = request.body(body.to_owned()).send().await.unwrap();
        let status = response.status().as_u16();
        let kind = response.headers().get("content-type");
        let kind = kind.map_or("", |kind| kind.to_str().unwrap()).to_owned();
        Answer { status, kind, text: response.text().await.unwrap() }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "", "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, "", &body.to_string()).await
    }

    pub(crate) async fn delete(&self, path: &str, body: &Value) -> Answer {
        self.send("DELETE", path, "", &body.to_string()).await
    }

    pub(crate) async fn websocket(
        &self,
        path: &str,
        token: &str,
    ) -> Result<Ws, tungstenite::Error> {
        let url = format!("ws://{}{path}", self.address);
        let mut request = url.into_client_request().unwrap();
        if !token.is_empty() {
            let value = format!("Bearer {token}").parse().unwrap();
            request.headers_mut().insert("authorization", value);
        }
        let stream = TcpStream::connect(self.address).await.unwrap();
        Ok(client_async(request, stream).await?.0)
    }

    /// The status with which a websocket is refused.
    pub(crate) async fn refused(&self, path: &str, token: &str) -> u16 {
        match self.websocket(path, token).await {
            Err(tungstenite::Error::Http(response)) => response.status().as_u16(),
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    /// A connected channel without a feature.
    pub(crate) async fn channel(&self, token: &str) -> (u64, Ws) {
        let answer = self.send("POST", "/channels", token, r#"{"version": "1.0.13"}"#).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let id = answer.json()["channel_id"].as_u64().unwrap();
        let ws = self.websocket(&format!("/channels/{id}/connect"), token).await.unwrap();
        (id, ws)
    }

    /// A forward tunnel to a port of 127.0.0.1, on a new channel.
    pub(crate) async fn forward(&self, port: u16) -> (u64, Ws) {
        let (id, ws) = self.channel("").await;
        let wish = json!({"exit_address": "127.0.0.1", "exit_port": port, "reverse": false});
        let answer = self.post(&format!("/channels/{id}/tunnels"), &wish).await;
        assert_eq!(answer.text, r#"{"tunnel_id":1}"#, "{answer:?}");
        (id, ws)
    }

    /// A websocket of the first tunnel of a channel.
    pub(crate) async fn data(&self, channel: u64) -> Ws {
        self.websocket(&format!("/channels/{channel}/tunnels/1/connect"), "").await.unwrap()
    }

    /// Waits until the server holds exactly this.
    pub(crate) async fn settles(&self, expected: Census) {
        eventually(&format!("{expected:?}"), || self.server.census() == expected).await;
    }
}

/// Polls `condition`, which may not be true yet.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < end, "never: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// The next message that is no ping or pong.
pub(crate) async fn next(ws: &mut Ws) -> Option<Message> {
    loop {
        match timeout(LIMIT, ws.next()).await.expect("a message in time") {
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(message)) => return Some(message),
            Some(Err(_)) | None => return None,
        }
    }
}

/// The code of the CLOSE that comes next, after any data.
pub(crate) async fn close_code(ws: &mut Ws) -> Option<u16> {
    loop {
        match next(ws).await? {
            Message::Close(frame) => return frame.map(|frame| frame.code.into()),
            _ => continue,
        }
    }
}

pub(crate) async fn text(ws: &mut Ws, text: &str) {
    ws.send(Message::Text(text.into())).await.unwrap();
}

pub(crate) async fn binary(ws: &mut Ws, data: &[u8]) {
    ws.send(Message::Binary(data.to_vec().into())).await.unwrap();
}

/// A TCP service: `serve` gets each connection.
pub(crate) async fn service<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> u16
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    port
}

/// Sends back what it gets, and ends when its client does.
pub(crate) async fn echo() -> u16 {
    service(async |mut stream: TcpStream| {
        let (mut reader, mut writer) = stream.split();
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
    })
    .await
}

/// A port that nothing listens on.
pub(crate) async fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}

pub(crate) async fn dial(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

/// Writes, ends the direction, and reads to the end.
pub(crate) async fn exchange(mut stream: TcpStream, data: &[u8]) -> Vec<u8> {
    stream.write_all(data).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("an end in time").unwrap();
    answer
}

/// Sends an upgrade request by hand, with `early` right behind it; gives the head and the open connection.
pub(crate) async fn raw_upgrade(
    bench: &Bench,
    path: &str,
    origin: &str,
    early: &[u8],
) -> (String, TcpStream) {
    let mut stream = dial(bench.address).await;
    let origin = if origin.is_empty() { String::new() } else { format!("Origin: {origin}\r\n") };
    let mut request = format!(
        "GET {path} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{origin}\r\n"
    )
    .into_bytes();
    request.extend_from_slice(early);
    stream.write_all(&request).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(LIMIT, stream.read_u8()).await.unwrap().unwrap());
    }
    (String::from_utf8(head).unwrap(), stream)
}
