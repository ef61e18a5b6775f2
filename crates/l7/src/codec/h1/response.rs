//! The head of an answer (RFC 9112, sections 4, 6 and 9.3).

use std::mem::MaybeUninit;

use weir_model::{HeaderEdits, HttpLimits};

use super::field::{self, Connection};
use super::{
    FIELDS_ON_STACK, Framing, LeftOut, Method, Progress, Span, TransferEncoding, Version,
    content_length, has_bare_lf,
};
use crate::edits;
use crate::errors::Reason;

/// What an answer's head says. Reused from answer to answer, so that its lists keep their memory.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    /// Bytes of the head, the empty line included.
    pub length: usize,
    /// The status code.
    pub status: u16,
    /// The backend's version.
    pub version: Version,
    /// Where the body ends.
    pub framing: Framing,
    /// Whether the backend lets the connection go on after this answer.
    pub keep_alive: bool,
    status_line_rest: Span,
    /// `Transfer-Encoding` is spelled in an unusual way: a line of our own takes its place.
    respells_coding: bool,
    fields: Span,
    left_out: LeftOut,
}

/// What becomes of the downstream connection after the answer, as the answer's head tells the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It goes on, which is what HTTP/1.1 clients expect unless told otherwise.
    KeepAlive,
    /// It goes on; an HTTP/1.0 client has to be told.
    KeepAliveHttp10,
    /// It ends.
    Close,
    /// It becomes a tunnel.
    Upgrade,
}

impl ResponseHead {
    fn clear(&mut self) {
        self.left_out.clear();
        *self = Self {
            left_out: std::mem::take(&mut self.left_out),
            ..Self::default()
        };
    }

