//! Programs and the interfaces that they are attached to.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;

use aya::Ebpf;
use aya::programs::xdp::XdpLinkId;
use aya::programs::{ProgramError, TestRun, TestRunOptions, Xdp, XdpMode as Flag};
use nix::net::if_::if_nametoindex;
use weir_model::XdpMode;

use crate::error::{Error, chain, os_error};

/// How a program is attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Attachment {
    /// In the driver, before the kernel makes a packet buffer.
    Native,
    /// In the kernel's stack: works everywhere, slower.
    Generic,
}

impl Attachment {
    /// The word in logs, in the API and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A loaded object with one program that is attached to interfaces.
#[derive(Debug)]
pub(crate) struct Programs {
    ebpf: Ebpf,
    main: &'static str,
    attached: BTreeMap<String, Attached>,
}

#[derive(Debug)]
struct Attached {
    /// The kernel detaches when this is closed, also when the process dies. To outlive the process, links, programs
    /// and maps are pinned below [`pin_dir`].
    link: XdpLinkId,
    ifindex: u32,
    mode: Attachment,
}

/// Where what outlives the process is pinned: the one place that says so.
#[expect(dead_code, reason = "the life cycle without loss is the next issue")]
pub(crate) fn pin_dir(node: &str) -> PathBuf {
    PathBuf::from("/sys/fs/bpf/weir").join(node)
}

impl Programs {
    /// Gives the kernel the program `main` of an object, and `others`.
    pub(crate) fn load(
        mut ebpf: Ebpf,
        main: &'static str,
        others: &[&'static str],
    ) -> Result<Self, Error> {
        for program in others.iter().chain([&main]) {
            let fail = |source| Error::Program { program, source };
            xdp(&mut ebpf, program)?.load().map_err(fail)?;
        }
        Ok(Self {
            ebpf,
            main,
            attached: BTreeMap::new(),
        })
    }

    /// Attaches the main program to an interface.
    pub(crate) fn attach(&mut self, interface: &str, mode: XdpMode) -> Result<Attachment, Error> {
        let ifindex = if_nametoindex(interface).map_err(|_| Error::NoInterface {
            interface: interface.to_owned(),
        })?;
        self.detach(interface);
        let program = xdp(&mut self.ebpf, self.main)?;
        let mut attach = |flag: Flag| program.attach_to_if_index(ifindex, flag);
        let (link, mode) = match mode {
            XdpMode::Native => (
                attach(Flag::Driver).map_err(refused(interface, Attachment::Native))?,
                Attachment::Native,
            ),
            XdpMode::Generic => (
                attach(Flag::Skb).map_err(refused(interface, Attachment::Generic))?,
                Attachment::Generic,
            ),
            XdpMode::Auto => match attach(Flag::Driver) {
                Ok(link) => (link, Attachment::Native),
                Err(error) if is_final(&error) => {
                    return Err(refused(interface, Attachment::Native)(error));
                }
                Err(error) => {
                    let link =
                        attach(Flag::Skb).map_err(refused(interface, Attachment::Generic))?;
                    let reason = reason(&error);
                    tracing::warn!(
                        interface,
                        reason,
                        "no native XDP here: attached in generic mode, which is slower"
                    );
                    (link, Attachment::Generic)
                }
            },
        };
        tracing::info!(interface, mode = mode.as_str(), "XDP attached");
        self.attached.insert(
            interface.to_owned(),
            Attached {
                link,
                ifindex,
                mode,
            },
        );
        Ok(mode)
    }

    /// Detaches the main program from an interface, if it is attached.
    pub(crate) fn detach(&mut self, interface: &str) {
        if let Some(attached) = self.attached.remove(interface)
            && let Ok(program) = xdp(&mut self.ebpf, self.main)
            && let Err(error) = program.detach(attached.link)
        {
            tracing::warn!(interface, error = chain(&error), "detach XDP");
        }
    }

    /// How an interface is attached, and the index that it had then.
    pub(crate) fn attachment(&self, interface: &str) -> Option<(Attachment, u32)> {
        self.attached
            .get(interface)
            .map(|attached| (attached.mode, attached.ifindex))
    }

    /// Runs a program once, by itself.
    pub(crate) fn run(&mut self, program: &'static str) -> Result<(), Error> {
        // As short as test runs may be (net/bpf/test_run.c, `bpf_test_init`).
        let packet = [0; 64];
        let options = TestRunOptions {
            data_in: Some(&packet),
            ..TestRunOptions::default()
        };
        let run = xdp(&mut self.ebpf, program)?.test_run(options);
        run.map(drop)
            .map_err(|source| Error::Program { program, source })
    }
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, Error> {
    let program = ebpf.program_mut(name).ok_or(Error::Missing(name))?;
    program.try_into().map_err(|source| Error::Program {
        program: name,
        source,
    })
}

/// Errors that generic mode would meet, too.
fn is_final(error: &ProgramError) -> bool {
    matches!(
        os_error(error),
        Some(libc::EBUSY | libc::EEXIST | libc::EPERM | libc::ENODEV)
    )
}

fn refused(interface: &str, mode: Attachment) -> impl FnOnce(ProgramError) -> Error {
    move |error| Error::Attach {
        interface: interface.to_owned(),
        mode: mode.as_str(),
        reason: reason(&error),
        hint: os_error(&error).and_then(|number| hint(number, mode)),
    }
}

/// The kernel's reason, without the name of the system call.
fn reason(error: &ProgramError) -> String {
    match os_error(error) {
        Some(number) => io::Error::from_raw_os_error(number).to_string(),
        None => chain(error),
    }
}

fn hint(number: i32, mode: Attachment) -> Option<&'static str> {
    match (number, mode) {
        (libc::EBUSY | libc::EEXIST, _) => {
            Some("another XDP program is attached there; `ip link` shows its id")
        }
        (libc::EPERM, _) => Some("CAP_NET_ADMIN and CAP_BPF are needed, or root"),
        (libc::ENODEV, _) => Some("the interface has gone"),
        (libc::EOPNOTSUPP, Attachment::Native) => {
            Some("the driver has no XDP, or not with LRO on; try xdp_mode = \"generic\"")
        }
        (libc::EINVAL | libc::ERANGE | libc::EMSGSIZE, Attachment::Native) => {
            Some("the driver may want a smaller MTU, LRO off, or fewer channels")
        }
        _ => None,
    }
}
