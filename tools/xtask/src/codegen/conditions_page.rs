//! The reference page of conditions and their reasons.

use std::fmt::Write;

use anyhow::{Result, ensure};

pub(super) const SOURCE: &str = "crds/src/status.rs";

/// Reads the constants of the modules `condition` and `reason` with their doc comments. A comment `// Open` starts a
/// group of reasons.
pub(super) fn generate(source: &str) -> Result<String> {
    let mut page = String::from(
        "Conditions of `status.conditions`, and the values of their field `reason`. See the [runbook](../operate/runbook.md)\n\
         for the actions.\n",
    );
    let (mut module, mut doc, mut count) = ("", String::new(), 0);
    let mut table_is_open = false;
    for line in source.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("pub mod ").and_then(|rest| rest.strip_suffix(" {")) {
            module = name;
            let title = if name == "condition" { "Conditions" } else { "Reasons" };
            let _ = write!(page, "\n## {title}\n");
            table_is_open = false;
            doc.clear();
        } else if module.is_empty() {
        } else if let Some(text) = line.strip_prefix("///") {
            doc.push_str(text);
        } else if let Some(group) = line.strip_prefix("// ").filter(|_| module == "reason") {
            let _ = write!(page, "\n### {group}\n");
            table_is_open = false;
        } else if let Some((_, value)) = line.split_once(": &str = \"") {
            if !table_is_open {
                let column = if module == "condition" { "Condition" } else { "Reason" };
                let _ = write!(page, "\n| {column} | Meaning |\n|---|---|\n");
                table_is_open = true;
            }
            ensure!(!doc.is_empty(), "the constant with the value {value} has no doc comment");
            let _ = writeln!(page, "| `{}` | {} |", value.trim_end_matches("\";"), doc.trim());
            doc.clear();
            count += 1;
        }
    }
    ensure!(count > 20, "only {count} conditions and reasons found in {SOURCE}");
    Ok(page)
}
