//! A program that runs in the background of a scenario.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use weir_netns::Namespace;

use crate::folder::Folder;
use crate::patience::eventually;

/// A running program. Killed on drop; what it printed is shown when the scenario failed.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program inside a namespace; what it prints goes to a file in the folder.
    ///
    /// # Panics
    /// Where the program cannot be started.
    pub fn start(
        name: &str,
        namespace: &Namespace,
        folder: &Folder,
        command: &mut Command,
    ) -> Self {
        let log = folder.path().join(format!("{name}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("open a log file");
        let errors = file.try_clone().expect("duplicate a file");
        command.stdin(Stdio::null()).stdout(file).stderr(errors);
        let child = namespace
            .spawn(command)
            .unwrap_or_else(|error| panic!("start {name}: {error}"));
        Self {
            name: name.to_owned(),
            child,
            log,
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it printed so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// Where the process is gone.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, signal).unwrap_or_else(|error| panic!("signal {}: {error}", self.name));
    }

    /// Kills it, if it has not ended.
    pub fn kill(&mut self) {
        // Both fail only where it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// Where it does not end within the time.
    pub fn wait(&mut self, timeout: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        eventually(&what, timeout, || self.ended().ok_or("still running"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let _ = writeln!(io::stderr(), "--- {}\n{}---", self.name, self.log());
        }
    }
}
