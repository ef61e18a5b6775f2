//! The fixture of the layer 4 scenarios: a network fit for a mode, servers, and weir between them.

use std::fmt;
use std::net::SocketAddr;

use weir_lab::network::{LB, VIP};
use weir_lab::{Decap, Folder, Network, Nginx, TcpEcho, UdpEcho, Weir};

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
    SocketAddr::from((VIP, port))
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
        let network = match arms {
            Arms::One => Network::one_arm(BACKENDS),
            Arms::Two => Network::two_arm(BACKENDS),
        };
        let mut scene_servers = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (decaps, echoes, udp_echoes, nginxes) = &mut scene_servers;
        for (host, name) in network.backends.iter().zip(names()) {
            match mode {
                Mode::Fullnat => {}
                Mode::Nat => host.route_through(LB),
                Mode::Dr => host.accept_vip(),
                Mode::Tunnel => {
                    host.accept_vip();
                    decaps.push(Decap::start(host));
                }
            }
            // A UDP server answers from the address that it is bound to.
            let port = mode.backend_port(ECHO);
            let udp = if mode.keeps_vip() {
                vip(port)
            } else {
                host.at(port)
            };
            udp_echoes.push(UdpEcho::start(&host.namespace, &name, udp));
            echoes.push(TcpEcho::start(
                &host.namespace,
                &name,
                SocketAddr::from(([0, 0, 0, 0], port)),
            ));
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
        Self {
            l4: network.l4_section(),
            mode,
            web: network.backend_list(mode.backend_port(WEB)),
            echo: network.backend_list(mode.backend_port(ECHO)),
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
                "[[listener]]\nname = \"{name}\"\nbind = \"{VIP}:{port}\"\nprotocol = \"{protocol}\"\n\
                 forward = \"{mode}\"\npool = \"{name}\"\n\n"
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
