//! The grammar of `[access_log]`, for the node and for a listener.

use toml::de::DeValue;

use super::diagnostic::{Complaint, Findings, Kind, quoted};
use super::file::{ALL, read_path};
use super::near::{alternatives, nearest};
use super::policy::is_token_byte;
use super::section::{Grammar, Read, Section, text};
use crate::access_log::{AccessLog, LogFormat, LogOutput, LogVariable};
use crate::template::{Template, TemplateError};

pub(super) static ACCESS_LOG: Grammar = Grammar {
    title: "[access_log]",
    keys: &["file", "template", "request_headers"],
    synonyms: &[
        ("path", "file"),
        ("output", "file"),
        ("format", "template"),
        ("headers", "request_headers"),
    ],
    example: r#"access_log = { file = "access.log" }"#,
};

/// What a listener says of its access log.
pub(super) enum ListenerLog {
    /// Nothing: that of the node counts.
    Inherited,
    /// `access_log = false`.
    Off,
    Own(AccessLog),
}

/// Reads the node's access log.
pub(super) fn read_access_log(section: &Section<'_>, out: &mut Findings<'_>) -> AccessLog {
    let file = read_path(section, "file", out);
    let template = section.read("template", out, |value| {
        let written = text("template")(value)?;
        template(written)
    });
    let request_headers = section.strings("request_headers", "[\"user-agent\"]", out, |written| {
        if written.is_empty() || written.len() > 128 || !written.bytes().all(is_token_byte) {
            let message = format!("{} is not the name of a field", quoted(written));
            let label = "expected letters, digits or `-_.` and the like (RFC 9110, section 5.6.2)";
            return Err(Complaint::new(Kind::InvalidValue, message, label));
        }
        Ok(written.to_ascii_lowercase())
    });
    if let Read::Good(list) = &request_headers
        && list.value.len() > AccessLog::MAX_HEADERS
    {
        let message = format!("`request_headers` has {} names", list.value.len());
        let label = format!("expected at most {}", AccessLog::MAX_HEADERS);
        out.error(list.span, Complaint::new(Kind::OutOfRange, message, label));
    }
    if let (Some(span), Some(_)) = (request_headers.span(), template.span()) {
        let complaint = Complaint::new(
            Kind::Conflict,
            "`request_headers` with a template",
            "they are for lines in JSON",
        );
        out.error(
            span,
            complaint.help("write `{request_header:user-agent}` into the template"),
        );
    }
    AccessLog {
        output: file
            .good()
            .map_or(LogOutput::Stdout, |at| LogOutput::File(at.value.clone())),
        format: template
            .good()
            .map_or(LogFormat::Json, |at| LogFormat::Template(at.value.clone())),
        request_headers: request_headers
            .or(Vec::new())
            .into_iter()
            .map(|at| at.value)
            .collect(),
    }
}

/// Reads `access_log` of a listener: `false`, or a table.
pub(super) fn read_listener_log(section: &Section<'_>, out: &mut Findings<'_>) -> ListenerLog {
    match section.peek("access_log") {
        None => ListenerLog::Inherited,
        Some(DeValue::Boolean(false)) => ListenerLog::Off,
        Some(DeValue::Boolean(true)) => {
            let span = section.key_span("access_log").unwrap_or(section.span);
            let complaint = Complaint::new(
                Kind::InvalidValue,
                "`access_log = true` says nothing",
                "expected `false` or a table",
            );
            out.error(
                span,
                complaint.help("where there is an [access_log], every listener has it"),
            );
            ListenerLog::Inherited
        }
        Some(_) => section
            .section("access_log", &ACCESS_LOG, &ALL, out)
            .map_or(ListenerLog::Inherited, |table| {
                ListenerLog::Own(read_access_log(&table, out))
            }),
    }
}

fn template(written: &str) -> Result<Template<LogVariable>, Complaint> {
    let invalid =
        |message: String, label: String| Complaint::new(Kind::InvalidValue, message, label);
    if written.is_empty()
        || written.len() > AccessLog::MAX_TEMPLATE
        || written.chars().any(|c| c.is_control() && c != '\t')
    {
        let message = format!("`template` is none: {}", quoted(written));
        let label = format!(
            "expected 1 to {} bytes without control characters",
            AccessLog::MAX_TEMPLATE
        );
        return Err(invalid(message, label).maybe_help(
            written
                .ends_with('\n')
                .then(|| "every line ends by itself".to_owned()),
        ));
    }
    Template::parse(written, LogVariable::named).map_err(|error| {
        let message = format!("`template` cannot be used: {error}");
        let names = LogVariable::ALL.iter().map(LogVariable::as_str);
        match &error {
            TemplateError::Unknown(name) => {
                let names: Vec<&str> = names.chain(["request_header:NAME"]).collect();
                let near = nearest(name, names.clone());
                invalid(message, format!("expected {}", alternatives(names)))
                    .maybe_help(near.map(|near| format!("did you mean `{{{near}}}`?")))
            }
            _ => invalid(
                message,
                "expected variables as `{status}`, a brace as `{{` or `}}`".to_owned(),
            ),
        }
    })
}
