//! What the kernel says about this process (proc(5)).

use std::fs;
use std::time::Duration;

use anyhow::{Result, bail};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use weir_api::view::ProcessView;

/// The process as it is now; none where /proc is not mounted.
pub(crate) fn process() -> Option<ProcessView> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let micros = |time: nix::sys::time::TimeVal| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
        let micros = u64::try_from(time.tv_usec()).unwrap_or(0);
        Duration::from_secs(seconds) + Duration::from_micros(micros)
    };
    let (max_fds, _) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    Some(ProcessView {
        cpu: micros(usage.user_time()) + micros(usage.system_time()),
        resident_bytes: resident_bytes(&fs::read_to_string("/proc/self/status").ok()?)?,
        open_fds: fs::read_dir("/proc/self/fd").ok()?.count() as u64,
        max_fds,
    })
}

/// Fails with the names of the capabilities that XDP needs and this process lacks. Nothing is missing where nobody
/// can tell: the kernel will.
pub(crate) fn require_capabilities() -> Result<()> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let missing = effective_capabilities(&status)
        .map(missing)
        .unwrap_or_default();
    if !missing.is_empty() {
        bail!(
            "this process lacks {}: run it as root or grant it",
            missing.join(", ")
        );
    }
    Ok(())
}

/// Who listens on a TCP port of this machine, as "name (pid 123)"; none when nobody does, or when it cannot be seen.
pub(crate) fn listens_on(port: u16) -> Option<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"]
        .map(|table| fs::read_to_string(table).unwrap_or_default());
    let inode = tables
        .iter()
        .find_map(|table| listening_inode(table, port))?;
    let socket = format!("socket:[{inode}]");
    let has_socket = |pid: &str| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten();
        descriptors
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .any(|link| link.as_os_str() == socket.as_str())
    };
    let processes = fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let pid = processes
        .filter(|name| name.parse::<u32>().is_ok())
        .find(|pid| has_socket(pid))?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(format!("{} (pid {pid})", name.trim()))
}

/// The inode of the socket that listens on a port, from a table of the form of /proc/net/tcp.
fn listening_inode(table: &str, port: u16) -> Option<&str> {
    const LISTEN: &str = "0A";
    let local_end = format!(":{port:04X}");
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, local, _, state, _, _, _, _, _, inode, ..] = fields[..] else {
            return None;
        };
        (local.ends_with(&local_end) && state == LISTEN).then_some(inode)
    })
}

fn resident_bytes(status: &str) -> Option<u64> {
    let kilobytes = field(status, "VmRSS:")?.strip_suffix("kB")?.trim();
    Some(kilobytes.parse::<u64>().ok()? * 1024)
}

fn effective_capabilities(status: &str) -> Option<u64> {
    u64::from_str_radix(field(status, "CapEff:")?, 16).ok()
}

fn field<'s>(status: &'s str, name: &str) -> Option<&'s str> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .map(str::trim)
}

/// Loading and attaching XDP takes CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN for the first (capabilities(7);
/// CAP_BPF came with Linux 5.8). The verifier allows what our programs do with pointers to CAP_PERFMON.
fn missing(effective: u64) -> Vec<&'static str> {
    const NET_ADMIN: u32 = 12;
    const SYS_ADMIN: u32 = 21;
    const PERFMON: u32 = 38;
    const BPF: u32 = 39;
    let has = |capability: u32| effective >> capability & 1 == 1;
    let mut names = Vec::new();
    if !has(NET_ADMIN) {
        names.push("CAP_NET_ADMIN");
    }
    if !has(BPF) && !has(SYS_ADMIN) {
        names.push("CAP_BPF");
    }
    if !has(PERFMON) && !has(SYS_ADMIN) {
        names.push("CAP_PERFMON");
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_is_seen() {
        let process = process().unwrap();
        assert!(
            process.resident_bytes > 100_000
                && process.open_fds >= 3
                && process.max_fds >= process.open_fds
        );
    }

    #[test]
    fn listener_is_found_by_its_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let owner = listens_on(port).unwrap();
        assert!(
            owner.ends_with(&format!("(pid {})", std::process::id())),
            "{owner}"
        );
        drop(listener);
        assert_eq!(listens_on(port), None);
    }

    #[test]
    fn fields_of_status() {
        let status = "Name:\tweir\nVmRSS:\t    1234 kB\nCapEff:\t000001ffffffffff\n";
        assert_eq!(resident_bytes(status), Some(1234 * 1024));
        assert_eq!(effective_capabilities(status), Some(0x1ff_ffff_ffff));
        assert_eq!(resident_bytes("Name:\tweir\n"), None);
    }

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(missing(0), ["CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON"]);
        assert_eq!(missing(1 << 12), ["CAP_BPF", "CAP_PERFMON"]);
        assert_eq!(missing(1 << 12 | 1 << 21), [""; 0]);
        assert_eq!(missing(1 << 12 | 1 << 38 | 1 << 39), [""; 0]);
        assert_eq!(missing(u64::MAX), [""; 0]);
    }
}
