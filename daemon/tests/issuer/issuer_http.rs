//! The issuer's routes over real HTTP, as the original's clients use them. `tN` in a name is the
//! acceptance example of that number.

use crate::issuer_harness::{AS_ORIGINAL, Answer, Daemon, Options, claims, header};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

const U: Uuid = Uuid::from_u128(0x7d2b_0d0c_8d7e_4a51_9f0c_3f1f_8f3f_4f11);
const V: Uuid = Uuid::from_u128(0x0101_0101_0101_0101_0101_0101_0101_0101);

fn missing(names: &[&str]) -> Value {
    names.iter().map(|n| ((*n).to_owned(), json!(["Missing data for required field."]))).collect()
}

#[tokio::test]
async fn t1_t2_t3_t4_health_unknown_routes_and_wrong_methods() {
    let daemon = Daemon::start(Options::default()).await;
    for path in ["/", "/health"] {
        let answer = daemon.get(path).await;
        answer.is(200, json!({"result": true, "message": null}));
        assert_eq!(answer.text, "{\"result\":true,\"message\":null}");
    }
    let head = Answer::of(daemon.send(Method::HEAD, &daemon.public, "/health").await).await;
    assert_eq!((head.status.as_u16(), head.text.as_str()), (200, ""));
    let wrong = Answer::of(daemon.send(Method::POST, &daemon.public, "/health").await).await;
    wrong.is_text(405, "405: Method Not Allowed");
    assert_eq!(wrong.headers["allow"], "GET,HEAD");
    for path in ["/nope", "/health/", "/authenticate/", "//"] {
        daemon.get(path).await.is_text(404, "404: Not Found");
        daemon.post(path, "x").await.is_text(404, "404: Not Found");
    }
    let wrong = daemon.get("/authenticate").await;
    wrong.is_text(405, "405: Method Not Allowed");
    assert_eq!(wrong.headers["allow"], "POST");
}

#[tokio::test]
async fn i13_internal_routes_are_not_on_the_public_listener_and_the_other_way_round() {
    let daemon = Daemon::start(Options::default()).await;
    for path in [
        "/register_key",
        "/register_keys",
        "/is_key_registered",
        "/prune_keys",
        "/rotate_signing_key",
    ] {
        daemon.post(path, "{}").await.is_text(404, "404: Not Found");
        assert_eq!(daemon.post_internal(path, "{}").await.status, 400);
    }
    for path in ["/authenticate", "/refresh", "/validate"] {
        daemon.post_internal(path, "{}").await.is_text(404, "404: Not Found");
        assert_eq!(daemon.post(path, "{}").await.status, 400);
    }
    for path in ["/health", "/jwks"] {
        let answer = daemon.send(Method::GET, &daemon.internal, path).await;
        assert_eq!(answer.status(), 200);
    }
}

#[tokio::test]
async fn a_page_in_a_browser_cannot_use_the_internal_listener() {
    let daemon = Daemon::start(Options::default()).await;
    for path in [
        "/register_key",
        "/register_keys",
        "/is_key_registered",
        "/show_key",
        "/prune_keys",
        "/rotate_signing_key",
    ] {
        let request = daemon.client.post(format!("http://{}{path}", daemon.internal));
        let request = request
            .header("origin", "https://evil.example")
            .body(json!({"key": "k", "identifier": U}).to_string());
        Answer::of(request.send().await.unwrap()).await.is(403, json!({}));
    }
    let answer = daemon.post_internal("/is_key_registered", json!({"key": "k"}).to_string()).await;
    answer.is(200, json!({"result": false, "message": null}));
}

