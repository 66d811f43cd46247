//! Which destinations a tunnel may reach, and which addresses it may bind.
//!
//! One place decides, twice for each destination: [`Policy::destination`] by its text, when a tunnel is
//! created and again for each connection, and [`Policy::resolved`] for every address that the text stands
//! for, at each connection. Connecting itself is [`super::dial`]'s work.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::address::{canonical, is_host_name, is_localhost, is_own, is_special};
use crate::auth::Identity;
use crate::config::{Place, Rule};

/// The destinations and binds that are allowed. Clones share one content, which can be replaced at any time; it is
/// judged anew at every connection.
#[derive(Clone, Debug)]
pub struct Policy(Arc<ArcSwap<Mode>>);

#[derive(Clone, Debug)]
enum Mode {
    /// NETunnel's `allowed_tunnel_destinations`, the same for every caller.
    Listed(BTreeMap<String, Ports>),
    /// `[[netunnel.rule]]`: what all matching rules allow together, and nothing else.
    Rules(Vec<Permission>),
}

/// The original's default: any port of the loopback address.
impl Default for Policy {
    fn default() -> Self {
        let any = Ports(vec![1..=u16::MAX]);
        Self::of(Mode::Listed(BTreeMap::from([("127.0.0.1".to_owned(), any)])))
    }
}

#[derive(Clone, Debug)]
struct Permission {
    caller: Caller,
    destinations: Vec<(Pattern, Ports)>,
    binds: Vec<(Pattern, Ports)>,
}

#[derive(Clone, Debug)]
enum Caller {
    Anyone,
    Identifier(String),
    /// All callers of a remote issuer.
    Remote(String),
    /// Who has a claim with a value, by a token of this remote issuer, or of ours.
    Claim {
        remote: Option<String>,
        claim: String,
        value: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Ports(Vec<RangeInclusive<u16>>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    /// One address, which therefore counts as listed literally.
    Address(IpAddr),
    /// Network and prefix length.
    Network(IpAddr, u8),
    /// A name in lower case.
    Name(String),
    /// `*.` and this: any name below it.
    Below(String),
}

/// A destination that was allowed by its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    pub(super) host: Host,
    pub(super) port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host {
    Address(IpAddr),
    Name(String),
}

/// A refusal; the texts are NETunnel's, which its users know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No port of this address is allowed.
    #[error("Address {0} is not allowed as a tunnel destination")]
    Address(String),
    /// The address is, this port of it is not.
    #[error("Port {0}:{1} is not allowed as a tunnel destination")]
    Port(String, String),
    /// A reverse tunnel may not be entered here.
    #[error("Address {0}:{1} is not allowed as a tunnel entrance")]
    Bind(String, String),
}

/// A rule or a list that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: \"{value}\": expected {expected}")]
pub struct PolicyError {
    place: String,
    value: String,
    expected: &'static str,
}

impl Policy {
    /// NETunnel's `allowed_tunnel_destinations`: ports separated by commas, `*` for all, nothing for none.
    ///
    /// # Errors
    /// [`PolicyError`] for a port that is none: it would silently allow less than was meant.
    pub fn from_allowed_destinations(
        destinations: &BTreeMap<String, String>,
    ) -> Result<Self, PolicyError> {
        let ports = |(address, text): (&String, &String)| {
            let mut ranges = Vec::new();
            for port in text.split(',').map(str::trim).filter(|port| !port.is_empty()) {
                ranges.push(match port {
                    "*" => 1..=u16::MAX,
                    port => port_number(port).map(|p| p..=p).ok_or_else(|| PolicyError {
                        place: format!("allowed_tunnel_destinations, \"{address}\""),
                        value: text.clone(),
                        expected: "port numbers separated by commas, or *",
                    })?,
                });
            }
            Ok((address.clone(), Ports(ranges)))
        };
        Ok(Self::of(Mode::Listed(destinations.iter().map(ports).collect::<Result<_, _>>()?)))
    }

