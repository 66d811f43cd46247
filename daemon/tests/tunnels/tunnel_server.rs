//! The tunnel server against raw clients: routes, callers, channels and their tunnels, limits. What goes through them
//! is in `tunnel_data`.
//!
//! Names end with the ids that they prove: `a18` is example A18 of the protocol's description, `w2` is a hazard of
//! the reliability requirements.

use std::time::Duration;

use crate::tunnel_harness::*;
use bson::rawdoc;
use futures_util::{SinkExt, StreamExt};
use jwtunnel::auth::Mode;
use jwtunnel::config::Rule;
use jwtunnel::secret::Secret;
use jwtunnel::tunnel::wire::{self, Packet};
use jwtunnel::tunnel::{Census, Limits, Policy, Settings, Timings};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn routes_and_their_errors_a1_a2_a3_a4() {
    let bench = Bench::open(settings()).await;
    let version = bench.get("/version").await;
    assert_eq!((version.status, version.text.as_str()), (200, "1.0.13"));
    assert!(version.kind.starts_with("text/plain"), "{version:?}");
    let head = bench.send("HEAD", "/version", "", "").await;
    assert_eq!((head.status, head.text.as_str()), (200, ""));
    // A client whose URL ends in a slash joins it with a path that begins with one.
    assert_eq!(bench.get("//version").await.text, "1.0.13");
    for path in [
        "/nope",
        "/version/",
        "/peers",
        "/peers/1",
        "/config/http-proxy",
        "/",
        "/channels/x/connect",
    ] {
        let answer = bench.get(path).await;
        assert_eq!((answer.status, answer.text.as_str()), (404, "404: Not Found"), "{path}");
    }
    assert_eq!(bench.post("/authenticate", &json!({})).await.status, 404);
    let wrong = bench.post("/version", &json!({})).await;
    assert_eq!((wrong.status, wrong.text.as_str()), (405, "405: Method Not Allowed"));
}

#[tokio::test]
async fn channels_are_created_with_random_ids_a5_a6_a7_a8_w2() {
    let bench = Bench::open(settings()).await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let answer = bench.post("/channels", &json!({"version": "1.0.13", "extra": 1})).await;
        assert_eq!(answer.kind, "application/json; charset=utf-8");
        assert_eq!(answer.json()["version"], "1.0.13");
        ids.push(answer.json()["channel_id"].as_u64().unwrap());
    }
    assert_ne!(ids[0], ids[1]);
    assert!(ids.iter().all(|id| (1..1 << 53).contains(id)), "{ids:?}");
    assert!(bench.post("/channels", &json!({})).await.error(400).contains("version"));
    for body in ["", "{", "null", "[]", "1"] {
        bench.send("POST", "/channels", "", body).await.error(400);
    }
    let null = bench.post("/channels", &json!({"version": null})).await;
    assert_eq!(null.status, 200, "{null:?}");
    let large = format!("{{\"version\": \"{}\"}}", "x".repeat(1024 * 1024));
    bench.send("POST", "/channels", "", &large).await.error(413);
}

#[tokio::test]
async fn the_control_websocket_exists_once_a9_a10_a11_a12_a13() {
    let bench = Bench::open(settings()).await;
    let (head, _) = raw_upgrade(&bench, "/channels/999/connect", "", b"").await;
    assert!(head.starts_with("HTTP/1.1 404") && head.contains("application/json"), "{head}");
    let (id, mut control) = bench.channel("").await;
    let plain = bench.get(&format!("/channels/{id}/connect")).await;
    assert_eq!(plain.status, 400);
    assert!(plain.text.starts_with("No WebSocket UPGRADE hdr: None\n"), "{plain:?}");
    assert_eq!(bench.refused(&format!("/channels/{id}/connect"), "").await, 409);
    text(&mut control, "not protocol").await;
    control.send(Message::Ping(b"hi".to_vec().into())).await.unwrap();
    let pong = StreamExt::next(&mut control).await.unwrap().unwrap();
    assert_eq!(pong, Message::Pong(b"hi".to_vec().into()));
    control.close(None).await.unwrap();
    bench.settles(Census::default()).await;
    assert_eq!(bench.refused(&format!("/channels/{id}/connect"), "").await, 404);
}

