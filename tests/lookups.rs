//! Keys that are looked for while a request runs: what an unverified token may influence, and what it may not.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;
use system_tests::{Nginx, NginxBuilder, SigningKey, eventually, jwks, sign};

/// Answers every request with these bytes, and keeps their first lines.
fn server(answer: String) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&lines);
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut buffer = [0; 8192];
            let read = stream.read(&mut buffer).unwrap_or_default();
            let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
            seen.lock().expect("no panic").extend(text.lines().next().map(str::to_owned));
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (address, lines)
}

fn start(http: &str, files: &[(&str, String)]) -> Nginx {
    let builder = NginxBuilder::bare(http);
    files.iter().fold(builder, |builder, (name, text)| builder.file(name, text)).start()
}

/// A variable that is read before the keys can be there is empty, and decides nothing for the access phase.
#[test]
fn an_early_variable_does_not_decide_for_the_phase_that_can_wait() {
    let key = SigningKey::generate("a");
    let nginx = start(
        "server { listen LISTEN;
            location = /_keys { internal; alias DIR/public/keys.json; }
            location / {
                set $early \"<$jwt_claim_sub>\";
                auth_jwt x; auth_jwt_key_request /_keys; auth_jwt_claim_header X-Identifier sub;
                add_header X-Early $early; add_header X-Late \"<$jwt_claim_sub>\";
                proxy_pass http://SERVICE;
            }
            location /sub { auth_request /_check; proxy_pass http://SERVICE; }
            location = /_check { internal; auth_jwt x; auth_jwt_phase preaccess; auth_jwt_key_request /_keys; proxy_pass http://SERVICE; }
        }",
        &[("keys.json", jwks(&[&key]))],
    );
    let answer = nginx.get_with("/", &sign(&key, json!({"sub": "alice"})));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("x-early"), Some("<>"));
    assert_eq!(answer.header("x-late"), Some("<alice>"));
    assert!(answer.body.starts_with("identifier=alice\n"), "{answer:?}");
    // A subrequest can't wait, and says so.
    assert_eq!(
        nginx.get_with("/sub", &sign(&key, json!({}))).status,
        500,
        "auth_request makes 503 a 500"
    );
    nginx.expect_log(&[
        "reason=keys_unavailable status=503",
        "keys can't be fetched for a subrequest",
    ]);
}

