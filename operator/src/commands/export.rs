//! `couponry-operator export EVENT coupons|issuances|redemptions`: writes CSV to standard output.

use std::{
    borrow::Cow,
    io::{self, Write},
    process::ExitCode,
};

use clap::{Args, ValueEnum};
use couponry_domain::{IssuedCoupon, Uuid};
use couponry_output::StdoutError;
use couponry_postgres::{CouponWithHolder, Database, HolderUse, Issuance};
use couponry_runtime::telemetry::TelemetryArgs;
use couponry_settings::PostgresSettings;
use futures::TryStreamExt as _;

use crate::commands::{args::EventArgs, format::rfc3339};

/// Size of the write buffer in bytes.
const BUFFER: usize = 64 * 1024;

#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(flatten)]
    event: EventArgs,
    /// Which rows to export.
    #[arg(value_enum, value_name = "ROWS")]
    rows: Rows,
    /// Prefix every userId, orderId and caller that a spreadsheet would interpret as a formula (one that starts with =,
    /// +, -, @, a tab or a line break) with an apostrophe. Default: they are written unchanged, for programs.
    #[arg(long)]
    for_spreadsheets: bool,
    #[command(flatten)]
    postgres: PostgresSettings,
    #[command(flatten)]
    pub(crate) telemetry: TelemetryArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Rows {
    /// All coupons in issuing order, with their holders.
    Coupons,
    /// All recorded issuances, unordered.
    Issuances,
    /// All reservations, redemptions, releases and voids, each coupon's in their order.
    Redemptions,
}

impl Export {
    pub(crate) async fn run(&self) -> anyhow::Result<ExitCode> {
        let database = Database::open(&self.postgres)?;
        let uid = self.event.uid(&database).await?;
        anyhow::ensure!(database.event(uid).await?.is_some(), "the event {uid} does not exist in Postgres");
        match self.write(&database, uid, io::stdout().lock()).await {
            // The reader has closed the pipe, for example `export … | head`.
            Err(error) if is_broken_pipe(&error) => Err(StdoutError::Closed.into()),
            result => result.map(|()| ExitCode::SUCCESS),
        }
    }

    /// Writes CSV as specified by RFC 4180.
    async fn write(&self, database: &Database, uid: Uuid, to: impl Write) -> anyhow::Result<()> {
        let mut csv =
            csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).buffer_capacity(BUFFER).from_writer(to);
        match self.rows {
            Rows::Coupons => {
                let header =
                    ["couponKey", "discountType", "discountAmount", "recorded", "userId", "issuedAt", "validUntil"];
                csv.write_record(header)?;
                let mut coupons = database.stream_coupons_with_holders(uid);
                while let Some(coupon) = coupons.try_next().await? {
                    let CouponWithHolder { ordinal: _, code, discount, holder, valid_until, is_voided: _ } = coupon;
                    let amount = discount.value.to_string();
                    let recorded = if holder.is_some() { "true" } else { "false" };
                    let at = holder.as_ref().map_or_else(String::new, |(_, at)| rfc3339(*at));
                    let user = holder.as_ref().map_or(Cow::Borrowed(""), |(user, _)| self.cell(user.as_str()));
                    let until = valid_until.map_or_else(String::new, rfc3339);
                    csv.write_record([code.as_str(), discount.kind.as_str(), &amount, recorded, &user, &at, &until])?;
                }
            }
            Rows::Issuances => {
                let header =
                    ["userId", "couponKey", "discountType", "discountAmount", "issuedAt", "recordedAt", "validUntil"];
                csv.write_record(header)?;
                let mut issuances = database.stream_issuances(uid);
                while let Some(issuance) = issuances.try_next().await? {
                    let Issuance { issued, recorded_at, valid_until } = issuance;
                    let IssuedCoupon { user_id, coupon, discount, issued_at } = issued;
                    let amount = discount.value.to_string();
                    let (issued_at, recorded_at) = (rfc3339(issued_at), rfc3339(recorded_at));
                    let user = self.cell(user_id.as_str());
                    let until = valid_until.map_or_else(String::new, rfc3339);
                    let (coupon, kind) = (coupon.as_str(), discount.kind.as_str());
                    csv.write_record([&user, coupon, kind, &amount, &issued_at, &recorded_at, &until])?;
                }
            }
            Rows::Redemptions => {
                let header = ["couponKey", "userId", "seq", "kind", "orderId", "reservedUntil", "changedAt", "caller"];
                csv.write_record(header)?;
                let mut history = database.stream_uses(uid);
                while let Some(HolderUse { coupon, user_id, entry, actor }) = history.try_next().await? {
                    let order = entry.order.map_or_else(String::new, String::from);
                    let until = entry.until.map_or_else(String::new, rfc3339);
                    let (seq, at) = (entry.seq.to_string(), rfc3339(entry.at));
                    let (user, order, caller) = (
                        self.cell(user_id.as_str()),
                        self.cell(&order),
                        self.cell(actor.as_deref().unwrap_or_default()),
                    );
                    let kind = entry.kind.as_str();
                    csv.write_record([coupon.as_str(), &user, &seq, kind, &order, &until, &at, &caller])?;
                }
            }
        }
        csv.flush()?;
        Ok(())
    }

    /// For text that users or shops can choose.
    fn cell<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.for_spreadsheets && text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) {
            format!("'{text}").into()
        } else {
            text.into()
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let of = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    match error.downcast_ref::<csv::Error>().map(csv::Error::kind) {
        Some(csv::ErrorKind::Io(error)) => of(error),
        _ => error.downcast_ref().is_some_and(of),
    }
}
