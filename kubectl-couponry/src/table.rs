//! Rows under headings.

/// Columns as wide as their widest cell; the last is not padded. Numbers are aligned to the right.
pub(crate) fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([heads[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let is_number = |cell: &str| cell == "-" || cell.chars().all(|c| c.is_ascii_digit() || c == ',');
    let numeric: Vec<bool> = (0..heads.len())
        .map(|column| !rows.is_empty() && rows.iter().all(|row| row.get(column).is_some_and(|cell| is_number(cell))))
        .collect();
    let line = |cells: &[String]| {
        let cells = cells.iter().zip(&widths).zip(&numeric).map(|((cell, width), is_number)| {
            if *is_number { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned() + "\n"
    };
    let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
    line(&heads) + &rows.iter().map(|row| line(row)).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["summer".into(), "1,000".into(), "Open".into()], vec!["a".into(), "-".into(), "Ended".into()]];
        let expected = "NAME     TOTAL   STATE\nsummer   1,000   Open\na            -   Ended\n";
        assert_eq!(table(&["NAME", "TOTAL", "STATE"], &rows), expected);
    }
}
