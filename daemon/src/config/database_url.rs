//! Where the database is: an SQLite file, or a PostgreSQL server.

use std::fmt;
use std::path::{Path, PathBuf};

use sqlx::postgres::PgConnectOptions;

use super::value::{Setting, quoted};

/// The query parameters of a PostgreSQL URL that mean something here; others would be ignored silently.
const PARAMETERS: [&str; 10] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "host",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
];

/// The database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// A file; relative to the working directory unless absolute.
    Sqlite(PathBuf),
    /// A server.
    Postgres(PostgresUrl),
}

/// How a PostgreSQL database is reached. `Debug` and `Display` leave the password out.
#[derive(Clone)]
pub struct PostgresUrl(Box<PgConnectOptions>);

impl DatabaseUrl {
    /// Reads SQLAlchemy's form, where `sqlite:///x.db` is relative and `sqlite:////x.db` absolute;
    /// a `+driver` is left out of account.
    pub(super) fn from_sqlalchemy(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let dialect = scheme.split_once('+').map_or(scheme, |(dialect, _)| dialect);
        match dialect {
            "sqlite" => Self::sqlite(rest.strip_prefix('/')?),
            "postgresql" | "postgres" => PostgresUrl::parse(rest).map(Self::Postgres),
            _ => None,
        }
    }

    /// The database that JWThenticator's `DB_CONNECTOR`, `DB_HOST` and the like describe. As there, the
    /// parts are put together as they are, so a password is written as in a URL.
    pub(super) fn from_parts(
        connector: &str,
        user: &str,
        password: &str,
        host: &str,
        name: &str,
    ) -> Option<Self> {
        let url = Self::from_sqlalchemy(&format!("{connector}://{user}:{password}@{host}/{name}"));
        url.filter(|url| url.file().is_none() && !host.is_empty())
    }

    fn sqlite(path: &str) -> Option<Self> {
        // Parameters would be silently dropped, and a memory database is lost with its connection.
        let bad = path.is_empty() || path.contains(['?', '#', '\0']) || path.contains(":memory:");
        (!bad).then(|| Self::Sqlite(path.into()))
    }

    /// The file, if it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Sqlite(path) => Some(path),
            Self::Postgres(_) => None,
        }
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite://{}", path.display()),
            Self::Postgres(url) => url.fmt(f),
        }
    }
}

impl Setting for DatabaseUrl {
    fn expected() -> String {
        "\"sqlite:///absolute/path.db\" or \"sqlite://relative/path.db\" without parameters, or \
         \"postgres://USER:PASSWORD@HOST:PORT/NAME\" with none but sslmode, sslrootcert, sslcert, \
         sslkey, host (a socket's folder) and application_name"
            .into()
    }

    fn from_text(text: &str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix("sqlite:") {
            return Self::sqlite(rest.strip_prefix("//").unwrap_or(rest));
        }
        let rest = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"));
        PostgresUrl::parse(rest?).map(Self::Postgres)
    }

    fn show(&self) -> String {
        quoted(&self.to_string())
    }

    // The URL may hold a password.
    const SHOWABLE: bool = false;
}

/// Reads a database URL of the command line, written as in the configuration.
///
/// # Errors
/// The forms that are expected.
pub fn parse_database_url(text: &str) -> Result<DatabaseUrl, String> {
    DatabaseUrl::from_text(text).ok_or_else(|| format!("expected {}", DatabaseUrl::expected()))
}

