//! Ends of connections that somebody asks for: an address with any port or one, or a range of addresses.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crate::ip_prefix::{IpPrefix, IpPrefixError};

/// Addresses of a range, with any port or with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoints {
    range: IpPrefix,
    port: Option<u16>,
}

/// Why a text names no ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointsError {
    /// It is nothing of what it may be.
    #[error(
        "`{0}` is neither an IP address, nor one with a port, nor a range such as 192.0.2.0/24"
    )]
    Other(String),
    /// It is a range, but not a right one.
    #[error("`{0}`: {1}")]
    Range(String, IpPrefixError),
    /// The address of the range has bits behind the prefix.
    #[error("`{0}` goes beyond its prefix; the range is {1}")]
    Beyond(String, IpPrefix),
}

impl Endpoints {
    /// Whether an end is one of them.
    pub fn contains(&self, end: SocketAddr) -> bool {
        self.port.is_none_or(|port| port == end.port()) && self.range.contains(end.ip())
    }
}

impl From<IpAddr> for Endpoints {
    fn from(address: IpAddr) -> Self {
        Self {
            range: address.into(),
            port: None,
        }
    }
}

impl From<SocketAddr> for Endpoints {
    fn from(end: SocketAddr) -> Self {
        Self {
            range: end.ip().into(),
            port: Some(end.port()),
        }
    }
}

impl FromStr for Endpoints {
    type Err = EndpointsError;

    fn from_str(text: &str) -> Result<Self, EndpointsError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(address.into());
        }
        if let Ok(end) = text.parse::<SocketAddr>() {
            return Ok(end.into());
        }
        match IpPrefix::parse(text) {
            Ok(range) => Ok(Self { range, port: None }),
            Err(IpPrefixError::Address) => Err(EndpointsError::Other(text.to_owned())),
            Err(IpPrefixError::Beyond(range)) => {
                Err(EndpointsError::Beyond(text.to_owned(), range))
            }
            Err(error) => Err(EndpointsError::Range(text.to_owned(), error)),
        }
    }
}

impl fmt::Display for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.range.address(), port).fmt(f),
            None if self.range == self.range.address().into() => self.range.address().fmt(f),
            None => self.range.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_of_a_range_and_of_a_port() {
        let check = |text: &str, end: &str, contains: bool| {
            let ends: Endpoints = text.parse().unwrap();
            assert_eq!(ends.to_string(), text);
            assert_eq!(
                ends.contains(end.parse().unwrap()),
                contains,
                "{text} {end}"
            );
        };
        check("192.0.2.1", "192.0.2.1:80", true);
        check("192.0.2.1:80", "192.0.2.1:80", true);
        check("192.0.2.1:81", "192.0.2.1:80", false);
        check("192.0.2.2", "192.0.2.1:80", false);
        check("192.0.2.0/24", "192.0.2.1:80", true);
        check("192.0.2.0/24", "192.0.3.1:80", false);
        check("0.0.0.0/0", "[2001:db8::1]:443", false);
        check("2001:db8::/32", "[2001:db8::1]:443", true);
        check("2001:db8::1", "[2001:db8::1]:443", true);
        check("[2001:db8::1]:443", "[2001:db8::1]:443", true);
        check("[2001:db8::1]:443", "[2001:db8::1]:444", false);
    }

    #[test]
    fn what_names_no_ends_is_told_apart() {
        let check = |text: &str, expected: &str| {
            let error = text.parse::<Endpoints>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        };
        for text in [
            "",
            "web",
            "192.0.2.1:",
            "192.0.2.1:70000",
            "2001:db8::1:443:",
        ] {
            check(text, &format!("`{text}` is neither an IP address"));
        }
        check("192.0.2.0/33", "a number up to 32");
        check("192.0.2.7/24", "the range is 192.0.2.0/24");
    }
}
