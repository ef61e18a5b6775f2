//! The grammar of `[[listener.route]]`: conditions on a request, and what becomes of it.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use toml::de::DeValue;

use super::diagnostic::{Complaint, Findings, Kind, quoted};
use super::file::{ALL, check_name, has_items};
use super::near::{alternatives, nearest};
use super::policy::is_token_byte;
use super::section::{Grammar, Read, Section, boolean, integer, text, word, wrong_type};
use super::source::{At, Span};
use crate::action::{
    Action, FixedAnswer, Group, PathRewrite, Redirect, Rewrite, Scheme, SplitPool,
};
use crate::condition::{Condition, ValueTest};
use crate::header_edits::{HeaderEdits, HeaderField, HeaderVariable, is_reserved_field};
use crate::ip_prefix::{IpPrefix, IpPrefixError};
use crate::name::Name;
use crate::path::canonical_text;
use crate::pattern::{Pattern, PatternError};
use crate::route::{HostPattern, PathMatch, PathPrefix, Route, check_path};
use crate::template::{Template, TemplateError};

pub(super) static ROUTE: Grammar = Grammar {
    title: "[[listener.route]]",
    keys: &[
        "name",
        "host",
        "path",
        "path_prefix",
        "path_regex",
        "method",
        "header",
        "query",
        "cookie",
        "client",
        "pool",
        "split",
        "redirect",
        "answer",
        "rewrite",
        "request_headers",
        "response_headers",
    ],
    synonyms: &[
        ("prefix", "path_prefix"),
        ("regex", "path_regex"),
        ("backend", "pool"),
        ("sni", "host"),
        ("methods", "method"),
        ("headers", "header"),
        ("source", "client"),
        ("return", "answer"),
        ("pools", "split"),
        ("weighted", "split"),
    ],
    example: "[[listener.route]]",
};

const CONDITION_KEYS: &[&str] = &["name", "exact", "prefix", "regex", "present"];
const CONDITION_SYNONYMS: &[(&str, &str)] = &[
    ("value", "exact"),
    ("equals", "exact"),
    ("key", "name"),
    ("exists", "present"),
];
pub(super) static HEADER: Grammar = Grammar {
    title: "`header`",
    keys: CONDITION_KEYS,
    synonyms: CONDITION_SYNONYMS,
    example: r#"header = [{ name = "x-version", exact = "2" }]"#,
};
pub(super) static QUERY: Grammar = Grammar {
    title: "`query`",
    keys: CONDITION_KEYS,
    synonyms: CONDITION_SYNONYMS,
    example: r#"query = [{ name = "version", exact = "2" }]"#,
};
pub(super) static COOKIE: Grammar = Grammar {
    title: "`cookie`",
    keys: CONDITION_KEYS,
    synonyms: CONDITION_SYNONYMS,
    example: r#"cookie = [{ name = "canary", exact = "yes" }]"#,
};
pub(super) static SPLIT: Grammar = Grammar {
    title: "`split`",
    keys: &["pool", "weight"],
    synonyms: &[("backend", "pool"), ("name", "pool"), ("percent", "weight")],
    example: r#"split = [{ pool = "web", weight = 95 }, { pool = "web-next", weight = 5 }]"#,
};
pub(super) static REDIRECT: Grammar = Grammar {
    title: "`redirect`",
    keys: &[
        "status",
        "scheme",
        "host",
        "port",
        "path",
        "path_prefix",
        "path_regex",
        "substitution",
        "keep_query",
    ],
    synonyms: &[("code", "status"), ("prefix", "path_prefix")],
    example: r#"redirect = { status = 301, scheme = "https" }"#,
};
pub(super) static ANSWER: Grammar = Grammar {
    title: "`answer`",
    keys: &["status", "content_type", "body"],
    synonyms: &[
        ("code", "status"),
        ("text", "body"),
        ("type", "content_type"),
    ],
    example: r#"answer = { status = 503, body = "closed for today\n" }"#,
};
pub(super) static REWRITE: Grammar = Grammar {
    title: "`rewrite`",
    keys: &["path", "path_prefix", "path_regex", "substitution", "host"],
    synonyms: &[
        ("prefix", "path_prefix"),
        ("regex", "path_regex"),
        ("replacement", "substitution"),
    ],
    example: r#"rewrite = { path_prefix = "/v2" }"#,
};
const EDIT_KEYS: &[&str] = &["remove", "set", "add"];
const EDIT_SYNONYMS: &[(&str, &str)] = &[
    ("del", "remove"),
    ("delete", "remove"),
    ("append", "add"),
    ("replace", "set"),
];
pub(super) static REQUEST_HEADERS: Grammar = Grammar {
    title: "`request_headers`",
    keys: EDIT_KEYS,
    synonyms: EDIT_SYNONYMS,
    example: r#"request_headers = { set = { X-Real-IP = "{client_address}" } }"#,
};
pub(super) static RESPONSE_HEADERS: Grammar = Grammar {
    title: "`response_headers`",
    keys: EDIT_KEYS,
    synonyms: EDIT_SYNONYMS,
    example: r#"response_headers = { remove = ["Server"] }"#,
};
/// The tables in a route.
pub(super) const TABLES: [&Grammar; 9] = [
    &HEADER,
    &QUERY,
    &COOKIE,
    &SPLIT,
    &REDIRECT,
    &ANSWER,
    &REWRITE,
    &REQUEST_HEADERS,
    &RESPONSE_HEADERS,
];

