//! Errors of settings that contradict each other.

/// Settings that contradict each other. The text names the flag to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(String);

impl SettingsError {
    /// An error with this text, which must not contain a secret.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// Fails with the text if the condition is false.
pub(crate) fn ensure(condition: bool, text: &str) -> Result<(), SettingsError> {
    if condition { Ok(()) } else { Err(SettingsError::new(text)) }
}
