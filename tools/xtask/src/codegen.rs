//! `cargo xtask codegen`.

use std::fs;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::cargo;

/// What is generated, from the workspace's root.
pub(crate) const CRD: &str = "crds/couponevents.couponry.dev.yaml";

/// The same for Helm, which reads nothing outside of a chart.
const CRD_IN_CHART: &str = "charts/couponry/files/couponevents.couponry.dev.yaml";

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Writes nothing; fails when a file is not what would be written.
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let generated = crd()?;
    for file in [CRD, CRD_IN_CHART] {
        let path = cargo::root().join(file);
        let present = fs::read_to_string(&path).unwrap_or_default();
        if present == generated {
            eprintln!("{file} is up to date");
        } else if options.check {
            let difference = first_difference(&present, &generated);
            bail!("{file} is not what the code says: run `cargo xtask codegen`\n{difference}");
        } else {
            fs::write(&path, &generated).with_context(|| format!("cannot write {}", path.display()))?;
            eprintln!("wrote {file}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn crd() -> Result<String> {
    cargo::run(["build", "--quiet", "--package", "couponry-crds", "--bin", "crdgen"])?;
    let generator = cargo::built("debug")?.join("crdgen");
    let output = Command::new(&generator)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {}", generator.display()))?;
    ensure!(output.status.success(), "the generator of the CRD failed ({})", output.status);
    String::from_utf8(output.stdout).context("the generator of the CRD printed something that is not UTF-8")
}

fn first_difference(present: &str, generated: &str) -> String {
    let (mut old, mut new) = (present.lines(), generated.lines());
    let mut line = 0;
    loop {
        line += 1;
        match (old.next(), new.next()) {
            (None, None) => return "the files differ only in their ends of lines".to_owned(),
            (a, b) if a == b => {}
            (a, b) => {
                return format!(
                    "first difference, line {line}:\n- {}\n+ {}",
                    a.unwrap_or("(end of file)"),
                    b.unwrap_or("(end of file)")
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::first_difference;

    #[test]
    fn the_first_difference_is_shown() {
        assert_eq!(first_difference("a\nb\n", "a\nc\n"), "first difference, line 2:\n- b\n+ c");
        assert_eq!(first_difference("", "a\n"), "first difference, line 1:\n- (end of file)\n+ a");
    }
}
