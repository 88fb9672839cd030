//! Errors as one line of text.

/// The error and its causes in one line. Skips a cause which the previous text contains: errors of `kube` include
/// theirs.
pub(crate) fn chain(error: &anyhow::Error) -> String {
    error.chain().skip(1).fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_chain_skips_repeated_causes() {
        let error = anyhow::anyhow!("no such file").context("cannot read x: no such file").context("cannot connect");
        assert_eq!(chain(&error), "cannot connect: cannot read x: no such file");
    }
}
