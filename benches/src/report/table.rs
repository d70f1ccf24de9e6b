//! A plain table: columns as wide as they must be, numbers to the right.

use std::fmt;

/// Rows of text under a header.
#[derive(Clone, Debug)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    left: Vec<usize>,
}

impl Table {
    /// A table with these columns; an all-empty header is not printed.
    pub fn new<const N: usize>(header: [&str; N]) -> Self {
        let last_is_text = N.saturating_sub(1);
        let left = if header[last_is_text..].iter().all(|h| h.is_empty()) { vec![last_is_text] } else { Vec::new() };
        Self { header: header.map(str::to_owned).into(), rows: Vec::new(), left }
    }

    /// Aligns a column, counted from 0, to the left.
    #[must_use]
    pub fn left(mut self, column: usize) -> Self {
        self.left.push(column);
        self
    }

    /// Adds a row; it has as many cells as the header.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.header.len());
        self.rows.push(cells.into());
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = Some(&self.header).filter(|h| h.iter().any(|cell| !cell.is_empty()));
        let lines = || shown.into_iter().chain(&self.rows);
        let width = |column: usize| lines().map(|l| l[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        for cells in lines() {
            let mut line = String::new();
            for (column, (cell, width)) in cells.iter().zip(&widths).enumerate() {
                let gap = if column == 0 { "" } else { "  " };
                line += &if self.left.contains(&column) { format!("{gap}{cell:<width$}") } else { format!("{gap}{cell:>width$}") };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["name", "size", "note"]).left(0).left(2);
        table.row(["a".into(), "12345".into(), String::new()]);
        table.row(["long one".into(), "1".into(), "x".into()]);
        assert_eq!(table.to_string(), "name       size  note\na         12345\nlong one      1  x\n");
    }
}