#[tokio::test]
async fn t5_t6_t7_t8_t9_t10_registration() {
    let daemon = Daemon::start(Options::issuer(AS_ORIGINAL)).await;
    let register =
        async |body: Value| daemon.post_internal("/register_key", body.to_string()).await;
    let done = json!({"result": true, "message": null});
    register(json!({"key": "K", "identifier": U})).await.is(201, done.clone());
    register(json!({"key": "K", "identifier": V})).await.is(201, done.clone());
    // The first identifier holds: it is what the nil UUID stands for.
    let (jwt, _) = daemon.authenticate("K", Uuid::nil()).await;
    assert_eq!(claims(&jwt)["identifier"], json!(U));
    register(json!({"key": "K"})).await.is(400, missing(&["identifier"]));
    register(json!({"key": 1, "identifier": 1, "x": 1})).await.is(
        400,
        json!({"key": ["Not a valid string."], "identifier": ["Not a valid UUID."],
            "x": ["Unknown field."]}),
    );
    let registered =
        async |body: Value| daemon.post_internal("/is_key_registered", body.to_string()).await;
    registered(json!({"key": "K"})).await.is(200, done);
    registered(json!({"key": "zzz"})).await.is(200, json!({"result": false, "message": null}));
    let unknown = json!({"identifier": ["Unknown field."]});
    registered(json!({"key": "K", "identifier": U})).await.is(400, unknown);
    // No limits: an empty key can be registered by whoever wants that.
    register(json!({"key": "", "identifier": U}))
        .await
        .is(201, json!({"result": true, "message": null}));
}

#[tokio::test]
async fn t11_t12_t13_t14_t15_malformed_requests() {
    let daemon = Daemon::start(Options::default()).await;
    let post = async |body: &str| daemon.post("/authenticate", body.to_owned()).await;
    post("{}").await.is(400, missing(&["key", "identifier"]));
    for body in ["", "{", "{\"key\":}", "\u{feff}{}", "nope"] {
        post(body).await.is(400, json!({}));
    }
    for body in ["null", "[]", "\"{\"", "1", "true"] {
        post(body).await.is(400, json!({"_schema": ["Invalid input type."]}));
    }
    post("{\"key\":null,\"identifier\":null}").await.is(
        400,
        json!({"key": ["Field may not be null."], "identifier": ["Field may not be null."]}),
    );
    for identifier in [json!("x"), json!(""), json!(123), json!([U]), json!({}), json!(true)] {
        let body = json!({"key": "K", "identifier": identifier}).to_string();
        post(&body).await.is(400, json!({"identifier": ["Not a valid UUID."]}));
    }
    for key in [json!(1), json!(true), json!([]), json!({})] {
        let body = json!({"key": key, "identifier": U}).to_string();
        post(&body).await.is(400, json!({"key": ["Not a valid string."]}));
    }
}

#[tokio::test]
async fn t16_identifiers_in_every_form() {
    let daemon = Daemon::start(Options::issuer(AS_ORIGINAL)).await;
    daemon.register("K", V).await;
    let upper = U.to_string().to_uppercase();
    for text in [
        U.simple().to_string(),
        format!("{{{U}}}"),
        format!("urn:uuid:{upper}"),
        upper.clone(),
        U.to_string(),
    ] {
        let body = json!({"key": "K", "identifier": text}).to_string();
        let answer = daemon.post("/authenticate", body).await;
        let jwt = answer.json()["jwt"].as_str().unwrap().to_owned();
        assert_eq!(claims(&jwt)["identifier"], U.to_string(), "{text}");
    }
}

