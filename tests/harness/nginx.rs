//! nginx with the module, under the configuration that ships.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use crate::http::{Answer, get, try_ask};
use crate::poll::eventually;
use crate::ports::Port;
use crate::process::{Process, tail};
use crate::scratch::Scratch;
use crate::setup::{built, image, is_host, say};

/// nginx as it will be started.
#[derive(Debug)]
pub struct NginxBuilder {
    scratch: Scratch,
    listen: Port,
    service: Port,
    netunnel: String,
    jwthenticator: String,
    jwks: PathBuf,
    servers: String,
    edits: Vec<(String, String, String)>,
    /// The main and the http level, instead of the shipped configuration.
    bare: Option<(String, String)>,
}

/// The result of `nginx -t`.
#[derive(Debug)]
pub struct Check {
    /// Whether nginx accepts the configuration.
    pub accepted: bool,
    /// What it says about it.
    pub output: String,
}

impl NginxBuilder {
    /// The shipped configuration. The service behind it is nginx itself, which answers with what it got; the
    /// daemon's listeners are ports where nobody listens, unless they are set.
    #[must_use]
    pub fn new() -> Self {
        let scratch = Scratch::new();
        fs::create_dir(scratch.join("public")).expect("a folder for public files");
        let jwks = scratch.join("public/jwks.json");
        // What the daemon writes beside the keys while nothing is revoked.
        scratch.replace("public/revoked.json", br#"{"version":1}"#);
        Self {
            scratch,
            listen: Port::take(),
            service: Port::take(),
            netunnel: "127.0.0.1:1".to_owned(),
            jwthenticator: "127.0.0.1:1".to_owned(),
            jwks,
            servers: String::new(),
            edits: Vec::new(),
            bare: None,
        }
    }

    /// Nothing but the module and this text in `http {}`, in which LISTEN, SERVICE and DIR mean what they do in
    /// [`NginxBuilder::with`]. Files for it go to DIR/public.
    #[must_use]
    pub fn bare(http: &str) -> Self {
        Self { bare: Some((String::new(), http.to_owned())), ..Self::new() }
    }

    /// Adds text to the main level of a bare configuration, such as `master_process off;`.
    ///
    /// # Panics
    /// If it is the shipped one.
    #[must_use]
    pub fn main_level(mut self, text: &str) -> Self {
        self.bare.as_mut().expect("a bare configuration").0.push_str(text);
        self
    }

    /// Writes a file that nginx reads, to DIR/public.
    #[must_use]
    pub fn file(self, name: &str, text: &str) -> Self {
        self.scratch.replace(&format!("public/{name}"), text.as_bytes());
        self
    }

    /// The daemon's two listeners, and the file that it writes.
    #[must_use]
    pub fn daemon(mut self, netunnel: &Port, jwthenticator: &Port, jwks: PathBuf) -> Self {
        self.netunnel = netunnel.address().to_string();
        self.jwthenticator = jwthenticator.address().to_string();
        self.jwks = jwks;
        self
    }

    /// Writes the JWK Set file.
    #[must_use]
    pub fn jwks(self, text: &str) -> Self {
        self.scratch.replace("public/jwks.json", text.as_bytes());
        self
    }

    /// Changes text of one of the configuration's files.
    #[must_use]
    pub fn edit(mut self, file: &str, old: &str, new: &str) -> Self {
        self.edits.push((file.to_owned(), old.to_owned(), new.to_owned()));
        self
    }

    /// Adds parameters to the `listen` of the shipped server.
    #[must_use]
    pub fn edit_listen(self, parameters: &str) -> Self {
        let old = format!("listen {};", self.listen.address());
        let new = format!("listen {}{parameters};", self.listen.address());
        self.edit("nginx.conf", &old, &new)
    }

    /// Adds text to `http {}`, as a file in conf.d/. In it LISTEN is the address of the shipped server, SERVICE the
    /// one of the service behind it, DIR the folder of the test.
    #[must_use]
    pub fn with(mut self, text: &str) -> Self {
        self.servers.push_str(text);
        self
    }

    /// The folder of the test.
    #[must_use]
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    fn write(&self) {
        let dir = self.scratch.path().display().to_string();
        if let Some((main, http)) = &self.bare {
            return self.write_bare(main, http);
        }
        let mut arguments = vec![
            dir.clone(),
            format!("listen={}", self.listen.address()),
            format!("service={}", self.service.address()),
            format!("netunnel={}", self.netunnel),
            format!("jwthenticator={}", self.jwthenticator),
            format!("jwks={}", self.jwks.display()),
            // Two, so that what one worker knows and another does not would show.
            "workers=2".to_owned(),
            "level=info".to_owned(),
        ];
        if is_host() {
            arguments.push(format!("module={}", built("ngx_http_jwt_module.so").display()));
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        crate::setup::script("nginx-conf.sh", &arguments);
        for (file, old, new) in &self.edits {
            self.swap(file, old, new);
        }
        let text = self.fill(&self.servers);
        self.scratch.replace("conf/conf.d/test.conf", text.as_bytes());
    }

    fn fill(&self, text: &str) -> String {
        text.replace("LISTEN", &self.listen.address().to_string())
            .replace("SERVICE", &self.service.address().to_string())
            .replace("DIR", &self.scratch.path().display().to_string())
    }

    fn write_bare(&self, main: &str, http: &str) {
        for folder in ["conf", "state"] {
            fs::create_dir_all(self.scratch.join(folder)).expect("a folder");
        }
        let module = match is_host() {
            true => built("ngx_http_jwt_module.so").display().to_string(),
            false => "modules/ngx_http_jwt_module.so".to_owned(),
        };
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("    {kind}_temp_path DIR/state/{kind};\n"))
            .concat();
        let http = format!("{http}\n{}", self.servers);
        // The text under test begins on line 2 of a file of its own, as a user's would.
        self.scratch.replace("conf/http.conf", format!("\n{}", self.fill(&http)).as_bytes());
        let user = if !is_host() || is_root() { "user www-data;" } else { "" };
        let text = format!(
            "load_module {module};\n{user}\nworker_processes 2;\npid DIR/state/nginx.pid;\n\
             error_log DIR/state/error.log info;\n{main}\nevents {{ worker_connections 1024; }}\n\
             http {{\n    access_log DIR/state/access.log;\n{temp}    include http.conf;\n}}\n"
        );
        self.scratch.replace("conf/nginx.conf", self.fill(&text).as_bytes());
    }

    fn swap(&self, file: &str, old: &str, new: &str) {
        let path = self.scratch.join("conf").join(file);
        let text = fs::read_to_string(&path).expect("a file of the configuration");
        assert!(text.contains(old), "{file} has no {old:?}");
        fs::write(path, text.replace(old, new)).expect("the changed file");
    }

    /// `nginx -t`.
    ///
    /// # Panics
    /// If nginx can't be run.
    #[must_use]
    pub fn check(self) -> Check {
        self.write();
        let name = container_name(&self.scratch);
        let output = self.command(&name, &["-t"]).output().expect("nginx -t");
        Check { accepted: output.status.success(), output: said(&output) }
    }

    /// Starts it and waits until it answers.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(self) -> Nginx {
        // The service: what it was sent becomes visible.
        let service = r#"
            server {
                listen SERVICE;
                location / {
                    default_type text/plain;
                    return 200 "identifier=$http_x_identifier\nauthorization=$http_authorization\nuri=$request_uri\n";
                }
            }
        "#;
        let builder = self.with(service);
        builder.write();
        let name = container_name(&builder.scratch);
        let mut nginx = Nginx { process: None, name, builder };
        nginx.launch();
        nginx
    }