static SCHEMES: [(&str, Scheme); 2] = [("http", Scheme::Http), ("https", Scheme::Https)];
static METHODS: [&str; 8] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE",
];

/// Conditions of one kind at most: each costs every request that comes so far.
const CONDITIONS_MAX: usize = 16;
/// Bytes of a value that is compared; a header line is not much longer as a rule.
const VALUE_MAX: usize = 4_096;
const ANSWER_STATUS: RangeInclusive<u32> = 200..=599;
const REDIRECT_STATUS: [i64; 5] = [301, 302, 303, 307, 308];

pub(super) struct RouteTable<'t> {
    pub(super) span: Span,
    pub(super) name: Read<&'t str>,
    pub(super) hosts: Vec<At<HostPattern>>,
    /// Whether `host` is written, right or wrong.
    pub(super) has_host: bool,
    pub(super) path: PathMatch,
    pub(super) path_span: Option<Span>,
    pub(super) methods: Vec<String>,
    pub(super) headers: Vec<Condition>,
    pub(super) query: Vec<Condition>,
    pub(super) cookies: Vec<Condition>,
    pub(super) clients: Vec<IpPrefix>,
    /// The pools that it sends to: one, or those of a split.
    pub(super) pools: Vec<Read<&'t str>>,
    action: Option<ActionTable>,
    rewrite: Rewrite,
    request_headers: HeaderEdits,
    response_headers: HeaderEdits,
    /// The first key that needs an opened request.
    pub(super) http_only: Option<(&'static str, Span)>,
}

enum ActionTable {
    Pool,
    /// The weights.
    Split(Vec<u32>),
    Redirect(At<Redirect>),
    Answer(FixedAnswer),
}

impl RouteTable<'_> {
    /// The route, if nothing is missing.
    pub(super) fn build(&self) -> Option<Route> {
        let pools = || {
            self.pools
                .iter()
                .map(|pool| Some(Name::new(pool.good()?.value)))
                .collect::<Option<Vec<_>>>()
        };
        let action = match self.action.as_ref()? {
            ActionTable::Pool => Action::Pool(pools()?.pop()?),
            ActionTable::Split(weights) => Action::Split(
                pools()?
                    .into_iter()
                    .zip(weights)
                    .map(|(pool, weight)| SplitPool {
                        pool,
                        weight: *weight,
                    })
                    .collect(),
            ),
            ActionTable::Redirect(redirect) => Action::Redirect(redirect.value.clone()),
            ActionTable::Answer(answer) => Action::Answer(answer.clone()),
        };
        Some(Route {
            name: self.name.good().map(|at| Name::new(at.value)),
            hosts: self.hosts.iter().map(|at| at.value.clone()).collect(),
            path: self.path.clone(),
            methods: self.methods.clone(),
            headers: self.headers.clone(),
            query: self.query.clone(),
            cookies: self.cookies.clone(),
            clients: self.clients.clone(),
            action,
            rewrite: self.rewrite.clone(),
            request_headers: self.request_headers.clone(),
            response_headers: self.response_headers.clone(),
        })
    }

    /// A redirect that changes nothing but the scheme, if it is one.
    pub(super) fn scheme_redirect(&self) -> Option<(Option<Scheme>, Span)> {
        match &self.action {
            Some(ActionTable::Redirect(At { value, span }))
                if value.host.is_none()
                    && value.port.is_none()
                    && value.path == PathRewrite::Keep =>
            {
                Some((value.scheme, *span))
            }
            _ => None,
        }
    }

    /// Whether each request that `other` matches is matched here as well, hosts and paths apart, and with the same
    /// rank: then the one that stands first leaves the other nothing.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let same = |a: &[Condition], b: &[Condition]| {
            a.len() == b.len() && a.iter().all(|condition| b.contains(condition))
        };
        let methods = match (self.methods.as_slice(), other.methods.as_slice()) {
            ([], []) => true,
            ([], _) | (_, []) => false,
            (ours, others) => others.iter().all(|method| ours.contains(method)),
        };
        // A shorter range has a lower rank, so only the same ranges count.
        let clients = self.clients.is_empty() == other.clients.is_empty()
            && other
                .clients
                .iter()
                .all(|range| self.clients.contains(range));
        methods
            && clients
            && same(&self.headers, &other.headers)
            && same(&self.query, &other.query)
            && same(&self.cookies, &other.cookies)
    }
}

