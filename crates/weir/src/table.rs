//! Tables for terminals.

/// How a column's values stand under its title.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Lines of columns with two spaces between them; no spaces at the end of a line.
pub(crate) fn table(columns: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let width = |at: usize, title: &str| {
        let longest = rows
            .iter()
            .filter_map(|row| row.get(at))
            .map(|cell| cell.chars().count())
            .max();
        longest.unwrap_or(0).max(title.chars().count())
    };
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(at, (title, _))| width(at, title))
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .zip(columns.iter().zip(&widths))
            .map(|(cell, ((_, align), width))| match align {
                Align::Left => format!("{cell:<width$}"),
                Align::Right => format!("{cell:>width$}"),
            })
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(&mut columns.iter().map(|(title, _)| *title))];
    lines.extend(
        rows.iter()
            .map(|row| line(&mut row.iter().map(String::as_str))),
    );
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows =
            [["web", "7", "ok"], ["x", "1234", ""]].map(|row| row.map(str::to_owned).to_vec());
        let columns = [
            ("NAME", Align::Left),
            ("N", Align::Right),
            ("WHY", Align::Left),
        ];
        assert_eq!(
            table(&columns, &rows),
            "NAME     N  WHY\nweb      7  ok\nx     1234"
        );
        assert_eq!(table(&columns, &[]), "NAME  N  WHY");
    }
}
