//! Certificates of listeners, chosen by server name.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use weir_model::{CertificateFiles, Listener};

use crate::engine::Error;

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The file cannot be read, or holds no PEM of the kind.
    #[error("cannot read {what} from {}: {source}", file.display())]
    Read {
        /// "certificates" or "a private key".
        what: &'static str,
        /// The file.
        file: PathBuf,
        /// What the reader says.
        source: rustls::pki_types::pem::Error,
    },
    /// The file holds no certificate.
    #[error("{} holds no certificate", file.display())]
    NoCertificate {
        /// The file.
        file: PathBuf,
    },
    /// The key is of a kind that is not supported.
    #[error("the key in {} cannot be used: {source}", file.display())]
    Key {
        /// The file.
        file: PathBuf,
        /// What the library says.
        source: rustls::Error,
    },
    /// The key is not the certificate's.
    #[error("the key in {} is not the key of the certificate in {}", key_file.display(), cert_file.display())]
    Mismatch {
        /// The certificate's file.
        cert_file: PathBuf,
        /// The key's file.
        key_file: PathBuf,
    },
    /// The certificate is malformed.
    #[error("the certificate in {} cannot be used: {source}", file.display())]
    Certificate {
        /// The file.
        file: PathBuf,
        /// What the library says.
        source: io::Error,
    },
}

/// Keys for a listener's session tickets, which change by themselves.
pub(crate) fn tickets(listener: &Listener) -> Result<Arc<dyn ProducesTickets>, Error> {
    aws_lc_rs::Ticketer::new().map_err(|source| Error::Tls {
        listener: listener.name.clone(),
        source,
    })
}

/// The TLS side of an `https` listener.
pub(crate) fn server_config(
    listener: &Listener,
    tickets: Arc<dyn ProducesTickets>,
) -> Result<Arc<rustls::ServerConfig>, Error> {
    let wrap = |source| Error::Certificate {
        listener: listener.name.clone(),
        source: Box::new(source),
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut certificates = Certificates::default();
    for files in &listener.certificates {
        certificates.add(files, &provider).map_err(wrap)?;
    }
    let builder = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| Error::Tls {
            listener: listener.name.clone(),
            source,
        })?;
    let mut config = builder
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ticketer = tickets;
    Ok(Arc::new(config))
}

/// Certificates by the names that they are for.
#[derive(Debug, Default)]
struct Certificates {
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// Names without `*.`.
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
    default: Vec<Arc<CertifiedKey>>,
}

impl Certificates {
    fn add(
        &mut self,
        files: &CertificateFiles,
        provider: &CryptoProvider,
    ) -> Result<(), CertificateError> {
        let CertificateFiles {
            cert_file,
            key_file,
        } = files;
        let read = |what, file: &PathBuf, source| CertificateError::Read {
            what,
            file: file.clone(),
            source,
        };
        let chain = CertificateDer::pem_file_iter(cert_file)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|source| read("certificates", cert_file, source))?;
        let Some(end_entity) = chain.first() else {
            return Err(CertificateError::NoCertificate {
                file: cert_file.clone(),
            });
        };
        let names = dns_names(end_entity).map_err(|source| CertificateError::Certificate {
            file: cert_file.clone(),
            source,
        })?;
        let key = PrivateKeyDer::from_pem_file(key_file)
            .map_err(|source| read("a private key", key_file, source))?;
        let key = provider
            .key_provider
            .load_private_key(key)
            .map_err(|source| CertificateError::Key {
                file: key_file.clone(),
                source,
            })?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            // A key that cannot say what its public half is cannot be compared.
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(_) => {
                return Err(CertificateError::Mismatch {
                    cert_file: cert_file.clone(),
                    key_file: key_file.clone(),
                });
            }
        }
        let certified = Arc::new(certified);
        for name in names {
            let name = name.to_ascii_lowercase();
            match name.strip_prefix("*.") {
                Some(suffix) => self
                    .wildcard
                    .entry(suffix.to_owned())
                    .or_default()
                    .push(Arc::clone(&certified)),
                None => self
                    .exact
                    .entry(name)
                    .or_default()
                    .push(Arc::clone(&certified)),
            }
        }
        if self.default.is_empty() {
            self.default.push(certified);
        }
        Ok(())
    }

    fn find(&self, name: Option<&str>) -> &[Arc<CertifiedKey>] {
        let found = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            let by_wildcard = || self.wildcard.get(name.split_once('.')?.1);
            self.exact.get(&name).or_else(by_wildcard)
        });
        found.unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let candidates = self.find(hello.server_name());
        let usable = |certified: &&Arc<CertifiedKey>| {
            certified
                .key
                .choose_scheme(hello.signature_schemes())
                .is_some()
        };
        candidates
            .iter()
            .find(usable)
            .or(candidates.first())
            .cloned()
    }
}

/// The names in a certificate's subjectAltName.
fn dns_names(certificate: &CertificateDer<'_>) -> io::Result<Vec<String>> {
    let parsed = webpki::EndEntityCert::try_from(certificate).map_err(io::Error::other)?;
    Ok(parsed.valid_dns_names().map(str::to_owned).collect())
}
