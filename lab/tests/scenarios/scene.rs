//! The fixture of the layer 4 scenarios: a network fit for a mode, servers, and weir between them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use weir_lab::network::{LB, VIP};
use weir_lab::network6::{LB6, VIP6};
use weir_lab::{Decap, Folder, Host, Network, Nginx, TcpEcho, UdpEcho, Weir};

/// How many backends there are.
pub(crate) const BACKENDS: u8 = 3;

/// Where the load balancer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arms {
    One,
    Two,
}

/// How packets reach the backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Fullnat,
    Nat,
    Dr,
    Tunnel,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fullnat => "fullnat",
            Self::Nat => "nat",
            Self::Dr => "dr",
            Self::Tunnel => "tunnel",
        })
    }
}

impl Mode {
    /// Whether backends receive packets to the VIP as clients sent them.
    pub(crate) fn keeps_vip(self) -> bool {
        matches!(self, Self::Dr | Self::Tunnel)
    }

    /// Whether backends see the client's address.
    pub(crate) fn keeps_client(self) -> bool {
        self != Self::Fullnat
    }

    /// The backends' port for a service on a port of the VIP: another one, where the mode can change it.
    pub(crate) fn backend_port(self, vip_port: u16) -> u16 {
        if self.keeps_vip() {
            vip_port
        } else {
            vip_port + 8000
        }
    }
}

/// Services on the VIP, before three backends: HTTP by nginx, and echo over TCP and UDP.
pub(crate) struct Scene {
    pub(crate) network: Network,
    pub(crate) mode: Mode,
    /// Dropped before the servers, and those before the network: fields are dropped in order.
    pub(crate) weir: Weir,
    _decaps: Vec<Decap>,
    pub(crate) echoes: Vec<TcpEcho>,
    _udp_echoes: Vec<UdpEcho>,
    pub(crate) nginxes: Vec<Nginx>,
}

/// HTTP on the VIP.
pub(crate) const WEB: u16 = 80;
/// Echo on the VIP, over TCP and UDP.
pub(crate) const ECHO: u16 = 7;

/// The VIP and a port.
pub(crate) fn vip(port: u16) -> SocketAddr {
    vip_of(4, port)
}

/// The VIP of a family, which is 4 or 6, and a port.
pub(crate) fn vip_of(family: u8, port: u16) -> SocketAddr {
    let address = if family == 6 {
        IpAddr::V6(VIP6)
    } else {
        IpAddr::V4(VIP)
    };
    SocketAddr::new(address, port)
}

/// A host's address of a family, and a port.
pub(crate) fn at(host: &Host, family: u8, port: u16) -> SocketAddr {
    if family == 6 {
        host.at6(port)
    } else {
        host.at(port)
    }
}

/// Every address of a family, and a port.
pub(crate) fn any(family: u8, port: u16) -> SocketAddr {
    if family == 6 {
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))
    } else {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
    }
}

/// The inner list of a pool's `backend`: every host's address of a family, with this port.
pub(crate) fn backend_list(network: &Network, family: u8, port: u16) -> String {
    let backends = network.backends.iter();
    let backends = backends.map(|host| format!("{{ address = \"{}\" }}", at(host, family, port)));
    backends.collect::<Vec<_>>().join(", ")
}

impl Scene {
    /// Starts everything, with the echo services only.
    pub(crate) fn new(arms: Arms, mode: Mode) -> Self {
        Self::with(arms, mode, |network| Config::of(network, mode).text(), None)
    }

    /// Starts everything, nginx included, which also serves the files of a folder.
    pub(crate) fn with_nginx(arms: Arms, mode: Mode, files: &Folder) -> Self {
        Self::with(
            arms,
            mode,
            |network| Config::of(network, mode).text(),
            Some(files),
        )
    }

    /// Starts everything with a config of the test's own.
    pub(crate) fn with(
        arms: Arms,
        mode: Mode,
        config: impl FnOnce(&Network) -> String,
        files: Option<&Folder>,
    ) -> Self {
        Self::of_family(4, arms, mode, config, files)
    }