    /// The rules of the configuration.
    ///
    /// # Errors
    /// [`PolicyError`] naming the rule and the text that cannot be read.
    pub fn from_rules(rules: &[Rule]) -> Result<Self, PolicyError> {
        let permissions = rules.iter().map(|rule| {
            let place = |at: &Place, key: &str| format!("{at}: [[netunnel.rule]] {key}");
            let caller = match (&rule.identifier, &rule.claim, &rule.value) {
                (Some(any), None, None) if any == "*" => Caller::Anyone,
                (Some(identifier), None, None) => match identifier.strip_suffix(":*") {
                    Some(remote) => Caller::Remote(remote.to_owned()),
                    None => Caller::Identifier(identifier.clone()),
                },
                (None, Some(claim), Some(value)) => Caller::Claim {
                    remote: rule.remote.clone(),
                    claim: claim.clone(),
                    value: value.clone(),
                },
                _ => {
                    return Err(PolicyError {
                        place: place(&rule.destinations_at, "identifier"),
                        value: rule.identifier.clone().unwrap_or_default(),
                        expected: "either identifier, or claim and value",
                    });
                }
            };
            let destination = |text: &String| {
                endpoint(text).ok_or_else(|| PolicyError {
                    place: place(&rule.destinations_at, "destinations"),
                    value: text.clone(),
                    expected: "HOST:PORT, HOST:FROM-TO or HOST:*, where HOST is an address, a network \
                               such as 10.0.0.0/8, a name or *.name, with IPv6 in brackets",
                })
            };
            let bind = |text: &String| {
                let numeric =
                    |(pattern, _): &(Pattern, Ports)| !matches!(pattern, Pattern::Name(_) | Pattern::Below(_));
                endpoint(text).filter(numeric).ok_or_else(|| PolicyError {
                    place: place(&rule.reverse_binds_at, "reverse_binds"),
                    value: text.clone(),
                    expected: "ADDRESS:PORT, ADDRESS:FROM-TO or ADDRESS:*, where ADDRESS may be a network \
                               such as 0.0.0.0/0, with IPv6 in brackets",
                })
            };
            Ok(Permission {
                caller,
                destinations: rule.destinations.iter().map(destination).collect::<Result<_, _>>()?,
                binds: rule.reverse_binds.iter().map(bind).collect::<Result<_, _>>()?,
            })
        });
        Ok(Self::of(Mode::Rules(permissions.collect::<Result<_, _>>()?)))
    }

    fn of(mode: Mode) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(mode)))
    }

    /// Puts the content of `other` in place of this one's, for all clones.
    pub(super) fn replace(&self, other: &Self) {
        self.0.store(other.0.load_full());
    }

    /// Judges a destination by its text. `port` is the text of the JSON value, as NETunnel compares it.
    ///
    /// # Errors
    /// [`Denied`] with NETunnel's text.
    pub fn destination(
        &self,
        caller: &Identity,
        own: &[SocketAddr],
        address: &str,
        port: &str,
    ) -> Result<Destination, Denied> {
        self.0.load().destination(caller, own, address, port)
    }

    /// Judges one address that `destination` stands for right now.
    ///
    /// # Errors
    /// [`Denied`] for the daemon's own listeners, for special addresses that are not listed themselves, and
    /// for a name of another host that leads to this one.
    pub fn resolved(
        &self,
        caller: &Identity,
        own: &[SocketAddr],
        destination: &Destination,
        ip: IpAddr,
    ) -> Result<(), Denied> {
        self.0.load().resolved(caller, own, destination, ip)
    }

    /// Judges the entrance of a reverse tunnel: the addresses to try, best first. Port 0 or none asks for any
    /// allowed port.
    ///
    /// # Errors
    /// [`Denied::Bind`].
    pub fn bind(
        &self,
        caller: &Identity,
        own: &[SocketAddr],
        address: &str,
        port: Option<u16>,
    ) -> Result<Vec<SocketAddr>, Denied> {
        self.0.load().bind(caller, own, address, port)
    }
}

