//! The PROXY protocol, versions 1 and 2 (HAProxy's `doc/proxy-protocol.txt`): who the client of a connection is, told by
//! the proxy in front. Strict: what is not exactly a header is none, and nothing is guessed.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::errors::Reason;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The connection is the proxy's own, or its client cannot be told: the connection's own addresses count.
    Own,
    /// The client, and the address that it connected to.
    Of {
        /// The client.
        source: SocketAddr,
        /// What it connected to.
        destination: SocketAddr,
    },
}

/// What the bytes at the beginning of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A header.
    Complete {
        /// What it says.
        header: Header,
        /// How many bytes it takes.
        length: usize,
    },
    /// It goes on.
    Partial,
}

/// A header of version 2 may take so many bytes: addresses, and what proxies add about TLS. Nobody sends more.
pub const HEADER_BYTES_MAX: usize = 4096;

/// Version 1: "PROXY TCP6", two addresses and two ports, as long as they can be, with CR LF.
const LINE_BYTES_MAX: usize = 107;
const LINE_START: &[u8] = b"PROXY ";
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family, length.
const FIXED_BYTES: usize = 16;

const TYPE_ALPN: u8 = 0x01;
const TYPE_AUTHORITY: u8 = 0x02;
const TYPE_CRC32C: u8 = 0x03;
const TYPE_SSL: u8 = 0x20;
const TYPE_SSL_VERSION: u8 = 0x21;

/// Reads a header.
pub fn parse(bytes: &[u8]) -> Result<Progress, Reason> {
    let begins = |start: &[u8]| {
        let shared = bytes.len().min(start.len());
        bytes[..shared] == start[..shared]
    };
    if begins(SIGNATURE) {
        parse_binary(bytes)
    } else if begins(LINE_START) {
        parse_line(bytes)
    } else {
        Err(Reason::BadProxyHeader)
    }
}

fn parse_line(bytes: &[u8]) -> Result<Progress, Reason> {
    let window = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(lf) = memchr::memchr(b'\n', window) else {
        // A CR is the last but one, and everything before it is text.
        let text = window.strip_suffix(b"\r").unwrap_or(window);
        let goes_on = window.len() < LINE_BYTES_MAX && text.iter().all(|byte| is_text(*byte));
        return if goes_on {
            Ok(Progress::Partial)
        } else {
            Err(Reason::BadProxyHeader)
        };
    };
    let header = window[..lf]
        .strip_suffix(b"\r")
        .and_then(|line| std::str::from_utf8(line).ok())
        .and_then(line_header)
        .ok_or(Reason::BadProxyHeader)?;
    Ok(Progress::Complete {
        header,
        length: lf + 1,
    })
}

fn is_text(byte: u8) -> bool {
    (0x20..0x7f).contains(&byte)
}

fn line_header(line: &str) -> Option<Header> {
    if !line.bytes().all(is_text) {
        return None;
    }
    let rest = line.strip_prefix("PROXY ")?;
    // What stands behind UNKNOWN does not count (section 2.1).
    if rest == "UNKNOWN" || rest.starts_with("UNKNOWN ") {
        return Some(Header::Own);
    }
    let mut words = rest.split(' ');
    let mut next = || words.next();
    let (family, source, destination) = (next()?, next()?, next()?);
    let (source_port, destination_port) = (port(next()?)?, port(next()?)?);
    let address = |text: &str| match family {
        "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::from),
        "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::from),
        _ => None,
    };
    let (source, destination) = (address(source)?, address(destination)?);
    words.next().is_none().then_some(Header::Of {
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
    })
}

/// Digits without a zero in front.
fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = text == "0" || !text.starts_with('0');
    (digits && plain).then(|| text.parse().ok())?
}

fn parse_binary(bytes: &[u8]) -> Result<Progress, Reason> {
    const LOCAL: u8 = 0x20;
    const PROXY: u8 = 0x21;
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED_BYTES>() else {
        // What is there of it may already be wrong.
        return match bytes.get(SIGNATURE.len()) {
            None | Some(&(LOCAL | PROXY)) => Ok(Progress::Partial),
            Some(_) => Err(Reason::BadProxyHeader),
        };
    };
    let [.., command, family, high, low] = *fixed;
    let length = usize::from(high) << 8 | usize::from(low);
    if !matches!(command, LOCAL | PROXY) || FIXED_BYTES + length > HEADER_BYTES_MAX {
        return Err(Reason::BadProxyHeader);
    }
    let Some(content) = rest.get(..length) else {
        return Ok(Progress::Partial);
    };
    let (addresses, additions) = match family {
        // Unspecified: no addresses that anyone could read.
        0x00 => (None, content),
        0x11 => split_addresses::<4, 12>(content)?,
        0x21 => split_addresses::<16, 36>(content)?,
        // Datagrams and local sockets do not come over TCP.
        _ => return Err(Reason::BadProxyHeader),
    };
    check_additions(&bytes[..FIXED_BYTES + length], additions)?;
    let header = match (command, addresses) {
        (PROXY, Some((source, destination))) => Header::Of {
            source,
            destination,
        },
        _ => Header::Own,
    };
    Ok(Progress::Complete {
        header,
        length: FIXED_BYTES + length,
    })
}

