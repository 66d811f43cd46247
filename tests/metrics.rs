//! The daemon's metrics are the numbers of what was done: real requests and tunnels, read back from `GET /metrics` with
//! a parser that is not ours. And docs/metrics.md has each of them, as it is served.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use prometheus_parse::{Scrape, Value};
use serde_json::{Value as Json, json};
use system_tests::{
    Answer, Client, Daemon, Gateway, Port, Service, ask, eventually, get, now, repository,
};

/// All samples, by name and labels as they stand in queries.
#[derive(Debug)]
struct Metrics(BTreeMap<String, f64>);

fn text(daemon: &Daemon) -> String {
    let answer = get(&daemon.internal("/metrics"), &[]);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4"));
    answer.body
}

impl Metrics {
    fn of(daemon: &Daemon) -> Self {
        let text = text(daemon);
        let lines = text.lines().map(|line| Ok(line.to_owned()));
        let scrape = Scrape::parse(lines).expect("Prometheus's text format");
        let samples = scrape.samples.into_iter().flat_map(|sample| {
            let labels: BTreeSet<String> =
                sample.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let labels = labels.into_iter().collect::<Vec<_>>().join(",");
            let name = if labels.is_empty() {
                sample.metric.clone()
            } else {
                format!("{}{{{labels}}}", sample.metric)
            };
            match sample.value {
                Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value) => {
                    vec![(name, value)]
                }
                Value::Histogram(buckets) => {
                    let last = buckets.last().expect("a bucket");
                    assert_eq!(last.less_than, f64::INFINITY, "{name}");
                    vec![(format!("{name} observed"), last.count)]
                }
                Value::Summary(_) => panic!("{name} is a summary"),
            }
        });
        Self(samples.collect())
    }

    #[track_caller]
    fn value(&self, name: &str) -> f64 {
        *self.0.get(name).unwrap_or_else(|| panic!("no {name} in {:#?}", self.0))
    }

    /// Asserts these values.
    #[track_caller]
    fn are(&self, expected: &[(&str, f64)]) {
        let found: Vec<_> = expected.iter().map(|&(name, _)| (name, self.value(name))).collect();
        assert_eq!(found, expected);
    }
}

fn post(daemon: &Daemon, path: &str, body: &Json) -> Answer {
    let url = format!("http://{}{path}", daemon.public().address());
    ask("POST", &url, &[], Some(&body.to_string()))
}

fn post_internal(daemon: &Daemon, path: &str, body: &Json) -> Answer {
    ask("POST", &daemon.internal(path), &[], Some(&body.to_string()))
}

fn parsed(answer: &Answer) -> Json {
    serde_json::from_str(&answer.body).expect("JSON")
}

fn login(client: &Client) -> Json {
    json!({"key": client.key, "identifier": client.identifier})
}

#[test]
fn requests_tokens_and_refusals_are_counted() {
    let daemon = Daemon::start("");
    let client = daemon.register();
    let mut refresh_token = Json::Null;
    for _ in 0..2 {
        refresh_token =
            parsed(&post(&daemon, "/authenticate", &login(&client)))["refresh_token"].clone();
    }
    let stranger = json!({"key": "x".repeat(30), "identifier": client.identifier});
    for _ in 0..3 {
        assert_eq!(post(&daemon, "/authenticate", &stranger).status, 401);
    }
    let refresh = |token: &Json| {
        let body = json!({"refresh_token": token, "identifier": client.identifier});
        post(&daemon, "/refresh", &body).status
    };
    assert_eq!((refresh(&refresh_token), refresh(&json!("none"))), (200, 401));
    assert_eq!(post(&daemon, "/validate", &json!({})).status, 400);
    let metrics = Metrics::of(&daemon);
    let requests = |route: &str, status: &str| {
        let listener = if route == "/register_key" { "internal" } else { "public" };
        let labels = format!("listener={listener},route={route},status={status}");
        metrics.value(&format!("jwtunnel_http_requests_total{{{labels}}}"))
    };
    for (route, status, count) in [
        ("/register_key", "2xx", 1.0),
        ("/authenticate", "2xx", 2.0),
        ("/authenticate", "4xx", 3.0),
        ("/refresh", "2xx", 1.0),
        ("/refresh", "4xx", 1.0),
        ("/validate", "4xx", 1.0),
        ("/validate", "2xx", 0.0),
        ("/jwks", "2xx", 0.0),
        ("other", "4xx", 0.0),
    ] {
        assert_eq!(requests(route, status), count, "{route} {status}");
    }
    metrics.are(&[
        ("jwtunnel_authentications_total{outcome=ok}", 2.0),
        ("jwtunnel_authentications_total{outcome=unknown}", 3.0),
        ("jwtunnel_authentications_total{outcome=revoked}", 0.0),
        ("jwtunnel_refreshes_total{outcome=sticky}", 1.0),
        ("jwtunnel_refreshes_total{outcome=unknown}", 1.0),
        ("jwtunnel_refreshes_total{outcome=rotated}", 0.0),
        ("jwtunnel_audit_events_total{event=register_key,outcome=ok}", 1.0),
        // Two by key and one by refresh token.
        ("jwtunnel_signing_seconds observed", 3.0),
        ("jwtunnel_signing_wait_seconds observed", 3.0),
        ("jwtunnel_signing_failures_total{reason=busy}", 0.0),
    ]);
    // A key and two refresh tokens; who prunes may have written too.
    assert!(metrics.value("jwtunnel_database_seconds{operation=write} observed") >= 3.0);
    assert!(metrics.value("jwtunnel_database_seconds{operation=read} observed") >= 7.0);
    let started = metrics.value("process_start_time_seconds");
    assert!((started - now() as f64).abs() < 600.0, "{started}");
    let memory = metrics.value("process_resident_memory_bytes");
    assert!((1e6..1e9).contains(&memory), "{memory}");
    assert!(metrics.value("process_open_fds") > 5.0);
}

