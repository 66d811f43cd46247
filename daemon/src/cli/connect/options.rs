//! What the command line and the file of `--config` say together; the command line wins.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use reqwest::Url;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use uuid::Uuid;
use zeroize::Zeroize;

use super::spec::{Listen, Spec, forward, reverse};
use super::{Args, parse_uuid, say};
use crate::logging::untrusted;
use crate::secret::Secret;
use crate::tunnel::client::{ClientError, Connector, Credentials, Network, Proxy, Target, Trust};

const SERVER: &str = "http://127.0.0.1:4040";
const AUTH_URI: &str = "/jwthenticator";

/// The file of `--config`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    server: Option<String>,
    key_file: Option<PathBuf>,
    #[serde(deserialize_with = "identifier")]
    identifier: Option<Uuid>,
    auth_uri: Option<String>,
    token_file: Option<PathBuf>,
    secret_file: Option<PathBuf>,
    ca: Option<PathBuf>,
    client_cert: Option<PathBuf>,
    client_key: Option<PathBuf>,
    insecure: bool,
    proxy_url: Option<String>,
    proxy_username: Option<String>,
    proxy_password_file: Option<PathBuf>,
    forward: Vec<String>,
    reverse: Vec<String>,
}

/// The tunnels to keep open, and the way to their server.
pub(super) struct Wanted {
    pub(super) connector: Connector,
    pub(super) tunnels: Vec<Spec>,
}

impl Wanted {
    /// # Errors
    /// A mistake in the arguments, with its place and remedy.
    pub(super) async fn read(args: &Args) -> Result<Self, String> {
        let file = match &args.config {
            Some(path) => File::read(path)?,
            None => File::default(),
        };
        let tunnels = tunnels(args, &file)?;
        let server = args.server.clone().or(file.server.clone()).unwrap_or_else(|| SERVER.into());
        let has_form = Url::parse(&server)
            .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        if !has_form {
            return Err(format!(
                "{}: expected http://HOST[:PORT][/PATH] or https://…, such as https://gw.example/netunnel",
                place(args, "server", args.server.as_deref(), &server)
            ));
        }
        let insecure = args.insecure || file.insecure;
        if insecure {
            say(&format!(
                "warning: --insecure: whoever is between here and {server} can read and change everything, the \
                 credentials included"
            ));
        }
        let certificate = args.client_cert.clone().or(file.client_cert.clone());
        let identity = match (certificate, args.client_key.clone().or(file.client_key.clone())) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err("--client-cert and --client-key belong together".into()),
        };
        let trust = Trust { ca_file: args.ca.clone().or(file.ca.clone()), identity, insecure };
        let network = Network { trust, proxy: proxy(args, &file)?, guarded: false };
        let credentials = credentials(args, &file)?;
        let connector = Connector::through(&server, &network, credentials).await;
        let connector = connector.map_err(|error| match error {
            ClientError::CaFile { file, why } => {
                let Trust { ca_file, identity, .. } = &network.trust;
                let (key, given, expected) = match identity {
                    _ if ca_file.as_ref() == Some(&file) => {
                        ("ca", &args.ca, "PEM, with certificates")
                    }
                    Some((chain, _)) if *chain == file => {
                        ("client_cert", &args.client_cert, "PEM, with a certificate")
                    }
                    _ => (
                        "client_key",
                        &args.client_key,
                        "PEM, with the private key of --client-cert",
                    ),
                };
                let shown = file.display().to_string();
                let given = given.as_ref().map(|_| shown.as_str());
                format!("{}: {why}; expected a file in {expected}", place(args, key, given, &shown))
            }
            error => error.to_string(),
        })?;
        Ok(Self { connector, tunnels })
    }
}

/// Where a value comes from: the flag of the command line if it is `given` there, else the file.
fn place(args: &Args, key: &str, given: Option<&str>, value: &str) -> String {
    match (given, &args.config) {
        (None, Some(path)) => format!("--config {}: {key} = {value:?}", path.display()),
        _ => format!("--{} {value}", key.replace('_', "-")),
    }
}

