//! One line: what it says, and how hostile bytes are kept from saying something else.

use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use weir_model::{LogFormat, LogVariable, Part, Route};

use super::{Journal, Log};
use crate::edits::{RequestId, TlsFacts};
use crate::errors::Reason;

/// How a request or a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Termination {
    /// The backend's answer, or all that both sides had to say, was passed on.
    Done,
    /// The route's own redirect or answer was sent.
    AnsweredHere,
    /// It failed.
    Failed(Reason),
}

impl Termination {
    /// Every way to end.
    pub fn all() -> impl Iterator<Item = Self> {
        let failed = Reason::ALL.iter().map(|reason| Self::Failed(*reason));
        [Self::Done, Self::AnsweredHere].into_iter().chain(failed)
    }

    /// The word in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::AnsweredHere => "answered_here",
            Self::Failed(reason) => reason.as_str(),
        }
    }
}

/// What a line says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'r> {
    pub(crate) time: SystemTime,
    pub(crate) listener: &'r str,
    pub(crate) client: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) protocol: &'static str,
    pub(crate) tls: Option<TlsFacts<'r>>,
    pub(crate) request_id: Option<RequestId>,
    pub(crate) journal: Option<&'r Journal>,
    /// With its place in the listener.
    pub(crate) route: Option<(usize, &'r Route)>,
    pub(crate) tries: u32,
    /// 0: none was sent.
    pub(crate) status: u16,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) tls_time: Option<Duration>,
    pub(crate) head_time: Option<Duration>,
    pub(crate) connect_time: Option<Duration>,
    pub(crate) first_byte_time: Option<Duration>,
    pub(crate) total_time: Duration,
    pub(crate) termination: Termination,
}

/// What a variable stands for.
enum Value<'v> {
    /// It has none.
    Absent,
    Number(u64),
    /// Our own words.
    Word(&'v str),
    /// Made on the spot; has nothing to escape.
    Made(String),
    /// From the client.
    Foreign(&'v [u8]),
}

impl Record<'_> {
    /// Writes the line, without its end.
    pub(crate) fn write(&self, log: &Log, out: &mut Vec<u8>) {
        match &log.config.format {
            LogFormat::Json => self.write_json(log, out),
            LogFormat::Template(template) => {
                for part in template.parts() {
                    match part {
                        Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                        Part::Variable(variable) => match self.value(log, variable) {
                            Value::Absent => out.push(b'-'),
                            value => write_value(&value, escape_plain, out),
                        },
                    }
                }
            }
        }
    }

    fn write_json(&self, log: &Log, out: &mut Vec<u8>) {
        let mut before = b'{';
        for variable in LogVariable::ALL {
            let value = self.value(log, variable);
            if !matches!(value, Value::Absent) {
                write_member(before, variable.as_str(), &value, out);
                before = b',';
            }
        }
        let mut inner = b'{';
        for name in &log.config.request_headers {
            if let Some(value) = self.journal.and_then(|journal| journal.header(log, name)) {
                if inner == b'{' {
                    out.extend_from_slice(b",\"request_headers\":");
                }
                write_member(inner, name, &Value::Foreign(value), out);
                inner = b',';
            }
        }
        if inner == b',' {
            out.push(b'}');
        }
        out.push(b'}');
    }

    fn value<'v>(&'v self, log: &Log, variable: &LogVariable) -> Value<'v> {
        let foreign = |bytes: Option<&'v [u8]>| bytes.map_or(Value::Absent, Value::Foreign);
        let micros = |time: Option<Duration>| match time {
            Some(time) => Value::Number(u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
            None => Value::Absent,
        };
        let backend = self.journal.and_then(|journal| journal.backend.as_ref());
        match variable {
            LogVariable::Time => Value::Made(timestamp(self.time)),
            LogVariable::Listener => Value::Word(self.listener),
            LogVariable::ClientAddress => Value::Made(self.client.ip().to_canonical().to_string()),
            LogVariable::ClientPort => Value::Number(self.client.port().into()),
            LogVariable::LocalAddress => Value::Made(self.local.ip().to_canonical().to_string()),
            LogVariable::LocalPort => Value::Number(self.local.port().into()),
            LogVariable::Protocol => Value::Word(self.protocol),
            LogVariable::TlsVersion => self
                .tls
                .map(|tls| tls.version)
                .filter(|version| !version.is_empty())
                .map_or(Value::Absent, Value::Word),
            LogVariable::TlsSni => foreign(
                self.tls
                    .map(|tls| tls.sni.as_bytes())
                    .filter(|sni| !sni.is_empty()),
            ),
            LogVariable::RequestId => self
                .request_id
                .map_or(Value::Absent, |id| Value::Made(id.to_string())),
            LogVariable::Method => foreign(self.journal.and_then(Journal::method)),
            LogVariable::Host => foreign(self.journal.and_then(Journal::host)),
            LogVariable::Target => foreign(self.journal.and_then(Journal::target)),
            LogVariable::Route => match self.route {
                Some((
                    _,
                    Route {
                        name: Some(name), ..
                    },
                )) => Value::Word(name.as_str()),
                Some((at, _)) => Value::Made(format!("#{}", at + 1)),
                None => Value::Absent,
            },
            LogVariable::Pool => {
                backend.map_or(Value::Absent, |backend| Value::Word(backend.pool.as_str()))
            }
            LogVariable::Backend => backend.map_or(Value::Absent, |backend| {
                Value::Made(backend.address.to_string())
            }),
            LogVariable::Tries => Value::Number(self.tries.into()),
            LogVariable::Status => match self.status {
                0 => Value::Absent,
                status => Value::Number(status.into()),
            },
            LogVariable::BytesIn => Value::Number(self.bytes_in),
            LogVariable::BytesOut => Value::Number(self.bytes_out),
            LogVariable::TlsUs => micros(self.tls_time),
            LogVariable::HeadUs => micros(self.head_time),
            LogVariable::ConnectUs => micros(self.connect_time),
            LogVariable::FirstByteUs => micros(self.first_byte_time),
            LogVariable::TotalUs => micros(Some(self.total_time)),
            LogVariable::Termination => Value::Word(self.termination.as_str()),
            LogVariable::RequestHeader(name) => {
                foreign(self.journal.and_then(|journal| journal.header(log, name)))
            }
        }
    }
}