#[tokio::test]
async fn control_messages_are_answered_a15_a16_w17() {
    let bench = Bench::open(settings()).await;
    let (_, mut control) = bench.channel("").await;
    binary(&mut control, &wire::encode_response(77, None)).await;
    let known = rawdoc! {
        "_type": "message", "_identifier": 5_i64, "data": { "tunnel_id": 1_i64 },
        "message_type": { "__Messages__": "TUNNEL_SERVER_TO_CLIENT_NEW_CONNECTION" },
    };
    binary(&mut control, known.as_bytes()).await;
    let Some(Message::Binary(reply)) = next(&mut control).await else { panic!("no reply") };
    assert_eq!(wire::decode(&reply), Ok(Packet::Response { id: 5, result: Ok(()) }));
    let unknown = rawdoc! {
        "_type": "message", "_identifier": 6, "data": {},
        "message_type": { "__Messages__": "MAKE_COFFEE" },
    };
    binary(&mut control, unknown.as_bytes()).await;
    let Some(Message::Binary(reply)) = next(&mut control).await else { panic!("no reply") };
    let Ok(Packet::Response { id: 6, result: Err(error) }) = wire::decode(&reply) else {
        panic!("no error reply")
    };
    assert!(error.contains("MAKE_COFFEE"), "{error}");
}

#[tokio::test]
async fn garbage_ends_the_channel_and_its_id_a14() {
    let bench = Bench::open(settings()).await;
    for (garbage, code) in [(vec![0xff; 40], 1002), (vec![0; 64 * 1024 + 1], 1009)] {
        let (id, mut control) = bench.channel("").await;
        binary(&mut control, &garbage).await;
        assert_eq!(close_code(&mut control).await, Some(code));
        let wish = json!({"exit_address": "127.0.0.1", "exit_port": 22, "reverse": false});
        bench.post(&format!("/channels/{id}/tunnels"), &wish).await.error(404);
    }
    bench.settles(Census::default()).await;
}

#[tokio::test]
async fn forward_tunnels_and_refusals_a18_a19_a22_a23_a24_w3() {
    let bench = Bench::open(settings()).await;
    let (id, _control) = bench.channel("").await;
    let path = format!("/channels/{id}/tunnels");
    let wish =
        |address, port| json!({"exit_address": address, "exit_port": port, "reverse": false});
    for (port, tunnel) in [(json!(22), 1), (json!("22"), 2)] {
        let answer = bench.post(&path, &wish(json!("127.0.0.1"), port)).await;
        assert_eq!(answer.json(), json!({"tunnel_id": tunnel}));
    }
    let denied = bench.post(&path, &wish(json!("localhost"), json!(22))).await;
    assert_eq!(denied.error(403), "Address localhost is not allowed as a tunnel destination");
    for port in [json!(" 22"), json!(22.5), json!(true), json!(null), json!(0), json!(65_536)] {
        let error = bench.post(&path, &wish(json!("127.0.0.1"), port.clone())).await.error(403);
        assert!(error.starts_with("Port 127.0.0.1:"), "{port}: {error}");
    }
    // The daemon's own listener, although every port is allowed.
    let own = bench.address.port();
    let error = bench.post(&path, &wish(json!("127.0.0.1"), json!(own))).await.error(403);
    assert_eq!(error, format!("Port 127.0.0.1:{own} is not allowed as a tunnel destination"));
    for body in [
        json!({"exit_address": "127.0.0.1", "exit_port": 22}),
        json!({"exit_port": 22, "reverse": false}),
        json!({"exit_address": "127.0.0.1", "reverse": false}),
        json!({"exit_address": 1, "exit_port": 22, "reverse": false}),
        json!({"exit_address": "127.0.0.1", "exit_port": [], "reverse": false}),
        json!({"exit_address": "127.0.0.1", "exit_port": 22, "reverse": false, "x": 1}),
    ] {
        bench.post(&path, &body).await.error(400);
    }
    bench.post("/channels/999/tunnels", &wish(json!("127.0.0.1"), json!(22))).await.error(404);
    let unconnected = bench.post("/channels", &json!({"version": "1"})).await.json();
    let path = format!("/channels/{}/tunnels", unconnected["channel_id"]);
    bench.post(&path, &wish(json!("127.0.0.1"), json!(22))).await.error(409);
}