#[test]
fn who_uses_a_rotating_refresh_token_twice_is_seen() {
    let daemon = Daemon::start("");
    let client =
        Client { key: "r".repeat(40), identifier: "6e2ac9fe-9c3a-4bd6-a59d-1d40a8bd9ad0".into() };
    let mut body = login(&client);
    body["rotate"] = true.into();
    assert_eq!(post_internal(&daemon, "/register_key", &body).status, 201);
    let first = parsed(&post(&daemon, "/authenticate", &login(&client)))["refresh_token"].clone();
    let refresh = |token: &Json| {
        let body = json!({"refresh_token": token, "identifier": client.identifier});
        post(&daemon, "/refresh", &body)
    };
    let second = parsed(&refresh(&first))["refresh_token"].clone();
    // The successor was used, so the first one is stolen goods.
    assert_eq!((refresh(&second).status, refresh(&first).status), (200, 401));
    Metrics::of(&daemon).are(&[
        ("jwtunnel_refreshes_total{outcome=rotated}", 2.0),
        ("jwtunnel_refreshes_total{outcome=reused}", 1.0),
        ("jwtunnel_audit_events_total{event=refresh_reuse,outcome=denied}", 1.0),
    ]);
}

#[test]
fn who_guesses_is_seen() {
    let daemon = Daemon::start("");
    let guess = |count: usize| {
        let key = format!("{count}{}", "x".repeat(30));
        post(&daemon, "/authenticate", &json!({"key": key, "identifier": uuid(count)})).status
    };
    let refused = (0..50).filter(|&count| guess(count) == 429).count();
    assert!(refused > 0);
    let body = json!({"refresh_token": "none", "identifier": uuid(0)});
    assert_eq!(post(&daemon, "/refresh", &body).status, 401);
    Metrics::of(&daemon).are(&[
        ("jwtunnel_limited_total{action=refused}", refused as f64),
        ("jwtunnel_authentications_total{outcome=limited}", refused as f64),
        ("jwtunnel_limited_total{action=delayed}", 1.0),
    ]);
}

fn uuid(number: usize) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

