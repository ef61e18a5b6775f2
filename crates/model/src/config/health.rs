//! The question that a health check asks: the keys of `health` that belong to one type of check or another.

use toml::de::DeValue;

use super::diagnostic::{Complaint, Findings, Kind, quoted};
use super::policy::is_token_byte;
use super::section::{Read, Section, text, word, wrong_type};
use crate::health::{HealthProbe, HttpProbe};
use crate::route::HostPattern;

/// Bytes that a check sends or expects; what is longer is no health check.
const MAX_TEXT: usize = 4_096;
/// Header fields of a check's request.
const MAX_HEADERS: usize = 32;
/// Bytes of one of their values.
const MAX_HEADER_VALUE: usize = 1_024;
/// The longest name of a gRPC service; protobuf's own limits are not much longer.
const MAX_SERVICE: usize = 255;

#[derive(Clone, Copy, PartialEq, Eq)]
enum ProbeType {
    Tcp,
    Http,
    Grpc,
}

static PROBE_TYPES: [(&str, ProbeType); 3] = [
    ("tcp", ProbeType::Tcp),
    ("http", ProbeType::Http),
    ("grpc", ProbeType::Grpc),
];

/// Keys that belong to some types only, and to which.
static OWNED: [(&str, &[ProbeType]); 9] = [
    ("method", &[ProbeType::Http]),
    ("path", &[ProbeType::Http]),
    ("host", &[ProbeType::Http, ProbeType::Grpc]),
    ("headers", &[ProbeType::Http]),
    ("expect_status", &[ProbeType::Http]),
    ("expect_body", &[ProbeType::Http]),
    ("send", &[ProbeType::Tcp]),
    ("expect", &[ProbeType::Tcp]),
    ("service", &[ProbeType::Grpc]),
];

/// Methods that a check may have: those that change nothing, and `POST` for endpoints that take no other.
static METHODS: [(&str, &str); 4] = [
    ("GET", "GET"),
    ("HEAD", "HEAD"),
    ("OPTIONS", "OPTIONS"),
    ("POST", "POST"),
];

/// Reads what is asked.
pub(super) fn read_probe(section: &Section<'_>, out: &mut Findings<'_>) -> HealthProbe {
    let kind = section.require(
        "type",
        "\"tcp\"`, `\"http\"` or `\"grpc\"",
        out,
        word("type", &PROBE_TYPES, &[("connect", "tcp")]),
    );
    if let Some(kind) = kind.good().map(|at| at.value) {
        refuse_foreign_keys(section, kind, out);
    }
    let path = section.read("path", out, |value| check_path(text("path")(value)?));
    let host = section.read("host", out, |value| check_host(text("host")(value)?));
    let status = section.read("expect_status", out, status_range);
    let method = section.read("method", out, word("method", &METHODS, &[]));
    let headers = section.read("headers", out, headers);
    let body = section.read("expect_body", out, |value| bounded("expect_body", value));
    let send = section.read("send", out, |value| bounded("send", value));
    let expect = section.read("expect", out, |value| bounded("expect", value));
    let service = section.read("service", out, service);
    if let (Some(body), Some("HEAD")) = (body.good(), method.good().map(|at| at.value)) {
        let complaint = Complaint::new(
            Kind::Conflict,
            "`expect_body` with `method = \"HEAD\"`",
            "answers to HEAD have no body",
        );
        out.error(body.span, complaint);
    }
    if let (Some(ProbeType::Tcp), Some(send), Read::Absent) =
        (kind.good().map(|at| at.value), send.good(), &expect)
    {
        let complaint = Complaint::new(
            Kind::MissingKey,
            "`send` without `expect`",
            "expected what the answer contains, as `expect = \"+PONG\"`",
        );
        out.error(send.span, complaint);
    }
    let host = host.good().map(|at| at.value.to_owned());
    match kind.or(ProbeType::Tcp) {
        ProbeType::Tcp => match expect.good() {
            None => HealthProbe::Tcp,
            Some(expect) => HealthProbe::Exchange {
                send: send.or("").as_bytes().to_vec(),
                expect: expect.value.as_bytes().to_vec(),
            },
        },
        ProbeType::Http => {
            let (status_min, status_max) = status.or(HealthProbe::DEFAULT_STATUS);
            HealthProbe::Http(HttpProbe {
                method: method.or("GET").to_owned(),
                path: path.or("/").to_owned(),
                host,
                headers: headers.or(Vec::new()),
                status_min,
                status_max,
                body: body.good().map(|at| at.value.to_owned()),
            })
        }
        ProbeType::Grpc => HealthProbe::Grpc {
            service: service.or("").to_owned(),
            host,
        },
    }
}

