//! What is shown to clients and demanded of them: certificates by key, versions, client certificates, tickets, and files
//! that are replaced.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use rcgen::RsaKeySize;
use rustls::{ClientConfig, HandshakeKind, SignatureScheme};
use weir_l7::Reason;

use crate::harness::*;
use crate::pki::*;

fn https(origin: &Origin, extra: &str) -> String {
    one_listener("https", &[origin.address], extra)
}

/// A client that can verify signatures of some kinds only.
fn limited(authority: &Authority, schemes: &'static [SignatureScheme]) -> Arc<ClientConfig> {
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{DigitallySignedStruct, Error};

    #[derive(Debug)]
    struct Limited(Arc<WebPkiServerVerifier>, &'static [SignatureScheme]);
    impl ServerCertVerifier for Limited {
        fn verify_server_cert(
            &self,
            end_entity: &CertificateDer<'_>,
            intermediates: &[CertificateDer<'_>],
            name: &ServerName<'_>,
            ocsp: &[u8],
            now: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            self.0
                .verify_server_cert(end_entity, intermediates, name, ocsp, now)
        }
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.0.verify_tls12_signature(message, cert, signed)
        }
        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.0.verify_tls13_signature(message, cert, signed)
        }
        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.1.to_vec()
        }
    }

    let mut config = ClientConfig::clone(&authority.client(None));
    let mut roots = rustls::RootCertStore::empty();
    let der = rustls::pki_types::pem::PemObject::from_pem_slice(authority.pem().as_bytes());
    roots.add(der.unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
    config
        .dangerous()
        .set_certificate_verifier(Arc::new(Limited(verifier.build().unwrap(), schemes)));
    Arc::new(config)
}

const RSA: &[SignatureScheme] = &[
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PKCS1_SHA256,
    // The authority's own signature.
    SignatureScheme::ECDSA_NISTP256_SHA256,
];

#[test]
fn of_two_certificates_for_a_name_the_client_gets_one_that_it_can_verify() {
    let folder = Folder::new("two-kinds");
    let origin = Origin::saying("ok");
    let authority = Authority::new("two");
    let ecdsa = authority.issue(1, &["a.example"], Kind::Ecdsa);
    let rsa = authority.issue(2, &["a.example"], Kind::Rsa(RsaKeySize::_2048));
    // The order of the file makes no difference.
    let entries = [rsa.entry(&folder, "rsa"), ecdsa.entry(&folder, "ecdsa")].join(", ");
    let proxy = Proxy::start(&https(&origin, &format!("certificates = [{entries}]")));
    let shown = |config: &Arc<ClientConfig>, name: &str| {
        let mut session = connect(proxy.address, config, name);
        write!(
            session,
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        session.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("ok"), "{answer}");
        session.conn.peer_certificates().unwrap()[0].clone()
    };
    let both = authority.client(None);
    assert_eq!(shown(&both, "a.example"), ecdsa.der());
    let only_rsa = limited(&authority, &RSA[..2]);
    assert_eq!(shown(&only_rsa, "a.example"), rsa.der());
}

#[test]
fn older_versions_than_the_listener_has_are_refused() {
    let folder = Folder::new("version");
    let origin = Origin::saying("ok");
    let authority = Authority::new("version");
    let entry = authority
        .issue(1, &["a.example"], Kind::Ecdsa)
        .entry(&folder, "a");
    let check = |min: &str, tls12: bool| {
        let extra = format!("certificates = [{entry}]\ntls = {{ min_version = \"{min}\" }}");
        let proxy = Proxy::start(&https(&origin, &extra));
        let mut old = ClientConfig::clone(&authority.client(None));
        old.alpn_protocols.clear();
        let old = {
            let mut roots = rustls::RootCertStore::empty();
            let der = rustls::pki_types::pem::PemObject::from_pem_slice(authority.pem().as_bytes());
            roots.add(der.unwrap()).unwrap();
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            Arc::new(
                ClientConfig::builder_with_provider(provider)
                    .with_protocol_versions(&[&rustls::version::TLS12])
                    .unwrap()
                    .with_root_certificates(roots)
                    .with_no_client_auth(),
            )
        };
        assert_eq!(get(proxy.address, &old, "a.example", "").is_ok(), tls12);
        assert!(get(proxy.address, &authority.client(None), "a.example", "").is_ok());
    };
    check("1.2", true);
    check("1.3", false);
}

/// A listener that asks for certificates of `clients`.
fn asking(folder: &Folder, authority: &Authority, clients: &Authority, extra: &str) -> String {
    let entry = authority
        .issue(1, &["a.example"], Kind::Ecdsa)
        .entry(folder, "server");
    let ca = folder.write("clients.pem", &clients.pem());
    format!("certificates = [{entry}]\ntls = {{ client_ca_file = \"{ca}\"{extra} }}")
}

