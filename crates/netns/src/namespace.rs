//! A network namespace: a host of its own as far as the network goes.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::Error;
use crate::link::{self, Link};
use crate::netlink::{Conversation, Request};

/// Where iproute2 keeps named namespaces too, so that `ip netns exec` finds ours.
const FOLDER: &str = "/run/netns";
/// Every name begins with it, followed by the process id of the maker.
const PREFIX: &str = "weir-";

/// A network namespace with its loopback up. A handle: clones name the same namespace, and the last one dropped
/// kills the processes that were started in it and removes it.
#[derive(Clone)]
pub struct Namespace {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    /// Keeps the namespace alive, and is the way into it.
    handle: File,
    /// Speaks to the kernel about this namespace, whichever thread uses it.
    route: Mutex<Conversation>,
}

/// Whether this process may make namespaces; the error says why not.
pub fn check_available() -> Result<(), Error> {
    let unshared = thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET)).join();
    let unshared = unshared.expect("unshare does not panic");
    unshared.map_err(|errno| Error::new("make a network namespace (needs root)", errno))
}

impl Namespace {
    /// Makes a namespace. The label becomes part of its name, which is unique: see [`Namespace::name`].
    pub fn new(label: &str) -> Result<Self, Error> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        static SWEEP: Once = Once::new();
        prepare_folder().map_err(|source| Error::new(format!("prepare {FOLDER}"), source))?;
        SWEEP.call_once(remove_stale);

        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{count}-{label}", std::process::id());
        let path = Path::new(FOLDER).join(&name);
        let made = thread::scope(|scope| scope.spawn(|| make(&path)).join());
        let made = made.unwrap_or_else(|panic| panic::resume_unwind(panic));
        let (handle, route) = made.map_err(|source| {
            remove_file(&path);
            Error::new(format!("make network namespace {name}"), source)
        })?;
        let namespace = Self {
            inner: Arc::new(Inner {
                name,
                handle,
                route: Mutex::new(route),
            }),
        };

        // Duplicate address detection would hold back IPv6 addresses for a second or two.
        namespace.set_sysctl("net/ipv6/conf/default/accept_dad", "0")?;
        namespace.loopback()?.up()?;
        Ok(namespace)
    }

    /// Its name under `/run/netns`: `weir-<process id>-<number>-<label>`.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its file, which `nsenter --net=` takes.
    pub fn path(&self) -> PathBuf {
        Path::new(FOLDER).join(&self.inner.name)
    }

    /// Runs a closure on a thread of its own inside the namespace, and returns what it returns. Sockets opened
    /// there stay in the namespace; threads and processes started there are born in it.
    ///
    /// # Panics
    /// With the closure's panic; and where the process lost the right to enter namespaces.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let result = thread::scope(|scope| {
            let inside = thread::Builder::new()
                .name(self.inner.name.clone())
                .spawn_scoped(scope, || {
                    setns(self.inner.handle.as_fd(), CloneFlags::CLONE_NEWNET)
                        .expect("who made a namespace may enter it");
                    work()
                });
            inside.expect("a thread can be started").join()
        });
        result.unwrap_or_else(|panic| panic::resume_unwind(panic))
    }

    /// Starts a program inside the namespace. It is killed when the namespace is removed.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        // A child is born in the namespace of the thread that forks.
        self.run(|| command.spawn())
    }

    /// Runs a program inside the namespace to its end and collects its output.
    pub fn output(&self, command: &mut Command) -> io::Result<Output> {
        self.run(|| command.output())
    }

    /// The loopback interface.
    pub fn loopback(&self) -> Result<Link, Error> {
        self.link("lo")
    }

    /// The interface of this name.
    pub fn link(&self, name: &str) -> Result<Link, Error> {
        Link::find(self, name)
    }

    /// Sets a sysctl below `/proc/sys`, such as `net/ipv4/ip_forward`.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<(), Error> {
        let written = self.run(|| fs::write(Path::new("/proc/sys").join(key), value));
        written.map_err(|source| {
            Error::new(
                format!("set sysctl {key} to {value} in {}", self.inner.name),
                source,
            )
        })
    }

    /// Lets it pass on packets that are not for itself, as a router does.
    pub fn forward_packets(&self) -> Result<(), Error> {
        self.set_sysctl("net/ipv4/ip_forward", "1")?;
        self.set_sysctl("net/ipv6/conf/all/forwarding", "1")
    }

    /// Adds a route: a prefix such as `10.0.0.0/8` or `0.0.0.0/0`, and the router's address. An existing route to
    /// the prefix is replaced.
    pub fn add_route(&self, prefix: &str, via: IpAddr) -> Result<(), Error> {
        let what = || format!("add route {prefix} via {via} in {}", self.inner.name);
        let request = link::parse_prefix(prefix).map(|(address, len)| {
            // struct rtmsg, include/uapi/linux/rtnetlink.h
            let mut request = Request::new(
                libc::RTM_NEWROUTE,
                libc::NLM_F_CREATE | libc::NLM_F_REPLACE,
                &[
                    link::family(address),
                    len,
                    0,
                    0,
                    libc::RT_TABLE_MAIN,
                    libc::RTPROT_STATIC,
                    libc::RT_SCOPE_UNIVERSE,
                    libc::RTN_UNICAST,
                    0,
                    0,
                    0,
                    0,
                ],
            );
            if len > 0 {
                request.attribute(libc::RTA_DST, &link::octets(address));
            }
            request.attribute(libc::RTA_GATEWAY, &link::octets(via));
            request
        });
        request
            .and_then(|request| self.ask(request))
            .map_err(|source| Error::new(what(), source))?;
        Ok(())
    }

    pub(crate) fn ask(&self, request: Request) -> io::Result<Vec<Vec<u8>>> {
        // A panic while the lock was held leaves at most an unread answer, which its sequence number gives away.
        self.inner
            .route
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .ask(request)
    }

    pub(crate) fn handle(&self) -> &File {
        &self.inner.handle
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Ok(metadata) = self.handle.metadata() {
            kill_inhabitants(metadata.ino());
        }
        remove_file(&Path::new(FOLDER).join(&self.name));
    }
}