pub(super) fn read_route<'t>(section: &Section<'t>, out: &mut Findings<'_>) -> RouteTable<'t> {
    let name = section.read("name", out, |value| check_name(text("name")(value)?));
    let hosts = read_hosts(section, out);
    let (path, path_span) = read_path(section, out);
    let methods = section.strings("method", "[\"GET\"]", out, method);
    let clients = section.strings("client", "[\"192.0.2.0/24\"]", out, client);
    for (key, empty) in [
        (
            "method",
            matches!(&methods, Read::Good(list) if list.value.is_empty()),
        ),
        (
            "client",
            matches!(&clients, Read::Good(list) if list.value.is_empty()),
        ),
    ] {
        if let Some(span) = section.key_span(key)
            && empty
            && !has_items(section, key)
        {
            let message = format!("`{key}` is empty: the route matches nothing");
            let complaint = Complaint::new(Kind::InvalidValue, message, "expected at least one");
            out.error(span, complaint.help(format!("for all, leave `{key}` out")));
        }
    }
    let headers = read_conditions(section, "header", &HEADER, out);
    let query = read_conditions(section, "query", &QUERY, out);
    let cookies = read_conditions(section, "cookie", &COOKIE, out);
    let (pools, action) = read_action(section, &path, out);
    let rewrite = section
        .section("rewrite", &REWRITE, &ALL, out)
        .map(|table| read_rewrite(&table, &path, out))
        .unwrap_or_default();
    let mut edits = |key, grammar| {
        section
            .section(key, grammar, &ALL, out)
            .map(|table| read_edits(&table, out))
            .unwrap_or_default()
    };
    let request_headers = edits("request_headers", &REQUEST_HEADERS);
    let response_headers = edits("response_headers", &RESPONSE_HEADERS);
    if let Some(ActionTable::Redirect(_) | ActionTable::Answer(_)) = action {
        for key in ["rewrite", "request_headers"] {
            if let Some(span) = section.key_span(key) {
                let message = format!("`{key}` where no backend is asked");
                let label = "a redirect or an answer of the route is the end of it";
                out.error(span, Complaint::new(Kind::Conflict, message, label));
            }
        }
    }
    let http_only = ROUTE
        .keys
        .iter()
        .filter(|key| !matches!(**key, "name" | "host" | "client" | "pool" | "split"))
        .find_map(|key| Some((*key, section.key_span(key)?)));
    let values = |list: Read<Vec<At<String>>>| {
        list.or(Vec::new())
            .into_iter()
            .map(|at| at.value)
            .collect::<Vec<_>>()
    };
    RouteTable {
        span: section.span,
        name,
        has_host: !hosts.is_absent(),
        hosts: hosts.or(Vec::new()),
        path,
        path_span,
        methods: values(methods),
        headers,
        query,
        cookies,
        clients: clients
            .or(Vec::new())
            .into_iter()
            .map(|at| at.value)
            .collect(),
        pools,
        action,
        rewrite,
        request_headers,
        response_headers,
        http_only,
    }
}

fn read_hosts<'t>(section: &Section<'t>, out: &mut Findings<'_>) -> Read<Vec<At<HostPattern>>> {
    let hosts = section.strings("host", "[\"www.example.com\"]", out, |written| {
        HostPattern::parse(written).map_err(|error| {
            let message = format!("{} is not a host: {error}", quoted(written));
            Complaint::new(
                Kind::InvalidValue,
                message,
                "expected a host, as `www.example.com` or `*.example.com`",
            )
            .maybe_help(error.remedy(written))
        })
    });
    if let Read::Good(list) = &hosts
        && list.value.is_empty()
        && !has_items(section, "host")
    {
        let complaint = Complaint::new(
            Kind::InvalidValue,
            "`host` is empty: the route matches nothing",
            "expected at least one host",
        );
        out.error(list.span, complaint.help("for all hosts, leave `host` out"));
    }
    hosts
}

/// `path`, `path_prefix` or `path_regex`, and where it stands.
fn read_path(section: &Section<'_>, out: &mut Findings<'_>) -> (PathMatch, Option<Span>) {
    let exact = section.read("path", out, |value| path("path", value));
    let prefix = section.read("path_prefix", out, |value| {
        path_prefix("path_prefix", value)
    });
    let regex = section.read("path_regex", out, |value| pattern("path_regex", value));
    at_most_one(section, &["path", "path_prefix", "path_regex"], out);
    let span = ["path", "path_prefix", "path_regex"]
        .iter()
        .find_map(|key| section.key_span(key));
    let path = match (exact, prefix, regex) {
        (Read::Good(at), ..) => PathMatch::Exact(canonical_text(at.value)),
        (_, Read::Good(at), _) => at.value.into_match(),
        (.., Read::Good(at)) => PathMatch::Regex(at.value),
        _ => PathMatch::Any,
    };
    (path, span)
}

