//! The binary under test.

use std::env;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use weir_netns::Namespace;

use crate::folder::Folder;
use crate::http;
use crate::network::Host;
use crate::patience::{eventually, until};
use crate::process::Process;

const START_TIMEOUT: Duration = Duration::from_secs(20);
/// Where the API listens unless the config says otherwise.
const API: ([u8; 4], u16) = ([127, 0, 0, 1], 9900);

/// A running `weir run`. Killed on drop, and what it has in the kernel removed.
pub struct Weir {
    process: Process,
    namespace: Namespace,
    config: PathBuf,
    folder: Folder,
}

impl Weir {
    /// Starts weir in a namespace and waits until `/healthz` answers.
    ///
    /// # Panics
    /// Where it ends, or does not answer in time; with its log.
    pub fn start(namespace: &Namespace, config: &str) -> Self {
        Self::start_with(namespace, Folder::new(), config)
    }

    /// As [`Weir::start`]; the config stands in a folder with other files that it names.
    ///
    /// # Panics
    /// As [`Weir::start`].
    pub fn start_with(namespace: &Namespace, folder: Folder, config: &str) -> Self {
        let config = folder.write("weir.toml", config);
        let process = run(namespace, &folder, &config);
        let mut weir = Self {
            process,
            namespace: namespace.clone(),
            config,
            folder,
        };
        weir.wait_healthy();
        weir
    }

    fn wait_healthy(&mut self) {
        eventually("/healthz of weir", START_TIMEOUT, || {
            if let Some(status) = self.process.ended() {
                panic!("weir ended: {status}\n{}", self.process.log());
            }
            let answer = self.get("/healthz").map_err(|error| error.to_string())?;
            if answer.status == 200 {
                Ok(())
            } else {
                Err(answer.body)
            }
        });
    }

    /// Asks the API.
    pub fn get(&self, path: &str) -> std::io::Result<http::Answer> {
        self.namespace
            .run(|| http::get(SocketAddr::from(API), "localhost", path))
    }

    /// A part of the API, such as `backends` or `sessions?limit=1`.
    ///
    /// # Panics
    /// Where the answer is not 200 with JSON.
    pub fn api(&self, part: &str) -> Value {
        let answer = self
            .get(&format!("/api/v1/{part}"))
            .unwrap_or_else(|error| panic!("ask for {part}: {error}"));
        assert_eq!(answer.status, 200, "{part}: {}", answer.body);
        serde_json::from_str(&answer.body)
            .unwrap_or_else(|error| panic!("{part}: {error}: {}", answer.body))
    }

    /// The verdict on a backend, as the API shows it: `unknown`, `up` or `down`.
    ///
    /// # Panics
    /// Where there is no such backend.
    pub fn health_of(&self, pool: &str, address: &str) -> String {
        let backends = self.api("backends");
        let found = backends["items"].as_array().and_then(|items| {
            let matches = |item: &&Value| item["pool"] == pool && item["address"] == address;
            items.iter().find(matches)?["health"].as_str()
        });
        found
            .unwrap_or_else(|| panic!("no backend {pool}/{address} in {backends}"))
            .to_owned()
    }

    /// The text of `/metrics`.
    ///
    /// # Panics
    /// Where the API does not answer.
    pub fn metrics(&self) -> String {
        self.get("/metrics").expect("the API answers").body
    }

