//! The environment variables of JWThenticator and NETunnel, so that a deployment of theirs starts
//! with us unchanged. Each one that is set is noted for the log: used, or overridden and by what;
//! one that we cannot honour is an error.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::GivenKey;
use super::database_url::DatabaseUrl;
use super::reader::{Original, Reader, VariableNote};
use super::value::{ListenAddress, RsaBits, Setting, SigningAlgorithm};
use crate::secret::Secret;

/// Keys of NETunnel's state file whose defaults a variable may replace: `NETUNNEL_` and the key in capitals.
const OVERRIDABLE: [(&str, &str); 6] = [
    ("NETUNNEL_ALLOWED_TUNNEL_DESTINATIONS", "allowed_tunnel_destinations"),
    ("NETUNNEL_HTTP_PROXY", "http_proxy"),
    ("NETUNNEL_HTTP_PROXY_TEST_URL", "http_proxy_test_url"),
    ("NETUNNEL_PEERS", "peers"),
    ("NETUNNEL_ALLOW_UNVERIFIED_SSL_PEERS", "allow_unverified_ssl_peers"),
    ("NETUNNEL_REVISION", "revision"),
];

/// Defaults of NETunnel's state file that variables replace. `Debug` shows the keys only: values may be
/// credentials.
#[derive(Clone, Default, PartialEq)]
pub struct StateOverrides(pub serde_json::Map<String, serde_json::Value>);

impl fmt::Debug for StateOverrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Variables that mean "this is a JWThenticator deployment": then its one-listener layout holds.
const DEPLOYMENT: [&str; 14] = [
    "PORT",
    "DB_URI",
    "DB_CONNECTOR",
    "DB_USER",
    "DB_PASS",
    "DB_HOST",
    "DB_NAME",
    "ASYNC_URI",
    "ASYNC_DB_CONNECTOR",
    "RSA_PUBLIC_KEY",
    "RSA_PRIVATE_KEY",
    "RSA_PUBLIC_KEY_PATH",
    "RSA_PRIVATE_KEY_PATH",
    "RSA_KEY_SIZE",
];

/// The original's variables for a PostgreSQL database, with its defaults.
const DATABASE_PARTS: [(&str, &str); 6] = [
    ("ASYNC_DB_CONNECTOR", "postgresql+asyncpg"),
    ("DB_CONNECTOR", "postgresql+pg8000"),
    ("DB_USER", "postgres"),
    ("DB_PASS", ""),
    ("DB_HOST", "localhost"),
    ("DB_NAME", "jwthenticator"),
];

/// The two listeners. `None` for the internal one: both sets of routes on the first.
pub(super) fn listeners(
    reader: &mut Reader<'_>,
    warnings: &mut Vec<String>,
) -> (ListenAddress, Option<ListenAddress>) {
    const SECTION: &str = "jwthenticator";
    let port = Original {
        name: "PORT",
        expected: "a port number from 0 to 65535",
        parse: &|text| Some(ListenAddress::Tcp(([0, 0, 0, 0], text.parse().ok()?).into())),
    };
    let environment = reader.environment();
    let as_original = !reader.is_set(SECTION, "listen")
        && DEPLOYMENT.iter().any(|name| environment.contains_key(*name));
    let default = if as_original {
        ListenAddress::Tcp(([0, 0, 0, 0], 8080).into())
    } else {
        ListenAddress::Tcp(([127, 0, 0, 1], 5050).into())
    };
    let listen = reader.take_or(SECTION, "listen", &[port], default);
    let own_internal = reader.is_set(SECTION, "internal_listen");
    let internal = if as_original && !own_internal {
        // Declares the setting; what it shows is where the routes really are.
        reader.take(SECTION, "internal_listen", listen.clone())
    } else {
        reader.take(SECTION, "internal_listen", ListenAddress::Tcp(([127, 0, 0, 1], 5051).into()))
    };
    // Two listeners on port 0 get two ports.
    let port_zero = matches!(internal, ListenAddress::Tcp(address) if address.port() == 0);
    if internal != listen || (port_zero && own_internal) {
        if let ListenAddress::Tcp(address) = &internal
            && !address.ip().is_loopback()
        {
            warnings.push(format!(
                "whoever reaches {internal} can register and revoke keys; [jwthenticator] internal_listen \
                 should be an address of loopback or \"unix:/run/jwtunnel/internal.sock\""
            ));
        }
        return (listen, Some(internal));
    }
    warnings.push(format!(
        "whoever reaches {listen} can register keys: both sets of routes are served there; set \
         [jwthenticator] internal_listen to an address of its own"
    ));
    (listen, None)
}

