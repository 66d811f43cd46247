//! A block of IP addresses, written `10.0.0.0/8` or, for one address, `10.0.0.1`.

use std::net::IpAddr;

use toml::de::DeValue;

use super::value::{Setting, quoted};

/// A block of addresses. An IPv4 address that is written as IPv6 is the IPv4 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    length: u8,
}

impl Network {
    /// Reads one block.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            // Not "+8", which parse() would take.
            Some(text) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok()?,
            Some(_) => return None,
            None => most,
        };
        (length <= most).then_some(Self { address, length })
    }

    /// Whether `address` is in the block.
    pub fn contains(&self, address: IpAddr) -> bool {
        let shifted =
            |bits: u128, width: u32| bits.checked_shr(width - u32::from(self.length)).unwrap_or(0);
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let bits = |ip: std::net::Ipv4Addr| u128::from(ip.to_bits());
                shifted(bits(own), 32) == shifted(bits(other), 32)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                shifted(own.to_bits(), 128) == shifted(other.to_bits(), 128)
            }
            _ => false,
        }
    }
}

/// Several blocks: a TOML array, or one comma-separated variable.
impl Setting for Vec<Network> {
    fn expected() -> String {
        "a list of addresses and networks, such as [\"127.0.0.1\", \"10.0.0.0/8\"]".into()
    }

    fn from_text(text: &str) -> Option<Self> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(Network::parse).collect()
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        <Vec<String>>::from_toml(value)?.iter().map(|text| Network::parse(text)).collect()
    }

    fn show(&self) -> String {
        let items: Vec<_> = self
            .iter()
            .map(|network| quoted(&format!("{}/{}", network.address, network.length)))
            .collect();
        format!("[{}]", items.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_hold_their_addresses_in_either_spelling() {
        for (block, address, holds) in [
            ("127.0.0.0/8", "127.255.0.1", true),
            ("127.0.0.0/8", "128.0.0.1", false),
            ("127.0.0.0/8", "::ffff:127.0.0.1", true),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("0.0.0.0/0", "8.8.8.8", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "2001:db8::1", true),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::1", "::1", true),
        ] {
            let block = Network::parse(block).unwrap();
            assert_eq!(block.contains(address.parse().unwrap()), holds, "{block:?} {address}");
        }
        for text in ["", "10.0.0.0/33", "::/129", "10.0.0.0/+8", "10.0.0.0/", "host", "10.0.0/8"] {
            assert_eq!(Network::parse(text), None, "{text}");
        }
    }
}