/// On a thread of its own: moves it to a new namespace and binds that to a file.
fn make(path: &Path) -> io::Result<(File, Conversation)> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    File::create_new(path)?;
    let none = None::<&str>;
    mount(
        Some("/proc/thread-self/ns/net"),
        path,
        none,
        MsFlags::MS_BIND,
        none,
    )?;
    Ok((File::open(path)?, Conversation::open(libc::NETLINK_ROUTE)?))
}

/// Makes the folder a shared mount, as `ip netns add` does, so that a file unmounted here is unmounted in every
/// mount namespace, and the network namespace with it goes away.
fn prepare_folder() -> io::Result<()> {
    fs::create_dir_all(FOLDER)?;
    let none = None::<&str>;
    let share = || {
        mount(
            none,
            FOLDER,
            none,
            MsFlags::MS_SHARED | MsFlags::MS_REC,
            none,
        )
    };
    match share() {
        Err(nix::Error::EINVAL) => {
            // Not a mount point yet.
            mount(
                Some(FOLDER),
                FOLDER,
                none,
                MsFlags::MS_BIND | MsFlags::MS_REC,
                none,
            )?;
            Ok(share()?)
        }
        other => Ok(other?),
    }
}

/// Removes the namespaces of processes that were killed before they could.
fn remove_stale() {
    let Ok(entries) = fs::read_dir(FOLDER) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let maker = name.to_str().and_then(maker);
        if maker.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            if let Ok(metadata) = fs::metadata(entry.path()) {
                kill_inhabitants(metadata.ino());
            }
            remove_file(&entry.path());
        }
    }
}

/// The process that made a namespace of this name.
fn maker(name: &str) -> Option<u32> {
    let (pid, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    pid.parse().ok()
}

/// Kills the processes inside a network namespace, which is known by its inode number.
fn kill_inhabitants(namespace: u64) {
    let Ok(entries) = fs::read_dir("/proc") else {
        return;
    };
    for entry in entries.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let inside = fs::metadata(entry.path().join("ns/net"))
            .is_ok_and(|metadata| metadata.ino() == namespace);
        if inside && pid != std::process::id() {
            let pid = Pid::from_raw(pid.cast_signed());
            // It may have ended meanwhile.
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

/// Unmounts and removes a namespace's file. Where that fails there is nobody to tell: the next process sweeps.
fn remove_file(path: &Path) {
    let _ = umount2(path, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_maker_is_read_from_the_name() {
        for (name, pid) in [
            ("weir-123-0-client", Some(123)),
            ("weir-123-0-a-b", Some(123)),
            ("weir-x-0-client", None),
            ("weir-123", None),
            ("other-123-0", None),
        ] {
            assert_eq!(maker(name), pid, "{name}");
        }
    }
}
