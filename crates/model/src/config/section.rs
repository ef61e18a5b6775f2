//! Tables of the config file: keys that are known, and values of the right type, each with its place.
//!
//! A serde type stops at the first mistake. Reading the parsed tree key by key reports every one, and a value that
//! cannot be read does not hide the mistakes beside it.

use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::diagnostic::{Complaint, Findings, Kind, quoted};
use super::duration::{format_duration, parse_duration};
use super::near::{alternatives, nearest};
use super::source::{At, Span};

/// What a table may contain.
pub(super) struct Grammar {
    /// The table in messages.
    pub(super) title: &'static str,
    /// Every key.
    pub(super) keys: &'static [&'static str],
    /// Words that other load balancers use for one of the keys.
    pub(super) synonyms: &'static [(&'static str, &'static str)],
    /// How the table is written, for who wrote something else in its place.
    pub(super) example: &'static str,
}

/// A table of the file.
pub(super) struct Section<'t> {
    table: &'t DeTable<'t>,
    /// The table's header, or the whole of an inline table.
    pub(super) span: Span,
    grammar: &'static Grammar,
    /// Keys that unknown ones were probably meant to be.
    meant: Vec<(&'static str, Span)>,
}

/// What became of a key.
#[derive(Clone, Copy, Debug)]
pub(super) enum Read<T> {
    /// It is not there.
    Absent,
    /// It is there, but cannot be read, which has been reported.
    Bad(Span),
    /// It is there.
    Good(At<T>),
}

impl<T> Read<T> {
    pub(super) fn good(&self) -> Option<&At<T>> {
        match self {
            Self::Good(at) => Some(at),
            Self::Absent | Self::Bad(_) => None,
        }
    }

    /// The value, or what stands in for one that is absent. A bad value is replaced as well: it has been reported,
    /// so nothing built with the replacement is ever used.
    pub(super) fn or(self, default: T) -> T {
        match self {
            Self::Good(at) => at.value,
            Self::Absent | Self::Bad(_) => default,
        }
    }

    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// Where it is written, if it is.
    pub(super) fn span(&self) -> Option<Span> {
        match self {
            Self::Good(at) => Some(at.span),
            Self::Bad(span) => Some(*span),
            Self::Absent => None,
        }
    }
}