    /// nginx, with these arguments besides the place of the configuration.
    fn command(&self, container: &str, arguments: &[&str]) -> Command {
        let dir = self.scratch.path().display().to_string();
        let mut command;
        if is_host() {
            command =
                Command::new(std::env::var("NGINX_BINARY").unwrap_or_else(|_| "nginx".to_owned()));
            // Debian's nginx lies where the PATH of an ordinary user does not look.
            let path = std::env::var("PATH").unwrap_or_default();
            command.env("PATH", format!("{path}:/usr/sbin"));
            // Our switch has the name of nginx's own variable, the sockets that it inherits at a binary upgrade.
            command.env_remove("NGINX");
        } else {
            let image = image();
            command = Command::new("docker");
            command.args(["run", "--rm", "--network", "host", "--name", container]);
            command.args(["--label", "jwtunnel-test"]);
            // The same paths inside and outside. What nginx only reads it can't write.
            for folder in ["conf", "public"] {
                command.arg("-v").arg(format!("{dir}/{folder}:{dir}/{folder}:ro"));
            }
            if let Some(folder) = self.jwks.parent() {
                let folder = folder.display().to_string();
                if !folder.starts_with(&dir) {
                    command.arg("-v").arg(format!("{folder}:{folder}:ro"));
                }
            }
            command.arg("-v").arg(format!("{dir}/state:{dir}/state")).arg(image).arg("nginx");
        }
        command.args(["-e", "stderr", "-c", &format!("{dir}/conf/nginx.conf")]).args(arguments);
        command
    }
}

