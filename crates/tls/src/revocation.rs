//! Who is trusted, and what was revoked.

use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};

use crate::error::TlsError;

/// The authorities of a file, each of which must be usable.
pub(crate) fn authorities(
    file: &Path,
    certificates: Vec<CertificateDer<'static>>,
) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates {
        store
            .add(certificate)
            .map_err(|source| TlsError::Authority {
                file: file.to_owned(),
                source,
            })?;
    }
    Ok(store)
}

/// The revocation lists of a file.
pub(crate) fn revocation_lists(
    file: &Path,
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let refused = |reason: String| TlsError::Revocation {
        file: file.to_owned(),
        reason,
    };
    let lists = CertificateRevocationListDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| refused(source.to_string()))?;
    if lists.is_empty() {
        return Err(refused("it holds none".to_owned()));
    }
    Ok(lists)
}
