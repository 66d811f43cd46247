//! The configuration of `jwtunneld`: one TOML file, overridden by `JWTUNNEL_<SECTION>_<KEY>`.
//!
//! Read once into the types below. Every setting has a working default; an unknown, malformed or
//! not yet available one is an error that names its place, never ignored. Neighbours: `reader`
//! (layers and places), `value` (how single values are written), `original` (the variables of the
//! services that this one replaces), `remote` (tables of other issuers), `check` (what `jwtunneld --check` adds).

mod check;
mod database_url;
mod error;
mod network;
mod original;
mod peer;
mod reader;
mod remote;
mod value;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use check::unsearchable_parent;
pub use database_url::{DatabaseUrl, PostgresUrl, parse_database_url};
pub use error::{ConfigError, Place};
pub use network::Network;
pub use original::StateOverrides;
pub use peer::PeerTls;
pub use reader::{Effective, Environment, VariableNote};
pub use remote::{Remote, RemoteSource};
pub use value::{
    IdentityMode, ListenAddress, NetunnelAuth, PeerAuth, RsaBits, SigningAlgorithm, Size,
    parse_algorithm, parse_duration,
};

use error::Problem;
use reader::Reader;

use crate::secret::Secret;

/// The file that is read when none is named.
pub const DEFAULT_FILE: &str = "/etc/jwtunnel/jwtunneld.toml";

/// Where everything is kept that no setting places elsewhere, relative to the working directory.
pub const DEFAULT_DATA: &str = "jwtunnel-data";

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// The whole configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Keys for tokens: the issuer's two listeners and its rules.
    pub jwthenticator: Jwthenticator,
    /// Signing keys.
    pub keys: Keys,
    /// The public keys' file.
    pub jwks: Jwks,
    /// The tunnel server.
    pub netunnel: Netunnel,
}

/// Section `[jwthenticator]`.
#[derive(Debug, Clone)]
pub struct Jwthenticator {
    /// Public routes. Default `127.0.0.1:5050`.
    pub listen: ListenAddress,
    /// Internal routes; `None` serves both sets on `listen`. Default `127.0.0.1:5051`.
    pub internal_listen: Option<ListenAddress>,
    /// Default `sqlite://jwtunnel-data/jwtunnel.db`.
    pub database_url: DatabaseUrl,
    /// Life of an access token. Default 25 h: a client whose clock runs ahead must still find its
    /// token valid.
    pub jwt_lifetime: Duration,
    /// Life of an access token for a key that rotates its refresh tokens: `jwt_lifetime` if that is set, else
    /// 1 h.
    pub rotating_jwt_lifetime: Duration,
    /// Life of a registered key, from each registration. Default 120 days.
    pub key_lifetime: Duration,
    /// Life of a refresh token. Default 60 days.
    pub refresh_lifetime: Duration,
    /// Whether a refresh token ends with its key's expiry. Default no.
    pub refresh_requires_live_key: bool,
    /// Whose identifier a token carries. Default the registered one.
    pub identity: IdentityMode,
    /// Whether tokens also carry `sub`, `jti`, `key` and, with an issuer, `iss`. Default yes.
    pub standard_claims: bool,
    /// The `iss` claim; none by default.
    pub issuer: Option<String>,
    /// The `aud` claim; none by default.
    pub audience: Vec<String>,
    /// Tolerated difference between clocks when a token's times are checked. Default 60 s.
    pub leeway: Duration,
    /// Put in front of every route, empty by default.
    pub url_prefix: String,
    /// Largest request body. Default 1 MiB.
    pub body_limit: Size,
    /// How much signing and database work may wait; what comes on top is answered 503. Default 256.
    pub queue_limit: usize,
    /// How long a client may take for a request's header (also how long an idle connection is
    /// kept). Default 10 s.
    pub header_timeout: Duration,
    /// How long a client may take for a request's body. Default 10 s.
    pub body_timeout: Duration,
    /// How long an answer may take. Default 15 s.
    pub handler_timeout: Duration,
    /// Whose `X-Forwarded-For` is believed; Unix sockets always are. Default loopback.
    pub trusted_proxies: Vec<Network>,
    /// How often a client address may fail to authenticate in a minute, and before that at once. Default 10
    /// and 20.
    pub failures_per_minute: usize,
    /// See `failures_per_minute`.
    pub failure_burst: usize,
    /// How often one key may fail in a minute. Default 5.
    pub key_failures_per_minute: usize,
    /// How long the refreshes of an address that has failed too often are put off at most. Default 5 s.
    pub refresh_delay: Duration,
    /// Serves /authenticate, /refresh, /validate, /validate_request.
    pub external_api: bool,
    /// Serves /register_key, /is_key_registered.
    pub internal_api: bool,
}

