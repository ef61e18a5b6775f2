//! The access log: a line for each request and each connection that is not opened, when it has ended.
//!
//! A worker makes lines in memory of its own and hands them over in large pieces to the one thread that writes. It
//! never waits: where the writer cannot keep up, lines are dropped and counted.

mod line;
mod writer;

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant, SystemTime};

use weir_model::{AccessLog, BackendId, LogFormat, LogOutput, LogVariable};

use crate::client::Client;
use crate::edits::{RequestId, TlsFacts};
use crate::errors::Reason;
use crate::plan::{HeldPlan, ListenerPlan};
use crate::routing::RequestView;

pub(crate) use line::Record;
pub use line::Termination;
pub(crate) use writer::{Message, Output, Writer};

/// Bytes that are handed over at once: a write of this size costs little for each line.
const PIECE_BYTES: usize = 16 * 1024;
/// Bytes that wait in a worker for the writer, for each output; beyond them lines are dropped.
const WAITING_BYTES_MAX: usize = 256 * 1024;

/// What became of the lines of one access log.
#[derive(Clone, Debug)]
pub struct AccessLogStats {
    /// Where they go.
    pub output: LogOutput,
    /// Lines that were written.
    pub written: u64,
    /// Lines that were not: the writer could not keep up, or could not write.
    pub dropped: u64,
}

/// The access log of a listener.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) output: Arc<Output>,
    pub(crate) config: AccessLog,
    /// Header fields that are written down.
    headers: Vec<String>,
}

impl Log {
    pub(crate) fn new(config: &AccessLog, output: Arc<Output>) -> Self {
        let mut headers = config.request_headers.clone();
        if let LogFormat::Template(template) = &config.format {
            headers.extend(template.variables().filter_map(|variable| match variable {
                LogVariable::RequestHeader(name) => Some(name.clone()),
                _ => None,
            }));
        }
        headers.sort_unstable();
        headers.dedup();
        Self {
            output,
            config: config.clone(),
            headers,
        }
    }
}

/// What is noted of the request, or of the connection, that is under way.
#[derive(Debug, Default)]
pub(crate) struct Note {
    /// The first byte came.
    pub(crate) began: Option<Instant>,
    /// The head was complete.
    pub(crate) head: Option<Instant>,
    /// A connection to a backend was there.
    pub(crate) connected: Option<Instant>,
    /// The answer's head was there.
    pub(crate) first_byte: Option<Instant>,
    pub(crate) tries: u32,
    /// 0: none was sent.
    pub(crate) status: u16,
    pub(crate) reason: Option<Reason>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// What takes memory; only where somebody reads it.
    pub(crate) journal: Option<Box<Journal>>,
}

/// What is kept of a request for its line.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    /// The plan that the request went by.
    pub(crate) plan: Option<Rc<HeldPlan>>,
    pub(crate) request_id: Option<RequestId>,
    /// The route's place in the listener.
    pub(crate) route: Option<usize>,
    pub(crate) backend: Option<BackendId>,
    has_request: bool,
    text: Vec<u8>,
    method: Range<usize>,
    host: Range<usize>,
    target: Range<usize>,
    headers: Vec<Option<Range<usize>>>,
}

impl Note {
    /// Begins anew; what takes memory is kept for the next request.
    pub(crate) fn clear(&mut self) {
        let mut journal = self.journal.take();
        if let Some(journal) = &mut journal {
            journal.clear();
        }
        *self = Self {
            journal,
            ..Self::default()
        };
    }
}

/// What a line says of the connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About<'a> {
    pub(crate) plan: &'a ListenerPlan,
    pub(crate) client: &'a Client,
    pub(crate) protocol: &'static str,
    /// The name in a handshake that was not opened.
    pub(crate) sni: Option<&'a str>,
}

impl Note {
    /// What there is to say, now that it has ended.
    pub(crate) fn record<'r>(&'r self, about: &About<'r>) -> Record<'r> {
        let journal = self.journal.as_deref();
        let between =
            |from: Option<Instant>, to: Option<Instant>| Some(to?.saturating_duration_since(from?));
        let route = journal
            .and_then(|journal| journal.route)
            .map(|index| (index, about.plan.routes.route(index)));
        Record {
            time: SystemTime::now(),
            listener: about.plan.listener.name.as_str(),
            client: about.client.address,
            local: about.client.local,
            protocol: about.protocol,
            tls: match about.sni {
                Some(sni) => Some(TlsFacts { version: "", sni }),
                None => about.client.tls_facts(),
            },
            request_id: journal.and_then(|journal| journal.request_id),
            journal,
            route,
            tries: self.tries,
            status: self.status,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            tls_time: about.client.take_handshake_time(),
            head_time: between(self.began, self.head),
            connect_time: between(self.head, self.connected),
            first_byte_time: between(self.connected, self.first_byte),
            total_time: self.began.map_or(Duration::ZERO, |began| began.elapsed()),
            termination: match self.reason {
                Some(reason) => Termination::Failed(reason),
                None if self.tries == 0 => Termination::AnsweredHere,
                None => Termination::Done,
            },
        }
    }
}