#[test]
fn keys_and_files_are_told() {
    let daemon = Daemon::start("");
    let started = now() as f64;
    let metrics = Metrics::of(&daemon);
    metrics.are(&[
        ("jwtunnel_signing_keys{state=signing}", 1.0),
        ("jwtunnel_signing_keys{state=announced}", 0.0),
        ("jwtunnel_signing_keys{state=retiring}", 0.0),
        ("jwtunnel_revocations", 0.0),
        ("jwtunnel_file_write_failures_total{file=jwks}", 0.0),
    ]);
    let about = |value: f64, expected: f64| {
        assert!((value - expected).abs() < 120.0, "{value} instead of {expected}");
    };
    const NEXT: &str = "jwtunnel_signing_key_next_timestamp_seconds";
    about(metrics.value(NEXT), started + 30.0 * 86_400.0);
    for file in ["jwks", "revocations"] {
        let name = format!("jwtunnel_file_written_timestamp_seconds{{file={file}}}");
        about(metrics.value(&name), started);
    }
    let rotated = post_internal(&daemon, "/rotate_signing_key", &json!({"now": false}));
    assert_eq!(rotated.status, 200, "{rotated:?}");
    let revoked = post_internal(&daemon, "/revoke_token", &json!({"token_id": "some"}));
    assert_eq!(revoked.status, 200, "{revoked:?}");
    let metrics = Metrics::of(&daemon);
    metrics.are(&[
        ("jwtunnel_signing_keys{state=signing}", 1.0),
        ("jwtunnel_signing_keys{state=announced}", 1.0),
        ("jwtunnel_revocations", 1.0),
        ("jwtunnel_audit_events_total{event=rotate_signing_key,outcome=ok}", 1.0),
        ("jwtunnel_audit_events_total{event=revoke_token,outcome=ok}", 1.0),
    ]);
    about(metrics.value(NEXT), now() as f64 + 300.0);
    // The folder is gone: neither file can be written.
    let public = daemon.scratch().join("data/public");
    fs::rename(&public, public.with_file_name("away")).expect("another name");
    let answer =
        post_internal(&daemon, "/rotate_signing_key", &json!({"now": true, "emergency": true}));
    assert_eq!(answer.status, 503, "{answer:?}");
    let answer = post_internal(&daemon, "/revoke_token", &json!({"token_id": "another"}));
    assert_eq!(answer.status, 503, "{answer:?}");
    let metrics = Metrics::of(&daemon);
    for file in ["jwks", "revocations"] {
        let name = format!("jwtunnel_file_write_failures_total{{file={file}}}");
        assert!(metrics.value(&name) >= 1.0, "{name}");
    }
    // It holds in the daemon all the same.
    metrics.are(&[("jwtunnel_revocations", 2.0), ("jwtunnel_signing_keys{state=signing}", 1.0)]);
}

/// Holds the write lock of the database, as a program that hangs does. It ends with its standard input.
const HOLD: &str = "
import sqlite3, sys
held = sqlite3.connect(sys.argv[1], isolation_level=None)
held.execute('BEGIN IMMEDIATE')
print('held', flush=True)
sys.stdin.read()
";

