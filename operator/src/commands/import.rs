//! `couponry-operator import EVENT`: imports the codes of an event from standard input.
//!
//! # Guarantees
//! All codes of the file are imported, or none. An interrupted import leaves nothing, and can be repeated. So can one
//! whose result is unknown: a file that was imported already is recognized by its hash.

use std::{io, process::ExitCode};

use anyhow::{Context as _, ensure};
use clap::Args;
use couponry_crds::{
    CodeSource, CouponEvent,
    status::{condition, reason},
};
use couponry_domain::{CouponBatch, code_statistic::MIN_GUESS_BITS};
use couponry_output::{Stderr, Stdout};
use couponry_postgres::{CodeFile, CodeLine, Database, DatabaseError, ImportOutcome, StoredEvent};
use couponry_runtime::telemetry::TelemetryArgs;
use couponry_settings::PostgresSettings;
use tokio::{sync::mpsc, task::spawn_blocking};

use crate::{
    commands::{
        args::EventArgs,
        code_file::{self, ReadFile},
        format::group_digits,
    },
    reconcile::desired_state::DesiredState,
};

/// The file was refused.
const REFUSED: u8 = 1;
/// Chunks that are read before Postgres has stored the previous ones.
const READ_AHEAD: usize = 2;
/// How many codes are received between two lines of progress.
const PROGRESS_STEP: u64 = 1_000_000;

#[derive(Debug, Args)]
pub(crate) struct Import {
    #[command(flatten)]
    event: EventArgs,
    #[command(flatten)]
    postgres: PostgresSettings,
    #[command(flatten)]
    pub(crate) telemetry: TelemetryArgs,
}

impl Import {
    pub(crate) async fn run(&self) -> anyhow::Result<ExitCode> {
        let database = Database::open(&self.postgres)?;
        let event = self.event.resource().await?;
        let desired = DesiredState::from_manifest(&event)?;
        let name = &desired.name;
        ensure!(
            desired.code_source == CodeSource::Imported,
            "the codes of the event {name} are generated: only an event with code.source Imported accepts codes"
        );
        let stored = database.event(desired.uid).await?.filter(|stored| stored.generation >= desired.generation);
        let stored = stored.with_context(|| {
            format!("the operator has not processed the manifest of the event {name} yet: retry in some seconds")
        })?;
        let batch = desired.awaited_codes(&stored).map_err(anyhow::Error::msg)?;
        if batch.is_empty() {
            return self.repeat(&database, &stored).await;
        }
        ensure!(
            is_waiting(&event),
            "the event {name} does not wait for codes: retry in some seconds, or see `kubectl couponry status {name}`"
        );
        let (file, outcome) = match import(&database, &stored, &batch).await? {
            Ok(imported) => imported,
            Err(problems) => return refuse(&problems),
        };
        let problems = match outcome {
            ImportOutcome::Imported => {
                report(&batch, &file)?;
                return Ok(ExitCode::SUCCESS);
            }
            ImportOutcome::Repeated { lines } => {
                let problem = |(line, earlier)| format!("line {line}: the code is that of line {earlier}");
                lines.into_iter().map(problem).collect::<Vec<_>>()
            }
            ImportOutcome::InStock { lines } => {
                lines.into_iter().map(|line| format!("line {line}: the event has this code already")).collect()
            }
        };
        refuse(&problems)
    }

    /// Succeeds if the file is the one that was imported last: the caller may not have received the result.
    async fn repeat(&self, database: &Database, stored: &StoredEvent) -> anyhow::Result<ExitCode> {
        let latest = database.code_imports(stored.uid).await?.pop();
        let none = CouponBatch { first_ordinal: 0, counts: Vec::new() };
        let ReadFile { file, .. } = spawn_blocking(move || code_file::read(io::stdin().lock(), &none, |_| true))
            .await?
            .context("cannot read the file")?;
        if latest.is_some_and(|latest| latest.file.sha256 == file.sha256) {
            writeln!(Stdout, "the codes of this file were imported already")?;
            return Ok(ExitCode::SUCCESS);
        }
        refuse(&[format!(
            "the event {} has all of its {} codes: raise totalCount to add codes",
            stored.name,
            group_digits(stored.generated())
        )])
    }
}

/// Reads the file into Postgres. The inner error is what is wrong with the file.
async fn import(
    database: &Database,
    stored: &StoredEvent,
    batch: &CouponBatch,
) -> anyhow::Result<Result<(CodeFile, ImportOutcome), Vec<String>>> {
    let mut import = database.begin_code_import().await?;
    let (sender, mut chunks) = mpsc::channel::<Vec<CodeLine>>(READ_AHEAD);
    let expected = batch.clone();
    let reading = spawn_blocking(move || {
        code_file::read(io::stdin().lock(), &expected, |chunk| sender.blocking_send(chunk).is_ok())
    });
    let mut staged = 0;
    while let Some(chunk) = chunks.recv().await {
        import.stage(&chunk).await?;
        let before = staged;
        staged += chunk.len() as u64;
        if before / PROGRESS_STEP != staged / PROGRESS_STEP {
            writeln!(Stderr, "{} of {} codes received", group_digits(staged), group_digits(batch.len()));
        }
    }
    let ReadFile { file, problems } = reading.await?.context("cannot read the file; nothing was imported")?;
    if !problems.is_empty() {
        return Ok(Err(problems));
    }
    writeln!(Stderr, "{} codes received, adding them to the event", group_digits(staged));
    match import.commit(stored, batch, &file).await {
        Ok(outcome) => Ok(Ok((file, outcome))),
        Err(error @ (DatabaseError::EventChanged(_) | DatabaseError::StockChanged { .. })) => Err(error)
            .context("the event was changed, or other codes were imported, at the same time; nothing was imported"),
        Err(error) => Err(error.into()),
    }
}

/// Whether the operator waits for codes. It does not while something blocks the event, for example a retired one.
fn is_waiting(event: &CouponEvent) -> bool {
    event.status.as_ref().is_some_and(|status| {
        let condition = status.condition(condition::PRELOADED);
        status.observed_generation == event.metadata.generation
            && condition.is_some_and(|condition| condition.reason == reason::AWAITING_CODES)
    })
}

fn refuse(problems: &[String]) -> anyhow::Result<ExitCode> {
    for problem in problems {
        writeln!(Stdout, "{problem}")?;
    }
    writeln!(Stdout, "REFUSED: nothing was imported")?;
    Ok(ExitCode::from(REFUSED))
}

fn report(batch: &CouponBatch, file: &CodeFile) -> anyhow::Result<()> {
    if file.guess_bits < MIN_GUESS_BITS {
        writeln!(
            Stdout,
            "WARN  the codes can be guessed: they are short or consecutive, and about one of {} guesses matches a code",
            group_digits(1_u64 << file.guess_bits)
        )?;
    }
    writeln!(Stdout, "OK: {} codes imported, SHA-256 of the file {}", group_digits(batch.len()), file.hash())?;
    Ok(())
}
