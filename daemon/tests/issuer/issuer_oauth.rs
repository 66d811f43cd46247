//! OAuth 2.0, as a client library that knows nothing of us uses it, and what it does not try.

use crate::issuer_harness::{Answer, Daemon, Options, claims};
use oauth2::basic::BasicClient;
use oauth2::{
    AccessToken, AuthType, ClientId, ClientSecret, HttpRequest, HttpResponse, IntrospectionUrl,
    RefreshToken, RequestTokenError, TokenIntrospectionResponse as _, TokenResponse as _, TokenUrl,
};
use serde_json::{Value, json};
use uuid::Uuid;

const U: Uuid = Uuid::from_u128(0x7d2b_0d0c_8d7e_4a51_9f0c_3f1f_8f3f_4f11);
const V: Uuid = Uuid::from_u128(0x0101_0101_0101_0101_0101_0101_0101_0101);
/// With everything that the two encodings of HTTP Basic treat in a special way.
const KEY: &str = "a key: with +%&= and ü";

/// Sends what the library has made.
async fn send(request: HttpRequest) -> Result<HttpResponse, reqwest::Error> {
    let (parts, body) = request.into_parts();
    let client = reqwest::Client::builder().no_proxy().build()?;
    let request = client.request(parts.method, parts.uri.to_string()).headers(parts.headers);
    let response = request.body(body).send().await?;
    let (status, headers) = (response.status(), response.headers().clone());
    let mut answer = HttpResponse::new(response.bytes().await?.to_vec());
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    Ok(answer)
}

async fn form(daemon: &Daemon, path: &str, fields: &[(&str, &str)]) -> Answer {
    let url = format!("http://{}{path}", daemon.public);
    Answer::of(daemon.client.post(url).form(fields).send().await.unwrap()).await
}

#[track_caller]
fn is_error(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status.as_u16(), answer.json()), (status, json!({"error": code})));
    assert_eq!(answer.headers["cache-control"], "no-store");
}

#[tokio::test]
async fn a_client_library_gets_renews_and_inspects_tokens() {
    let daemon = Daemon::start(Options::default()).await;
    daemon.register(KEY, U).await;
    let at = |path: &str| format!("http://{}{path}", daemon.public);
    for auth_type in [AuthType::BasicAuth, AuthType::RequestBody] {
        let client = BasicClient::new(ClientId::new(U.to_string()))
            .set_client_secret(ClientSecret::new(KEY.into()))
            .set_token_uri(TokenUrl::new(at("/oauth2/token")).unwrap())
            .set_introspection_url(IntrospectionUrl::new(at("/oauth2/introspect")).unwrap())
            .set_auth_type(auth_type);
        let token = client.exchange_client_credentials().request_async(&send).await.unwrap();
        assert_eq!(token.expires_in(), Some(std::time::Duration::from_secs(3_600)));
        assert!(token.refresh_token().is_none());
        let jwt = token.access_token().secret().clone();
        let claims = claims(&jwt);
        assert_eq!(claims["sub"], U.to_string());
        assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 3_600);
        assert_eq!(daemon.validate(&jwt).await.status, 200);

        let told = client.introspect(&AccessToken::new(jwt)).request_async(&send).await.unwrap();
        assert!(told.active());
        assert_eq!(told.sub(), Some(U.to_string().as_str()));
        assert_eq!(told.client_id().unwrap().as_str(), U.to_string());
        assert_eq!(told.jti(), claims["jti"].as_str());
        let garbage = AccessToken::new("a.b.c".into());
        assert!(!client.introspect(&garbage).request_async(&send).await.unwrap().active());

        // A refresh token of /authenticate.
        let (_, refresh_token) = daemon.authenticate(KEY, U).await;
        let refresh_token = RefreshToken::new(refresh_token);
        let renewed = client.exchange_refresh_token(&refresh_token).request_async(&send).await;
        let renewed = renewed.unwrap();
        assert_eq!(daemon.validate(renewed.access_token().secret()).await.status, 200);
        let wrong = RefreshToken::new("0".repeat(128));
        let error = client.exchange_refresh_token(&wrong).request_async(&send).await.unwrap_err();
        let RequestTokenError::ServerResponse(error) = error else { panic!("{error}") };
        assert_eq!(error.error().as_ref(), "invalid_grant");
    }
    let stranger = BasicClient::new(ClientId::new(V.to_string()))
        .set_client_secret(ClientSecret::new(KEY.into()))
        .set_token_uri(TokenUrl::new(at("/oauth2/token")).unwrap());
    let error = stranger.exchange_client_credentials().request_async(&send).await.unwrap_err();
    let RequestTokenError::ServerResponse(error) = error else { panic!("{error}") };
    assert_eq!(error.error().as_ref(), "invalid_client", "the key is another client's");
}

