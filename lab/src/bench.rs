//! What the benchmarks have in common.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// How a benchmark is run: `[--quick] [--json FILE]`.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A tenth of the time, for a first look: the figures are noisier.
    pub quick: bool,
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
                "--json" => options.json = Some(args.next().context("--json wants a file")?.into()),
                _ => bail!("unknown argument {arg}: expected --quick or --json FILE"),
            }
        }
        Ok(options)
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
        assert!(parse("--json").is_err());
        assert!(parse("--fast").is_err());
    }
}