    /// The sum of a metric over all series whose labels contain each of these texts, such as `listener="web"`.
    /// Zero where there is none.
    ///
    /// # Panics
    /// Where the API does not answer.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        metric(&self.metrics(), name, labels)
    }

    /// Writes another config and has it loaded.
    ///
    /// # Panics
    /// Where weir is gone.
    pub fn reload(&self, config: &str) {
        self.folder.write("weir.toml", config);
        self.process.signal(Signal::SIGHUP);
    }

    /// Waits until its log contains a text.
    ///
    /// # Panics
    /// Where it does not within the time.
    pub fn wait_for_log(&self, text: &str, timeout: Duration) {
        until(&format!("{text:?} in the log"), timeout, || {
            self.log().contains(text)
        });
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Asks it to drain and end.
    pub fn terminate(&self) {
        self.process.signal(Signal::SIGTERM);
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// Where it does not end within the time.
    pub fn wait(&mut self, timeout: Duration) -> ExitStatus {
        self.process.wait(timeout)
    }

    /// Kills it: nothing that it would do at its end is done.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again, after its end, with the same config, or that of the last reload.
    ///
    /// # Panics
    /// As [`Weir::start`].
    pub fn start_again(&mut self) {
        self.process = run(&self.namespace, &self.folder, &self.config);
        self.wait_healthy();
    }

    /// Writes another config, for a start.
    pub fn configure(&self, config: &str) {
        self.folder.write("weir.toml", config);
    }

    /// Starts it with the present config where that cannot be, and returns what it says.
    ///
    /// # Panics
    /// Where it runs nevertheless.
    pub fn start_refused(&self) -> String {
        let folder = Folder::new();
        let mut process = run(&self.namespace, &folder, &self.config);
        let status = process.wait(START_TIMEOUT);
        assert!(!status.success(), "{}", process.log());
        process.log()
    }

    /// `weir detach` with the present config: whether it succeeded, and what it said.
    ///
    /// # Panics
    /// Where it cannot be run.
    pub fn detach(&self) -> (bool, String) {
        let mut command = Command::new(binary());
        command.arg("detach").arg("--config").arg(&self.config);
        let output = self
            .namespace
            .output(&mut command)
            .expect("run weir detach");
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    }
}

impl Drop for Weir {
    fn drop(&mut self) {
        self.process.kill();
        self.detach();
    }
}

/// A running `weir decap` on a backend's host. Killed on drop.
pub struct Decap {
    process: Process,
    _folder: Folder,
}

impl Decap {
    /// Takes tunnels off on a host's interface. Returns when the program says that it is attached.
    ///
    /// # Panics
    /// Where it ends instead.
    pub fn start(host: &Host) -> Self {
        let folder = Folder::new();
        let mut command = Command::new(binary());
        command.args(["decap", "--interface", host.link.name()]);
        let process = Process::start("weir-decap", &host.namespace, &folder, &mut command);
        let mut decap = Self {
            process,
            _folder: folder,
        };
        until("weir decap to attach", START_TIMEOUT, || {
            if let Some(status) = decap.process.ended() {
                panic!("weir decap ended: {status}\n{}", decap.process.log());
            }
            decap.process.log().contains("attached")
        });
        decap
    }
}

/// The binary: `WEIR_BIN`, or built now.
///
/// # Panics
/// Where it does not compile.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(binary) = env::var_os("WEIR_BIN") {
            return binary.into();
        }
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .args(["build", "--quiet", "--package", "weir"])
            .status();
        assert!(built.expect("start cargo").success(), "build weir");
        // This program is in `target/debug/deps`.
        let own = env::current_exe().expect("find the target folder");
        own.ancestors()
            .nth(2)
            .expect("a target folder")
            .join("weir")
    })
}

fn run(namespace: &Namespace, folder: &Folder, config: &Path) -> Process {
    let mut command = Command::new(binary());
    command
        .arg("run")
        .arg("--config")
        .arg(config)
        .env("RUST_BACKTRACE", "1");
    Process::start("weir", namespace, folder, &mut command)
}

/// The sum of a metric in the text format of Prometheus.
fn metric(text: &str, name: &str, labels: &[&str]) -> f64 {
    let series = text.lines().filter_map(|line| {
        let (key, value) = line.rsplit_once(' ')?;
        let key_name = key.split('{').next()?;
        (key_name == name && labels.iter().all(|label| key.contains(label)))
            .then(|| value.parse::<f64>().ok())?
    });
    series.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_series() {
        let text = "# TYPE a counter\na_total{x=\"1\",y=\"2\"} 3\na_total{x=\"2\",y=\"2\"} 4\na_total_more 9\nb 1.5\n";
        for (name, labels, sum) in [
            ("a_total", &[][..], 7.0),
            ("a_total", &["x=\"1\""], 3.0),
            ("a_total", &["x=\"2\"", "y=\"2\""], 4.0),
            ("b", &[], 1.5),
            ("c", &[], 0.0),
        ] {
            assert!(
                (metric(text, name, labels) - sum).abs() < f64::EPSILON,
                "{name} {labels:?}"
            );
        }
    }
}
