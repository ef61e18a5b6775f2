//! TLS towards clients and towards backends: what is trusted, what is shown, what is spoken at least.

use std::path::{Path, PathBuf};

use crate::listener::CertificateFiles;

/// The oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    #[default]
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

impl TlsVersion {
    /// The word in the config.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        }
    }
}

/// TLS of an `https` listener, beside its certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ListenerTls {
    /// Default 1.2.
    pub min_version: TlsVersion,
    /// Whether clients are asked for a certificate; absent: no.
    pub client_auth: Option<ClientAuth>,
    /// Keys of session tickets, shared by nodes: the first makes new ones, the others are accepted. Absent: keys of
    /// this node's own, which change by themselves.
    pub ticket_key_file: Option<PathBuf>,
}

/// How clients show who they are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientAuth {
    /// Whether one that shows nothing is served.
    pub mode: ClientAuthMode,
    /// The authorities that clients' certificates are from, in PEM.
    pub ca_file: PathBuf,
    /// What these have revoked, in PEM; absent: nothing is asked.
    pub crl_file: Option<PathBuf>,
}

/// Whether a client must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientAuthMode {
    /// Without one the handshake fails.
    Required,
    /// One that is shown must be good; without one the request goes on without identity.
    Optional,
}

impl ClientAuthMode {
    /// The word in the config.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Optional => "optional",
        }
    }
}

/// TLS towards the backends of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamTls {
    /// Whether a backend must show a certificate for its name, from an authority that is trusted. Default true.
    pub verify: bool,
    /// The name that is asked for (SNI) and verified. Absent: the backend's address is verified, and no name asked for.
    pub server_name: Option<String>,
    /// The authorities that are trusted, in PEM; absent: those of the system.
    pub ca_file: Option<PathBuf>,
    /// What this node shows, where backends ask for a certificate.
    pub certificate: Option<CertificateFiles>,
    /// Default 1.2.
    pub min_version: TlsVersion,
    /// Protocols that are offered (ALPN), the preferred one first; empty: none.
    pub alpn: Vec<String>,
}

impl Default for UpstreamTls {
    fn default() -> Self {
        Self {
            verify: true,
            server_name: None,
            ca_file: None,
            certificate: None,
            min_version: TlsVersion::default(),
            alpn: Vec::new(),
        }
    }
}

impl UpstreamTls {
    /// The files that it is made of, as far as they are named.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let pair = self.certificate.iter();
        self.ca_file
            .iter()
            .chain(pair.flat_map(|pair| [&pair.cert_file, &pair.key_file]))
            .map(PathBuf::as_path)
    }
}
