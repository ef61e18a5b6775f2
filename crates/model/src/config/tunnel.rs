//! `tunnel` of listeners.

use super::diagnostic::{Complaint, Findings, Kind, quoted};
use super::section::{Grammar, Section, integer, text, word};
use crate::ip_prefix::{IpPrefix, IpPrefixError};
use crate::tunnel::{Encapsulation, Tunnel};

pub(super) static TUNNEL: Grammar = Grammar {
    title: "`tunnel`",
    keys: &["encapsulation", "port", "source"],
    synonyms: &[
        ("type", "encapsulation"),
        ("encap", "encapsulation"),
        ("kind", "encapsulation"),
        ("destination_port", "port"),
        ("sources", "source"),
    ],
    example: r#"tunnel = { encapsulation = "gue" }"#,
};

static ENCAPSULATIONS: [(&str, Encapsulation); 3] = [
    ("ipip", Encapsulation::Ipip),
    ("gue", Encapsulation::Gue),
    ("gre", Encapsulation::Gre),
];
static SYNONYMS: [(&str, &str); 6] = [
    ("ip", "ipip"),
    ("sit", "ipip"),
    ("ip6tnl", "ipip"),
    ("6in4", "ipip"),
    ("fou", "gue"),
    ("udp", "gue"),
];

pub(super) fn read_tunnel(section: &Section<'_>, out: &mut Findings<'_>) -> Tunnel {
    let default = Tunnel::default();
    let encapsulation = section
        .read(
            "encapsulation",
            out,
            word("encapsulation", &ENCAPSULATIONS, &SYNONYMS),
        )
        .or(default.encapsulation);
    let port = section.read("port", out, integer("port", 1u16, u16::MAX));
    if let Some(at) = port.good()
        && encapsulation != Encapsulation::Gue
    {
        let complaint = Complaint::new(
            Kind::Conflict,
            "`port` of a tunnel without UDP",
            "it needs `encapsulation = \"gue\"`",
        );
        out.error(at.span, complaint);
    }
    let source = section.read("source", out, |value| source(text("source")(value)?));
    Tunnel {
        encapsulation,
        port: port.or(default.port),
        source: source.good().map(|at| at.value),
    }
}

/// A range of addresses that packets may come from.
fn source(written: &str) -> Result<IpPrefix, Complaint> {
    let invalid = |message: String| {
        Complaint::new(
            Kind::InvalidValue,
            message,
            "expected an address and a prefix length, as `10.99.0.0/16`",
        )
    };
    let range = IpPrefix::parse(written).map_err(|error| {
        let remedy = match &error {
            IpPrefixError::Beyond(range) => Some(format!("write `\"{range}\"`")),
            IpPrefixError::Address | IpPrefixError::Length(_) => None,
        };
        invalid(format!(
            "{} is not a range of addresses: {error}",
            quoted(written)
        ))
        .maybe_help(remedy)
    })?;
    let address = range.address();
    if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
        return Err(invalid(format!(
            "{} are not addresses that packets come from",
            quoted(written)
        )));
    }
    Ok(range)
}