#[tokio::test]
async fn the_configured_list_holds_a20_a21() {
    let list = [("127.0.0.1", "22, 23"), ("::1", "")].map(|(a, p)| (a.to_owned(), p.to_owned()));
    let policy = Policy::from_allowed_destinations(&list.into()).unwrap();
    let bench = Bench::open(Settings { policy, ..settings() }).await;
    let (id, _control) = bench.channel("").await;
    let ask = async |address: &str, port: u16| {
        let wish = json!({"exit_address": address, "exit_port": port, "reverse": false});
        bench.post(&format!("/channels/{id}/tunnels"), &wish).await
    };
    assert_eq!(ask("127.0.0.1", 23).await.status, 200);
    assert_eq!(
        ask("127.0.0.1", 24).await.error(403),
        "Port 127.0.0.1:24 is not allowed as a tunnel destination"
    );
    ask("::1", 22).await.error(403);
}

/// rel:W3, nt:D14, nt:E5: rules decide for each caller, and an entrance may have an IPv6 address.
#[tokio::test]
async fn rules_decide_by_caller_d14_e5() {
    let rule = |identifier: &str, destinations: &[&str], binds: &[&str]| Rule {
        identifier: Some(identifier.into()),
        destinations: destinations.iter().map(|text| (*text).to_owned()).collect(),
        reverse_binds: binds.iter().map(|text| (*text).to_owned()).collect(),
        ..Rule::default()
    };
    let port = echo().await;
    let rules = [
        rule("alice", &[&format!("127.0.0.1:{port}")], &["[::1]:*"]),
        rule("*", &["192.0.2.1:22"], &[]),
    ];
    let policy = Policy::from_rules(&rules).unwrap();
    let bench = Bench::with_tokens(Settings { policy, ..settings() }).await;
    let (alice, bob) = (token("alice"), token("bob"));
    let forward = json!({"exit_address": "127.0.0.1", "exit_port": port, "reverse": false});
    let reverse = json!({"entrance_address": "::1", "entrance_port": null, "reverse": true});
    let (id, _control) = bench.channel(&bob).await;
    let path = format!("/channels/{id}/tunnels");
    for (wish, text) in [
        (&forward, "Address 127.0.0.1 is not allowed as a tunnel destination"),
        (&reverse, "Address ::1:0 is not allowed as a tunnel entrance"),
    ] {
        let answer = bench.send("POST", &path, &bob, &wish.to_string()).await;
        assert_eq!(answer.error(403), text);
    }
    let (id, _control) = bench.channel(&alice).await;
    let path = format!("/channels/{id}/tunnels");
    assert_eq!(bench.send("POST", &path, &alice, &forward.to_string()).await.status, 200);
    let answer = bench.send("POST", &path, &alice, &reverse.to_string()).await.json();
    assert_eq!(answer["entrance_address"], "::1");
    let entrance = u16::try_from(answer["entrance_port"].as_u64().unwrap()).unwrap();
    let connect = |tunnel: u64| format!("/channels/{id}/tunnels/{tunnel}/connect");
    let mut ws = bench.websocket(&connect(1), &alice).await.unwrap();
    text(&mut ws, "pasten").await;
    binary(&mut ws, b"x").await;
    assert_eq!(next(&mut ws).await, Some(Message::Binary(b"x".to_vec().into())));
    let mut ws = bench.websocket(&connect(2), &alice).await.unwrap();
    let mut program = TcpStream::connect(("::1", entrance)).await.unwrap();
    program.write_all(b"y").await.unwrap();
    assert_eq!(next(&mut ws).await, Some(Message::Text("pasten".into())));
    assert_eq!(next(&mut ws).await, Some(Message::Binary(b"y".to_vec().into())));
}