type Addresses = Option<(SocketAddr, SocketAddr)>;

/// Takes two addresses of `BYTES` and two ports off the front: `ALL` bytes.
fn split_addresses<const BYTES: usize, const ALL: usize>(
    content: &[u8],
) -> Result<(Addresses, &[u8]), Reason> {
    let (both, rest) = content
        .split_at_checked(ALL)
        .ok_or(Reason::BadProxyHeader)?;
    let address = |at: usize| -> Option<IpAddr> {
        let bytes = both.get(at..at + BYTES)?;
        match BYTES {
            4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
            _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        }
    };
    let port = |at: usize| u16::from_be_bytes([both[at], both[at + 1]]);
    let pair = address(0).zip(address(BYTES)).map(|(from, to)| {
        (
            SocketAddr::new(from, port(2 * BYTES)),
            SocketAddr::new(to, port(2 * BYTES + 2)),
        )
    });
    Ok((pair, rest))
}

/// What follows the addresses is a list of type, length and value that ends where the header does; a checksum in it is
/// right.
fn check_additions(whole: &[u8], mut additions: &[u8]) -> Result<(), Reason> {
    let mut left = whole.len() - additions.len();
    let mut has_checksum = false;
    while !additions.is_empty() {
        let (&[kind, high, low], rest) = additions
            .split_first_chunk::<3>()
            .ok_or(Reason::BadProxyHeader)?;
        let length = usize::from(high) << 8 | usize::from(low);
        let (value, rest) = rest
            .split_at_checked(length)
            .ok_or(Reason::BadProxyHeader)?;
        if kind == TYPE_CRC32C {
            let value: [u8; 4] = value.try_into().map_err(|_| Reason::BadProxyHeader)?;
            let at = left + 3;
            let sum = crc32c([&whole[..at], &[0; 4], &whole[at + 4..]]);
            if has_checksum || u32::from_be_bytes(value) != sum {
                return Err(Reason::BadProxyHeader);
            }
            has_checksum = true;
        }
        left += 3 + length;
        additions = rest;
    }
    Ok(())
}

/// CRC-32C (RFC 9260, appendix A), bit by bit: headers are short and come once a connection.
fn crc32c(parts: [&[u8]; 3]) -> u32 {
    const POLYNOMIAL_REVERSED: u32 = 0x82f6_3b78;
    let mut crc = u32::MAX;
    for byte in parts.into_iter().flatten() {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let mask = (crc & 1).wrapping_neg();
            crc = crc >> 1 ^ POLYNOMIAL_REVERSED & mask;
        }
    }
    !crc
}

/// What a header of version 2 says beside the addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Additions<'a> {
    /// The client's connection was TLS of this version, as "TLSv1.3".
    pub tls_version: Option<&'a str>,
    /// The client has shown a certificate, which was verified.
    pub verified: bool,
    /// The server name that the client asked for.
    pub authority: Option<&'a str>,
    /// The protocol that was agreed on by ALPN.
    pub alpn: Option<&'a [u8]>,
}

/// Writes a header of version 1.
pub fn write_line(source: SocketAddr, destination: SocketAddr, out: &mut Vec<u8>) {
    let (from, to) = (source.ip().to_canonical(), destination.ip().to_canonical());
    let (from, to, family) = match (from, to) {
        (IpAddr::V4(_), IpAddr::V4(_)) => (from, to, "TCP4"),
        _ => (IpAddr::V6(as_v6(from)), IpAddr::V6(as_v6(to)), "TCP6"),
    };
    // Writing to a vector does not fail.
    let _ = write!(
        out,
        "PROXY {family} {} {} {} {}\r\n",
        Plain(from),
        Plain(to),
        source.port(),
        destination.port()
    );
}

/// An address without dots in IPv6: not every reader knows `::ffff:192.0.2.1`.
struct Plain(IpAddr);

impl std::fmt::Display for Plain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
                let [.., high, low] = v6.segments();
                write!(f, "::ffff:{high:x}:{low:x}")
            }
            address => write!(f, "{address}"),
        }
    }
}

fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// Writes a header of version 2.
pub fn write_binary(
    source: SocketAddr,
    destination: SocketAddr,
    additions: &Additions<'_>,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    out.extend_from_slice(SIGNATURE);
    out.push(0x21);
    let (from, to) = (source.ip().to_canonical(), destination.ip().to_canonical());
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            out.extend_from_slice(&[0x11, 0, 0]);
            out.extend_from_slice(&from.octets());
            out.extend_from_slice(&to.octets());
        }
        _ => {
            out.extend_from_slice(&[0x21, 0, 0]);
            out.extend_from_slice(&as_v6(from).octets());
            out.extend_from_slice(&as_v6(to).octets());
        }
    }
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
    if let Some(alpn) = additions.alpn {
        add(TYPE_ALPN, &[alpn], out);
    }
    if let Some(authority) = additions.authority {
        add(TYPE_AUTHORITY, &[authority.as_bytes()], out);
    }
    if let Some(version) = additions.tls_version {
        // Client uses TLS; it has shown a certificate on this connection, and in this session. Then whether the
        // certificate was verified: 0 where it was, or where none was shown (section 2.2.6).
        let client = if additions.verified { 0x07 } else { 0x01 };
        let mut inner = Vec::with_capacity(16);
        add(TYPE_SSL_VERSION, &[version.as_bytes()], &mut inner);
        add(TYPE_SSL, &[&[client, 0, 0, 0, 0], &inner], out);
    }
    let length = out.len() - start - FIXED_BYTES;
    // Names and protocols are at most 255 bytes each.
    let length = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    out[start + 14..start + 16].copy_from_slice(&length);
}