impl Mode {
    fn destination(
        &self,
        caller: &Identity,
        own: &[SocketAddr],
        address: &str,
        port: &str,
    ) -> Result<Destination, Denied> {
        let no_address = || Denied::Address(super::wire::shown(address));
        let no_port = || Denied::Port(super::wire::shown(address), super::wire::shown(port));
        let host = match address.parse() {
            Ok(ip) => Host::Address(ip),
            Err(_) if is_host_name(address) => Host::Name(address.to_owned()),
            Err(_) => return Err(no_address()),
        };
        match self.ports(caller, address, &host) {
            ports if ports.is_empty() => Err(no_address()),
            ports => {
                let number = port_number(port).ok_or_else(no_port)?;
                if !ports.iter().any(|ports| ports.contains(number)) {
                    return Err(no_port());
                }
                let destination = Destination { host, port: number };
                if let Host::Address(ip) = destination.host {
                    self.resolved(caller, own, &destination, ip)?;
                }
                Ok(destination)
            }
        }
    }

    fn resolved(
        &self,
        caller: &Identity,
        own: &[SocketAddr],
        destination: &Destination,
        ip: IpAddr,
    ) -> Result<(), Denied> {
        let port = destination.port;
        let plain = canonical(ip);
        if is_own(own, plain, port) {
            return Err(Denied::Port(ip.to_string(), port.to_string()));
        }
        if is_special(plain) && !self.lists(caller, plain, port) {
            return Err(Denied::Address(ip.to_string()));
        }
        // A name that someone else controls must not open the services of this host.
        if let Host::Name(name) = &destination.host
            && plain.is_loopback()
            && !is_localhost(name)
            && !self.allows(caller, plain, port)
        {
            return Err(Denied::Address(ip.to_string()));
        }
        Ok(())
    }

    fn bind(
        &self,
        caller: &Identity,
        own: &[SocketAddr],
        address: &str,
        port: Option<u16>,
    ) -> Result<Vec<SocketAddr>, Denied> {
        let port = port.unwrap_or(0);
        let denied = || Denied::Bind(super::wire::shown(address), port.to_string());
        let ip = match address {
            // Never by the resolver: which addresses it has is not for the caller to find out.
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            other => other.parse().map_err(|_| denied())?,
        };
        let allowed = match self {
            Mode::Listed(_) if ip == Ipv4Addr::LOCALHOST => vec![1024..=u16::MAX],
            Mode::Listed(_) => vec![],
            Mode::Rules(rules) => rules
                .iter()
                .filter(|rule| rule.caller.matches(caller))
                .flat_map(|rule| &rule.binds)
                .filter(|(pattern, _)| pattern.holds(ip))
                .flat_map(|(_, ports)| ports.0.clone())
                .collect(),
        };
        let contains = |port| allowed.iter().any(|range| range.contains(&port));
        if port != 0 {
            let free = contains(port) && !is_own(own, ip, port);
            return if free { Ok(vec![(ip, port).into()]) } else { Err(denied()) };
        }
        if allowed.is_empty() {
            return Err(denied());
        }
        // The system's own choice is quick, and always right where everything unprivileged is allowed.
        if (1024..=u16::MAX).all(contains) {
            return Ok(vec![(ip, 0).into()]);
        }
        let ports = allowed.iter().flat_map(Clone::clone).filter(|port| !is_own(own, ip, *port));
        Ok(ports.map(|port| (ip, port).into()).collect())
    }

    /// The ports that are allowed for a destination by its text.
    fn ports(&self, caller: &Identity, text: &str, host: &Host) -> Vec<&Ports> {
        match self {
            // Compared as a string, as the original does: no other form of the same address.
            Mode::Listed(listed) => {
                listed.get(text).filter(|ports| !ports.0.is_empty()).into_iter().collect()
            }
            Mode::Rules(_) => self
                .destinations(caller)
                .filter(|(pattern, _)| match host {
                    Host::Address(ip) => pattern.holds(*ip),
                    Host::Name(name) => pattern.names(name),
                })
                .map(|(_, ports)| ports)
                .collect(),
        }
    }

    /// Whether the operator named exactly this address.
    fn lists(&self, caller: &Identity, ip: IpAddr, port: u16) -> bool {
        match self {
            Mode::Listed(listed) => listed.iter().any(|(text, ports)| {
                text.parse().is_ok_and(|listed| canonical(listed) == ip) && ports.contains(port)
            }),
            Mode::Rules(_) => self.destinations(caller).any(|(pattern, ports)| {
                matches!(pattern, Pattern::Address(listed) if canonical(*listed) == ip)
                    && ports.contains(port)
            }),
        }
    }

