//! What is wrong with a config, where, and what would be right; printed the way rustc prints it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::source::{Source, Span};

/// Characters of a source line that are printed around the place in question; a config on one long line stays legible.
const EXCERPT_CHARS: usize = 120;
/// Errors, and warnings, that are kept: what is wrong more often than this is wrong in one way.
const KEPT: usize = 1_000;
/// Characters of a value that a message repeats.
const QUOTED_CHARS: usize = 60;

/// One mistake, or one warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Whether the config is refused for it.
    pub severity: Severity,
    /// What sort of mistake it is.
    pub kind: Kind,
    /// The config file, as it was named to `Config::parse`.
    pub file: Arc<Path>,
    /// Where it is.
    pub position: Position,
    /// What was found.
    pub message: String,
    /// What was expected there; may be empty.
    pub label: String,
    /// What to write instead, where that is known.
    pub help: Option<String>,
    /// Another place that has to do with it, as the first of two duplicates.
    pub note: Option<Note>,
    excerpt: Excerpt,
}

/// Whether a config with this diagnostic can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can, but it is probably not what was meant.
    Warning,
}

/// Sorts of mistakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The text is not TOML.
    Syntax,
    /// A key that does not exist at this place.
    UnknownKey,
    /// A key that has to be there and is not.
    MissingKey,
    /// A string where a number is expected, and the like.
    WrongType,
    /// The type is right, but this value is not possible.
    InvalidValue,
    /// A number, duration or length outside its range.
    OutOfRange,
    /// A name that nothing has.
    UnknownName,
    /// Two things that have to differ are the same.
    Duplicate,
    /// Two settings that exclude each other.
    Conflict,
    /// A thing that weir does not do yet.
    Unsupported,
    /// It does nothing.
    Unused,
}

/// A place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// How many characters of the line are meant; at least 1.
    pub width: usize,
}

/// Another place that explains a diagnostic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Where.
    pub position: Position,
    /// What is there.
    pub message: String,
    excerpt: Excerpt,
}

/// All mistakes of a config, in the order of the file; of more than a thousand the rest is only counted. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    errors: Vec<Diagnostic>,
    /// Mistakes beyond those that are kept.
    omitted: usize,
}

/// A source line as it is printed: tabs are spaces, control characters are replaced, long lines are cut.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Excerpt {
    text: String,
    /// Printed characters before the underline.
    indent: usize,
    /// Printed characters that are underlined.
    underline: usize,
}

/// A diagnostic that does not yet know where it is.
#[derive(Clone, Debug)]
pub(super) struct Complaint {
    kind: Kind,
    message: String,
    label: String,
    help: Option<String>,
    note: Option<(Span, String)>,
}

/// The diagnostics found so far.
pub(super) struct Findings<'t> {
    source: Source<'t>,
    file: Arc<Path>,
    found: Vec<(Span, Diagnostic)>,
    errors: usize,
    warnings: usize,
}

impl ConfigErrors {
    /// The mistakes in the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.errors.iter()
    }

    /// How many there are; at least one.
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.errors.len() + self.omitted
    }
}

impl<'e> IntoIterator for &'e ConfigErrors {
    type Item = &'e Diagnostic;
    type IntoIter = std::slice::Iter<'e, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.errors.iter()
    }
}

impl IntoIterator for ConfigErrors {
    type Item = Diagnostic;
    type IntoIter = std::vec::IntoIter<Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.errors.into_iter()
    }
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    /// Every mistake, then a line that counts them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.errors {
            writeln!(f, "{error}\n")?;
        }
        let file = self
            .errors
            .first()
            .map(|error| error.file.display().to_string())
            .unwrap_or_default();
        if self.omitted > 0 {
            writeln!(f, "and {} more\n", self.omitted)?;
        }
        match self.len() {
            1 => write!(f, "{file}: 1 mistake"),
            many => write!(f, "{file}: {many} mistakes"),
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last_line = self
            .note
            .as_ref()
            .map_or(0, |note| note.position.line)
            .max(self.position.line);
        let gutter = last_line.to_string().len();
        write!(f, "{}: {}", self.severity, self.message)?;
        snippet(
            f,
            gutter,
            &self.file,
            self.position,
            &self.excerpt,
            &self.label,
        )?;
        if let Some(help) = &self.help {
            write!(f, "\n{:gutter$} |\n{:gutter$} = help: {help}", "", "")?;
        }
        if let Some(note) = &self.note {
            write!(f, "\nnote: {}", note.message)?;
            snippet(f, gutter, &self.file, note.position, &note.excerpt, "")?;
        }
        Ok(())
    }
}

