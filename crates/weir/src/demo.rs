//! `weir demo`: a whole load balancer on this machine, with backends of its own.
//!
//! It is an ordinary node: its config is a file in a folder of its own, which can be edited and reloaded while it
//! runs.

mod backend;

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};

use anyhow::{Context, Result, bail};

use crate::cli::DemoArgs;
use crate::procfs;
use crate::run::{self, Daemon};

use backend::Backend;

/// One backend for each.
const NAMES: [&str; 3] = ["blue", "green", "red"];

/// Runs the demo until Ctrl-C.
pub(crate) fn demo(args: &DemoArgs) -> Result<ExitCode> {
    for address in [args.http, args.https, args.tcp, args.api] {
        must_be_free(address)?;
    }
    let folder = Folder::new()?;
    run::block_on(async {
        let mut backends = Vec::new();
        for name in NAMES {
            backends.push(Backend::start(name).await?);
        }
        let addresses: Vec<SocketAddr> = backends.iter().map(Backend::address).collect();
        let config = folder.write(args, &addresses)?;
        let daemon = Daemon::start(&config).await?;
        println!("{}", text(args, &addresses, &config));
        Ok(daemon.run().await)
    })
}

/// Fails with the name of who has the port. Without this, a listener that shares its port between workers could
/// share it with a stranger.
fn must_be_free(address: SocketAddr) -> Result<()> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            match procfs::listens_on(address.port()) {
                Some(owner) => bail!("{address} is in use by {owner}: stop it first"),
                None => bail!(
                    "{address} is in use by a process that this user may not see: stop it first"
                ),
            }
        }
        Err(error) => Err(error).with_context(|| format!("listen on {address}")),
    }
}

/// A folder for the config and the certificate, removed at the end.
struct Folder(PathBuf);

impl Folder {
    /// Makes a new one: a demo that was killed may have left one of the same process id behind.
    fn new() -> Result<Self> {
        for attempt in 0..100 {
            let path = std::env::temp_dir().join(format!("weir-demo-{}-{attempt}", process::id()));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("make the folder {}", path.display()));
                }
            }
        }
        bail!(
            "{} is full of folders of demos that were killed",
            std::env::temp_dir().display()
        )
    }

    /// Writes the config and what it names; returns the config's path.
    fn write(&self, args: &DemoArgs, backends: &[SocketAddr]) -> Result<PathBuf> {
        let names = ["localhost".to_owned(), args.https.ip().to_string()];
        let certified = rcgen::generate_simple_self_signed(names).context("make a certificate")?;
        self.write_file("cert.pem", &certified.cert.pem())?;
        self.write_file("key.pem", &certified.signing_key.serialize_pem())?;
        self.write_file("weir.toml", &config(args, backends))
    }

    fn write_file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&path);
        file.and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()))
            .with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, folder = %self.0.display(), "the demo's folder is left behind");
        }
    }
}

fn config(args: &DemoArgs, backends: &[SocketAddr]) -> String {
    let backends: Vec<String> = backends
        .iter()
        .map(|address| format!("    {{ address = \"{address}\" }},"))
        .collect();
    format!(
        r#"# The config of this demo. Edit it, then reload: kill -HUP {pid}

[node]
name = "demo"
drain_timeout = "5s"

[api]
listen = "{api}"

[[listener]]
name = "http"
bind = "{http}"
protocol = "http"
pool = "web"

[[listener]]
name = "https"
bind = "{https}"
protocol = "https"
certificates = [{{ cert_file = "cert.pem", key_file = "key.pem" }}]
pool = "web"

[[listener]]
name = "tcp"
bind = "{tcp}"
protocol = "tcp"
forward = "proxy"
pool = "web"

[[pool]]
name = "web"
scheduler = "round_robin"
health = {{ type = "http", path = "/healthz", interval = "1s", timeout = "500ms", rise = 2, fall = 2 }}
backend = [
{backends}
]
"#,
        pid = process::id(),
        api = args.api,
        http = args.http,
        https = args.https,
        tcp = args.tcp,
        backends = backends.join("\n"),
    )
}

fn text(args: &DemoArgs, backends: &[SocketAddr], config: &Path) -> String {
    let named: Vec<String> = NAMES
        .iter()
        .zip(backends)
        .map(|(name, address)| format!("{name} {address}"))
        .collect();
    format!(
        "
weir is running, with three backends of its own: {backends}.

  HTTP      curl http://{http}/
  HTTPS     curl -k https://{https}/
  TCP       curl http://{tcp}/                  the same backends, bytes as they are
  API       curl http://{api}/api/v1/backends   or: {weir} get backends
  metrics   curl http://{api}/metrics

Also try /slow (answers after 2 s) and /bytes/1000000.

Take a backend down for 15 s; the others take over, then it comes back:
  curl -X POST http://{first}/down
  {weir} get backends

Change the config while it runs:
  edit {config}, then: kill -HUP {pid}

Ctrl-C ends it.
",
        weir = std::env::args().next().unwrap_or_else(|| "weir".to_owned()),
        backends = named.join(", "),
        http = args.http,
        https = args.https,
        tcp = args.tcp,
        api = args.api,
        first = backends[0],
        config = config.display(),
        pid = process::id(),
    )
}