impl<'t> Section<'t> {
    /// Takes a table, and reports the keys that the grammar does not have.
    pub(super) fn new(
        table: &'t DeTable<'t>,
        span: Span,
        grammar: &'static Grammar,
        all: &[&'static Grammar],
        out: &mut Findings<'_>,
    ) -> Self {
        let mut meant = Vec::new();
        for key in table.keys() {
            let name = key.get_ref().as_ref();
            if !grammar.keys.contains(&name) {
                let near = near_key(name, grammar);
                meant.extend(near.map(|near| (near, key.span().into())));
                out.error(key.span().into(), unknown_key(name, near, grammar, all));
            }
        }
        Self {
            table,
            span,
            grammar,
            meant,
        }
    }

    /// A key that is not there: truly absent, or misspelt, which has been reported.
    fn absent<T>(&self, key: &str) -> Read<T> {
        let misspelt = self.meant.iter().find(|(meant, _)| *meant == key);
        misspelt.map_or(Read::Absent, |(_, span)| Read::Bad(*span))
    }

    /// Reads a key if it is there, and reports what `parse` complains about.
    pub(super) fn read<T>(
        &self,
        key: &'static str,
        out: &mut Findings<'_>,
        parse: impl FnOnce(&'t DeValue<'t>) -> Result<T, Complaint>,
    ) -> Read<T> {
        debug_assert!(
            self.grammar.keys.contains(&key),
            "{key} is in the grammar of {}",
            self.grammar.title
        );
        let Some(found) = self.table.get(key) else {
            return self.absent(key);
        };
        let span = found.span().into();
        match parse(found.get_ref()) {
            Ok(value) => Read::Good(At { value, span }),
            Err(complaint) => {
                out.error(span, complaint);
                Read::Bad(span)
            }
        }
    }

    /// As `read`, for a key that has to be there; `expected` says how it is written.
    pub(super) fn require<T>(
        &self,
        key: &'static str,
        expected: &str,
        out: &mut Findings<'_>,
        parse: impl FnOnce(&'t DeValue<'t>) -> Result<T, Complaint>,
    ) -> Read<T> {
        let read = self.read(key, out, parse);
        if read.is_absent() {
            let message = format!("{} has no `{key}`", self.subject());
            out.error(
                self.span,
                Complaint::new(
                    Kind::MissingKey,
                    message,
                    format!("expected `{key} = {expected}`"),
                ),
            );
        }
        read
    }

    /// A table inside.
    pub(super) fn section(
        &self,
        key: &'static str,
        grammar: &'static Grammar,
        all: &[&'static Grammar],
        out: &mut Findings<'_>,
    ) -> Option<Section<'t>> {
        let read = self.read(key, out, |value| match value {
            DeValue::Table(table) => Ok(table),
            // `[[l4]]` is an array with one table.
            DeValue::Array(array) if array.iter().all(|item| item.get_ref().is_table()) => {
                Err(Complaint::new(
                    Kind::WrongType,
                    format!("{} is an array of tables", grammar.title),
                    "expected one table",
                )
                .help(format!("write `{}`", grammar.example)))
            }
            other => Err(wrong_type(grammar.title, "a table", other)
                .help(format!("write `{}`", grammar.example))),
        });
        let table = read.good()?;
        Some(Section::new(table.value, table.span, grammar, all, out))
    }

    /// The tables of an array; empty if it is absent.
    pub(super) fn sections(
        &self,
        key: &'static str,
        grammar: &'static Grammar,
        all: &[&'static Grammar],
        out: &mut Findings<'_>,
    ) -> Read<Vec<Section<'t>>> {
        let Some(found) = self.table.get(key) else {
            return self.absent(key);
        };
        let span: Span = found.span().into();
        let wrong = |value: &DeValue<'_>| {
            wrong_type(grammar.title, "an array of tables", value)
                .help(format!("write `{}`", grammar.example))
        };
        match found.get_ref() {
            DeValue::Array(array) => {
                let mut sections = Vec::with_capacity(array.len());
                for item in array {
                    match item.get_ref() {
                        DeValue::Table(table) => {
                            sections.push(Section::new(
                                table,
                                item.span().into(),
                                grammar,
                                all,
                                out,
                            ));
                        }
                        other => {
                            let complaint = wrong_type(grammar.title, "a table", other);
                            out.error(
                                item.span().into(),
                                complaint.help(format!("write `{}`", grammar.example)),
                            );
                        }
                    }
                }
                Read::Good(At {
                    value: sections,
                    span,
                })
            }
            value @ DeValue::Table(table) => {
                out.error(span, wrong(value));
                // Its content may be right or wrong all the same.
                let section = Section::new(table, span, grammar, all, out);
                Read::Good(At {
                    value: vec![section],
                    span,
                })
            }
            other => {
                out.error(span, wrong(other));
                Read::Bad(span)
            }
        }
    }

