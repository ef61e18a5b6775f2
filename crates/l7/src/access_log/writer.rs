//! The one thread that writes, and what it writes to.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use weir_model::LogOutput;

use super::AccessLogStats;

/// Pieces that wait for the writer over all workers: of 16 KiB each as a rule, and of 256 KiB at most.
const PIECES_MAX: usize = 64;

/// How long the last lines may take when the engine ends.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Where lines go.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) target: LogOutput,
    /// None: standard output.
    file: Mutex<Option<File>>,
    /// The file is to be opened anew before the next line.
    reopen: AtomicBool,
    /// The last write failed, and that was said.
    failing: AtomicBool,
    written: AtomicU64,
    dropped: AtomicU64,
}

impl Output {
    /// Opens it; a file is made if it is not there.
    pub(crate) fn open(target: &LogOutput) -> io::Result<Self> {
        Ok(Self {
            file: Mutex::new(open(target)?),
            target: target.clone(),
            reopen: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            written: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        })
    }

    /// What became of its lines.
    pub(crate) fn stats(&self) -> AccessLogStats {
        AccessLogStats {
            output: self.target.clone(),
            written: self.written.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
        }
    }

    pub(crate) fn count_dropped(&self, lines: u64) {
        self.dropped.fetch_add(lines, Relaxed);
    }

    /// Asks for the file to be opened anew, as somebody has moved it away.
    pub(crate) fn ask_to_reopen(&self) {
        self.reopen.store(true, Relaxed);
    }

    fn reopen_if_asked(&self) {
        if !self.reopen.swap(false, Relaxed) {
            return;
        }
        match open(&self.target) {
            Ok(file) => *self.lock() = file,
            Err(error) => {
                tracing::error!(output = %self.target, %error, "cannot open the access log anew; it goes on where it was");
            }
        }
    }

    fn write(&self, bytes: &[u8], lines: u64) {
        self.reopen_if_asked();
        let result = match &mut *self.lock() {
            Some(file) => file.write_all(bytes),
            None => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes).and_then(|()| stdout.flush())
            }
        };
        match result {
            Ok(()) => {
                self.written.fetch_add(lines, Relaxed);
                if self.failing.swap(false, Relaxed) {
                    tracing::info!(output = %self.target, "the access log can be written again");
                }
            }
            Err(error) => {
                self.count_dropped(lines);
                if !self.failing.swap(true, Relaxed) {
                    tracing::error!(output = %self.target, %error, "cannot write the access log");
                }
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<File>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(target: &LogOutput) -> io::Result<Option<File>> {
    match target {
        LogOutput::Stdout => Ok(None),
        LogOutput::File(path) => OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map(Some),
    }
}

/// What the writer is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// Write these.
    Lines {
        output: Arc<Output>,
        bytes: Vec<u8>,
        lines: u64,
    },
    /// Open these anew, where that is asked for.
    Reopen(Vec<Arc<Output>>),
}

/// The writer's thread; ends, after the last line, when it is dropped and all workers have ended.
#[derive(Debug)]
pub(crate) struct Writer {
    sender: Option<SyncSender<Message>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(crate) fn start() -> io::Result<Self> {
        let (sender, receiver) = sync_channel(PIECES_MAX);
        let thread = std::thread::Builder::new()
            .name("weir-l7-log".to_owned())
            .spawn(move || write(&receiver))?;
        Ok(Self {
            sender: Some(sender),
            thread: Some(thread),
        })
    }

    /// How a worker reaches it.
    pub(crate) fn sender(&self) -> Option<SyncSender<Message>> {
        self.sender.clone()
    }

    /// Opens these anew: now, or before the next line where the writer is busy.
    pub(crate) fn reopen(&self, outputs: Vec<Arc<Output>>) {
        for output in &outputs {
            output.ask_to_reopen();
        }
        if let Some(sender) = &self.sender {
            // Full: it comes by anyway.
            let _ = sender.try_send(Message::Reopen(outputs));
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.sender = None;
        let Some(thread) = self.thread.take() else {
            return;
        };
        // A disk that does not answer is no reason not to end.
        let deadline = Instant::now() + LAST_LINES;
        while !thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        if !thread.is_finished() {
            tracing::error!("the access log is not written to its end");
        } else if thread.join().is_err() {
            tracing::error!("the writer of the access log panicked");
        }
    }
}

fn write(messages: &Receiver<Message>) {
    for message in messages {
        match message {
            Message::Lines {
                output,
                bytes,
                lines,
            } => output.write(&bytes, lines),
            Message::Reopen(outputs) => outputs.iter().for_each(|output| output.reopen_if_asked()),
        }
    }
}
