//! The texts, the colors and the currency of the page.

use std::{collections::BTreeMap, fmt::Write as _};

use couponry_domain::{Currency, currency::UnknownCurrency};
use serde::Deserialize;
use serde_json::json;

const TEXTS: &str = include_str!("../../page/texts.json");

/// The texts of one language by their names.
type Texts = BTreeMap<String, String>;

/// The texts, the colors that differ from those of `style.css`, and the currency of discounts.
#[derive(Clone, Debug)]
pub(super) struct PageConfig {
    texts: BTreeMap<String, Texts>,
    colors: Colors,
    /// None: the page does not show amounts, because it does not know their unit.
    currency: Option<Currency>,
}

/// Why a configuration file is invalid.
#[derive(Debug, thiserror::Error)]
pub(super) enum PageConfigError {
    #[error("cannot parse the JSON")]
    Json(#[from] serde_json::Error),
    #[error("the language {0:?} must be a code of two or three lowercase letters, such as `en`")]
    Language(String),
    #[error("the text {language}.{name} does not exist; there are: {}", .known.join(", "))]
    UnknownText { language: String, name: String, known: Vec<String> },
    #[error("the color {0:?} must have the form #rrggbb")]
    Color(String),
    #[error(transparent)]
    Currency(#[from] UnknownCurrency),
}

/// A configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ConfigFile {
    texts: BTreeMap<String, Texts>,
    colors: Colors,
    currency: Option<String>,
}

/// The colors of both color schemes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Colors {
    light: ColorScheme,
    dark: ColorScheme,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct ColorScheme {
    accent: Option<String>,
    on_accent: Option<String>,
    background: Option<String>,
    surface: Option<String>,
    text: Option<String>,
    muted: Option<String>,
}

impl Default for PageConfig {
    fn default() -> Self {
        let texts = serde_json::from_str(TEXTS).expect("the built-in texts are valid");
        Self { texts, colors: Colors::default(), currency: None }
    }
}

impl PageConfig {
    /// The built-in texts with those of a file. A language that is not built in has the English texts that the file
    /// does not replace.
    pub(super) fn parse(json: &[u8]) -> Result<Self, PageConfigError> {
        let ConfigFile { texts, colors, currency } = serde_json::from_slice(json)?;
        let currency = currency.as_deref().map(str::parse).transpose()?;
        let mut config = Self { colors, currency, ..Self::default() };
        let english = config.texts["en"].clone();
        for (language, replaced) in texts {
            if !(2..=3).contains(&language.len()) || !language.bytes().all(|byte| byte.is_ascii_lowercase()) {
                return Err(PageConfigError::Language(language));
            }
            if let Some(name) = replaced.keys().find(|name| !english.contains_key(*name)) {
                let (name, known) = (name.clone(), english.into_keys().collect());
                return Err(PageConfigError::UnknownText { language, name, known });
            }
            config.texts.entry(language).or_insert_with(|| english.clone()).extend(replaced);
        }
        let mut colors = [&config.colors.light, &config.colors.dark].into_iter().flat_map(ColorScheme::properties);
        if let Some((_, invalid)) = colors.find(|(_, color)| !is_color(color)) {
            return Err(PageConfigError::Color(invalid.to_owned()));
        }
        drop(colors);
        Ok(config)
    }

    /// What `page.js` reads.
    pub(super) fn json(&self, identity: &str) -> String {
        let currency =
            self.currency.as_ref().map(|currency| json!({"code": currency.as_str(), "decimals": currency.decimals()}));
        json!({"identity": identity, "texts": self.texts, "currency": currency}).to_string()
    }

    /// The style sheet that replaces colors.
    pub(super) fn style(&self) -> String {
        let Colors { light, dark } = &self.colors;
        format!(
            ":root {{\n{}}}\n@media (prefers-color-scheme: dark) {{\n:root {{\n{}}}\n}}\n",
            light.declarations(),
            dark.declarations()
        )
    }
}

impl ColorScheme {
    /// The custom properties of the style sheet that are set.
    fn properties(&self) -> Vec<(&'static str, &str)> {
        let Self { accent, on_accent, background, surface, text, muted } = self;
        let all = [
            ("accent", accent),
            ("on-accent", on_accent),
            ("background", background),
            ("surface", surface),
            ("text", text),
            ("muted", muted),
        ];
        all.into_iter().filter_map(|(name, color)| Some((name, color.as_deref()?))).collect()
    }

    fn declarations(&self) -> String {
        self.properties().into_iter().fold(String::new(), |mut css, (name, color)| {
            let _ = writeln!(css, "--{name}: {color};");
            css
        })
    }
}

/// Anything else could add rules to the style sheet.
fn is_color(text: &str) -> bool {
    text.strip_prefix('#')
        .is_some_and(|digits| digits.len() == 6 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(json: &str) -> String {
        PageConfig::parse(json.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn languages_have_the_same_texts_with_the_same_values() {
        // The names, with the placeholders of their texts in alphabetical order.
        let names = |language: &str| -> Vec<(String, Vec<String>)> {
            let texts = &PageConfig::default().texts[language];
            let placeholders = |text: &str| {
                let names = text.split('{').skip(1).filter_map(|rest| rest.split_once('}'));
                let mut names: Vec<_> = names.map(|(name, _)| name.to_owned()).collect();
                names.sort();
                names
            };
            texts.iter().map(|(name, text)| (name.clone(), placeholders(text))).collect()
        };
        assert_eq!(names("en"), names("ko"));
    }

    #[test]
    fn file_replaces_single_texts_and_colors() {
        let json = r##"{"texts": {"en": {"title": "Summer"}, "fr": {"get": "Obtenir"}},
                         "colors": {"light": {"onAccent": "#00FF7f"}}, "currency": "RSD"}"##;
        let config = PageConfig::parse(json.as_bytes()).unwrap();
        assert_eq!(config.texts["en"]["title"], "Summer");
        assert_eq!(config.texts["en"]["get"], "Get my coupon");
        assert_eq!((config.texts["fr"]["get"].as_str(), config.texts["fr"]["title"].as_str()), ("Obtenir", "{event}"));
        assert_eq!(config.style().matches("--").count(), 1);
        assert!(config.style().contains("--on-accent: #00FF7f;"), "{}", config.style());
        let page: serde_json::Value = serde_json::from_str(&config.json("jwt")).unwrap();
        assert_eq!((&page["identity"], &page["texts"]["en"]["title"]), (&json!("jwt"), &json!("Summer")));
        assert_eq!(page["currency"], json!({"code": "RSD", "decimals": 2}));
    }

    #[test]
    fn invalid_file_is_refused_with_its_cause() {
        assert_eq!(
            error(r#"{"texts": {"en": {"caption": "x"}}}"#).split(';').next(),
            Some("the text en.caption does not exist")
        );
        assert!(error(r#"{"texts": {"English": {}}}"#).contains("\"English\" must be a code"));
        assert!(
            error(r#"{"colors": {"dark": {"text": "red; } * { display: none"}}}"#)
                .contains("must have the form #rrggbb")
        );
        assert!(error(r#"{"currency": "euro"}"#).starts_with("unknown currency \"euro\", expected a code of ISO 4217"));
        for invalid in ["", "[1]", r#"{"colours": {}}"#, r##"{"colors": {"dark": {"primary": "#000000"}}}"##] {
            assert_eq!(error(invalid), "cannot parse the JSON");
        }
    }
}