/// A lifetime; the original's variable counts seconds.
pub(super) fn lifetime(
    reader: &mut Reader<'_>,
    key: &'static str,
    variable: &'static str,
    default: Duration,
) -> Duration {
    let original = Original {
        name: variable,
        expected: "a whole number of seconds",
        parse: &|text| Duration::from_text(&format!("{text}s")),
    };
    reader.take_or("jwthenticator", key, &[original], default)
}

/// The database. SQLAlchemy's URLs are read as SQLAlchemy does; without one, the original's parts make
/// a PostgreSQL URL. In the original, `ASYNC_URI` and its parts are what all queries use.
pub(super) fn database_url(reader: &mut Reader<'_>, data: &Path) -> DatabaseUrl {
    const SECTION: &str = "jwthenticator";
    let own = reader.is_set(SECTION, "database_url");
    let environment = reader.environment();
    let default = DatabaseUrl::Sqlite(data.join("jwtunnel.db"));
    let uris = ["ASYNC_URI", "DB_URI"].map(|name| environment.get(name));
    if !own
        && let [Some(asynchronous), Some(db)] = uris
        && DatabaseUrl::from_sqlalchemy(db) != DatabaseUrl::from_sqlalchemy(asynchronous)
    {
        let text = "names another database than DB_URI; unset one of them".into();
        reader.problem_at_variable("ASYNC_URI", text);
    }
    let parts = DATABASE_PARTS.iter().map(|(name, _)| *name);
    let given: Vec<&'static str> = parts.filter(|name| environment.contains_key(*name)).collect();
    let by_parts = !own && uris == [None, None] && !given.is_empty();
    let default = if by_parts {
        let part = |index: usize| {
            let (name, default): (&str, &str) = DATABASE_PARTS[index];
            environment.get(name).map_or(default, String::as_str)
        };
        let connector =
            if environment.contains_key("ASYNC_DB_CONNECTOR") { part(0) } else { part(1) };
        let url = DatabaseUrl::from_parts(connector, part(2), part(3), part(4), part(5));
        url.unwrap_or_else(|| {
            let text = "together with the other DB_* variables names no PostgreSQL database; \
                        expected a connector such as postgresql+asyncpg, and DB_HOST as HOST or \
                        HOST:PORT"
                .into();
            reader.problem_at_variable(given[0], text);
            default
        })
    } else {
        default
    };
    for name in given {
        let effect =
            if by_parts { "is part of" } else { "has no effect: a URL goes before it, in" };
        let effect = format!("{effect} [jwthenticator] database_url");
        reader.notes.push(VariableNote { name, effect });
    }
    let uri = |name| Original {
        name,
        expected: "sqlite:///relative.db or sqlite:////absolute.db without parameters, or \
                   postgresql+DRIVER://USER:PASSWORD@HOST:PORT/NAME",
        parse: &DatabaseUrl::from_sqlalchemy as &dyn Fn(&str) -> Option<DatabaseUrl>,
    };
    reader.take_or(SECTION, "database_url", &[uri("ASYNC_URI"), uri("DB_URI")], default)
}