#[tokio::test]
async fn t17_t18_the_originals_tokens() {
    let daemon = Daemon::start(Options::issuer(AS_ORIGINAL)).await;
    daemon.register("K", U).await;
    let body = json!({"key": "K", "identifier": U}).to_string();
    let answer = daemon.post("/authenticate", body).await;
    let object = answer.json();
    let mut names: Vec<_> = object.as_object().unwrap().keys().cloned().collect();
    names.sort();
    assert_eq!((answer.status.as_u16(), names), (200, vec!["jwt".into(), "refresh_token".into()]));
    let refresh_token = object["refresh_token"].as_str().unwrap();
    let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    assert!(refresh_token.len() == 128 && refresh_token.bytes().all(is_hex));
    let jwt = object["jwt"].as_str().unwrap();
    let kid = daemon.get("/jwks").await.json()["keys"][0]["kid"].clone();
    assert_eq!(header(jwt), json!({"alg": "RS256", "kid": kid, "typ": "JWT"}));
    let claims = claims(jwt);
    let mut names: Vec<_> = claims.as_object().unwrap().keys().cloned().collect();
    names.sort();
    assert_eq!(names, ["exp", "iat", "identifier", "token_id"]);
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 90_000);
    assert_eq!(claims["identifier"], U.to_string());
    let token_id: Uuid = claims["token_id"].as_str().unwrap().parse().unwrap();
    assert_eq!(token_id.get_version_num(), 4);
}

#[tokio::test]
async fn our_own_claims_by_default() {
    let daemon = Daemon::start(Options::issuer("issuer = \"https://gw.example\"\n")).await;
    let (jwt, refresh_token) = daemon.tokens("K", U).await;
    let (first, second) = (claims(&jwt), claims(&daemon.authenticate("K", U).await.0));
    assert_eq!(first["sub"], first["identifier"]);
    assert_eq!(first["jti"], first["token_id"]);
    assert_eq!(first["iss"], "https://gw.example");
    assert_ne!(first["jti"], second["jti"]);
    // The key's public name: the same for all its tokens, another one for another key.
    assert_eq!(first["key"].as_str().unwrap().len(), 32);
    assert_eq!(first["key"], second["key"]);
    assert_ne!(claims(&daemon.tokens("L", U).await.0)["key"], first["key"]);
    let body = json!({"refresh_token": refresh_token, "identifier": U}).to_string();
    let refreshed = daemon.post("/refresh", body).await.json();
    assert_eq!(claims(refreshed["jwt"].as_str().unwrap())["key"], first["key"]);
    assert_eq!(daemon.validate(&jwt).await.status, 200);
}

#[tokio::test]
async fn t19_audiences() {
    let daemon = Daemon::start(Options::default().variable("JWT_AUDIENCE", "a, b,")).await;
    let (jwt, _) = daemon.tokens("K", U).await;
    assert_eq!(claims(&jwt)["aud"], json!(["a", "b"]));
    daemon.validate(&jwt).await.is(200, json!({"result": true, "message": null}));
}

#[tokio::test]
async fn t20_t21_unknown_and_expired_keys() {
    let daemon = Daemon::start(Options::issuer("key_lifetime = \"2s\"\n")).await;
    let body = json!({"key": "K", "identifier": U}).to_string();
    daemon.post("/authenticate", body.clone()).await.is(401, json!({}));
    daemon.register("K", U).await;
    assert_eq!(daemon.post("/authenticate", body.clone()).await.status, 200);
    let mut answer = daemon.post("/authenticate", body.clone()).await;
    let deadline = std::time::Instant::now() + crate::issuer_harness::PATIENCE;
    while answer.status == 200 && std::time::Instant::now() < deadline {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        answer = daemon.post("/authenticate", body.clone()).await;
    }
    answer.is(401, json!({}));
    let registered = daemon.post_internal("/is_key_registered", json!({"key": "K"}).to_string());
    registered.await.is(200, json!({"result": true, "message": null}));
    daemon.register("K", V).await;
    assert_eq!(daemon.post("/authenticate", body).await.status, 200);
}