impl Journal {
    fn clear(&mut self) {
        self.text.clear();
        self.headers.clear();
        *self = Self {
            text: std::mem::take(&mut self.text),
            headers: std::mem::take(&mut self.headers),
            ..Self::default()
        };
    }

    /// Takes down what a line says of a request.
    pub(crate) fn take_down(&mut self, log: &Log, request: &impl RequestView) {
        self.has_request = true;
        self.method = self.copy(request.method());
        self.host = self.copy(request.authority());
        self.target = self.copy(request.target());
        for name in &log.headers {
            let value = request.values(name).next().map(|value| self.copy(value));
            self.headers.push(value);
        }
    }

    fn copy(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.text.len();
        self.text.extend_from_slice(bytes);
        start..self.text.len()
    }

    fn text(&self, range: &Range<usize>) -> Option<&[u8]> {
        self.has_request.then(|| &self.text[range.clone()])
    }

    pub(crate) fn method(&self) -> Option<&[u8]> {
        self.text(&self.method)
    }

    pub(crate) fn host(&self) -> Option<&[u8]> {
        self.text(&self.host)
    }

    pub(crate) fn target(&self) -> Option<&[u8]> {
        self.text(&self.target)
    }

    /// The value of a header field that the log writes down.
    pub(crate) fn header(&self, log: &Log, name: &str) -> Option<&[u8]> {
        let at = log.headers.iter().position(|other| other == name)?;
        let range = self.headers.get(at)?.as_ref()?;
        Some(&self.text[range.clone()])
    }
}

/// Lines of one worker that wait for the writer.
#[derive(Debug)]
pub(crate) struct Lines {
    /// None: nobody writes, which happens only while the engine ends.
    sender: Option<SyncSender<Message>>,
    waiting: RefCell<Vec<Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    output: Arc<Output>,
    bytes: Vec<u8>,
    lines: u64,
}

impl Lines {
    pub(crate) fn new(sender: Option<SyncSender<Message>>) -> Self {
        Self {
            sender,
            waiting: RefCell::default(),
        }
    }

    /// Writes a line, or counts it as dropped.
    pub(crate) fn write(&self, log: &Log, record: &Record<'_>) {
        let mut all = self.waiting.borrow_mut();
        let known = all
            .iter()
            .position(|waiting| Arc::ptr_eq(&waiting.output, &log.output));
        let at = known.unwrap_or_else(|| {
            all.push(Waiting {
                output: Arc::clone(&log.output),
                bytes: Vec::with_capacity(PIECE_BYTES + 1024),
                lines: 0,
            });
            all.len() - 1
        });
        let waiting = &mut all[at];
        if waiting.bytes.len() >= WAITING_BYTES_MAX {
            log.output.count_dropped(1);
            return;
        }
        record.write(log, &mut waiting.bytes);
        waiting.bytes.push(b'\n');
        waiting.lines += 1;
        if waiting.bytes.len() >= PIECE_BYTES {
            waiting.hand_over(self.sender.as_ref());
        }
    }

    /// Hands over what is there. Called at every tick, so that lines are seen soon.
    pub(crate) fn flush(&self) {
        let mut all = self.waiting.borrow_mut();
        all.retain_mut(|waiting| {
            // An output that was idle since the last tick may be gone from the config.
            let is_used = waiting.lines > 0;
            waiting.hand_over(self.sender.as_ref());
            is_used
        });
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.flush();
        for waiting in self.waiting.borrow().iter() {
            waiting.output.count_dropped(waiting.lines);
        }
    }
}

impl Waiting {
    fn hand_over(&mut self, sender: Option<&SyncSender<Message>>) {
        let Some(sender) = sender.filter(|_| self.lines > 0) else {
            return;
        };
        let message = Message::Lines {
            output: Arc::clone(&self.output),
            bytes: std::mem::take(&mut self.bytes),
            lines: self.lines,
        };
        match sender.try_send(message) {
            Ok(()) => {
                self.bytes.reserve(PIECE_BYTES + 1024);
                self.lines = 0;
            }
            Err(TrySendError::Full(Message::Lines { bytes, .. })) => self.bytes = bytes,
            Err(_) => {
                self.output.count_dropped(self.lines);
                self.lines = 0;
            }
        }
    }
}
