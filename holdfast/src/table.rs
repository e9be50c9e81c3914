//! [`Table`]: aligned columns of text, and the text forms of values in them.

use std::fmt;

/// What a cell shows when its value is not known.
pub(crate) const UNKNOWN: &str = "-";

/// Rows under a header. Columns are as wide as their longest cell.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(header: &[&str]) -> Self {
        Self { rows: vec![header.iter().map(|&name| name.to_owned()).collect()] }
    }

    /// Adds a row with a cell for each column of the header. Cells may come from a program: control characters, which
    /// could rule the terminal, are escaped.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| printable(&cell)).collect());
    }

    /// Whether there is a row besides the header.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let length =
            |column: usize| move |row: &Vec<String>| row.get(column).map_or(0, |cell| cell.chars().count());
        let widths: Vec<usize> =
            (0..columns).map(|column| self.rows.iter().map(length(column)).max().unwrap_or(0)).collect();

        for row in &self.rows {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            writeln!(f, "{}", cells.join("  ").trim_end())?;
        }
        Ok(())
    }
}

/// The text with its control characters escaped.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

/// A value, or [`UNKNOWN`].
pub(crate) fn known<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), |value| value.to_string())
}

/// A number of bytes in the largest unit that it fills: `0 B`, `16 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    let filled = [("GiB", 30), ("MiB", 20), ("KiB", 10)].into_iter().find(|(_, shift)| bytes >> shift > 0);
    let (unit, shift) = filled.unwrap_or(("B", 0));
    format!("{} {unit}", bytes >> shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_aligns_columns_and_escapes_controls() {
        let mut table = Table::new(&["name", "reason"]);
        table.row(["sk1".to_owned(), String::new()]);
        table.row(["walproposer".to_owned(), "\u{1b}[2Jgone\n".to_owned()]);
        assert_eq!(table.to_string(), "name         reason\nsk1\nwalproposer  \\u{1b}[2Jgone\\n\n");
    }

    #[test]
    fn size_uses_largest_filled_unit() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (5 << 20, "5 MiB"), (3 << 40, "3072 GiB")]
        {
            assert_eq!(size(bytes), text);
        }
    }
}