#[tokio::test]
async fn t22_t23_t24_bodies() {
    let daemon = Daemon::start(Options::default()).await;
    daemon.register("K", U).await;
    let url = format!("http://{}/authenticate", daemon.public);
    let body = json!({"key": "K", "identifier": U}).to_string();
    let post = async |content_type: &str, body: Vec<u8>| {
        let request = daemon.client.post(&url).header("content-type", content_type).body(body);
        Answer::of(request.send().await.unwrap()).await
    };
    assert_eq!(post("text/plain", body.clone().into()).await.status, 200);
    post("application/json; charset=bogus", body.clone().into()).await.is(400, json!({}));
    // At the limit, one byte over it, and far over it.
    let mut padded = body.clone().into_bytes();
    padded.resize(1 << 20, b' ');
    assert_eq!(post("application/json", padded.clone()).await.status, 200);
    let message = "Maximum request body size 1048576 exceeded.";
    padded.push(b' ');
    post("application/json", padded).await.is_text(413, message);
    post("application/json", vec![b' '; 2 << 20]).await.is_text(413, message);
    // Endless ones are cut off, whether or not the client gets to see the answer.
    let _ = daemon.client.post(&url).body(vec![b' '; 11 << 20]).send().await;
    assert_eq!(post("text/plain", body.clone().into()).await.status, 200);
    // Duplicate names: the last one holds.
    let body = format!("{{\"key\":\"K\",\"key\":\"zz\",\"identifier\":\"{U}\"}}");
    post("application/json", body.into()).await.is(401, json!({}));
    post("application/json", vec![0xff, 0xfe]).await.is(400, json!({}));
    let body = format!("{{\"key\":\"\\ud800\",\"identifier\":\"{U}\"}}");
    post("application/json", body.into()).await.is(400, json!({}));
}

#[tokio::test]
async fn t25_t26_refresh() {
    let daemon = Daemon::start(Options::issuer(AS_ORIGINAL)).await;
    let (_, token) = daemon.tokens("K", U).await;
    let refresh = async |token: Value, identifier: Value| {
        let body = json!({"refresh_token": token, "identifier": identifier}).to_string();
        daemon.post("/refresh", body).await
    };
    // Usable again and again, and for any identifier.
    for identifier in [U, V, U] {
        let answer = refresh(json!(token), json!(identifier)).await;
        let object = answer.json();
        assert_eq!((answer.status.as_u16(), &object["refresh_token"]), (200, &Value::Null));
        assert_eq!(object.as_object().unwrap().len(), 2);
        assert_eq!(claims(object["jwt"].as_str().unwrap())["identifier"], json!(identifier));
    }
    refresh(json!(token.to_uppercase()), json!(U)).await.is(401, json!({}));
    refresh(json!("0".repeat(128)), json!(U)).await.is(401, json!({}));
    refresh(json!("with\u{0}nul"), json!(U)).await.is(401, json!({}));
    refresh(json!(1), json!(U)).await.is(400, json!({"refresh_token": ["Not a valid string."]}));
    daemon.post("/refresh", "{}").await.is(400, missing(&["refresh_token", "identifier"]));
}

