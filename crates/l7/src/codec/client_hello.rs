//! The server name in a TLS ClientHello (RFC 8446, section 4.1.2; RFC 6066, section 3), without opening the
//! connection. Nothing of the handshake is judged but the framing that leads to the name.

/// What the bytes at the beginning of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// A ClientHello with this server name, in lower case.
    Name(String),
    /// A ClientHello without one.
    NoName,
    /// The ClientHello goes on.
    Partial,
    /// No ClientHello.
    Invalid,
}

/// A handshake message of more bytes is no ClientHello that anyone sends.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// Finds the server name.
pub fn server_name(bytes: &[u8]) -> Hello {
    let mut message = Vec::new();
    let mut rest = bytes;
    // The message may be spread over several records.
    loop {
        match message.as_slice() {
            [1, length @ ..] if length.len() >= 3 => {
                let length = usize::from(length[0]) << 16
                    | usize::from(length[1]) << 8
                    | usize::from(length[2]);
                if length > MESSAGE_BYTES_MAX {
                    return Hello::Invalid;
                }
                if message.len() >= 4 + length {
                    return in_message(&message[4..4 + length]);
                }
            }
            [] | [1, ..] => {}
            _ => return Hello::Invalid,
        }
        match rest {
            [22, 3, _, high, low, fragment @ ..] => {
                let length = usize::from(*high) << 8 | usize::from(*low);
                // RFC 8446, section 5.1: no empty fragments, none above 2^14.
                if length == 0 || length > 1 << 14 {
                    return Hello::Invalid;
                }
                let Some((fragment, behind)) = fragment.split_at_checked(length) else {
                    // What is there of the message may already show that it is none.
                    return if message.is_empty() && fragment.first().is_some_and(|kind| *kind != 1)
                    {
                        Hello::Invalid
                    } else {
                        Hello::Partial
                    };
                };
                message.extend_from_slice(fragment);
                rest = behind;
            }
            [] | [22] | [22, 3, ..] => return Hello::Partial,
            _ => return Hello::Invalid,
        }
    }
}

/// Reads big-endian lengths and what they announce.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, count: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(
            self.take(bytes)?
                .iter()
                .fold(0, |number, byte| number << 8 | usize::from(*byte)),
        )
    }

    /// What a length of so many bytes announces.
    fn vector(&mut self, length_bytes: usize) -> Option<Reader<'b>> {
        let length = self.number(length_bytes)?;
        self.take(length).map(Reader)
    }
}

fn in_message(message: &[u8]) -> Hello {
    match name_in(message) {
        Some(Some(name)) => Hello::Name(name),
        Some(None) => Hello::NoName,
        None => Hello::Invalid,
    }
}

/// `None`: the message is malformed.
fn name_in(message: &[u8]) -> Option<Option<String>> {
    let mut hello = Reader(message);
    hello.take(2 + 32)?; // version, random
    hello.vector(1)?; // session id
    hello.vector(2)?; // cipher suites
    hello.vector(1)?; // compression methods
    if hello.0.is_empty() {
        return Some(None);
    }
    let mut extensions = hello.vector(2)?;
    while !extensions.0.is_empty() {
        let kind = extensions.number(2)?;
        let mut extension = extensions.vector(2)?;
        if kind != 0 {
            continue;
        }
        let mut names = extension.vector(2)?;
        while !names.0.is_empty() {
            let kind = names.number(1)?;
            let name = names.vector(2)?.0;
            if kind == 0 {
                let plausible = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
                return plausible.then(|| Some(String::from_utf8_lossy(name).to_ascii_lowercase()));
            }
        }
    }
    Some(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ClientHello that is built by hand, so that its parts can be broken one by one.
    fn hello(name: Option<&[u8]>) -> Vec<u8> {
        let mut extensions = vec![0, 23, 0, 0];
        if let Some(name) = name {
            let length = name.len() as u8;
            extensions.extend_from_slice(&[0, 0, 0, length + 5, 0, length + 3, 0, 0, length]);
            extensions.extend_from_slice(name);
        }
        let mut message = vec![3, 3];
        message.extend_from_slice(&[7; 32]);
        message.extend_from_slice(&[0, 0, 2, 0x13, 1, 1, 0, 0, extensions.len() as u8]);
        message.extend_from_slice(&extensions);
        let mut whole = vec![1, 0, 0, message.len() as u8];
        whole.extend_from_slice(&message);
        whole
    }

    fn records(message: &[u8], size: usize) -> Vec<u8> {
        message
            .chunks(size)
            .flat_map(|part| [&[22, 3, 1, 0, part.len() as u8][..], part].concat())
            .collect()
    }

    #[test]
    fn finds_the_name_in_any_records_and_only_when_they_are_complete() {
        for size in [1, 3, 50, 255] {
            let bytes = records(&hello(Some(b"WWW.example.com")), size);
            for end in 0..bytes.len() {
                assert_eq!(
                    server_name(&bytes[..end]),
                    Hello::Partial,
                    "{end} of {}",
                    bytes.len()
                );
            }
            assert_eq!(
                server_name(&bytes),
                Hello::Name("www.example.com".to_owned())
            );
            assert_eq!(
                server_name(&[&bytes[..], b"more"].concat()),
                Hello::Name("www.example.com".to_owned())
            );
        }
    }

    #[test]
    fn knows_a_hello_without_a_name() {
        assert_eq!(server_name(&records(&hello(None), 200)), Hello::NoName);
    }

    #[test]
    fn refuses_what_is_no_client_hello() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            &[22, 2, 0, 0, 1],
            &[22, 3, 1, 0, 0],
            &[22, 3, 1, 0, 1, 2],
            &[22, 3, 1, 0xff, 0],
        ] {
            assert_eq!(server_name(bytes), Hello::Invalid, "{bytes:?}");
        }
        assert_eq!(
            server_name(&records(&hello(Some(b"a b")), 200)),
            Hello::Invalid
        );
        let mut long = hello(None);
        long[1] = 1;
        assert_eq!(server_name(&records(&long, 200)), Hello::Invalid);
        // Lengths that point behind the message.
        let whole = hello(Some(b"example.com"));
        for at in 38..whole.len() {
            let mut broken = whole.clone();
            broken[at] = broken[at].wrapping_add(200);
            let _ = server_name(&records(&broken, 200));
        }
    }
}