#[tokio::test]
async fn a_channel_exists_for_its_owner_alone_w2() {
    let bench = Bench::with_tokens(settings()).await;
    let (alice, mallory) = (token("alice"), token("mallory"));
    let (id, _control) = bench.channel(&alice).await;
    let wish = json!({"exit_address": "127.0.0.1", "exit_port": 22, "reverse": false}).to_string();
    let tunnels = format!("/channels/{id}/tunnels");
    assert_eq!(bench.send("POST", &tunnels, &alice, &wish).await.status, 200);

    bench.send("POST", &tunnels, &mallory, &wish).await.error(404);
    bench.send("DELETE", &format!("{tunnels}/1"), &mallory, "{}").await.error(404);
    assert_eq!(bench.refused(&format!("/channels/{id}/connect"), &mallory).await, 404);
    let mut ws = bench.websocket(&format!("{tunnels}/1/connect"), &mallory).await.unwrap();
    assert_eq!(close_code(&mut ws).await, Some(1008));

    // Another token of the same caller is the same caller.
    let again = token_with(&json!({"sub": "alice", "exp": 99_999_999_999_u64}));
    assert_eq!(bench.send("POST", &tunnels, &again, &wish).await.json()["tunnel_id"], 2);
}

#[tokio::test]
async fn every_route_wants_a_good_token_w1() {
    let bench = Bench::with_tokens(settings()).await;
    let expired = token_with(&json!({"identifier": "a", "exp": 1}));
    let nobody = token_with(&json!({"exp": 99_999_999_999_u64}));
    let endless = token_with(&json!({"identifier": "a"}));
    let mut tampered = token("a");
    tampered.replace_range(tampered.len() - 3.., "AAA");
    for bad in ["", "garbage", &expired, &nobody, &endless, &tampered] {
        for (method, path) in [
            ("GET", "/version"),
            ("POST", "/channels"),
            ("POST", "/channels/1/tunnels"),
            ("DELETE", "/channels/1/tunnels/1"),
            ("GET", "/channels/1/connect"),
            ("GET", "/channels/1/tunnels/1/connect"),
        ] {
            let answer = bench.send(method, path, bad, "{}").await;
            assert_eq!(answer.status, 401, "{method} {path}");
            assert!(answer.json()["error"].is_string(), "{answer:?}");
        }
        assert_eq!(bench.refused("/channels/1/tunnels/1/connect", bad).await, 401);
    }
    assert_eq!(bench.send("GET", "/version", &token("a"), "").await.text, "1.0.13");
}

#[tokio::test]
async fn the_shared_secret_buys_a_token() {
    let bench = Bench::start(settings(), Mode::Secret(Secret::new("hunter2-hunter2"))).await;
    let answer = bench.get("/version").await;
    assert_eq!((answer.status, answer.text.as_str()), (403, "403: Forbidden"));
    let wrong = bench.post("/authenticate", &json!({"secret": "wrong"})).await;
    assert_eq!((wrong.status, wrong.text.as_str()), (403, "403: Forbidden"));
    let sold = bench.post("/authenticate", &json!({"secret": "hunter2-hunter2"})).await.json();
    let token = sold["token"].as_str().unwrap();
    assert_eq!(bench.send("GET", "/version", token, "").await.text, "1.0.13");
}

#[tokio::test]
async fn web_pages_open_no_websocket_w21() {
    let settings = Settings { allowed_origins: vec!["https://ok.example".into()], ..settings() };
    let bench = Bench::open(settings).await;
    let (id, _control) = bench.forward(22).await;
    for (origin, status) in
        [("https://evil.example", "403"), ("null", "403"), ("https://ok.example", "101")]
    {
        let head =
            raw_upgrade(&bench, &format!("/channels/{id}/tunnels/1/connect"), origin, b"").await.0;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{origin}: {head}");
    }
}

/// nt:D11, rel:0.3: a request that is not answered ends the channel, and with it what it has bound.
#[tokio::test]
async fn a_request_that_is_never_answered_ends_the_channel_d11() {
    let timings = Timings { reply: Duration::from_millis(300), ..quick() };
    let bench = Bench::open(Settings { timings, ..settings() }).await;
    let (id, mut control) = bench.channel("").await;
    let wish = json!({"entrance_address": "127.0.0.1", "entrance_port": null, "reverse": true});
    let answer = bench.post(&format!("/channels/{id}/tunnels"), &wish).await.json();
    let port = u16::try_from(answer["entrance_port"].as_u64().unwrap()).unwrap();
    assert!(matches!(next(&mut control).await, Some(Message::Binary(_))), "the request");
    assert_eq!(close_code(&mut control).await, Some(1011));
    bench.settles(Census::default()).await;
    TcpListener::bind(("127.0.0.1", port)).await.unwrap();
}