fn path<'t>(key: &str, value: &'t DeValue<'t>) -> Result<&'t str, Complaint> {
    let written = text(key)(value)?;
    check_path(written).map_err(|error| {
        let message = format!("{} is not a path: {error}", quoted(written));
        Complaint::new(
            Kind::InvalidValue,
            message,
            "expected a path from `/`, as `/v1/users`",
        )
        .maybe_help(error.remedy(written))
    })?;
    Ok(written)
}

fn path_prefix<'t>(key: &str, value: &'t DeValue<'t>) -> Result<PathPrefix, Complaint> {
    let written = text(key)(value)?;
    PathPrefix::parse(written).map_err(|error| {
        let message = format!(
            "{} is not the beginning of a path: {error}",
            quoted(written)
        );
        Complaint::new(
            Kind::InvalidValue,
            message,
            "expected a path from `/`, as `/v1/`",
        )
        .maybe_help(error.remedy(written))
    })
}

fn pattern<'t>(key: &str, value: &'t DeValue<'t>) -> Result<Pattern, Complaint> {
    let written = text(key)(value)?;
    Pattern::parse(written).map_err(|error| {
        let message = format!("`{key}` cannot be used: {error}");
        let label = match &error {
            PatternError::Syntax { .. } => "expected a regular expression that matches the whole",
            PatternError::TooLong | PatternError::TooLarge => "expected a smaller expression",
        };
        let backslash = written.contains('\u{8}') || written.contains('\u{c}');
        Complaint::new(Kind::InvalidValue, message, label).maybe_help(
            backslash.then(|| "in single quotes, TOML leaves a backslash as it is".to_owned()),
        )
    })
}

/// Reports the second of keys that exclude each other.
fn at_most_one(section: &Section<'_>, keys: &[&'static str], out: &mut Findings<'_>) {
    let mut given: Vec<(Span, &str)> = keys
        .iter()
        .filter_map(|key| Some((section.key_span(key)?, *key)))
        .collect();
    given.sort_by_key(|(span, _)| *span);
    if let [(first_span, first), (span, second), ..] = given.as_slice() {
        let message = format!("`{first}` and `{second}` in one table");
        let label = format!("expected one of {}", alternatives(keys.iter().copied()));
        out.error(
            *span,
            Complaint::new(Kind::Conflict, message, label)
                .note(*first_span, format!("`{first}` is here")),
        );
    }
}

fn method(written: &str) -> Result<String, Complaint> {
    let complaint = |message: String| {
        Complaint::new(Kind::InvalidValue, message, "expected a method, as `GET`")
    };
    if written.is_empty() || written.len() > 32 || !written.bytes().all(is_token_byte) {
        return Err(complaint(format!("{} is not a method", quoted(written))));
    }
    let upper = written.to_ascii_uppercase();
    if upper != written && METHODS.contains(&upper.as_str()) {
        let message = format!("{} is no method that clients send", quoted(written));
        return Err(complaint(message).help(format!("did you mean `{upper}`?")));
    }
    Ok(written.to_owned())
}

fn client(written: &str) -> Result<IpPrefix, Complaint> {
    IpPrefix::parse(written).map_err(|error| {
        let message = format!("{} is no range of addresses: {error}", quoted(written));
        let complaint = Complaint::new(
            Kind::InvalidValue,
            message,
            "expected an address, with the length of a prefix if need be, as `192.0.2.0/24`",
        );
        match error {
            IpPrefixError::Beyond(range) => complaint.help(format!("write `{range}`")),
            IpPrefixError::Address | IpPrefixError::Length(_) => complaint,
        }
    })
}

fn read_conditions(
    section: &Section<'_>,
    key: &'static str,
    grammar: &'static Grammar,
    out: &mut Findings<'_>,
) -> Vec<Condition> {
    let tables = section.sections(key, grammar, &ALL, out);
    let span = section.key_span(key);
    let tables = tables.or(Vec::new());
    if let Some(span) = span
        && tables.len() > CONDITIONS_MAX
    {
        let message = format!("too many conditions in `{key}`: {}", tables.len());
        let label = format!("expected at most {CONDITIONS_MAX}");
        out.error(span, Complaint::new(Kind::OutOfRange, message, label));
    }
    let conditions = tables
        .iter()
        .filter_map(|table| read_condition(table, key, out));
    conditions.collect()
}

