//! TLS on the clients' side.

mod certificates;
mod stream;

pub use certificates::CertificateError;
pub(crate) use certificates::{server_config, tickets};
pub(crate) use stream::Tls;