/// Section `[keys]`.
#[derive(Debug, Clone)]
pub struct Keys {
    /// Private keys, 0600 in a folder of mode 0700. Default `jwtunnel-data/keys`.
    pub directory: PathBuf,
    /// What new keys are for. Default RS256.
    pub algorithm: SigningAlgorithm,
    /// Modulus length of new RSA keys. Default 2048.
    pub rsa_bits: RsaBits,
    /// How long a new key is published before it signs. Default 300 s.
    pub announce_for: Duration,
    /// How long a key signs before the next one does; zero for as long as nobody rotates. Default 30 days.
    pub rotate_every: Duration,
    /// A key for the signing keys that daemons share through PostgreSQL; without one each daemon has its own
    /// `directory`.
    pub encryption_key_file: Option<PathBuf>,
    /// An RSA key that is used instead of the directory's keys, and not rotated (JWThenticator's `RSA_*`).
    pub given: Option<GivenKey>,
}

/// An RSA key that somebody else looks after. The public half in PEM is `SubjectPublicKeyInfo` or PKCS#1, the private
/// one PKCS#8 or PKCS#1; without the private one tokens are validated and none are issued.
#[derive(Debug, Clone)]
pub enum GivenKey {
    /// In two files, made if both are missing (`RSA_PUBLIC_KEY_PATH`, `RSA_PRIVATE_KEY_PATH`).
    Files {
        /// The public half.
        public: PathBuf,
        /// The private half.
        private: Option<PathBuf>,
    },
    /// The private half as text, with the public one where that is given too (`RSA_PRIVATE_KEY`, `RSA_PUBLIC_KEY`).
    PrivateText(Secret, Option<String>),
    /// The public half alone as text.
    PublicText(String),
}

/// Section `[jwks]`.
#[derive(Debug, Clone)]
pub struct Jwks {
    /// The file that nginx reads. Default `jwtunnel-data/public/jwks.json`.
    pub file: PathBuf,
    /// What is refused before it expires, also for nginx. Default `revoked.json` beside `file`.
    pub revocation_file: PathBuf,
    /// Other issuers, whose keys are fetched into files of their own.
    pub remotes: Vec<Remote>,
}

impl Jwks {
    /// The files with keys that nginx reads.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        std::iter::once(&self.file).chain(self.remotes.iter().map(|remote| &remote.file))
    }
}