fn read_condition(
    table: &Section<'_>,
    kind: &'static str,
    out: &mut Findings<'_>,
) -> Option<Condition> {
    let name = table.read("name", out, |value| {
        let written = text("name")(value)?;
        condition_name(kind, written)
    });
    if name.is_absent() {
        let message = format!("a condition in `{kind}` has no `name`");
        out.error(
            table.span,
            Complaint::new(Kind::MissingKey, message, "expected `name = \"…\"`"),
        );
    }
    let value = |key| {
        move |value| {
            let written: &str = text(key)(value)?;
            if written.len() > VALUE_MAX || written.chars().any(char::is_control) {
                let message = format!(
                    "`{key}` is no value that a request has: {}",
                    quoted(written)
                );
                let label =
                    format!("expected at most {VALUE_MAX} bytes without control characters");
                return Err(Complaint::new(Kind::InvalidValue, message, label));
            }
            Ok(written)
        }
    };
    let exact = table.read("exact", out, value("exact"));
    let prefix = table.read("prefix", out, value("prefix"));
    let regex = table.read("regex", out, |value| pattern("regex", value));
    let present = table.read("present", out, boolean("present"));
    let keys = ["exact", "prefix", "regex", "present"];
    at_most_one(table, &keys, out);
    let test = match (exact, prefix, regex, present) {
        (Read::Good(at), ..) => ValueTest::Exact(at.value.to_owned()),
        (_, Read::Good(at), ..) => ValueTest::Prefix(at.value.to_owned()),
        (_, _, Read::Good(at), _) => ValueTest::Regex(at.value),
        (.., Read::Good(at)) => ValueTest::Present(at.value),
        (Read::Absent, Read::Absent, Read::Absent, Read::Absent) => {
            let message = format!("a condition in `{kind}` that asks for nothing");
            let label = format!("expected one of {}", alternatives(keys));
            let complaint = Complaint::new(Kind::MissingKey, message, label);
            out.error(
                table.span,
                complaint.help("for any value, write `present = true`"),
            );
            return None;
        }
        _ => return None,
    };
    Some(Condition {
        name: name.good()?.value.clone(),
        test,
    })
}

fn condition_name(kind: &str, written: &str) -> Result<String, Complaint> {
    let fits = match kind {
        "query" => {
            !written.is_empty()
                && written
                    .bytes()
                    .all(|byte| byte.is_ascii_graphic() && !b"&=#".contains(&byte))
        }
        _ => !written.is_empty() && written.bytes().all(is_token_byte),
    };
    if !fits || written.len() > 256 {
        let message = format!("{} is no name in `{kind}`", quoted(written));
        let label = match kind {
            "query" => "expected a name as it is sent, percent-encoded",
            _ => "expected letters, digits or `-_.` and the like (RFC 9110, section 5.6.2)",
        };
        return Err(Complaint::new(Kind::InvalidValue, message, label));
    }
    if kind != "header" {
        return Ok(written.to_owned());
    }
    let name = written.to_ascii_lowercase();
    if name == "host" {
        let message = "`host` as a condition in `header`";
        let complaint = Complaint::new(Kind::Conflict, message, "a route has `host` for this");
        return Err(complaint.help("write `host = [\"www.example.com\"]` in the route"));
    }
    Ok(name)
}

/// `pool`, `split`, `redirect` or `answer`: just one of them.
fn read_action<'t>(
    section: &Section<'t>,
    path: &PathMatch,
    out: &mut Findings<'_>,
) -> (Vec<Read<&'t str>>, Option<ActionTable>) {
    let pool = section.read("pool", out, text("pool"));
    let split = section.sections("split", &SPLIT, &ALL, out);
    let redirect = section
        .section("redirect", &REDIRECT, &ALL, out)
        .and_then(|table| read_redirect(&table, path, out));
    let answer = section
        .section("answer", &ANSWER, &ALL, out)
        .and_then(|table| read_answer(&table, out));
    let keys = ["pool", "split", "redirect", "answer"];
    at_most_one(section, &keys, out);
    let misspelt = matches!(pool, Read::Bad(_)) || matches!(split, Read::Bad(_));
    if !misspelt && keys.iter().all(|key| section.key_span(key).is_none()) {
        let complaint = Complaint::new(
            Kind::MissingKey,
            "[[listener.route]] has no `pool`",
            "expected `pool = \"web\"`",
        );
        out.error(
            section.span,
            complaint.help("or one of `split`, `redirect` and `answer`"),
        );
    }
    if let Read::Good(split) = split {
        let (pools, weights) = read_split(section, &split.value, out);
        return (pools, weights.map(ActionTable::Split));
    }
    let action = if let Some(redirect) = redirect {
        Some(ActionTable::Redirect(redirect))
    } else if let Some(answer) = answer {
        Some(ActionTable::Answer(answer))
    } else {
        (!pool.is_absent()).then_some(ActionTable::Pool)
    };
    let pools = if pool.is_absent() { vec![] } else { vec![pool] };
    (pools, action)
}