fn identifier<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Uuid>, D::Error> {
    let text = String::deserialize(input)?;
    parse_uuid(&text).map(Some).map_err(D::Error::custom)
}

impl File {
    fn read(path: &Path) -> Result<Self, String> {
        let place = |error: &dyn std::fmt::Display| format!("--config {}: {error}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| place(&error))?;
        toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            let written = text.lines().nth(line - 1).unwrap_or_default().trim();
            // serde's words for what is there and what should be: "invalid type: integer `5`, expected a string".
            let message = error.message();
            let wrong = match message.rsplit_once(", expected ") {
                Some((found, "a string")) if found.starts_with("invalid type") => {
                    "expected a text in quotes".to_owned()
                }
                Some((found, expected)) if found.starts_with("invalid type") => {
                    format!("expected {expected}")
                }
                _ => message.to_owned(),
            };
            // As it stands in the file: a quote is no danger to a terminal.
            let written = untrusted(written).replace("\\\"", "\"");
            place(&format!("line {line}: `{written}`: {wrong}"))
        })
    }
}

fn tunnels(args: &Args, file: &File) -> Result<Vec<Spec>, String> {
    let mut tunnels: Vec<Spec> =
        args.forward.iter().chain(&args.reverse_tunnels).cloned().collect();
    for (key, texts, read) in [
        ("forward", &file.forward, forward as fn(&str) -> Result<Spec, String>),
        ("reverse", &file.reverse, reverse),
    ] {
        for text in texts {
            let path = args.config.as_deref().unwrap_or(Path::new("")).display();
            let spec = read(text)
                .map_err(|error| format!("--config {path}: {key} \"{text}\": {error}"))?;
            tunnels.push(spec);
        }
    }
    if tunnels.is_empty() || args.local_port.is_some() || args.remote_port.is_some() || args.reverse
    {
        tunnels.push(single(args)?);
    }
    Ok(tunnels)
}

/// The one tunnel of NETunnel's flags.
fn single(args: &Args) -> Result<Spec, String> {
    let remote_port = args.remote_port.unwrap_or(22);
    if args.reverse {
        let port = args.local_port.ok_or("--local-port is required for reverse tunnel")?;
        return Ok(Spec::Reverse {
            address: args.remote_address.clone(),
            port: remote_port,
            target: Target::Tcp(args.local_address.clone(), port),
        });
    }
    if remote_port == 0 {
        return Err("--remote-port 0 is only possible with --reverse".into());
    }
    Ok(Spec::Forward {
        listen: Listen::Tcp(args.local_address.clone(), args.local_port.unwrap_or(0)),
        host: args.remote_address.clone(),
        port: remote_port,
    })
}

fn proxy(args: &Args, file: &File) -> Result<Option<Proxy>, String> {
    let Some(url) = args.proxy_url.clone().or(file.proxy_url.clone()) else {
        return Ok(None);
    };
    let username = args.proxy_username.clone().or(file.proxy_username.clone());
    let password_file = args.proxy_password_file.clone().or(file.proxy_password_file.clone());
    let password = match (&args.proxy_password, password_file) {
        (Some(password), _) => {
            say(&visible("--proxy-password", "--proxy-password-file"));
            Some(Secret::new(password))
        }
        (None, Some(path)) => {
            let is_named = args.proxy_password_file.is_some();
            Some(read_secret(&secret_place(args, is_named, "proxy_password_file", &path), &path)?)
        }
        (None, None) => None,
    };
    let credentials = match (username, password) {
        (Some(username), Some(password)) => Some((Secret::new(username), password)),
        (None, None) => None,
        _ => return Err("a proxy needs both user name and password, or neither".into()),
    };
    // Not shown: a password may be in it, which is one of the mistakes.
    Proxy::new(&url, credentials).map(Some).map_err(|error| {
        let flag = match (&args.proxy_url, &args.config) {
            (None, Some(path)) => format!("--config {}: proxy_url", path.display()),
            _ => "--proxy-url".to_owned(),
        };
        format!(
            "{flag}: {error}; expected http://HOST:PORT, the user name in --proxy-username and the password in \
             --proxy-password-file"
        )
    })
}

