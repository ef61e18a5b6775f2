//! The head of a request (RFC 9112, sections 2, 3 and 6.1; RFC 9110, section 7).

use std::mem::MaybeUninit;

use weir_model::HttpLimits;

use super::field::{self, Connection};
use super::{
    FIELDS_ON_STACK, Framing, LeftOut, Method, Progress, Span, TransferEncoding, Version,
    content_length, has_bare_lf, request_reason,
};
use crate::errors::Reason;

/// What a request's head says. Reused from request to request, so that its lists keep their memory.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    /// Bytes of the head, the empty line and empty lines before it included.
    pub length: usize,
    /// The method.
    pub method: Method,
    /// The method as it was sent.
    pub method_name: Span,
    /// The client's version.
    pub version: Version,
    /// Path and query; empty where an absolute form had none, which means `/`, or `*` with OPTIONS.
    pub target: Span,
    /// Host and port, from the absolute form or else from `Host`. Empty: none was sent, or an empty one.
    pub authority: Span,
    /// Where the body ends.
    pub framing: Framing,
    /// Whether the client wants the connection to go on after the answer.
    pub keep_alive: bool,
    /// The client waits for 100 before it sends the body.
    pub expects_continue: bool,
    /// The client asks for an upgrade, by one `Upgrade` of one protocol, and nobody has decided against it yet.
    pub upgrade: bool,
    upgrade_line: Span,
    upgrade_to: Span,
    /// The first `X-Forwarded-For`, if any; further ones are in `forwarded_for_more`.
    pub forwarded_for: Option<Span>,
    forwarded_for_more: Vec<Span>,
    cookies: Vec<Span>,
    /// The request line can be sent as it came.
    line_is_plain: bool,
    has_host: bool,
    /// `Transfer-Encoding` is spelled in an unusual way: a line of our own takes its place.
    respells_coding: bool,
    fields: Span,
    left_out: LeftOut,
}

/// What takes the place of a request's own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Replaced<'r> {
    /// Path and query.
    pub target: Option<&'r [u8]>,
    /// Host and port.
    pub host: Option<&'r [u8]>,
}

/// Bytes of empty lines that are skipped before a request line (RFC 9112, section 2.2, asks for one line).
const EMPTY_LINES_MAX: usize = 8;

impl RequestHead {
    fn clear(&mut self) {
        self.forwarded_for_more.clear();
        self.cookies.clear();
        self.left_out.clear();
        *self = Self {
            forwarded_for_more: std::mem::take(&mut self.forwarded_for_more),
            cookies: std::mem::take(&mut self.cookies),
            left_out: std::mem::take(&mut self.left_out),
            ..Self::default()
        };
    }

