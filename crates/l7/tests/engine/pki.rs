//! An authority of the test's own, and TLS peers on both sides.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256, RevokedCertParams, RsaKeySize,
    SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use rustls::{HandshakeKind, StreamOwned};

use crate::harness::*;

/// Files that are gone after the test.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("weir-l7-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Writes a file; as a config names it.
    pub fn write(&self, name: &str, content: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, PEM.
pub struct Pair {
    pub cert: String,
    pub key: String,
}

/// Kinds of keys.
#[derive(Clone, Copy)]
pub enum Kind {
    Ecdsa,
    Rsa(RsaKeySize),
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for names and addresses.
    pub fn issue(&self, serial: u64, names: &[&str], kind: Kind) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        let key = match kind {
            Kind::Ecdsa => KeyPair::generate().unwrap(),
            Kind::Rsa(size) => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, size).unwrap(),
        };
        Pair {
            cert: params.signed_by(&key, &self.0).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    /// A list that revokes these.
    pub fn revoke(&self, serials: &[u64]) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(4096, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.0).unwrap().pem().unwrap()
    }

    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        roots
    }

    /// A client that trusts this authority, and shows a certificate if it has one.
    pub fn client(&self, shown: Option<&Pair>) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots());
        Arc::new(match shown {
            Some(pair) => builder
                .with_client_auth_cert(vec![pair.der()], pair.key_der())
                .unwrap(),
            None => builder.with_no_client_auth(),
        })
    }

    /// A server with this certificate; it asks clients for one of `clients`.
    pub fn server(pair: &Pair, clients: Option<&Self>) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(
                    Arc::new(authority.roots()),
                    provider(),
                )
                .build()
                .unwrap(),
            ),
        };
        Arc::new(
            builder
                .with_single_cert(vec![pair.der()], pair.key_der())
                .unwrap(),
        )
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

impl Pair {
    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.cert.as_bytes()).unwrap()
    }

    fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }

    /// Writes both files; the entry of `certificates`.
    pub fn entry(&self, folder: &Folder, name: &str) -> String {
        let cert = folder.write(&format!("{name}.pem"), &self.cert);
        let key = folder.write(&format!("{name}.key"), &self.key);
        format!("{{ cert_file = \"{cert}\", key_file = \"{key}\" }}")
    }
}

pub type Session = StreamOwned<ClientConnection, TcpStream>;

pub fn connect(address: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> Session {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    StreamOwned::new(
        ClientConnection::new(Arc::clone(config), name).unwrap(),
        stream,
    )
}

/// What one request was answered, and how its handshake went.
pub fn get(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    name: &str,
    fields: &str,
) -> std::io::Result<(String, HandshakeKind)> {
    let mut session = connect(address, config, name);
    write!(
        session,
        "GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n{fields}\r\n"
    )?;
    let mut answer = String::new();
    session.read_to_string(&mut answer)?;
    let kind = session.conn.handshake_kind().unwrap();
    Ok((answer, kind))
}

/// An origin over TLS that answers each request with its own head, and what the handshake showed.
pub fn tls_mirror(config: Arc<ServerConfig>) -> Origin {
    Origin::start(move |_, peer| {
        let session = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = StreamOwned::new(session, peer.stream);
        let mut head = Vec::new();
        let mut byte = [0];
        while matches!(stream.read(&mut byte), Ok(1)) {
            head.push(byte[0]);
            if head.ends_with(b"\r\n\r\n") {
                let shown = stream.conn.peer_certificates().is_some();
                let name = stream.conn.server_name().unwrap_or("none");
                let text = String::from_utf8_lossy(&head);
                let body = format!("{text}shown: {shown}\nname: {name}\n");
                let length = body.len();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
                if stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
                if text.contains("\r\nConnection: close\r\n") {
                    break;
                }
                head.clear();
            }
        }
        stream.conn.send_close_notify();
        let _ = stream.flush();
    })
}
