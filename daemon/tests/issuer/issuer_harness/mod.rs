//! Starts the real `jwtunneld` in a folder of its own, on ports that the system chooses.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]

pub mod original;
pub mod postgres;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

/// Longer than anything takes that works, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The settings under which the examples of the original hold.
pub const AS_ORIGINAL: &str = "identity = \"asserted\"\nstandard_claims = false\n\
    jwt_lifetime = \"90000s\"\nkey_lifetime = \"172800s\"\nrefresh_lifetime = \"86400s\"\n";

/// Whether the examples of this test program run on PostgreSQL, which its name says.
const ON_POSTGRES: bool = {
    let name = env!("CARGO_CRATE_NAME").as_bytes();
    matches!(name, [.., b'_', b'p', b'o', b's', b't', b'g', b'r', b'e', b's'])
};

/// A daemon, stopped and removed at the end of its test.
pub struct Daemon {
    child: Child,
    database: Option<postgres::Database>,
    pub root: tempfile::TempDir,
    lines: Arc<Mutex<Vec<String>>>,
    pub public: String,
    pub internal: String,
    pub client: Client,
}

/// What a daemon is started with.
#[derive(Default)]
pub struct Options {
    /// Lines for section `[jwthenticator]`.
    pub issuer: String,
    /// Further sections.
    pub rest: String,
    pub environment: BTreeMap<String, String>,
    /// Put in front of the command, as in `sh -c 'umask 0; exec "$@"' sh`.
    pub wrapper: Vec<String>,
    /// Leaves the listeners to the environment.
    pub no_listeners: bool,
    /// PostgreSQL instead of a file.
    pub database: Option<postgres::Database>,
}

impl Options {
    pub fn issuer(lines: &str) -> Self {
        Self { issuer: lines.into(), ..Self::default() }
    }

    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }
}

impl Daemon {
    pub async fn start(mut options: Options) -> Self {
        if ON_POSTGRES && options.database.is_none() && !options.issuer.contains("database_url") {
            options.database = Some(postgres::Database::create());
        }
        Self::start_in(tempfile::tempdir().unwrap(), options).await
    }

