//! Single values of the configuration: how they are written, read and shown.
//!
//! Each type is one [`Setting`]: it reads itself from TOML or from the text of an environment
//! variable and says, when that fails, which form it expects.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use toml::de::DeValue;

use crate::secret::Secret;

/// A value that the configuration can hold.
pub(super) trait Setting: Sized {
    /// What may be written, as the end of the sentence "expected …".
    fn expected() -> String;
    /// Reads the text of an environment variable or the content of a TOML string.
    fn from_text(text: &str) -> Option<Self>;
    /// Reads a TOML value; by default only a string will do.
    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        match value {
            DeValue::String(text) => Self::from_text(text),
            _ => None,
        }
    }
    /// As `--check` prints it; a secret shows itself masked.
    fn show(&self) -> String;
    /// Whether a rejected value may be repeated in the error.
    const SHOWABLE: bool = true;
}

impl Setting for Duration {
    fn expected() -> String {
        "a duration: a whole number and a unit, such as \"30s\", \"5m\", \"12h\" or \"30d\"".into()
    }

    fn from_text(text: &str) -> Option<Self> {
        let unit = text.chars().next_back()?;
        let factor = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return None,
        };
        let number = &text[..text.len() - 1];
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        // 100 years: far beyond any use, and still far from overflowing a date computed with it.
        let seconds = number.parse::<u64>().ok()?.checked_mul(factor)?;
        (seconds <= 36_525 * 86_400).then(|| Duration::from_secs(seconds))
    }

    fn show(&self) -> String {
        let secs = self.as_secs();
        let (number, unit) = match secs {
            0 => (0, 's'),
            s if s % 86_400 == 0 => (s / 86_400, 'd'),
            s if s % 3_600 == 0 => (s / 3_600, 'h'),
            s if s % 60 == 0 => (s / 60, 'm'),
            s => (s, 's'),
        };
        format!("\"{number}{unit}\"")
    }
}

/// A number of bytes, written `65536`, `"64k"` or `"10m"` (1024-based).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl Setting for Size {
    fn expected() -> String {
        "a size in bytes, such as 65536, \"64k\" or \"10m\"".into()
    }

    fn from_text(text: &str) -> Option<Self> {
        let (number, factor) = match text.as_bytes().last()? {
            b'k' | b'K' => (&text[..text.len() - 1], 1 << 10),
            b'm' | b'M' => (&text[..text.len() - 1], 1 << 20),
            _ => (text, 1),
        };
        if !number.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        number.parse::<u64>().ok()?.checked_mul(factor).map(Size)
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        match value {
            DeValue::Integer(number) => integer(number).map(Size),
            DeValue::String(text) => Self::from_text(text),
            _ => None,
        }
    }

    fn show(&self) -> String {
        match self.0 {
            0 => "0".into(),
            n if n % (1 << 20) == 0 => format!("\"{}m\"", n >> 20),
            n if n % (1 << 10) == 0 => format!("\"{}k\"", n >> 10),
            n => n.to_string(),
        }
    }
}

fn integer<T: TryFrom<u64>>(number: &toml::de::DeInteger<'_>) -> Option<T> {
    u64::from_str_radix(number.as_str(), number.radix()).ok().and_then(|n| T::try_from(n).ok())
}

/// A count of at least one.
impl Setting for usize {
    fn expected() -> String {
        "a whole number from 1 to 1000000".into()
    }

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok().filter(|n| (1..=1_000_000).contains(n))
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        match value {
            DeValue::Integer(number) => integer(number).filter(|n| (1..=1_000_000).contains(n)),
            _ => None,
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for bool {
    fn expected() -> String {
        "true or false".into()
    }

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        match value {
            DeValue::Boolean(flag) => Some(*flag),
            _ => None,
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for String {
    fn expected() -> String {
        "a text in quotes".into()
    }

    fn from_text(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }

    fn show(&self) -> String {
        quoted(self)
    }
}

/// Several texts: a TOML array, or one comma-separated variable (blanks around and empty parts are dropped).
impl Setting for Vec<String> {
    fn expected() -> String {
        "a list of texts, such as [\"a\", \"b\"]".into()
    }

    fn from_text(text: &str) -> Option<Self> {
        Some(
            text.split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .map(Into::into)
                .collect(),
        )
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        match value {
            DeValue::Array(items) => items
                .iter()
                .map(|item| match item.get_ref() {
                    DeValue::String(text) if !text.is_empty() => Some(text.clone().into_owned()),
                    _ => None,
                })
                .collect(),
            _ => None,
        }
    }

    fn show(&self) -> String {
        let items: Vec<_> = self.iter().map(|item| quoted(item)).collect();
        format!("[{}]", items.join(", "))
    }
}

impl Setting for PathBuf {
    fn expected() -> String {
        "a path that is not empty".into()
    }

    fn from_text(text: &str) -> Option<Self> {
        (!text.is_empty() && !text.contains('\0')).then(|| text.into())
    }

    fn show(&self) -> String {
        quoted(&self.to_string_lossy())
    }
}

impl Setting for Secret {
    fn expected() -> String {
        "a text that is not empty".into()
    }

    fn from_text(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Secret::new(text))
    }

    fn show(&self) -> String {
        "\"******\"".into()
    }

    const SHOWABLE: bool = false;
}

/// A setting that may be absent; shown as `(not set)`.
impl<T: Setting> Setting for Option<T> {
    fn expected() -> String {
        T::expected()
    }

    fn from_text(text: &str) -> Option<Self> {
        T::from_text(text).map(Some)
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        T::from_toml(value).map(Some)
    }

    fn show(&self) -> String {
        self.as_ref().map_or_else(|| "(not set)".into(), T::show)
    }

    const SHOWABLE: bool = T::SHOWABLE;
}

/// Where a listener binds, or where a client finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// An IP address and port; port 0 lets the system choose.
    Tcp(SocketAddr),
    /// A Unix socket, written `unix:/path`.
    Unix(PathBuf),
}

impl ListenAddress {
    /// Whether only this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            ListenAddress::Tcp(address) => address.ip().is_loopback(),
            ListenAddress::Unix(_) => true,
        }
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::from_text(text).ok_or_else(Self::expected)
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp(address) => address.fmt(f),
            ListenAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Setting for ListenAddress {
    fn expected() -> String {
        "an IP address and port such as \"127.0.0.1:5050\" or \"[::1]:5050\", \
         or \"unix:/path/to/socket\""
            .into()
    }

    fn from_text(text: &str) -> Option<Self> {
        match text.strip_prefix("unix:") {
            Some(path) if Path::new(path).is_absolute() => Some(ListenAddress::Unix(path.into())),
            Some(_) => None,
            None => {
                let text = text.replacen("localhost:", "127.0.0.1:", 1);
                text.parse().ok().map(ListenAddress::Tcp)
            }
        }
    }

    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

/// Declares an enum whose variants have one spelling each in the configuration.
macro_rules! choice {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$vmeta])* $variant),+ }

        impl $name {
            /// The spelling in the configuration.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl Setting for $name {
            fn expected() -> String {
                format!("one of {}", [$(concat!('"', $text, '"')),+].join(", "))
            }

            fn from_text(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)+ _ => None }
            }

            fn show(&self) -> String {
                quoted(self.as_str())
            }
        }
    };
}

