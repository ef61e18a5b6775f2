//! TLS on the clients' side.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use weir_l7::{Error, Reason};

use crate::harness::*;

/// Files that are gone after the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("weir-l7-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// A certificate for these names, and its key: the config's entry.
    pub fn certificate(&self, file: &str, names: &[&str]) -> String {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        std::fs::write(self.0.join(format!("{file}.pem")), made.cert.pem()).unwrap();
        std::fs::write(
            self.0.join(format!("{file}.key")),
            made.signing_key.serialize_pem(),
        )
        .unwrap();
        self.entry(file, file)
    }

    fn entry(&self, cert: &str, key: &str) -> String {
        let path = self.0.display();
        format!("{{ cert_file = \"{path}/{cert}.pem\", key_file = \"{path}/{key}.key\" }}")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Takes any certificate.
#[derive(Debug)]
struct Anything(rustls::crypto::WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

pub fn client_config() -> Arc<ClientConfig> {
    client_config_for(rustls::ALL_VERSIONS)
}

fn client_config_for(versions: &[&'static rustls::SupportedProtocolVersion]) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(Anything(provider.signature_verification_algorithms));
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap();
    let mut config = builder
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

type Session = StreamOwned<ClientConnection, TcpStream>;

fn connect(proxy: &Proxy, config: &Arc<ClientConfig>, name: &str) -> Session {
    let session =
        ClientConnection::new(Arc::clone(config), name.to_owned().try_into().unwrap()).unwrap();
    let stream = TcpStream::connect(proxy.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    StreamOwned::new(session, stream)
}

/// Sends a request that ends the connection, and gives the whole answer.
fn ask(session: &mut Session, request: &str, body: &[u8]) -> Vec<u8> {
    session.write_all(request.as_bytes()).unwrap();
    session.write_all(body).unwrap();
    session.flush().unwrap();
    let mut answer = Vec::new();
    session.read_to_end(&mut answer).unwrap();
    answer
}

fn proxy(certificates: &[String], origin: &Origin) -> Proxy {
    let certificates = format!("certificates = [{}]", certificates.join(", "));
    Proxy::start(&one_listener("https", &[origin.address], &certificates))
}

#[test]
fn https_is_opened_and_the_backend_told() {
    let folder = Folder::new("opened");
    let origin = Origin::mirror();
    let proxy = proxy(&[folder.certificate("a", &["a.example"])], &origin);
    for versions in [&[&rustls::version::TLS12], &[&rustls::version::TLS13]] {
        let mut session = connect(&proxy, &client_config_for(versions), "a.example");
        let answer = ask(
            &mut session,
            "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n",
            b"",
        );
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("X-Forwarded-Proto: https\r\n"), "{answer}");
        assert_eq!(session.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        assert_eq!(session.conn.protocol_version(), Some(versions[0].version));
    }
    proxy.until("both are counted", |proxy| {
        proxy.listener_stats().handshakes == 2
    });
}

#[test]
fn large_bodies_come_through_whole_over_tls() {
    let folder = Folder::new("large");
    let origin = Origin::mirror();
    let proxy = proxy(&[folder.certificate("a", &["a.example"])], &origin);
    let body = noise(3_000_000, 7);
    let mut session = connect(&proxy, &client_config(), "a.example");
    let head = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3000000\r\n\r\n";
    assert!(ask(&mut session, head, &body).ends_with(&body));
}

#[test]
fn requests_follow_each_other_over_tls() {
    let folder = Folder::new("follow");
    let origin = Origin::saying("ok");
    let proxy = proxy(&[folder.certificate("a", &["a.example"])], &origin);
    let mut session = connect(&proxy, &client_config(), "a.example");
    for _ in 0..50 {
        session
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        let mut answer = [0; 40];
        session.read_exact(&mut answer).unwrap();
        assert!(
            answer.ends_with(b"\r\n\r\nok"),
            "{:?}",
            String::from_utf8_lossy(&answer)
        );
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn the_server_name_chooses_the_certificate() {
    let folder = Folder::new("sni");
    let origin = Origin::saying("ok");
    let files = [
        ("default", "d.example"),
        ("exact", "www.b.example"),
        ("wild", "*.b.example"),
    ];
    let entries: Vec<String> = files
        .iter()
        .map(|(file, name)| folder.certificate(file, &[name]))
        .collect();
    let proxy = proxy(&entries, &origin);
    for (name, file) in [
        ("d.example", "default"),
        ("www.b.example", "exact"),
        ("WWW.B.example", "exact"),
        ("other.b.example", "wild"),
        ("x.other.b.example", "default"),
        ("b.example", "default"),
        ("unknown.example", "default"),
    ] {
        let mut session = connect(&proxy, &client_config(), name);
        ask(
            &mut session,
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            b"",
        );
        let pem = std::fs::read(folder.0.join(format!("{file}.pem"))).unwrap();
        let expected =
            <CertificateDer as rustls::pki_types::pem::PemObject>::from_pem_slice(&pem).unwrap();
        assert_eq!(
            session.conn.peer_certificates().unwrap()[0],
            expected,
            "{name}"
        );
    }
}

#[test]
fn sessions_are_resumed_on_any_worker_and_after_a_reload() {
    let folder = Folder::new("resumed");
    let origin = Origin::saying("ok");
    let entry = folder.certificate("a", &["a.example"]);
    let proxy = proxy(std::slice::from_ref(&entry), &origin);
    let config = client_config();
    let kinds: Vec<_> = (0..8)
        .map(|number| {
            if number == 5 {
                proxy.apply(&one_listener(
                    "https",
                    &[origin.address],
                    &format!("certificates = [{entry}]"),
                ));
            }
            let mut session = connect(&proxy, &config, "a.example");
            ask(
                &mut session,
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
                b"",
            );
            session.conn.handshake_kind().unwrap()
        })
        .collect();
    assert_eq!(kinds[0], rustls::HandshakeKind::Full);
    assert!(
        kinds[1..]
            .iter()
            .all(|kind| *kind == rustls::HandshakeKind::Resumed),
        "{kinds:?}"
    );
}

#[test]
fn what_is_not_tls_fails_the_handshake() {
    let folder = Folder::new("clear");
    let proxy = proxy(
        &[folder.certificate("a", &["a.example"])],
        &Origin::saying("ok"),
    );
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.rest();
    proxy.until("the handshake has failed", |proxy| {
        proxy.listener_stats().handshakes_failed == 1
    });
    proxy.until("it is counted", |proxy| {
        proxy.listener_stats().errors(Reason::TlsHandshake) == 1
    });
}

#[test]
fn certificates_that_cannot_be_used_are_named() {
    let folder = Folder::new("errors");
    let good = folder.certificate("good", &["a.example"]);
    folder.certificate("other", &["a.example"]);
    std::fs::write(folder.0.join("empty.pem"), "").unwrap();
    let origin = Origin::saying("ok");
    let proxy = proxy(std::slice::from_ref(&good), &origin);
    let error = |entry: String| {
        let text = one_listener(
            "https",
            &[origin.address],
            &format!("certificates = [{entry}]"),
        );
        let error = proxy
            .engine
            .prepare(Arc::new(proxy.snapshot(&text)))
            .unwrap_err();
        assert!(matches!(error, Error::ListenerTls { .. }), "{error}");
        error.to_string()
    };
    let named = |text: &str, file: &str| {
        text.contains("listener `main`") && text.contains(Path::new(file).to_str().unwrap())
    };
    assert!(named(
        &error(folder.entry("missing", "good")),
        "missing.pem"
    ));
    assert!(named(
        &error(folder.entry("good", "missing")),
        "missing.key"
    ));
    assert!(named(&error(folder.entry("empty", "good")), "empty.pem"));
    let mismatch = error(folder.entry("good", "other"));
    assert!(
        named(&mismatch, "other.key") && mismatch.contains("is not the key of"),
        "{mismatch}"
    );
    // Nothing has changed for clients.
    let mut session = connect(&proxy, &client_config(), "a.example");
    assert!(
        ask(
            &mut session,
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            b""
        )
        .ends_with(b"ok")
    );
}
