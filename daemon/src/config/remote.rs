//! `[[jwks.remote]]`: other issuers whose keys are fetched for nginx, and perhaps for the tunnels.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;

use super::reader::{Reader, TableReader};
use super::{Config, NetunnelAuth, Size};
use crate::address::Reach;

const SECTION: &str = "jwks";
const TABLE: &str = "jwks.remote";

/// What an issuer's URL is followed by (OpenID Connect Discovery 1.0, section 4).
const DISCOVERY: &str = "/.well-known/openid-configuration";

/// One `[[jwks.remote]]`: another issuer, and the file that its public keys are kept in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// What the issuer is called here; its callers of the tunnels are `NAME:sub`.
    pub name: String,
    /// Where its keys are.
    pub source: RemoteSource,
    /// The `iss` of its tokens; also what a discovery document has to call itself.
    pub issuer: Option<String>,
    /// One of these must be in the `aud` of its tokens at the tunnels; empty: not looked at.
    pub audience: Vec<String>,
    /// The file for nginx. Default `NAME.json` beside `[jwks] file`.
    pub file: PathBuf,
    /// The longest time between two fetches. Default 5 min.
    pub refresh: Duration,
    /// How long a fetch may take altogether. Default 10 s.
    pub timeout: Duration,
    /// The largest answer that is read. Default, and most, 1 MiB.
    pub max_size: Size,
    /// Whether private addresses may be connected to. Default no.
    pub allow_private: bool,
    /// Certificate authorities instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether the tunnels accept its tokens. Default no.
    pub tunnels: bool,
}

/// Where keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemoteSource {
    /// A JWK Set.
    Keys(Url),
    /// A document whose `jwks_uri` leads to one.
    Discovery(Url),
}

impl RemoteSource {
    /// The URL that is asked first.
    pub fn url(&self) -> &Url {
        match self {
            Self::Keys(url) | Self::Discovery(url) => url,
        }
    }
}

/// The tables, `None` for one with a problem. `jwks_file` is where files go that are not named.
pub(super) fn read(reader: &mut Reader<'_>, jwks_file: &Path) -> Vec<Option<Remote>> {
    reader.tables(SECTION, "remote", |table| read_one(table, jwks_file))
}

fn read_one(table: &mut TableReader<'_, '_>, jwks_file: &Path) -> Option<Remote> {
    let name: String = table.take("name", String::new());
    let url: Option<String> = table.take("url", None);
    let issuer: Option<String> = table.take("issuer", None);
    let allow_private = table.take("allow_private", false);
    let is_name = (1..=32).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !is_name {
        let text = "expected a name of 1 to 32 of a-z, 0-9 and -, such as \"corp\"";
        table.problem_of("name", text.into());
    }
    let source = source(table, url.as_deref(), issuer.as_deref(), allow_private);
    let remote = Remote {
        file: table.take("file", jwks_file.with_file_name(format!("{name}.json"))),
        name,
        source: source?,
        issuer,
        audience: table.take("audience", Vec::new()),
        refresh: table.take("refresh", Duration::from_secs(300)),
        timeout: table.take("timeout", Duration::from_secs(10)),
        max_size: table.take("max_size", Size(jwt_core::limits::JWKS_BYTES as u64)),
        allow_private,
        ca_file: table.take("ca_file", None),
        tunnels: table.take("tunnels", false),
    };
    let within = |table: &mut TableReader<'_, '_>, key, value: Duration, (from, to), text: &str| {
        let fits = (Duration::from_secs(from)..=Duration::from_secs(to)).contains(&value);
        if !fits {
            table.problem_of(key, format!("expected {text}"));
        }
        fits
    };
    let refresh = within(table, "refresh", remote.refresh, (10, 86_400), "from \"10s\" to \"1d\"");
    let timeout = within(table, "timeout", remote.timeout, (1, 60), "from \"1s\" to \"60s\"");
    let size = (1_024..=jwt_core::limits::JWKS_BYTES as u64).contains(&remote.max_size.0);
    if !size {
        // What is larger is no JWK Set for nginx either.
        table.problem_of("max_size", "expected from \"1k\" to \"1m\"".into());
    }
    (is_name && refresh && timeout && size).then_some(remote)
}

