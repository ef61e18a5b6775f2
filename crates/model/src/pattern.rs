//! Regular expressions over what clients send: bytes, whole, and with a bound on what they may cost.

use std::fmt;
use std::hash::{Hash, Hasher};

use regex_automata::MatchKind;
use regex_automata::meta::{self, Regex};
use regex_automata::nfa::thompson::WhichCaptures;
use regex_syntax::hir::{Hir, Look};

/// A regular expression that has to match the whole of a text. It looks at bytes: `.` is any byte but a line feed,
/// `\w` and `\d` are ASCII, and `(?i)` knows ASCII letters.
#[derive(Clone, Debug)]
pub struct Pattern {
    source: String,
    regex: Regex,
    hir: Hir,
}

impl Pattern {
    /// The longest expression, in bytes.
    pub const MAX_LEN: usize = 1_024;
    /// Memory of the automaton of one expression, in bytes: a counted repetition of a counted repetition grows beyond
    /// any bound.
    pub const MAX_BYTES: usize = 64 * 1_024;

    /// Reads and compiles an expression.
    pub fn parse(source: &str) -> Result<Self, PatternError> {
        if source.len() > Self::MAX_LEN {
            return Err(PatternError::TooLong);
        }
        let parsed = regex_syntax::ParserBuilder::new()
            .unicode(false)
            .utf8(false)
            .nest_limit(64)
            .build()
            .parse(source)
            .map_err(|error| syntax_error(source, &error))?;
        let hir = Hir::concat(vec![Hir::look(Look::Start), parsed, Hir::look(Look::End)]);
        let regex = build(
            std::slice::from_ref(&hir),
            WhichCaptures::None,
            Self::MAX_BYTES,
        )?;
        Ok(Self {
            source: source.to_owned(),
            regex,
            hir,
        })
    }

    /// The expression as it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// Whether it matches the whole of `text`.
    pub fn is_match(&self, text: &[u8]) -> bool {
        self.regex.is_match(text)
    }

    /// The same expression with its groups, for a substitution.
    pub fn with_groups(&self) -> Result<Regex, PatternError> {
        build(
            std::slice::from_ref(&self.hir),
            WhichCaptures::All,
            Self::MAX_BYTES,
        )
    }

    /// Several expressions as one automaton, which tells in one pass which of them match.
    pub fn set<'p>(patterns: impl IntoIterator<Item = &'p Self>) -> Result<Regex, PatternError> {
        let hirs: Vec<Hir> = patterns
            .into_iter()
            .map(|pattern| pattern.hir.clone())
            .collect();
        build(
            &hirs,
            WhichCaptures::None,
            Self::MAX_BYTES * hirs.len().max(1),
        )
    }
}

/// Two patterns are equal if they are written the same.
impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.source.hash(state);
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

/// Why a text is not an expression that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// More than [`Pattern::MAX_LEN`] bytes.
    #[error("it is longer than {} bytes", Pattern::MAX_LEN)]
    TooLong,
    /// Not an expression.
    #[error("{what}, at character {character}")]
    Syntax {
        /// What is wrong.
        what: String,
        /// Where, from 1.
        character: usize,
    },
    /// Its automaton is too large.
    #[error("it needs more than {} KiB", Pattern::MAX_BYTES / 1_024)]
    TooLarge,
}

fn syntax_error(source: &str, error: &regex_syntax::Error) -> PatternError {
    let (what, span) = match error {
        regex_syntax::Error::Parse(error) => (error.kind().to_string(), error.span()),
        regex_syntax::Error::Translate(error) => (error.kind().to_string(), error.span()),
        other => {
            return PatternError::Syntax {
                what: other.to_string(),
                character: 1,
            };
        }
    };
    let before = source.get(..span.start.offset).unwrap_or(source);
    PatternError::Syntax {
        what,
        character: before.chars().count() + 1,
    }
}

fn build(hirs: &[Hir], groups: WhichCaptures, max_bytes: usize) -> Result<Regex, PatternError> {
    // Of several, all that match are asked for; of one, its groups as its author means them.
    let kind = if hirs.len() > 1 {
        MatchKind::All
    } else {
        MatchKind::LeftmostFirst
    };
    let config = meta::Config::new()
        .match_kind(kind)
        .utf8_empty(false)
        .which_captures(groups)
        .nfa_size_limit(Some(max_bytes));
    // The only other error is a syntax error, and that has been looked for.
    Regex::builder()
        .configure(config)
        .build_many_from_hir(hirs)
        .map_err(|_| PatternError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_text_has_to_match() {
        let check = |pattern: &str, text: &str, expected: bool| {
            let pattern = Pattern::parse(pattern).unwrap();
            assert_eq!(
                pattern.is_match(text.as_bytes()),
                expected,
                "{pattern} {text}"
            );
        };
        check("/users/[0-9]+", "/users/7", true);
        check("/users/[0-9]+", "/users/7/x", false);
        check("/users/[0-9]+", "x/users/7", false);
        check("a|b", "ab", false);
        check("a|b", "b", true);
        check("(?i)/API", "/api", true);
        check("(?x) a # comment", "a", true);
        check("", "", true);
        check(".*", "", true);
        check("a.c", "a\u{e9}c", false);
    }

    #[test]
    fn mistakes_say_where_they_are() {
        let check = |pattern: &str, expected: &str| {
            let error = Pattern::parse(pattern).unwrap_err();
            assert_eq!(error.to_string(), expected, "{pattern}");
        };
        check("/a(b", "unclosed group, at character 3");
        check("a)(b", "unopened group, at character 2");
        check(
            "*",
            "repetition operator missing expression, at character 1",
        );
        check("(?:a{1000}){1000}", "it needs more than 64 KiB");
        check(&"a".repeat(1_025), "it is longer than 1024 bytes");
    }

    #[test]
    fn a_set_tells_which_of_its_expressions_match() {
        let patterns = ["/a.*", "/b", "/ab"].map(|source| Pattern::parse(source).unwrap());
        let set = Pattern::set(&patterns).unwrap();
        let mut found = regex_automata::PatternSet::new(set.pattern_len());
        set.which_overlapping_matches(&regex_automata::Input::new(b"/ab"), &mut found);
        let found: Vec<usize> = found.iter().map(|id| id.as_usize()).collect();
        assert_eq!(found, [0, 2]);
    }
}
