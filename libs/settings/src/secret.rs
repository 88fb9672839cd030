//! Secrets as values of flags: given as they are, or kept in a file.

use std::{fmt, fs};

/// A value that must not get into a log. On the command line or in the environment `@PATH` means: what the file PATH holds,
/// without white space around it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The value parser for clap.
    pub fn parse(value: &str) -> Result<Self, SecretError> {
        let Some(path) = value.strip_prefix('@') else { return Ok(Self(value.to_owned())) };
        let held =
            fs::read_to_string(path).map_err(|source| SecretError::Unreadable { path: path.to_owned(), source })?;
        match held.trim() {
            "" => Err(SecretError::Empty { path: path.to_owned() }),
            secret => Ok(Self(secret.to_owned())),
        }
    }
}

impl From<&str> for Secret {
    fn from(secret: &str) -> Self {
        Self(secret.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Why a secret's file gives none.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot read the secret's file {path}: {source}")]
    Unreadable {
        /// Which file.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The file has nothing in it.
    #[error("the secret's file {path} is empty")]
    Empty {
        /// Which file.
        path: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_or_from_a_file_but_never_shown() {
        assert_eq!(Secret::parse("redis://x").unwrap().reveal(), "redis://x");
        let path = std::env::temp_dir().join(format!("secret-{}", std::process::id()));
        fs::write(&path, "redis://y\n").unwrap();
        let secret = Secret::parse(&format!("@{}", path.display())).unwrap();
        assert_eq!(secret.reveal(), "redis://y");
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        fs::write(&path, " \n").unwrap();
        assert!(Secret::parse(&format!("@{}", path.display())).unwrap_err().to_string().ends_with("is empty"));
        fs::remove_file(&path).unwrap();
        assert!(Secret::parse(&format!("@{}", path.display())).is_err());
    }
}
