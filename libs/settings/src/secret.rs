//! Secrets as values of flags, given directly or read from a file.

use std::fs;

use secrecy::SecretString;

/// The value parser for clap. On the command line and in the environment `@PATH` means the content of the file PATH,
/// without surrounding white space.
pub fn parse_secret(value: &str) -> Result<SecretString, SecretError> {
    let Some(path) = value.strip_prefix('@') else { return Ok(value.into()) };
    let content = fs::read_to_string(path).map_err(|source| SecretError::Read { path: path.to_owned(), source })?;
    match content.trim() {
        "" => Err(SecretError::Empty { path: path.to_owned() }),
        secret => Ok(secret.into()),
    }
}

/// A secret cannot be read from its file.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot read the secret file {path}")]
    Read {
        /// The file.
        path: String,
        /// The I/O error.
        source: std::io::Error,
    },
    /// The file is empty.
    #[error("the secret file {path} is empty")]
    Empty {
        /// The file.
        path: String,
    },
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn secret_is_a_literal_value_or_the_content_of_a_file() {
        assert_eq!(parse_secret("redis://x").unwrap().expose_secret(), "redis://x");
        let path = std::env::temp_dir().join(format!("secret-{}", std::process::id()));
        fs::write(&path, "redis://y\n").unwrap();
        let secret = parse_secret(&format!("@{}", path.display())).unwrap();
        assert_eq!(secret.expose_secret(), "redis://y");
        assert!(!format!("{secret:?}").contains("redis"));
        fs::write(&path, " \n").unwrap();
        assert!(parse_secret(&format!("@{}", path.display())).unwrap_err().to_string().ends_with("is empty"));
        fs::remove_file(&path).unwrap();
        assert!(parse_secret(&format!("@{}", path.display())).is_err());
    }
}
