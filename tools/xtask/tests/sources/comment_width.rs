//! Comments are at most 120 columns wide. rustfmt checks this only with a nightly compiler.

use crate::files;

const MAX_WIDTH: usize = 120;

#[test]
fn comment_lines_are_at_most_120_columns_wide() {
    let mut errors = Vec::new();
    for file in files::with_extension(&["rs", "lua", "sql"]) {
        let marker = if file.extension() == "rs" { "//" } else { "--" };
        for (number, line) in (1..).zip(file.text.lines()) {
            let width = line.chars().count();
            if width > MAX_WIDTH && line.trim_start().starts_with(marker) {
                errors.push(format!("{}:{number}: {width} columns", file.path));
            }
        }
    }
    assert!(errors.is_empty(), "{} comments are wider than {MAX_WIDTH} columns:\n{}", errors.len(), errors.join("\n"));
}