/// Section `[netunnel]`.
#[derive(Debug, Clone)]
pub struct Netunnel {
    /// Default `127.0.0.1:4040`.
    pub listen: ListenAddress,
    /// NETunnel's own configuration. Default `jwtunnel-data/netunnel.json`.
    pub state_file: PathBuf,
    /// How callers are authenticated. Default by JWT.
    pub auth: NetunnelAuth,
    /// The shared secret; present exactly when `auth` is `secret`.
    pub secret: Option<Secret>,
    /// Who may go where; empty: `allowed_tunnel_destinations` of the state file holds.
    pub rules: Vec<Rule>,
    /// Defaults of the state file that NETunnel's variables replace.
    pub state_overrides: StateOverrides,
    /// The Fernet key for credentials in the state file; by default it is in `secret_key_file`.
    pub secret_key: Option<Secret>,
    /// How the daemon proves to its peers who it is. Default as `auth`.
    pub peer_auth: PeerAuth,
    /// Where peers' JWThenticator is: a path on the peer's host, or a URL. Default `/jwthenticator`.
    pub peer_auth_uri: String,
    /// Certificate authorities of peers, instead of the system's.
    pub peer_ca_file: Option<PathBuf>,
    /// TLS towards single peers.
    pub peers: Vec<PeerTls>,
    /// Serves the operator's routes on `listen` too, for `admin_identifiers`. Default no.
    pub admin_routes: bool,
    /// Whose tokens may use the operator's routes on `listen`.
    pub admin_identifiers: Vec<String>,
    /// Names besides `localhost` under which the internal listener is asked.
    pub operator_hosts: Vec<String>,
    /// Where that key is kept. Default: the state file's name with the extension `key`.
    pub secret_key_file: PathBuf,
    /// As [`Jwthenticator::leeway`].
    pub leeway: Duration,
    /// Channels of all callers together. Default 10,000.
    pub max_channels: usize,
    /// Tunnels within one channel. Default 100.
    pub max_tunnels_per_channel: usize,
    /// Tunnel websockets of all channels, waiting ones included. Default 50,000.
    pub max_connections: usize,
    /// A connection that carries nothing for so long is ended. Default zero: never.
    pub idle_timeout: Duration,
    /// Whether there are tunnels for datagrams. Default true.
    pub udp: bool,
    /// A flow of datagrams that carries none for so long is ended. Default 2 min; zero: never.
    pub udp_idle_timeout: Duration,
    /// How long open tunnels and requests may go on after SIGTERM. Default 30 s.
    pub drain_timeout: Duration,
}

/// One `[[netunnel.rule]]`: every rule that matches a caller adds to what it may do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// The caller's identifier, `NAME:*` for all of a [`Remote`], or `*`.
    pub identifier: Option<String>,
    /// A claim that must have `value`.
    pub claim: Option<String>,
    /// The claim's value.
    pub value: Option<String>,
    /// Whose token has the claim: that of the [`Remote`] of this name, else one of ours.
    pub remote: Option<String>,
    /// Where forward tunnels may lead.
    pub destinations: Vec<String>,
    /// Where that is written, for whoever finds a mistake in it.
    pub destinations_at: Place,
    /// Where reverse tunnels may be entered.
    pub reverse_binds: Vec<String>,
    /// Where that is written.
    pub reverse_binds_at: Place,
}

/// A configuration and how it came about.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The result.
    pub config: Config,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    /// Every setting with its value and place, for `--check`.
    pub effective: Vec<Effective>,
    /// Variables of the original services that are set, and what they do.
    pub notes: Vec<VariableNote>,
    /// Combinations that work but are probably not meant.
    pub warnings: Vec<String>,
}

impl Loaded {
    /// Reads `file`, or [`DEFAULT_FILE`] when none is named; only the latter may be missing.
    ///
    /// # Errors
    /// [`ConfigError`] with every problem found.
    pub fn read(file: Option<&Path>, environment: &Environment) -> Result<Self, ConfigError> {
        let path = file.unwrap_or(Path::new(DEFAULT_FILE));
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text, environment)
                .map(|loaded| Loaded { file: Some(path.into()), ..loaded }),
            Err(error) if file.is_none() && error.kind() == ErrorKind::NotFound => {
                Self::parse(path, "", environment)
            }
            Err(error) => {
                let remedy = match error.kind() {
                    ErrorKind::PermissionDenied => "let the user that runs this read it",
                    ErrorKind::InvalidData => "write it in UTF-8",
                    _ => "name an existing file with --config",
                };
                Err(ConfigError::new(vec![Problem {
                    place: Place::File(path.into(), 0),
                    subject: String::new(),
                    text: format!("cannot read the configuration: {error}; {remedy}"),
                }]))
            }
        }
    }

    /// Reads the text of a configuration file. `path` is only used in messages.
    ///
    /// # Errors
    /// [`ConfigError`] with every problem found.
    pub fn parse(path: &Path, text: &str, environment: &Environment) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(path, text, environment)
            .map_err(|problem| ConfigError::new(vec![problem]))?;
        let mut warnings = Vec::new();
        let config = read_sections(&mut reader, &mut warnings);
        reader.finish();
        if !reader.problems.is_empty() {
            return Err(ConfigError::new(reader.problems));
        }
        Ok(Self { config, file: None, effective: reader.effective, notes: reader.notes, warnings })
    }
}

