//! Faults that the issuer meets (rel:F1, F9, F11, F14), with nginx as the judge of its tokens.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use system_tests::{Client, Daemon, Gateway, NginxBuilder, ask, built, get, size, within};

/// The daemon with variables of its environment, behind nginx.
fn gateway(environment: &[(&str, &str)]) -> Gateway {
    let daemon = Daemon::start_with("", environment);
    let jwks = daemon.scratch().join("data/public/jwks.json");
    let nginx = NginxBuilder::new().daemon(daemon.netunnel_port(), daemon.public(), jwks).start();
    Gateway { nginx, daemon }
}

fn rotate(daemon: &Daemon, how: &str) -> Output {
    Command::new(built("jwtunnel"))
        .args(["keys", "rotate", how, "--server", &daemon.internal("")])
        .output()
        .expect("jwtunnel")
}

/// A token straight from the daemon, if it gives one now.
fn token(daemon: &Daemon, client: &Client) -> Option<String> {
    let body = json!({"key": client.key, "identifier": client.identifier}).to_string();
    let url = format!("http://{}/authenticate", daemon.public().address());
    let answer = ask("POST", &url, &[], Some(&body));
    assert!(matches!(answer.status, 200 | 503), "{answer:?}");
    let answer: Value = serde_json::from_str(&answer.body).expect("JSON");
    answer["jwt"].as_str().map(str::to_owned)
}

fn kid(token: &str) -> String {
    jsonwebtoken::decode_header(token).expect("a header").kid.expect("a kid")
}

/// The kids of a JWKS file, which must be whole and hold nothing private.
fn published(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).expect("the JWKS file");
    let set: Value = serde_json::from_str(&text).expect("a whole JWKS file");
    let keys = set["keys"].as_array().expect("keys");
    for key in keys {
        for private in ["d", "p", "q", "dp", "dq", "qi", "k"] {
            assert!(key.get(private).is_none(), "{private} is public");
        }
    }
    keys.iter().map(|key| key["kid"].as_str().expect("a kid").to_owned()).collect()
}

/// rel:F1: killed at any moment of a rotation, the daemon leaves a whole JWKS file with the key of every token, and the
/// next one goes on from there.
#[test]
fn f1_killed_while_keys_rotate_no_token_loses_its_key() {
    let kills: u64 = size(25, 500);
    let mut gateway = gateway(&[
        ("JWTUNNEL_KEYS_ALGORITHM", "ES256"),
        ("JWTUNNEL_JWTHENTICATOR_JWT_LIFETIME", "60s"),
        ("JWTUNNEL_KEYS_ROTATE_EVERY", "2s"),
        ("JWTUNNEL_KEYS_ANNOUNCE_FOR", "1s"),
    ]);
    let file = gateway.daemon.scratch().join("data/public/jwks.json");
    let client = gateway.daemon.register();
    // One token of each key, with the time at which it expires.
    let mut ledger: BTreeMap<String, (String, Instant)> = BTreeMap::new();
    for kill in 0..kills {
        let issued =
            token(&gateway.daemon, &client).expect("a token of the daemon that just started");
        let expires = Instant::now() + Duration::from_secs(60);
        ledger.entry(kid(&issued)).or_insert((issued, expires));
        // Steps are due at whole seconds of each key's life: every moment of two seconds gets its turn.
        thread::sleep(Duration::from_millis(kill * 811 % 2_000));
        gateway.daemon.process().signal("KILL");
        let _ = gateway.daemon.process().wait(Duration::from_secs(10));
        let kids = published(&file);
        ledger.retain(|_, (_, expires)| *expires > Instant::now());
        for kid in ledger.keys() {
            assert!(kids.contains(kid), "kill {kill}: a live token's key is not published");
        }
        gateway.daemon.restart();
    }
    assert!(ledger.len() > 5, "keys did not rotate: {}", ledger.len());
    let fresh = token(&gateway.daemon, &client).expect("a token");
    within(Duration::from_secs(5), "nginx knows every key", || {
        let live = ledger.values().filter(|(_, expires)| *expires > Instant::now());
        let known = live
            .map(|(token, _)| token)
            .chain([&fresh])
            .all(|token| gateway.nginx.get_with("/", token).status == 200);
        known.then_some(())
    });
    // Nothing of the killed ones is left beside the files.
    for folder in ["data/public", "data/keys"] {
        for entry in fs::read_dir(gateway.daemon.scratch().join(folder)).expect("the folder") {
            let name = entry.expect("an entry").file_name().into_string().expect("a name");
            assert!(
                name.ends_with(".json") || name.ends_with(".pem"),
                "{folder}/{name} was left behind"
            );
        }
    }
}

