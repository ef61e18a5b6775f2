//! The grammar of persistence: `sticky` of a pool.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::diagnostic::{Complaint, Findings, Kind, quoted};
use super::policy::is_token_byte;
use super::section::{Grammar, Section, boolean, duration, integer, text, word};
use super::source::At;
use crate::sticky::{CookieAttributes, Learning, SameSite, Sticky, StickyMode};

pub(super) static STICKY: Grammar = Grammar {
    title: "`sticky`",
    keys: &[
        "cookie",
        "mode",
        "secure",
        "http_only",
        "same_site",
        "domain",
        "path",
        "max_age",
        "timeout",
        "entries",
    ],
    synonyms: &[
        ("name", "cookie"),
        ("type", "mode"),
        ("httponly", "http_only"),
        ("samesite", "same_site"),
        ("expires", "max_age"),
        ("maxlife", "max_age"),
        ("ttl", "max_age"),
        ("expire", "timeout"),
        ("size", "entries"),
    ],
    example: r#"sticky = { cookie = "WEIRSRV" }"#,
};

/// Keys of the cookies that are ours alone.
const OF_INSERT: [&str; 6] = [
    "secure",
    "http_only",
    "same_site",
    "domain",
    "path",
    "max_age",
];
/// Keys of what is remembered.
const OF_LEARN: [&str; 2] = ["timeout", "entries"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Insert,
    Rewrite,
    Prefix,
    Learn,
}

static MODES: [(&str, Mode); 4] = [
    ("insert", Mode::Insert),
    ("rewrite", Mode::Rewrite),
    ("prefix", Mode::Prefix),
    ("learn", Mode::Learn),
];
static SAME_SITES: [(&str, SameSite); 3] = [
    ("strict", SameSite::Strict),
    ("lax", SameSite::Lax),
    ("none", SameSite::None),
];

/// The longest cookie name; browsers cut cookies at 4096 bytes in all (RFC 6265, section 6.1).
const MAX_COOKIE: usize = 128;
/// The longest `Path`: a cookie's attributes are cut at 1024 bytes by browsers.
const MAX_PATH: usize = 1_024;
/// The longest name of a host (RFC 1035, section 2.3.4).
const MAX_DOMAIN: usize = 253;
/// Browsers keep no cookie for longer than 400 days.
const MAX_AGE: Duration = Duration::from_secs(400 * 86_400);
const MIN_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_TIMEOUT: Duration = Duration::from_secs(30 * 86_400);
/// About 80 bytes each.
const ENTRIES: RangeInclusive<u32> = 100..=10_000_000;

pub(super) fn read_sticky(section: &Section<'_>, out: &mut Findings<'_>) -> Option<At<Sticky>> {
    let cookie = section.require("cookie", "\"WEIRSRV\"", out, |value| {
        let written = text("cookie")(value)?;
        if written.is_empty() || written.len() > MAX_COOKIE || !written.bytes().all(is_token_byte) {
            let message = format!("{} is not a name for a cookie", quoted(written));
            let label = format!("expected 1 to {MAX_COOKIE} letters, digits or `-_.` and the like (RFC 6265, section 4.1.1)");
            return Err(Complaint::new(Kind::InvalidValue, message, label));
        }
        Ok(written)
    });
    let mode = section.read(
        "mode",
        out,
        word(
            "mode",
            &MODES,
            &[
                ("app", "learn"),
                ("appsession", "learn"),
                ("session", "learn"),
                ("replace", "rewrite"),
                ("set", "insert"),
            ],
        ),
    );
    let attributes = read_attributes(section, out);
    let learning = read_learning(section, out);
    let asked = match mode.span() {
        // What is meant is not known.
        Some(_) if mode.good().is_none() => None,
        _ => Some(mode.or(Mode::Insert)),
    };
    if let Some(mode) = asked {
        let strangers = OF_INSERT
            .iter()
            .filter(|_| mode != Mode::Insert)
            .map(|key| {
                (
                    *key,
                    "insert",
                    "the cookie and its attributes are the backend's",
                )
            })
            .chain(OF_LEARN.iter().filter(|_| mode != Mode::Learn).map(|key| {
                (
                    *key,
                    "learn",
                    "nothing is remembered: the cookie says it all",
                )
            }));
        for (key, owner, why) in strangers {
            if let Some(span) = section.key_span(key) {
                let message = format!("`{key}` of `sticky` without `mode = \"{owner}\"`");
                out.error(span, Complaint::new(Kind::Conflict, message, why));
            }
        }
    }
    let cookie = cookie.good()?.value.to_owned();
    let mode = match asked.unwrap_or(Mode::Insert) {
        Mode::Insert => StickyMode::Insert(attributes),
        Mode::Rewrite => StickyMode::Rewrite,
        Mode::Prefix => StickyMode::Prefix,
        Mode::Learn => StickyMode::Learn(learning),
    };
    Some(At {
        value: Sticky { cookie, mode },
        span: section.span,
    })
}

