//! Programs and the interfaces that they are attached to.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink as PinnedFdLink};
use aya::programs::xdp::{XdpLink, XdpLinkId};
use aya::programs::{ProgramError, ProgramFd, TestRun, TestRunOptions, Xdp, XdpMode as Flag};
use nix::net::if_::if_nametoindex;
use weir_model::XdpMode;

use crate::error::{Error, chain, os_error};
use crate::pin::{Pins, failed, unpin_link};

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
    /// Where links are pinned, so that they outlive the process.
    pins: Option<Pins>,
}

#[derive(Debug)]
struct Attached {
    /// The kernel detaches when this is closed, also when the process dies, and the link is not pinned.
    link: XdpLinkId,
    ifindex: u32,
    mode: Attachment,
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
            pins: None,
        })
    }

    /// A program, for the kernel's maps of programs.
    pub(crate) fn fd(&mut self, program: &'static str) -> Result<ProgramFd, Error> {
        let fail = |source| Error::Program { program, source };
        let fd = xdp(&mut self.ebpf, program)?.fd().map_err(fail)?;
        fd.try_clone().map_err(|source| Error::System {
            what: "share a program",
            source,
        })
    }

    /// From now on links are pinned in a folder; those that a former daemon left there are taken over.
    pub(crate) fn pin(&mut self, pins: Pins) {
        self.pins = Some(pins);
    }

    /// Whether links outlive the process.
    pub(crate) fn is_pinned(&self) -> bool {
        self.pins.is_some()
    }

    /// The folder, where there is one.
    pub(crate) fn take_pins(&mut self) -> Option<Pins> {
        self.pins.take()
    }

    /// Attaches the main program to an interface.
    pub(crate) fn attach(&mut self, interface: &str, mode: XdpMode) -> Result<Attachment, Error> {
        let ifindex = if_nametoindex(interface).map_err(|_| Error::NoInterface {
            interface: interface.to_owned(),
        })?;
        if let Some(attachment) = self.take_over(interface, ifindex, mode)? {
            return Ok(attachment);
        }
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
        let link = self.pin_link(interface, mode, link)?;
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

    /// Puts the program in the place of the one that a former daemon left attached to an interface, in one step: every
    /// packet meets the one or the other. `None` where there is none of use; none is left then.
    fn take_over(
        &mut self,
        interface: &str,
        ifindex: u32,
        mode: XdpMode,
    ) -> Result<Option<Attachment>, Error> {
        let Some(pins) = &self.pins else {
            return Ok(None);
        };
        let mut left = pins.links()?;
        left.retain(|link| link.interface == interface);
        for link in left {
            let fits = match mode {
                XdpMode::Auto => true,
                XdpMode::Native => link.attachment == Attachment::Native,
                XdpMode::Generic => link.attachment == Attachment::Generic,
            };
            // An interface of this name that has gone, or has another name now, is not the one that is meant.
            if !fits || link.ifindex()? != ifindex {
                unpin_link(&link.path)?;
                continue;
            }
            let opened = PinnedFdLink::from_pin(&link.path)
                .and_then(|pinned| XdpLink::try_from(FdLink::from(pinned)))
                .map_err(|error| failed("open", &link.path, io::Error::other(chain(&error))))?;
            let replaced = xdp(&mut self.ebpf, self.main)?.attach_to_link(opened);
            match replaced {
                Ok(id) => {
                    let attached = Attached {
                        link: id,
                        ifindex,
                        mode: link.attachment,
                    };
                    self.attached.insert(interface.to_owned(), attached);
                    tracing::info!(
                        interface,
                        mode = link.attachment.as_str(),
                        "XDP program replaced"
                    );
                    return Ok(Some(link.attachment));
                }
                // The interface has gone meanwhile.
                Err(error) if os_error(&error) == Some(libc::ENOLINK) => unpin_link(&link.path)?,
                Err(error) => return Err(refused(interface, link.attachment)(error)),
            }
        }
        Ok(None)
    }

    fn pin_link(
        &mut self,
        interface: &str,
        attachment: Attachment,
        id: XdpLinkId,
    ) -> Result<XdpLinkId, Error> {
        let Some(pins) = &self.pins else {
            return Ok(id);
        };
        let path = pins.link(interface, attachment);
        let program = xdp(&mut self.ebpf, self.main)?;
        let not_pinned =
            |error: &dyn std::error::Error| failed("pin", &path, io::Error::other(chain(error)));
        // The kernel had links for XDP before it had a mode where they fall back to netlink (Linux 5.9), so that the
        // link is a descriptor.
        let link = program.take_link(id).map_err(|error| not_pinned(&error))?;
        let link = FdLink::try_from(link).map_err(|error| not_pinned(&error))?;
        let pinned = link.pin(&path).map_err(|error| not_pinned(&error))?;
        let link = XdpLink::try_from(FdLink::from(pinned)).map_err(|error| not_pinned(&error))?;
        // Aya gives a link to a program only by attaching, which is an update of the link to the same program.
        program
            .attach_to_link(link)
            .map_err(|error| not_pinned(&error))
    }

    /// Interfaces that the program is attached to, by this process or by a former daemon.
    pub(crate) fn interfaces(&self) -> Vec<String> {
        let mut names: Vec<String> = self.attached.keys().cloned().collect();
        if let Some(Ok(links)) = self.pins.as_ref().map(Pins::links) {
            names.extend(links.into_iter().map(|link| link.interface));
        }
        names.sort();
        names.dedup();
        names
    }

    /// Detaches the main program from an interface, if it is attached.
    pub(crate) fn detach(&mut self, interface: &str) {
        if let Some(pins) = &self.pins {
            let left = pins.links().unwrap_or_default();
            for link in left.iter().filter(|link| link.interface == interface) {
                if let Err(error) = unpin_link(&link.path) {
                    tracing::error!(interface, %error, "detach XDP");
                }
            }
        }
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
        (libc::EBUSY | libc::EEXIST, _) => Some(
            "another XDP program is attached there; `ip link` shows its id, and `weir detach` removes what a former \
                 weir left",
        ),
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
