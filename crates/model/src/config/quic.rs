//! `quic` in a pool, and `quic_server_id` in its backends.

use std::collections::HashMap;

use super::diagnostic::{Complaint, Findings, Kind, quoted};
use super::file::{ALL, BackendTable, read_path};
use super::section::{Grammar, Read, Section, integer, text};
use super::source::At;
use crate::pool::QuicIds;

pub(super) static QUIC: Grammar = Grammar {
    title: "`quic`",
    keys: &["config_id", "nonce_length", "key_file"],
    synonyms: &[
        ("id", "config_id"),
        ("rotation", "config_id"),
        ("nonce", "nonce_length"),
        ("key", "key_file"),
    ],
    example: "quic = [{ nonce_length = 8 }]",
};

/// Of the eight that three bits name, one is for ids that say nothing (the draft, section 3.2).
const MAX_CONFIG_ID: u8 = 6;
/// The draft, section 5.3.
const MIN_NONCE: u8 = 4;
/// A connection id has 20 bytes at most, of which the first says how to read the others, and a server's id at least one.
const MAX_NONCE: u8 = 18;
/// Bytes of a server's id, with the shortest nonce.
const MAX_SERVER_ID: usize = 15;
/// Bytes of both together.
const MAX_BOTH: usize = 19;

pub(super) fn read_quic(pool: &Section<'_>, out: &mut Findings<'_>) -> Vec<At<QuicIds>> {
    let Read::Good(list) = pool.sections("quic", &QUIC, &ALL, out) else {
        return Vec::new();
    };
    let mut read: Vec<At<QuicIds>> = Vec::new();
    for section in &list.value {
        let config_id = section.read("config_id", out, integer("config_id", 0, MAX_CONFIG_ID));
        let nonce = integer("nonce_length", MIN_NONCE, MAX_NONCE);
        let nonce_length = section.require("nonce_length", "8", out, nonce);
        let key_file = read_path(section, "key_file", out);
        let Read::Good(nonce_length) = nonce_length else {
            continue;
        };
        let ids = QuicIds {
            config_id: config_id.or(0),
            nonce_length: nonce_length.value,
            key_file: key_file.good().map(|at| at.value.clone()),
        };
        if let Some(first) = read
            .iter()
            .find(|other| other.value.config_id == ids.config_id)
        {
            let message = format!("`config_id = {}` is there twice", ids.config_id);
            let complaint = Complaint::new(Kind::Conflict, message, "expected another number");
            out.error(
                section.span,
                complaint.note(first.span, "the first is here"),
            );
            continue;
        }
        read.push(At {
            value: ids,
            span: section.span,
        });
    }
    read
}

pub(super) fn read_server_id(backend: &Section<'_>, out: &mut Findings<'_>) -> Read<Vec<u8>> {
    backend.read("quic_server_id", out, |value| {
        let written = text("quic_server_id")(value)?;
        server_id(written).ok_or_else(|| {
            let message = format!("{} is not the id of a server", quoted(written));
            let label = format!(
                "expected 1 to {MAX_SERVER_ID} bytes as hexadecimal digits, such as `\"0a1b\"`"
            );
            Complaint::new(Kind::InvalidValue, message, label)
        })
    })
}

fn server_id(written: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = written
        .chars()
        .map(|digit| digit.to_digit(16).map(|digit| digit as u8))
        .collect();
    let digits = digits?;
    let fits = digits.len().is_multiple_of(2) && (1..=MAX_SERVER_ID).contains(&(digits.len() / 2));
    fits.then(|| {
        digits
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect()
    })
}

/// Reports servers' ids that do not fit each other, or how the pool says that they are written.
pub(super) fn check_quic(
    subject: &str,
    quic: &[At<QuicIds>],
    backends: &[BackendTable],
    out: &mut Findings<'_>,
) {
    let mut first: HashMap<&[u8], &At<Vec<u8>>> = HashMap::new();
    let mut length: Option<&At<Vec<u8>>> = None;
    for backend in backends {
        let Read::Good(id) = &backend.quic_server_id else {
            if let (Some(ids), Read::Absent) = (quic.first(), &backend.quic_server_id) {
                let message = format!(
                    "backend {} of {subject}, which has `quic`, has no `quic_server_id`",
                    backend.address.value
                );
                let label = "expected `quic_server_id = \"0a1b\"`: what the server puts into connection ids";
                let complaint = Complaint::new(Kind::MissingKey, message, label);
                out.error(
                    backend.address.span,
                    complaint.note(ids.span, "`quic` is here"),
                );
            }
            continue;
        };
        if quic.is_empty() {
            let message =
                format!("`quic_server_id` in {subject}, which does not say how ids are read");
            let label = "expected `quic = [{ nonce_length = 8 }]` in the pool";
            out.error(id.span, Complaint::new(Kind::Conflict, message, label));
            return;
        }
        if let Some(other) = first.insert(&id.value, id) {
            let message = format!("two backends of {subject} have one `quic_server_id`");
            let complaint = Complaint::new(Kind::Conflict, message, "expected another one");
            out.error(id.span, complaint.note(other.span, "the first is here"));
        }
        let other = *length.get_or_insert(id);
        if other.value.len() != id.value.len() {
            let message = format!("servers' ids of {subject} are of two lengths");
            let label = format!("expected {} bytes", other.value.len());
            let complaint = Complaint::new(Kind::Conflict, message, label);
            out.error(id.span, complaint.note(other.span, "as here"));
        }
    }
    let Some(length) = length else {
        return;
    };
    for ids in quic {
        let both = length.value.len() + usize::from(ids.value.nonce_length);
        if both > MAX_BOTH {
            let message = format!(
                "a server's id of {} bytes and a nonce of {} do not fit a connection id",
                length.value.len(),
                ids.value.nonce_length
            );
            let label = format!("expected {MAX_BOTH} bytes together at most");
            let complaint = Complaint::new(Kind::Conflict, message, label);
            out.error(ids.span, complaint.note(length.span, "the id is here"));
        }
    }
}
