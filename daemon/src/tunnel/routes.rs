//! NETunnel's HTTP routes. Every handler authenticates first; errors have the texts and the JSON form that
//! NETunnel's clients show to their users.

#![expect(clippy::result_large_err, reason = "the error is the answer, and is sent at once")]

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, Method, Response, StatusCode, Uri, header};
use axum::response::IntoResponse;
use axum::routing;
use serde_json::{Map, Value, json};
use tokio::time::{sleep, timeout};
use tower_service::Service;
use utoipa::ToSchema;

use super::channel::{self, Context, Kind, NotNow};
use super::entrance::Entrance;
use super::features::Features;
use super::openapi::{BodyRefusals, ErrorText, HandshakeRefusals, NotNowConflict, Refusals};
use super::plain::{PlainListener, Protocol};
use super::policy::port_number;
use super::respond::{empty, error, json as json_response, plain, unavailable};
use super::server::{NoChannel, NoPlace, NotAdmitted, Server};
use super::settings::PROTOCOL_VERSION;
use super::upgrade::Handshake;
use super::wire::shown;
use crate::auth::Identity;
use crate::endpoint::{self, Endpoint, delete, get, post};
use crate::logging::Throttle;

/// As the originals; the known bodies are under 200 bytes.
const BODY_LIMIT: usize = 1024 * 1024;

static AUTH_DENIED: LazyLock<Throttle> = LazyLock::new(Throttle::new);

pub(super) type Answer = Result<Response<Body>, Response<Body>>;

/// `more` are routes that are served besides.
pub(super) fn router(server: Arc<Server>, more: Router) -> Router {
    let mut routes = endpoint::router("", endpoints());
    if server.auth.sells_tokens() {
        // Not in the API's document, which has the issuer's route of this name.
        routes = routes.route("/authenticate", routing::post(authenticate));
    }
    let routes = routes
        .with_state(server)
        .merge(more)
        .fallback(async || plain(StatusCode::NOT_FOUND))
        .method_not_allowed_fallback(async || plain(StatusCode::METHOD_NOT_ALLOWED));
    // Outside of the matching: NETunnel's client joins a URL that ends in / with a path that begins with one.
    Router::new().fallback(move |mut request: Request| {
        let mut routes = routes.clone();
        async move {
            collapse_slashes(request.uri_mut());
            routes.call(request).await
        }
    })
}

pub(super) fn endpoints() -> Vec<Endpoint<Arc<Server>>> {
    vec![
        get("/version", version),
        post("/channels", create_channel),
        get("/channels/{channel}/connect", connect_channel),
        post("/channels/{channel}/tunnels", create_tunnel),
        delete("/channels/{channel}/tunnels/{tunnel}", delete_tunnel),
        get("/channels/{channel}/tunnels/{tunnel}/connect", connect_tunnel),
    ]
}

pub(super) fn collapse_slashes(uri: &mut Uri) {
    if !uri.path().contains("//") {
        return;
    }
    let mut path = String::with_capacity(uri.path().len());
    for c in uri.path().chars() {
        if c != '/' || !path.ends_with('/') {
            path.push(c);
        }
    }
    if let Some(query) = uri.query() {
        path.push('?');
        path.push_str(query);
    }
    // A part of a valid URI without some slashes is one; otherwise it stays and is not found.
    if let Ok(simple) = path.parse() {
        *uri = simple;
    }
}

/// Tells the version of the protocol (R1).
#[utoipa::path(get, path = "/version", tags = ["netunnel", "internal"],
    security(("bearer" = []), ()),
    responses(
        (status = 200, body = String, content_type = "text/plain; charset=utf-8", description = "The version"),
        Refusals))]
pub(super) async fn version(State(server): State<Arc<Server>>, request: Request) -> Answer {
    caller(&server, &request)?;
    Ok(PROTOCOL_VERSION.into_response())
}

/// R2 of the shared-secret mode, as NETunnel's sample plugin.
async fn authenticate(State(server): State<Arc<Server>>, request: Request) -> Answer {
    let body = object(&server, request).await?;
    let offered = body.get("secret").and_then(Value::as_str).unwrap_or_default();
    match server.auth.buy_token(offered) {
        Some(token) => Ok(json_response(StatusCode::OK, &json!({ "token": token }))),
        None => {
            AUTH_DENIED.run(|suppressed| {
                tracing::info!(
                    event = "auth_denied",
                    reason = "secret",
                    suppressed,
                    "request refused: wrong secret"
                );
            });
            Err(plain(StatusCode::FORBIDDEN))
        }
    }
}