fn read_split<'t>(
    section: &Section<'t>,
    tables: &[Section<'t>],
    out: &mut Findings<'_>,
) -> (Vec<Read<&'t str>>, Option<Vec<u32>>) {
    let span = section.key_span("split").unwrap_or(section.span);
    if (tables.is_empty() && !has_items(section, "split")) || tables.len() > SplitPool::MAX_POOLS {
        let message = format!("`split` over {} pools", tables.len());
        let label = format!("expected 1 to {}", SplitPool::MAX_POOLS);
        out.error(span, Complaint::new(Kind::OutOfRange, message, label));
        return (Vec::new(), None);
    }
    let mut pools = Vec::new();
    let mut weights = Vec::new();
    let mut first = std::collections::HashMap::new();
    for table in tables {
        let pool = table.require("pool", "\"web\"", out, text("pool"));
        let weight = table.require(
            "weight",
            "10",
            out,
            integer("weight", 0, SplitPool::MAX_WEIGHT),
        );
        if let Read::Good(at) = &pool {
            if let Some(earlier) = first.get(at.value) {
                let message = format!("pool {} is in `split` twice", quoted(at.value));
                let complaint = Complaint::new(Kind::Duplicate, message, "expected each pool once");
                out.error(at.span, complaint.note(*earlier, "the first is here"));
            } else {
                first.insert(at.value, at.span);
            }
        }
        pools.push(pool);
        weights.push(weight.good().map(|at| at.value));
    }
    let weights: Option<Vec<u32>> = weights.into_iter().collect();
    if let Some(weights) = &weights
        && !weights.is_empty()
        && weights.iter().all(|weight| *weight == 0)
    {
        let complaint = Complaint::new(
            Kind::InvalidValue,
            "every pool of `split` has weight 0",
            "expected a weight above 0 for one of them",
        );
        out.error(
            span,
            complaint.help("for requests that nobody serves, write `answer = { status = 503 }`"),
        );
    }
    (pools, weights)
}

fn read_redirect(
    table: &Section<'_>,
    path: &PathMatch,
    out: &mut Findings<'_>,
) -> Option<At<Redirect>> {
    let status = table.read("status", out, |value| {
        let label = "expected 301, 302, 303, 307 or 308";
        let status = match value {
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().parse().ok(),
            other => return Err(wrong_type("`status`", "301, 302, 303, 307 or 308", other)),
        };
        status
            .filter(|status| REDIRECT_STATUS.contains(status))
            .and_then(|status| u16::try_from(status).ok())
            .ok_or_else(|| {
                let message = "`status` is not that of a redirect";
                Complaint::new(Kind::OutOfRange, message, label).help(
                    "301 and 308 are for ever, 302 and 307 for now; 307 and 308 keep the method",
                )
            })
    });
    let scheme = table.read("scheme", out, word("scheme", &SCHEMES, &[]));
    let host = table.read("host", out, |value| plain_host(text("host")(value)?));
    let port = table.read("port", out, integer("port", 1, u16::MAX));
    let rewritten = read_path_rewrite(table, path, out);
    let keep_query = table.read("keep_query", out, boolean("keep_query"));
    let is_empty = [
        "scheme",
        "host",
        "port",
        "path",
        "path_prefix",
        "path_regex",
    ]
    .iter()
    .all(|key| table.key_span(key).is_none());
    if is_empty {
        let complaint = Complaint::new(
            Kind::InvalidValue,
            "a redirect to where the request has come from",
            "expected `scheme`, `host`, `port` or a path",
        );
        out.error(
            table.span,
            complaint.help(format!("write `{}`", REDIRECT.example)),
        );
        return None;
    }
    Some(At {
        value: Redirect {
            status: status.or(Redirect::DEFAULT_STATUS),
            scheme: scheme.good().map(|at| at.value),
            host: host.good().map(|at| at.value.clone()),
            port: port.good().map(|at| at.value),
            path: rewritten,
            keep_query: keep_query.or(true),
        },
        span: table.span,
    })
}

/// A host that a request is sent to.
fn plain_host(written: &str) -> Result<String, Complaint> {
    match HostPattern::parse(written) {
        Ok(HostPattern::Exact(host)) => Ok(host),
        Ok(HostPattern::Wildcard(_)) | Err(_) => {
            let message = format!("{} is not a host", quoted(written));
            Err(Complaint::new(
                Kind::InvalidValue,
                message,
                "expected a host without port, as `www.example.com`",
            ))
        }
    }
}