fn read_attributes(section: &Section<'_>, out: &mut Findings<'_>) -> CookieAttributes {
    let default = CookieAttributes::default();
    let secure = section.read("secure", out, boolean("secure"));
    let http_only = section.read("http_only", out, boolean("http_only"));
    let same_site = section.read(
        "same_site",
        out,
        word("same_site", &SAME_SITES, &[("off", "none")]),
    );
    let domain = section.read("domain", out, |value| {
        let written = text("domain")(value)?;
        // A dot at the front means the same as none (RFC 6265, section 5.2.3).
        let name = written.strip_prefix('.').unwrap_or(written);
        let is_label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        if name.len() > MAX_DOMAIN || !name.split('.').all(is_label) {
            let message = format!("{} is not a domain", quoted(written));
            let label = "expected a name such as `example.com`";
            return Err(Complaint::new(Kind::InvalidValue, message, label));
        }
        Ok(name.to_ascii_lowercase())
    });
    let path = section.read("path", out, |value| {
        let written = text("path")(value)?;
        let is_good = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b';';
        if !written.starts_with('/') || written.len() > MAX_PATH || !written.bytes().all(is_good) {
            let message = format!("{} is not a path of a cookie", quoted(written));
            let label =
                format!("expected `/` and at most {MAX_PATH} visible characters, without `;`");
            return Err(Complaint::new(Kind::InvalidValue, message, label));
        }
        Ok(written.to_owned())
    });
    let max_age = section.read(
        "max_age",
        out,
        duration("max_age", Duration::from_secs(1), MAX_AGE),
    );
    if let Some(none) = same_site.good().filter(|at| at.value == SameSite::None)
        && secure.good().is_some_and(|at| !at.value)
    {
        let message = "`same_site = \"none\"` with `secure = false`";
        let label = "browsers keep such a cookie with `Secure` only";
        out.error(none.span, Complaint::new(Kind::Conflict, message, label));
    }
    CookieAttributes {
        // For the same reason `none` brings it along.
        secure: secure.good().map(|at| at.value).or_else(|| {
            same_site
                .good()
                .filter(|at| at.value == SameSite::None)
                .map(|_| true)
        }),
        http_only: http_only.or(default.http_only),
        same_site: same_site.or(default.same_site),
        domain: domain.good().map(|at| at.value.clone()),
        path: path.or(default.path),
        max_age: max_age.good().map(|at| at.value),
    }
}

fn read_learning(section: &Section<'_>, out: &mut Findings<'_>) -> Learning {
    let default = Learning::default();
    let timeout = section.read(
        "timeout",
        out,
        duration("timeout", MIN_TIMEOUT, MAX_TIMEOUT),
    );
    let entries = section.read(
        "entries",
        out,
        integer("entries", *ENTRIES.start(), *ENTRIES.end()),
    );
    Learning {
        timeout: timeout.or(default.timeout),
        entries: entries.or(default.entries),
    }
}