    /// The strings of an array, each read by `parse`; what cannot be read is reported and left out.
    pub(super) fn strings<T>(
        &self,
        key: &'static str,
        example: &str,
        out: &mut Findings<'_>,
        mut parse: impl FnMut(&'t str) -> Result<T, Complaint>,
    ) -> Read<Vec<At<T>>> {
        let array = self.read(key, out, |value| match value {
            DeValue::Array(array) => Ok(array),
            DeValue::String(one) => {
                Err(
                    wrong_type(&format!("`{key}`"), "an array of strings", value)
                        .help(format!("write `{key} = [\"{}\"]`", one.escape_debug())),
                )
            }
            other => Err(
                wrong_type(&format!("`{key}`"), "an array of strings", other)
                    .help(format!("write `{key} = {example}`")),
            ),
        });
        let array = match array {
            Read::Good(array) => array,
            Read::Bad(span) => return Read::Bad(span),
            Read::Absent => return Read::Absent,
        };
        let mut strings = Vec::with_capacity(array.value.len());
        for item in array.value {
            let span = item.span().into();
            let text = item.get_ref().as_str().ok_or_else(|| {
                let what = format!("an item of `{key}`");
                wrong_type(&what, "a string", item.get_ref())
            });
            match text.and_then(&mut parse) {
                Ok(value) => strings.push(At { value, span }),
                Err(complaint) => out.error(span, complaint),
            }
        }
        Read::Good(At {
            value: strings,
            span: array.span,
        })
    }

    /// The keys of a table that may have any, with their values; empty if it is absent.
    pub(super) fn entries(
        &self,
        key: &'static str,
        example: &str,
        out: &mut Findings<'_>,
    ) -> Vec<(At<&'t str>, At<&'t DeValue<'t>>)> {
        let table = self.read(key, out, |value| match value {
            DeValue::Table(table) => Ok(table),
            other => Err(wrong_type(&format!("`{key}`"), "a table", other)
                .help(format!("write `{key} = {example}`"))),
        });
        let Some(table) = table.good() else {
            return Vec::new();
        };
        let entry = |(name, value): (&'t toml::Spanned<_>, &'t toml::Spanned<DeValue<'t>>)| {
            let name: &'t toml::Spanned<std::borrow::Cow<'t, str>> = name;
            (
                At {
                    value: name.get_ref().as_ref(),
                    span: name.span().into(),
                },
                At {
                    value: value.get_ref(),
                    span: value.span().into(),
                },
            )
        };
        table.value.iter().map(entry).collect()
    }

    /// A value as it was written.
    pub(super) fn peek(&self, key: &str) -> Option<&'t DeValue<'t>> {
        self.table.get(key).map(toml::Spanned::get_ref)
    }

    /// Where a key stands, if it does.
    pub(super) fn key_span(&self, key: &str) -> Option<Span> {
        self.table
            .get_key_value(key)
            .map(|(key, _)| key.span().into())
    }

    /// The table in messages, with its name where it has one.
    pub(super) fn subject(&self) -> String {
        let title = self.grammar.title;
        let name = self
            .table
            .get("name")
            .and_then(|name| name.get_ref().as_str());
        match (
            title
                .strip_prefix("[[")
                .and_then(|title| title.strip_suffix("]]")),
            name,
        ) {
            (Some(noun), Some(name)) => format!("{noun} {}", quoted(name)),
            _ => title.to_owned(),
        }
    }
}

/// The key that an unknown one was probably meant to be.
fn near_key(name: &str, grammar: &Grammar) -> Option<&'static str> {
    let synonym = grammar.synonyms.iter().find(|(word, _)| *word == name);
    let synonym = synonym.map(|(_, key)| *key);
    synonym.or_else(|| nearest(name, grammar.keys.iter().copied()))
}

fn unknown_key(
    name: &str,
    near: Option<&str>,
    grammar: &Grammar,
    all: &[&'static Grammar],
) -> Complaint {
    let message = format!("unknown key {} in {}", quoted(name), grammar.title);
    let label = format!("expected {}", alternatives(grammar.keys.iter().copied()));
    let owner = || all.iter().find(|other| other.keys.contains(&name));
    let help = match near {
        Some(key) => Some(format!("did you mean `{key}`?")),
        None => owner().map(|owner| format!("`{name}` belongs into {}", owner.title)),
    };
    Complaint::new(Kind::UnknownKey, message, label).maybe_help(help)
}

/// "`weight` is a string", "expected an integer".
pub(super) fn wrong_type(what: &str, expected: &str, found: &DeValue<'_>) -> Complaint {
    let found = match found {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    };
    Complaint::new(
        Kind::WrongType,
        format!("{what} is {found}"),
        format!("expected {expected}"),
    )
}

/// Takes a string.
pub(super) fn text<'t>(key: &str) -> impl Fn(&'t DeValue<'t>) -> Result<&'t str, Complaint> {
    move |value| match value {
        DeValue::String(text) => Ok(text.as_ref()),
        DeValue::Integer(number) => Err(wrong_type(&format!("`{key}`"), "a string", value).help(
            format!(
                "write it in quotes: `\"{}\"`",
                quoted_plain(number.as_str())
            ),
        )),
        other => Err(wrong_type(&format!("`{key}`"), "a string", other)),
    }
}

fn quoted_plain(text: &str) -> &str {
    text.get(..40).unwrap_or(text)
}

/// Takes `true` or `false`.
pub(super) fn boolean(key: &str) -> impl Fn(&DeValue<'_>) -> Result<bool, Complaint> {
    move |value| match value {
        DeValue::Boolean(value) => Ok(*value),
        other => Err(wrong_type(&format!("`{key}`"), "`true` or `false`", other)),
    }
}

/// Takes an integer of a range.
pub(super) fn integer<T: TryFrom<i64> + Copy + Into<i64>>(
    key: &str,
    min: T,
    max: T,
) -> impl Fn(&DeValue<'_>) -> Result<T, Complaint> {
    move |value| {
        let expected = format!("an integer from {} to {}", min.into(), max.into());
        let DeValue::Integer(number) = value else {
            let complaint = wrong_type(&format!("`{key}`"), &expected, value);
            let unquoted = value.as_str().filter(|text| text.parse::<i64>().is_ok());
            return Err(complaint
                .maybe_help(unquoted.map(|text| format!("write it without quotes: `{text}`"))));
        };
        let parsed = i64::from_str_radix(number.as_str(), number.radix()).ok();
        parsed
            .filter(|number| (min.into()..=max.into()).contains(number))
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| {
                let size = if parsed.map_or(!number.as_str().starts_with('-'), |number| {
                    number > max.into()
                }) {
                    "large"
                } else {
                    "small"
                };
                let message = format!(
                    "`{key}` is too {size}: {}",
                    quoted_plain(&number.to_string())
                );
                Complaint::new(Kind::OutOfRange, message, format!("expected {expected}"))
            })
    }
}