impl Default for NginxBuilder {
    fn default() -> Self {
        Self::new()
    }
}

/// A running nginx.
#[derive(Debug)]
pub struct Nginx {
    process: Option<Process>,
    name: String,
    builder: NginxBuilder,
}

impl Nginx {
    /// A server with this text in it and nothing else, and the key set of `key` as DIR/public/jwks.json.
    #[must_use]
    pub fn server(key: &crate::SigningKey, server: &str) -> Self {
        NginxBuilder::bare(&format!("server {{ listen LISTEN;\n{server}\n}}"))
            .jwks(&crate::jwks(&[key]))
            .start()
    }

    fn launch(&mut self) {
        let log = self.builder.scratch.join("state/output.log");
        let mut command = self.builder.command(&self.name, &["-g", "daemon off;"]);
        let mut process = Process::start("nginx", &mut command, &log);
        let service = format!("http://{}/", self.builder.service.address());
        eventually("nginx answers", || {
            assert!(process.is_running(), "nginx has ended: {}", process.log());
            try_ask("GET", &service, &[], None).ok()
        });
        self.process = Some(process);
    }

    /// Ends it at once, with all its connections.
    pub fn stop(&mut self) {
        if !is_host() {
            // Ending the client would not end the container.
            let _ = Command::new("docker").args(["kill", "-s", "TERM", &self.name]).output();
            if let Some(process) = &mut self.process {
                for _ in 0..250 {
                    if !process.is_running() {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            let _ = Command::new("docker").args(["rm", "-f", &self.name]).output();
        }
        self.process = None;
    }

    /// Starts it again after [`Nginx::stop`], with the same files.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_again(&mut self) {
        self.launch();
    }

    /// The shipped configuration with this JWK Set.
    #[must_use]
    pub fn shipped(jwks: &str) -> Self {
        NginxBuilder::new().jwks(jwks).start()
    }

    /// The address of a path on the shipped server.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.builder.listen.address())
    }

    /// The port of the shipped server.
    #[must_use]
    pub fn port(&self) -> &Port {
        &self.builder.listen
    }

    /// The folder of the test.
    #[must_use]
    pub fn scratch(&self) -> &Scratch {
        &self.builder.scratch
    }

    /// `GET path` with a token.
    #[must_use]
    pub fn get_with(&self, path: &str, token: &str) -> Answer {
        get(&self.url(path), &[("authorization", &format!("Bearer {token}"))])
    }

    /// `GET path` without one.
    #[must_use]
    pub fn get(&self, path: &str) -> Answer {
        get(&self.url(path), &[])
    }

    /// Replaces the JWK Set file, as the daemon does.
    pub fn replace_jwks(&self, text: &str) {
        self.builder.scratch.replace("public/jwks.json", text.as_bytes());
    }

    /// The error log so far.
    #[must_use]
    pub fn error_log(&self) -> String {
        let text = fs::read(self.builder.scratch.join("state/error.log")).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The access log so far.
    #[must_use]
    pub fn access_log(&self) -> String {
        let text = fs::read(self.builder.scratch.join("state/access.log")).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Waits for a line of the error log that has all of `parts`.
    ///
    /// # Panics
    /// If none comes.
    pub fn expect_log(&self, parts: &[&str]) -> String {
        eventually(&format!("a line with {parts:?} in the error log"), || {
            let log = self.error_log();
            log.lines().find(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned)
        })
    }

    /// Changes text of one of the configuration's files; [`Nginx::reload`] makes it effective.
    pub fn edit(&self, file: &str, old: &str, new: &str) {
        self.builder.swap(file, old, new);
    }

    /// The process ids of the two workers that serve.
    ///
    /// # Panics
    /// If the system does not tell, or there are not two.
    #[must_use]
    pub fn workers(&self) -> Vec<String> {
        // A worker has its name only some time after it was started.
        eventually("two workers serve", || {
            Some(self.serving()).filter(|workers| workers.len() == 2)
        })
    }

    fn serving(&self) -> Vec<String> {
        let master = self.master();
        let output = Command::new("ps").args(["-o", "pid=,args=", "--ppid", &master]).output();
        let output = String::from_utf8(output.expect("ps").stdout).expect("text");
        // Under valgrind a process can't change its title: then old workers count until they have ended.
        let is_titled = std::env::var_os("JWTUNNEL_MEMCHECK").is_none();
        output
            .lines()
            .filter(|line| {
                !is_titled || (line.contains("worker process") && !line.contains("shutting down"))
            })
            .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
            .collect()
    }

    /// The master's process id, as this machine numbers it.
    fn master(&self) -> String {
        if is_host() {
            return self.process.as_ref().expect("it runs").id().to_string();
        }
        let output = Command::new("docker")
            .args(["inspect", "--format", "{{.State.Pid}}", &self.name])
            .output()
            .expect("docker inspect");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }

    /// Kills the workers, and waits until the master has started as many others.
    ///
    /// # Panics
    /// If it does not.
    pub fn kill_workers(&self) {
        let old = self.workers();
        for worker in &old {
            let killed = Command::new("kill").args(["-s", "KILL", worker]).status();
            assert!(killed.expect("kill").success());
        }
        eventually("the master has started others", || {
            let new = self.workers();
            (new.len() == old.len() && new.iter().all(|each| !old.contains(each))).then_some(())
        });
    }

    /// Has the master read its configuration again, without waiting for what comes of it.
    ///
    /// # Panics
    /// If the signal can't be sent.
    pub fn send_reload(&self) {
        if is_host() {
            self.process.as_ref().expect("it runs").signal("HUP");
            return;
        }
        let output = Command::new("docker")
            .args(["kill", "-s", "HUP", &self.name])
            .output()
            .expect("docker kill");
        assert!(output.status.success(), "{}", said(&output));
    }

    /// Reloads, and waits until only new workers serve.
    ///
    /// # Panics
    /// If that does not happen.
    pub fn reload(&self) {
        let old = self.workers();
        self.send_reload();
        eventually("new workers serve", || {
            let serving = self.serving();
            (serving.len() == 2 && serving.iter().all(|worker| !old.contains(worker))).then_some(())
        });
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if std::thread::panicking() {
            say(&format!("---- nginx's error log ----\n{}", tail(&self.error_log())));
        }
        self.stop();
    }
}

/// Whether nginx, started by us, can change its user.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

fn container_name(scratch: &Scratch) -> String {
    scratch.path().file_name().expect("a folder has a name").to_string_lossy().into_owned()
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}