#[tokio::test]
async fn reverse_binds_are_restricted_w7() {
    let bench = Bench::open(settings()).await;
    let (id, _control) = bench.channel("").await;
    let ask = async |address: &str, port: u16| {
        let wish = json!({"entrance_address": address, "entrance_port": port, "reverse": true});
        bench.post(&format!("/channels/{id}/tunnels"), &wish).await
    };
    let own = bench.address.port();
    for (address, port) in [
        ("0.0.0.0", 20_000),
        ("127.0.0.2", 20_000),
        ("::1", 20_000),
        ("127.0.0.1", 1023),
        ("127.0.0.1", own),
        ("example.com", 20_000),
        ("127.1", 20_000),
    ] {
        let error = ask(address, port).await.error(403);
        assert_eq!(error, format!("Address {address}:{port} is not allowed as a tunnel entrance"));
    }
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = ask("127.0.0.1", port).await.error(409);
    assert!(error.contains(&format!("('127.0.0.1', {port}): address already in use")), "{error}");
    // Nothing is left of the attempt: the next tunnel is the first.
    drop(taken);
    assert_eq!(ask("127.0.0.1", port).await.json()["tunnel_id"], 1);
}

#[tokio::test]
async fn nothing_outlives_its_channel_a42_a43_w8_w9() {
    let bench = Bench::open(settings()).await;
    for orderly in [true, false] {
        let (id, mut control) = bench.forward(echo().await).await;
        let reverse =
            json!({"entrance_address": "127.0.0.1", "entrance_port": null, "reverse": true});
        let answer = bench.post(&format!("/channels/{id}/tunnels"), &reverse).await.json();
        let port = u16::try_from(answer["entrance_port"].as_u64().unwrap()).unwrap();
        let mut active = bench.data(id).await;
        text(&mut active, "pasten").await;
        binary(&mut active, b"x").await;
        next(&mut active).await;
        let mut idle = bench.data(id).await;
        if orderly {
            control.close(None).await.unwrap();
        } else {
            control.get_mut().set_zero_linger().unwrap();
            drop(control);
        }
        assert_eq!(close_code(&mut idle).await, Some(1001));
        assert_eq!(close_code(&mut active).await, Some(1001));
        bench.settles(Census::default()).await;
        // The port is free again.
        TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    }
}

#[tokio::test]
async fn a_channel_that_is_never_connected_expires() {
    let timings = Timings { unconnected_channel: Duration::from_millis(50), ..quick() };
    let bench = Bench::open(Settings { timings, ..settings() }).await;
    let id = bench.post("/channels", &json!({"version": "1"})).await.json()["channel_id"].clone();
    bench.settles(Census::default()).await;
    assert_eq!(bench.refused(&format!("/channels/{id}/connect"), "").await, 404);
    // One that is connected stays.
    let timings = Timings { unconnected_channel: Duration::from_secs(1), ..quick() };
    let bench = Bench::open(Settings { timings, ..settings() }).await;
    let (_, mut control) = bench.channel("").await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(bench.server.census().channels, 1);
    control.close(None).await.unwrap();
}

#[tokio::test]
async fn a_silent_peer_is_pinged_and_then_dead_w8() {
    let timings = Timings {
        ping: Duration::from_millis(50),
        dead_after: Duration::from_millis(400),
        ..quick()
    };
    let bench = Bench::open(Settings { timings, ..settings() }).await;
    let (_, mut answering) = bench.channel("").await;
    let reading = tokio::spawn(async move {
        let mut pings = 0;
        while let Some(Ok(message)) = StreamExt::next(&mut answering).await {
            pings += usize::from(message.is_ping());
            if pings == 20 {
                break;
            }
        }
        (pings, answering)
    });
    // Connected, but never reads, so no pong leaves it.
    let (_, silent) = bench.channel("").await;
    let (pings, _answering) = timeout(LIMIT, reading).await.unwrap().unwrap();
    assert_eq!(pings, 20);
    eventually("the silent channel ends", || bench.server.census().channels == 1).await;
    drop(silent);
}