#[test]
fn a_database_that_fails_is_seen() {
    let daemon = Daemon::start("");
    let mut holder = Command::new("python3")
        .args(["-c", HOLD])
        .arg(daemon.scratch().join("data/jwtunnel.db"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    let mut said = [0; 5];
    holder.stdout.take().expect("its output").read_exact(&mut said).expect("the lock");
    let body = login(&Client { key: "k".repeat(40), identifier: uuid(1) });
    assert_eq!(post_internal(&daemon, "/register_key", &body).status, 503);
    drop(holder.stdin.take());
    assert!(holder.wait().expect("its end").success());
    let metrics = Metrics::of(&daemon);
    const ERRORS: &str = "jwtunnel_database_errors_total{operation=write,reason=database}";
    assert!(metrics.value(ERRORS) >= 1.0);
    metrics.are(&[
        ("jwtunnel_http_requests_total{listener=internal,route=/register_key,status=5xx}", 1.0),
        ("jwtunnel_database_errors_total{operation=read,reason=database}", 0.0),
    ]);
}

/// nt:E8.
#[test]
fn tunnels_are_counted_to_the_byte() {
    let gateway = Gateway::start();
    let daemon = &gateway.daemon;
    let client = daemon.register();
    let (service, closed) = (Service::echo(), Port::take());
    let tunnel_to = |port: u16| {
        gateway.tunnel(&client, &["--remote-port", &port.to_string(), "--local-port", "0"])
    };
    let tunnel = tunnel_to(service.port());
    let text = "x".repeat(10_000);
    assert_eq!(tunnel.echo(&text), text);
    assert_eq!(tunnel.echo("y"), "y");
    let open = tunnel.connect();
    (&open).write_all(b"z").expect("a byte");
    eventually("two have ended and one is open", || {
        let metrics = Metrics::of(daemon);
        let bytes =
            metrics.value("jwtunnel_tunnel_bytes_total{direction=to_clients,listener=netunnel}");
        (metrics.value("jwtunnel_connections{listener=netunnel}") == 1.0 && bytes == 10_002.0)
            .then_some(())
    });
    let lost = tunnel_to(closed.number());
    let mut nothing = Vec::new();
    let _ = lost.connect().read_to_end(&mut nothing);
    let metrics = eventually("the failure is counted", || {
        let metrics = Metrics::of(daemon);
        let failed = metrics.value("jwtunnel_dial_errors_total{listener=netunnel,reason=connect}");
        (failed == 1.0).then_some(metrics)
    });
    metrics.are(&[
        ("jwtunnel_channels{listener=netunnel}", 2.0),
        ("jwtunnel_channels_opened_total{listener=netunnel}", 2.0),
        ("jwtunnel_tunnels{listener=netunnel}", 2.0),
        ("jwtunnel_tunnels_opened_total{listener=netunnel}", 2.0),
        ("jwtunnel_connections_opened_total{listener=netunnel}", 3.0),
        ("jwtunnel_tunnel_bytes_total{direction=from_clients,listener=netunnel}", 10_002.0),
        ("jwtunnel_dial_errors_total{listener=netunnel,reason=denied}", 0.0),
        ("jwtunnel_channels_opened_total{listener=internal}", 0.0),
        ("jwtunnel_static_tunnels{state=online}", 0.0),
    ]);
    drop((tunnel, lost, open));
    eventually("what is open goes down, and what was opened stays", || {
        let metrics = Metrics::of(daemon);
        (metrics.value("jwtunnel_channels{listener=netunnel}") == 0.0).then_some(())?;
        metrics.are(&[("jwtunnel_channels_opened_total{listener=netunnel}", 2.0)]);
        (metrics.value("jwtunnel_connections{listener=netunnel}") == 0.0).then_some(())
    });
}

#[test]
fn no_client_can_make_series_and_none_shows_a_secret() {
    let daemon = Daemon::start("");
    let client = daemon.register();
    let series = |metrics: &Metrics| metrics.0.keys().cloned().collect::<BTreeSet<_>>();
    let before = series(&Metrics::of(&daemon));
    let answer = parsed(&post(&daemon, "/authenticate", &login(&client)));
    for count in 0..30 {
        let body = json!({"key": format!("key{count}"), "identifier": uuid(count)});
        post(&daemon, "/authenticate", &body);
        assert_eq!(post(&daemon, &format!("/nowhere{count}"), &body).status, 404);
        let url = format!("http://{}/jwks?{count}", daemon.public().address());
        assert_eq!(ask("DELETE", &url, &[], None).status, 405);
    }
    let metrics = Metrics::of(&daemon);
    assert_eq!(series(&metrics), before);
    metrics.are(&[
        ("jwtunnel_http_requests_total{listener=public,route=other,status=4xx}", 30.0),
        ("jwtunnel_http_requests_total{listener=public,route=/jwks,status=4xx}", 30.0),
    ]);
    let text = text(&daemon);
    let secrets = [&client.key, &client.identifier];
    let tokens = ["jwt", "refresh_token"].map(|name| answer[name].as_str().expect("a token"));
    for secret in secrets.into_iter().map(String::as_str).chain(tokens) {
        assert!(!text.contains(secret));
    }
}

/// What the page says about a metric: type and labels.
type Described = BTreeMap<String, (String, BTreeSet<String>)>;

fn described(page: &str) -> Described {
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let rows = rows.map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    // The second table begins with texts.
    let code = |cell: &str| cell.trim_matches('`').to_owned();
    rows.map(|cells| {
        let labels = cells[3].split(',').map(|label| code(label.trim()));
        (code(cells[1]), (cells[2].to_owned(), labels.filter(|label| !label.is_empty()).collect()))
    })
    .collect()
}

#[test]
fn every_metric_is_documented_as_it_is_and_none_is_made_up() {
    let daemon = Daemon::start("[[jwks.remote]]\nname = \"corp\"\nurl = \"http://127.0.0.1:1/\"\n");
    let text = text(&daemon);
    let mut served = Described::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').expect("a name and a type");
        let begins = |line: &&str| {
            let rest = line.strip_prefix(name).unwrap_or_default();
            ["{", " ", "_count"].iter().any(|next| rest.starts_with(next))
        };
        let sample = text.lines().find(begins).unwrap_or_else(|| panic!("{name} has no sample"));
        let labels = sample.split_once('{').map_or("", |(_, rest)| rest);
        let labels = labels.split("=\"").map(|part| {
            part.rsplit_once(['"', ',']).map_or(part, |(_, name)| name).trim_start_matches(',')
        });
        let is_label = |label: &&str| label.bytes().all(|b| b.is_ascii_lowercase());
        let labels = labels.filter(|label| !label.is_empty() && is_label(label) && *label != "le");
        let found = (kind.to_owned(), labels.map(str::to_owned).collect());
        assert_eq!(served.insert(name.to_owned(), found), None, "{name} stands twice");
    }
    let file = repository().join("docs/metrics.md");
    let page = fs::read_to_string(file).expect("the page");
    assert_eq!(described(&page), served);
    // Also in the expressions.
    let words = page.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    for word in words.filter(|word| word.starts_with("jwtunnel_") || word.starts_with("process_")) {
        assert!(served.contains_key(word.trim_end_matches("_bucket")), "{word}");
    }
}
