//! A node's folder in the BPF file system: what lies there outlives the daemon. One process at a time holds it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::statfs::{FsType, statfs};

use crate::attach::Attachment;
use crate::error::Error;

/// Where the BPF file system is, and where it is mounted when it is not.
const BPFFS: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC` (include/uapi/linux/magic.h).
const BPF_FS_MAGIC: FsType = FsType(0xcafe_4a11);
/// What the names of pinned links begin with; those of maps do not.
const LINK: &str = "link-";
/// A folder may be removed between our opening it and our locking it, by `weir detach` for one. More often than this, no
/// one does that by chance.
const TRIES: usize = 16;

/// The folder of a node, held.
#[derive(Debug)]
pub struct Pins {
    dir: PathBuf,
    _held: Flock<File>,
}

/// A pinned XDP link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PinnedLink {
    pub(crate) interface: String,
    pub(crate) attachment: Attachment,
    pub(crate) path: PathBuf,
}

impl Pins {
    /// Takes the folder of a node below `root`, for this process alone. Mounts the BPF file system where there is none.
    /// Outside the system's first network namespace the folder's name says which one it is for.
    pub fn take(root: &Path, node: &str) -> Result<Self, Error> {
        mount_bpffs(root)?;
        let dir = root.join(folder(node)?);
        let pins = Self::hold(&dir, true)?.ok_or_else(|| failed("make", &dir, gone()))?;
        remove_dead(root, node, &dir);
        Ok(pins)
    }

    /// Takes the folder of a node, if there is one.
    pub fn take_existing(root: &Path, node: &str) -> Result<Option<Self>, Error> {
        Self::hold(&root.join(folder(node)?), false)
    }

    fn hold(dir: &Path, make: bool) -> Result<Option<Self>, Error> {
        for _ in 0..TRIES {
            if make {
                let mut builder = fs::DirBuilder::new();
                builder
                    .recursive(true)
                    .mode(0o700)
                    .create(dir)
                    .map_err(|source| failed("make", dir, source))?;
            }
            let open = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_DIRECTORY)
                .open(dir);
            let file = match open {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound && make => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(source) => return Err(failed("open", dir, source)),
            };
            let inode = file
                .metadata()
                .map_err(|source| failed("look at", dir, source))?
                .ino();
            let held = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(held) => held,
                Err((_, Errno::EWOULDBLOCK)) => {
                    return Err(Error::NodeRuns {
                        dir: dir.to_owned(),
                        holder: holder(inode),
                    });
                }
                Err((_, errno)) => return Err(failed("lock", dir, errno.into())),
            };
            // Whoever removes the folder holds it: what we hold is not removed, but may have been before.
            if fs::metadata(dir).is_ok_and(|now| now.ino() == inode) {
                return Ok(Some(Self {
                    dir: dir.to_owned(),
                    _held: held,
                }));
            }
        }
        Err(failed("hold", dir, gone()))
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a map is, or is to be.
    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Where an interface's link is, or is to be.
    pub(crate) fn link(&self, interface: &str, attachment: Attachment) -> PathBuf {
        self.dir
            .join(format!("{LINK}{}-{attachment}", escaped(interface)))
    }

    /// The links that are there.
    pub(crate) fn links(&self) -> Result<Vec<PinnedLink>, Error> {
        let mut links = Vec::new();
        for path in entries(&self.dir).map_err(|source| failed("read", &self.dir, source))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let Some((interface, word)) = name
                .strip_prefix(LINK)
                .and_then(|rest| rest.rsplit_once('-'))
            else {
                continue;
            };
            let attachment = match word {
                "native" => Attachment::Native,
                "generic" => Attachment::Generic,
                _ => continue,
            };
            links.push(PinnedLink {
                interface: unescaped(interface),
                attachment,
                path,
            });
        }
        Ok(links)
    }

    /// Removes everything and the folder itself: links first, which ends forwarding. Returns how many links and other
    /// things there were.
    pub fn remove(self) -> Result<(usize, usize), Error> {
        let links = self.links()?;
        for link in &links {
            unpin_link(&link.path)?;
        }
        let maps = self.remove_maps()?;
        fs::remove_dir(&self.dir).map_err(|source| failed("remove", &self.dir, source))?;
        Ok((links.len(), maps))
    }

    /// Removes everything but links.
    pub(crate) fn remove_maps(&self) -> Result<usize, Error> {
        let mut removed = 0;
        for path in entries(&self.dir).map_err(|source| failed("read", &self.dir, source))? {
            let name = path.file_name().unwrap_or_default().as_bytes();
            if !name.starts_with(LINK.as_bytes()) {
                unpin(&path)?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

impl PinnedLink {
    /// The kernel's index of the interface that the link is attached to; 0: it has gone.
    pub(crate) fn ifindex(&self) -> Result<u32, Error> {
        ifindex(&self.path).map_err(|source| failed("look at", &self.path, source))
    }
}

/// Detaches a pinned link at once, and removes the pin: without a descriptor or a pin the kernel detaches it some time
/// later (kernel/bpf/syscall.c, `bpf_link_put`).
pub(crate) fn unpin_link(path: &Path) -> Result<(), Error> {
    open_pinned(path)
        .and_then(|link| detach_link(&link))
        .map_err(|source| failed("detach", path, source))?;
    unpin(path)
}

/// Removes a pin.
pub(crate) fn unpin(path: &Path) -> Result<(), Error> {
    fs::remove_file(path).map_err(|source| failed("remove", path, source))
}

pub(crate) fn failed(what: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Pin {
        what,
        path: path.to_owned(),
        source,
    }
}

fn gone() -> io::Error {
    io::Error::other("somebody else removes it again and again")
}

fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect()
}

/// The name of a node's folder.
fn folder(node: &str) -> Result<String, Error> {
    let node = escaped(node);
    // The kernel shows settings of the whole machine in the first network namespace only (net/core/sysctl_net_core.c,
    // `net_core_table`); which one is looked at follows the calling thread.
    if Path::new("/proc/sys/net/core/netdev_budget").exists() {
        Ok(node)
    } else {
        Ok(format!("{node}@{}", namespace_cookie()?))
    }
}

/// What tells the calling thread's network namespace from all others since the system was started
/// (`SO_NETNS_COOKIE`, Linux 5.14).
pub(crate) fn namespace_cookie() -> Result<u64, Error> {
    let ask = || {
        let socket = socket(
            AddressFamily::Unix,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        let mut cookie = 0u64;
        let mut size = size_of::<u64>() as libc::socklen_t;
        // SAFETY: the descriptor is open, and the kernel writes at most `size` bytes to `cookie`.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_NETNS_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut size,
            )
        };
        Errno::result(result).map(|_| cookie)
    };
    ask().map_err(|errno: Errno| Error::System {
        what: "ask for the network namespace",
        source: errno.into(),
    })
}

/// Files of the BPF file system have no dots in their names (kernel/bpf/inode.c, `bpf_lookup`).
fn escaped(name: &str) -> String {
    let mut escaped = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02x}"));
        }
    }
    escaped
}

fn unescaped(name: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = name.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail
            .get(..2)
            .filter(|_| *first == b'%')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

/// Mounts the BPF file system where there should be one and is none: at its usual place if `root` is below it, else at
/// `root`.
fn mount_bpffs(root: &Path) -> Result<(), Error> {
    let existing = root.ancestors().find(|path| path.exists());
    if existing.is_some_and(is_bpffs) {
        return Ok(());
    }
    let point = if root.starts_with(BPFFS) {
        Path::new(BPFFS)
    } else {
        fs::create_dir_all(root).map_err(|source| failed("make", root, source))?;
        root
    };
    // Of two that come at once, one mounts.
    let file = File::open(point).map_err(|source| failed("open", point, source))?;
    let _held = Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| failed("lock", point, errno.into()))?;
    if is_bpffs(point) {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), point, Some("bpf"), flags, Some("mode=0700"))
        .map_err(|errno| failed("mount the BPF file system at", point, errno.into()))?;
    tracing::info!(at = %point.display(), "the BPF file system is mounted");
    Ok(())
}

/// Removes the folders of this node in network namespaces that are gone: their tables take memory.
fn remove_dead(root: &Path, node: &str, own: &Path) {
    let prefix = format!("{}@", escaped(node));
    let others = entries(root).unwrap_or_default().into_iter().filter(|dir| {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&prefix) && dir != own
    });
    for dir in others {
        // Held by another process: it lives.
        let Ok(Some(pins)) = Pins::hold(&dir, false) else {
            continue;
        };
        let is_dead = pins.links().is_ok_and(|links| {
            links
                .iter()
                .all(|link| link.ifindex().is_ok_and(|ifindex| ifindex == 0))
        });
        if is_dead && pins.remove().is_ok() {
            tracing::info!(dir = %dir.display(), "removed what a network namespace left that is gone");
        }
    }
}

/// The process that holds a lock on a file, from /proc/locks (proc(5)): its fifth column is the process, its sixth the
/// file as major:minor:inode.
fn holder(inode: u64) -> Option<u32> {
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let end = format!(":{inode}");
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_it = fields.get(1) == Some(&"FLOCK") && fields.get(5)?.ends_with(&end);
        is_it.then(|| fields[4].parse().ok()).flatten()
    })
}

/// The interface of a pinned link, as the kernel shows it of a link's descriptor (net/core/dev.c,
/// `bpf_xdp_link_show_fdinfo`).
fn ifindex(path: &Path) -> io::Result<u32> {
    let link = open_pinned(path)?;
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", link.as_raw_fd()))?;
    text.lines()
        .find_map(|line| line.strip_prefix("ifindex:")?.trim().parse().ok())
        .ok_or_else(|| io::Error::other("the kernel does not tell the link's interface"))
}

/// The attributes of the command `BPF_OBJ_GET` (include/uapi/linux/bpf.h).
#[repr(C)]
struct ObjectGet {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Opens a pinned object.
fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    const BPF_OBJ_GET: libc::c_long = 7;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let attributes = ObjectGet {
        path: path.as_ptr() as u64,
        fd: 0,
        flags: 0,
    };
    // SAFETY: the attributes are those of the command, of the size given; the path lives until the call returns.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET,
            &raw const attributes,
            size_of::<ObjectGet>(),
        )
    };
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Detaches a link from its interface, if that is still there (`BPF_LINK_DETACH`, Linux 5.9).
fn detach_link(link: &OwnedFd) -> io::Result<()> {
    const BPF_LINK_DETACH: libc::c_long = 34;
    let attributes: u32 = link.as_raw_fd().cast_unsigned();
    // SAFETY: the command's attributes are one descriptor, which is open.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_LINK_DETACH,
            &raw const attributes,
            size_of::<u32>(),
        )
    };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_can_be_that_of_a_file() {
        for (name, file) in [
            ("lb-1", "lb-1"),
            ("lb-1.example.com", "lb-1%2eexample%2ecom"),
            ("eth0.100", "eth0%2e100"),
            ("a@b%2e", "a%40b%252e"),
            ("%", "%25"),
            ("..", "%2e%2e"),
        ] {
            assert_eq!(escaped(name), file);
            assert_eq!(unescaped(file), name);
        }
        assert_eq!(unescaped("50%"), "50%");
    }

    #[test]
    fn a_folder_is_held_by_one_and_names_who_holds_it() {
        let dir = std::env::temp_dir().join(format!("weir-pins-{}", std::process::id()));
        let held = Pins::hold(&dir, true).unwrap().unwrap();
        let error = Pins::hold(&dir, true).err().unwrap().to_string();
        let own = format!("process {}", std::process::id());
        assert!(error.contains(&own), "{error}");
        assert_eq!(held.remove().unwrap(), (0, 0));
        assert!(Pins::hold(&dir, false).unwrap().is_none());
    }
}