/// The signing algorithm; `JWT_ALGORITHM_FAMILY` must agree with it.
pub(super) fn algorithm(reader: &mut Reader<'_>, section: &'static str) -> SigningAlgorithm {
    let original = Original {
        name: "JWT_ALGORITHM",
        expected: "one of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA",
        parse: &SigningAlgorithm::from_text,
    };
    let algorithm = reader.take_or(section, "algorithm", &[original], SigningAlgorithm::Rs256);
    if let Some(family) = reader.environment().get("JWT_ALGORITHM_FAMILY") {
        if family == algorithm.key_type() {
            let effect = "agrees with the algorithm".into();
            reader.notes.push(VariableNote { name: "JWT_ALGORITHM_FAMILY", effect });
        } else {
            let text =
                format!("keys for {} are of type {}", algorithm.as_str(), algorithm.key_type());
            reader.problem_at_variable("JWT_ALGORITHM_FAMILY", format!("{text}; unset it"));
        }
    }
    algorithm
}

/// The size of new RSA keys.
pub(super) fn rsa_bits(reader: &mut Reader<'_>, section: &'static str) -> RsaBits {
    let original = Original {
        name: "RSA_KEY_SIZE",
        expected: "one of 2048, 3072, 4096",
        parse: &RsaBits::from_text,
    };
    reader.take_or(section, "rsa_bits", &[original], RsaBits::B2048)
}

/// The key of `RSA_PUBLIC_KEY_PATH` and `RSA_PRIVATE_KEY_PATH`, else the one of `RSA_PUBLIC_KEY` and `RSA_PRIVATE_KEY`. An
/// empty variable counts as unset, as in the original.
pub(super) fn given_key(
    reader: &mut Reader<'_>,
    algorithm: SigningAlgorithm,
    warnings: &mut Vec<String>,
) -> Option<GivenKey> {
    let environment = reader.environment();
    let variable = |name| environment.get(name).filter(|text| !text.is_empty());
    let path = |name| variable(name).map(PathBuf::from);
    const PATHS: [&str; 2] = ["RSA_PUBLIC_KEY_PATH", "RSA_PRIVATE_KEY_PATH"];
    const TEXTS: [&str; 2] = ["RSA_PUBLIC_KEY", "RSA_PRIVATE_KEY"];
    let (given, names) = if let Some(public) = path(PATHS[0]) {
        for name in TEXTS.into_iter().filter(|name| variable(name).is_some()) {
            let effect = "has no effect: RSA_PUBLIC_KEY_PATH goes before it".into();
            reader.notes.push(VariableNote { name, effect });
        }
        (GivenKey::Files { public, private: path(PATHS[1]) }, PATHS)
    } else {
        // Where keys that are lost at the next restart would be made instead, nobody is served.
        if variable(PATHS[1]).is_some() {
            let text = "has no effect without RSA_PUBLIC_KEY_PATH; set both or neither".into();
            reader.problem_at_variable(PATHS[1], text);
            return None;
        }
        let given = match (variable(TEXTS[0]).cloned(), variable(TEXTS[1])) {
            (public, Some(private)) => GivenKey::PrivateText(Secret::new(private), public),
            (Some(public), None) => GivenKey::PublicText(public),
            (None, None) => return None,
        };
        (given, TEXTS)
    };
    if algorithm.key_type() != "RSA" {
        let text =
            format!("an RSA key cannot sign {}; change [keys] algorithm", algorithm.as_str());
        reader.problem_at_variable(names[0], text);
        return None;
    }
    if let Some(place) = reader.place_of("keys", "directory") {
        let [public, private] = names;
        warnings.push(format!("[keys] directory ({place}) goes before {public} and {private}"));
        return None;
    }
    for name in names.into_iter().filter(|name| variable(name).is_some()) {
        let effect = "names the signing key, which is not rotated".into();
        reader.notes.push(VariableNote { name, effect });
    }
    if variable(names[1]).is_none() {
        warnings.push(format!(
            "{} is set and {} is not: tokens are validated, none are issued",
            names[0], names[1]
        ));
    }
    Some(given)
}

/// The audiences of issued tokens.
pub(super) fn audience(reader: &mut Reader<'_>) -> Vec<String> {
    let original = Original {
        name: "JWT_AUDIENCE",
        expected: "names separated by commas",
        parse: &<Vec<String>>::from_text,
    };
    reader.take_or("jwthenticator", "audience", &[original], Vec::new())
}