fn refuse_foreign_keys(section: &Section<'_>, kind: ProbeType, out: &mut Findings<'_>) {
    let word = |kind: ProbeType| {
        let found = PROBE_TYPES.iter().find(|(_, other)| *other == kind);
        found.map_or("", |(word, _)| word)
    };
    for (key, owners) in OWNED {
        if let Some(span) = section.key_span(key)
            && !owners.contains(&kind)
        {
            let message = format!("`{key}` in a check of type `{}`", word(kind));
            let label = match kind {
                ProbeType::Tcp => "a TCP check opens a connection, and may `send` and `expect`",
                ProbeType::Http => "an HTTP check sends a request",
                ProbeType::Grpc => "a gRPC check asks the health service",
            };
            let owner = owners.first().copied().map_or("", word);
            out.error(
                span,
                Complaint::new(Kind::Conflict, message, label)
                    .help(format!("write `type = \"{owner}\"`, or leave it out")),
            );
        }
    }
}

fn bounded<'t>(key: &str, value: &'t DeValue<'t>) -> Result<&'t str, Complaint> {
    let written = text(key)(value)?;
    if written.is_empty() || written.len() > MAX_TEXT {
        let what = if written.is_empty() {
            "is empty"
        } else {
            "is too long"
        };
        let label = format!("expected 1 to {MAX_TEXT} bytes");
        return Err(Complaint::new(
            Kind::InvalidValue,
            format!("`{key}` {what}"),
            label,
        ));
    }
    Ok(written)
}

fn service<'t>(value: &'t DeValue<'t>) -> Result<&'t str, Complaint> {
    let written = text("service")(value)?;
    let fits = written.len() <= MAX_SERVICE
        && written
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte));
    if !fits {
        let message = format!("{} is not the name of a gRPC service", quoted(written));
        return Err(Complaint::new(
            Kind::InvalidValue,
            message,
            "expected a name as `shop.v1.Orders`",
        ));
    }
    Ok(written)
}

/// `{ name = "value", … }`.
fn headers(value: &DeValue<'_>) -> Result<Vec<(String, String)>, Complaint> {
    const LABEL: &str = "expected fields as `{ x-check = \"1\" }`";
    let DeValue::Table(table) = value else {
        return Err(
            wrong_type("`headers`", "a table", value).help("write `headers = { x-check = \"1\" }`")
        );
    };
    if table.len() > MAX_HEADERS {
        let message = format!("`headers` has {} fields", table.len());
        let label = format!("expected at most {MAX_HEADERS}");
        return Err(Complaint::new(Kind::OutOfRange, message, label));
    }
    let mut headers = Vec::with_capacity(table.len());
    for (name, value) in table.iter() {
        let name = name.get_ref().as_ref();
        if name.is_empty() || name.len() > MAX_SERVICE || !name.bytes().all(is_token_byte) {
            let message = format!("{} is not a name for a header", quoted(name));
            return Err(Complaint::new(Kind::InvalidValue, message, LABEL));
        }
        // What frames the request, or says where it goes, is the check's own.
        const OWN: [&str; 4] = ["host", "connection", "content-length", "transfer-encoding"];
        if OWN.iter().any(|own| name.eq_ignore_ascii_case(own)) {
            let message = format!("{} in `headers`", quoted(name));
            let complaint = Complaint::new(Kind::Conflict, message, "the check sends its own");
            let is_host = name.eq_ignore_ascii_case("host");
            return Err(complaint
                .maybe_help(is_host.then(|| "write `host = \"…\"` in `health`".to_owned())));
        }
        let Some(text) = value.get_ref().as_str() else {
            return Err(wrong_type(
                &format!("the value of {}", quoted(name)),
                "a string",
                value.get_ref(),
            ));
        };
        let is_clean = text
            .bytes()
            .all(|byte| byte == b'\t' || (0x20..0x7f).contains(&byte));
        if !is_clean || text.len() > MAX_HEADER_VALUE || text.trim() != text {
            let message = format!("{} cannot be a header's value", quoted(text));
            let label = format!("expected at most {MAX_HEADER_VALUE} printable ASCII characters");
            return Err(Complaint::new(Kind::InvalidValue, message, label));
        }
        headers.push((name.to_owned(), text.to_owned()));
    }
    Ok(headers)
}

