//! What can go wrong between the config and the kernel.

use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;
use weir_model::{BackendId, Name};

/// Why the L4 plane cannot start, or cannot do what a snapshot says.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A listener and a backend of its pool that are of two families.
    #[error(
        "listener {listener} sends to backend {backend}: forward = \"{forward}\" does not lead from one family of IP to the other"
    )]
    TwoFamilies {
        /// The listener's name.
        listener: Name,
        /// The word in the config.
        forward: &'static str,
        /// The backend.
        backend: BackendId,
    },
    /// The listener has no pool, or the pool is not there.
    #[error("listener {0}: no pool")]
    NoPool(Name),
    /// A scheduler that the program does not know.
    #[error("pool {pool}: scheduler {scheduler} is for proxied listeners only")]
    Scheduler {
        /// The pool's name.
        pool: Name,
        /// The word in the config.
        scheduler: &'static str,
    },
    /// A key of connection ids cannot be read.
    #[error("pool {pool}: read the key of connection ids from {}: {source}", .path.display())]
    QuicKey {
        /// The pool's name.
        pool: Name,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// FullNAT or tunnel without an address of our own.
    #[error(
        "listener {listener}: forward = \"fullnat\" and \"tunnel\" need an {family} address in [l4] local_addresses"
    )]
    NoLocalAddress {
        /// The listener's name.
        listener: Name,
        /// The backends' family.
        family: &'static str,
    },
    /// More than the maps hold.
    #[error("more than {max} {what}")]
    TooMany {
        /// Things, in the plural.
        what: &'static str,
        /// How many there may be.
        max: u32,
    },
    /// The scheduling tables do not fit.
    #[error(
        "pool {pool}: no room for its scheduling table of {slots} slots; the tables of all pools may have {capacity} slots"
    )]
    ScheduleFull {
        /// The pool's name.
        pool: Name,
        /// Slots that it needs.
        slots: u32,
        /// Slots in all.
        capacity: u64,
    },
    /// A part of `[l4]` that cannot change while the plane runs.
    #[error("[l4] {0} has changed: this needs a restart")]
    NeedsRestart(&'static str),
    /// Something in the BPF file system.
    #[error("{what} {}: {source}{}", .path.display(), hint(.source))]
    Pin {
        /// What was to be done.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another process runs this node, or is about to remove it.
    #[error(
        "a node of this name runs already{}: it holds {}; stop it, or give one of them another name in [node]",
        .holder.map(|pid| format!(" (process {pid})")).unwrap_or_default(), .dir.display()
    )]
    NodeRuns {
        /// The folder that it holds.
        dir: PathBuf,
        /// The process, where it can be told.
        holder: Option<u32>,
    },
    /// What a former daemon left is not as this one has it.
    #[error(
        "{} was left by another version of weir ({what}), and forwarding goes on with it untouched; go back to that \
         version, or end its sessions and forwarding with `weir detach` and start again",
        .dir.display()
    )]
    Layout {
        /// The node's folder.
        dir: PathBuf,
        /// What differs.
        what: String,
    },
    /// The file asks for another number of sessions than the table was made for that a former daemon left.
    #[error(
        "{key} = {wanted}, and the session table in {} was made for {former} and has sessions: forwarding goes on with it \
         untouched; write {former} again, or end its sessions and forwarding with `weir detach` and start again",
        .dir.display()
    )]
    TableSize {
        /// The node's folder.
        dir: PathBuf,
        /// The setting.
        key: &'static str,
        /// Sessions that the table was made for.
        former: u32,
        /// Sessions that the file asks for.
        wanted: u32,
    },
    /// The node's name was used in another network namespace, and forwards there.
    #[error(
        "{} was left by a weir in another network namespace, where it still forwards; give one of them another name in \
         [node] or another pin_dir",
        .0.display()
    )]
    Elsewhere(PathBuf),
    /// The maps do not fit into memory.
    #[error(
        "max_sessions = {sessions} and max_sessions_ipv6 = {sessions_ipv6} need {} MiB for the session tables and other maps, \
         and {} MiB of memory are available{within}",
        .needed >> 20, .available >> 20
    )]
    Memory {
        /// Sessions of IPv4 asked for.
        sessions: u32,
        /// Sessions of IPv6 asked for.
        sessions_ipv6: u32,
        /// Bytes of the table and of the other large maps.
        needed: u64,
        /// Bytes that there are.
        available: u64,
        /// What sets the limit, if it is not the machine's memory: the end of the sentence.
        within: String,
    },
    /// The program does not load.
    #[error("load the XDP program: {}{}", chain(.0), hint(.0))]
    Load(#[source] EbpfError),
    /// The program is not accepted by the kernel.
    #[error("load the XDP program {program}: {}{}", refusal(.source), hint(.source))]
    Program {
        /// Its name.
        program: &'static str,
        /// What the kernel said.
        source: ProgramError,
    },
    /// A map is not there, or not as it should be.
    #[error("map {map}: {}{}", chain(.source), hint(.source))]
    Map {
        /// Its name.
        map: &'static str,
        /// What the kernel said.
        source: MapError,
    },
    /// The object has no such program or map: program and user space do not fit together.
    #[error("the BPF object has no {0}")]
    Missing(&'static str),
    /// An interface that is not there.
    #[error("attach XDP to {interface}: there is no such interface")]
    NoInterface {
        /// Its name.
        interface: String,
    },
    /// The program cannot be attached.
    #[error("attach XDP to {interface} ({mode}): {reason}{}", note(.hint))]
    Attach {
        /// The interface's name.
        interface: String,
        /// `native` or `generic`.
        mode: &'static str,
        /// What the kernel said.
        reason: String,
        /// What may help.
        hint: Option<&'static str>,
    },
    /// Any other system call.
    #[error("{what}: {source}{}", hint(.source))]
    System {
        /// What was to be done.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what, source }
    }

    pub(crate) fn map(map: &'static str) -> impl FnOnce(MapError) -> Self {
        move |source| Self::Map { map, source }
    }
}

/// Why the kernel does not take a program: of the verifier's log the last words.
fn refusal(error: &ProgramError) -> String {
    let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    else {
        return chain(error);
    };
    let log = verifier_log.to_string();
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines[lines.len().saturating_sub(VERIFIER_LINES)..].join("; ");
    if last.is_empty() {
        io_error.to_string()
    } else {
        format!("{io_error}: {last}")
    }
}

/// The last but one says what is wrong; the last counts instructions.
const VERIFIER_LINES: usize = 4;

/// An error and what caused it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

/// Whether a lack of rights is behind an error.
fn hint(error: &(dyn std::error::Error + 'static)) -> &'static str {
    match os_error(error) {
        Some(libc::EPERM) => " (CAP_BPF and CAP_NET_ADMIN are needed, or root)",
        _ => "",
    }
}

/// The kernel's error number at the bottom of an error.
pub(crate) fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(number) = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error)
        {
            return Some(number);
        }
        cause = error.source();
    }
    None
}

fn note(hint: &Option<&'static str>) -> String {
    hint.map(|hint| format!(" ({hint})")).unwrap_or_default()
}