/// The body of `POST /channels`. More members are ignored.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the document; the body is read member by member")]
pub(super) struct ChannelWish {
    /// The client's version; any value.
    version: Value,
    /// What the client can do beyond NETunnel's protocol: a list of names. Anything else is none.
    #[schema(required = false)]
    features: Value,
}

/// A channel, which is to be connected next.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the document; the answer is put together in parts")]
pub(super) struct NewChannel {
    /// Up to 2^53-1.
    channel_id: u64,
    version: String,
    /// Those that both ends have; left out if there are none.
    #[schema(nullable = false)]
    features: Option<Vec<String>>,
}

/// Creates a channel (R3).
#[utoipa::path(post, path = "/channels", tags = ["netunnel", "internal"], request_body = ChannelWish,
    security(("bearer" = []), ()),
    responses((status = 200, body = NewChannel, description = "The channel"), BodyRefusals, Refusals))]
pub(super) async fn create_channel(State(server): State<Arc<Server>>, request: Request) -> Answer {
    let caller = caller(&server, &request)?;
    let body = object(&server, request).await?;
    let version = body.get("version").ok_or_else(|| missing("version"))?;
    tracing::debug!(ident = %shown(caller.identifier()), version = %shown(&version.to_string()),
        "client asks for a channel");
    let body = Value::Object(body.clone());
    let offered = Features::from_body(&body);
    let features = Features { udp: offered.udp && !server.settings.refuse_udp, ..offered };
    match server.create_channel(caller, features) {
        Ok(channel) => {
            let mut answer = json!({"channel_id": channel.id, "version": PROTOCOL_VERSION});
            let features = channel.features.names();
            if !features.is_empty() {
                answer["features"] = features.into();
            }
            Ok(json_response(StatusCode::OK, &answer))
        }
        Err(NoChannel::Draining) => Err(draining()),
        Err(NoChannel::TooMany) => Err(unavailable("too many channels are open")),
    }
}

/// Opens a channel's control websocket (R4).
#[utoipa::path(get, path = "/channels/{channel}/connect", tags = ["netunnel", "internal"],
    params(("channel" = u64, Path)), security(("bearer" = []), ()),
    responses(HandshakeRefusals, NotNowConflict, Refusals))]
pub(super) async fn connect_channel(
    State(server): State<Arc<Server>>,
    Path(channel): Path<String>,
    mut request: Request,
) -> Answer {
    let channel_id = number(&channel)?;
    let caller = caller(&server, &request)?;
    let handshake = handshake(&server, &mut request)?;
    let channel = channel_id.and_then(|id| server.channel(&caller, id));
    let channel = channel.ok_or_else(|| no_channel(&channel_text(channel_id)))?;
    if server.is_draining() {
        return Err(draining());
    }
    let queue = channel.connect().map_err(|not_now| refusal(not_now, channel.id))?;
    let (response, upgrade) = handshake.accept();
    server.serve_control(channel, queue, upgrade);
    Ok(response)
}

/// The body of `POST /channels/{channel}/tunnels`: a destination for a forward tunnel, an entrance for a reverse one.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "for the document; the body is read member by member")]
pub(super) enum TunnelWish {
    /// From the client to a service that the server reaches.
    Forward {
        /// `false`.
        reverse: bool,
        exit_address: String,
        #[schema(maximum = 65_535)]
        exit_port: u16,
        /// `tcp`, the default, or `udp` on a channel that has agreed on the feature of this name.
        #[schema(required = false, nullable = false)]
        protocol: Option<String>,
    },
    /// From the server to a service that the client reaches.
    Reverse {
        /// `true`.
        reverse: bool,
        entrance_address: String,
        /// 0 or `null`: any allowed free one.
        #[schema(required, maximum = 65_535)]
        entrance_port: Option<u16>,
        /// As above.
        #[schema(required = false, nullable = false)]
        protocol: Option<String>,
    },
}

/// A tunnel.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the document; the answer is put together in parts")]
pub(super) struct NewTunnel {
    tunnel_id: u64,
    /// Of a reverse tunnel: where it is entered.
    #[schema(nullable = false)]
    entrance_address: Option<String>,
    #[schema(nullable = false)]
    entrance_port: Option<u16>,
}

