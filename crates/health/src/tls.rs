//! TLS of checks: one client for every way in which pools speak TLS.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use weir_model::UpstreamTls;
use weir_tls::{Client, Look, TlsError};

/// From one look at the files of a client to the next.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The clients that checks have asked for, for as long as there are such checks.
#[derive(Debug, Default)]
pub(crate) struct TlsClients(Mutex<HashMap<Arc<UpstreamTls>, Entry>>);

#[derive(Debug)]
struct Entry {
    client: Arc<Client>,
    looked: Instant,
    /// The settings of a check that uses it; the key itself keeps another copy.
    used_by: Weak<UpstreamTls>,
}

impl TlsClients {
    /// The client for a check, made of what its files are now.
    pub(crate) fn client(&self, tls: &Arc<UpstreamTls>) -> Result<Arc<Client>, TlsError> {
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(entry) = clients.get_mut(tls) {
            entry.used_by = Arc::downgrade(tls);
            if now >= entry.looked + LOOK_EVERY {
                entry.looked = now;
                // Layer 7 uses the same files, and says what is wrong with them.
                if let Look::Refused(error) = entry.client.look() {
                    tracing::debug!(%error, "files for the TLS of checks cannot be used");
                }
            }
            return Ok(Arc::clone(&entry.client));
        }
        clients.retain(|_, entry| entry.used_by.strong_count() > 0);
        let client = Arc::new(Client::new(tls)?);
        let entry = Entry {
            client: Arc::clone(&client),
            looked: now,
            used_by: Arc::downgrade(tls),
        };
        clients.insert(Arc::new(UpstreamTls::clone(tls)), entry);
        Ok(client)
    }
}
