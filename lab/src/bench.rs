//! What the benchmarks have in common.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// How a benchmark is run: `[--quick] [--only TEXT] [--json FILE]`.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A tenth of the time, for a first look: the figures are noisier.
    pub quick: bool,
    /// Only rows whose name contains this.
    pub only: Option<String>,
    /// Where the table goes as JSON, too.
    pub json: Option<PathBuf>,
}

impl Options {
    /// Reads them from the command line.
    pub fn parse(mut args: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self::default();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--quick" => options.quick = true,
                "--only" => options.only = Some(args.next().context("--only wants a text")?),
                "--json" => options.json = Some(args.next().context("--json wants a file")?.into()),
                _ => bail!("unknown argument {arg}: expected --quick, --only TEXT or --json FILE"),
            }
        }
        Ok(options)
    }

    /// Whether a row of this name is wanted.
    pub fn wants(&self, row: &str) -> bool {
        self.only.as_ref().is_none_or(|only| row.contains(only))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_in_any_order() {
        let parse = |text: &str| Options::parse(text.split_whitespace().map(str::to_owned));
        let both = parse("--json table.json --quick").unwrap();
        assert!(both.quick);
        assert_eq!(both.json, Some(PathBuf::from("table.json")));
        assert!(!parse("").unwrap().quick);
        assert!(parse("").unwrap().wants("any"));
        let new = parse("--only new").unwrap();
        assert!(new.wants("a new session") && !new.wants("established"));
        assert!(parse("--json").is_err());
        assert!(parse("--fast").is_err());
    }
}