fn read_sections(reader: &mut Reader<'_>, warnings: &mut Vec<String>) -> Config {
    let data = Path::new(DEFAULT_DATA);
    let keys = read_keys(reader, data, warnings);
    let jwthenticator = read_jwthenticator(reader, data, keys.given.is_some(), warnings);
    // Each key stays published for one token life, and the JWKS has room for so many.
    if !keys.rotate_every.is_zero() && jwthenticator.jwt_lifetime > keys.rotate_every * 50 {
        let text = "expected at least a fiftieth of [jwthenticator] jwt_lifetime: the keys of all \
                    tokens that are valid are published";
        reader.problem_of("keys", "rotate_every", text.into());
    }
    let file: PathBuf = reader.take("jwks", "file", data.join("public/jwks.json"));
    let beside = file.with_file_name("revoked.json");
    let revocation_file = reader.take("jwks", "revocation_file", beside);
    if revocation_file == file {
        let text = "expected another file than [jwks] file".into();
        reader.problem_of("jwks", "revocation_file", text);
    }
    let remotes = remote::read(reader, &file);
    let are_readable = remotes.iter().all(Option::is_some);
    let jwks = Jwks { file, revocation_file, remotes: remotes.into_iter().flatten().collect() };
    let netunnel = read_netunnel(reader, data, jwthenticator.leeway);
    reader.later_section("signer_proxy", "remove the section");
    reader.later_section("key_registry", "remove the section");
    let config = Config { jwthenticator, keys, jwks, netunnel };
    // Otherwise their numbers are not those of the tables.
    if are_readable {
        remote::check(reader, &config, warnings);
    }
    config
}

fn read_keys(reader: &mut Reader<'_>, data: &Path, warnings: &mut Vec<String>) -> Keys {
    const SECTION: &str = "keys";
    let directory = reader.take(SECTION, "directory", data.join("keys"));
    let algorithm = original::algorithm(reader, SECTION);
    let rsa_bits = original::rsa_bits(reader, SECTION);
    let announce_for = reader.take(SECTION, "announce_for", Duration::from_secs(300));
    let rotate_every = reader.take(SECTION, "rotate_every", 30 * DAY);
    if !rotate_every.is_zero() && rotate_every <= announce_for {
        let text = "expected more than announce_for, or \"0s\" for no schedule".into();
        reader.problem_of(SECTION, "rotate_every", text);
    }
    let encryption_key_file = reader.take(SECTION, "encryption_key_file", None);
    let given = original::given_key(reader, algorithm, warnings);
    Keys { directory, algorithm, rsa_bits, announce_for, rotate_every, encryption_key_file, given }
}

