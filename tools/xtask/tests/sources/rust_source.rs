//! The paths and modules in a Rust source file, from a simple tokenizer.

/// A path such as `crate::a::b`, with its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UsedPath {
    pub(crate) segments: Vec<String>,
    pub(crate) line: usize,
}

/// An imported path and the name which it has in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Import {
    pub(crate) path: UsedPath,
    /// The name; `*` for a glob import.
    pub(crate) name: String,
    pub(crate) is_public: bool,
}

/// What a file imports and declares outside of test code.
#[derive(Debug, Default)]
pub(crate) struct RustSource {
    /// The modules of `mod x;`.
    pub(crate) modules: Vec<String>,
    pub(crate) imports: Vec<Import>,
    /// Paths in expressions, types, and macros.
    pub(crate) paths: Vec<UsedPath>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    text: String,
    line: usize,
}

impl RustSource {
    pub(crate) fn parse(text: &str) -> Self {
        let tokens = without_tests(&tokenize(text));
        let mut source = Self::default();
        let mut at = 0;
        while at < tokens.len() {
            let text = |offset: usize| tokens.get(at + offset).map_or("", |token| token.text.as_str());
            let after_path = at > 0 && tokens[at - 1].text == "::";
            if text(0) == "use" && text(1) != "<" {
                let is_public = at > 0 && matches!(tokens[at - 1].text.as_str(), "pub" | ")");
                at += 1;
                source.parse_use(&tokens, &mut at, &mut Vec::new(), is_public);
            } else if text(0) == "mod" && text(2) == ";" {
                source.modules.push(text(1).to_owned());
                at += 3;
            } else if is_identifier(text(0)) && text(1) == "::" && !after_path {
                let line = tokens[at].line;
                let mut segments = vec![text(0).to_owned()];
                while tokens.get(at + 1).is_some_and(|token| token.text == "::")
                    && tokens.get(at + 2).is_some_and(|token| is_identifier(&token.text))
                {
                    segments.push(tokens[at + 2].text.clone());
                    at += 2;
                }
                source.paths.push(UsedPath { segments, line });
                at += 1;
            } else {
                at += 1;
            }
        }
        source
    }

    fn parse_use(&mut self, tokens: &[Token], at: &mut usize, prefix: &mut Vec<String>, is_public: bool) {
        let depth = prefix.len();
        while let Some(token) = tokens.get(*at) {
            *at += 1;
            match token.text.as_str() {
                "::" => {}
                "{" => {
                    while tokens.get(*at).is_some_and(|token| !matches!(token.text.as_str(), "}" | ";")) {
                        self.parse_use(tokens, at, prefix, is_public);
                        *at += usize::from(tokens.get(*at).is_some_and(|token| token.text == ","));
                    }
                    *at += 1;
                    break;
                }
                ";" | "," | "}" => {
                    *at -= 1;
                    break;
                }
                segment => {
                    if tokens.get(*at).is_some_and(|next| next.text == "::") {
                        prefix.push(segment.to_owned());
                        continue;
                    }
                    let mut path = prefix.clone();
                    if segment != "self" || path.is_empty() {
                        path.push(segment.to_owned());
                    }
                    let mut name = path.last().unwrap().clone();
                    if tokens.get(*at).is_some_and(|next| next.text == "as") {
                        name.clone_from(&tokens[*at + 1].text);
                        *at += 2;
                    }
                    self.imports.push(Import { path: UsedPath { segments: path, line: token.line }, name, is_public });
                }
            }
        }
        prefix.truncate(depth);
    }
}

fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Removes the items with `#[cfg(test)]` and `#[test]`.
fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let texts = |length: usize| tokens[at..].iter().take(length).map(|token| token.text.as_str());
        if texts(7).eq(["#", "[", "cfg", "(", "test", ")", "]"]) || texts(4).eq(["#", "[", "test", "]"]) {
            let mut depth = 0;
            while let Some(token) = tokens.get(at) {
                at += 1;
                match token.text.as_str() {
                    "(" | "[" | "{" => depth += 1,
                    ")" | "]" => depth -= 1,
                    "}" => {
                        depth -= 1;
                        if depth == 0 {
                            break;
                        }
                    }
                    ";" if depth == 0 => break,
                    _ => {}
                }
            }
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

/// Identifiers and punctuation with their lines. Comments and literals are skipped.
fn tokenize(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    let starts = |at: usize, pattern: &str| pattern.chars().enumerate().all(|(i, c)| chars.get(at + i) == Some(&c));
    while at < chars.len() {
        let start = at;
        let c = chars[at];
        if starts(at, "//") {
            while at < chars.len() && chars[at] != '\n' {
                at += 1;
            }
        } else if starts(at, "/*") {
            at = (at + 2..chars.len()).find(|&end| starts(end, "*/")).map_or(chars.len(), |end| end + 2);
        } else if let Some(end) = raw_string_end(&chars, at) {
            at = end;
        } else if c == '"' || (c == '\'' && is_char_literal(&chars, at)) {
            at += 1;
            while at < chars.len() && chars[at] != c {
                at += if chars[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if c.is_alphanumeric() || c == '_' {
            while at < chars.len() && (chars[at].is_alphanumeric() || chars[at] == '_') {
                at += 1;
            }
            tokens.push(Token { text: chars[start..at].iter().collect(), line });
        } else {
            at += if starts(at, "::") { 2 } else { 1 };
            if !c.is_whitespace() {
                tokens.push(Token { text: chars[start..at].iter().collect(), line });
            }
        }
        line += chars[start..at.min(chars.len())].iter().filter(|&&c| c == '\n').count();
    }
    tokens
}

/// The end of a raw string (`r".."`, `br#".."#`) which starts here.
fn raw_string_end(chars: &[char], at: usize) -> Option<usize> {
    if at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_') {
        return None;
    }
    let mut position = at + usize::from(matches!(chars[at], 'b' | 'c'));
    if chars.get(position) != Some(&'r') {
        return None;
    }
    position += 1;
    let hashes = chars[position..].iter().take_while(|&&c| c == '#').count();
    position += hashes;
    if chars.get(position) != Some(&'"') {
        return None;
    }
    let is_end =
        |end: &usize| chars[*end] == '"' && chars[end + 1..].iter().take_while(|&&c| c == '#').count() >= hashes;
    Some((position + 1..chars.len()).find(is_end).map_or(chars.len(), |end| end + 1 + hashes))
}

/// Distinguishes `'a'` from the lifetime `'a`.
fn is_char_literal(chars: &[char], at: usize) -> bool {
    chars.get(at + 1) == Some(&'\\') || chars.get(at + 2) == Some(&'\'')
}

#[test]
fn imports_modules_and_paths_are_parsed_outside_of_tests_and_literals() {
    let source = RustSource::parse(
        r##"
//! use crate::comment::A;
mod child;
pub(crate) use child::B as C;
use crate::{a::{self, b}, x::*};
fn f<'a>(t: &'a str) -> char { let _ = "crate::string::D"; let _ = r#"" crate::raw::E"#; crate::g::h(); '"' }
#[cfg(test)]
mod tests { use super::only_in_tests; }
#[cfg(test)]
mod more_tests;
struct Z(super::k::L);
"##,
    );
    let imports: Vec<_> =
        source.imports.iter().map(|i| (i.path.segments.join("::"), i.name.as_str(), i.is_public)).collect();
    let expected =
        [("child::B", "C", true), ("crate::a", "a", false), ("crate::a::b", "b", false), ("crate::x::*", "*", false)];
    assert_eq!(imports, expected.map(|(path, name, is_public)| (path.to_owned(), name, is_public)));
    assert_eq!(source.modules, ["child"]);
    let paths: Vec<_> = source.paths.iter().map(|path| (path.segments.join("::"), path.line)).collect();
    assert_eq!(paths, [("crate::g::h".to_owned(), 6), ("super::k::L".to_owned(), 11)]);
}