fn read_answer(table: &Section<'_>, out: &mut Findings<'_>) -> Option<FixedAnswer> {
    let (min, max) = (*ANSWER_STATUS.start(), *ANSWER_STATUS.end());
    let status = table.require("status", "404", out, integer("status", min, max));
    let content_type = table.read("content_type", out, |value| {
        let written = text("content_type")(value)?;
        let fits = written.contains('/')
            && written.len() <= 256
            && written.bytes().all(|byte| (0x20..0x7f).contains(&byte));
        if fits {
            return Ok(written);
        }
        let message = format!("`content_type` is none: {}", quoted(written));
        let label = "expected a media type, as `text/html; charset=utf-8`";
        Err(Complaint::new(Kind::InvalidValue, message, label))
    });
    let body = table.read("body", out, |value| {
        let written = text("body")(value)?;
        if written.len() > FixedAnswer::MAX_BODY {
            let message = format!("`body` is too long: {} bytes", written.len());
            let label = format!("expected at most {} bytes", FixedAnswer::MAX_BODY);
            let complaint = Complaint::new(Kind::OutOfRange, message, label);
            return Err(complaint.help("what is larger belongs on a server"));
        }
        Ok(written)
    });
    let status = u16::try_from(status.good()?.value).ok()?;
    if let Some(span) = table.key_span("body").or(table.key_span("content_type"))
        && FixedAnswer::is_bodiless(status)
    {
        let message = format!("an answer with content and status {status}");
        let label = "this status has no content (RFC 9110, section 6.4.1)";
        out.error(span, Complaint::new(Kind::Conflict, message, label));
    }
    Some(FixedAnswer {
        status,
        content_type: content_type.good().map(|at| at.value.to_owned()),
        body: body.or("").to_owned(),
    })
}

fn read_rewrite(table: &Section<'_>, path: &PathMatch, out: &mut Findings<'_>) -> Rewrite {
    let host = table.read("host", out, |value| authority(text("host")(value)?));
    Rewrite {
        path: read_path_rewrite(table, path, out),
        host: host.good().map(|at| at.value.clone()),
    }
}

/// A host with a port if need be.
fn authority(written: &str) -> Result<String, Complaint> {
    match written.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
            Ok(format!("{}:{port}", plain_host(host)?))
        }
        _ => plain_host(written),
    }
}

/// `path`, `path_prefix`, or `path_regex` with `substitution`, of a rewrite or a redirect.
fn read_path_rewrite(
    table: &Section<'_>,
    route: &PathMatch,
    out: &mut Findings<'_>,
) -> PathRewrite {
    let full = table.read("path", out, |value| path("path", value));
    let prefix = table.read("path_prefix", out, |value| {
        let prefix = path_prefix("path_prefix", value)?;
        if matches!(route, PathMatch::Exact(_) | PathMatch::Regex(_)) {
            let message = "`path_prefix` takes the place of the route's `path_prefix`";
            let label = "the route has none";
            let complaint = Complaint::new(Kind::Conflict, message, label);
            return Err(complaint.help("write `path`, for the whole of it"));
        }
        Ok(prefix)
    });
    let regex = table.read("path_regex", out, |value| pattern("path_regex", value));
    at_most_one(table, &["path", "path_prefix", "path_regex"], out);
    let substitution = read_substitution(table, &regex, out);
    match (full, prefix, regex, substitution) {
        (Read::Good(at), ..) => PathRewrite::Full(at.value.to_owned()),
        (_, Read::Good(at), ..) => PathRewrite::Prefix(match at.value.into_match() {
            PathMatch::Prefix(prefix) => prefix,
            _ => String::new(),
        }),
        (_, _, Read::Good(at), Some(substitution)) => PathRewrite::Regex(at.value, substitution),
        _ => PathRewrite::Keep,
    }
}

fn read_substitution(
    table: &Section<'_>,
    regex: &Read<Pattern>,
    out: &mut Findings<'_>,
) -> Option<Template<Group>> {
    let groups = regex.good().and_then(|at| at.value.with_groups().ok());
    let substitution = table.read("substitution", out, |value| {
        let written = text("substitution")(value)?;
        if written.len() > PathPrefix::MAX_LEN
            || !written.starts_with(['/', '{'])
            || !written
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte))
        {
            let message = format!("`substitution` gives no path: {}", quoted(written));
            let label = "expected a path from `/` with groups, as `/users/{1}`";
            return Err(Complaint::new(Kind::InvalidValue, message, label));
        }
        let known = |name: &str| {
            let group = match name.parse() {
                Ok(number) => Group::Number(number),
                Err(_) => Group::Name(name.to_owned()),
            };
            let Some(regex) = &groups else {
                return Some(group);
            };
            let id = regex_automata::PatternID::ZERO;
            let info = regex.group_info();
            match &group {
                Group::Number(number) => *number < info.group_len(id),
                Group::Name(name) => info.to_index(id, name).is_some(),
            }
            .then_some(group)
        };
        Template::parse(written, known).map_err(|error| {
            let message = match error {
                TemplateError::Unknown(group) => {
                    format!("`path_regex` has no group {}", quoted(&group))
                }
                other => format!("`substitution` has {other}"),
            };
            let label = "expected groups as `{1}` or `{name}`, a brace as `{{` or `}}`";
            Complaint::new(Kind::InvalidValue, message, label)
        })
    });
    match (regex.span(), substitution.span()) {
        (Some(span), None) => {
            let complaint = Complaint::new(
                Kind::MissingKey,
                "`path_regex` without `substitution`",
                "expected `substitution = \"/users/{1}\"`",
            );
            out.error(span, complaint);
        }
        (None, Some(span)) => {
            let complaint = Complaint::new(
                Kind::MissingKey,
                "`substitution` without `path_regex`",
                "expected `path_regex = '/u/([0-9]+)'`",
            );
            out.error(span, complaint);
        }
        _ => {}
    }
    substitution.good().map(|at| at.value.clone())
}