fn read_jwthenticator(
    reader: &mut Reader<'_>,
    data: &Path,
    key_given: bool,
    warnings: &mut Vec<String>,
) -> Jwthenticator {
    const SECTION: &str = "jwthenticator";
    let (listen, internal_listen) = original::listeners(reader, warnings);
    let database_url = original::database_url(reader, data);
    let jwt_lifetime = original::lifetime(reader, "jwt_lifetime", "JWT_LEASE_TIME", 25 * HOUR);
    let is_set = reader.is_set(SECTION, "jwt_lifetime")
        || reader.environment().contains_key("JWT_LEASE_TIME");
    let rotating_jwt_lifetime = if is_set { jwt_lifetime } else { HOUR };
    let key_lifetime = original::lifetime(reader, "key_lifetime", "KEY_EXPIRY", 120 * DAY);
    let refresh_lifetime =
        original::lifetime(reader, "refresh_lifetime", "REFRESH_TOKEN_EXPIRY", 60 * DAY);
    if refresh_lifetime < jwt_lifetime {
        warnings.push(
            "[jwthenticator] refresh_lifetime is shorter than jwt_lifetime: a refresh token has \
             expired when its client needs it"
                .into(),
        );
    }
    // A key that other services of the original share must give tokens that they accept.
    let standard_claims = reader.take(SECTION, "standard_claims", !key_given);
    if key_given && standard_claims {
        warnings.push(
            "[jwthenticator] standard_claims is on with RSA_* keys: a JWThenticator that shares \
             them refuses the tokens"
                .into(),
        );
    }
    let issuer: Option<String> = reader.take(SECTION, "issuer", None);
    if issuer.as_deref() == Some("") {
        reader.problem_of(SECTION, "issuer", "expected a text that is not empty".into());
    }
    let section = Jwthenticator {
        listen,
        internal_listen,
        database_url,
        jwt_lifetime,
        rotating_jwt_lifetime,
        key_lifetime,
        refresh_lifetime,
        refresh_requires_live_key: reader.take(SECTION, "refresh_requires_live_key", false),
        identity: reader.take(SECTION, "identity", IdentityMode::Registered),
        standard_claims,
        issuer,
        audience: original::audience(reader),
        leeway: reader.take(SECTION, "leeway", Duration::from_secs(60)),
        url_prefix: original::url_prefix(reader),
        body_limit: reader.take(SECTION, "body_limit", Size(1 << 20)),
        queue_limit: reader.take(SECTION, "queue_limit", 256),
        header_timeout: reader.take(SECTION, "header_timeout", Duration::from_secs(10)),
        body_timeout: reader.take(SECTION, "body_timeout", Duration::from_secs(10)),
        handler_timeout: reader.take(SECTION, "handler_timeout", Duration::from_secs(15)),
        trusted_proxies: reader.take(SECTION, "trusted_proxies", loopback()),
        failures_per_minute: reader.take(SECTION, "failures_per_minute", 10),
        failure_burst: reader.take(SECTION, "failure_burst", 20),
        key_failures_per_minute: reader.take(SECTION, "key_failures_per_minute", 5),
        refresh_delay: reader.take(SECTION, "refresh_delay", Duration::from_secs(5)),
        external_api: !original::flag(reader, "DISABLE_EXTERNAL_API"),
        internal_api: !original::flag(reader, "DISABLE_INTERNAL_API"),
    };
    // Longer, and the answer would come after its own deadline.
    if section.refresh_delay * 2 > section.handler_timeout {
        let text = "expected at most half of handler_timeout".into();
        reader.problem_of(SECTION, "refresh_delay", text);
    }
    // rel:T4: more than five minutes is no clock difference but a longer token life.
    if section.leeway > Duration::from_secs(300) {
        reader.problem_of(SECTION, "leeway", "expected at most \"300s\"".into());
    }
    for (key, value) in [
        ("jwt_lifetime", section.jwt_lifetime),
        ("key_lifetime", section.key_lifetime),
        ("refresh_lifetime", section.refresh_lifetime),
        ("header_timeout", section.header_timeout),
        ("body_timeout", section.body_timeout),
        ("handler_timeout", section.handler_timeout),
    ] {
        if value.is_zero() {
            reader.problem_of(SECTION, key, "expected more than \"0s\"".into());
        }
    }
    section
}

fn loopback() -> Vec<Network> {
    ["127.0.0.0/8", "::1/128"].iter().filter_map(|text| Network::parse(text)).collect()
}

