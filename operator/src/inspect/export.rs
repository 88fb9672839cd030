//! `couponry-operator export EVENT coupons|issuances`.

use std::{
    borrow::Cow,
    io::{self, Write},
    process::ExitCode,
};

use clap::{Args, ValueEnum};
use couponry_domain::Uuid;
use couponry_postgres::{CouponStatus, Issuance, Database};
use couponry_runtime::telemetry::Telemetry;
use couponry_settings::PostgresSettings;
use futures::TryStreamExt as _;

use super::{EventArgs, words::time};

/// How much is written at a time.
const BUFFER: usize = 64 * 1024;

#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(flatten)]
    event: EventArgs,
    /// Which rows.
    #[arg(value_enum, value_name = "ROWS")]
    rows: Rows,
    /// Put an apostrophe before every userId that a spreadsheet would take for a formula (one that begins with =, +, -, @, a
    /// tab or a line end). Without it userIds are written as they are, for programs.
    #[arg(long)]
    for_spreadsheets: bool,
    #[command(flatten)]
    postgres: PostgresSettings,
    #[command(flatten)]
    pub(crate) telemetry: Telemetry,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Rows {
    /// Every coupon, in the order in which they are given, with who has it.
    Coupons,
    /// Every recorded issuance, in no order.
    Issuances,
}

impl Export {
    pub(crate) async fn run(&self) -> anyhow::Result<ExitCode> {
        let database = Database::open(&self.postgres)?;
        let uid = self.event.uid(&database).await?;
        anyhow::ensure!(database.event(uid).await?.is_some(), "Postgres has no event with the uid {uid}");
        match self.write(&database, uid, io::stdout().lock()).await {
            // Who reads has enough: `export … | head`.
            Err(error) if is_broken_pipe(&error) => {}
            result => result?,
        }
        Ok(ExitCode::SUCCESS)
    }

    /// As RFC 4180 wants it: a header, commas, CRLF, quotes where they are needed.
    async fn write(&self, database: &Database, uid: Uuid, to: impl Write) -> anyhow::Result<()> {
        let mut csv =
            csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).buffer_capacity(BUFFER).from_writer(to);
        match self.rows {
            Rows::Coupons => {
                csv.write_record(["couponKey", "discountType", "discountAmount", "issued", "userId", "issuedAt"])?;
                let mut coupons = database.stock_with_holders(uid);
                while let Some(coupon) = coupons.try_next().await? {
                    let CouponStatus { ordinal: _, code, discount, holder } = coupon;
                    let amount = discount.value.to_string();
                    let issued = if holder.is_some() { "true" } else { "false" };
                    let at = holder.as_ref().map_or_else(String::new, |(_, at)| time(*at));
                    let user = holder.as_ref().map_or(Cow::Borrowed(""), |(user, _)| self.cell(user.as_str()));
                    csv.write_record([code.as_str(), discount.kind.as_str(), &amount, issued, &user, &at])?;
                }
            }
            Rows::Issuances => {
                let header = ["userId", "couponKey", "discountType", "discountAmount", "issuedAt", "recordedAt"];
                csv.write_record(header)?;
                let mut issuances = database.issuances(uid);
                while let Some(issuance) = issuances.try_next().await? {
                    let Issuance { user_id, coupon, discount, issued_at, recorded_at } = issuance;
                    let amount = discount.value.to_string();
                    let (issued, recorded) = (time(issued_at), time(recorded_at));
                    let user = self.cell(user_id.as_str());
                    let row = [&user, coupon.as_str(), discount.kind.as_str(), &amount, &issued, &recorded];
                    csv.write_record(row)?;
                }
            }
        }
        csv.flush()?;
        Ok(())
    }

    /// The only text that users can choose.
    fn cell<'a>(&self, user: &'a str) -> Cow<'a, str> {
        if self.for_spreadsheets && user.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) {
            format!("'{user}").into()
        } else {
            user.into()
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