fn read_edits(table: &Section<'_>, out: &mut Findings<'_>) -> HeaderEdits {
    let remove = table.strings("remove", "[\"Server\"]", out, |written| {
        field_name(written).map(|()| written.to_ascii_lowercase())
    });
    let remove: Vec<String> = remove
        .or(Vec::new())
        .into_iter()
        .map(|at| at.value)
        .collect();
    let set = read_fields(table, "set", out);
    let add = read_fields(table, "add", out);
    HeaderEdits { remove, set, add }
}

fn read_fields(table: &Section<'_>, key: &'static str, out: &mut Findings<'_>) -> Vec<HeaderField> {
    let entries = table.entries(key, &format!("{{ X-Via = \"{}\" }}", "{listener}"), out);
    let span = table.key_span(key).unwrap_or(table.span);
    if entries.len() > HeaderEdits::MAX_FIELDS {
        let message = format!("`{key}` has {} fields", entries.len());
        let label = format!("expected at most {}", HeaderEdits::MAX_FIELDS);
        out.error(span, Complaint::new(Kind::OutOfRange, message, label));
    }
    let mut fields = Vec::new();
    let mut seen = HashSet::new();
    for (name, value) in entries {
        if let Err(complaint) = field_name(name.value) {
            out.error(name.span, complaint);
            continue;
        }
        if !seen.insert(name.value.to_ascii_lowercase()) {
            let message = format!("`{}` is there twice", name.value);
            let complaint = Complaint::new(Kind::Duplicate, message, "case is no difference here");
            out.error(name.span, complaint);
            continue;
        }
        match field_value(name.value, value.value) {
            Ok(value) => fields.push(HeaderField {
                name: name.value.to_owned(),
                value,
            }),
            Err(complaint) => out.error(value.span, complaint),
        }
    }
    fields
}

/// A field that a route may change.
fn field_name(written: &str) -> Result<(), Complaint> {
    if written.is_empty() || written.len() > 256 || !written.bytes().all(is_token_byte) {
        let message = format!("{} is not the name of a field", quoted(written));
        let label = "expected letters, digits or `-_.` and the like (RFC 9110, section 5.6.2)";
        return Err(Complaint::new(Kind::InvalidValue, message, label));
    }
    if is_reserved_field(written) {
        let message = format!("{} is not a route's to change", quoted(written));
        let label = "it says how messages are carried from hop to hop";
        let complaint = Complaint::new(Kind::Conflict, message, label);
        let is_host = written.eq_ignore_ascii_case("host");
        return Err(complaint.maybe_help(
            is_host.then(|| "write `rewrite = { host = \"www.example.com\" }`".to_owned()),
        ));
    }
    Ok(())
}

fn field_value(name: &str, value: &DeValue<'_>) -> Result<Template<HeaderVariable>, Complaint> {
    let DeValue::String(written) = value else {
        return Err(wrong_type(&format!("`{name}`"), "a string", value));
    };
    let fits = written.len() <= HeaderEdits::MAX_VALUE
        && written.chars().all(|c| !c.is_control() || c == '\t');
    if !fits {
        let message = format!("`{name}` has no value of a field: {}", quoted(written));
        let label = format!(
            "expected at most {} bytes without control characters",
            HeaderEdits::MAX_VALUE
        );
        return Err(Complaint::new(Kind::InvalidValue, message, label));
    }
    Template::parse(written, HeaderVariable::named).map_err(|error| {
        let message = format!("{} is not a value: {error}", quoted(written));
        let names = HeaderVariable::ALL.iter().map(|variable| variable.as_str());
        let near = match &error {
            TemplateError::Unknown(name) => nearest(name, names.clone().collect::<Vec<_>>()),
            _ => None,
        };
        let label = match &error {
            TemplateError::Unknown(_) => format!("expected {}", alternatives(names)),
            _ => "expected a variable as `{client_address}`, a brace as `{{` or `}}`".to_owned(),
        };
        Complaint::new(Kind::InvalidValue, message, label)
            .maybe_help(near.map(|near| format!("did you mean `{{{near}}}`?")))
    })
}
