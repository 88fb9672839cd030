//! Renders an error together with its causes.

use std::error::Error;

/// The error followed by its sources, separated by colons: `cannot reach Redis: connection refused`.
///
/// Errors of this workspace never repeat their source in `Display`. Some third-party errors do; a source whose text
/// is already included is left out.
pub fn error_chain<'a>(error: impl Into<Box<dyn Error + Send + Sync + 'a>>) -> String {
    let error = error.into();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    #[test]
    fn error_chain_prints_each_cause_once() {
        let refused = Layer { text: "connection refused", source: None };
        let connect = Layer { text: "connect: connection refused", source: Some(Box::new(refused)) };
        let error = Layer { text: "cannot reach Redis", source: Some(Box::new(connect)) };
        assert_eq!(error_chain(&error), "cannot reach Redis: connect: connection refused");
        assert_eq!(error_chain("no response"), "no response");
    }
}
