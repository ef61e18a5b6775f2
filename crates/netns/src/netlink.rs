//! Netlink in its smallest form: a request built from attributes, and the kernel's answers to it.
//!
//! RFC 3549; the layout is in the kernel's `include/uapi/linux/netlink.h`. Numbers are in the machine's byte order.

use std::io::{self, Read};

use socket2::{Domain, Protocol, Socket, Type};

/// `struct nlmsghdr`.
const HEADER_LEN: usize = 16;
/// Messages and attributes begin at multiples of this.
const ALIGN: usize = 4;
/// The kernel never answers with more in one message than the socket's reader offers; none of ours comes near this.
const ANSWER_LEN: usize = 32 * 1024;

/// A message to the kernel, under construction.
pub(crate) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// A message of this type; an acknowledgement is always asked for.
    pub(crate) fn new(kind: u16, flags: i32, family_header: &[u8]) -> Self {
        let flags = flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK;
        let flags = u16::try_from(flags).expect("netlink flags have 16 bits");
        let mut bytes = vec![0; HEADER_LEN];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(family_header);
        pad(&mut bytes);
        Self { bytes }
    }

    /// Adds an attribute.
    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) {
        let len = u16::try_from(value.len() + 4).expect("attributes are short");
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        pad(&mut self.bytes);
    }

    /// Adds an attribute that holds a text, ended by a zero.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes);
    }

    /// Adds an attribute that holds a number.
    pub(crate) fn number(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// Adds an attribute that begins with a header (often none) and holds what `fill` adds.
    pub(crate) fn nest(&mut self, kind: u16, header: &[u8], fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(header);
        pad(&mut self.bytes);
        fill(self);
        let len = u16::try_from(self.bytes.len() - start).expect("nests are short");
        self.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        self.bytes[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
}

/// A conversation with one of the kernel's netlink families. It stays in the namespace it was opened in.
pub(crate) struct Conversation {
    socket: Socket,
    sequence: u32,
}

impl Conversation {
    /// Opens a socket of a family, such as `NETLINK_ROUTE`, in the calling thread's namespace.
    pub(crate) fn open(family: i32) -> io::Result<Self> {
        let socket = Socket::new(
            Domain::from(libc::AF_NETLINK),
            Type::RAW,
            Some(Protocol::from(family)),
        )?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Sends a request and returns the payloads of the answers, up to the acknowledgement.
    pub(crate) fn ask(&mut self, mut request: Request) -> io::Result<Vec<Vec<u8>>> {
        self.sequence += 1;
        let len = u32::try_from(request.bytes.len()).expect("requests are short");
        request.bytes[0..4].copy_from_slice(&len.to_ne_bytes());
        request.bytes[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        // Without an address it goes to the kernel (af_netlink.c, netlink_sendmsg).
        self.socket.send(&request.bytes)?;
        let mut answers = Vec::new();
        let mut buffer = vec![0; ANSWER_LEN];
        loop {
            let read = (&self.socket).read(&mut buffer)?;
            let mut rest = &buffer[..read];
            while let Some((header, payload, next)) = split_message(rest) {
                rest = next;
                if header.sequence != self.sequence {
                    continue;
                }
                match i32::from(header.kind) {
                    libc::NLMSG_ERROR => {
                        let code = i32_at(payload, 0).ok_or(io::ErrorKind::InvalidData)?;
                        return if code == 0 {
                            Ok(answers)
                        } else {
                            Err(io::Error::from_raw_os_error(-code))
                        };
                    }
                    libc::NLMSG_DONE => return Ok(answers),
                    _ => answers.push(payload.to_vec()),
                }
            }
        }
    }
}

struct Header {
    kind: u16,
    sequence: u32,
}

/// The first message of a buffer: header, payload, and what follows.
fn split_message(bytes: &[u8]) -> Option<(Header, &[u8], &[u8])> {
    let len = usize::try_from(i32_at(bytes, 0)?).ok()?;
    let payload = bytes.get(HEADER_LEN..len)?;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let sequence = u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?);
    let next = bytes.get(len.next_multiple_of(ALIGN)..).unwrap_or_default();
    Some((Header { kind, sequence }, payload, next))
}

/// The value of an attribute in a payload, after the family's own header.
pub(crate) fn find_attribute(
    payload: &[u8],
    family_header_len: usize,
    wanted: u16,
) -> Option<&[u8]> {
    let mut rest = payload.get(family_header_len.next_multiple_of(ALIGN)..)?;
    while rest.len() >= 4 {
        let len = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        let kind = u16::from_ne_bytes([rest[2], rest[3]]) & 0x3fff; // without the flags for nests and byte order
        let value = rest.get(4..len)?;
        if kind == wanted {
            return Some(value);
        }
        rest = rest.get(len.next_multiple_of(ALIGN)..).unwrap_or_default();
    }
    None
}

fn i32_at(bytes: &[u8], offset: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(
        bytes.get(offset..offset + 4)?.try_into().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_aligned_and_found_again() {
        let mut request = Request::new(16, 0, &[0; 6]);
        request.text(3, "eth0");
        request.nest(18, &[], |nest| {
            nest.number(1, 7);
        });
        assert_eq!(request.bytes.len() % ALIGN, 0);
        let payload = &request.bytes[HEADER_LEN..];
        assert_eq!(find_attribute(payload, 6, 3), Some(&b"eth0\0"[..]));
        let nest = find_attribute(payload, 6, 18).unwrap();
        assert_eq!(find_attribute(nest, 0, 1), Some(&7u32.to_ne_bytes()[..]));
        assert_eq!(find_attribute(payload, 6, 4), None);
    }

    #[test]
    fn a_truncated_answer_is_not_an_attribute() {
        assert_eq!(find_attribute(&[9, 0, 1, 0, 1, 2], 0, 1), None);
        assert_eq!(find_attribute(&[0, 0, 1, 0], 0, 1), None);
        assert!(split_message(&[1, 2, 3]).is_none());
        assert!(split_message(&[8; 16]).is_none());
    }
}
