//! Addresses that must never be reached by accident, by tunnels or by requests of the daemon itself, in whatever
//! spelling they come.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use reqwest::Url;

/// Unwraps IPv4 addresses that hide in IPv6 ones, so that there is one form to judge: mapped
/// (RFC 4291 §2.5.5.2), compatible (§2.5.5.1), NAT64 (RFC 6052 §2.1) and 6to4 (RFC 3056 §2).
pub(crate) fn canonical(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    let octets = v6.octets();
    let v4 = |at: usize| {
        IpAddr::V4(Ipv4Addr::new(octets[at], octets[at + 1], octets[at + 2], octets[at + 3]))
    };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => v4(12),
        // ::1 and :: are addresses of their own.
        [0, 0, 0, 0, 0, 0, high, low] if (high, low) > (0, 1) => v4(12),
        [0x2002, ..] => v4(2),
        _ => ip,
    }
}

/// Whether a canonical address is one that only an operator who names it can mean: cloud metadata,
/// link-local, unspecified, multicast, broadcast and reserved ones.
pub(crate) fn is_special(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            let [first, ..] = v4.octets();
            // 240/4 holds the broadcast address; 100.100.100.200 is a metadata service outside 169.254/16.
            first == 0
                || first >= 224
                || v4.is_link_local()
                || v4 == Ipv4Addr::new(100, 100, 100, 200)
        }
        IpAddr::V6(v6) => {
            v6.is_unspecified()
                || v6.is_multicast()
                || v6.segments()[0] & 0xffc0 == 0xfe80
                || v6 == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)
        }
    }
}

/// Whether a canonical address belongs to this host or to a network of its own, which nobody reaches from outside:
/// loopback, RFC 1918, RFC 4193, and what is shared, local or for tests by RFC 6890.
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            let [first, second, third, _] = v4.octets();
            v4.is_loopback()
                || v4.is_private()
                || (first, second & 0xc0) == (100, 64)
                || (first, second, third) == (192, 0, 0)
                || (first, second & 0xfe) == (198, 18)
        }
        IpAddr::V6(v6) => {
            let [first, second, third, ..] = v6.segments();
            v6.is_loopback()
                || first & 0xfe00 == 0xfc00
                || first & 0xffc0 == 0xfec0
                // RFC 8215: an address of any IPv4 network behind a translator.
                || (first, second, third) == (0x64, 0xff9b, 1)
        }
    }
}

/// Where requests may go that follow an operator's URL, or a URL that the answer to such a request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    /// This host: the operator's URL names it.
    loopback: bool,
    /// Private networks, this host included.
    private: bool,
}

/// Why a URL or an address is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreachable {
    #[error("is neither https nor http")]
    Scheme,
    #[error("is not https, which only loopback addresses need not be")]
    Plain,
    #[error("holds a user name or a password, which would end up in logs")]
    Credentials,
    #[error("leads to this host or to a private network; allow_private = true allows that")]
    Private,
    #[error("leads to an address that is never connected to, such as cloud metadata")]
    Special,
}

impl Reach {
    /// What the operator's `url` allows, also for what it leads to.
    pub(crate) fn of(url: &Url, allow_private: bool) -> Self {
        Self { loopback: names_this_host(url), private: allow_private }
    }

    /// Judges a URL by its text. What its name stands for is judged by [`Reach::address`].
    pub(crate) fn url(self, url: &Url) -> Result<(), Unreachable> {
        match url.scheme() {
            "https" => {}
            "http" if names_this_host(url) => {}
            "http" => return Err(Unreachable::Plain),
            _ => return Err(Unreachable::Scheme),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Unreachable::Credentials);
        }
        match url_address(url) {
            Some(ip) => self.address(ip, url.scheme() == "http"),
            None if names_this_host(url) && !self.loopback && !self.private => {
                Err(Unreachable::Private)
            }
            None => Ok(()),
        }
    }

    /// Judges an address that is about to be connected to; `plain` is for http, which does not leave this host.
    pub(crate) fn address(self, ip: IpAddr, plain: bool) -> Result<(), Unreachable> {
        let ip = canonical(ip);
        if is_special(ip) {
            return Err(Unreachable::Special);
        }
        if plain && !ip.is_loopback() {
            return Err(Unreachable::Plain);
        }
        let allowed = self.private || (self.loopback && ip.is_loopback());
        if is_private(ip) && !allowed { Err(Unreachable::Private) } else { Ok(()) }
    }
}