/// Creates a tunnel (R5).
#[utoipa::path(post, path = "/channels/{channel}/tunnels", tags = ["netunnel", "internal"],
    params(("channel" = u64, Path)), request_body = TunnelWish, security(("bearer" = []), ()),
    responses(
        (status = 200, body = NewTunnel, description = "The tunnel"),
        (status = 429, body = ErrorText, description = "The channel has as many tunnels as it may",
            headers(("Retry-After" = u64, description = "seconds"))),
        BodyRefusals, NotNowConflict, Refusals))]
pub(super) async fn create_tunnel(
    State(server): State<Arc<Server>>,
    Path(channel): Path<String>,
    request: Request,
) -> Answer {
    let channel_id = number(&channel)?;
    let caller = caller(&server, &request)?;
    let body = object(&server, request).await?;
    let (wish, protocol) = (Wish::read(&body)?, read_protocol(&body)?);
    let channel = channel_id.and_then(|id| server.channel(&caller, id));
    let channel = channel.ok_or_else(|| no_channel(&channel_text(channel_id)))?;
    if server.is_draining() {
        return Err(draining());
    }
    if protocol == Protocol::Udp && !channel.features.udp {
        let text = "protocol udp: the channel has not agreed on the feature \"udp\"";
        return Err(error(StatusCode::BAD_REQUEST, text));
    }
    let settings = &server.settings;
    let denied = |denied: super::policy::Denied| {
        tracing::info!(event = "dest_denied", ident = %shown(caller.identifier()), channel = channel.id,
            reason = %denied, "tunnel refused");
        error(StatusCode::FORBIDDEN, &denied.to_string())
    };
    let limit = settings.limits.tunnels_per_channel;
    let check = || channel.check(limit).map_err(|not_now| refusal(not_now, channel.id));
    // What is not allowed is said first: it does not change when the channel is connected.
    let (kind, listener) = match wish {
        Wish::Forward { address, port } => {
            settings
                .policy
                .destination(&caller, &settings.own_listeners, &address, &port)
                .map_err(denied)?;
            check()?;
            (Kind::Forward { address, port }, None)
        }
        Wish::Reverse { address, port } => {
            let candidates = settings
                .policy
                .bind(&caller, &settings.own_listeners, &address, port)
                .map_err(denied)?;
            check()?;
            let mut listener = channel::bind(protocol, &candidates).await;
            if port.is_some()
                && matches!(&listener, Err(fault) if fault.kind() == ErrorKind::AddrInUse)
                && server.take_over(&caller, protocol, &candidates).await
            {
                listener = bind_freed(protocol, &candidates).await;
            }
            let listener = listener.map_err(|fault| bind_failed(&fault, &address, port))?;
            let bound =
                listener.local_addr().map_err(|fault| bind_failed(&fault, &address, port))?;
            (Kind::Reverse { entrance: Entrance::new(), bound }, Some(listener))
        }
    };
    let mut answer = json!({});
    if let Kind::Reverse { bound, .. } = &kind {
        // NETunnel's clients ignore what they don't know; ours learns the port that was chosen.
        answer["entrance_address"] = bound.ip().to_string().into();
        answer["entrance_port"] = bound.port().into();
    }
    let tunnel =
        channel.add(kind, protocol, limit).map_err(|not_now| refusal(not_now, channel.id))?;
    answer["tunnel_id"] = tunnel.id.into();
    Context { settings: settings.clone(), channel, tunnel, caller }.start(listener);
    Ok(json_response(StatusCode::OK, &answer))
}

/// Binds an address whose listener is just being closed.
async fn bind_freed(
    protocol: Protocol,
    candidates: &[SocketAddr],
) -> std::io::Result<PlainListener> {
    for _ in 0..20 {
        match channel::bind(protocol, candidates).await {
            Err(fault) if fault.kind() == ErrorKind::AddrInUse => {}
            bound => return bound,
        }
        sleep(Duration::from_millis(50)).await;
    }
    channel::bind(protocol, candidates).await
}

/// The body of `DELETE /channels/{channel}/tunnels/{tunnel}`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the document; the body is read member by member")]
pub(super) struct Deletion {
    /// Cut connections instead of letting them end.
    #[schema(required = false, default = false)]
    force: bool,
}

/// Deletes a tunnel (R6).
#[utoipa::path(delete, path = "/channels/{channel}/tunnels/{tunnel}", tags = ["netunnel", "internal"],
    params(("channel" = u64, Path), ("tunnel" = u64, Path)), request_body = Deletion,
    security(("bearer" = []), ()),
    responses((status = 200, description = "It is gone; there is no body"), BodyRefusals, Refusals))]
