//! Ranges of addresses: `192.0.2.0/24`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// All addresses that begin with the same bits. An IPv4 address in IPv6 (`::ffff:192.0.2.1`) is an IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpPrefix {
    /// The first address of the range.
    address: IpAddr,
    length: u8,
}

/// Why a text is not a range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpPrefixError {
    /// No address before the `/`.
    #[error("it does not begin with an IP address")]
    Address,
    /// No number behind the `/`, or one that is too large.
    #[error("the length behind `/` is a number up to {0}")]
    Length(u8),
    /// The address has bits behind the prefix; this is the range it is in.
    #[error("the address goes beyond the prefix")]
    Beyond(IpPrefix),
}

impl IpPrefix {
    /// Reads `192.0.2.0/24`, `2001:db8::/32`, or an address alone, which is a range of one.
    pub fn parse(written: &str) -> Result<Self, IpPrefixError> {
        let (address, length) = match written.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (written, None),
        };
        let address: IpAddr = address.parse().map_err(|_| IpPrefixError::Address)?;
        let max = if address.is_ipv4() { 32 } else { 128 };
        let is_number =
            |length: &&str| !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
        let length = match length {
            None => max,
            Some(length) => Some(length)
                .filter(is_number)
                .and_then(|length| length.parse().ok())
                .filter(|length| *length <= max)
                .ok_or(IpPrefixError::Length(max))?,
        };
        let prefix = Self {
            address: first(address, length),
            length,
        };
        if prefix.address == address {
            Ok(prefix)
        } else {
            Err(IpPrefixError::Beyond(prefix))
        }
    }

    /// The first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many bits are the same.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether an address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && first(address, self.length) == self.address
    }

    /// Whether all addresses of `other` are in it.
    pub fn covers(&self, other: &Self) -> bool {
        self.length <= other.length
            && other.address.is_ipv4() == self.address.is_ipv4()
            && first(other.address, self.length) == self.address
    }
}

/// The range of one address.
impl From<IpAddr> for IpPrefix {
    fn from(address: IpAddr) -> Self {
        let address = address.to_canonical();
        let length = if address.is_ipv4() { 32 } else { 128 };
        Self { address, length }
    }
}

/// The first address of the range of this length that an address is in.
fn first(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(written: &str) -> IpPrefix {
        IpPrefix::parse(written).unwrap()
    }

    #[test]
    fn ranges_are_read_whole() {
        let check = |written: &str, expected: Result<&str, IpPrefixError>| {
            assert_eq!(
                IpPrefix::parse(written).map(|prefix| prefix.to_string()),
                expected.map(str::to_owned),
                "{written}"
            );
        };
        check("192.0.2.0/24", Ok("192.0.2.0/24"));
        check("192.0.2.7", Ok("192.0.2.7/32"));
        check("0.0.0.0/0", Ok("0.0.0.0/0"));
        check("2001:db8::/32", Ok("2001:db8::/32"));
        check("::/0", Ok("::/0"));
        check(
            "192.0.2.7/24",
            Err(IpPrefixError::Beyond(prefix("192.0.2.0/24"))),
        );
        check("192.0.2.0/33", Err(IpPrefixError::Length(32)));
        check("192.0.2.0/", Err(IpPrefixError::Length(32)));
        check("192.0.2.0/+8", Err(IpPrefixError::Length(32)));
        check("2001:db8::/129", Err(IpPrefixError::Length(128)));
        check("example.com", Err(IpPrefixError::Address));
    }

    #[test]
    fn a_range_contains_its_own_family_only() {
        let check = |range: &str, address: &str, expected: bool| {
            assert_eq!(
                prefix(range).contains(address.parse().unwrap()),
                expected,
                "{range} {address}"
            );
        };
        check("192.0.2.0/24", "192.0.2.255", true);
        check("192.0.2.0/24", "192.0.3.0", false);
        check("192.0.2.0/24", "::ffff:192.0.2.1", true);
        check("0.0.0.0/0", "2001:db8::1", false);
        check("::/0", "192.0.2.1", false);
        check("2001:db8::/32", "2001:db8:ffff::1", true);
        assert!(prefix("192.0.2.0/24").covers(&prefix("192.0.2.128/25")));
        assert!(!prefix("192.0.2.128/25").covers(&prefix("192.0.2.0/24")));
        assert!(!prefix("0.0.0.0/0").covers(&prefix("::/0")));
    }
}