/// rel:N6: what a map came to while a key file was chosen is not there afterwards.
#[test]
fn a_map_that_chooses_the_keys_shows_no_unverified_claim() {
    let (a, b) = (SigningKey::generate("k"), SigningKey::generate("k"));
    let nginx = start(
        "map $jwt_claim_iss $tenant { default none; a a; b b; }
         log_format tenant 'tenant=<$tenant>';
         server { listen LISTEN; access_log DIR/state/tenant.log tenant;
            auth_jwt_key_file DIR/public/$tenant.json;
            location / { auth_jwt x; add_header X-Tenant $tenant always; proxy_pass http://SERVICE; }
         }",
        &[("a.json", jwks(&[&a])), ("b.json", jwks(&[&b]))],
    );
    let seen = |key: &SigningKey, iss: &str| {
        let answer = nginx.get_with("/", &sign(key, json!({"iss": iss})));
        (answer.status, answer.header("x-tenant").map(str::to_owned))
    };
    assert_eq!(seen(&b, "a"), (401, Some("none".into())), "forged: b's key, a's name");
    assert_eq!(seen(&a, "a"), (200, Some("a".into())));
    assert_eq!(seen(&b, "b"), (200, Some("b".into())));
    let log = eventually("three lines", || {
        let text = std::fs::read_to_string(nginx.scratch().join("state/tenant.log")).ok()?;
        (text.lines().count() == 3).then_some(text)
    });
    assert_eq!(log.lines().next(), Some("tenant=<none>"));
}

/// rel:T9: a claim leads out of no folder and to no other document.
#[test]
fn a_claim_leads_nowhere_else() {
    let (good, forged) = (SigningKey::generate("k"), SigningKey::generate("k"));
    let body = jwks(&[&good]);
    let (address, lines) =
        server(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    let nginx = start(
        &format!(
            "server {{ listen LISTEN;
            location /_tenant/ {{ internal; proxy_pass http://{address}; }}
            location /file {{ auth_jwt x; auth_jwt_key_file DIR/public/keys/$jwt_claim_iss.json; proxy_pass http://SERVICE; }}
            location /request {{ auth_jwt x; auth_jwt_key_request /_tenant/$jwt_claim_iss; proxy_pass http://SERVICE; }}
            location /relative {{ auth_jwt x; auth_jwt_key_file ../public/keys/$arg_tenant.json; proxy_pass http://SERVICE; }}
            location /beside {{ auth_jwt x; auth_jwt_key_file keys/$arg_tenant.json; proxy_pass http://SERVICE; }}
        }}"
        ),
        &[("keys/a.json", body), ("uploads/evil.json", jwks(&[&forged]))],
    );
    nginx.scratch().replace("conf/keys/a.json", jwks(&[&good]).as_bytes());
    let ask = |path: &str, key: &SigningKey, iss: &str| {
        nginx.get_with(path, &sign(key, json!({"iss": iss}))).status
    };
    assert_eq!(ask("/file", &good, "a"), 200);
    assert_eq!(ask("/file", &forged, "../uploads/evil"), 503);
    assert_eq!(ask("/request", &good, "a"), 200);
    for iss in ["../evil", "a b", "a\tb", "x/../../evil"] {
        assert_eq!(ask("/request", &good, iss), 503, "{iss}");
    }
    for line in lines.lock().expect("no panic").iter() {
        assert_eq!(line, "GET /_tenant/a HTTP/1.0");
    }
    // A relative path begins beside nginx.conf, as one without variables does.
    assert_eq!(ask("/beside?tenant=a", &good, "a"), 200);
    assert_eq!(ask("/relative?tenant=a", &good, "a"), 503, "no way up, whoever writes it");
}

/// An answer counts if it is whole; one that nginx makes an error page of is that page.
#[test]
fn an_answer_is_taken_as_nginx_would_give_it() {
    let key = SigningKey::generate("a");
    let body = jwks(&[&key]);
    let (address, _) =
        server(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len() + 100));
    let nginx = start(
        &format!(
            "server {{ listen LISTEN;
            location = /_cut {{ internal; proxy_pass http://{address}; }}
            location = /_backup {{ internal; error_page 404 502 = /_keys; proxy_pass http://127.0.0.1:1; }}
            location = /_named {{ internal; error_page 502 = @keys; proxy_pass http://127.0.0.1:1; }}
            location @keys {{ root DIR/public; try_files /keys.json =404; }}
            location = /_keys {{ internal; alias DIR/public/keys.json; }}
            location = /_return {{ internal; return 200 '{body}'; }}
            location /cut {{ auth_jwt x; auth_jwt_key_request /_cut; proxy_pass http://SERVICE; }}
            location /backup {{ auth_jwt x; auth_jwt_key_request /_backup; proxy_pass http://SERVICE; }}
            location /named {{ auth_jwt x; auth_jwt_key_request /_named; proxy_pass http://SERVICE; }}
            location /return {{ auth_jwt x; auth_jwt_key_request /_return; proxy_pass http://SERVICE; }}
        }}"
        ),
        &[("keys.json", body.clone())],
    );
    let token = key.token("me");
    assert_eq!(nginx.get_with("/cut", &token).status, 503);
    nginx.expect_log(&["jwt: keyset /_cut rejected", "or was cut"]);
    for path in ["/backup", "/named", "/return"] {
        assert_eq!(nginx.get_with(path, &token).status, 200, "{path}");
    }
}

/// rel:K3: the last good keys of a file that a variable names outlive a reload, too; and one that was missing is
/// looked for soon, however long keys stay fresh.
#[test]
fn files_that_variables_name_are_kept_and_looked_for_as_others() {
    let key = SigningKey::generate("a");
    let nginx = start(
        "server { listen LISTEN;
            auth_jwt_key_file DIR/public/$arg_tenant.json; auth_jwt_key_cache 1h;
            location / { auth_jwt x; proxy_pass http://SERVICE; } }",
        &[("a.json", jwks(&[&key]))],
    );
    let token = key.token("me");
    let ask = |tenant: &str| nginx.get_with(&format!("/?tenant={tenant}"), &token).status;
    assert_eq!(ask("late"), 503);
    nginx.scratch().replace("public/late.json", jwks(&[&key]).as_bytes());
    eventually("the file is found", || (0..6).all(|_| ask("late") == 200).then_some(()));
    for _ in 0..6 {
        assert_eq!(ask("a"), 200);
    }
    std::fs::remove_file(nginx.scratch().join("public/a.json")).expect("it is there");
    nginx.reload();
    for _ in 0..6 {
        assert_eq!(ask("a"), 200, "the last good keys");
    }
}