/// The target of a check's request: RFC 9112, section 3.2.1.
fn check_path(written: &str) -> Result<&str, Complaint> {
    let complaint = |what: &str| {
        let message = format!("`path` {what}: {}", quoted(written));
        Complaint::new(
            Kind::InvalidValue,
            message,
            "expected a path from `/`, as `/healthz`",
        )
    };
    if !written.starts_with('/') {
        let full = written
            .split_once("://")
            .and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..]));
        let path = full.map_or_else(|| format!("/{written}"), str::to_owned);
        return Err(complaint("does not begin with `/`").help(format!("write {}", quoted(&path))));
    }
    if written.len() > 2_000 {
        return Err(complaint("is too long"));
    }
    if !written.bytes().all(|byte| byte.is_ascii_graphic()) || written.contains('#') {
        return Err(complaint("has characters that a request cannot carry")
            .help("percent-encode them: a space is `%20`"));
    }
    Ok(written)
}

/// The `Host` of a check: a host, with a port if need be.
fn check_host(written: &str) -> Result<&str, Complaint> {
    let host = match written.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => host,
        _ => written,
    };
    match HostPattern::parse(host) {
        Ok(HostPattern::Exact(_)) => Ok(written),
        Ok(HostPattern::Wildcard(_)) | Err(_) => {
            let message = format!("{} is not a host", quoted(written));
            Err(Complaint::new(
                Kind::InvalidValue,
                message,
                "expected a host, as `www.example.com`",
            ))
        }
    }
}

/// `200`, `"200"` or `"200-399"`.
fn status_range(value: &DeValue<'_>) -> Result<(u16, u16), Complaint> {
    const LABEL: &str = "expected a status from 100 to 599, or a range as \"200-399\"";
    let status = |number: &str| {
        number
            .parse()
            .ok()
            .filter(|status| (100..=599u16).contains(status))
    };
    let (written, range) = match value {
        DeValue::Integer(number) if number.radix() == 10 => (
            number.to_string(),
            (status(number.as_str()), status(number.as_str())),
        ),
        DeValue::String(text) => {
            let (min, max) = text.split_once('-').unwrap_or((text, text));
            (text.to_string(), (status(min.trim()), status(max.trim())))
        }
        other => {
            return Err(wrong_type(
                "`expect_status`",
                "an integer or a range as \"200-399\"",
                other,
            ));
        }
    };
    match range {
        (Some(min), Some(max)) if min <= max => Ok((min, max)),
        (Some(min), Some(max)) => {
            let message = format!("`expect_status` runs backwards: {}", quoted(&written));
            Err(Complaint::new(Kind::InvalidValue, message, LABEL)
                .help(format!("write `\"{max}-{min}\"`")))
        }
        _ => {
            let message = format!("`expect_status` is not a status: {}", quoted(&written));
            Err(Complaint::new(Kind::OutOfRange, message, LABEL))
        }
    }
}