    /// Whether this address may be reached under its own name.
    fn allows(&self, caller: &Identity, ip: IpAddr, port: u16) -> bool {
        match self {
            Mode::Listed(_) => self.lists(caller, ip, port),
            Mode::Rules(_) => self
                .destinations(caller)
                .any(|(pattern, ports)| pattern.holds(ip) && ports.contains(port)),
        }
    }

    fn destinations(&self, caller: &Identity) -> impl Iterator<Item = &(Pattern, Ports)> {
        let rules = match self {
            Mode::Rules(rules) => rules.as_slice(),
            Mode::Listed(_) => &[],
        };
        rules.iter().filter(|rule| rule.caller.matches(caller)).flat_map(|rule| &rule.destinations)
    }
}

impl Caller {
    fn matches(&self, identity: &Identity) -> bool {
        match self {
            Self::Anyone => true,
            Self::Identifier(identifier) => identity.identifier() == identifier,
            Self::Remote(name) => identity.remote() == Some(name),
            // What another issuer writes into its tokens must not open what was meant for ours.
            Self::Claim { remote, claim, value } => {
                identity.remote() == remote.as_deref() && identity.has_claim(claim, value)
            }
        }
    }
}

impl Ports {
    fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(&port))
    }
}

impl Pattern {
    fn holds(&self, ip: IpAddr) -> bool {
        let ip = canonical(ip);
        match self {
            Self::Address(address) => canonical(*address) == ip,
            Self::Network(network, prefix) => in_network(ip, *network, *prefix),
            Self::Name(_) | Self::Below(_) => false,
        }
    }

    fn names(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        match self {
            Self::Name(own) => *own == name,
            Self::Below(zone) => name
                .strip_suffix(zone.as_str())
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            Self::Address(_) | Self::Network(..) => false,
        }
    }
}

fn in_network(ip: IpAddr, network: IpAddr, prefix: u8) -> bool {
    let bits = |ip| match ip {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    };
    let ((ip, ip_width), (network, width)) = (bits(ip), bits(network));
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
    ip_width == width && ip & mask == network & mask
}

/// `HOST:PORTS` of a rule.
fn endpoint(text: &str) -> Option<(Pattern, Ports)> {
    let (host, ports) = text.rsplit_once(':')?;
    Some((pattern(host)?, port_range(ports)?))
}

fn pattern(text: &str) -> Option<Pattern> {
    let bare = match text.strip_prefix('[') {
        Some(inner) => {
            let inner = inner.strip_suffix(']')?;
            inner.contains(':').then_some(inner)?
        }
        None if text.contains(':') => return None,
        None => text,
    };
    if let Some((network, prefix)) = bare.split_once('/') {
        let network: IpAddr = network.parse().ok()?;
        let prefix = prefix.parse().ok().filter(|_| prefix.bytes().all(|b| b.is_ascii_digit()))?;
        let width = if network.is_ipv4() { 32 } else { 128 };
        return (prefix <= width).then_some(Pattern::Network(network, prefix));
    }
    if let Ok(ip) = bare.parse() {
        return Some(Pattern::Address(ip));
    }
    let lower = bare.to_ascii_lowercase();
    match lower.strip_prefix("*.") {
        Some(zone) => is_host_name(zone).then(|| Pattern::Below(zone.to_owned())),
        None => is_host_name(&lower).then_some(Pattern::Name(lower)),
    }
}

fn port_range(text: &str) -> Option<Ports> {
    let range = match (text, text.split_once('-')) {
        ("*", _) => 1..=u16::MAX,
        (_, Some((from, to))) => port_number(from)?..=port_number(to)?,
        (one, None) => port_number(one).map(|port| port..=port)?,
    };
    (!range.is_empty()).then(|| Ports(vec![range]))
}

/// A port in its one decimal form: NETunnel compares texts, so ` 22`, `022` and `22.0` are not 22.
pub(super) fn port_number(text: &str) -> Option<u16> {
    let port: u16 = text.parse().ok().filter(|port| *port != 0)?;
    (port.to_string() == text).then_some(port)
}

#[cfg(test)]
mod tests;