choice! {
    /// Whose identifier a token carries.
    IdentityMode {
        /// Always the one registered with the key.
        Registered = "registered",
        /// The one in the request, as JWThenticator does; the nil UUID counts as none.
        Asserted = "asserted",
    }
}

choice! {
    /// How the tunnel listener authenticates its callers.
    NetunnelAuth {
        /// A JWT of ours in `Authorization`.
        Jwt = "jwt",
        /// A shared secret.
        Secret = "secret",
        /// Nothing; only on loopback.
        None = "none",
    }
}

choice! {
    /// How the daemon proves to its peers who it is.
    PeerAuth {
        /// A key or a refresh token, which the peer's JWThenticator exchanges for tokens.
        Jwthenticator = "jwthenticator",
        /// A secret that the peer knows, too.
        Secret = "secret",
        /// Not at all.
        None = "none",
    }
}

choice! {
    /// The algorithm that new signing keys use (RFC 7518 §3.1, RFC 8037).
    #[allow(missing_docs)]
    SigningAlgorithm {
        Rs256 = "RS256",
        Rs384 = "RS384",
        Rs512 = "RS512",
        Ps256 = "PS256",
        Ps384 = "PS384",
        Ps512 = "PS512",
        Es256 = "ES256",
        Es384 = "ES384",
        EdDsa = "EdDSA",
    }
}

choice! {
    /// The modulus length of a generated RSA key, in bits.
    #[allow(missing_docs)]
    RsaBits { B2048 = "2048", B3072 = "3072", B4096 = "4096" }
}

/// Reads a duration of the command line, written as in the configuration.
///
/// # Errors
/// The form that is expected.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    Duration::from_text(text).ok_or_else(|| format!("expected {}", Duration::expected()))
}

/// Reads an algorithm of the command line, written as in the configuration.
///
/// # Errors
/// The names that are possible.
pub fn parse_algorithm(text: &str) -> Result<SigningAlgorithm, String> {
    SigningAlgorithm::from_text(text)
        .ok_or_else(|| format!("expected {}", SigningAlgorithm::expected()))
}

pub(super) fn quoted(text: &str) -> String {
    format!("{text:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_take_one_number_and_one_unit() {
        for (text, secs) in [("0s", 0), ("90000s", 90_000), ("5m", 300), ("25h", 90_000)] {
            assert_eq!(Duration::from_text(text), Some(Duration::from_secs(secs)), "{text}");
        }
        for text in
            ["", "s", "5", "-5s", "+5s", "1.5h", "5 m", "5M", "5ms", "99999999999999999999s"]
        {
            assert_eq!(Duration::from_text(text), None, "{text}");
        }
        assert_eq!(Duration::from_secs(90_000).show(), "\"25h\"");
        assert_eq!(Duration::from_secs(120 * 86_400).show(), "\"120d\"");
        assert_eq!(Duration::from_secs(61).show(), "\"61s\"");
    }

    #[test]
    fn sizes_are_1024_based() {
        assert_eq!(Size::from_text("64k"), Some(Size(65_536)));
        assert_eq!(Size::from_text("10m"), Some(Size(10 << 20)));
        assert_eq!(Size::from_text("7"), Some(Size(7)));
        for text in ["", "k", "-1", "1g", "1 k", "99999999999999999999"] {
            assert_eq!(Size::from_text(text), None, "{text}");
        }
    }

    #[test]
    fn listen_addresses_need_a_port_or_an_absolute_socket_path() {
        for text in ["127.0.0.1:0", "[::1]:5050", "unix:/run/x.sock"] {
            assert_eq!(ListenAddress::from_text(text).unwrap().to_string(), text);
        }
        for text in ["127.0.0.1", "5050", ":5050", "unix:x", "host.example:1"] {
            assert_eq!(ListenAddress::from_text(text), None, "{text}");
        }
        assert!(!ListenAddress::from_text("0.0.0.0:1").unwrap().is_local());
    }
}