    /// The value of the first field with this name, which is in lower case.
    pub fn field<'h>(&self, head: &'h [u8], name: &str) -> Option<&'h [u8]> {
        self.values(head, name).next()
    }

    /// The values of the fields with this name, which is in lower case.
    pub fn values<'h>(&self, head: &'h [u8], name: &str) -> impl Iterator<Item = &'h [u8]> {
        field::values(self.fields.of(head), name)
    }

    /// The values of the cookies with this name (RFC 6265, section 4.2.1).
    pub fn cookies_named<'h>(
        &self,
        head: &'h [u8],
        name: &'h [u8],
    ) -> impl Iterator<Item = &'h [u8]> {
        let pairs = self
            .cookies
            .iter()
            .flat_map(|cookies| cookies.of(head).split(|byte| *byte == b';'));
        pairs.filter_map(move |pair| field::trim(pair).strip_prefix(name)?.strip_prefix(b"="))
    }

    /// The value of the first cookie with this name.
    pub fn cookie<'h>(&self, head: &'h [u8], name: &'h [u8]) -> Option<&'h [u8]> {
        self.cookies_named(head, name).next()
    }

    /// Parses the head at the front of `input`. After [`Progress::Complete`] the spans are offsets into `input`.
    pub fn parse(&mut self, input: &[u8], limits: &HttpLimits) -> Result<Progress, Reason> {
        self.clear();
        let empty = empty_lines(input)?;
        let limited = &input[..input.len().min(empty + limits.header_bytes)];
        let progress = if limits.header_count <= FIELDS_ON_STACK {
            let mut fields = [const { MaybeUninit::uninit() }; FIELDS_ON_STACK];
            self.parse_with(limited, empty, &mut fields[..limits.header_count])?
        } else {
            let mut fields = vec![MaybeUninit::uninit(); limits.header_count];
            self.parse_with(limited, empty, &mut fields)?
        };
        if progress == Progress::Partial && limited.len() == empty + limits.header_bytes {
            let in_first_line = !limited[empty..].contains(&b'\n');
            return Err(if in_first_line {
                Reason::TargetTooLong
            } else {
                Reason::HeadTooLarge
            });
        }
        Ok(progress)
    }

    fn parse_with<'b>(
        &mut self,
        input: &'b [u8],
        empty: usize,
        fields: &mut [MaybeUninit<httparse::Header<'b>>],
    ) -> Result<Progress, Reason> {
        let mut request = httparse::Request::new(&mut []);
        let config = httparse::ParserConfig::default();
        let parsed =
            config.parse_request_with_uninit_headers(&mut request, &input[empty..], fields);
        let length = match parsed {
            Ok(httparse::Status::Complete(length)) => empty + length,
            Ok(httparse::Status::Partial) => return Ok(Progress::Partial),
            Err(error) => return Err(request_reason(error)),
        };
        if has_bare_lf(&input[..length]) {
            return Err(Reason::BareLineEnd);
        }
        let (Some(method), Some(target), Some(version)) =
            (request.method, request.path, request.version)
        else {
            return Err(Reason::BadRequestLine);
        };
        self.length = length;
        self.method = Method::of(method);
        self.method_name = Span::of_part(method.as_bytes(), input);
        self.version = if version == 0 {
            Version::Http10
        } else {
            Version::Http11
        };
        self.take_fields(input, request.headers)?;
        self.take_target(input, Span::of_part(target.as_bytes(), input))?;
        Ok(Progress::Complete)
    }

    fn take_fields(&mut self, input: &[u8], fields: &[httparse::Header<'_>]) -> Result<(), Reason> {
        let end = self.length - 2;
        let line_of = |index: usize| Span {
            start: Span::of_part(fields[index].name.as_bytes(), input).start,
            end: fields
                .get(index + 1)
                .map_or(end, |next| Span::of_part(next.name.as_bytes(), input).start),
        };
        self.fields = Span {
            start: if fields.is_empty() {
                end
            } else {
                line_of(0).start
            },
            end,
        };

        let mut connection = Connection::default();
        let mut coding = TransferEncoding::Absent;
        let mut length = None;
        let mut host = None;
        let mut upgrade_line = None;
        for (index, header) in fields.iter().enumerate() {
            let (name, value) = (header.name, header.value);
            match name.len() {
                2 if name.eq_ignore_ascii_case("te")
                    && !value.eq_ignore_ascii_case(b"trailers") =>
                {
                    self.left_out.add(line_of(index));
                }
                4 if name.eq_ignore_ascii_case("host") => {
                    let before = host.replace(Span::of_part(value, input));
                    before
                        .is_none()
                        .then_some(())
                        .ok_or(Reason::DuplicateHost)?;
                }
                6 if name.eq_ignore_ascii_case("cookie") => {
                    self.cookies.push(Span::of_part(value, input));
                }
                6 if name.eq_ignore_ascii_case("expect") => {
                    self.expects_continue |= value.eq_ignore_ascii_case(b"100-continue");
                }
                7 if name.eq_ignore_ascii_case("upgrade") => {
                    // One value, one line: anything else is left out.
                    let plain = value
                        .iter()
                        .all(|byte| byte.is_ascii_graphic() && *byte != b',');
                    self.upgrade = upgrade_line.is_none() && plain && !value.is_empty();
                    self.upgrade_to = Span::of_part(value, input);
                    if !self.upgrade {
                        if let Some(before) = upgrade_line {
                            self.left_out.add(before);
                        }
                        self.left_out.add(line_of(index));
                    }
                    upgrade_line = Some(line_of(index));
                }
                10 if name.eq_ignore_ascii_case("connection") => {
                    connection = connection.and(value);
                    self.left_out.add(line_of(index));
                }
                10 if name.eq_ignore_ascii_case("keep-alive") => self.left_out.add(line_of(index)),
                11 | 17 if is_identity(name) => self.left_out.add(line_of(index)),
                14 if name.eq_ignore_ascii_case("content-length") => {
                    let value = content_length(value).ok_or(Reason::BadContentLength)?;
                    match length {
                        None => length = Some(value),
                        Some(before) if before == value => self.left_out.add(line_of(index)),
                        Some(_) => return Err(Reason::BadContentLength),
                    }
                }
                14 if name.eq_ignore_ascii_case("http2-settings") => {
                    self.left_out.add(line_of(index));
                }
                15 if name.eq_ignore_ascii_case("x-forwarded-for") => {
                    if !value.is_empty() {
                        let value = Span::of_part(value, input);
                        match self.forwarded_for {
                            None => self.forwarded_for = Some(value),
                            Some(_) => self.forwarded_for_more.push(value),
                        }
                    }
                    self.left_out.add(line_of(index));
                }
                16 if name.eq_ignore_ascii_case("x-forwarded-host")
                    || name.eq_ignore_ascii_case("proxy-connection") =>
                {
                    self.left_out.add(line_of(index));
                }
                17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                    coding = coding.and(value);
                    let line = line_of(index);
                    if !TransferEncoding::is_plain(&line.of(input)[name.len()..]) {
                        self.respells_coding = true;
                        self.left_out.add(line);
                    }
                }
                17 if name.eq_ignore_ascii_case("x-forwarded-proto") => {
                    self.left_out.add(line_of(index));
                }
                _ => {}
            }
        }
        if connection.names_fields {
            self.leave_out_named(fields, line_of);
        }
        // An upgrade counts only where `Connection` says so and HTTP/1.1 is spoken (RFC 9110, section 7.8).
        self.upgrade_line = upgrade_line.unwrap_or_default();
        if self.upgrade && !(connection.upgrade && self.version == Version::Http11) {
            self.leave_out_upgrade();
        }
        self.expects_continue &= self.version == Version::Http11;
        self.keep_alive = match self.version {
            Version::Http11 => !connection.close,
            Version::Http10 => connection.keep_alive && !connection.close,
        };
        self.framing = match (coding, length) {
            (TransferEncoding::Absent, None | Some(0)) => Framing::None,
            (TransferEncoding::Absent, Some(length)) => Framing::Length(length),
            (_, Some(_)) => return Err(Reason::LengthAndCoding),
            (_, None) if self.version == Version::Http10 => {
                return Err(Reason::BadTransferEncoding);
            }
            (TransferEncoding::Chunked, None) => Framing::Chunked,
            (TransferEncoding::Unknown, None) => return Err(Reason::UnknownTransferCoding),
            (TransferEncoding::Bad, None) => return Err(Reason::BadTransferEncoding),
        };
        match host {
            Some(host) => {
                self.has_host = true;
                self.authority = host;
                is_authority(host.of(input))
                    .then_some(())
                    .ok_or(Reason::BadHost)
            }
            None if self.version == Version::Http10 => Ok(()),
            None => Err(Reason::MissingHost),
        }
    }

    /// Leaves out an upgrade to a protocol that is not in the list, which is in lower case: the request is answered
    /// without.
    pub fn allow_upgrade(&mut self, head: &[u8], allowed: &[String]) {
        let asked = self.upgrade_to.of(head);
        let is_asked = |protocol: &String| asked.eq_ignore_ascii_case(protocol.as_bytes());
        if self.upgrade && !allowed.iter().any(is_asked) {
            self.leave_out_upgrade();
        }
    }

    fn leave_out_upgrade(&mut self) {
        self.upgrade = false;
        self.left_out.add(self.upgrade_line);
    }

    /// Leaves out the fields that `Connection` names (RFC 9110, section 7.6.1).
    #[cold]
    fn leave_out_named(
        &mut self,
        fields: &[httparse::Header<'_>],
        line_of: impl Fn(usize) -> Span,
    ) {
        let named = |name: &str| {
            fields
                .iter()
                .filter(|header| header.name.eq_ignore_ascii_case("connection"))
                .flat_map(|header| field::list(header.value))
                .any(|token| token.eq_ignore_ascii_case(name.as_bytes()))
        };
        for (index, header) in fields.iter().enumerate() {
            let name = header.name;
            let handled = name.eq_ignore_ascii_case("te") || name.eq_ignore_ascii_case("upgrade");
            if !handled && field::may_be_named_by_connection(name.as_bytes()) && named(name) {
                self.left_out.add(line_of(index));
            }
        }
    }

    /// Decides what form the target has (RFC 9112, section 3.2).
    fn take_target(&mut self, input: &[u8], target: Span) -> Result<(), Reason> {
        let bytes = target.of(input);
        if self.method == Method::Connect {
            return Err(Reason::ConnectRefused);
        }
        if !bytes
            .iter()
            .all(|byte| (0x21..0x7f).contains(byte) && *byte != b'#')
        {
            return Err(Reason::BadTarget);
        }
        if bytes[0] == b'/' || (bytes == b"*" && self.method == Method::Options) {
            self.target = target;
            self.line_is_plain = self.version == Version::Http11;
            return Ok(());
        }
        // The absolute form: its authority counts, and `Host` is replaced (RFC 9112, section 3.2.2).
        let after_scheme = [&b"http://"[..], b"https://"]
            .iter()
            .find(|scheme| {
                bytes.len() > scheme.len() && bytes[..scheme.len()].eq_ignore_ascii_case(scheme)
            })
            .map(|scheme| target.start + scheme.len())
            .ok_or(Reason::BadTarget)?;
        let rest = &input[after_scheme..target.end];
        let path_at = after_scheme
            + rest
                .iter()
                .position(|byte| matches!(byte, b'/' | b'?'))
                .unwrap_or(rest.len());
        self.authority = Span {
            start: after_scheme,
            end: path_at,
        };
        self.target = Span {
            start: path_at,
            end: target.end,
        };
        if self.authority.is_empty() || !is_authority(self.authority.of(input)) {
            return Err(Reason::BadTarget);
        }
        self.has_host = false;
        Ok(())
    }

    /// Writes the head as the backend shall see it, without the empty line at its end: the request line in origin
    /// form and HTTP/1.1, the client's fields without those of this hop, and `Host` where the client sent none.
    /// `fallback_host` serves HTTP/1.0 requests that name no host.
    pub fn write(&self, head: &[u8], fallback_host: &[u8], out: &mut Vec<u8>) {
        if self.line_is_plain {
            self.left_out
                .copy_rest(head, self.method_name.start, self.fields.end, out);
        } else {
            self.write_rewritten(head, Replaced::default(), fallback_host, out);
        }
        self.write_ends(out);
    }

    /// As [`Self::write`], with another target or host than the client's.
    pub fn write_replaced(
        &self,
        head: &[u8],
        replaced: Replaced<'_>,
        fallback_host: &[u8],
        out: &mut Vec<u8>,
    ) {
        self.write_rewritten(head, replaced, fallback_host, out);
        self.write_ends(out);
    }

    fn write_ends(&self, out: &mut Vec<u8>) {
        if self.respells_coding {
            out.extend_from_slice(TransferEncoding::LINE);
        }
        if self.upgrade {
            out.extend_from_slice(b"Connection: upgrade\r\n");
        }
    }

    #[cold]
    fn write_rewritten(
        &self,
        head: &[u8],
        replaced: Replaced<'_>,
        fallback_host: &[u8],
        out: &mut Vec<u8>,
    ) {
        out.extend_from_slice(self.method_name.of(head));
        out.push(b' ');
        let target = replaced.target.unwrap_or_else(|| self.target.of(head));
        if target.is_empty() && self.method == Method::Options {
            // Of the server as a whole (RFC 9112, section 3.2.4).
            out.push(b'*');
        } else if !matches!(target.first(), Some(b'/' | b'*')) {
            out.push(b'/');
        }
        out.extend_from_slice(target);
        out.extend_from_slice(b" HTTP/1.1\r\n");
        if self.has_host && replaced.host.is_none() {
            self.left_out
                .copy_rest(head, self.fields.start, self.fields.end, out);
            return;
        }
        out.extend_from_slice(b"Host: ");
        out.extend_from_slice(match replaced.host {
            Some(host) => host,
            None if self.authority.is_empty() => fallback_host,
            None => self.authority.of(head),
        });
        out.extend_from_slice(b"\r\n");
        // The client's own `Host` line does not count any more: copied line by line without it.
        let mut rest = Vec::new();
        self.left_out
            .copy_rest(head, self.fields.start, self.fields.end, &mut rest);
        for line in rest.split_inclusive(|byte| *byte == b'\n') {
            if !line
                .get(..5)
                .is_some_and(|name| name.eq_ignore_ascii_case(b"host:"))
            {
                out.extend_from_slice(line);
            }
        }
    }

    /// The values of the `Cookie` fields.
    pub fn cookies(&self) -> impl Iterator<Item = Span> + '_ {
        self.cookies.iter().copied()
    }

    /// The addresses in the client's `X-Forwarded-For` fields, in order.
    pub fn forwarded_for(&self) -> impl Iterator<Item = Span> + '_ {
        self.forwarded_for
            .into_iter()
            .chain(self.forwarded_for_more.iter().copied())
    }
}

