//! Rows whose columns are aligned, by the width that a terminal gives to characters.

use unicode_width::UnicodeWidthStr;

use super::text::escape;

/// On which side of its column a cell stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table under way. All of it is in memory: for lists of snapshots, not of files.
pub struct Table {
    columns: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with this head.
    pub fn new(head: &[(&str, Align)]) -> Self {
        let columns = head.iter().map(|(_, align)| *align).collect();
        Self { columns, rows: vec![head.iter().map(|(name, _)| (*name).to_owned()).collect()] }
    }

    /// Adds a row. Cells are escaped.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.into_iter().map(|cell| escape(cell.as_bytes())).collect());
    }

    /// The lines of the table.
    pub fn lines(&self) -> Vec<String> {
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.width()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let line = |row: &Vec<String>| {
            let mut line = String::new();
            for ((cell, width), align) in row.iter().zip(&widths).zip(&self.columns) {
                let padding = " ".repeat(width.saturating_sub(cell.width()));
                match align {
                    Align::Left => line.extend([cell, padding.as_str(), "  "]),
                    Align::Right => line.extend([padding.as_str(), cell, "  "]),
                }
            }
            line.truncate(line.trim_end().len());
            line
        };
        self.rows.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_a_terminal_shows_them() {
        let mut table = Table::new(&[("name", Align::Left), ("size", Align::Right)]);
        table.row(vec!["\u{65e5}\u{672c}\u{8a9e}".to_owned(), "1".to_owned()]);
        table.row(vec!["a\nb".to_owned(), "1000".to_owned()]);
        assert_eq!(table.lines(), ["name    size", "\u{65e5}\u{672c}\u{8a9e}     1", "a\\x0ab  1000"]);
    }
}