#[tokio::test]
async fn requests_that_are_refused_get_the_words_of_the_standard() {
    let daemon = Daemon::start(Options::default()).await;
    daemon.register("K", U).await;
    let id = U.to_string();
    let grant = ("grant_type", "client_credentials");
    let (client, secret) = (("client_id", id.as_str()), ("client_secret", "K"));
    let token = async |fields: &[(&str, &str)]| form(&daemon, "/oauth2/token", fields).await;
    assert_eq!(token(&[grant, client, secret]).await.status, 200);
    for (fields, status, code) in [
        (&[][..], 400, "invalid_request"),
        (&[client, secret], 400, "invalid_request"),
        (&[("grant_type", "password"), client, secret], 400, "unsupported_grant_type"),
        (&[grant, client, secret, ("scope", "admin")], 400, "invalid_scope"),
        (&[grant, grant, client, secret], 400, "invalid_request"),
        (&[grant, secret], 400, "invalid_request"),
        (&[grant, client], 401, "invalid_client"),
        (&[grant], 401, "invalid_client"),
        (&[grant, client, ("client_secret", "wrong")], 401, "invalid_client"),
        (&[grant, ("client_id", "x"), secret], 401, "invalid_client"),
        (&[("grant_type", "refresh_token")], 400, "invalid_request"),
        (&[("grant_type", "refresh_token"), ("refresh_token", "x")], 400, "invalid_grant"),
    ] {
        is_error(&token(fields).await, status, code);
    }
    let url = format!("http://{}/oauth2/token", daemon.public);
    // JSON is not what the standard asks for, and two ways to say who one is are one too many.
    let body = json!({"grant_type": "client_credentials"}).to_string();
    is_error(&daemon.post("/oauth2/token", body).await, 400, "invalid_request");
    let request =
        daemon.client.post(&url).basic_auth(&id, Some("K")).form(&[grant, client, secret]);
    is_error(&Answer::of(request.send().await.unwrap()).await, 400, "invalid_request");
    let request = daemon.client.post(&url).basic_auth(&id, Some("wrong")).form(&[grant]);
    let answer = Answer::of(request.send().await.unwrap()).await;
    is_error(&answer, 401, "invalid_client");
    assert_eq!(answer.headers["www-authenticate"], "Basic realm=\"oauth2\"");
    for path in ["/oauth2/introspect", "/oauth2/revoke"] {
        is_error(&form(&daemon, path, &[("token", "x")]).await, 401, "invalid_client");
        is_error(&form(&daemon, path, &[client, secret]).await, 400, "invalid_request");
    }
    daemon.get("/oauth2/token").await.is_text(405, "405: Method Not Allowed");
    // Guesses here count as they do at /authenticate.
    let mut answer = token(&[grant, client, ("client_secret", "guess")]).await;
    for n in 0..30 {
        answer = token(&[grant, client, ("client_secret", &format!("guess-{n}"))]).await;
    }
    assert_eq!(answer.status, 429);
}

