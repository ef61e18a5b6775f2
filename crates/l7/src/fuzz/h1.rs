//! HTTP/1: heads and chunked bodies. What is accepted can be sent on, and is then the same for whoever reads it.

use weir_model::HttpLimits;

use super::at_every_split;
use crate::codec::h1::response::After;
use crate::codec::h1::{
    ChunkDecoder, Framing, Method, PieceKind, Progress, RequestHead, ResponseHead, Version,
};

/// So little that scripts reach it.
const LIMITS: HttpLimits = HttpLimits {
    header_bytes: 512,
    header_count: 16,
    min_rate: 0,
};

/// Runs the bytes as a client's.
pub fn requests(bytes: &[u8]) {
    let mut head = RequestHead::default();
    let said = at_every_split(bytes, |bytes| match head.parse(bytes, &LIMITS) {
        Ok(Progress::Partial) => None,
        Ok(Progress::Complete) => Some(Ok((
            (head.length, head.version, head.method, head.framing),
            (head.target, head.authority, head.forwarded_for),
            (head.keep_alive, head.expects_continue, head.upgrade),
        ))),
        Err(reason) => Some(Err(reason)),
    });
    if !matches!(said, Some(Ok(_))) {
        return;
    }
    assert!(head.length <= bytes.len());
    let behind = head.length;
    for span in head.cookies().chain(head.forwarded_for()) {
        assert!(span.start <= span.end && span.end <= behind);
    }
    head.allow_upgrade(bytes, &["websocket".to_owned()]);
    let write = |head: &RequestHead, bytes: &[u8]| {
        let mut out = Vec::new();
        head.write(bytes, b"fallback:80", &mut out);
        out.extend_from_slice(b"\r\n");
        out
    };
    let out = write(&head, bytes);
    assert_sound(&out);
    let mut again = RequestHead::default();
    assert_eq!(
        again.parse(&out, &HttpLimits::default()),
        Ok(Progress::Complete)
    );
    assert_eq!(again.length, out.len());
    assert_eq!(again.version, Version::Http11);
    assert_eq!(again.method_name.of(&out), head.method_name.of(bytes));
    assert_eq!(again.framing, head.framing);
    assert_eq!(again.upgrade, head.upgrade);
    assert!(again.keep_alive);
    if head.version == Version::Http11 {
        assert_eq!(again.expects_continue, head.expects_continue);
    }
    let target = head.target.of(bytes);
    let expected = match target.first() {
        None if head.method == Method::Options => b"*".to_vec(),
        Some(b'/' | b'*') => target.to_vec(),
        _ => [b"/", target].concat(),
    };
    assert_eq!(again.target.of(&out), expected);
    if !head.authority.is_empty() {
        assert_eq!(again.authority.of(&out), head.authority.of(bytes));
    }
    assert_eq!(write(&again, &out), out, "written once more");
}

/// Runs the bytes as a backend's; the first says whether the request was for the head alone.
pub fn answers(bytes: &[u8]) {
    let Some((first, bytes)) = bytes.split_first() else {
        return;
    };
    let method = if first & 1 == 0 {
        Method::Get
    } else {
        Method::Head
    };
    let mut head = ResponseHead::default();
    let said = at_every_split(bytes, |bytes| match head.parse(bytes, method, &LIMITS) {
        Ok(Progress::Partial) => None,
        Ok(Progress::Complete) => Some(Ok((
            (head.length, head.version, head.status),
            (head.framing, head.keep_alive),
        ))),
        Err(reason) => Some(Err(reason)),
    });
    if !matches!(said, Some(Ok(_))) {
        return;
    }
    assert!(head.length <= bytes.len());
    assert!((100..1000).contains(&head.status));
    let without_coding = match head.framing {
        Framing::Chunked => Framing::UntilClose,
        framing => framing,
    };
    for (plain_body, framing) in [(false, head.framing), (true, without_coding)] {
        let write = |head: &ResponseHead, bytes: &[u8]| {
            let mut out = Vec::new();
            head.write(bytes, After::KeepAlive, plain_body, None, b"", &mut out);
            out
        };
        let out = write(&head, bytes);
        assert_sound(&out);
        let mut again = ResponseHead::default();
        assert_eq!(
            again.parse(&out, method, &HttpLimits::default()),
            Ok(Progress::Complete)
        );
        assert_eq!(again.length, out.len());
        assert_eq!(
            (again.status, again.version),
            (head.status, Version::Http11)
        );
        assert_eq!(again.framing, framing);
        assert_eq!(write(&again, &out), out, "written once more");
    }
}

/// No control byte, and every line ends with CR LF: the next reader finds the same lines.
fn assert_sound(head: &[u8]) {
    for (at, byte) in head.iter().enumerate() {
        match byte {
            b'\r' => assert_eq!(head.get(at + 1), Some(&b'\n')),
            b'\n' => assert_eq!(at.checked_sub(1).map(|before| head[before]), Some(b'\r')),
            b'\t' => {}
            byte => assert!(*byte >= 0x20 && *byte != 0x7f),
        }
    }
}

/// What became of a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It ended behind so many bytes.
    At(usize),
    /// It goes on.
    Open,
    /// It is malformed.
    Refused,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Decoded {
    content: Vec<u8>,
    /// What is sent on: the body without extensions and forbidden trailers.
    passed: Vec<u8>,
    end: End,
}