#[tokio::test]
async fn limits_hold_at_their_number() {
    let limits = Limits { channels: 2, tunnels_per_channel: 2, connections: 2 };
    let bench = Bench::open(Settings { limits, ..settings() }).await;
    let (id, _control) = bench.forward(echo().await).await;
    let wish = json!({"exit_address": "127.0.0.1", "exit_port": 22, "reverse": false});
    let path = format!("/channels/{id}/tunnels");
    assert_eq!(bench.post(&path, &wish).await.status, 200);
    bench.post(&path, &wish).await.error(429);
    let _other = bench.channel("").await;
    bench.post("/channels", &json!({"version": "1"})).await.error(503);
    let (first, _second) = (bench.data(id).await, bench.data(id).await);
    eventually("two websockets", || bench.server.census().connections == 2).await;
    let mut third = bench.data(id).await;
    assert_eq!(close_code(&mut third).await, Some(1008));
    drop(first);
    eventually("one websocket", || bench.server.census().connections == 1).await;
    let mut fourth = bench.data(id).await;
    text(&mut fourth, "pasten").await;
    binary(&mut fourth, b"x").await;
    assert_eq!(next(&mut fourth).await, Some(Message::Binary(b"x".to_vec().into())));
}

/// rel:0.3, nt:E1, nt:E7: the refusal by status is only for channels that asked for it.
#[tokio::test]
async fn a_channel_that_agreed_on_statuses_is_refused_by_one_a34() {
    let limits = Limits { connections: 1, ..Limits::default() };
    let bench = Bench::open(Settings { limits, ..settings() }).await;
    let offer = json!({"version": "1.0.13", "features": ["r7-status", "drain"]});
    let answer = bench.post("/channels", &offer).await.json();
    assert_eq!(answer["features"], json!(["r7-status"]));
    let id = answer["channel_id"].as_u64().unwrap();
    let mut control = bench.websocket(&format!("/channels/{id}/connect"), "").await.unwrap();
    let wish = json!({"exit_address": "127.0.0.1", "exit_port": 22, "reverse": false});
    assert_eq!(bench.post(&format!("/channels/{id}/tunnels"), &wish).await.status, 200);
    assert_eq!(bench.refused(&format!("/channels/{id}/tunnels/9/connect"), "").await, 404);
    let tunnel = format!("/channels/{id}/tunnels/1/connect");
    let _first = bench.websocket(&tunnel, "").await.unwrap();
    eventually("one websocket", || bench.server.census().connections == 1).await;
    assert_eq!(bench.refused(&tunnel, "").await, 503);
    // Without a channel there was no agreement.
    let mut unknown = bench.websocket("/channels/999/tunnels/1/connect", "").await.unwrap();
    assert_eq!(close_code(&mut unknown).await, Some(1008));
    control.close(None).await.unwrap();
}

/// rel:W8: a client that lost its network gets its port back before its dead channel is noticed; a living one keeps it.
#[tokio::test]
async fn a_dead_channel_gives_its_port_to_its_successor_w8() {
    let timings = Timings { takeover: Duration::from_millis(300), ..quick() };
    let bench = Bench::with_tokens(Settings { timings, ..settings() }).await;
    let (alice, mallory) = (token("alice"), token("mallory"));
    let (id, mut control) = bench.channel(&alice).await;
    let ask = async |id: u64, who: &str, port: u16| {
        let wish = json!({"entrance_address": "127.0.0.1", "entrance_port": port, "reverse": true});
        bench.send("POST", &format!("/channels/{id}/tunnels"), who, &wish.to_string()).await
    };
    let port = ask(id, &alice, 0).await.json()["entrance_port"].as_u64().unwrap();
    let port = u16::try_from(port).unwrap();
    let (stranger, _stranger) = bench.channel(&mallory).await;
    let (second, _second) = bench.channel(&alice).await;
    let living = {
        let answering = async { while control.next().await.is_some() {} };
        tokio::select! {
            () = answering => panic!("the channel has ended"),
            answer = ask(second, &alice, port) => answer,
        }
    };
    assert!(living.error(409).contains("address already in use"));
    // From here on nobody reads, so no pong comes.
    ask(stranger, &mallory, port).await.error(409);
    let taken = ask(second, &alice, port).await;
    assert_eq!(taken.json()["entrance_port"], port, "{taken:?}");
    assert_eq!(ask(id, &alice, 0).await.status, 404, "the dead channel is gone");
}
