//! How much memory is to be had: of the machine, within the control groups, and of the process' address space. The
//! kernel takes the memory of maps at once, and where it is not there, kills somebody to get it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit};

/// Where control groups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Bytes, and what ends there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Available {
    pub(crate) bytes: u64,
    /// Behind the number in a message; empty for the machine itself.
    pub(crate) within: String,
}

/// The least of all limits.
pub(crate) fn available() -> io::Result<Available> {
    let memory = parse_available(&fs::read_to_string("/proc/meminfo")?);
    let machine = Available {
        bytes: memory.ok_or_else(|| invalid("no MemAvailable in /proc/meminfo"))?,
        within: String::new(),
    };
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let groups = groups(Path::new(CGROUPS), &own).into_iter();
    let limits = groups.filter_map(|group| group.available());
    Ok(limits.chain(address_space()).fold(machine, |least, other| {
        if other.bytes < least.bytes {
            other
        } else {
            least
        }
    }))
}

/// Bytes that the machine can still give to programs (`MemAvailable` of /proc/meminfo).
fn parse_available(meminfo: &str) -> Option<u64> {
    field(meminfo, "MemAvailable:")?
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

/// What is behind a word at the beginning of a line.
fn field<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(word))
        .map(str::trim)
}

/// What is left of the address space (`RLIMIT_AS`, getrlimit(2)): the tables are mapped into it.
fn address_space() -> Option<Available> {
    let (limit, _) = getrlimit(Resource::RLIMIT_AS).ok()?;
    if limit == libc::RLIM_INFINITY {
        return None;
    }
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let used = field(&status, "VmSize:")?.strip_suffix("kB")?.trim();
    let used: u64 = used.parse().ok()?;
    Some(Available {
        bytes: limit.saturating_sub(used * 1024),
        within: " within the limit of address space (RLIMIT_AS, ulimit -v)".to_owned(),
    })
}

/// A control group with a limit of memory, maps of BPF included (Linux 5.11; before it there was `RLIMIT_MEMLOCK`).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    dir: PathBuf,
    /// Names of the files with the limit and with what is used, and of what in `memory.stat` the kernel can take back.
    files: [&'static str; 2],
    reclaimable: [&'static str; 2],
}

/// The process' groups and those that they are in, given the text of /proc/self/cgroup (cgroups(7)): lines of
/// `number:controllers:path`, without controllers for the second version of control groups.
fn groups(root: &Path, own: &str) -> Vec<Group> {
    let mut groups = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (mounts, files, reclaimable): (&[&str], _, _) = if controllers.is_empty() {
            (
                &["", "unified"],
                ["memory.max", "memory.current"],
                ["inactive_file ", "active_file "],
            )
        } else if controllers.split(',').any(|name| name == "memory") {
            (
                &["memory"],
                ["memory.limit_in_bytes", "memory.usage_in_bytes"],
                ["total_inactive_file ", "total_active_file "],
            )
        } else {
            continue;
        };
        for mount in mounts {
            let mount = root.join(mount);
            let dir = mount.join(path.trim_start_matches('/'));
            let above = dir.ancestors().take_while(|dir| dir.starts_with(&mount));
            groups.extend(above.map(|dir| Group {
                dir: dir.to_owned(),
                files,
                reclaimable,
            }));
        }
    }
    groups
}

impl Group {
    /// `None`: it sets no limit.
    fn available(&self) -> Option<Available> {
        let read = |name: &str| fs::read_to_string(self.dir.join(name)).ok();
        // Without a limit: the word `max`, or a number that no machine has.
        let limit: u64 = read(self.files[0])?.trim().parse().ok()?;
        let used: u64 = read(self.files[1])?.trim().parse().ok()?;
        let stat = read("memory.stat").unwrap_or_default();
        let cached = self.reclaimable.iter().filter_map(|word| {
            let bytes: u64 = field(&stat, word)?.parse().ok()?;
            Some(bytes)
        });
        let cached: u64 = cached.sum();
        Some(Available {
            bytes: limit.saturating_sub(used.saturating_sub(cached)),
            within: format!(
                " within the control group {} ({})",
                self.dir.display(),
                self.files[0]
            ),
        })
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_memory_is_read_from_meminfo() {
        assert_eq!(
            parse_available("MemTotal: 9 kB\nMemAvailable:   24000 kB\n"),
            Some(24_576_000)
        );
        assert_eq!(parse_available("MemTotal: 9 kB\n"), None);
        assert_eq!(parse_available("MemAvailable: lots\n"), None);
        assert!(available().unwrap().bytes > 0);
    }

    /// The least that groups leave, with these files below the root.
    fn least(own: &str, files: &[(&str, &str)]) -> Option<(u64, String)> {
        let root = std::env::temp_dir().join(format!(
            "weir-cgroups-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        for (name, text) in files {
            let file = root.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        let found = groups(&root, own)
            .iter()
            .filter_map(Group::available)
            .min_by_key(|available| available.bytes);
        let prefix = format!("{}/", root.display());
        let _ = fs::remove_dir_all(&root);
        found.map(|available| (available.bytes, available.within.replace(&prefix, "")))
    }

    #[test]
    fn a_group_and_those_above_it_set_limits() {
        let v2 = "9:name=systemd:/\n0::/system/weir\n";
        let limit = |limit: &str, used: &str| {
            least(
                v2,
                &[
                    ("system/weir/memory.max", "max\n"),
                    ("system/weir/memory.current", "1000\n"),
                    ("system/memory.max", limit),
                    ("system/memory.current", used),
                    (
                        "system/memory.stat",
                        "anon 7\ninactive_file 100\nactive_file 20\n",
                    ),
                ],
            )
        };
        let text = " within the control group system (memory.max)".to_owned();
        assert_eq!(limit("5000\n", "1000\n"), Some((4120, text.clone())));
        assert_eq!(limit("5000\n", "6000\n"), Some((0, text)));
        assert_eq!(limit("max\n", "6000\n"), None);
    }

    #[test]
    fn the_first_version_of_groups_has_a_hierarchy_for_memory() {
        let own = "4:cpu,memory:/a\n3:cpu:/b\n0::/\n";
        let files = [
            ("memory/a/memory.limit_in_bytes", "4096\n"),
            ("memory/a/memory.usage_in_bytes", "96\n"),
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/memory.usage_in_bytes", "100\n"),
        ];
        let text = " within the control group memory/a (memory.limit_in_bytes)";
        assert_eq!(least(own, &files), Some((4000, text.to_owned())));
        assert_eq!(least("4:cpu:/a\n", &files), None);
        assert_eq!(least("nonsense\n", &files), None);
    }
}