/// Runs the bytes as a chunked body.
pub fn chunks(bytes: &[u8]) {
    let whole = decode(bytes, [bytes.len()]);
    for at in 0..bytes.len() {
        assert_eq!(decode(bytes, [at, bytes.len()]), whole, "cut at {at}");
    }
    assert_eq!(decode(bytes, 0..=bytes.len()), whole, "byte by byte");
    let (content, end) = reference(bytes);
    assert_eq!((&whole.content, whole.end), (&content, end));
    if matches!(whole.end, End::At(_)) {
        let again = decode(&whole.passed, [whole.passed.len()]);
        assert_eq!(again.content, whole.content);
        assert_eq!(again.end, End::At(whole.passed.len()));
        assert_eq!(again.passed, whole.passed);
    }
}

/// Decodes bytes of which first so many have come, then so many, and so on.
fn decode(bytes: &[u8], ends: impl IntoIterator<Item = usize>) -> Decoded {
    let mut decoder = ChunkDecoder::default();
    let mut at = 0;
    let mut decoded = Decoded {
        content: Vec::new(),
        passed: Vec::new(),
        end: End::Open,
    };
    for end in ends {
        loop {
            let input = &bytes[at..end];
            let Ok(piece) = decoder.next(input) else {
                // In what pieces it came until then is nobody's business: the connection is given up.
                decoded.passed.clear();
                decoded.end = End::Refused;
                return decoded;
            };
            assert!(piece.length <= input.len());
            assert_eq!(piece.length == 0, piece.kind == PieceKind::NeedMore);
            let taken = &input[..piece.length];
            at += piece.length;
            match piece.kind {
                PieceKind::NeedMore => break,
                PieceKind::Extension | PieceKind::ForbiddenTrailer => {}
                PieceKind::Data => {
                    decoded.content.extend_from_slice(taken);
                    decoded.passed.extend_from_slice(taken);
                }
                PieceKind::Coding | PieceKind::Trailer | PieceKind::End => {
                    decoded.passed.extend_from_slice(taken);
                }
            }
            assert_eq!(decoder.is_done(), piece.kind == PieceKind::End);
            if decoder.is_done() {
                decoded.end = End::At(at);
                return decoded;
            }
        }
    }
    decoded
}

/// The grammar (RFC 9112, section 7.1), for whole bodies and as simple as it can be. Sizes have at most 15 digits.
fn reference(bytes: &[u8]) -> (Vec<u8>, End) {
    let mut content = Vec::new();
    let mut at = 0;
    let end = loop {
        let digits = bytes[at..]
            .iter()
            .take_while(|byte| byte.is_ascii_hexdigit())
            .count();
        if digits > 15 {
            break End::Refused;
        }
        let behind = at + digits;
        if behind == bytes.len() {
            break End::Open;
        }
        if digits == 0 {
            break End::Refused;
        }
        let size = bytes[at..behind].iter().fold(0, |size, digit| {
            size * 16 + u64::from(char::from(*digit).to_digit(16).unwrap_or(0))
        });
        let space = bytes[behind..]
            .iter()
            .take_while(|byte| matches!(byte, b' ' | b'\t'))
            .count();
        let is_extended = bytes.get(behind + space) == Some(&b';');
        let extension = if is_extended {
            bytes[behind..]
                .iter()
                .take_while(|byte| is_text(**byte))
                .count()
        } else {
            space
        };
        if space > 0 && !is_extended && behind + space < bytes.len() {
            break End::Refused;
        }
        at = behind + extension;
        if let Some(end) = line_end(bytes, &mut at) {
            break end;
        }
        if size == 0 {
            break trailers(bytes, at);
        }
        let length = usize::try_from(size)
            .unwrap_or(usize::MAX)
            .min(bytes.len() - at);
        content.extend_from_slice(&bytes[at..at + length]);
        at += length;
        if (length as u64) < size {
            break End::Open;
        }
        if let Some(end) = line_end(bytes, &mut at) {
            break end;
        }
    };
    (content, end)
}

/// Takes CR LF; what the body comes to where it is not there.
fn line_end(bytes: &[u8], at: &mut usize) -> Option<End> {
    let rest = &bytes[*at..];
    if rest.starts_with(b"\r\n") {
        *at += 2;
        None
    } else if b"\r\n".starts_with(rest) {
        Some(End::Open)
    } else {
        Some(End::Refused)
    }
}

fn trailers(bytes: &[u8], mut at: usize) -> End {
    loop {
        let rest = &bytes[at..];
        let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
            let line = rest.strip_suffix(b"\r").unwrap_or(rest);
            let may_go_on = line.iter().all(|byte| is_text(*byte))
                && line.first().is_none_or(|byte| is_token(*byte));
            return if may_go_on { End::Open } else { End::Refused };
        };
        at += length + 1;
        let Some(line) = rest[..length].strip_suffix(b"\r") else {
            return End::Refused;
        };
        if line.is_empty() {
            return End::At(at);
        }
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        let is_field = !name.is_empty()
            && name.len() < line.len()
            && name.iter().all(|byte| is_token(*byte))
            && line.iter().all(|byte| is_text(*byte));
        if !is_field {
            return End::Refused;
        }
    }
}

fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | 0x20..=0x7e | 0x80..)
}

fn is_token(byte: u8) -> bool {
    matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'z' | b'|' | b'~')
        || byte.is_ascii_digit()
        || byte.is_ascii_uppercase()
}