/// Whether a field says who the client is (RFC 9440). Only we may say that, so a client's own are left out; also with
/// `_` for `-`, which many backends take for the same (RFC 3875, section 4.1.18).
fn is_identity(name: &str) -> bool {
    let is = |known: &str| {
        name.len() == known.len()
            && name.bytes().zip(known.bytes()).all(|(byte, known)| {
                byte.to_ascii_lowercase() == known || (byte == b'_' && known == b'-')
            })
    };
    is("client-cert") || is("client-cert-chain")
}

/// How many bytes of empty lines stand before the request line.
fn empty_lines(input: &[u8]) -> Result<usize, Reason> {
    let mut skipped = 0;
    while input[skipped..].starts_with(b"\r\n") {
        skipped += 2;
        if skipped > EMPTY_LINES_MAX {
            return Err(Reason::BadRequestLine);
        }
    }
    match input.get(skipped) {
        Some(b'\n') => Err(Reason::BareLineEnd),
        _ => Ok(skipped),
    }
}

/// Host with an optional port (RFC 3986, section 3.2, without user information). Empty is allowed in `Host`.
fn is_authority(authority: &[u8]) -> bool {
    let (host, port) = match authority.first() {
        Some(b'[') => match authority.iter().position(|byte| *byte == b']') {
            Some(end) => (&authority[1..end], &authority[end + 1..]),
            None => return false,
        },
        _ => {
            let end = authority
                .iter()
                .position(|byte| *byte == b':')
                .unwrap_or(authority.len());
            (&authority[..end], &authority[end..])
        }
    };
    let host_ok = if authority.first() == Some(&b'[') {
        !host.is_empty()
            && host
                .iter()
                .all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'))
    } else {
        (!host.is_empty() || port.is_empty())
            && host
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=%".contains(byte))
    };
    let port_ok = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    host_ok && port_ok
}