fn write_member(before: u8, name: &str, value: &Value<'_>, out: &mut Vec<u8>) {
    out.push(before);
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    if let Value::Number(_) = value {
        write_value(value, escape_json, out);
    } else {
        out.push(b'"');
        write_value(value, escape_json, out);
        out.push(b'"');
    }
}

fn write_value(value: &Value<'_>, escape: fn(&[u8], &mut Vec<u8>), out: &mut Vec<u8>) {
    match value {
        Value::Absent => {}
        Value::Number(number) => {
            // Writing to a vector does not fail.
            let _ = write!(out, "{number}");
        }
        Value::Word(word) => out.extend_from_slice(word.as_bytes()),
        Value::Made(made) => out.extend_from_slice(made.as_bytes()),
        Value::Foreign(bytes) => escape(bytes, out),
    }
}

/// The inside of a JSON string (RFC 8259, section 7). Bytes that are not UTF-8 become U+FFFD; what a terminal might
/// obey (C1 included), or a reader might take for the end of a line, is escaped.
fn escape_json(bytes: &[u8], out: &mut Vec<u8>) {
    let mut room = [0; 4];
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' => out.extend_from_slice(&[b'\\', c as u8]),
                c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                    let _ = write!(out, "\\u{:04x}", c as u32);
                }
                c => out.extend_from_slice(c.encode_utf8(&mut room).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

/// Visible ASCII and spaces as they are, but `"` and `\`; those and all else as `\xNN`: a value can end neither a line
/// nor quotes.
fn escape_plain(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        match byte {
            b'"' | b'\\' | 0..0x20 | 0x7f.. => {
                let _ = write!(out, "\\x{byte:02x}");
            }
            _ => out.push(*byte),
        }
    }
}

/// RFC 3339, in UTC, with microseconds.
fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60,
        since.subsec_micros()
    )
}

/// Year, month and day of a number of days since 1970 (Hinnant, "chrono-Compatible Low-Level Date Algorithms",
/// `civil_from_days`): years are counted from March, so that the leap day is the last.
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests;
