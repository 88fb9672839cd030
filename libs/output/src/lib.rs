//! Standard output and standard error of a command.
//!
//! `print!` panics if the disk is full, or if the reader of a pipe has ended, as in `status | head -1`. `write!(Stdout,
//! …)` returns an error instead. A command whose reader has ended exits without a message, with [`CLOSED`].

use std::{
    fmt,
    io::{self, Write as _},
};

/// Exit code of a command whose standard output was closed: that of a program killed by SIGPIPE.
pub const CLOSED: u8 = 141;

/// Standard output, for `write!` and `writeln!`.
#[derive(Clone, Copy, Debug)]
pub struct Stdout;

/// Standard error, for `writeln!`. A failed write is ignored, because it cannot be reported.
#[derive(Clone, Copy, Debug)]
pub struct Stderr;

/// A failed write to standard output.
#[derive(Debug, thiserror::Error)]
pub enum StdoutError {
    /// The reader of the pipe has ended.
    #[error("standard output is closed")]
    Closed,
    /// For example, the disk is full.
    #[error("cannot write to standard output")]
    Failed(#[source] io::Error),
}

impl Stdout {
    /// Writes the text at once, without waiting for the end of a line.
    pub fn write_fmt(self, text: fmt::Arguments<'_>) -> Result<(), StdoutError> {
        self.write_all(text.to_string().as_bytes())
    }

    /// Writes the bytes at once, without waiting for the end of a line.
    pub fn write_all(self, bytes: &[u8]) -> Result<(), StdoutError> {
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
        written.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => StdoutError::Closed,
            _ => StdoutError::Failed(error),
        })
    }
}

impl Stderr {
    /// Writes the text.
    pub fn write_fmt(self, text: fmt::Arguments<'_>) {
        let _ = io::stderr().write_fmt(text);
    }
}
