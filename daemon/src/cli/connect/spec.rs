//! Tunnels as the command line and the file write them, in the manner of `ssh -L` and `ssh -R`.

use std::fmt;
use std::path::PathBuf;

use crate::tunnel::client::Target;

/// One tunnel that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Spec {
    /// Entered here, left at the server.
    Forward { listen: Listen, host: String, port: u16 },
    /// Entered at the server, left here.
    Reverse { address: String, port: u16, target: Target },
}

/// Where a forward tunnel is entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Listen {
    /// Port 0 lets the system choose.
    Tcp(String, u16),
    /// The same for datagrams.
    Udp(String, u16),
    Unix(PathBuf),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address, port) => write!(f, "{address}:{port}"),
            Self::Udp(address, port) => write!(f, "{address}:{port}/udp"),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

const FORWARD: &str =
    "expected [ADDRESS:]PORT:HOST:PORT[/udp] or /SOCKET:HOST:PORT, with IPv6 in brackets";
const REVERSE: &str =
    "expected [ADDRESS:]PORT:HOST:PORT[/udp] or [ADDRESS:]PORT:/SOCKET, with IPv6 in brackets";

/// Reads `-L`.
///
/// # Errors
/// The form that is expected.
pub(super) fn forward(text: &str) -> Result<Spec, String> {
    let read = || {
        let (text, is_udp) = protocol(text);
        let (listen, rest) = match text.strip_prefix('/') {
            Some(_) if is_udp => return None,
            Some(rest) => {
                let (path, rest) = rest.split_once(':')?;
                (Listen::Unix(format!("/{path}").into()), parts(rest)?)
            }
            None => {
                let mut parts = parts(text)?;
                let (address, port) = entrance(&mut parts, 2)?;
                let listen = if is_udp { Listen::Udp } else { Listen::Tcp };
                (listen(address, port), parts)
            }
        };
        let [host, port] = <[String; 2]>::try_from(rest).ok()?;
        let port = port.parse().ok().filter(|port| *port != 0)?;
        Some(Spec::Forward { listen, host, port })
    };
    read().ok_or_else(|| FORWARD.to_owned())
}

/// Reads `-R`.
///
/// # Errors
/// The form that is expected.
pub(super) fn reverse(text: &str) -> Result<Spec, String> {
    let read = || {
        let (text, target, is_udp) = match text.split_once(":/") {
            // A socket may have any name, one that ends in /udp too.
            Some((text, path)) => (text, Some(Target::Unix(format!("/{path}").into())), false),
            None => {
                let (text, is_udp) = protocol(text);
                (text, None, is_udp)
            }
        };
        let mut parts = parts(text)?;
        let (address, port) = entrance(&mut parts, if target.is_some() { 0 } else { 2 })?;
        let target = match target {
            Some(target) if parts.is_empty() => target,
            Some(_) => return None,
            None => {
                let [host, port] = <[String; 2]>::try_from(parts).ok()?;
                let port = port.parse().ok().filter(|port| *port != 0)?;
                if is_udp { Target::Udp(host, port) } else { Target::Tcp(host, port) }
            }
        };
        Some(Spec::Reverse { address, port, target })
    };
    read().ok_or_else(|| REVERSE.to_owned())
}

/// Takes `/udp` or `/tcp` from the end; whether it is UDP.
fn protocol(text: &str) -> (&str, bool) {
    match text.strip_suffix("/udp") {
        Some(text) => (text, true),
        None => (text.strip_suffix("/tcp").unwrap_or(text), false),
    }
}

/// Takes `[ADDRESS:]PORT` from the front, so that `rest` parts remain.
fn entrance(parts: &mut Vec<String>, rest: usize) -> Option<(String, u16)> {
    let address = match parts.len().checked_sub(rest)? {
        1 => "127.0.0.1".to_owned(),
        2 => parts.remove(0),
        _ => return None,
    };
    Some((address, parts.remove(0).parse().ok()?))
}

/// Splits at colons that are not in brackets; the brackets go.
fn parts(text: &str) -> Option<Vec<String>> {
    let mut parts = vec![String::new()];
    let mut inside = false;
    for c in text.chars() {
        match c {
            '[' if !inside => inside = true,
            ']' if inside => inside = false,
            '[' | ']' => return None,
            ':' if !inside => parts.push(String::new()),
            c => parts.last_mut()?.push(c),
        }
    }
    (!inside && parts.iter().all(|part| !part.is_empty())).then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(address: &str, port: u16, host: &str, to: u16) -> Spec {
        Spec::Forward { listen: Listen::Tcp(address.into(), port), host: host.into(), port: to }
    }

    #[test]
    fn forward_tunnels_are_written_as_ssh_writes_them() {
        assert_eq!(forward("8080:db.lan:5432"), Ok(tcp("127.0.0.1", 8080, "db.lan", 5432)));
        assert_eq!(forward("0.0.0.0:0:10.0.0.1:80"), Ok(tcp("0.0.0.0", 0, "10.0.0.1", 80)));
        assert_eq!(forward("[::1]:1:[::2]:2"), Ok(tcp("::1", 1, "::2", 2)));
        let unix =
            Spec::Forward { listen: Listen::Unix("/run/a.sock".into()), host: "h".into(), port: 1 };
        assert_eq!(forward("/run/a.sock:h:1"), Ok(unix));
        let udp =
            Spec::Forward { listen: Listen::Udp("::1".into(), 53), host: "::2".into(), port: 53 };
        assert_eq!(forward("[::1]:53:[::2]:53/udp"), Ok(udp));
        assert_eq!(forward("8080:h:1/tcp"), Ok(tcp("127.0.0.1", 8080, "h", 1)));
        for text in [
            "",
            "1",
            "1:h",
            "1:h:0",
            "x:h:1",
            "1:2:3:4:5",
            "::1:1:h:1",
            "1:h:65536",
            "[::1:1:h:1",
            "a.sock:h:1:",
            "/run/a.sock:h:1/udp",
            "1:h:1/sctp",
            "1:h/udp",
            "/udp",
        ] {
            assert_eq!(forward(text), Err(FORWARD.into()), "{text}");
        }
    }

    #[test]
    fn reverse_tunnels_may_lead_to_a_socket() {
        let to = |target| Ok(Spec::Reverse { address: "127.0.0.1".into(), port: 2222, target });
        assert_eq!(reverse("2222:127.0.0.1:22"), to(Target::Tcp("127.0.0.1".into(), 22)));
        assert_eq!(reverse("2222:/run/docker.sock"), to(Target::Unix("/run/docker.sock".into())));
        let any = Spec::Reverse { address: "0.0.0.0".into(), port: 0, target: ("h", 1).into() };
        assert_eq!(reverse("0.0.0.0:0:h:1"), Ok(any));
        assert_eq!(reverse("2222:h:53/udp"), to(Target::Udp("h".into(), 53)));
        assert_eq!(reverse("2222:/run/udp"), to(Target::Unix("/run/udp".into())));
        for text in ["", "1", "1:h", "1:h:0", ":/x", "a:b:c:/x", "1:h:1:/x", "1:h/udp"] {
            assert_eq!(reverse(text), Err(REVERSE.into()), "{text}");
        }
    }
}
