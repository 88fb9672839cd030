//! The language of a client.

use axum::http::{HeaderMap, header::ACCEPT_LANGUAGE};

/// A language of the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Language {
    English,
    Korean,
}

impl Language {
    /// The language that the client prefers (`Accept-Language`: RFC 9110, 12.5.4), or else English.
    pub(super) fn preferred(headers: &HeaderMap) -> Self {
        let lines = headers.get_all(ACCEPT_LANGUAGE).iter().filter_map(|value| value.to_str().ok());
        let mut best: Option<(u16, Self)> = None;
        let (mut is_named, mut any) = ([false; 2], None);
        for (range, quality) in lines.flat_map(|line| line.split(',')).filter_map(parse) {
            let language = match range.split('-').next().unwrap_or_default() {
                "*" => {
                    any = Some(quality);
                    continue;
                }
                primary if primary.eq_ignore_ascii_case(Self::English.tag()) => Self::English,
                primary if primary.eq_ignore_ascii_case(Self::Korean.tag()) => Self::Korean,
                _ => continue,
            };
            is_named[language as usize] = true;
            // The first one of those with the same quality.
            if best.is_none_or(|(highest, _)| quality > highest) {
                best = Some((quality, language));
            }
        }
        let unnamed = [Self::English, Self::Korean].into_iter().find(|language| !is_named[*language as usize]);
        if let (Some(quality), Some(language)) = (any, unnamed)
            && best.is_none_or(|(highest, _)| quality > highest)
        {
            best = Some((quality, language));
        }
        best.filter(|(quality, _)| *quality > 0).map_or(Self::English, |(_, language)| language)
    }

    /// The language tag (RFC 5646).
    pub(super) const fn tag(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Korean => "ko",
        }
    }
}

/// A language range, and its quality in thousandths. None: it is not valid.
fn parse(element: &str) -> Option<(&str, u16)> {
    let (range, weight) = element.split_once(';').unwrap_or((element, "q=1"));
    let (name, value) = weight.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("q") {
        return None;
    }
    let (integer, fraction) = value.trim().split_once('.').unwrap_or((value.trim(), ""));
    let is_valid = fraction.len() <= 3 && fraction.bytes().all(|digit| digit.is_ascii_digit());
    let thousandths = match integer {
        "0" if is_valid => format!("{fraction:0<3}").parse().ok()?,
        "1" if is_valid => 1000,
        _ => return None,
    };
    Some((range.trim(), thousandths))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn preferred_language_has_the_highest_quality() {
        use Language::{English, Korean};
        let preferred = |lines: &[&'static str]| {
            let lines = lines.iter().map(|line| (ACCEPT_LANGUAGE, HeaderValue::from_static(line)));
            Language::preferred(&lines.collect())
        };
        for (lines, expected) in [
            (&[][..], English),
            (&[""], English),
            (&["ko"], Korean),
            (&["KO-kr"], Korean),
            (&["kok"], English),
            (&["fr"], English),
            (&["ko-KR,ko;q=0.9,en-US;q=0.8,en;q=0.7"], Korean),
            (&["en-US,en;q=0.9,ko;q=0.8"], English),
            (&["ko;q=0.5, en;q=0.6"], English),
            (&["fr, ko;q=0.001"], Korean),
            (&["en, ko"], English),
            (&["ko, en"], Korean),
            (&["fr", "ko ; Q = 0.5", "en;q=0.4"], Korean),
            (&["*"], English),
            (&["en;q=0, *"], Korean),
            (&["en;q=0.5, *"], Korean),
            (&["ko;q=0"], English),
            (&["ko;q=0, en;q=0"], English),
            (&["*;q=0.3, ko;q=0.5"], Korean),
            // Invalid ranges are ignored.
            (&["ko;q=2, en;q=0.1"], English),
            (&["ko;q=0.1234"], English),
            (&["ko;level=1"], English),
        ] {
            assert_eq!(preferred(lines), expected, "{lines:?}");
        }
    }
}
