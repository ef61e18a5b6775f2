//! An error in one line.

/// What failed, and why, from the outside in. Library errors tell their cause themselves as a rule: what has been
/// said is not said again.
pub(crate) fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn nothing_is_said_twice() {
        let inner = std::io::Error::from_raw_os_error(2);
        let library = anyhow!(inner).context("read x: No such file or directory (os error 2)");
        assert_eq!(
            told(&library),
            "read x: No such file or directory (os error 2)"
        );
        let outer = Err::<(), _>(anyhow!("c"))
            .context("b")
            .context("a")
            .unwrap_err();
        assert_eq!(told(&outer), "a: b: c");
    }
}