#[tokio::test]
async fn a_client_revokes_its_own_tokens_and_no_others() {
    let daemon = Daemon::start(Options::default()).await;
    let (jwt, token) = daemon.tokens("K", U).await;
    let (others_jwt, others_token) = daemon.tokens("L", V).await;
    let id = U.to_string();
    let client = [("client_id", id.as_str()), ("client_secret", "K")];
    let with = |token: &str| -> Vec<(&'static str, String)> {
        let own = |(name, value): (&'static str, &str)| (name, value.to_owned());
        vec![own(client[0]), own(client[1]), ("token", token.to_owned())]
    };
    let revoke = async |token: &str| {
        let fields = with(token);
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        form(&daemon, "/oauth2/revoke", &fields).await
    };
    let introspect = async |token: &str| {
        let fields = with(token);
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        form(&daemon, "/oauth2/introspect", &fields).await.json()
    };
    let told = introspect(&token).await;
    assert_eq!((&told["active"], &told["client_id"]), (&json!(true), &json!(U)));
    is_error(&revoke(&others_jwt).await, 400, "invalid_grant");
    // Whose a refresh token is, nobody is told.
    revoke(&others_token).await.is(200, json!({}));
    assert_eq!(introspect(&others_token).await["active"], json!(true));
    assert_eq!(daemon.validate(&others_jwt).await.status, 200);
    for token in [&jwt, &token] {
        assert_eq!(introspect(token).await["active"], json!(true));
        revoke(token).await.is(200, json!({}));
        assert_eq!(introspect(token).await, json!({"active": false}));
    }
    assert_eq!(daemon.validate(&jwt).await.status, 401);
    let body = json!({"refresh_token": token, "identifier": U}).to_string();
    daemon.post("/refresh", body).await.is(401, json!({}));
    revoke("unknown").await.is(200, json!({}));
    let file = std::fs::read(daemon.path("public/revoked.json")).unwrap();
    let file: Value = serde_json::from_slice(&file).unwrap();
    assert!(file["token_id"].get(claims(&jwt)["jti"].as_str().unwrap()).is_some(), "{file}");
}

#[tokio::test]
async fn rotating_refresh_tokens_go_on_through_oauth() {
    let daemon = Daemon::start(Options::default()).await;
    let body = json!({"key": "K", "identifier": U, "rotate": true}).to_string();
    assert_eq!(daemon.post_internal("/register_key", body).await.status, 201);
    let (_, first) = daemon.authenticate("K", U).await;
    let refresh = async |token: &str| {
        let fields = [("grant_type", "refresh_token"), ("refresh_token", token)];
        form(&daemon, "/oauth2/token", &fields).await
    };
    let second = refresh(&first).await.json()["refresh_token"].as_str().unwrap().to_owned();
    let third = refresh(&second).await.json()["refresh_token"].as_str().unwrap().to_owned();
    for (token, active) in [(&first, false), (&second, false), (&third, true)] {
        let client = U.to_string();
        let fields = [("client_id", client.as_str()), ("client_secret", "K"), ("token", token)];
        let told = form(&daemon, "/oauth2/introspect", &fields).await.json();
        assert_eq!(told["active"], json!(active));
    }
    is_error(&refresh(&first).await, 400, "invalid_grant");
    is_error(&refresh(&third).await, 400, "invalid_grant");
}

#[tokio::test]
async fn metadata_names_the_endpoints_of_an_issuer_that_has_a_name() {
    let daemon = Daemon::start(Options::issuer("issuer = \"https://gw.example/\"\n")).await;
    let told = daemon.get("/.well-known/oauth-authorization-server").await.json();
    assert_eq!(told["issuer"], "https://gw.example/");
    for (name, path) in [
        ("token_endpoint", "/oauth2/token"),
        ("introspection_endpoint", "/oauth2/introspect"),
        ("revocation_endpoint", "/oauth2/revoke"),
        ("jwks_uri", "/.well-known/jwks.json"),
    ] {
        assert_eq!(told[name], format!("https://gw.example{path}"));
        assert_ne!(daemon.get(path).await.status, 404, "{path} is there");
    }
    assert_eq!(daemon.get("/.well-known/jwks.json").await.json(), daemon.get("/jwks").await.json());
    let nameless = Daemon::start(Options::default()).await;
    let path = "/.well-known/oauth-authorization-server";
    nameless.get(path).await.is_text(404, "404: Not Found");
}
