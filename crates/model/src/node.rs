//! The node itself: its name, and the sections that set up its data planes and its API.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::name::Name;
use crate::session::SessionTimeouts;

/// `[node]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The node's name; absent: the host name, which the daemon asks for.
    pub name: Option<Name>,
    /// How long connections may go on after the daemon was told to stop. Default 30 s.
    pub drain_timeout: Duration,
    /// Where what an operator sets at run time is kept. Default `/var/lib/weir`.
    pub state_dir: PathBuf,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            name: None,
            drain_timeout: Duration::from_secs(30),
            state_dir: "/var/lib/weir".into(),
        }
    }
}

/// `[l4]`: the XDP data plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct L4 {
    /// Names of the interfaces where XDP is attached. At least one, no duplicates.
    pub interfaces: Vec<String>,
    /// How XDP is attached.
    pub xdp_mode: XdpMode,
    /// The addresses that FullNAT puts in place of the client's, and outer sources of tunnels.
    pub local_addresses: Vec<IpAddr>,
    /// Sessions that the table of IPv4 is sized for. Default 1,048,576.
    pub max_sessions: u32,
    /// Sessions that the table of IPv6 is sized for. Default: as many where anything at layer 4 is IPv6, else 1,024.
    pub max_sessions_ipv6: u32,
    /// Clients that the pools with persistence can remember. Default 262,144.
    pub persistent_clients: u32,
    /// How long sessions may be idle.
    pub timeouts: SessionTimeouts,
    /// Where maps and links that outlive the daemon are pinned, each node in a folder of its own.
    pub pin_dir: PathBuf,
    /// What becomes of forwarding when the daemon is told to stop.
    pub on_stop: OnStop,
    /// How work comes to all cores.
    pub spread: Spread,
}

impl L4 {
    /// `max_sessions` where none is given.
    pub const DEFAULT_MAX_SESSIONS: u32 = 1_048_576;
    /// The smallest table.
    pub const LEAST_MAX_SESSIONS: u32 = 1_024;
    /// `persistent_clients` where none is given.
    pub const DEFAULT_PERSISTENT_CLIENTS: u32 = 262_144;
    /// `pin_dir` where none is given.
    pub const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/weir";
}

/// How layer 4's work comes to all cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Spread {
    /// By the queues of the network card: a packet is forwarded on the core that receives it.
    #[default]
    Queues,
    /// By the hash of its flow: the core that receives a packet hands it to another.
    Cpus,
}

/// What becomes of layer 4 when the daemon is told to stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnStop {
    /// The kernel goes on forwarding, new sessions too; the next daemon takes over.
    #[default]
    Keep,
    /// No new sessions; at the end of those there are, or of the time to drain, everything is removed.
    Drain,
}

/// How XDP is attached to an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum XdpMode {
    /// Native where the driver can, generic with a warning where it cannot.
    #[default]
    Auto,
    /// Native, or an error.
    Native,
    /// Generic: works everywhere, slower.
    Generic,
}

/// `[l7]`: the proxy engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct L7 {
    /// Worker threads; 0 is one per core.
    pub workers: usize,
}

/// `[api]`: REST, metrics and health of the node itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// Where it listens. Default 127.0.0.1:9900.
    pub listen: SocketAddr,
    /// File with the bearer token that requests must carry; a must where `listen` is not loopback.
    pub token_file: Option<PathBuf>,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9900)),
            token_file: None,
        }
    }
}