/// Takes a duration of a range.
pub(super) fn duration(
    key: &str,
    min: Duration,
    max: Duration,
) -> impl Fn(&DeValue<'_>) -> Result<Duration, Complaint> {
    move |value| {
        let expected = format!("from {} to {}", format_duration(min), format_duration(max));
        let DeValue::String(text) = value else {
            let complaint = wrong_type(
                &format!("`{key}`"),
                &format!("a duration in quotes, {expected}"),
                value,
            );
            let number = value
                .as_integer()
                .map(|number| quoted_plain(number.as_str()));
            return Err(complaint.maybe_help(number.map(|number| {
                format!("with its unit: `{key} = \"{number}s\"` or `{key} = \"{number}ms\"`")
            })));
        };
        let Some(duration) = parse_duration(text) else {
            let message = format!("`{key}` is not a duration: {}", quoted(text));
            let label = "expected numbers with a unit of d, h, m, s or ms, as in `1m30s`";
            let bare = !text.is_empty()
                && text.len() <= 9
                && text.bytes().all(|byte| byte.is_ascii_digit());
            return Err(
                Complaint::new(Kind::InvalidValue, message, label).maybe_help(
                    bare.then(|| format!("with its unit: `\"{text}s\"` or `\"{text}ms\"`")),
                ),
            );
        };
        if duration < min || duration > max {
            let size = if duration < min { "short" } else { "long" };
            let message = format!("`{key}` is too {size}: {}", quoted(text));
            return Err(Complaint::new(
                Kind::OutOfRange,
                message,
                format!("expected a duration {expected}"),
            ));
        }
        Ok(duration)
    }
}

/// Takes one of several words.
pub(super) fn word<T: Copy>(
    key: &str,
    words: &'static [(&'static str, T)],
    synonyms: &'static [(&'static str, &'static str)],
) -> impl Fn(&DeValue<'_>) -> Result<T, Complaint> {
    move |value| {
        let names = words.iter().map(|(name, _)| *name);
        let expected = alternatives(names.clone());
        let DeValue::String(found) = value else {
            return Err(wrong_type(&format!("`{key}`"), &expected, value));
        };
        let found = found.as_ref();
        if let Some((_, value)) = words.iter().find(|(name, _)| *name == found) {
            return Ok(*value);
        }
        let synonym = synonyms
            .iter()
            .find(|(word, _)| word.eq_ignore_ascii_case(found))
            .map(|(_, name)| *name);
        let help = synonym
            .or_else(|| nearest(found, names))
            .map(|name| format!("did you mean `{name}`?"));
        let message = format!("unknown `{key}` {}", quoted(found));
        Err(
            Complaint::new(Kind::InvalidValue, message, format!("expected {expected}"))
                .maybe_help(help),
        )
    }
}
