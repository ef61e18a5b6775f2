//! What can be wrong with the files that TLS is made of.

use std::io;
use std::path::PathBuf;

/// Why files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read, or holds no PEM of the kind.
    #[error("cannot read {what} from {}: {source}", file.display())]
    Read {
        /// "certificates", "a private key" and the like.
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
    /// An authority's certificate cannot be trusted.
    #[error("the authority in {} cannot be used: {source}", file.display())]
    Authority {
        /// The file.
        file: PathBuf,
        /// What the library says.
        source: rustls::Error,
    },
    /// The file holds no list of revoked certificates, or one that is malformed.
    #[error("the revocation list in {} cannot be used: {reason}", file.display())]
    Revocation {
        /// The file.
        file: PathBuf,
        /// What the library says.
        reason: String,
    },
    /// Authorities and revocation lists do not make a verifier.
    #[error("the authorities in {} cannot be used: {source}", file.display())]
    Verifier {
        /// The authorities' file.
        file: PathBuf,
        /// What the library says.
        source: rustls::server::VerifierBuilderError,
    },
    /// The system has no file of authorities where one is commonly kept.
    #[error("the system has no authorities in {}; `ca_file` names others", crate::client::SYSTEM_AUTHORITIES.join(", "))]
    NoSystemAuthorities,
    /// A ticket key file is not as it has to be. Never says what is in it.
    #[error("line {line} of {} is not a ticket key: expected 64 hexadecimal digits, as `openssl rand -hex 32` prints", file.display())]
    TicketKey {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// A ticket key file cannot be read.
    #[error("cannot read ticket keys from {}: {source}", file.display())]
    TicketFile {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A ticket key file holds no key, or too many.
    #[error("{} holds {count} ticket keys, expected 1 to {max}", file.display())]
    TicketKeyCount {
        /// The file.
        file: PathBuf,
        /// How many.
        count: usize,
        /// How many at most.
        max: usize,
    },
    /// The system has no random numbers.
    #[error("cannot make random ticket keys")]
    Random,
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Setup(#[from] rustls::Error),
}