impl PostgresUrl {
    /// Reads what stands behind the scheme.
    fn parse(rest: &str) -> Option<Self> {
        let query = rest.split_once('?').map_or("", |(_, query)| query);
        let names = query.split('&').filter(|pair| !pair.is_empty());
        let mut names = names.map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name));
        if !names.all(|name| PARAMETERS.contains(&name)) || rest.contains('\0') {
            return None;
        }
        let options: PgConnectOptions = format!("postgres://{rest}").parse().ok()?;
        // PostgreSQL's default, the user's name, is nobody's intention here.
        options.get_database().is_some_and(|name| !name.is_empty()).then(|| Self(options.into()))
    }

    /// For sqlx. Never log it: its `Debug` shows the password.
    pub(crate) fn options(&self) -> &PgConnectOptions {
        &self.0
    }

    /// What makes it this database.
    fn place(&self) -> (Option<&PathBuf>, &str, u16, &str, Option<&str>) {
        let socket = self.0.get_socket();
        let host = if socket.is_some() { "" } else { self.0.get_host() };
        (socket, host, self.0.get_port(), self.0.get_username(), self.0.get_database())
    }
}

impl PartialEq for PostgresUrl {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for PostgresUrl {}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (socket, host, port, user, name) = self.place();
        let name = name.unwrap_or_default();
        match socket {
            Some(folder) => write!(f, "postgres://{user}@/{name}?host={}", folder.display()),
            None => write!(f, "postgres://{user}@{host}:{port}/{name}"),
        }
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(url: Option<DatabaseUrl>) -> Option<String> {
        url.map(|url| url.to_string())
    }

    #[test]
    fn urls_follow_the_dialect_of_their_source() {
        for (text, expected) in [
            ("sqlite:///var/lib/x.db", Some("sqlite:///var/lib/x.db")),
            ("sqlite://x.db", Some("sqlite://x.db")),
            ("sqlite:x.db", Some("sqlite://x.db")),
            ("sqlite::memory:", None),
            ("sqlite://x.db?mode=ro", None),
            ("postgres://u:p%40ss@db.example/x", Some("postgres://u@db.example:5432/x")),
            ("postgresql://u@h:6000/x?sslmode=require", Some("postgres://u@h:6000/x")),
            ("postgres://u@h/x?host=/run/postgresql", Some("postgres://u@/x?host=/run/postgresql")),
            ("postgres://u@h/x?sslmod=require", None),
            ("postgres://u@h/x?sslmode=perhaps", None),
            ("postgres://u@h/", None),
            ("postgres://u@h", None),
            ("mysql://u@h/x", None),
        ] {
            assert_eq!(shown(DatabaseUrl::from_text(text)).as_deref(), expected, "{text}");
        }
        for (text, expected) in [
            ("sqlite:////var/lib/x.db", Some("sqlite:///var/lib/x.db")),
            ("sqlite+aiosqlite:///x.db", Some("sqlite://x.db")),
            ("sqlite://", None),
            ("postgresql+pg8000://u:p@h/n", Some("postgres://u@h:5432/n")),
            ("postgresql+asyncpg://u:p@h:5433/n", Some("postgres://u@h:5433/n")),
            ("mysql+x://u:p@h/n", None),
        ] {
            assert_eq!(shown(DatabaseUrl::from_sqlalchemy(text)).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn parts_are_put_together_and_a_host_may_have_a_port() {
        let parts = |connector, host| {
            shown(DatabaseUrl::from_parts(connector, "postgres", "p%40ss", host, "jwthenticator"))
        };
        let expected = Some("postgres://postgres@db:5432/jwthenticator".to_owned());
        assert_eq!(parts("postgresql+asyncpg", "db"), expected);
        assert_eq!(
            parts("postgresql", "db:7").as_deref(),
            Some("postgres://postgres@db:7/jwthenticator")
        );
        for (connector, host) in
            [("mysql", "db"), ("sqlite", "db"), ("postgresql", "db:x"), ("postgresql", "")]
        {
            assert_eq!(parts(connector, host), None);
        }
    }

    #[test]
    fn the_password_is_not_shown_and_does_not_tell_databases_apart() {
        let url = |password: &str| {
            DatabaseUrl::from_text(&format!("postgres://u:{password}@h/n")).unwrap()
        };
        assert_eq!(url("canary"), url("other"));
        assert!(
            !format!("{:?} {} {}", url("canary"), url("canary"), url("canary").show())
                .contains("canary")
        );
    }
}
