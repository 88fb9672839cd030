//! Plain-text tables.

/// Formats rows under headings. Columns are as wide as their widest cell; numbers are right-aligned.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([headings[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let is_number = |cell: &str| cell == "-" || cell.chars().all(|c| c.is_ascii_digit() || c == ',');
    let numeric: Vec<bool> = (0..headings.len())
        .map(|column| !rows.is_empty() && rows.iter().all(|row| row.get(column).is_some_and(|cell| is_number(cell))))
        .collect();
    let line = |cells: &[String]| {
        let cells = cells.iter().zip(&widths).zip(&numeric).map(|((cell, width), is_number)| {
            if *is_number { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned() + "\n"
    };
    let headings: Vec<String> = headings.iter().map(|heading| (*heading).to_owned()).collect();
    line(&headings) + &rows.iter().map(|row| line(row)).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_aligns_text_left_and_numbers_right() {
        let rows = [vec!["summer".into(), "1,000".into(), "Open".into()], vec!["a".into(), "-".into(), "Ended".into()]];
        insta::assert_snapshot!(table(&["NAME", "TOTAL", "STATE"], &rows), @r"
        NAME     TOTAL   STATE
        summer   1,000   Open
        a            -   Ended
        ");
    }
}