fn add(kind: u8, parts: &[&[u8]], out: &mut Vec<u8>) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let Ok(length) = u16::try_from(length) else {
        return;
    };
    out.push(kind);
    out.extend_from_slice(&length.to_be_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(source: &str, destination: &str) -> Header {
        Header::Of {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        }
    }

    /// Every beginning of a header is a part of it, and bytes behind it are not touched.
    #[track_caller]
    fn check(bytes: &[u8], expected: Header) {
        for end in 0..bytes.len() {
            assert_eq!(parse(&bytes[..end]), Ok(Progress::Partial), "{end}");
        }
        let complete = Ok(Progress::Complete {
            header: expected,
            length: bytes.len(),
        });
        assert_eq!(parse(bytes), complete);
        assert_eq!(parse(&[bytes, b"GET / HTTP/1.1\r\n"].concat()), complete);
    }

    fn binary(command: u8, family: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, content].concat()
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 203, 0, 113, 7, 0x30, 0x39, 0x01, 0xbb];

    #[test]
    fn a_line_is_read_at_every_split() {
        check(
            b"PROXY TCP4 192.0.2.1 203.0.113.7 12345 443\r\n",
            of("192.0.2.1:12345", "203.0.113.7:443"),
        );
        check(
            b"PROXY TCP6 2001:db8::1 2001:db8::2 0 65535\r\n",
            of("[2001:db8::1]:0", "[2001:db8::2]:65535"),
        );
        check(b"PROXY UNKNOWN\r\n", Header::Own);
        check(b"PROXY UNKNOWN ffff::1 what ever 1 2\r\n", Header::Own);
        let longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let line = format!("PROXY TCP6 {longest} {longest} 65535 65535\r\n");
        assert!(line.len() <= LINE_BYTES_MAX);
        assert!(matches!(
            parse(line.as_bytes()),
            Ok(Progress::Complete { .. })
        ));
    }

    #[test]
    fn a_binary_header_is_read_at_every_split() {
        check(
            &binary(0x21, 0x11, &V4),
            of("192.0.2.1:12345", "203.0.113.7:443"),
        );
        check(&binary(0x20, 0x11, &V4), Header::Own);
        check(&binary(0x20, 0x00, b""), Header::Own);
        check(&binary(0x21, 0x00, b""), Header::Own);
        let mut v6 = [0; 36];
        v6[15] = 1;
        v6[31] = 2;
        v6[35] = 80;
        check(&binary(0x21, 0x21, &v6), of("[::1]:0", "[::2]:80"));
        let with_noop = [&V4[..], &[0x04, 0, 2, 9, 9]].concat();
        check(
            &binary(0x21, 0x11, &with_noop),
            of("192.0.2.1:12345", "203.0.113.7:443"),
        );
    }

    #[test]
    fn a_checksum_must_be_right() {
        let content = [&V4[..], &[TYPE_CRC32C, 0, 4, 0, 0, 0, 0], &[4, 0, 1, 7]].concat();
        let mut bytes = binary(0x21, 0x11, &content);
        let sum = crc32c([&bytes, b"", b""]).to_be_bytes();
        let at = FIXED_BYTES + V4.len() + 3;
        bytes[at..at + 4].copy_from_slice(&sum);
        check(&bytes, of("192.0.2.1:12345", "203.0.113.7:443"));
        bytes[FIXED_BYTES] ^= 1;
        assert_eq!(parse(&bytes), Err(Reason::BadProxyHeader));
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c([&[0; 32], b"", b""]), 0x8a91_36aa);
    }

    #[test]
    fn what_is_not_exactly_a_header_is_none() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
        for line in [
            "GET / HTTP/1.1\r\n",
            "PROXY\r\n",
            "PROXY  TCP4 192.0.2.1 203.0.113.7 1 2\r\n",
            "PROXY TCP4 192.0.2.1 203.0.113.7 1 2 \r\n",
            "PROXY TCP4 192.0.2.1 203.0.113.7 1 2\n",
            "PROXY TCP4 192.0.2.1 203.0.113.7 1\r\n",
            "PROXY TCP4 192.0.2.1 203.0.113.7 01 2\r\n",
            "PROXY TCP4 192.0.2.1 203.0.113.7 1 65536\r\n",
            "PROXY TCP4 192.0.2.1 203.0.113.7 +1 2\r\n",
            "PROXY TCP4 192.0.2.01 203.0.113.7 1 2\r\n",
            "PROXY TCP4 192.0.2 203.0.113.7 1 2\r\n",
            "PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
            "PROXY TCP6 192.0.2.1 203.0.113.7 1 2\r\n",
            "PROXY UDP4 192.0.2.1 203.0.113.7 1 2\r\n",
            "PROXY TCP4 192.0.2.1 203.0.113.7\t1 2\r\n",
            "PROXY UNKNOWNX\r\n",
            "PROXY UNKNOWN\rx\r\n",
            "proxy TCP4 192.0.2.1 203.0.113.7 1 2\r\n",
            &long,
        ] {
            assert_eq!(
                parse(line.as_bytes()),
                Err(Reason::BadProxyHeader),
                "{line}"
            );
        }
        let truncated_addition = [&V4[..], &[4, 0, 3, 1]].concat();
        let short_checksum = [&V4[..], &[TYPE_CRC32C, 0, 1, 1]].concat();
        for bytes in [
            binary(0x11, 0x11, &V4),
            binary(0x22, 0x11, &V4),
            binary(0x21, 0x11, &V4[..11]),
            binary(0x21, 0x12, &V4),
            binary(0x21, 0x31, &[0; 216]),
            binary(0x21, 0x41, &V4),
            binary(0x21, 0x11, &truncated_addition),
            binary(0x21, 0x11, &short_checksum),
            binary(0x21, 0x11, &[&V4[..], &[4]].concat()),
            binary(0x21, 0x00, &[0; HEADER_BYTES_MAX]),
        ] {
            assert_eq!(parse(&bytes), Err(Reason::BadProxyHeader), "{bytes:?}");
        }
    }

    #[test]
    fn nobody_sends_more_than_is_kept() {
        let addition = vec![0; HEADER_BYTES_MAX - FIXED_BYTES - V4.len() - 3];
        let length = u16::try_from(addition.len()).unwrap().to_be_bytes();
        let content = [&V4[..], &[4], &length, &addition].concat();
        let bytes = binary(0x21, 0x11, &content);
        assert_eq!(bytes.len(), HEADER_BYTES_MAX);
        assert!(matches!(parse(&bytes), Ok(Progress::Complete { .. })));
    }

    fn any_address() -> impl Strategy<Value = SocketAddr> {
        (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
    }

    fn canonical(address: SocketAddr) -> SocketAddr {
        SocketAddr::new(address.ip().to_canonical(), address.port())
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            source in any_address(),
            destination in any_address(),
            name in "[a-z]{1,63}",
            tls in any::<bool>(),
            verified in any::<bool>(),
        ) {
            let additions = Additions {
                tls_version: tls.then_some("TLSv1.3"),
                verified,
                authority: tls.then_some(&name),
                alpn: tls.then_some(b"h2"),
            };
            let mut line = Vec::new();
            write_line(source, destination, &mut line);
            let mut header = Vec::new();
            write_binary(source, destination, &additions, &mut header);
            for bytes in [line, header] {
                for end in 0..bytes.len() {
                    prop_assert_eq!(parse(&bytes[..end]), Ok(Progress::Partial));
                }
                let Ok(Progress::Complete { header: Header::Of { source: from, destination: to }, length }) = parse(&bytes) else {
                    panic!("{bytes:?}");
                };
                prop_assert_eq!(length, bytes.len());
                prop_assert_eq!(canonical(from), canonical(source));
                prop_assert_eq!(canonical(to), canonical(destination));
            }
        }

        #[test]
        fn noise_is_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..600), v2 in any::<bool>()) {
            let start = if v2 { &SIGNATURE[..] } else { LINE_START };
            if let Ok(Progress::Complete { length, .. }) = parse(&[start, &bytes].concat()) {
                prop_assert!(length <= start.len() + bytes.len());
            }
        }
    }
}