#[test]
fn a_client_certificate_is_demanded_verified_and_told_to_the_backend() {
    let folder = Folder::new("mtls");
    let origin = Origin::mirror();
    let (authority, clients) = (Authority::new("servers"), Authority::new("clients"));
    let shown = clients.issue(7, &["client"], Kind::Ecdsa);
    let stranger = authority.issue(8, &["client"], Kind::Ecdsa);
    let forged = "Client-Cert: :AAAA:\r\nclient_cert: :BBBB:\r\nClient-Cert-Chain: :CCCC:\r\n";

    let required = Proxy::start(&https(&origin, &asking(&folder, &authority, &clients, "")));
    let known = authority.client(Some(&shown));
    // The second is a resumed session, which has no certificate in its handshake.
    for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let (answer, kind) = get(required.address, &known, "a.example", forged).unwrap();
        assert_eq!(kind, expected);
        let field = format!("Client-Cert: :{}:\r\n", base64(&shown.der()));
        assert!(answer.contains(&field), "{answer}");
        assert_eq!(
            answer.to_ascii_lowercase().matches("client").count(),
            1,
            "{answer}"
        );
    }
    assert!(get(required.address, &authority.client(None), "a.example", "").is_err());
    assert!(
        get(
            required.address,
            &authority.client(Some(&stranger)),
            "a.example",
            ""
        )
        .is_err()
    );
    required.until("both are counted", |proxy| {
        proxy.listener_stats().errors(Reason::TlsHandshake) == 2
    });

    let extra = asking(
        &folder,
        &authority,
        &clients,
        ", client_auth = \"optional\"",
    );
    let optional = Proxy::start(&https(&origin, &extra));
    let (answer, _) = get(optional.address, &known, "a.example", forged).unwrap();
    assert!(answer.contains("Client-Cert: :M"), "{answer}");
    let (answer, _) = get(
        optional.address,
        &authority.client(None),
        "a.example",
        forged,
    )
    .unwrap();
    assert!(!answer.to_ascii_lowercase().contains("client"), "{answer}");
    assert!(
        get(
            optional.address,
            &authority.client(Some(&stranger)),
            "a.example",
            ""
        )
        .is_err()
    );
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let mut three = [0; 3];
        three[..group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        for at in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * at)) as usize & 63] as char;
            text.push(if at <= group.len() { digit } else { '=' });
        }
    }
    text
}

#[test]
fn a_revoked_certificate_is_refused_also_in_a_session_that_was_begun_before() {
    let folder = Folder::new("revoked");
    let origin = Origin::saying("ok");
    let (authority, clients) = (Authority::new("servers"), Authority::new("clients"));
    let good = authority.client(Some(&clients.issue(7, &["good"], Kind::Ecdsa)));
    let bad = authority.client(Some(&clients.issue(8, &["bad"], Kind::Ecdsa)));
    let list = folder.write("revoked.pem", &clients.revoke(&[]));
    let extra = format!(", client_crl_file = \"{list}\"");
    let proxy = Proxy::start(&https(
        &origin,
        &asking(&folder, &authority, &clients, &extra),
    ));
    assert!(get(proxy.address, &bad, "a.example", "").is_ok());
    let (_, kind) = get(proxy.address, &bad, "a.example", "").unwrap();
    assert_eq!(kind, HandshakeKind::Resumed);
    folder.write("revoked.pem", &clients.revoke(&[8]));
    proxy.until("the list is in force", |proxy| {
        proxy.engine.stats().tls_files_renewed == 1
    });
    assert!(get(proxy.address, &bad, "a.example", "").is_err());
    assert!(get(proxy.address, &good, "a.example", "").is_ok());
}