#[tokio::test]
async fn t27_refresh_tokens_expire_and_outlive_their_key() {
    let options = Options::issuer("key_lifetime = \"1s\"\nrefresh_lifetime = \"4s\"\n");
    let daemon = Daemon::start(options).await;
    let (_, token) = daemon.tokens("K", U).await;
    let refresh = async || {
        let body = json!({"refresh_token": token, "identifier": U}).to_string();
        daemon.post("/refresh", body).await
    };
    let key = json!({"key": "K", "identifier": U}).to_string();
    let deadline = std::time::Instant::now() + crate::issuer_harness::PATIENCE;
    while daemon.post("/authenticate", key.clone()).await.status == 200 {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(refresh().await.status, 200, "the key's expiry does not end it");
    while refresh().await.status == 200 {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    refresh().await.is(401, json!({}));
}

#[tokio::test]
async fn i4_refresh_can_be_bound_to_the_keys_life() {
    let options = Options::issuer("key_lifetime = \"1s\"\nrefresh_requires_live_key = true\n");
    let daemon = Daemon::start(options).await;
    let (_, token) = daemon.tokens("K", U).await;
    let body = json!({"refresh_token": token, "identifier": U}).to_string();
    let deadline = std::time::Instant::now() + crate::issuer_harness::PATIENCE;
    while daemon.post("/refresh", body.clone()).await.status == 200 {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    daemon.register("K", U).await;
    assert_eq!(daemon.post("/refresh", body).await.status, 200);
}

#[tokio::test]
async fn i3_the_registered_identifier_is_in_the_token_whatever_is_asserted() {
    let mut daemon = Daemon::start(Options::default()).await;
    daemon.register("K", U).await;
    for asserted in [U, V, Uuid::nil()] {
        let (jwt, refresh_token) = daemon.authenticate("K", asserted).await;
        assert_eq!(claims(&jwt)["identifier"], json!(U));
        let body = json!({"refresh_token": refresh_token, "identifier": asserted}).to_string();
        let answer = daemon.post("/refresh", body).await.json();
        assert_eq!(claims(answer["jwt"].as_str().unwrap())["identifier"], json!(U));
    }
    let line = daemon.wait_for(|line| line["event"] == "ident_mismatch").await;
    assert_eq!((&line["asserted"], &line["ident"]), (&json!(V), &json!(U)));
    // One each for V; U and nil are no mismatch.
    let lines = daemon.events();
    assert_eq!(lines.iter().filter(|line| line["event"] == "ident_mismatch").count(), 2);
}

#[tokio::test]
async fn i9_simultaneous_first_registrations_all_succeed() {
    let daemon = std::sync::Arc::new(Daemon::start(Options::default()).await);
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let daemon = daemon.clone();
            tokio::spawn(async move { daemon.register("K", Uuid::new_v4()).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let (one, _) = daemon.authenticate("K", U).await;
    let (two, _) = daemon.authenticate("K", V).await;
    assert_eq!(claims(&one)["identifier"], claims(&two)["identifier"]);
}

#[tokio::test]
async fn t35_t36_removed_routes_and_prefixes() {
    let daemon = Daemon::start(Options::default().variable("DISABLE_EXTERNAL_API", "yes")).await;
    for path in ["/authenticate", "/refresh", "/validate", "/validate_request"] {
        daemon.post(path, "{}").await.is_text(404, "404: Not Found");
    }
    assert_eq!(daemon.post_internal("/register_key", "{}").await.status, 400);
    assert_eq!(daemon.get("/jwks").await.status, 200);
    let daemon = Daemon::start(
        Options::default().variable("DISABLE_INTERNAL_API", "1").variable("URL_PREFIX", "/pre"),
    )
    .await;
    for path in ["/pre/register_key", "/pre/is_key_registered"] {
        daemon.post_internal(path, "{}").await.is_text(404, "404: Not Found");
    }
    for (path, status) in
        [("/pre/health", 200), ("/pre/", 200), ("/health", 404), ("/pre", 404), ("/pre/jwks", 200)]
    {
        assert_eq!(daemon.get(path).await.status, status, "{path}");
    }
}

#[tokio::test]
async fn one_listener_with_both_sets_where_the_originals_variables_say_so() {
    let root = tempfile::tempdir().unwrap();
    let database = format!("sqlite+aiosqlite:///{}/original.db", root.path().display());
    let mut options = Options { no_listeners: true, ..Options::default() };
    options.issuer = "# database_url and listen are left to the variables\n".into();
    let options = options.variable("PORT", "0").variable("ASYNC_URI", &database);
    let mut daemon = Daemon::start_in(root, options).await;
    let warning = daemon.wait_for(|line| line["outcome"] == "warning").await;
    assert!(warning["reason"].as_str().unwrap().contains("internal_listen"), "{warning}");
    for name in ["PORT", "ASYNC_URI"] {
        daemon.wait_for(|line| line["event"] == "variable" && line["name"] == name).await;
    }
    let (jwt, _) = daemon.tokens("K", U).await;
    assert_eq!(daemon.validate(&jwt).await.status, 200);
    assert!(daemon.path("original.db").exists());
}
