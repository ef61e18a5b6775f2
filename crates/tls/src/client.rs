//! TLS towards the backends of a pool.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
use weir_model::UpstreamTls;

use crate::certificates::{CertificateExpiry, expiry, read_certificates, read_certified};
use crate::error::TlsError;
use crate::files::{FromFiles, Look};
use crate::revocation::authorities;
use crate::server::versions;

/// Where distributions keep the authorities that they trust: Debian and Alpine, Red Hat, SUSE.
pub(crate) const SYSTEM_AUTHORITIES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];

/// How backends are spoken to, as the files are now.
#[derive(Debug)]
pub struct Client {
    side: FromFiles<ClientSide>,
    server_name: Option<ServerName<'static>>,
}

#[derive(Debug)]
struct ClientSide {
    config: Arc<ClientConfig>,
    expiry: Option<CertificateExpiry>,
}

impl Client {
    /// Reads the files of a pool's TLS.
    pub fn new(tls: &Arc<UpstreamTls>) -> Result<Self, TlsError> {
        let authorities = match (&tls.ca_file, tls.verify) {
            (_, false) => None,
            (Some(file), true) => Some(file.clone()),
            (None, true) => Some(system_authorities()?),
        };
        let mut files: Vec<PathBuf> = authorities.clone().into_iter().collect();
        if let Some(pair) = &tls.certificate {
            files.extend([pair.cert_file.clone(), pair.key_file.clone()]);
        }
        let server_name = match &tls.server_name {
            // What the config takes for a name is one for rustls, but for an address in brackets.
            Some(name) => Some(
                ServerName::try_from(name.trim_matches(['[', ']']).to_owned()).map_err(|_| {
                    rustls::Error::General(format!("{name} is not a server's name"))
                })?,
            ),
            None => None,
        };
        let tls = Arc::clone(tls);
        let make = move || ClientSide::read(&tls, authorities.as_deref());
        Ok(Self {
            side: FromFiles::new(files, make)?,
            server_name,
        })
    }

    /// A connection to this backend, before its handshake.
    pub fn connection(&self, backend: SocketAddr) -> Result<ClientConnection, rustls::Error> {
        let config = Arc::clone(&self.side.current().config);
        ClientConnection::new(config, self.name_of(backend.ip()))
    }

    /// The config for rustls, and the name that this backend has to show a certificate for.
    pub fn parts(&self, backend: SocketAddr) -> (Arc<ClientConfig>, ServerName<'static>) {
        (
            Arc::clone(&self.side.current().config),
            self.name_of(backend.ip()),
        )
    }

    fn name_of(&self, address: IpAddr) -> ServerName<'static> {
        self.server_name
            .clone()
            .unwrap_or_else(|| ServerName::from(address))
    }

    /// Looks whether the files have changed, and uses what they are now.
    pub fn look(&self) -> Look {
        self.side.look()
    }

    /// When the certificate ends that backends are shown.
    pub fn expiry(&self) -> Option<CertificateExpiry> {
        self.side.current().expiry.clone()
    }
}

impl ClientSide {
    fn read(tls: &UpstreamTls, trusted: Option<&Path>) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions(tls.min_version))?;
        let builder = match trusted {
            Some(file) => {
                let roots = match &tls.ca_file {
                    Some(file) => authorities(file, read_certificates(file)?)?,
                    // Of the system's many, one that is not understood is no reason to trust none.
                    None => {
                        let mut store = rustls::RootCertStore::empty();
                        store.add_parsable_certificates(read_certificates(file)?);
                        store
                    }
                };
                builder.with_root_certificates(roots)
            }
            None => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Unverified(Arc::clone(&provider)))),
        };
        let (mut config, expiry) = match &tls.certificate {
            None => (builder.with_no_client_auth(), None),
            Some(files) => {
                let certified = read_certified(files, &provider)?;
                let expiry = expiry(&files.cert_file, &certified);
                let resolver = rustls::sign::SingleCertAndKey::from(certified);
                (
                    builder.with_client_cert_resolver(Arc::new(resolver)),
                    expiry,
                )
            }
        };
        let alpn = tls.alpn.iter();
        config.alpn_protocols = alpn.map(|name| name.clone().into_bytes()).collect();
        Ok(Self {
            config: Arc::new(config),
            expiry,
        })
    }
}

fn system_authorities() -> Result<PathBuf, TlsError> {
    let files = SYSTEM_AUTHORITIES.iter().map(PathBuf::from);
    let mut present = files.filter(|file| file.is_file());
    present.next().ok_or(TlsError::NoSystemAuthorities)
}

/// `verify = false`: any certificate will do, as long as the backend has its key.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
