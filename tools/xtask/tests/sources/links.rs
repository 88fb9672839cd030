//! Relative links of Markdown files lead to existing files and headings.

use std::collections::{HashMap, HashSet};
use std::path::{Component, Path, PathBuf};

use regex::Regex;

use crate::files;

#[test]
fn relative_links_of_markdown_files_resolve() {
    let documents: HashMap<String, String> =
        files::with_extension(&["md"]).into_iter().map(|file| (file.path, file.text)).collect();
    let mut errors = Vec::new();
    let mut count = 0;
    for (path, text) in &documents {
        for (line, target) in links(text) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            count += 1;
            if let Err(reason) = check(&documents, path, &target) {
                errors.push(format!("{path}:{line}: {target}: {reason}"));
            }
        }
    }
    errors.sort();
    assert!(count > 0, "no links found");
    assert!(errors.is_empty(), "{} of {count} links do not resolve:\n{}", errors.len(), errors.join("\n"));
}

fn check(documents: &HashMap<String, String>, path: &str, target: &str) -> Result<(), &'static str> {
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let file = if file.is_empty() { path.to_owned() } else { join(path, file) };
    if !files::root().join(&file).exists() {
        return Err("the file does not exist");
    }
    match documents.get(&file) {
        Some(text) if !anchor.is_empty() && !anchors(text).contains(anchor) => Err("the file has no such heading"),
        _ => Ok(()),
    }
}

/// The path of a link target, relative to the root of the workspace.
fn join(document: &str, target: &str) -> String {
    let mut path = PathBuf::new();
    for component in Path::new(document).parent().unwrap().join(target).components() {
        match component {
            Component::ParentDir => {
                path.pop();
            }
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    path.to_str().unwrap().to_owned()
}

/// The lines outside of code blocks with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_code = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        !in_code && !is_fence
    })
}

fn links(text: &str) -> Vec<(usize, String)> {
    let code = Regex::new("`[^`]*`").unwrap();
    let target_pattern = Regex::new(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)|^\s*\[[^\]]+\]:\s*(\S+)").unwrap();
    let mut links = Vec::new();
    for (number, line) in prose(text) {
        // Code is replaced and not removed: it may be the text of a link.
        let line = code.replace_all(line, "code");
        let targets = target_pattern.captures_iter(&line).filter_map(|found| found.get(1).or(found.get(2)));
        links.extend(targets.map(|target| (number, target.as_str().to_owned())));
    }
    links
}

/// The anchors of headings, as GitHub generates them.
fn anchors(text: &str) -> HashSet<String> {
    let explicit = Regex::new(r#"<a (?:id|name)="([^"]+)""#).unwrap();
    let mut anchors: HashSet<String> = explicit.captures_iter(text).map(|found| found[1].to_owned()).collect();
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (_, line) in prose(text) {
        let Some(heading) = line.strip_prefix('#') else { continue };
        let Some((_, heading)) = heading.split_once(' ') else { continue };
        let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let anchor = kept.collect::<String>().to_lowercase().replace(' ', "-");
        let count = seen.entry(anchor.clone()).or_default();
        anchors.insert(if *count == 0 { anchor } else { format!("{anchor}-{count}") });
        *count += 1;
    }
    anchors
}

#[test]
fn links_and_anchors_are_parsed_outside_of_code() {
    let text = "# A `b`, c\n[x](y.md#z) and `[no](code)` and [`k`](#a-b-c)\n```\n[no](block)\n```\n[ref]: other.md\n# A `b`, c\n";
    let found: Vec<String> = links(text).into_iter().map(|(_, target)| target).collect();
    assert_eq!(found, ["y.md#z", "#a-b-c", "other.md"]);
    assert_eq!(anchors(text), HashSet::from(["a-b-c".to_owned(), "a-b-c-1".to_owned()]));
}