    /// The value of the first field with this name, which is in lower case.
    pub fn field<'h>(&self, head: &'h [u8], name: &str) -> Option<&'h [u8]> {
        field::values(self.fields.of(head), name).next()
    }

    /// Whether another head follows this one. 101 is final: what follows it is not HTTP.
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }

    /// Parses the head at the front of `input`, an answer to a request with `method`.
    pub fn parse(
        &mut self,
        input: &[u8],
        method: Method,
        limits: &HttpLimits,
    ) -> Result<Progress, Reason> {
        self.clear();
        let limited = &input[..input.len().min(limits.header_bytes)];
        let progress = if limits.header_count <= FIELDS_ON_STACK {
            let mut fields = [const { MaybeUninit::uninit() }; FIELDS_ON_STACK];
            self.parse_with(limited, method, &mut fields[..limits.header_count])?
        } else {
            let mut fields = vec![MaybeUninit::uninit(); limits.header_count];
            self.parse_with(limited, method, &mut fields)?
        };
        if progress == Progress::Partial && limited.len() == limits.header_bytes {
            return Err(Reason::BadResponse);
        }
        Ok(progress)
    }

    fn parse_with<'b>(
        &mut self,
        input: &'b [u8],
        method: Method,
        fields: &mut [MaybeUninit<httparse::Header<'b>>],
    ) -> Result<Progress, Reason> {
        // `httparse` skips empty lines; before an answer there are none.
        if matches!(input.first(), Some(b'\r' | b'\n')) {
            return Err(Reason::BadResponse);
        }
        let mut response = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let length = match config.parse_response_with_uninit_headers(&mut response, input, fields) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(Progress::Partial),
            Err(_) => return Err(Reason::BadResponse),
        };
        if has_bare_lf(&input[..length]) {
            return Err(Reason::BadResponse);
        }
        let (Some(status), Some(version)) = (response.code, response.version) else {
            return Err(Reason::BadResponse);
        };
        if status < 100 {
            return Err(Reason::BadResponse);
        }
        self.length = length;
        self.status = status;
        self.version = if version == 0 {
            Version::Http10
        } else {
            Version::Http11
        };
        self.take_fields(input, method, response.headers)?;
        Ok(Progress::Complete)
    }

    fn take_fields(
        &mut self,
        input: &[u8],
        method: Method,
        fields: &[httparse::Header<'_>],
    ) -> Result<(), Reason> {
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
        // "HTTP/1.x" is eight bytes long.
        self.status_line_rest = Span {
            start: 8,
            end: self.fields.start,
        };

        let bodiless_status = self.status < 200 || self.status == 204;
        let mut connection = Connection::default();
        let mut coding = TransferEncoding::Absent;
        let mut length = None;
        for (index, header) in fields.iter().enumerate() {
            let (name, value) = (header.name, header.value);
            match name.len() {
                7 if name.eq_ignore_ascii_case("upgrade") && self.status != 101 => {
                    self.left_out.add(line_of(index));
                }
                10 if name.eq_ignore_ascii_case("connection") => {
                    connection = connection.and(value);
                    self.left_out.add(line_of(index));
                }
                10 if name.eq_ignore_ascii_case("keep-alive") => self.left_out.add(line_of(index)),
                14 if name.eq_ignore_ascii_case("content-length") => {
                    let value = content_length(value).ok_or(Reason::BadResponseFraming)?;
                    match length {
                        None => length = Some(value),
                        Some(before) if before == value => self.left_out.add(line_of(index)),
                        Some(_) => return Err(Reason::BadResponseFraming),
                    }
                    if bodiless_status {
                        self.left_out.add(line_of(index));
                    }
                }
                16 if name.eq_ignore_ascii_case("proxy-connection") => {
                    self.left_out.add(line_of(index));
                }
                17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                    coding = coding.and(value);
                    let line = line_of(index);
                    let plain = TransferEncoding::is_plain(&line.of(input)[name.len()..]);
                    self.respells_coding = !plain && !bodiless_status;
                    if bodiless_status || !plain {
                        self.left_out.add(line);
                    }
                }
                _ => {}
            }
        }
        if connection.names_fields {
            self.leave_out_named(fields, line_of);
        }
        self.framing = match (coding, length) {
            (TransferEncoding::Absent, Some(0)) => Framing::None,
            (TransferEncoding::Absent, Some(length)) => Framing::Length(length),
            (TransferEncoding::Absent, None) => Framing::UntilClose,
            (TransferEncoding::Chunked, None) if self.version == Version::Http11 => {
                Framing::Chunked
            }
            _ => return Err(Reason::BadResponseFraming),
        };
        if bodiless_status || self.status == 304 || method == Method::Head {
            self.framing = Framing::None;
        }
        self.keep_alive = self.framing != Framing::UntilClose
            && match self.version {
                Version::Http11 => !connection.close,
                Version::Http10 => connection.keep_alive && !connection.close,
            };
        Ok(())
    }

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
            let handled = header.name.eq_ignore_ascii_case("upgrade");
            if !handled
                && field::may_be_named_by_connection(header.name.as_bytes())
                && named(header.name)
            {
                self.left_out.add(line_of(index));
            }
        }
    }

    /// Writes the head as the client shall see it: HTTP/1.1, the backend's fields without those of this hop, and
    /// what becomes of the connection. `plain_body`: the chunks are taken off, for a client that knows none.
    /// Fields that `removed` takes off are left out; `added` are whole field lines of our own.
    pub fn write(
        &self,
        head: &[u8],
        after: After,
        plain_body: bool,
        removed: Option<&HeaderEdits>,
        added: &[u8],
        out: &mut Vec<u8>,
    ) {
        out.extend_from_slice(b"HTTP/1.1");
        if plain_body {
            self.write_without_coding(head, out);
        } else {
            self.left_out
                .copy_rest(head, self.status_line_rest.start, self.fields.end, out);
        }
        if let Some(removed) = removed {
            edits::remove(removed, out);
        }
        if self.respells_coding && !plain_body {
            out.extend_from_slice(TransferEncoding::LINE);
        }
        out.extend_from_slice(added);
        out.extend_from_slice(match after {
            After::KeepAlive => b"\r\n",
            After::KeepAliveHttp10 => b"Connection: keep-alive\r\n\r\n",
            After::Close => b"Connection: close\r\n\r\n",
            After::Upgrade => b"Connection: upgrade\r\n\r\n",
        });
    }

    #[cold]
    fn write_without_coding(&self, head: &[u8], out: &mut Vec<u8>) {
        let mut rest = Vec::new();
        self.left_out.copy_rest(
            head,
            self.status_line_rest.start,
            self.fields.end,
            &mut rest,
        );
        for line in rest.split_inclusive(|byte| *byte == b'\n') {
            let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
            if !name.eq_ignore_ascii_case(b"transfer-encoding")
                && !name.eq_ignore_ascii_case(b"trailer")
            {
                out.extend_from_slice(line);
            }
        }
    }
}
