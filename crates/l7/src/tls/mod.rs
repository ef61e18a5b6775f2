//! TLS on the clients' side.

mod certificates;
mod stream;

pub use certificates::CertificateError;
pub(crate) use certificates::server_config;
pub(crate) use stream::Tls;
