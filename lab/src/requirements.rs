//! What a scenario needs from the machine.

use std::env;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Set where nothing may be skipped: what would be, fails.
const NO_SKIP: &str = "WEIR_NO_SKIP";

/// Whether this machine can run a scenario that needs namespaces and these programs. Where not, the reason is printed,
/// past the test harness, which would keep it to itself.
///
/// # Panics
/// Instead, where `WEIR_NO_SKIP` is set.
pub fn ready(scenario: &str, programs: &[&str]) -> bool {
    let reason = match weir_netns::check_available() {
        Err(error) => Some(error.to_string()),
        Ok(()) => {
            let missing = programs.iter().find(|program| find(program).is_none());
            missing.map(|program| format!("{program} is not installed"))
        }
    };
    if let Some(reason) = &reason {
        assert!(env::var_os(NO_SKIP).is_none(), "{scenario}: {reason}");
        // Where standard error is closed there is nobody to tell.
        let _ = writeln!(io::stderr(), "skipped: {scenario}: {reason}");
    }
    reason.is_none()
}

/// Where a program is: `PATH`, and the folders of system programs, which some users' `PATH` lacks.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders =
        env::split_paths(&path).chain([Path::new("/usr/sbin").into(), Path::new("/sbin").into()]);
    folders
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}