/// What goes in front of every route.
pub(super) fn url_prefix(reader: &mut Reader<'_>) -> String {
    let original = Original {
        name: "URL_PREFIX",
        expected: "a path such as /jwt",
        parse: &|text: &str| Some(text.to_owned()),
    };
    let prefix = reader.take_or("jwthenticator", "url_prefix", &[original], String::new());
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
    let starts_right = prefix.is_empty() || prefix.starts_with('/');
    if !starts_right || prefix.ends_with('/') || !prefix.bytes().all(allowed) {
        reader.problem_of(
            "jwthenticator",
            "url_prefix",
            "expected \"\" or a path such as \"/jwt\": it starts with a slash, does not end with \
             one, and has letters, digits and - . _ ~ / only"
                .into(),
        );
    }
    prefix
}

/// A switch of the original, which exists as a variable only.
pub(super) fn flag(reader: &mut Reader<'_>, name: &'static str) -> bool {
    let Some(text) = reader.environment().get(name) else { return false };
    let value = match text.to_ascii_lowercase().as_str() {
        "1" | "t" | "true" | "y" | "yes" | "on" => true,
        "0" | "f" | "false" | "n" | "no" | "off" => false,
        _ => {
            reader.problem_in_variable(
                name,
                text,
                true,
                "one of 1, true, yes, on, 0, false, no, off",
            );
            return false;
        }
    };
    let effect = if value { "removes these routes" } else { "is off" }.into();
    reader.notes.push(VariableNote { name, effect });
    value
}

/// NETunnel's variables: each is JSON and replaces the default of one key of its state file.
pub(super) fn state_overrides(reader: &mut Reader<'_>) -> StateOverrides {
    let mut overrides = StateOverrides::default();
    for (name, key) in OVERRIDABLE {
        let Some(text) = reader.environment().get(name) else { continue };
        match serde_json::from_str(text) {
            Ok(value) => {
                let effect = format!("sets the default of {key} in [netunnel] state_file");
                reader.notes.push(VariableNote { name, effect });
                overrides.0.insert(key.into(), value);
            }
            Err(_) => {
                let expected =
                    "JSON, such as {\"127.0.0.1\": \"22,80\"}, true or \"text\" with the quotes";
                // Not repeated: peers and proxies hold credentials.
                reader.problem_in_variable(name, text, false, expected);
            }
        }
    }
    overrides
}

/// Where peers' JWThenticator is.
pub(super) fn peer_auth_uri(reader: &mut Reader<'_>) -> String {
    let plugin = Original {
        name: "JWTHENTICATOR_URI",
        expected: "a path such as /jwthenticator, or a URL",
        parse: &|text| Some(text.to_owned()),
    };
    reader.take_or("netunnel", "peer_auth_uri", &[plugin], "/jwthenticator".into())
}

/// What the setting `secret_key` must be.
const FERNET_KEY: &str = "a Fernet key: 32 bytes in URL-safe base64, 44 characters, as `python -m \
    netunnel.common.security generate-key` makes them";

/// The key for credentials in NETunnel's state file.
pub(super) fn secret_key(reader: &mut Reader<'_>) -> Option<Secret> {
    let is_key = |text: &str| fernet::Fernet::new(text.trim()).is_some();
    let netunnel = Original {
        name: "NETUNNEL_SECRET_KEY",
        expected: FERNET_KEY,
        parse: &|text| is_key(text).then(|| Some(Secret::new(text))),
    };
    let key: Option<Secret> = reader.take_or("netunnel", "secret_key", &[netunnel], None);
    if key.as_ref().is_some_and(|key| !is_key(key.expose())) {
        reader.problem_of("netunnel", "secret_key", format!("expected {FERNET_KEY}"));
    }
    key
}

impl SigningAlgorithm {
    /// The algorithm of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::from_text(name)
    }

    /// The JWK key type (RFC 7518 §6.1, RFC 8037 §2).
    pub fn key_type(self) -> &'static str {
        match self {
            Self::Es256 | Self::Es384 => "EC",
            Self::EdDsa => "OKP",
            _ => "RSA",
        }
    }
}