    /// [`Scene::with`], where the VIP and the backends are of this family.
    pub(crate) fn of_family(
        family: u8,
        arms: Arms,
        mode: Mode,
        config: impl FnOnce(&Network) -> String,
        files: Option<&Folder>,
    ) -> Self {
        let network = match arms {
            Arms::One => Network::one_arm(BACKENDS),
            Arms::Two => Network::two_arm(BACKENDS),
        };
        if family == 6 {
            network.add_ipv6();
        }
        let mut scene_servers = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (decaps, echoes, udp_echoes, nginxes) = &mut scene_servers;
        for (host, name) in network.backends.iter().zip(names()) {
            match (mode, family) {
                (Mode::Fullnat, _) => {}
                (Mode::Nat, 6) => host.route_through6(LB6),
                (Mode::Nat, _) => host.route_through(LB),
                (Mode::Dr | Mode::Tunnel, 6) => host.accept_vip6(),
                (Mode::Dr | Mode::Tunnel, _) => host.accept_vip(),
            }
            if mode == Mode::Tunnel {
                decaps.push(Decap::start(host));
            }
            // A UDP server answers from the address that it is bound to.
            let port = mode.backend_port(ECHO);
            let udp = if mode.keeps_vip() {
                vip_of(family, port)
            } else {
                at(host, family, port)
            };
            udp_echoes.push(UdpEcho::start(&host.namespace, &name, udp));
            echoes.push(TcpEcho::start(&host.namespace, &name, any(family, port)));
            if let Some(files) = files {
                nginxes.push(Nginx::start(
                    host,
                    &name,
                    &[mode.backend_port(WEB)],
                    Some(files),
                ));
            }
        }
        let weir = Weir::start(&network.lb, &config(&network));
        let (decaps, echoes, udp_echoes, nginxes) = scene_servers;
        Self {
            network,
            mode,
            weir,
            _decaps: decaps,
            echoes,
            _udp_echoes: udp_echoes,
            nginxes,
        }
    }

    /// The backend of this name stops serving echo over TCP.
    pub(crate) fn stop_echo(&mut self, name: &str) {
        let index = names().position(|candidate| candidate == name).unwrap();
        // Its place is kept, so that the others keep theirs.
        let elsewhere = SocketAddr::from(([127, 0, 0, 1], 1));
        let idle = TcpEcho::start(&self.network.backends[index].namespace, name, elsewhere);
        std::mem::replace(&mut self.echoes[index], idle).stop();
    }

    /// The backend of this name serves echo over TCP again.
    pub(crate) fn start_echo(&mut self, name: &str) {
        let index = names().position(|candidate| candidate == name).unwrap();
        let address = SocketAddr::from(([0, 0, 0, 0], self.mode.backend_port(ECHO)));
        self.echoes[index] = TcpEcho::start(&self.network.backends[index].namespace, name, address);
    }

    /// The address of an echo backend, as the config and the API write it.
    pub(crate) fn echo_address(&self, name: &str) -> String {
        let index = names().position(|candidate| candidate == name).unwrap();
        self.network.backends[index]
            .at(self.mode.backend_port(ECHO))
            .to_string()
    }
}

/// The backends' names: b1, b2, …
pub(crate) fn names() -> impl Iterator<Item = String> {
    (1..=BACKENDS).map(|number| format!("b{number}"))
}

/// The config of a scene, with what tests change about it.
pub(crate) struct Config {
    l4: String,
    mode: Mode,
    family: u8,
    web: String,
    /// The backends of the pools of echo.
    pub(crate) echo: String,
    /// The scheduler of every pool.
    pub(crate) scheduler: &'static str,
    /// More lines of the `[l4]` section.
    pub(crate) l4_more: String,
    /// More lines of the pool `echo`.
    pub(crate) echo_more: String,
    /// More sections at the end.
    pub(crate) more: String,
}

impl Config {
    /// What a network needs in a mode.
    pub(crate) fn of(network: &Network, mode: Mode) -> Self {
        Self::of_family(4, network, mode)
    }

    /// [`Config::of`], where the VIP and the backends are of this family.
    pub(crate) fn of_family(family: u8, network: &Network, mode: Mode) -> Self {
        Self {
            // Two tables of a million sessions take their time.
            l4: if family == 6 {
                network.l4_section_of_both() + "max_sessions = 16384\n"
            } else {
                network.l4_section()
            },
            mode,
            family,
            web: backend_list(network, family, mode.backend_port(WEB)),
            echo: backend_list(network, family, mode.backend_port(ECHO)),
            scheduler: "round_robin",
            l4_more: String::new(),
            echo_more: String::new(),
            more: String::new(),
        }
    }

    /// The file.
    pub(crate) fn text(&self) -> String {
        let Self {
            l4,
            mode,
            family,
            web,
            echo,
            scheduler,
            l4_more,
            echo_more,
            more,
        } = self;
        let check = "health = { type = \"tcp\", interval = \"200ms\", timeout = \"100ms\", rise = 2, fall = 2 }";
        let listener = |name: &str, port: u16, protocol: &str| {
            format!(
                "[[listener]]\nname = \"{name}\"\nbind = \"{}\"\nprotocol = \"{protocol}\"\n\
                 forward = \"{mode}\"\npool = \"{name}\"\n\n",
                vip_of(*family, port)
            )
        };
        let pool = |name: &str, check: &str, backends: &str| {
            format!(
                "[[pool]]\nname = \"{name}\"\nscheduler = \"{scheduler}\"\n{check}\nbackend = [{backends}]\n\n"
            )
        };
        [
            format!("{l4}{l4_more}\n"),
            listener("web", WEB, "tcp"),
            listener("echo", ECHO, "tcp"),
            listener("echo-udp", ECHO, "udp"),
            pool("web", "", web),
            pool("echo", &format!("{check}\n{echo_more}"), echo),
            pool("echo-udp", "", echo),
            more.clone(),
        ]
        .concat()
    }
}
