//! Certificates of a listener, chosen by server name and by what the client can verify.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SignatureAlgorithm, SignatureScheme};
use weir_model::CertificateFiles;

use crate::error::TlsError;
use crate::expiry::not_after;

/// When a certificate ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateExpiry {
    /// The file that it is in.
    pub file: PathBuf,
    /// Seconds since 1970.
    pub not_after_s: u64,
}

/// Reads all certificates of a file.
pub(crate) fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| TlsError::Read {
            what: "certificates",
            file: file.to_owned(),
            source,
        })?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate {
            file: file.to_owned(),
        });
    }
    Ok(certificates)
}

/// Reads a certificate's chain and its key, and sees that they belong together.
pub(crate) fn read_certified(
    files: &CertificateFiles,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsError> {
    let CertificateFiles {
        cert_file,
        key_file,
    } = files;
    let chain = read_certificates(cert_file)?;
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|source| TlsError::Read {
        what: "a private key",
        file: key_file.clone(),
        source,
    })?;
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|source| TlsError::Key {
            file: key_file.clone(),
            source,
        })?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        // A key that cannot say what its public half is cannot be compared.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(certified)
        }
        Err(_) => Err(TlsError::Mismatch {
            cert_file: cert_file.clone(),
            key_file: key_file.clone(),
        }),
    }
}

/// When the first certificate of a chain ends. One whose end cannot be read does not pass the verifier of any client,
/// so there is nothing to warn of.
pub(crate) fn expiry(file: &Path, certified: &CertifiedKey) -> Option<CertificateExpiry> {
    Some(CertificateExpiry {
        file: file.to_owned(),
        not_after_s: not_after(certified.cert.first()?)?,
    })
}

/// Whether a signature with this key takes so little time (some 20 µs) that nobody is kept waiting by it.
fn signs_quickly(certified: &CertifiedKey) -> bool {
    let quick = [
        SignatureScheme::ECDSA_NISTP256_SHA256,
        SignatureScheme::ED25519,
    ];
    certified.key.choose_scheme(&quick).is_some()
}

/// Certificates by the names that they are for. Where there are several for a name, those whose keys sign quickly stand
/// before the others.
#[derive(Debug, Default)]
pub(crate) struct Certificates {
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// Names without `*.`.
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
    default: Vec<Arc<CertifiedKey>>,
    default_names: Vec<String>,
    any_slow: bool,
}

impl Certificates {
    pub(crate) fn add(
        &mut self,
        files: &CertificateFiles,
        certified: CertifiedKey,
    ) -> Result<(), TlsError> {
        let names = match certified.cert.first() {
            Some(end_entity) => dns_names(end_entity),
            None => Ok(Vec::new()),
        };
        let mut names = names.map_err(|source| TlsError::Certificate {
            file: files.cert_file.clone(),
            source,
        })?;
        names.sort_unstable();
        let certified = Arc::new(certified);
        self.any_slow |= !signs_quickly(&certified);
        // The default may come with another kind of key as well: then it is the certificate for the same names.
        if self.default.is_empty() {
            self.default_names.clone_from(&names);
            self.default.push(Arc::clone(&certified));
        } else if names == self.default_names && !has_kind(&self.default, &certified) {
            insert(&mut self.default, &certified);
        }
        for name in names {
            let of_name = match name.strip_prefix("*.") {
                Some(suffix) => self.wildcard.entry(suffix.to_owned()),
                None => self.exact.entry(name),
            };
            insert(of_name.or_default(), &certified);
        }
        Ok(())
    }

    /// Whether any of them signs so slowly that a worker should not do it between two requests.
    pub(crate) fn any_slow(&self) -> bool {
        self.any_slow
    }

    /// Whether the one for this client signs quickly.
    pub(crate) fn is_quick_for(&self, hello: &ClientHello<'_>) -> bool {
        self.choose(hello)
            .is_none_or(|chosen| signs_quickly(chosen))
    }

    fn find(&self, name: Option<&str>) -> &[Arc<CertifiedKey>] {
        let found = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            let by_wildcard = || self.wildcard.get(name.split_once('.')?.1);
            self.exact.get(&name).or_else(by_wildcard)
        });
        found.unwrap_or(&self.default)
    }

    fn choose(&self, hello: &ClientHello<'_>) -> Option<&Arc<CertifiedKey>> {
        let candidates = self.find(hello.server_name());
        let usable = |certified: &&Arc<CertifiedKey>| {
            certified
                .key
                .choose_scheme(hello.signature_schemes())
                .is_some()
        };
        candidates.iter().find(usable).or(candidates.first())
    }
}

/// Behind those that are as quick: of equals, the one that stands first in the config is the one that is used.
fn insert(certificates: &mut Vec<Arc<CertifiedKey>>, certified: &Arc<CertifiedKey>) {
    let at = if signs_quickly(certified) {
        certificates
            .iter()
            .position(|other| !signs_quickly(other))
            .unwrap_or(certificates.len())
    } else {
        certificates.len()
    };
    certificates.insert(at, Arc::clone(certified));
}

fn has_kind(certificates: &[Arc<CertifiedKey>], certified: &CertifiedKey) -> bool {
    let kind = |certified: &CertifiedKey| -> SignatureAlgorithm { certified.key.algorithm() };
    certificates
        .iter()
        .any(|other| kind(other) == kind(certified))
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(&hello).cloned()
    }
}

/// The names in a certificate's subjectAltName, in lower case.
fn dns_names(certificate: &CertificateDer<'_>) -> io::Result<Vec<String>> {
    let parsed = webpki::EndEntityCert::try_from(certificate).map_err(io::Error::other)?;
    Ok(parsed
        .valid_dns_names()
        .map(str::to_ascii_lowercase)
        .collect())
}