    /// Starts in a folder that may hold what an earlier daemon left.
    pub async fn start_in(root: tempfile::TempDir, options: Options) -> Self {
        let database = options.database.clone();
        let mut child = command(root.path(), &options).spawn().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let sink = lines.clone();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                sink.lock().unwrap().push(line);
            }
        });
        let client = Client::builder().no_proxy().build().unwrap();
        let mut daemon = Self {
            child,
            database,
            root,
            lines,
            public: String::new(),
            internal: String::new(),
            client,
        };
        daemon.wait_for(|line| line["event"] == "ready").await;
        let address = |name: &str| {
            let lines = daemon.events();
            let line =
                lines.iter().find(|l| l["event"] == "listening" && l["listener"] == name).cloned();
            line.map(|line| line["address"].as_str().unwrap().to_owned())
        };
        let (public, internal) = (address("public").unwrap(), address("internal"));
        let public = public.replace("0.0.0.0", "127.0.0.1");
        daemon.internal = internal.unwrap_or_else(|| public.clone());
        daemon.public = public;
        daemon
    }

    /// The log so far, each line as JSON.
    pub fn events(&self) -> Vec<Value> {
        self.log().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub fn log(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Waits until a line of the log, old or new, satisfies `wanted`.
    pub async fn wait_for(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for line in self.log() {
                let line: Value = serde_json::from_str(&line)
                    .unwrap_or_else(|_| panic!("not a JSON line: {line}"));
                if wanted(&line) {
                    return line;
                }
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the daemon ended with {status}: {:#?}", self.log());
            }
            assert!(Instant::now() < deadline, "no such line in {:#?}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The address of the tunnels' listener.
    pub fn netunnel(&self) -> String {
        let lines = self.events();
        let line = lines.iter().find(|line| line["listener"] == "netunnel").unwrap();
        line["address"].as_str().unwrap().to_owned()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    pub async fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the daemon does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends the daemon and keeps its folder for the next one.
    pub async fn stop(mut self) -> tempfile::TempDir {
        self.signal("TERM");
        assert!(self.wait().await.success());
        std::mem::replace(&mut self.root, tempfile::tempdir().unwrap())
    }

    /// The PostgreSQL that it uses, for the next daemon.
    pub fn database(&self) -> Option<postgres::Database> {
        self.database.clone()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub async fn send(&self, method: Method, host: &str, path: &str) -> Response {
        self.client.request(method, format!("http://{host}{path}")).send().await.unwrap()
    }

    /// POST to the public listener.
    pub async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        self.post_to(&self.public, path, body).await
    }

    /// POST to the internal listener.
    pub async fn post_internal(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        self.post_to(&self.internal, path, body).await
    }

    pub async fn post_to(&self, host: &str, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        let request = self.client.post(format!("http://{host}{path}")).body(body);
        Answer::of(request.send().await.unwrap()).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.send(Method::GET, &self.public, path).await).await
    }

    pub async fn register(&self, key: &str, identifier: Uuid) {
        let body = json!({"key": key, "identifier": identifier}).to_string();
        let answer = self.post_internal("/register_key", body).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
    }

    /// Registers a key whose refresh tokens are used once, as an administrator does.
    pub fn register_rotating(&self, key: &str, identifier: Uuid) {
        let (server, identifier) = (format!("http://{}", self.internal), identifier.to_string());
        let arguments = ["keys", "register", "--rotate", "--key-file", "-", "--identifier"];
        let arguments = [&arguments[..], &[&identifier, "--server", &server]].concat();
        let (code, _, err) = jwtunnel(&arguments, key);
        assert_eq!(code, 0, "{err}");
    }

    /// Registers `key` and authenticates with it: (access token, refresh token).
    pub async fn tokens(&self, key: &str, identifier: Uuid) -> (String, String) {
        self.register(key, identifier).await;
        self.authenticate(key, identifier).await
    }

    pub async fn authenticate(&self, key: &str, identifier: Uuid) -> (String, String) {
        let body = json!({"key": key, "identifier": identifier}).to_string();
        let answer = self.post("/authenticate", body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let text = |name: &str| answer.json()[name].as_str().unwrap().to_owned();
        (text("jwt"), text("refresh_token"))
    }

    pub async fn validate(&self, token: &str) -> Answer {
        self.post("/validate", json!({"jwt": token}).to_string()).await
    }

    pub async fn validate_request(&self, authorization: Option<&str>) -> Answer {
        let mut request = self.client.get(format!("http://{}/validate_request", self.public));
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        Answer::of(request.send().await.unwrap()).await
    }

    /// The private signing key, as PEM.
    pub fn signing_key(&self) -> Vec<u8> {
        let mut keys = std::fs::read_dir(self.path("keys")).unwrap().filter_map(|entry| {
            let path = entry.unwrap().path();
            path.extension().is_some_and(|e| e == "pem").then_some(path)
        });
        std::fs::read(keys.next().unwrap()).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a daemon says that does not start: (exit code, standard error).
pub fn refusal(options: &Options) -> (i32, String) {
    let root = tempfile::tempdir().unwrap();
    let output = command(root.path(), options).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// The command that starts a daemon in `root`.
pub fn command(root: &Path, options: &Options) -> Command {
    let file = root.join("jwtunneld.toml");
    std::fs::write(&file, configuration(root, options)).unwrap();
    let daemon = env!("CARGO_BIN_EXE_jwtunneld").to_owned();
    let mut words = options.wrapper.clone();
    words.extend([daemon, "--config".into(), file.display().to_string()]);
    words.extend(["--log-format".into(), "json".into()]);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).env_clear().envs(&options.environment);
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn configuration(root: &Path, options: &Options) -> String {
    let root = root.display();
    let listeners = if options.no_listeners {
        String::new()
    } else {
        let internal = if options.issuer.contains("internal_listen") {
            ""
        } else {
            "internal_listen = \"127.0.0.1:0\"\n"
        };
        format!("listen = \"127.0.0.1:0\"\n{internal}")
    };
    let database = if options.issuer.contains("database_url") {
        String::new()
    } else if let Some(database) = &options.database {
        format!("database_url = \"{}\"\n", database.url())
    } else {
        format!("database_url = \"sqlite://{root}/t.db\"\n")
    };
    let keys = if options.environment.keys().any(|name| name.starts_with("RSA_")) {
        String::new()
    } else {
        format!("[keys]\ndirectory = \"{root}/keys\"\n")
    };
    format!(
        "[jwthenticator]\n{listeners}{database}{issuer}\n{keys}\
         [jwks]\nfile = \"{root}/public/jwks.json\"\n\
         [netunnel]\nlisten = \"127.0.0.1:0\"\nstate_file = \"{root}/netunnel.json\"\n{rest}\n",
        issuer = options.issuer,
        rest = options.rest,
    )
}

/// A response, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Answer {
    pub async fn of(response: Response) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        Self { status, headers, text: response.text().await.unwrap() }
    }

    pub fn json(&self) -> Value {
        assert_eq!(
            self.headers["content-type"], "application/json; charset=utf-8",
            "{} {}",
            self.status, self.text
        );
        serde_json::from_str(&self.text).unwrap()
    }

    /// Asserts a JSON answer.
    #[track_caller]
    pub fn is(&self, status: u16, body: Value) {
        assert_eq!((self.status.as_u16(), self.json()), (status, body), "{}", self.text);
    }

    /// Asserts a text answer.
    #[track_caller]
    pub fn is_text(&self, status: u16, body: &str) {
        assert_eq!((self.status.as_u16(), self.text.as_str()), (status, body));
        assert_eq!(self.headers["content-type"], "text/plain; charset=utf-8");
    }
}

/// The claims of a token, without any check.
pub fn claims(token: &str) -> Value {
    part(token, 1)
}

/// The header of a token, without any check.
pub fn header(token: &str) -> Value {
    part(token, 0)
}

fn part(token: &str, index: usize) -> Value {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let part = token.split('.').nth(index).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

/// Runs `jwtunnel` with `input` on its standard input: (exit code, stdout, stderr).
pub fn jwtunnel(arguments: &[&str], input: &str) -> (i32, String, String) {
    jwtunnel_in(Path::new("."), arguments, input)
}

/// As [`jwtunnel`], in a folder where it finds and leaves files.
pub fn jwtunnel_in(folder: &Path, arguments: &[&str], input: &str) -> (i32, String, String) {
    use std::io::Write as _;
    let mut child = Command::new(env!("CARGO_BIN_EXE_jwtunnel"))
        .args(arguments)
        .current_dir(folder)
        .env_remove("JWTUNNEL_INTERNAL")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Fails when the program has ended before it reads, which its answer tells.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}
