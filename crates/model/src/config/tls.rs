//! `tls` of listeners and pools.

use toml::de::DeValue;

use super::diagnostic::{Complaint, Findings, Kind, quoted};
use super::file::read_path;
use super::section::{Grammar, Section, text, word, wrong_type};
use crate::listener::CertificateFiles;
use crate::route::HostPattern;
use crate::tls::{ClientAuth, ClientAuthMode, ListenerTls, TlsVersion, UpstreamTls};

pub(super) static LISTENER_TLS: Grammar = Grammar {
    title: "`tls` of a listener",
    keys: &[
        "min_version",
        "client_auth",
        "client_ca_file",
        "client_crl_file",
        "ticket_key_file",
    ],
    synonyms: &[
        ("version", "min_version"),
        ("verify_client", "client_auth"),
        ("ca_file", "client_ca_file"),
        ("crl_file", "client_crl_file"),
        ("ticket_keys", "ticket_key_file"),
        ("session_ticket_key", "ticket_key_file"),
    ],
    example: r#"tls = { min_version = "1.3" }"#,
};
pub(super) static POOL_TLS: Grammar = Grammar {
    title: "`tls` of a pool",
    keys: &[
        "verify",
        "server_name",
        "ca_file",
        "cert_file",
        "key_file",
        "min_version",
        "alpn",
    ],
    synonyms: &[
        ("sni", "server_name"),
        ("name", "server_name"),
        ("ca", "ca_file"),
        ("cert", "cert_file"),
        ("key", "key_file"),
        ("version", "min_version"),
    ],
    example: r#"tls = { ca_file = "ca.pem" }"#,
};

static VERSIONS: [(&str, TlsVersion); 2] = [("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];
static VERSION_SYNONYMS: [(&str, &str); 4] = [
    ("TLSv1.2", "1.2"),
    ("TLSv1.3", "1.3"),
    ("1.0", "1.2"),
    ("1.1", "1.2"),
];
static CLIENT_AUTH: [(&str, ClientAuthMode); 2] = [
    ("required", ClientAuthMode::Required),
    ("optional", ClientAuthMode::Optional),
];

/// The longest name of a protocol that ALPN can carry (RFC 7301, section 3.1).
const MAX_ALPN: usize = 255;

pub(super) fn read_listener_tls(section: &Section<'_>, out: &mut Findings<'_>) -> ListenerTls {
    let min_version = read_version(section, out);
    let mode = section.read(
        "client_auth",
        out,
        word(
            "client_auth",
            &CLIENT_AUTH,
            &[
                ("require", "required"),
                ("on", "required"),
                ("request", "optional"),
            ],
        ),
    );
    let ca_file = read_path(section, "client_ca_file", out);
    let crl_file = read_path(section, "client_crl_file", out);
    let ticket_key_file = read_path(section, "ticket_key_file", out);
    for (key, span) in [
        ("client_auth", mode.span()),
        ("client_crl_file", crl_file.span()),
    ] {
        if let Some(span) = span
            && ca_file.is_absent()
        {
            let message = format!("`{key}` without `client_ca_file`");
            let complaint = Complaint::new(
                Kind::MissingKey,
                message,
                "expected the authorities that clients' certificates are from",
            );
            out.error(
                span,
                complaint.help("write `client_ca_file = \"clients.pem\"`"),
            );
        }
    }
    ListenerTls {
        min_version,
        client_auth: ca_file.good().map(|ca_file| ClientAuth {
            mode: mode.or(ClientAuthMode::Required),
            ca_file: ca_file.value.clone(),
            crl_file: crl_file.good().map(|at| at.value.clone()),
        }),
        ticket_key_file: ticket_key_file.good().map(|at| at.value.clone()),
    }
}

pub(super) fn read_pool_tls(section: &Section<'_>, out: &mut Findings<'_>) -> UpstreamTls {
    let verify = section.read("verify", out, |value| match value {
        DeValue::Boolean(verify) => Ok(*verify),
        other => Err(wrong_type("`verify`", "`true` or `false`", other)),
    });
    let server_name = section.read("server_name", out, |value| {
        server_name(text("server_name")(value)?)
    });
    let ca_file = read_path(section, "ca_file", out);
    if let Some(span) = ca_file.span()
        && verify.good().is_some_and(|at| !at.value)
    {
        let complaint = Complaint::new(
            Kind::Conflict,
            "`ca_file` with `verify = false`",
            "nothing is verified by it",
        );
        out.error(span, complaint.help("leave one of them out"));
    }
    let cert_file = read_path(section, "cert_file", out);
    let key_file = read_path(section, "key_file", out);
    for (read, present, missing) in [
        (&cert_file, "cert_file", "key_file"),
        (&key_file, "key_file", "cert_file"),
    ] {
        if let Some(span) = read.span()
            && section.key_span(missing).is_none()
        {
            let message = format!("`{present}` without `{missing}`");
            let label = "a certificate and its key belong together";
            out.error(span, Complaint::new(Kind::MissingKey, message, label));
        }
    }
    let certificate = match (cert_file.good(), key_file.good()) {
        (Some(cert_file), Some(key_file)) => Some(CertificateFiles {
            cert_file: cert_file.value.clone(),
            key_file: key_file.value.clone(),
        }),
        _ => None,
    };
    let alpn = section.strings("alpn", "[\"http/1.1\"]", out, |written| {
        if written.is_empty() || written.len() > MAX_ALPN {
            let message = format!("{} is not the name of a protocol", quoted(written));
            let label = "expected 1 to 255 bytes, as `http/1.1` (RFC 7301)";
            return Err(Complaint::new(Kind::InvalidValue, message, label));
        }
        Ok(written.to_owned())
    });
    UpstreamTls {
        verify: verify.or(true),
        server_name: server_name.good().map(|at| at.value.to_owned()),
        ca_file: ca_file.good().map(|at| at.value.clone()),
        certificate,
        min_version: read_version(section, out),
        alpn: alpn.or(Vec::new()).into_iter().map(|at| at.value).collect(),
    }
}

fn read_version(section: &Section<'_>, out: &mut Findings<'_>) -> TlsVersion {
    section
        .read(
            "min_version",
            out,
            word("min_version", &VERSIONS, &VERSION_SYNONYMS),
        )
        .or(TlsVersion::default())
}

/// A name that a certificate can be for.
fn server_name(written: &str) -> Result<&str, Complaint> {
    match HostPattern::parse(written) {
        Ok(HostPattern::Exact(name)) if name == written => Ok(written),
        _ => {
            let message = format!("{} is not a server's name", quoted(written));
            Err(Complaint::new(
                Kind::InvalidValue,
                message,
                "expected a name in lower case or an address, as `app.example.com`",
            ))
        }
    }
}