pub(super) async fn delete_tunnel(
    State(server): State<Arc<Server>>,
    Path((channel, tunnel)): Path<(String, String)>,
    request: Request,
) -> Answer {
    let (channel_id, tunnel_id) = (number(&channel)?, number(&tunnel)?);
    let caller = caller(&server, &request)?;
    let body = object(&server, request).await?;
    let force = match body.get("force") {
        None => false,
        Some(Value::Bool(force)) => *force,
        Some(_) => return Err(error(StatusCode::BAD_REQUEST, "force must be true or false")),
    };
    let channel = channel_id.and_then(|id| server.channel(&caller, id));
    let tunnel = channel.as_ref().zip(tunnel_id).and_then(|(channel, id)| channel.remove(id));
    let (Some(channel), Some(tunnel)) = (channel, tunnel) else {
        let text = format!("tunnel_id `{}` does not exists", shown(&tunnel_text(tunnel_id)));
        return Err(error(StatusCode::NOT_FOUND, &text));
    };
    let graceful = server.settings.timings.graceful;
    let (id, channel_id) = (tunnel.id, channel.id);
    // A task of the channel: it must go on if the caller does not wait for the answer.
    let stopping = channel.tasks.spawn(async move { tunnel.life.end(force, graceful).await });
    let _ = stopping.await;
    tracing::info!(event = "tunnel_close", ident = %shown(caller.identifier()), channel = channel_id,
        tunnel = id, force, "tunnel deleted");
    Ok(empty())
}

/// Opens a websocket for a tunnel's next connection (R7). Clients that did not agree on `r7-status` are refused after
/// the upgrade, by a close code.
#[utoipa::path(get, path = "/channels/{channel}/tunnels/{tunnel}/connect", tags = ["netunnel", "internal"],
    params(("channel" = u64, Path), ("tunnel" = u64, Path)), security(("bearer" = []), ()),
    responses(HandshakeRefusals, Refusals))]
pub(super) async fn connect_tunnel(
    State(server): State<Arc<Server>>,
    Path((channel, tunnel)): Path<(String, String)>,
    mut request: Request,
) -> Answer {
    let (channel_id, tunnel_id) = (number(&channel)?, number(&tunnel)?);
    let caller = caller(&server, &request)?;
    let handshake = handshake(&server, &mut request)?;
    match server.admit(caller, channel_id, tunnel_id) {
        Ok(admitted) => {
            let (response, upgrade) = handshake.accept();
            Server::serve_tunnel(admitted, upgrade);
            Ok(response)
        }
        Err(NotAdmitted { why, by_status: true }) => Err(match why {
            NoPlace::NoTunnel => error(StatusCode::NOT_FOUND, "no such tunnel"),
            NoPlace::TooMany => unavailable("too many connections are open"),
            NoPlace::Draining => draining(),
        }),
        Err(NotAdmitted { why, by_status: false }) => {
            let (response, upgrade) = handshake.accept();
            server.refuse(upgrade, why);
            Ok(response)
        }
    }
}

pub(super) fn caller(server: &Server, request: &Request) -> Result<Identity, Response<Body>> {
    server.auth.authenticate(request.headers()).map_err(|fault| {
        AUTH_DENIED.run(|suppressed| {
            tracing::info!(
                event = "auth_denied",
                reason = fault.reason(),
                suppressed,
                "request refused: {fault}"
            );
        });
        fault.into_response()
    })
}

fn handshake(server: &Server, request: &mut Request) -> Result<Handshake, Response<Body>> {
    if request.method() != Method::GET {
        return Err(plain(StatusCode::METHOD_NOT_ALLOWED));
    }
    Handshake::check(request, &server.settings.allowed_origins)
}

/// A path segment that has to be `\d+`; otherwise the route does not exist. `None`: a number that no id has.
pub(super) fn number(segment: &str) -> Result<Option<u64>, Response<Body>> {
    if segment.is_empty() || !segment.bytes().all(|b| b.is_ascii_digit()) {
        return Err(plain(StatusCode::NOT_FOUND));
    }
    Ok(segment.parse().ok())
}