/// rel:F9 through nginx: while keys rotate every ten seconds, no token is refused that has not expired, on any worker,
/// whether it is new or of a key before.
#[test]
fn f9_keys_that_rotate_under_load_cost_no_request() {
    let rotations = size(3, 180);
    let gateway = gateway(&[
        ("JWTUNNEL_JWTHENTICATOR_JWT_LIFETIME", "300s"),
        ("JWTUNNEL_KEYS_ROTATE_EVERY", "10s"),
        // Three looks of nginx.
        ("JWTUNNEL_KEYS_ANNOUNCE_FOR", "3s"),
    ]);
    let client = gateway.daemon.register();
    // One token of each key, until it expires.
    let tokens = Mutex::new(BTreeMap::new());
    let refused = Mutex::new(Vec::new());
    let (done, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let ask = |token: &str| {
        let answer = gateway.nginx.get_with("/", token);
        asked.fetch_add(1, Ordering::Relaxed);
        if answer.status != 200 {
            refused.lock().expect("refused").push((answer.status, kid(token)));
        }
    };
    let mut kids = BTreeSet::new();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let known: Vec<String> =
                        tokens.lock().expect("tokens").values().cloned().collect();
                    known.iter().for_each(|token| ask(token));
                }
            });
        }
        // Each token is used at once, as the client of a new key does. Ends in any case, for the scope waits for the rest.
        let deadline = Instant::now() + Duration::from_secs(size(90, 2_400));
        while kids.len() <= rotations && Instant::now() < deadline {
            let token = gateway.token(&client);
            ask(&token);
            let now = Instant::now();
            let mut tokens = tokens.lock().expect("tokens");
            // Some seconds before they expire, which is nobody's fault.
            tokens.retain(|issued: &Instant, _| now - *issued < Duration::from_secs(280));
            if kids.insert(kid(&token)) {
                tokens.insert(now, token);
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    let refused = refused.into_inner().expect("refused");
    assert!(refused.is_empty(), "{} of {asked:?}: {refused:?}", refused.len());
    assert!(kids.len() > rotations, "the keys did not rotate");
}

/// Another process that keeps an SQLite database locked for writing until it is dropped.
struct Lock(Child);

impl Lock {
    fn on(database: &Path) -> Self {
        use std::io::{BufRead, BufReader};
        let script = "import sqlite3, sys, time\n\
            c = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
            c.execute('BEGIN EXCLUSIVE')\nprint('locked', flush=True)\ntime.sleep(120)\n";
        let mut child = Command::new("python3")
            .args(["-c", script])
            .arg(database)
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let mut line = String::new();
        let output = child.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("a line");
        assert_eq!(line, "locked\n");
        Self(child)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// rel:F11: while another process has the database locked, clients get 503 and keep their credentials, and what needs no
/// database goes on.
#[test]
fn f11_a_locked_database_is_nobodys_fault_but_ours() {
    let gateway = Gateway::start();
    let client = gateway.daemon.register();
    let issued = gateway.token(&client);
    let public = format!("http://{}", gateway.daemon.public().address());
    let login = json!({"key": client.key, "identifier": client.identifier}).to_string();
    let lock = Lock::on(&gateway.daemon.scratch().join("data/jwtunnel.db"));
    let answers: Vec<_> = thread::scope(|scope| {
        let waiting: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| ask("POST", &format!("{public}/authenticate"), &[], Some(&login)))
            })
            .collect();
        // Meanwhile.
        let jwt = json!({"jwt": issued}).to_string();
        assert_eq!(ask("POST", &format!("{public}/validate"), &[], Some(&jwt)).status, 200);
        assert_eq!(get(&format!("{public}/jwks"), &[]).status, 200);
        assert_eq!(get(&format!("{public}/health"), &[]).status, 200);
        assert_eq!(gateway.nginx.get_with("/", &issued).status, 200);
        let bearer = format!("Bearer {issued}");
        assert_eq!(get(&gateway.netunnel("/version"), &[("authorization", &bearer)]).status, 200);
        waiting.into_iter().map(|thread| thread.join().expect("an answer")).collect()
    });
    for answer in &answers {
        assert_eq!((answer.status, answer.body.as_str()), (503, "{}"), "{answer:?}");
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
    }
    drop(lock);
    let answer = ask("POST", &format!("{public}/authenticate"), &[], Some(&login));
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// A file system of this size in a folder, gone with the value. It takes root.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn on(folder: PathBuf, pages: usize) -> Self {
        fs::create_dir(&folder).expect("a folder");
        let size = format!("size={},mode=0755", pages * PAGE);
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(&folder)
            .status()
            .expect("mount");
        assert!(mounted.success(), "{} is not mounted", folder.display());
        Self(folder)
    }

    /// Leaves room for so many pages.
    fn fill(&self, left: usize) {
        let file = self.0.join("ballast");
        let _ = fs::remove_file(&file);
        // Until nothing fits, then as much less.
        let mut content = vec![0; PAGE];
        while fs::write(&file, &content).is_ok() {
            content.resize(content.len() + PAGE, 0);
        }
        let most = content.len() / PAGE - 1;
        assert!(most > left, "the disk has only {most} pages");
        fs::write(&file, vec![0; (most - left) * PAGE]).expect("it did fit");
    }

    fn free(&self) {
        fs::remove_file(self.0.join("ballast")).expect("the ballast");
    }
}