#[test]
fn sessions_are_resumed_on_every_node_with_the_keys_but_never_past_a_demand() {
    let folder = Folder::new("tickets");
    let origin = Origin::saying("ok");
    let (authority, clients) = (Authority::new("servers"), Authority::new("clients"));
    let shown = clients.issue(7, &["client"], Kind::Ecdsa);
    let line = |digit: &str| digit.repeat(64) + "\n";
    let entry = authority
        .issue(1, &["a.example"], Kind::Ecdsa)
        .entry(&folder, "server");
    let node = |keys: &str, demand: &str| {
        let extra = format!(
            "certificates = [{entry}]\ntls = {{ ticket_key_file = \"{}\"{demand} }}",
            folder.0.join(keys).display()
        );
        Proxy::start(&https(&origin, &extra))
    };
    folder.write("old", &line("a"));
    folder.write("both", &(line("b") + &line("a")));
    folder.write("new", &line("b"));
    let demand = format!(
        ", client_ca_file = \"{}\"",
        folder.write("clients.pem", &clients.pem())
    );
    let optional = format!("{demand}, client_auth = \"optional\"");
    let kinds = |config: &Arc<ClientConfig>, nodes: &[&Proxy]| -> Vec<HandshakeKind> {
        let ask = |node: &&Proxy| get(node.address, config, "a.example", "").unwrap().1;
        nodes.iter().map(ask).collect()
    };
    let [old, both, new] = ["old", "both", "new"].map(|keys| node(keys, ""));
    use HandshakeKind::{Full, Resumed};
    // From `both` on, tickets are of the new key: `old` does not know it, and makes one that `both` knows.
    assert_eq!(
        kinds(&authority.client(None), &[&old, &both, &new, &old, &both]),
        [Full, Resumed, Resumed, Full, Resumed]
    );
    let asking = node("both", &demand);
    let asking_too = node("both", &demand);
    let asking_politely = node("both", &optional);
    let client = authority.client(Some(&shown));
    assert_eq!(
        kinds(
            &client,
            &[&both, &asking, &asking_too, &asking_politely, &asking]
        ),
        [Full, Full, Resumed, Full, Full]
    );
    // A session that was begun where nobody asked does not get in where somebody does.
    let stranger = authority.client(None);
    assert_eq!(kinds(&stranger, &[&both]), [Full]);
    assert!(get(asking.address, &stranger, "a.example", "").is_err());
}

#[test]
fn replaced_files_come_into_force_and_bad_ones_do_not() {
    let folder = Folder::new("renewed");
    let origin = Origin::saying("ok");
    let authority = Authority::new("renewed");
    let first = authority.issue(1, &["a.example"], Kind::Ecdsa);
    let entry = first.entry(&folder, "a");
    let proxy = Proxy::start(&https(&origin, &format!("certificates = [{entry}]")));
    let shown = || {
        let mut session = connect(proxy.address, &authority.client(None), "a.example");
        write!(session, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        session.read_exact(&mut [0; 12]).unwrap();
        session.conn.peer_certificates().unwrap()[0].clone()
    };
    assert_eq!(shown(), first.der());
    let mut open = connect(proxy.address, &authority.client(None), "a.example");
    write!(open, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut answer = [0; 40];
    open.read_exact(&mut answer).unwrap();

    let second = authority.issue(2, &["a.example"], Kind::Ecdsa);
    second.entry(&folder, "a");
    proxy.until("the new one is in force", |proxy| {
        proxy.engine.stats().tls_files_renewed == 1
    });
    assert_eq!(shown(), second.der());
    // What was open goes on.
    write!(open, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    open.read_exact(&mut answer).unwrap();

    // A certificate without its key: nothing changes, and it is said.
    let third = authority.issue(3, &["a.example"], Kind::Ecdsa);
    folder.write("a.pem", &third.cert);
    proxy.until("it is refused", |proxy| {
        proxy.engine.stats().tls_files_refused == 1
    });
    assert_eq!(shown(), second.der());
    folder.write("a.key", &third.key);
    proxy.until("it is whole", |proxy| {
        proxy.engine.stats().tls_files_renewed == 2
    });
    assert_eq!(shown(), third.der());
    let certificates = proxy.engine.stats().certificates;
    assert_eq!(certificates.len(), 1);
    // rcgen's certificates end on the first day of 4096.
    assert_eq!(certificates[0].expiry.not_after_s, 67_090_118_400);
}

/// CPU time of this process's threads of a name, from the scheduler's own clock.
fn cpu_of(name: &str) -> Duration {
    let mut total = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let read = |file: &str| std::fs::read_to_string(task.path().join(file));
        if let (Ok(comm), Ok(stat)) = (read("comm"), read("schedstat"))
            && comm.trim_end() == name
        {
            let nanoseconds = stat.split(' ').next().and_then(|word| word.parse().ok());
            total += nanoseconds.unwrap_or(0u64);
        }
    }
    Duration::from_nanos(total)
}

#[test]
fn slow_signatures_are_not_made_by_workers() {
    let folder = Folder::new("slow");
    let origin = Origin::saying("ok");
    let authority = Authority::new("slow");
    let entry = authority
        .issue(1, &["a.example"], Kind::Rsa(RsaKeySize::_4096))
        .entry(&folder, "a");
    let proxy = Proxy::start_with(&https(&origin, &format!("certificates = [{entry}]")), 1);
    let before = cpu_of("weir-l7-sign");
    for _ in 0..20 {
        // A config of its own has no session to resume.
        let (answer, kind) = get(proxy.address, &authority.client(None), "a.example", "").unwrap();
        assert!(answer.ends_with("ok"), "{answer}");
        assert_eq!(kind, HandshakeKind::Full);
    }
    // Other tests of this process sign slowly as well; what counts is that the time is not the worker's.
    let signing = cpu_of("weir-l7-sign").saturating_sub(before);
    assert!(signing > Duration::from_millis(20), "{signing:?}");
}
