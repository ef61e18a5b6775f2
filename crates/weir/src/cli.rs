//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A load balancer in one binary.
#[derive(Debug, Parser)]
#[command(name = "weir", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs the load balancer until it is told to stop.
    ///
    /// SIGHUP reads the config again and applies the difference, all or nothing. SIGTERM and SIGINT take no new work
    /// and end when the work under way is done, at the latest after `[node] drain_timeout`; a second one ends at once.
    /// Layer 4 forwards on in the kernel, whatever ends the daemon, and the next one takes over; `[l4] on_stop = "drain"`
    /// has it end with the daemon as well.
    ///
    /// Exit codes: 0 stopped with all work done, 1 could not start or failed, 2 wrong usage, 3 stopped with work cut
    /// off.
    Run(RunArgs),
    /// Says whether a config is right, and if not, where it is wrong.
    ///
    /// Exit codes: 0 it is right, 1 it is not, 2 wrong usage.
    Check(CheckArgs),
    /// Shows a load balancer with backends of its own on this machine.
    Demo(DemoArgs),
    /// Takes tunnels off on a backend's machine, in XDP, where the kernel has no tunnel device. Needs root.
    Decap(DecapArgs),
    /// Removes what a node that does not run any more has in the kernel: programs, sessions, counters. Needs root.
    ///
    /// Without anything to remove it says so and succeeds.
    Detach(DetachArgs),
    /// Asks a running node and prints a table.
    Get(GetArgs),
    /// Gives a backend of a running node no new work; what is established goes on.
    ///
    /// This and the three that follow set something in place of the config. It outlives reloads and the daemon, until
    /// `weir clear`, or until the backend leaves the config; `weir get overrides` shows it.
    Drain(BackendArgs),
    /// Gives a backend of a running node no new work, and checks it no more.
    Disable(BackendArgs),
    /// Gives a backend of a running node another weight.
    Weight(WeightArgs),
    /// Takes back what was set of a backend: it goes by the config again.
    Clear(BackendArgs),
    /// Lists or counts the layer 4 sessions of a running node that fit all that is given.
    ///
    /// They are read from memory while packets go on. A session that is there all the while is shown exactly once.
    Sessions(SessionsArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The config file.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The config file.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Builds a small network of namespaces instead, and sends connections through each layer 4 forwarding mode.
    /// Needs root.
    #[arg(long)]
    pub(crate) l4: bool,
    /// Where HTTP is served.
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8080",
        hide = true
    )]
    pub(crate) http: SocketAddr,
    /// Where HTTPS is served.
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8443",
        hide = true
    )]
    pub(crate) https: SocketAddr,
    /// Where TCP is proxied.
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8081",
        hide = true
    )]
    pub(crate) tcp: SocketAddr,
    /// Where the API listens.
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:9900",
        hide = true
    )]
    pub(crate) api: SocketAddr,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DecapArgs {
    /// Where tunnels arrive; more than one may be given.
    #[arg(long, value_name = "NAME", required = true)]
    pub(crate) interface: Vec<String>,
    /// How XDP is attached.
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    pub(crate) mode: Mode,
    /// The UDP port that GUE arrives on.
    #[arg(long, value_name = "PORT", default_value_t = weir_model::Tunnel::DEFAULT_PORT)]
    pub(crate) gue_port: u16,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DetachArgs {
    /// The config file of the node.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The node's name. Default: that of the config, or else the host's.
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Where it was pinned. Default: what the config says, or else /sys/fs/bpf/weir.
    #[arg(long, value_name = "DIR")]
    pub(crate) pin_dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Native where the driver can, generic where it cannot.
    Auto,
    /// Native, or an error.
    Native,
    /// Generic: works everywhere, slower.
    Generic,
}

#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// How log lines are written, to standard error.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or a filter such as `info,weir_l7=debug`. Default: WEIR_LOG
    /// of the environment, or info.
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// What is asked for.
    #[command(subcommand)]
    pub(crate) what: What,
}

#[derive(Debug, Subcommand)]
pub(crate) enum What {
    /// Listeners and what went through them.
    Listeners(NodeArgs),
    /// Pools, and how many of their backends take new work.
    Pools(NodeArgs),
    /// Backends, their health and what went to them.
    Backends {
        /// Only of this pool.
        #[arg(long)]
        pool: Option<String>,
        #[command(flatten)]
        node: NodeArgs,
    },
    /// What was set of backends in place of the config.
    Overrides(NodeArgs),
    /// Layer 4 sessions: as `weir sessions`.
    Sessions(SessionsArgs),
}

/// Which sessions are asked for.
#[derive(Debug, Args)]
pub(crate) struct SessionsArgs {
    /// Only of this listener.
    #[arg(long, value_name = "NAME")]
    pub(crate) listener: Option<String>,
    /// Only to backends of this pool.
    #[arg(long, value_name = "NAME")]
    pub(crate) pool: Option<String>,
    /// Only of these clients: an IP address, one with a port, or a range such as 192.0.2.0/24.
    #[arg(long, value_name = "ENDS")]
    pub(crate) client: Option<String>,
    /// Only with this in the client's place (FullNAT, tunnels): as for --client.
    #[arg(long, value_name = "ENDS")]
    pub(crate) local: Option<String>,
    /// Only to these backends: as for --client.
    #[arg(long, value_name = "ENDS")]
    pub(crate) backend: Option<String>,
    /// tcp or udp.
    #[arg(long, value_name = "PROTOCOL")]
    pub(crate) protocol: Option<String>,
    /// fullnat, nat, dr or tunnel.
    #[arg(long, value_name = "MODE")]
    pub(crate) forward: Option<String>,
    /// The state, as it is shown: established, for one.
    #[arg(long, value_name = "STATE")]
    pub(crate) state: Option<String>,
    /// At most so many. They are asked for in pages, and printed page by page.
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    pub(crate) limit: u64,
    /// Only how many there are.
    #[arg(long)]
    pub(crate) count: bool,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// Which backend an order is about, and which node obeys.
#[derive(Debug, Args)]
pub(crate) struct BackendArgs {
    /// The backend's pool.
    #[arg(value_name = "POOL")]
    pub(crate) pool: String,
    /// The backend's address, as in the config.
    #[arg(value_name = "BACKEND")]
    pub(crate) backend: SocketAddr,
    /// The node's API.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9900")]
    pub(crate) api: SocketAddr,
    /// File with the API's token.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct WeightArgs {
    #[command(flatten)]
    pub(crate) backend: BackendArgs,
    /// From 0 to 1000.
    #[arg(value_name = "WEIGHT", value_parser = clap::value_parser!(u16).range(0..=1000))]
    pub(crate) weight: u16,
}

/// Which node is asked, and how its answer is shown.
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    /// The node's API.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9900")]
    pub(crate) api: SocketAddr,
    /// File with the API's token.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Prints the answer as it came.
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