fn read_netunnel(reader: &mut Reader<'_>, data: &Path, leeway: Duration) -> Netunnel {
    const SECTION: &str = "netunnel";
    let listen = reader.take(SECTION, "listen", ListenAddress::Tcp(([127, 0, 0, 1], 4040).into()));
    let state_file = reader.take(SECTION, "state_file", data.join("netunnel.json"));
    let auth = reader.take(SECTION, "auth", NetunnelAuth::Jwt);
    let secret: Option<Secret> = reader.take(SECTION, "secret", None);
    match (auth, &secret) {
        (NetunnelAuth::Secret, None) => reader.problem_of(
            SECTION,
            "auth",
            "auth = \"secret\" needs secret = \"…\" beside it, or JWTUNNEL_NETUNNEL_SECRET".into(),
        ),
        (NetunnelAuth::Jwt | NetunnelAuth::None, Some(_)) => reader.problem_of(
            SECTION,
            "secret",
            format!("is not used with auth = \"{}\"; remove it", auth.as_str()),
        ),
        _ => {}
    }
    if auth == NetunnelAuth::None && !listen.is_local() {
        reader.problem_of(
            SECTION,
            "auth",
            format!("auth = \"none\" is only allowed on loopback, and listen is {listen}"),
        );
    }
    let rules = reader.tables(SECTION, "rule", |table| {
        let rule = Rule {
            identifier: table.take("identifier", None),
            claim: table.take("claim", None),
            value: table.take("value", None),
            remote: table.take("remote", None),
            destinations: table.take("destinations", Vec::new()),
            destinations_at: table.place_of("destinations"),
            reverse_binds: table.take("reverse_binds", Vec::new()),
            reverse_binds_at: table.place_of("reverse_binds"),
        };
        let by_identifier = rule.identifier.is_some();
        if by_identifier == rule.claim.is_some() || rule.claim.is_some() != rule.value.is_some() {
            table.problem("expected either identifier, or claim and value");
        }
        if by_identifier && rule.remote.is_some() {
            table.problem("remote goes with claim; the identifiers of a remote issuer are NAME:sub and NAME:*");
        }
        rule
    });
    let default_key_file = state_file.with_extension("key");
    let admin_routes = reader.take(SECTION, "admin_routes", false);
    let admin_identifiers: Vec<String> = reader.take(SECTION, "admin_identifiers", Vec::new());
    if admin_routes == admin_identifiers.is_empty() {
        reader.problem_of(
            SECTION,
            "admin_routes",
            "admin_routes = true and admin_identifiers = [\"UUID\"] belong together".into(),
        );
    }
    if admin_routes && auth != NetunnelAuth::Jwt {
        let text = "needs auth = \"jwt\": otherwise all callers are one".into();
        reader.problem_of(SECTION, "admin_routes", text);
    }
    let peer_auth = match auth {
        NetunnelAuth::Jwt => PeerAuth::Jwthenticator,
        NetunnelAuth::Secret => PeerAuth::Secret,
        NetunnelAuth::None => PeerAuth::None,
    };
    Netunnel {
        listen,
        state_file,
        auth,
        secret,
        rules,
        state_overrides: original::state_overrides(reader),
        secret_key: original::secret_key(reader),
        peer_auth: reader.take(SECTION, "peer_auth", peer_auth),
        peer_auth_uri: original::peer_auth_uri(reader),
        peer_ca_file: reader.take(SECTION, "peer_ca_file", None),
        peers: peer::read(reader, SECTION),
        admin_routes,
        admin_identifiers,
        operator_hosts: reader.take(SECTION, "operator_hosts", Vec::new()),
        secret_key_file: reader.take(SECTION, "secret_key_file", default_key_file),
        leeway,
        max_channels: reader.take(SECTION, "max_channels", 10_000),
        max_tunnels_per_channel: reader.take(SECTION, "max_tunnels_per_channel", 100),
        max_connections: reader.take(SECTION, "max_connections", 50_000),
        idle_timeout: reader.take(SECTION, "idle_timeout", Duration::ZERO),
        udp: reader.take(SECTION, "udp", true),
        udp_idle_timeout: reader.take(SECTION, "udp_idle_timeout", Duration::from_secs(120)),
        drain_timeout: reader.take(SECTION, "drain_timeout", Duration::from_secs(30)),
    }
}

#[cfg(test)]
mod tests;