/// The body as a JSON object, whatever its Content-Type says, as in the original.
pub(super) async fn object(
    server: &Server,
    request: Request,
) -> Result<Map<String, Value>, Response<Body>> {
    let limited = to_bytes(request.into_body(), BODY_LIMIT);
    let bytes = match timeout(server.settings.timings.body, limited).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(_)) => return Err(error(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large")),
        Err(_) => {
            return Err(error(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"));
        }
    };
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(error(StatusCode::BAD_REQUEST, "the body must be a JSON object")),
        Err(fault) => {
            let text =
                format!("the body is not JSON: line {} column {}", fault.line(), fault.column());
            Err(error(StatusCode::BAD_REQUEST, &text))
        }
    }
}

/// What a request for a tunnel asks for.
enum Wish {
    Forward { address: String, port: String },
    Reverse { address: String, port: Option<u16> },
}

impl Wish {
    fn read(body: &Map<String, Value>) -> Result<Self, Response<Body>> {
        let bad = |text: &str| error(StatusCode::BAD_REQUEST, text);
        let field = |key: &str| body.get(key).ok_or_else(|| missing(key));
        let reverse =
            field("reverse")?.as_bool().ok_or_else(|| bad("reverse must be true or false"))?;
        let (address_key, port_key) = match reverse {
            true => ("entrance_address", "entrance_port"),
            false => ("exit_address", "exit_port"),
        };
        // Also NETunnel takes no others; one that we ignored could be a restriction that its sender relies on.
        let known = [address_key, port_key, "reverse", PROTOCOL];
        if let Some(key) = body.keys().find(|key| !known.contains(&key.as_str())) {
            return Err(bad(&format!("got an unexpected keyword argument '{}'", shown(key))));
        }
        let address = field(address_key)?.as_str();
        let address =
            address.ok_or_else(|| bad(&format!("{address_key} must be a string")))?.to_owned();
        let port = field(port_key)?;
        if reverse {
            let port = match port {
                Value::Null => None,
                port => match scalar(port).as_deref() {
                    Some("0") => None,
                    text => Some(text.and_then(port_number).ok_or_else(|| {
                        bad("entrance_port must be null or a number from 0 to 65535")
                    })?),
                },
            };
            return Ok(Self::Reverse { address, port });
        }
        let port = scalar(port).ok_or_else(|| bad("exit_port must be a number"))?;
        Ok(Self::Forward { address, port })
    }
}

/// What NETunnel does not know, only ours ask for.
const PROTOCOL: &str = "protocol";

fn read_protocol(body: &Map<String, Value>) -> Result<Protocol, Response<Body>> {
    let Some(wish) = body.get(PROTOCOL) else { return Ok(Protocol::Tcp) };
    [Protocol::Tcp, Protocol::Udp]
        .into_iter()
        .find(|known| wish == known.as_str())
        .ok_or_else(|| error(StatusCode::BAD_REQUEST, "protocol must be \"tcp\" or \"udp\""))
}

/// Python's `str()` of a JSON value that is no container: NETunnel compares ports in this form.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some("None".into()),
        Value::Bool(true) => Some("True".into()),
        Value::Bool(false) => Some("False".into()),
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

fn missing(key: &str) -> Response<Body> {
    error(StatusCode::BAD_REQUEST, &format!("'{key}' is missing"))
}

fn draining() -> Response<Body> {
    unavailable("the daemon is stopping")
}

fn channel_text(id: Option<u64>) -> String {
    id.map_or_else(|| "?".into(), |id| id.to_string())
}

fn tunnel_text(id: Option<u64>) -> String {
    channel_text(id)
}

fn no_channel(id: &str) -> Response<Body> {
    error(StatusCode::NOT_FOUND, &format!("channel_id `{id}` does not exist"))
}

fn refusal(not_now: NotNow, channel_id: u64) -> Response<Body> {
    match not_now {
        NotNow::NotConnected => {
            error(StatusCode::CONFLICT, &format!("channel `{channel_id}` is not connected"))
        }
        NotNow::AlreadyConnected => {
            error(StatusCode::CONFLICT, &format!("channel `{channel_id}` is already connected"))
        }
        NotNow::Ended => no_channel(&channel_id.to_string()),
        NotNow::TooManyTunnels => {
            let mut response =
                error(StatusCode::TOO_MANY_REQUESTS, "the channel has too many tunnels");
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
            response
        }
    }
}

/// The original's text, which is Python's.
fn bind_failed(fault: &std::io::Error, address: &str, port: Option<u16>) -> Response<Body> {
    let reason = match fault.kind() {
        ErrorKind::AddrInUse => "address already in use".to_owned(),
        ErrorKind::AddrNotAvailable => "cannot assign requested address".to_owned(),
        ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => fault.to_string(),
    };
    let text = format!(
        "[Errno {}] error while attempting to bind on address ('{}', {}): {reason}",
        fault.raw_os_error().unwrap_or(0),
        shown(address),
        port.unwrap_or(0),
    );
    error(StatusCode::CONFLICT, &text)
}
