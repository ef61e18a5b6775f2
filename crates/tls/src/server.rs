//! TLS of an `https` listener.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};
use weir_model::{ClientAuth, ClientAuthMode, Listener, ListenerTls, TlsVersion};

use crate::certificates::{
    CertificateExpiry, Certificates, expiry, read_certificates, read_certified,
};
use crate::error::TlsError;
use crate::files::{FromFiles, Look};
use crate::revocation::{authorities, revocation_lists};
use crate::tickets::{TicketKeys, Tickets};

/// What a listener shows and demands, as its files are now.
#[derive(Debug)]
pub struct Server(FromFiles<ServerSide>);

/// What is in force for a new connection.
#[derive(Debug)]
pub struct ServerSide {
    /// For rustls.
    pub config: Arc<ServerConfig>,
    certificates: Arc<Certificates>,
    expiries: Vec<CertificateExpiry>,
}

impl Server {
    /// Reads the files of a listener. `tickets` are its keys where it has no file of them; `alpn` what is spoken on it,
    /// the preferred one first.
    pub fn new(
        listener: &Arc<Listener>,
        tickets: &Arc<TicketKeys>,
        alpn: &[&[u8]],
    ) -> Result<Self, TlsError> {
        let files = listener.files().map(Path::to_owned).collect();
        let (listener, tickets) = (Arc::clone(listener), Arc::clone(tickets));
        let alpn: Vec<Vec<u8>> = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let make = move || ServerSide::read(&listener, &tickets, &alpn);
        FromFiles::new(files, make).map(Self)
    }

    /// What is in force.
    pub fn current(&self) -> Arc<ServerSide> {
        self.0.current()
    }

    /// Looks whether the files have changed, and uses what they are now.
    pub fn look(&self) -> Look {
        self.0.look()
    }
}

impl ServerSide {
    fn read(
        listener: &Listener,
        tickets: &Arc<TicketKeys>,
        alpn: &[Vec<u8>],
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut certificates = Certificates::default();
        let mut expiries = Vec::new();
        for files in &listener.certificates {
            let certified = read_certified(files, &provider)?;
            expiries.extend(expiry(&files.cert_file, &certified));
            certificates.add(files, certified)?;
        }
        let certificates = Arc::new(certificates);
        let ListenerTls {
            min_version,
            client_auth,
            ticket_key_file,
        } = &listener.tls;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions(*min_version))?;
        let demand = client_auth.as_ref().map(Demand::read).transpose()?;
        let (builder, demanded) = match demand {
            Some(Demand { verifier, summary }) => {
                (builder.with_client_cert_verifier(verifier), summary)
            }
            None => (builder.with_no_client_auth(), Vec::new()),
        };
        let mut config = builder.with_cert_resolver(Arc::clone(&certificates) as _);
        config.alpn_protocols = alpn.to_vec();
        let keys = match ticket_key_file {
            Some(file) => Arc::new(TicketKeys::read(file)?),
            None => Arc::clone(tickets),
        };
        config.ticketer = Arc::new(Tickets::new(keys, &demanded));
        Ok(Self {
            config: Arc::new(config),
            certificates,
            expiries,
        })
    }

    /// Whether there is a key that signs so slowly that other connections should not wait for it.
    pub fn may_sign_slowly(&self) -> bool {
        self.certificates.any_slow()
    }

    /// Whether the key for this client signs so slowly.
    pub fn signs_slowly_for(&self, hello: &ClientHello<'_>) -> bool {
        !self.certificates.is_quick_for(hello)
    }

    /// When its certificates end.
    pub fn expiries(&self) -> &[CertificateExpiry] {
        &self.expiries
    }
}

static FROM_TLS12: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
static FROM_TLS13: [&SupportedProtocolVersion; 1] = [&TLS13];

/// The versions from this one on.
pub(crate) fn versions(min: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    match min {
        TlsVersion::Tls12 => &FROM_TLS12,
        TlsVersion::Tls13 => &FROM_TLS13,
    }
}

/// What is demanded of clients.
struct Demand {
    verifier: Arc<dyn ClientCertVerifier>,
    /// Everything that it depends on: a session is resumed only where this is the same.
    summary: Vec<u8>,
}

impl Demand {
    fn read(auth: &ClientAuth) -> Result<Self, TlsError> {
        let ClientAuth {
            mode,
            ca_file,
            crl_file,
        } = auth;
        let mut summary = mode.as_str().as_bytes().to_vec();
        let mut note = |part: &[u8]| {
            summary.extend_from_slice(&(part.len() as u64).to_be_bytes());
            summary.extend_from_slice(part);
        };
        let trusted = read_certificates(ca_file)?;
        trusted.iter().for_each(|certificate| note(certificate));
        let roots = Arc::new(authorities(ca_file, trusted)?);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut builder = WebPkiClientVerifier::builder_with_provider(roots, provider);
        if let Some(file) = crl_file {
            let lists = revocation_lists(file)?;
            lists.iter().for_each(|list| note(list));
            // A list that is out of date says nothing about today.
            builder = builder.with_crls(lists).enforce_revocation_expiration();
        }
        if *mode == ClientAuthMode::Optional {
            builder = builder.allow_unauthenticated();
        }
        let verifier = builder.build().map_err(|source| match crl_file {
            Some(file) if matches!(source, rustls::server::VerifierBuilderError::InvalidCrl(_)) => {
                TlsError::Revocation {
                    file: file.clone(),
                    reason: source.to_string(),
                }
            }
            _ => TlsError::Verifier {
                file: ca_file.clone(),
                source,
            },
        })?;
        Ok(Self { verifier, summary })
    }
}