/// What tmpfs gives out.
const PAGE: usize = 4_096;

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the daemon and nginx may still have it open.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// rel:F14: a rotation for which the disk has no room changes nothing, wherever it fails, and is said; with room again it
/// works.
#[test]
fn f14_a_full_disk_costs_a_rotation_and_nothing_else() {
    let place = system_tests::Scratch::new();
    let disk = SmallDisk::on(place.join("small"), 64);
    let path = |name: &str| place.join(&format!("small/{name}")).display().to_string();
    let (keys, jwks, revoked) =
        (path("keys"), path("public/jwks.json"), path("public/revoked.json"));
    // Made here, so that nginx's container finds the folder.
    fs::create_dir(path("public")).expect("a folder");
    fs::set_permissions(path("public"), fs::Permissions::from_mode(0o755)).expect("its mode");
    let daemon = Daemon::start_with(
        "",
        &[
            ("JWTUNNEL_KEYS_DIRECTORY", &keys),
            ("JWTUNNEL_JWKS_FILE", &jwks),
            ("JWTUNNEL_JWKS_REVOCATION_FILE", &revoked),
        ],
    );
    let nginx = NginxBuilder::new()
        .daemon(daemon.netunnel_port(), daemon.public(), PathBuf::from(&jwks))
        .start();
    let gateway = Gateway { nginx, daemon };
    let client = gateway.daemon.register();
    let first = gateway.token(&client);
    let files = || {
        let mut all: Vec<(PathBuf, Vec<u8>)> = [&keys, &path("public")]
            .into_iter()
            .flat_map(|folder| fs::read_dir(folder).expect("the folder"))
            .map(|entry| entry.expect("an entry").path())
            .map(|path| (path.clone(), fs::read(path).expect("the file")))
            .collect();
        all.sort();
        all
    };
    let (mut failed, mut rotated) = (0, 0);
    for left in 0..8 {
        let before = files();
        disk.fill(left);
        let output = rotate(&gateway.daemon, "--emergency");
        if output.status.success() {
            rotated += 1;
        } else {
            failed += 1;
            assert_eq!(files(), before, "{left} pages: a failed rotation has left something");
        }
        // What signs is published, whatever happened.
        let issued = token(&gateway.daemon, &client).expect("a token");
        assert!(published(Path::new(&jwks)).contains(&kid(&issued)));
        if rotated == 0 {
            assert_eq!(kid(&issued), kid(&first));
            assert_eq!(gateway.nginx.get_with("/", &issued).status, 200);
        }
        disk.free();
    }
    assert!(failed >= 2 && rotated >= 1, "{failed} rotations failed, {rotated} did not");
    let log = gateway.daemon.log();
    assert!(log.contains("\"reason\":\"disk_full\""), "{log}");
    assert!(log.contains("No space left on device"), "{log}");
    let output = rotate(&gateway.daemon, "--emergency");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let issued = token(&gateway.daemon, &client).expect("a token");
    within(Duration::from_secs(10), "nginx knows the new key", || {
        (gateway.nginx.get_with("/", &issued).status == 200).then_some(())
    });
}