fn credentials(args: &Args, file: &File) -> Result<Credentials, String> {
    let uri = args.auth_uri.clone().or(file.auth_uri.clone()).unwrap_or_else(|| AUTH_URI.into());
    let is_url = || Url::parse(&uri).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
    if !uri.starts_with('/') && !is_url() {
        let place = place(args, "auth_uri", args.auth_uri.as_deref(), &uri);
        return Err(format!(
            "{place}: expected a path such as /jwthenticator, or an http or https URL"
        ));
    }
    if let Some(data) = &args.auth_data {
        say(&visible("--auth-data", "--key-file or --secret-file"));
        return plugin(args.auth_plugin.as_deref().unwrap_or_default(), data, uri);
    }
    // What the command line names replaces whatever the file does.
    let named = args.key_file.is_some() || args.token_file.is_some() || args.secret_file.is_some();
    let pick = |from_args: &Option<PathBuf>, from_file: &Option<PathBuf>| {
        if named { from_args.clone() } else { from_file.clone() }
    };
    let key = pick(&args.key_file, &file.key_file);
    let token = pick(&args.token_file, &file.token_file);
    let secret = pick(&args.secret_file, &file.secret_file);
    match (key, token, secret) {
        (None, None, None) => Ok(Credentials::none()),
        (Some(path), None, None) => {
            let identifier = args.identifier.or(file.identifier).unwrap_or(Uuid::nil());
            let key = read_secret(&secret_place(args, named, "key_file", &path), &path)?;
            Ok(Credentials::key(key, identifier, uri))
        }
        (None, Some(path), None) => {
            if path.as_os_str() == "-" {
                return Err(
                    "--token-file -: expected a file, which is read anew for each request".into()
                );
            }
            // Whoever puts tokens into it has to have begun.
            read_secret(&secret_place(args, named, "token_file", &path), &path)?;
            Ok(Credentials::token_file(path))
        }
        (None, None, Some(path)) => {
            let secret = read_secret(&secret_place(args, named, "secret_file", &path), &path)?;
            Ok(Credentials::shared_secret(secret))
        }
        _ => Err("only one of key_file, token_file and secret_file can be used".into()),
    }
}

/// The arguments of NETunnel's plugins.
fn plugin(name: &str, data: &str, uri: String) -> Result<Credentials, String> {
    let data: Value = serde_json::from_str(data).map_err(|_| "--auth-data: expected JSON")?;
    let text = |key: &str| data.get(key).and_then(Value::as_str);
    if let Some(secret) = text("secret") {
        return Ok(Credentials::shared_secret(Secret::new(secret)));
    }
    let (key, refresh) = (text("key").map(Secret::new), text("refresh_token").map(Secret::new));
    if key.is_none() && refresh.is_none() {
        return Err(format!(
            "--auth-plugin {name}: only JWThenticator's plugin, with \"key\" or \"refresh_token\" in --auth-data, and \
             the sample plugin, with \"secret\", are built in"
        ));
    }
    let identifier = text("uuid").filter(|uuid| !uuid.is_empty());
    let identifier = identifier.map_or(Ok(Uuid::nil()), str::parse);
    let identifier = identifier.map_err(|_| "--auth-data: \"uuid\" is no UUID")?;
    Ok(Credentials::jwthenticator(key, refresh, identifier, uri))
}

fn visible(flag: &str, better: &str) -> String {
    format!("warning: other users of this machine can see {flag}; use {better}")
}

/// As [`place`], for a file with a secret; `is_named` on the command line.
fn secret_place(args: &Args, is_named: bool, key: &str, path: &Path) -> String {
    let shown = path.display().to_string();
    place(args, key, is_named.then_some(&shown), &shown)
}

fn read_secret(place: &str, path: &Path) -> Result<Secret, String> {
    let place = |what: &dyn std::fmt::Display| format!("{place}: {what}");
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        io::stdin().read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.map_err(|error| place(&error))?;
    let secret = Secret::new(text.trim());
    text.zeroize();
    if secret.expose().is_empty() {
        return Err(place(&"the file is empty"));
    }
    Ok(secret)
}
