//! What a route asks of a request beside host and path: its method, fields, query, cookies, and who sends it.

use crate::pattern::Pattern;

/// A condition on the values that a name has in a request: a header field, a query parameter or a cookie.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Condition {
    /// The name; of a header field in lower case.
    pub name: String,
    /// What one of its values has to be.
    pub test: ValueTest,
}

/// What a value has to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ValueTest {
    /// This.
    Exact(String),
    /// Something that begins with this.
    Prefix(String),
    /// Something that this matches as a whole.
    Regex(Pattern),
    /// Anything (`true`); or there must be none at all (`false`).
    Present(bool),
}

impl ValueTest {
    /// Whether one of the values fits; for `Present(false)`, whether there is none.
    pub fn fits<'v>(&self, mut values: impl Iterator<Item = &'v [u8]>) -> bool {
        match self {
            Self::Exact(exact) => values.any(|value| value == exact.as_bytes()),
            Self::Prefix(prefix) => values.any(|value| value.starts_with(prefix.as_bytes())),
            Self::Regex(pattern) => values.any(|value| pattern.is_match(value)),
            Self::Present(wanted) => values.next().is_some() == *wanted,
        }
    }
}

/// The values of a parameter in a query, as they were sent: no percent encoding is undone. `a` alone is `a=`.
pub fn query_values<'q>(query: &'q [u8], name: &'q str) -> impl Iterator<Item = &'q [u8]> {
    query.split(|byte| *byte == b'&').filter_map(move |pair| {
        let rest = pair.strip_prefix(name.as_bytes())?;
        match rest {
            [] => Some(rest),
            [b'=', value @ ..] => Some(value),
            _ => None,
        }
    })
}

/// The values of a cookie in a `Cookie` field (RFC 6265, section 4.2.1).
pub fn cookie_values<'c>(field: &'c [u8], name: &'c str) -> impl Iterator<Item = &'c [u8]> {
    field.split(|byte| *byte == b';').filter_map(move |pair| {
        pair.trim_ascii()
            .strip_prefix(name.as_bytes())?
            .strip_prefix(b"=")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found_by_their_whole_name() {
        let check = |query: &str, expected: &[&str]| {
            let values: Vec<_> = query_values(query.as_bytes(), "a")
                .map(|value| std::str::from_utf8(value).unwrap())
                .collect();
            assert_eq!(values, expected, "{query}");
        };
        check("a=1&b=2&a=3", &["1", "3"]);
        check("aa=1&ba=1", &[]);
        check("a", &[""]);
        check("a=", &[""]);
        check("a=b=c&&", &["b=c"]);
        check("a=%31", &["%31"]);
        check("", &[]);
    }

    #[test]
    fn cookies_are_found_by_their_whole_name() {
        let check = |field: &str, expected: &[&str]| {
            let values: Vec<_> = cookie_values(field.as_bytes(), "a")
                .map(|value| std::str::from_utf8(value).unwrap())
                .collect();
            assert_eq!(values, expected, "{field}");
        };
        check("a=1; b=2;a=3", &["1", "3"]);
        check("aa=1; A=2; a", &[]);
        check(" a=x=y ", &["x=y"]);
    }

    #[test]
    fn one_fitting_value_is_enough_and_absence_needs_none() {
        let values = [&b"one"[..], b"two"];
        let check = |test: ValueTest, expected: [bool; 2]| {
            let found = [test.fits(values.into_iter()), test.fits(std::iter::empty())];
            assert_eq!(found, expected, "{test:?}");
        };
        check(ValueTest::Exact("two".to_owned()), [true, false]);
        check(ValueTest::Exact("tw".to_owned()), [false, false]);
        check(ValueTest::Prefix("tw".to_owned()), [true, false]);
        check(
            ValueTest::Regex(Pattern::parse("t.o").unwrap()),
            [true, false],
        );
        check(ValueTest::Present(true), [true, false]);
        check(ValueTest::Present(false), [false, true]);
    }
}
