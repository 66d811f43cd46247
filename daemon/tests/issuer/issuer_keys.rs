//! `jwtunnel keys import`, `show`, `prune` and `rotate --emergency`, over the real programs. `issuer_keys_postgres` runs
//! the same on PostgreSQL.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::issuer_harness::{Daemon, Options, PATIENCE, claims, header, jwtunnel};
use serde_json::{Value, json};
use sqlx::{Connection as _, SqliteConnection};
use uuid::Uuid;

const U: Uuid = Uuid::from_u128(0x7d2b_0d0c_8d7e_4a51_9f0c_3f1f_8f3f_4f11);
const V: Uuid = Uuid::from_u128(0x0101_0101_0101_0101_0101_0101_0101_0101);

/// Runs `jwtunnel` against the daemon: (exit code, stdout, stderr).
fn run(daemon: &Daemon, arguments: &[&str], input: &str) -> (i32, String, String) {
    let server = format!("http://{}", daemon.internal);
    let mut all = arguments.to_vec();
    all.extend(["--server", &server]);
    jwtunnel(&all, input)
}

/// What a successful command prints with `--json`.
#[track_caller]
fn told(daemon: &Daemon, arguments: &[&str], input: &str) -> Value {
    let (code, out, err) = run(daemon, &[arguments, &["--json"]].concat(), input);
    assert_eq!(code, 0, "{arguments:?}: {err}");
    serde_json::from_str(&out).unwrap()
}

