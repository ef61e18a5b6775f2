//! `proxy_protocol` of listeners and pools.

use super::diagnostic::{Complaint, Findings, Kind, quoted};
use super::file::has_items;
use super::section::{Grammar, Read, Section};
use crate::ip_prefix::{IpPrefix, IpPrefixError};
use crate::proxy_protocol::{ProxyProtocolIn, ProxyProtocolVersion};

pub(super) static PROXY_PROTOCOL: Grammar = Grammar {
    title: "`proxy_protocol`",
    keys: &["from"],
    synonyms: &[
        ("trusted", "from"),
        ("trusted_sources", "from"),
        ("sources", "from"),
    ],
    example: r#"proxy_protocol = { from = ["10.0.0.0/8"] }"#,
};

pub(super) static PROXY_PROTOCOL_VERSIONS: [(&str, ProxyProtocolVersion); 2] = [
    ("v1", ProxyProtocolVersion::V1),
    ("v2", ProxyProtocolVersion::V2),
];

pub(super) fn read_proxy_protocol(
    section: &Section<'_>,
    out: &mut Findings<'_>,
) -> ProxyProtocolIn {
    let from = section.strings("from", "[\"10.0.0.0/8\"]", out, prefix);
    match &from {
        Read::Absent => {
            let complaint = Complaint::new(
                Kind::MissingKey,
                "`proxy_protocol` has no `from`",
                "expected `from = [\"10.0.0.0/8\"]`",
            );
            out.error(
                section.span,
                complaint.help("name the proxies in front; whoever else connects is refused"),
            );
        }
        Read::Good(list) if list.value.is_empty() && !has_items(section, "from") => out.error(
            list.span,
            Complaint::new(
                Kind::InvalidValue,
                "`from` is empty: every connection would be refused",
                "expected at least one range of addresses",
            ),
        ),
        _ => {}
    }
    ProxyProtocolIn {
        from: from.or(Vec::new()).iter().map(|at| at.value).collect(),
    }
}

/// A range of addresses.
fn prefix(written: &str) -> Result<IpPrefix, Complaint> {
    IpPrefix::parse(written).map_err(|error| {
        let message = format!("{} is not a range of addresses: {error}", quoted(written));
        let remedy = match &error {
            IpPrefixError::Beyond(range) => Some(format!("write `\"{range}\"`")),
            IpPrefixError::Address | IpPrefixError::Length(_) => None,
        };
        Complaint::new(
            Kind::InvalidValue,
            message,
            "expected an address and a prefix length, as `10.0.0.0/8`",
        )
        .maybe_help(remedy)
    })
}