/// The source line with its place above and the underline below.
fn snippet(
    f: &mut fmt::Formatter<'_>,
    gutter: usize,
    file: &Path,
    at: Position,
    excerpt: &Excerpt,
    label: &str,
) -> fmt::Result {
    let blank = "";
    write!(
        f,
        "\n{blank:gutter$}--> {}:{}:{}",
        file.display(),
        at.line,
        at.column
    )?;
    write!(
        f,
        "\n{blank:gutter$} |\n{:gutter$} | {}",
        at.line, excerpt.text
    )?;
    write!(
        f,
        "\n{blank:gutter$} | {:indent$}{:^<width$}",
        blank,
        "",
        indent = excerpt.indent,
        width = excerpt.underline
    )?;
    if label.is_empty() {
        Ok(())
    } else {
        write!(f, " {label}")
    }
}

impl Excerpt {
    fn new(line: &str, column: usize, width: usize) -> Self {
        let before = column - 1;
        // A window that begins a third of its length before the place.
        let total = line.chars().count();
        let skip = if total <= EXCERPT_CHARS {
            0
        } else {
            before.saturating_sub(EXCERPT_CHARS / 3)
        };
        let shown = total.saturating_sub(skip).min(EXCERPT_CHARS);
        let mut text = String::new();
        let (mut indent, mut underline) = (0, 0);
        if skip > 0 {
            text.push('…');
            indent += 1;
        }
        for (at, c) in line.chars().enumerate().skip(skip).take(shown) {
            let cells = if c == '\t' { 4 } else { 1 };
            match c {
                '\t' => text.push_str("    "),
                c if is_unprintable(c) => text.push('\u{fffd}'),
                c => text.push(c),
            }
            if at < before {
                indent += cells;
            } else if at < before + width {
                underline += cells;
            }
        }
        if skip + shown < total {
            text.push('…');
        }
        let text = text.trim_end().to_owned();
        Self {
            text,
            indent,
            underline: underline.max(1),
        }
    }
}

/// Control characters, and those that reorder what is printed after them (Unicode TR 36, section 2.3).
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A value between backticks, harmless on a terminal and not too long.
pub(super) fn quoted(value: &str) -> String {
    let mut text: String = value
        .chars()
        .take(QUOTED_CHARS)
        .flat_map(|c| {
            if is_unprintable(c) {
                c.escape_unicode().collect::<Vec<_>>()
            } else {
                vec![c]
            }
        })
        .collect();
    if value.chars().nth(QUOTED_CHARS).is_some() {
        text.push('…');
    }
    format!("`{text}`")
}

impl Complaint {
    /// `message` says what was found, `label` what was expected.
    pub(super) fn new(kind: Kind, message: impl Into<String>, label: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            label: label.into(),
            help: None,
            note: None,
        }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(super) fn maybe_help(mut self, help: Option<String>) -> Self {
        self.help = help.or(self.help);
        self
    }

    pub(super) fn note(mut self, span: Span, message: impl Into<String>) -> Self {
        self.note = Some((span, message.into()));
        self
    }
}

impl<'t> Findings<'t> {
    pub(super) fn new(source: Source<'t>) -> Self {
        let file = Arc::from(source.file());
        Self {
            source,
            file,
            found: Vec::new(),
            errors: 0,
            warnings: 0,
        }
    }

    pub(super) fn source(&self) -> &Source<'t> {
        &self.source
    }

    pub(super) fn error(&mut self, span: Span, complaint: Complaint) {
        self.add(Severity::Error, span, complaint);
    }

    pub(super) fn warn(&mut self, span: Span, complaint: Complaint) {
        self.add(Severity::Warning, span, complaint);
    }

    fn add(&mut self, severity: Severity, span: Span, complaint: Complaint) {
        let count = match severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        *count += 1;
        if *count > KEPT {
            return;
        }
        let (position, excerpt) = self.locate(span);
        let note = complaint.note.map(|(span, message)| {
            let (position, excerpt) = self.locate(span);
            Note {
                position,
                message,
                excerpt,
            }
        });
        let Complaint {
            kind,
            message,
            label,
            help,
            ..
        } = complaint;
        let file = Arc::clone(&self.file);
        self.found.push((
            span,
            Diagnostic {
                severity,
                kind,
                file,
                position,
                message,
                label,
                help,
                note,
                excerpt,
            },
        ));
    }

    fn locate(&self, span: Span) -> (Position, Excerpt) {
        let place = self.source.place(span);
        let position = Position {
            line: place.line,
            column: place.column,
            width: place.width,
        };
        (
            position,
            Excerpt::new(place.text, place.column, place.width),
        )
    }

    /// The warnings if there are no errors, each in the order of the file.
    pub(super) fn into_result(mut self) -> Result<Vec<Diagnostic>, ConfigErrors> {
        self.found.sort_by_key(|(span, _)| span.start);
        let found = self.found.into_iter().map(|(_, found)| found);
        let (errors, warnings): (Vec<_>, Vec<_>) =
            found.partition(|found| found.severity == Severity::Error);
        if errors.is_empty() {
            return Ok(warnings);
        }
        let omitted = self.errors - errors.len();
        Err(ConfigErrors { errors, omitted })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}
