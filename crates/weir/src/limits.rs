//! What the system lets the process have.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Below this, a busy proxy runs out: a proxied connection takes two descriptors.
const FEW_DESCRIPTORS: u64 = 10_000;

/// Asks for as many file descriptors as the hard limit allows, and says how far that goes.
pub(crate) fn raise() {
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => limits,
        Err(error) => {
            tracing::warn!(%error, "the limit of file descriptors cannot be read");
            return;
        }
    };
    let limit = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(error) => {
            tracing::warn!(%error, soft, hard, "the limit of file descriptors cannot be raised");
            soft
        }
    };
    if limit < FEW_DESCRIPTORS {
        tracing::warn!(
            limit,
            "few file descriptors: room for about {} proxied connections; raise LimitNOFILE or ulimit -n",
            limit / 2
        );
    } else {
        tracing::debug!(limit, "file descriptors");
    }
}
