//! Texts with places that are filled in for each request: `"{client_address}, {scheme}"`.

use std::fmt;

/// A text with variables. `{{` and `}}` are the braces themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template<V> {
    parts: Vec<Part<V>>,
}

/// A piece of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part<V> {
    /// As it is.
    Text(String),
    /// What this is for the request at hand.
    Variable(V),
}

/// Why a text is not a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A `{` without its `}`.
    #[error("a `{{` without its `}}`")]
    Unclosed,
    /// A `}` without its `{`.
    #[error("a `}}` without its `{{`")]
    Unopened,
    /// There is no such variable. What was written is shown so that it is harmless on a terminal.
    #[error("there is no variable `{}`", .0.escape_debug())]
    Unknown(String),
}

impl<V> Template<V> {
    /// Reads a template; `variable` knows the variables by name.
    pub fn parse(
        written: &str,
        variable: impl Fn(&str) -> Option<V>,
    ) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut rest = written;
        while let Some(at) = rest.find(['{', '}']) {
            text.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                text.push_str(brace);
                rest = after;
                continue;
            }
            if brace == "}" {
                return Err(TemplateError::Unopened);
            }
            let end = rest.find('}').ok_or(TemplateError::Unclosed)?;
            let name = &rest[..end];
            let found = variable(name).ok_or_else(|| TemplateError::Unknown(name.to_owned()))?;
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text)));
            }
            parts.push(Part::Variable(found));
            rest = &rest[end + 1..];
        }
        text.push_str(rest);
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(Self { parts })
    }

    /// The pieces, in order; two texts never stand beside each other.
    pub fn parts(&self) -> &[Part<V>] {
        &self.parts
    }

    /// The variables, in order.
    pub fn variables(&self) -> impl Iterator<Item = &V> {
        self.parts.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Variable(variable) => Some(variable),
        })
    }

    /// The texts between the variables.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            Part::Variable(_) => None,
        })
    }
}

impl<V: fmt::Display> fmt::Display for Template<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.parts {
            match part {
                Part::Text(text) => f.write_str(&text.replace('{', "{{").replace('}', "}}"))?,
                Part::Variable(variable) => write!(f, "{{{variable}}}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(written: &str) -> Result<Template<String>, TemplateError> {
        Template::parse(written, |name| {
            name.starts_with('v').then(|| name.to_owned())
        })
    }

    #[test]
    fn what_is_unknown_is_shown_without_control_characters() {
        let error = parse("{tl\t_sni\u{202e}}").unwrap_err().to_string();
        assert_eq!(error, "there is no variable `tl\\t_sni\\u{202e}`");
    }

    #[test]
    fn braces_are_variables_unless_doubled() {
        let check = |written: &str, expected: Result<&[&str], TemplateError>| {
            let parts = parse(written).map(|template| {
                let part = |part: &Part<String>| match part {
                    Part::Text(text) => text.clone(),
                    Part::Variable(name) => format!("<{name}>"),
                };
                template.parts().iter().map(part).collect::<Vec<_>>()
            });
            assert_eq!(
                parts,
                expected.map(|parts| parts.iter().map(|part| (*part).to_owned()).collect()),
                "{written}"
            );
        };
        check("", Ok(&[]));
        check("plain", Ok(&["plain"]));
        check("{v}", Ok(&["<v>"]));
        check("a{v1}{v2}b", Ok(&["a", "<v1>", "<v2>", "b"]));
        check("{{v}}", Ok(&["{v}"]));
        check("{{{v}}}", Ok(&["{", "<v>", "}"]));
        check("{", Err(TemplateError::Unclosed));
        check("a{v", Err(TemplateError::Unclosed));
        check("a}", Err(TemplateError::Unopened));
        check("{}", Err(TemplateError::Unknown(String::new())));
        check("{x}", Err(TemplateError::Unknown("x".to_owned())));
        check("{ v}", Err(TemplateError::Unknown(" v".to_owned())));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_printed_as_it_reads(written in "[{}vx\u{e9} ]{0,12}") {
            if let Ok(template) = parse(&written) {
                prop_assert_eq!(parse(&template.to_string()).unwrap(), template);
            }
        }
    }
}