/// Where the keys are, by `url`, else by discovery. The values are not repeated: they may hold credentials.
fn source(
    table: &mut TableReader<'_, '_>,
    url: Option<&str>,
    issuer: Option<&str>,
    allow_private: bool,
) -> Option<RemoteSource> {
    let (key, text) = match (url, issuer) {
        (Some(url), _) => ("url", url.to_owned()),
        // Section 4.1: a slash at the end of the issuer is not doubled.
        (None, Some(issuer)) => ("issuer", format!("{}{DISCOVERY}", issuer.trim_end_matches('/'))),
        (None, None) => {
            table.problem(
                "expected url, the address of a JWK Set; or issuer, whose discovery document names it",
            );
            return None;
        }
    };
    let parsed = match Url::parse(&text) {
        Ok(parsed) if parsed.has_host() && parsed.fragment().is_none() => parsed,
        _ => {
            table.problem_of(key, "expected a URL such as \"https://corp.example/jwks\"".into());
            return None;
        }
    };
    // Section 2: the issuer is a URL without a query. What follows a "?" would also swallow the path.
    if url.is_none() && parsed.query().is_some() {
        table.problem_of(key, "expected a URL without a query".into());
        return None;
    }
    if let Err(why) = Reach::of(&parsed, allow_private).url(&parsed) {
        table.problem_of(key, format!("the URL {why}"));
        return None;
    }
    Some(match url {
        Some(_) => RemoteSource::Keys(parsed),
        None => RemoteSource::Discovery(parsed),
    })
}

/// What only the whole configuration tells: names, files and callers that are mistaken for another's.
pub(super) fn check(reader: &mut Reader<'_>, config: &Config, warnings: &mut Vec<String>) {
    let netunnel = &config.netunnel;
    let mut files = vec![
        ("[jwks] file", config.jwks.file.clone()),
        ("[jwks] revocation_file", config.jwks.revocation_file.clone()),
        ("[netunnel] state_file", netunnel.state_file.clone()),
        ("[netunnel] secret_key_file", netunnel.secret_key_file.clone()),
    ];
    let database = config.jwthenticator.database_url.file().map(Path::to_path_buf);
    files.extend(database.map(|file| ("[jwthenticator] database_url", file)));
    let more = [&config.keys.encryption_key_file, &netunnel.peer_ca_file];
    let more = ["[keys] encryption_key_file", "[netunnel] peer_ca_file"].into_iter().zip(more);
    files.extend(more.filter_map(|(name, file)| Some((name, file.clone()?))));
    for (index, remote) in config.jwks.remotes.iter().enumerate() {
        let mut problem =
            |key: &str, text: String| reader.problem_in_table(TABLE, index, key, text);
        if config.jwks.remotes[..index].iter().any(|other| other.name == remote.name) {
            problem("name", format!("\"{}\" is the name of another one", remote.name));
        }
        let same = files.iter().find(|(_, file)| is_same(file, &remote.file));
        if let Some((owner, file)) = same {
            problem("file", format!("{} is the file of {owner} already", file.display()));
        }
        // The folder of a public file is made readable by everyone.
        let folder = remote.file.parent().unwrap_or(Path::new(""));
        if is_same(folder, &config.keys.directory) {
            problem("file", "expected another folder than [keys] directory".into());
        }
        files.push(("another [[jwks.remote]]", remote.file.clone()));
        if remote.tunnels && netunnel.auth != NetunnelAuth::Jwt {
            problem("tunnels", "needs [netunnel] auth = \"jwt\"".into());
        }
        if remote.tunnels && remote.audience.is_empty() {
            warnings.push(format!(
                "[[jwks.remote]] {}: tunnels = true without audience: any token of this issuer opens \
                 tunnels, whatever service it was made for",
                remote.name
            ));
        }
    }
    let known = |name: &str| config.jwks.remotes.iter().any(|r| r.tunnels && r.name == name);
    for (index, rule) in netunnel.rules.iter().enumerate() {
        if rule.remote.as_deref().is_some_and(|name| !known(name)) {
            let text = "expected the name of a [[jwks.remote]] with tunnels = true";
            reader.problem_in_table("netunnel.rule", index, "remote", text.into());
        }
    }
}

/// Whether two paths are written for the same place. A link can still hide it.
fn is_same(one: &Path, other: &Path) -> bool {
    let plain = |path: &Path| {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
        // Only where nothing is at `a` is `a/..` another folder than it reads.
        absolute.components().fold(PathBuf::new(), |mut path, part| {
            match part {
                std::path::Component::ParentDir => drop(path.pop()),
                part => path.push(part),
            }
            path
        })
    };
    plain(one) == plain(other)
}