/// The address that stands in a URL as its host.
fn url_address(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

fn names_this_host(url: &Url) -> bool {
    match url_address(url) {
        Some(ip) => canonical(ip).is_loopback(),
        None => url.host_str().is_some_and(is_localhost),
    }
}

/// Whether connecting to `ip` and `port`, or binding them, meets one of the daemon's own listeners.
pub(crate) fn is_own(own: &[SocketAddr], ip: IpAddr, port: u16) -> bool {
    let ip = canonical(ip);
    own.iter().filter(|own| own.port() == port).any(|own| {
        let own = canonical(own.ip());
        // The unspecified address stands for every local one, on either side.
        own == ip || ip.is_unspecified() || (own.is_unspecified() && is_local(ip))
    })
}

/// Whether `ip` is an address of this host: only those can be bound.
fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

/// Whether `text` can be given to the resolver as a name.
///
/// Not if resolvers read it as an address that we would not recognise: short, octal and hexadecimal IPv4
/// forms, whose last label starts with a digit, and IPv6 zone ids.
pub(crate) fn is_host_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    name.len() <= 253
        && name.split('.').all(label)
        && name
            .rsplit('.')
            .next()
            .is_some_and(|last| !last.starts_with(|c: char| c.is_ascii_digit()))
}

/// Whether `name` means this host by definition (RFC 6761 §6.3).
pub(crate) fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn hidden_ipv4_addresses_are_unwrapped() {
        for text in [
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2002:7f00:1::9",
        ] {
            assert_eq!(canonical(ip(text)), ip("127.0.0.1"), "{text}");
        }
        for text in ["::1", "::", "2001:db8::1", "fe80::1", "10.0.0.1"] {
            assert_eq!(canonical(ip(text)), ip(text), "{text}");
        }
    }

    /// rel:W6, the addresses that are never dialled unless listed.
    #[test]
    fn special_addresses_are_recognised_in_every_form() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "169.254.0.1",
            "100.100.100.200",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "fd00:ec2::254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::",
            "::ffff:0.0.0.0",
            "::ffff:255.255.255.255",
        ] {
            assert!(is_special(canonical(ip(text))), "{text}");
        }
        for text in ["127.0.0.1", "10.0.0.1", "100.100.100.201", "fec0::1", "fd00:ec2::253", "::1"]
        {
            assert!(!is_special(canonical(ip(text))), "{text}");
        }
    }

    /// rel:W6: forms that the resolver would read as addresses are no names.
    #[test]
    fn odd_spellings_of_addresses_are_no_names() {
        for text in [
            "127.1",
            "127.0.1",
            "2130706433",
            "0x7f000001",
            "0x7f.0.0.1",
            "0177.0.0.1",
            "127.0.0.0x1",
            "127.0.0.01",
            "1",
            "fe80::1%eth0",
            "fe80::1",
            "[::1]",
            "127.0.0.1.",
            "a..b",
            "",
            ".",
            "-_ ",
            "a b",
            "host%20",
            "host:80",
            "user@host",
            "host/path",
            "ho\u{2024}st",
            "１２７.0.0.1",
        ] {
            assert!(!is_host_name(text), "{text}");
        }
        for text in ["localhost", "db.internal", "a-b_c.example", "x1.example.", "1e100.net"] {
            assert!(is_host_name(text), "{text}");
        }
    }

    #[test]
    fn own_listeners_are_found_behind_wildcards_and_other_forms() {
        let own =
            [SocketAddr::from(([127, 0, 0, 1], 5051)), SocketAddr::from(([0, 0, 0, 0], 4040))];
        for (text, port) in [
            ("127.0.0.1", 5051),
            ("::ffff:127.0.0.1", 5051),
            ("0.0.0.0", 5051),
            ("::", 5051),
            ("127.0.0.1", 4040),
            ("127.9.9.9", 4040),
            ("0.0.0.0", 4040),
        ] {
            assert!(is_own(&own, ip(text), port), "{text}:{port}");
        }
        for (text, port) in [("127.0.0.1", 5052), ("127.0.0.2", 5051), ("192.0.2.1", 4040)] {
            assert!(!is_own(&own, ip(text), port), "{text}:{port}");
        }
    }

    /// rel:W6 for requests of the daemon: private networks are for the operator to allow, and metadata never is.
    #[test]
    fn a_request_goes_to_public_addresses_unless_the_operator_says_otherwise() {
        let url = |text: &str| Url::parse(text).unwrap();
        let public = Reach::of(&url("https://corp.example/jwks"), false);
        let here = Reach::of(&url("http://127.0.0.1:8080/jwks"), false);
        let private = Reach::of(&url("https://corp.lan/jwks"), true);
        use Unreachable::{Credentials, Plain, Private, Scheme, Special};
        for (text, expected) in [
            ("https://corp.example/jwks", [Ok(()); 3]),
            ("https://93.184.216.34/jwks", [Ok(()); 3]),
            ("http://corp.example/jwks", [Err(Plain); 3]),
            ("http://10.0.0.1/jwks", [Err(Plain); 3]),
            ("ftp://corp.example/jwks", [Err(Scheme); 3]),
            ("https://me@corp.example/", [Err(Credentials); 3]),
            ("https://:pw@corp.example/", [Err(Credentials); 3]),
            ("http://localhost:1/", [Err(Private), Ok(()), Ok(())]),
            ("http://127.0.0.1:1/", [Err(Private), Ok(()), Ok(())]),
            ("http://[::1]:1/", [Err(Private), Ok(()), Ok(())]),
            ("https://[::ffff:127.0.0.1]/", [Err(Private), Ok(()), Ok(())]),
            // The resolver's odd spellings are addresses for a URL, and judged as such.
            ("https://0x7f.1/", [Err(Private), Ok(()), Ok(())]),
            ("https://10.1.2.3/", [Err(Private), Err(Private), Ok(())]),
            ("https://172.16.0.1/", [Err(Private), Err(Private), Ok(())]),
            ("https://192.168.1.1/", [Err(Private), Err(Private), Ok(())]),
            ("https://100.64.0.1/", [Err(Private), Err(Private), Ok(())]),
            ("https://[fd00::1]/", [Err(Private), Err(Private), Ok(())]),
            ("https://[64:ff9b::10.0.0.1]/", [Err(Private), Err(Private), Ok(())]),
            ("https://[64:ff9b:1::1]/", [Err(Private), Err(Private), Ok(())]),
            ("https://169.254.169.254/", [Err(Special); 3]),
            ("https://2852039166/", [Err(Special); 3]),
            ("https://100.100.100.200/", [Err(Special); 3]),
            ("https://[fd00:ec2::254]/", [Err(Special); 3]),
            ("https://[fe80::1]/", [Err(Special); 3]),
            ("https://0.0.0.0/", [Err(Special); 3]),
        ] {
            assert_eq!(
                [public, here, private].map(|reach| reach.url(&url(text))),
                expected,
                "{text}"
            );
        }
        // A name is judged by what it stands for when it is connected to.
        assert_eq!(public.address(ip("10.0.0.1"), false), Err(Private));
        assert_eq!(private.address(ip("10.0.0.1"), false), Ok(()));
        assert_eq!(here.address(ip("93.184.216.34"), true), Err(Plain), "a localhost elsewhere");
    }

    #[test]
    fn localhost_is_recognised_by_name() {
        for name in ["localhost", "LOCALHOST.", "db.localhost"] {
            assert!(is_localhost(name), "{name}");
        }
        assert!(!is_localhost("localhost.example"));
    }
}
