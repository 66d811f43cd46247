//! Another issuer's tokens at nginx: its keys come through the daemon's file, and are followed there.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use system_tests::key_server::{KeyServer, ok};
use system_tests::{
    Daemon, NginxBuilder, Scratch, SigningKey, built, get, jwks, now, repository, within,
};

/// Issue 4, part 4: from the issuer's server to a worker's decision, through its rotation and its absence.
#[test]
fn nginx_follows_another_issuers_keys_through_the_daemons_file() {
    let (first, second) = (SigningKey::generate("1"), SigningKey::generate("2"));
    let server = KeyServer::of(&jwks(&[&first]));
    let mut daemon = Daemon::start(&format!(
        "[[jwks.remote]]\nname = \"corp\"\nurl = \"http://{}/jwks\"\nrefresh = \"10s\"\n",
        server.address()
    ));
    let public = daemon.scratch().join("data/public").display().to_string();
    let nginx = NginxBuilder::bare(&format!(
        "server {{ listen LISTEN;
           auth_jwt_issuer https://corp.example key_file={public}/corp.json optional audience=api;
           auth_jwt_issuer https://gateway.example key_file={public}/jwks.json optional;
           location / {{ auth_jwt x; proxy_pass http://SERVICE; }} }}"
    ))
    // A container sees the folder of the daemon's file.
    .daemon(daemon.netunnel_port(), daemon.public(), daemon.scratch().join("data/public/jwks.json"))
    .start();
    let token = |key: &SigningKey, audience: &str| {
        let claims = json!({"iss": "https://corp.example", "aud": audience, "exp": now() + 300});
        key.sign(&claims)
    };
    let settles = |what: &str, key: &SigningKey, status: u16| {
        let token = token(key, "api");
        within(Duration::from_secs(20), what, || {
            (0..8).all(|_| nginx.get_with("/", &token).status == status).then_some(())
        });
    };
    settles("its keys are there", &first, 200);
    assert_eq!(nginx.get_with("/", &token(&first, "wiki")).status, 401, "another audience");
    assert_eq!(nginx.get_with("/", &token(&second, "api")).status, 401, "no key of it yet");

    // A rotation: first both keys, then the new one alone. SIGHUP asks at once, the interval would in 10 s.
    server.answer(ok(&jwks(&[&first, &second])));
    daemon.process().signal("HUP");
    settles("the new key is there", &second, 200);
    settles("the old one still is", &first, 200);
    server.answer(ok(&jwks(&[&second])));
    daemon.process().signal("HUP");
    settles("the old key is gone", &first, 401);

    // Nonsense and a restart change nothing.
    let file = daemon.scratch().join("data/public/corp.json");
    let before = fs::read(&file).expect("the file");
    let metrics = |daemon: &Daemon| get(&daemon.internal("/metrics"), &[]).body;
    let told = metrics(&daemon);
    assert!(told.contains("jwtunnel_remote_keys{remote=\"corp\"} 1\n"), "{told}");
    assert!(told.contains("jwtunnel_remote_fetches_total{remote=\"corp\",outcome=\"error\"} 0\n"));
    assert!(!told.contains("jwtunnel_remote_fetches_total{remote=\"corp\",outcome=\"ok\"} 0\n"));
    assert!(!told.contains("jwtunnel_remote_fetched_timestamp_seconds{remote=\"corp\"} 0\n"));
    server.answer(ok("{\"keys\":[]}"));
    daemon.process().signal("HUP");
    within(Duration::from_secs(20), "the daemon has refused it", || {
        daemon.log().contains("it has no usable key").then_some(())
    });
    let told = metrics(&daemon);
    // It tries again meanwhile.
    assert!(told.contains("jwtunnel_remote_fetches_total{remote=\"corp\",outcome=\"error\"} "));
    assert!(!told.contains("jwtunnel_remote_fetches_total{remote=\"corp\",outcome=\"error\"} 0\n"));
    assert!(told.contains("jwtunnel_remote_keys{remote=\"corp\"} 1\n"), "the last good ones count");
    daemon.restart();
    assert_eq!(fs::read(&file).expect("the file"), before);
    settles("the last good key stays", &second, 200);
}

/// The manual's page: nginx and the daemon take what it shows.
#[test]
fn the_examples_of_the_manual_are_accepted() {
    let page = fs::read_to_string(repository().join("docs/remote-keys.md")).expect("the page");
    let block = |language: &str| {
        let (_, rest) = page.split_once(&format!("\n```{language}\n")).expect("an example");
        rest.split_once("\n```\n").expect("its end").0.to_owned()
    };
    let nginx = block("nginx").replace("/var/lib/jwtunnel/public", "DIR/public");
    let check = NginxBuilder::bare(&format!("server {{ listen LISTEN; {nginx} }}")).check();
    assert!(check.accepted, "{}", check.output);
    let scratch = Scratch::new();
    let toml = block("toml").replace("/var/lib/jwtunnel", &scratch.path().display().to_string());
    scratch.replace("jwtunneld.toml", toml.as_bytes());
    let check = Command::new(built("jwtunneld"))
        .args(["--check", "--config"])
        .arg(scratch.join("jwtunneld.toml"))
        .output()
        .expect("jwtunneld");
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    let shown = String::from_utf8(check.stdout).expect("text");
    assert!(!shown.contains("# warning"), "{shown}");
    // Every setting of a table is explained.
    let (_, table) = shown.split_once("[[jwks.remote]]\n").expect("the table");
    for line in table.lines().take_while(|line| !line.starts_with('[')) {
        let (key, _) = line.split_once(" = ").expect("a setting");
        assert!(page.contains(&format!("| `{key}` |")), "the page does not explain {key}");
    }
}