/// As [`run`], on a terminal: (exit code, all that is seen there).
fn on_terminal(daemon: &Daemon, arguments: &str, input: &str) -> (i32, String) {
    let program = env!("CARGO_BIN_EXE_jwtunnel");
    let command = format!("{program} {arguments} --server http://{}", daemon.internal);
    let mut script = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    script.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = script.wait_with_output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

fn write(daemon: &Daemon, name: &str, text: &str) -> PathBuf {
    let path = daemon.path(name);
    fs::write(&path, text).unwrap();
    path
}

async fn keys(daemon: &Daemon) -> Vec<Value> {
    told(daemon, &["keys", "list"], "")["keys"].as_array().unwrap().clone()
}

async fn sql(daemon: &Daemon, statement: &'static str) {
    match daemon.database() {
        Some(database) => drop(database.psql(statement)),
        None => {
            let url = format!("sqlite://{}", daemon.path("t.db").display());
            let mut connection = SqliteConnection::connect(&url).await.unwrap();
            sqlx::query(statement).execute(&mut connection).await.unwrap();
        }
    }
}

/// A file of `lines` keys, every third of which is to be generated, and every fifth of which is used once.
fn fleet(lines: u128) -> String {
    let mut text = String::from("identifier,key,rotate\n");
    for number in 1..=lines {
        let key =
            if number % 3 == 0 { String::new() } else { format!("key-of-a-device-{number:09}") };
        let rotate = if number % 5 == 0 { "true" } else { "" };
        text.push_str(&format!("{},{key},{rotate}\n", Uuid::from_u128(number)));
    }
    text
}

#[tokio::test]
async fn a_fleet_is_imported_and_the_same_command_changes_nothing() {
    const LINES: u128 = 1_203;
    let daemon = Daemon::start(Options::default()).await;
    let (file, out) = (write(&daemon, "fleet.csv", &fleet(LINES)), daemon.path("keys.csv"));
    let arguments = ["keys", "import", file.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let dry = told(&daemon, &[&arguments[..], &["--dry-run"]].concat(), "");
    assert_eq!(dry, json!({"lines": LINES, "to_generate": LINES / 3, "dry_run": true}));
    assert!(!out.exists() && keys(&daemon).await.is_empty(), "nothing was written or sent");
    let (code, text, err) = run(&daemon, &arguments, "");
    assert_eq!((code, err.as_str()), (0, ""), "quiet where there is no terminal");
    assert!(text.starts_with("registered: 1203\nregistered before: 0\nrefused: 0\n"), "{text}");
    // The generated keys are there for their owner alone, and good.
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o7777, 0o600);
    let generated = fs::read_to_string(&out).unwrap();
    let lines: Vec<_> = generated.lines().collect();
    assert_eq!((lines[0], lines.len() as u128), ("key,identifier,rotate", 1 + LINES / 3));
    let fields: Vec<_> = lines[5].split(',').collect();
    assert_eq!(fields[1..], [Uuid::from_u128(15).to_string(), "true".into()]);
    let (jwt, _) = daemon.authenticate(fields[0], Uuid::from_u128(15)).await;
    assert_eq!(claims(&jwt)["identifier"], fields[1]);
    let (jwt, _) = daemon.authenticate("key-of-a-device-000000007", Uuid::nil()).await;
    assert_eq!(claims(&jwt)["identifier"], Uuid::from_u128(7).to_string());
    let found = keys(&daemon).await;
    assert_eq!(found.len() as u128, LINES);
    assert_eq!(found.iter().filter(|key| key["rotates"] == true).count() as u128, LINES / 5);
    // An event for each key, and no key.
    let log = daemon.log();
    let registered = |line: &&String| line.contains("register_key") && line.contains("\"ok\"");
    assert_eq!(log.iter().filter(registered).count() as u128, LINES);
    assert!(!log.iter().any(|line| line.contains("key-of-a-device") || line.contains(fields[0])));
    // Once more, with the keys that were generated then.
    let again = told(&daemon, &arguments, "");
    let counts = json!({"lines": LINES, "registered": 0, "known": LINES, "refused": 0,
        "complete": true, "out": out});
    assert_eq!(again, counts);
    assert_eq!(fs::read_to_string(&out).unwrap(), generated);
    assert_eq!(keys(&daemon).await.len() as u128, LINES);
    // The file of generated keys is one that can be imported, here through a pipe.
    let (code, text, err) = run(&daemon, &["keys", "import", "-"], &generated);
    assert_eq!(code, 0, "{err}");
    assert!(text.contains("registered before: 401\n"), "{text}");
}

#[tokio::test]
async fn lines_that_cannot_be_registered_are_named_and_all_others_are() {
    let daemon = Daemon::start(Options::default()).await;
    daemon.register("a key of another client", V).await;
    daemon.register("a key that was revoked", U).await;
    let (code, _, err) =
        run(&daemon, &["keys", "revoke", "--key-file", "-"], "a key that was revoked");
    assert_eq!(code, 0, "{err}");
    let before = keys(&daemon).await;
    let text = format!(
        "key,identifier,rotate\nfirst,{U},\na key of another client,{U},true\nsecond,{U},\n\
         a key that was revoked,{U},true\nsecond,{V},\nfirst,{U},true\n"
    );
    let file = write(&daemon, "fleet.csv", &text);
    let (code, out, err) = run(&daemon, &["keys", "import", file.to_str().unwrap()], "");
    assert_eq!(code, 3, "{out} {err}");
    assert_eq!(out, "registered: 2\nregistered before: 1\nrefused: 3\n");
    let lines: Vec<_> = err.lines().collect();
    assert_eq!(lines.len(), 3, "{err}");
    for (line, number, why) in [
        (lines[0], 3, "another identifier, which stays so"),
        (lines[1], 5, "revoked, which is for good"),
        (lines[2], 6, "another identifier, which stays so"),
    ] {
        let place = format!("jwtunnel: {}: line {number}, column key: ", file.display());
        assert!(line.starts_with(&place) && line.contains(why), "{line}");
        assert!(line.contains("give this client another key"), "{line}");
    }
    // What was refused is as it was.
    let after = keys(&daemon).await;
    assert_eq!((after.len(), &after[..2]), (4, &before[..]));
    for key in &after[2..] {
        assert_eq!((&key["identifier"], &key["state"]), (&json!(U), &json!("valid")));
    }
    assert_eq!(
        after.iter().filter(|key| key["rotates"] == true).count(),
        1,
        "`first`, by its last line"
    );
    let events = daemon.events();
    let denied: Vec<_> = events
        .iter()
        .filter(|line| line["event"] == "register_key" && line["outcome"] == "denied")
        .map(|line| line["reason"].as_str().unwrap())
        .collect();
    assert_eq!(denied, ["another identifier", "revoked", "another identifier"]);
}

#[tokio::test]
async fn nothing_is_sent_when_a_line_is_wrong_and_every_such_line_is_named() {
    let daemon = Daemon::start(Options::default()).await;
    let good = format!("key,identifier\nk,{U}\n");
    let (file, other) = (daemon.path("fleet.csv"), daemon.path("other.csv"));
    let (file, other) = (file.to_str().unwrap(), other.to_str().unwrap());
    fs::write(other, format!("key,identifier,rotate\nk,{V},false\n")).unwrap();
    fs::set_permissions(other, fs::Permissions::from_mode(0o600)).unwrap();
    let public = daemon.path("public.csv");
    fs::write(&public, "key,identifier,rotate\n").unwrap();
    fs::set_permissions(&public, fs::Permissions::from_mode(0o640)).unwrap();
    let public = public.to_str().unwrap();
    let missing = daemon.path("missing/keys.csv");
    let cases: [(String, &[&str], &[&str]); 8] = [
        (
            format!("{good}k,{U},x\nk,someone\n ,{U}\n"),
            &[file],
            &[
                "fleet.csv: line 3: there are 3 fields",
                "line 4, column identifier: \"someone\"; expected",
                "line 5, column key: white space",
                "3 lines are wrong; nothing was sent",
            ],
        ),
        ("key;identifier\n".into(), &[file], &["line 1: \"key;identifier\" is no column"]),
        (String::new(), &[file], &["line 1, column key: missing"]),
        (
            format!("{good},{U}\n,{U}\n"),
            &[file],
            &["line 3, column key: empty", "--out", "1 line is wrong"],
        ),
        (
            format!("{good},{U}\n"),
            &[file, "--out", other],
            &["other.csv: the file exists", "line 3"],
        ),
        (good.clone(), &[file, "--out", other], &["more keys than there are lines"]),
        (format!("{good},{U}\n"), &[file, "--out", public], &["mode 0640", "chmod 600"]),
        (good.clone(), &["/nonexistent.csv"], &["/nonexistent.csv: cannot be read: No such file"]),
    ];
    for (text, arguments, wanted) in cases {
        fs::write(file, &text).unwrap();
        let (code, out, err) = run(&daemon, &[&["keys", "import"], arguments].concat(), "");
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {err}");
        for wanted in wanted {
            assert!(err.contains(wanted), "{arguments:?}: {wanted:?} is not in {err}");
        }
    }
    // A fault is no mistake: nothing was sent either.
    fs::write(file, format!("{good},{U}\n")).unwrap();
    let (code, _, err) =
        run(&daemon, &["keys", "import", file, "--out", missing.to_str().unwrap()], "");
    assert!(code == 1 && err.contains("cannot write the generated keys"), "{err}");
    assert!(keys(&daemon).await.is_empty());
    // Without a daemon there the file is right, and the command goes on when there is one.
    fs::write(file, good).unwrap();
    let (code, out, err) =
        jwtunnel(&["keys", "import", file, "--server", "http://127.0.0.1:9"], "");
    assert_eq!((code, out.as_str()), (1, "registered: 0\nregistered before: 0\nrefused: 0\n"));
    assert!(
        err.contains("0 of 1 lines are done") && err.contains("the same command goes on"),
        "{err}"
    );
    assert!(err.contains("cannot talk to jwtunneld at http://127.0.0.1:9"), "{err}");
}

/// rel:F1 at the size of a test: whenever an import ends, each line is registered or not, and it goes on.
#[tokio::test]
async fn an_interrupted_import_says_so_and_goes_on() {
    const LINES: u128 = 6_000;
    let mut daemon = Daemon::start(Options::default()).await;
    let (file, out) = (write(&daemon, "fleet.csv", &fleet(LINES)), daemon.path("keys.csv"));
    let arguments = ["keys", "import", file.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let server = format!("http://{}", daemon.internal);
    let mut import = Command::new(env!("CARGO_BIN_EXE_jwtunnel"))
        .args(arguments)
        .args(["--server", &server])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    daemon.wait_for(|line| line["event"] == "register_key").await;
    // The daemon holds still, so the import cannot be over before the signal comes.
    daemon.signal("STOP");
    let pid = import.id().to_string();
    assert!(Command::new("kill").args(["-s", "INT", &pid]).status().unwrap().success());
    let deadline = Instant::now() + PATIENCE;
    while import.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "the import does not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    daemon.signal("CONT");
    let output = import.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{err}");
    assert!(err.contains("jwtunnel: interrupted: "), "{err}");
    assert!(err.contains("no line is half done; the same command goes on"), "{err}");
    let generated = fs::read_to_string(&out).unwrap();
    let done = keys(&daemon).await.len();
    assert!(done > 0 && done % 500 == 0, "whole batches: {done}");
    let rest = told(&daemon, &arguments, "");
    assert_eq!((&rest["refused"], &rest["complete"]), (&json!(0), &json!(true)));
    let (new, known) = (rest["registered"].as_u64().unwrap(), rest["known"].as_u64().unwrap());
    assert_eq!(u128::from(new + known), LINES);
    assert!(known >= done as u64, "{rest}");
    assert_eq!(keys(&daemon).await.len() as u128, LINES);
    assert_eq!(fs::read_to_string(&out).unwrap(), generated, "no key was made twice");
}

#[tokio::test]
async fn a_batch_is_checked_as_a_whole_before_anything_is_registered() {
    let daemon = Daemon::start(Options::issuer("body_limit = \"1k\"")).await;
    let body =
        json!({"keys": [{"key": "K", "identifier": U}, {"key": 1, "identifier": "x", "y": 0}, 5]});
    daemon.post_internal("/register_keys", body.to_string()).await.is(
        400,
        json!({"keys.1.key": ["Not a valid string."], "keys.1.identifier": ["Not a valid UUID."],
            "keys.1.y": ["Unknown field."], "keys.2": ["Invalid input type."]}),
    );
    let many: Vec<_> =
        (0..1_001).map(|n| json!({"key": format!("k{n}"), "identifier": U})).collect();
    let body = json!({"keys": many}).to_string();
    daemon
        .post_internal("/register_keys", body)
        .await
        .is(400, json!({"keys": ["Longer than maximum length."]}));
    assert!(keys(&daemon).await.is_empty());
    // A batch is larger than `body_limit`, which is for clients.
    let body = json!({"keys": many[..1_000]}).to_string();
    let answer = daemon.post_internal("/register_keys", body).await;
    assert_eq!(answer.json()["outcomes"].as_array().unwrap().len(), 1_000);
    daemon.post_internal("/register_keys", "{\"keys\":[]}").await.is(200, json!({"outcomes": []}));
    let answer = daemon.post("/register_keys", "{\"keys\":[]}").await;
    assert_eq!(answer.status, 404, "not on the public listener");
}

#[tokio::test]
async fn a_key_is_shown_with_all_that_became_of_it_and_never_itself() {
    let daemon = Daemon::start(Options::default()).await;
    let (jwt, _) = daemon.tokens("K", U).await;
    daemon.authenticate("K", U).await;
    daemon.register("L", V).await;
    let (kid, id) = (header(&jwt)["kid"].clone(), claims(&jwt)["key"].clone());
    let (kid, id) = (kid.as_str().unwrap(), id.as_str().unwrap());
    let signing = told(&daemon, &["keys", "show"], "");
    assert_eq!(signing["keys"], json!([]));
    let key = &signing["signing_keys"][0];
    assert_eq!(
        (&key["kid"], &key["state"], &key["algorithm"]),
        (&json!(kid), &json!("signing"), &json!("RS256"))
    );
    assert_eq!(told(&daemon, &["keys", "show", kid], "")["signing_keys"], signing["signing_keys"]);
    // The same key by its three names.
    let shown = told(&daemon, &["keys", "show", id], "");
    let identifier = U.to_string();
    assert_eq!(told(&daemon, &["keys", "show", &identifier], ""), shown);
    assert_eq!(told(&daemon, &["keys", "show", "--key-file", "-"], "K\n"), shown);
    let key = &shown["keys"][0];
    let life = key["expires_at"].as_i64().unwrap() - key["created"].as_i64().unwrap();
    assert_eq!(life, 120 * 86_400);
    assert_eq!(
        (
            &key["key_id"],
            &key["identifier"],
            &key["state"],
            &key["refresh_tokens"],
            &key["revoked_at"]
        ),
        (&json!(id), &json!(U), &json!("valid"), &json!(2), &Value::Null)
    );
    assert_eq!((&shown["refused"], shown["keys"].as_array().unwrap().len()), (&json!([]), 1));
    let (code, _, err) = run(&daemon, &["keys", "revoke", "--key-id", id], "");
    assert_eq!(code, 0, "{err}");
    let shown = told(&daemon, &["keys", "show", id], "");
    let key = &shown["keys"][0];
    assert_eq!((&key["state"], &key["refresh_tokens"]), (&json!("revoked"), &json!(0)));
    assert_eq!(key["revoked_at"], key["expires_at"]);
    let refused = &shown["refused"][0];
    assert_eq!((&refused["by"], &refused["value"]), (&json!("key"), &json!(id)));
    // For people.
    let (code, text, _) = run(&daemon, &["keys", "show", id], "");
    assert_eq!(code, 0);
    for line in [
        "state            revoked",
        "refresh tokens   none alive",
        "tokens refused   all",
        "by               key ",
    ] {
        assert!(text.contains(line), "{line:?} is not in {text}");
    }
    let (_, text, _) = run(&daemon, &["keys", "show"], "");
    assert!(
        text.contains(&format!("signing key      {kid}\nstate            signing\n")),
        "{text}"
    );
    for (arguments, wanted) in [
        (vec!["keys", "show", "nobody"], "is called nobody"),
        (vec!["keys", "show", "--key-file", "-"], "no such key is registered"),
    ] {
        let (code, out, err) = run(&daemon, &arguments, "Z");
        assert_eq!((code, out.as_str()), (1, ""));
        assert!(err.contains(wanted), "{err}");
    }
}

#[tokio::test]
async fn expired_keys_are_pruned_once_nothing_of_theirs_is_alive() {
    let issuer = "key_lifetime = \"1s\"\njwt_lifetime = \"60s\"";
    let daemon = Daemon::start(Options::issuer(issuer)).await;
    daemon.register("idle", U).await;
    daemon.tokens("refreshing", U).await;
    daemon.register("revoked", V).await;
    run(&daemon, &["keys", "revoke", "--key-file", "-"], "revoked");
    let prune = |more: &[&'static str]| [&["keys", "prune", "--older-than", "0s"], more].concat();
    let deadline = Instant::now() + PATIENCE;
    while keys(&daemon).await.iter().any(|key| key["state"] == "valid") {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(
        told(&daemon, &["keys", "prune", "--dry-run"], "")["keys"],
        0,
        "30 days are the default"
    );
    assert_eq!(told(&daemon, &prune(&["--dry-run"]), ""), json!({"keys": 1, "dry_run": true}));
    let (code, out, err) = run(&daemon, &prune(&[]), "y\n");
    assert_eq!((code, out.as_str()), (2, ""), "no terminal to ask on");
    assert!(err.contains("--yes") && err.contains("--dry-run"), "{err}");
    assert_eq!(keys(&daemon).await.len(), 3);
    let (code, out, err) = run(&daemon, &prune(&["--yes"]), "");
    assert_eq!((code, out.as_str(), err.as_str()), (0, "keys deleted: 1\n", ""));
    let events = daemon.events();
    let events: Vec<_> = events.iter().filter(|line| line["event"] == "prune_key").collect();
    assert_eq!((events.len(), &events[0]["reason"]), (1, &json!("expired")));
    assert_eq!((&events[0]["ident"], events[0]["key_fp"].as_str().unwrap().len()), (&json!(U), 12));
    // Whose refresh token is alive goes on; who was revoked stays so.
    let registered = async |key: &str| {
        let answer =
            daemon.post_internal("/is_key_registered", json!({"key": key}).to_string()).await;
        answer.json()["result"] == true
    };
    assert!(
        !registered("idle").await && registered("refreshing").await && registered("revoked").await
    );
    assert_eq!(told(&daemon, &prune(&["--yes"]), "")["keys"], 0);
    assert_eq!(told(&daemon, &prune(&["--revoked", "--yes"]), "")["keys"], 1);
    daemon.register("revoked", U).await;
    // Where a refresh token ends with its key, nothing of an expired key is alive.
    let issuer = format!("{issuer}\nrefresh_requires_live_key = true");
    let database = daemon.database();
    let options = Options { database, ..Options::issuer(&issuer) };
    let daemon = Daemon::start_in(daemon.stop().await, options).await;
    let pruned = told(&daemon, &prune(&["--yes"]), "")["keys"].as_u64().unwrap();
    assert!((1..=2).contains(&pruned), "`refreshing`, and perhaps `revoked`");
    let answer = daemon.post_internal("/is_key_registered", "{\"key\":\"refreshing\"}").await;
    assert_eq!(answer.json()["result"], false);
}

#[tokio::test]
async fn keys_are_pruned_in_small_steps_until_none_is_left() {
    let daemon = Daemon::start(Options::issuer("key_lifetime = \"1s\"")).await;
    let text: String = (0..450).map(|n| format!("k{n},{U}\n")).collect();
    let (code, _, err) = run(&daemon, &["keys", "import", "-"], &format!("key,identifier\n{text}"));
    assert_eq!(code, 0, "{err}");
    let deadline = Instant::now() + PATIENCE;
    while told(&daemon, &["keys", "prune", "--older-than", "0s", "--dry-run"], "")["keys"] != 450 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(told(&daemon, &["keys", "prune", "--older-than", "0s", "--yes"], "")["keys"], 450);
    assert!(keys(&daemon).await.is_empty());
}

#[tokio::test]
async fn a_terminal_shows_a_bar_and_is_asked_before_keys_are_deleted() {
    let daemon = Daemon::start(Options::issuer("key_lifetime = \"1s\"")).await;
    let file = write(&daemon, "fleet.csv", &format!("key,identifier\na,{U}\nb,{U}\n"));
    let (code, seen) = on_terminal(&daemon, &format!("keys import {}", file.display()), "");
    assert_eq!(code, 0, "{seen}");
    let bar = format!("\r\u{1b}[K[{}] 0 of 2 lines, 0 %\r\u{1b}[K", " ".repeat(30));
    assert!(seen.contains(&bar) && seen.contains("registered: 2"), "{seen:?}");
    let prune = ["keys", "prune", "--older-than", "0s", "--dry-run"];
    let deadline = Instant::now() + PATIENCE;
    while told(&daemon, &prune, "")["keys"] != 2 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for (answer, code, left) in [("\n", 1, 2), ("n\n", 1, 2), ("y\n", 0, 0)] {
        let (ended, seen) = on_terminal(&daemon, "keys prune --older-than 0s", answer);
        assert_eq!(ended, code, "{seen}");
        assert!(seen.contains("Delete 2 keys and their refresh tokens, for good? [y/N]"), "{seen}");
        assert_eq!(seen.contains("nothing was deleted"), code == 1, "{seen}");
        assert_eq!(keys(&daemon).await.len(), left);
    }
}

/// The rotation holds, and must not be done once more: the answer says what is left, by which command.
#[tokio::test]
async fn an_emergency_whose_revocation_fails_says_what_holds_and_what_is_left() {
    let daemon = Daemon::start(Options::default()).await;
    let revoked = daemon.path("public/revoked.json");
    let hide = "ALTER TABLE jwtunnel_revocations RENAME TO away";
    let show = "ALTER TABLE away RENAME TO jwtunnel_revocations";
    for is_file in [true, false] {
        let (jwt, _) = daemon.tokens("K", U).await;
        let old = header(&jwt)["kid"].as_str().unwrap().to_owned();
        if is_file {
            // Also for root: a folder is not replaced by a file.
            fs::remove_file(&revoked).unwrap();
            fs::create_dir(&revoked).unwrap();
        } else {
            sql(&daemon, hide).await;
        }
        let (code, out, err) = run(&daemon, &["keys", "rotate", "--emergency", "--json"], "");
        assert_eq!(code, 3, "{err}");
        let answer: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((&answer["dropped"], &answer["tunnels_open"]), (&json!([old]), &json!([old])));
        let command = format!("  jwtunnel token revoke --kid {old}");
        assert!(err.contains("the rotation holds and must not be repeated"), "{err}");
        assert_eq!(err.lines().last(), Some(command.as_str()));
        // It does hold.
        assert_eq!(daemon.validate(&jwt).await.status, 401);
        let (jwt, _) = daemon.authenticate("K", U).await;
        assert_eq!(header(&jwt)["kid"], answer["kid"]);
        assert_eq!(daemon.validate(&jwt).await.status, 200);
        if is_file {
            fs::remove_dir(&revoked).unwrap();
        } else {
            sql(&daemon, show).await;
        }
        let arguments: Vec<_> = command.split_whitespace().skip(1).collect();
        let (code, _, err) = run(&daemon, &arguments, "");
        assert_eq!(code, 0, "{err}");
        let file: Value = serde_json::from_slice(&fs::read(&revoked).unwrap()).unwrap();
        assert!(file["kid"][&old].is_i64(), "{file}");
        let shown = told(&daemon, &["keys", "show", &old], "");
        assert_eq!(
            (&shown["signing_keys"], &shown["refused"][0]["by"]),
            (&json!([]), &json!("kid"))
        );
    }
}
