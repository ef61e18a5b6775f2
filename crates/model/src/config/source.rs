//! The text of a config file, and where in it something is.

use std::path::{Path, PathBuf};

/// Bytes of the text, from `start` to before `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
}

impl From<std::ops::Range<usize>> for Span {
    fn from(range: std::ops::Range<usize>) -> Self {
        Self {
            start: range.start,
            end: range.end,
        }
    }
}

/// A value and where it was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Span,
}

/// The text with an index of its lines.
pub(super) struct Source<'t> {
    text: &'t str,
    file: &'t Path,
    /// Offset of each line's first byte.
    line_starts: Vec<usize>,
}

/// A place in the text and the line it is on.
pub(super) struct Place<'t> {
    /// From 1.
    pub(super) line: usize,
    /// In characters, from 1.
    pub(super) column: usize,
    /// How many characters of this line the span covers; at least 1.
    pub(super) width: usize,
    /// The line without its end.
    pub(super) text: &'t str,
}

impl<'t> Source<'t> {
    pub(super) fn new(text: &'t str, file: &'t Path) -> Self {
        let ends = text
            .bytes()
            .enumerate()
            .filter(|(_, byte)| *byte == b'\n')
            .map(|(at, _)| at + 1);
        Self {
            text,
            file,
            line_starts: std::iter::once(0).chain(ends).collect(),
        }
    }

    pub(super) fn file(&self) -> &'t Path {
        self.file
    }

    /// A path of the config, relative to the config file's folder.
    pub(super) fn path(&self, written: &str) -> PathBuf {
        match self.file.parent() {
            Some(folder) => folder.join(written),
            None => PathBuf::from(written),
        }
    }

    /// Where a span begins, cut to its first line. Any span gives a place inside the text.
    pub(super) fn place(&self, span: Span) -> Place<'t> {
        let start = floor_char(self.text, span.start);
        let end = floor_char(self.text, span.end).max(start);
        let line = self
            .line_starts
            .partition_point(|first| *first <= start)
            .saturating_sub(1);
        let first = self.line_starts.get(line).copied().unwrap_or(0);
        let rest = &self.text[first..];
        let text = rest.split('\n').next().unwrap_or(rest);
        let text = text.strip_suffix('\r').unwrap_or(text);
        let from = (start - first).min(text.len());
        let to = (end - first).clamp(from, text.len());
        Place {
            line: line + 1,
            column: text[..from].chars().count() + 1,
            width: text[from..to].chars().count().max(1),
            text,
        }
    }
}

/// The nearest character boundary at or before an offset.
fn floor_char(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_characters_from_one() {
        let source = Source::new("a = 1\r\nü = \"ö\"\n", Path::new("x"));
        let check = |start, end, line, column, width, text| {
            let place = source.place(Span { start, end });
            assert_eq!(
                (place.line, place.column, place.width, place.text),
                (line, column, width, text)
            );
        };
        check(0, 1, 1, 1, 1, "a = 1");
        check(4, 5, 1, 5, 1, "a = 1");
        check(7, 9, 2, 1, 1, "ü = \"ö\"");
        check(12, 16, 2, 5, 3, "ü = \"ö\"");
        // Inside a character, on the line's end, over several lines, past the end of the text.
        check(8, 8, 2, 1, 1, "ü = \"ö\"");
        check(5, 7, 1, 6, 1, "a = 1");
        check(0, 16, 1, 1, 5, "a = 1");
        check(99, 999, 3, 1, 1, "");
    }
}
