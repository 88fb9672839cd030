//! Each type of problem has a page in `docs/reference/problems`, and each page is about a type.

use std::collections::BTreeMap;

use regex::Regex;

use crate::files;

const PAGES: &str = "docs/reference/problems/";
/// The types that several programs use, with their status.
const SHARED: &str = "libs/runtime/src/problem.rs";

/// The types in the sources, with their titles.
fn types() -> BTreeMap<String, String> {
    let shared = Regex::new(r#"StatusCode::[A-Z_]+, "([a-z-]+)", "([^"]+)";"#).unwrap();
    let specific = Regex::new(r#"\(\s*"([a-z-]+)",\s*"([^"]+)"\s*,?\)"#).unwrap();
    let mut types = BTreeMap::new();
    for file in files::with_extension(&["rs"]) {
        let pattern = if file.path == SHARED {
            &shared
        } else if file.text.contains(".with_type(") && !file.path.contains("/tests/") {
            &specific
        } else {
            continue;
        };
        let before = types.len();
        types.extend(pattern.captures_iter(&file.text).map(|found| (found[1].to_owned(), found[2].to_owned())));
        assert!(types.len() > before, "{} has no type of a problem", file.path);
    }
    types
}

#[test]
fn each_problem_type_has_a_page_and_each_page_a_type() {
    let sources: BTreeMap<String, String> =
        files::with_extension(&["rs", "md"]).into_iter().map(|file| (file.path, file.text)).collect();
    let base = Regex::new(r#"BASE_URL: &str = "([^"]+)""#).unwrap();
    let base = &base.captures(&sources[SHARED]).unwrap()[1];
    let statuses = Regex::new(r"^\(([0-9]{3})\)\. ").unwrap();
    let mut pages: BTreeMap<&str, &str> = sources
        .iter()
        .filter_map(|(path, text)| Some((path.strip_prefix(PAGES)?.strip_suffix(".md")?, text.as_str())))
        .collect();
    let index = pages.remove("README").unwrap();
    let mut errors = Vec::new();
    for (name, title) in types() {
        let Some(page) = pages.remove(name.as_str()) else {
            errors.push(format!("{PAGES}{name}.md is missing"));
            continue;
        };
        let rest = page.strip_prefix(&format!("# {title}\n\n`{base}{name}` "));
        let Some(status) = rest.and_then(|rest| statuses.captures(rest)) else {
            errors.push(format!("{PAGES}{name}.md does not begin with `# {title}`, its address and its status"));
            continue;
        };
        if !index.contains(&format!("| [`{name}`]({name}.md) | {} | {title} |", &status[1])) {
            errors.push(format!("{PAGES}README.md has no row of {name}"));
        }
    }
    errors.extend(pages.keys().map(|name| format!("{PAGES}{name}.md is not about a type of a problem")));
    assert!(errors.is_empty(), "{}", errors.join("\n"));
}
