//! How long a coupon is valid. The rules of time zones are compiled in, so that all programs of a release compute the
//! same time, whatever is installed on their machines.

use std::{fmt, str::FromStr, sync::LazyLock};

use jiff::{
    Span, Timestamp,
    tz::{TimeZone, TimeZoneDatabase},
};

/// How long a coupon is valid.
///
/// Its text is stored in Postgres and Redis: the duration or the time, the time zone, and `end-of-day` if it is
/// extended to the end of the day. For example `P30D Asia/Seoul end-of-day`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validity {
    end: ValidityEnd,
    time_zone: TimeZone,
    end_of_day: bool,
}

/// When the validity of a coupon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValidityEnd {
    /// This long after the coupon was issued.
    After(CalendarDuration),
    /// At this time (milliseconds since the Unix epoch).
    At(i64),
}

/// A duration in units of the calendar. A month after 31 January is the last day of February, and a day is 23 or 25
/// hours long when the clocks change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CalendarDuration {
    months: u32,
    days: u32,
    minutes: u32,
}

/// The validity cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidValidity {
    /// The duration is not valid.
    #[error(
        "invalid duration {0:?}, expected years, months, weeks, days, hours and minutes of ISO 8601, such as P30D, P1M \
         or PT48H"
    )]
    Duration(String),
    /// The time zone is unknown.
    #[error("unknown time zone {0:?}, expected a name of the IANA database, such as Europe/Berlin")]
    TimeZone(String),
    /// The text is not of the stored form.
    #[error("invalid validity {0:?}")]
    Text(String),
}

/// The latest time that can be computed: 9999-12-30T22:00:00.999Z.
const MAX: i64 = 253_402_207_200_999;

const END_OF_DAY: &str = "end-of-day";

static TIME_ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

impl Validity {
    /// `end_of_day` extends the validity to the end of the day, in this time zone.
    pub fn new(end: ValidityEnd, time_zone: &str, end_of_day: bool) -> Result<Self, InvalidValidity> {
        let unknown = |_| InvalidValidity::TimeZone(time_zone.to_owned());
        Ok(Self { end, time_zone: TIME_ZONES.get(time_zone).map_err(unknown)?, end_of_day })
    }

    /// From when on a coupon that was issued at `issued_at` is not valid any more (milliseconds since the Unix epoch).
    #[must_use]
    pub fn valid_until(&self, issued_at: i64) -> i64 {
        let (start, duration) = match self.end {
            ValidityEnd::After(duration) => (issued_at, duration),
            ValidityEnd::At(time) if !self.end_of_day => return time,
            ValidityEnd::At(time) => (time, CalendarDuration::default()),
        };
        self.end_after(start, duration).map_or(MAX, Timestamp::as_millisecond)
    }

    /// When all coupons expire, whenever they were issued. None: that depends on when they were issued.
    #[must_use]
    pub fn fixed_end(&self) -> Option<i64> {
        matches!(self.end, ValidityEnd::At(_)).then(|| self.valid_until(0))
    }

    /// An error means that the end is beyond the range of times.
    fn end_after(&self, start: i64, duration: CalendarDuration) -> Result<Timestamp, jiff::Error> {
        let start = Timestamp::from_millisecond(start)?.to_zoned(self.time_zone.clone());
        let end = start.checked_add(duration.span()?)?;
        let end = if self.end_of_day { end.date().tomorrow()?.to_zoned(self.time_zone.clone())? } else { end };
        Ok(end.timestamp())
    }
}

impl CalendarDuration {
    fn span(self) -> Result<Span, jiff::Error> {
        Span::new().try_months(self.months)?.try_days(self.days)?.try_minutes(self.minutes)
    }
}

impl FromStr for CalendarDuration {
    type Err = InvalidValidity;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidValidity::Duration(s.to_owned());
        // jiff also parses other forms.
        let span: Span = s.starts_with('P').then(|| s.parse().ok()).flatten().ok_or_else(invalid)?;
        if (span.get_seconds(), span.get_milliseconds(), span.get_microseconds(), span.get_nanoseconds())
            != (0, 0, 0, 0)
        {
            return Err(invalid());
        }
        let number = |number: i64| u32::try_from(number).map_err(|_| invalid());
        let duration = Self {
            months: number(i64::from(span.get_years()) * 12 + i64::from(span.get_months()))?,
            days: number(i64::from(span.get_weeks()) * 7 + i64::from(span.get_days()))?,
            minutes: number(i64::from(span.get_hours()) * 60 + span.get_minutes())?,
        };
        if duration == Self::default() || duration.span().is_err() { Err(invalid()) } else { Ok(duration) }
    }
}

impl fmt::Display for CalendarDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { months, days, minutes } = *self;
        f.write_str("P")?;
        if months > 0 {
            write!(f, "{months}M")?;
        }
        if days > 0 {
            write!(f, "{days}D")?;
        }
        if minutes > 0 {
            write!(f, "T{minutes}M")?;
        }
        Ok(())
    }
}

impl fmt::Display for Validity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.end {
            ValidityEnd::After(duration) => write!(f, "{duration}")?,
            ValidityEnd::At(time) => write!(f, "{}", Timestamp::from_millisecond(time).unwrap_or(Timestamp::MAX))?,
        }
        write!(f, " {}", self.time_zone.iana_name().unwrap_or("UTC"))?;
        if self.end_of_day { write!(f, " {END_OF_DAY}") } else { Ok(()) }
    }
}

impl FromStr for Validity {
    type Err = InvalidValidity;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidValidity::Text(s.to_owned());
        let mut words = s.split(' ');
        let (end, time_zone) = (words.next().unwrap_or_default(), words.next().ok_or_else(invalid)?);
        let end = match end.parse::<Timestamp>() {
            Ok(time) => ValidityEnd::At(time.as_millisecond()),
            Err(_) => ValidityEnd::After(end.parse()?),
        };
        match (words.next(), words.next()) {
            (None, _) => Self::new(end, time_zone, false),
            (Some(END_OF_DAY), None) => Self::new(end, time_zone, true),
            _ => Err(invalid()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn milliseconds(time: &str) -> i64 {
        time.parse::<Timestamp>().unwrap().as_millisecond()
    }

    /// Until when a coupon is valid, in RFC 3339.
    fn valid_until(validity: &str, issued_at: &str) -> String {
        let validity: Validity = validity.parse().unwrap();
        Timestamp::from_millisecond(validity.valid_until(milliseconds(issued_at))).unwrap().to_string()
    }

    #[test]
    fn duration_counts_from_issuing_in_units_of_the_calendar() {
        for (validity, issued_at, expected) in [
            ("PT48H UTC", "2026-12-01T10:00:00.123Z", "2026-12-03T10:00:00.123Z"),
            ("P30D UTC", "2026-12-01T10:00:00Z", "2026-12-31T10:00:00Z"),
            ("P1W UTC", "2026-12-01T10:00:00Z", "2026-12-08T10:00:00Z"),
            // A leap day, and the last day of a shorter month.
            ("P1D UTC", "2028-02-28T10:00:00Z", "2028-02-29T10:00:00Z"),
            ("P1D UTC", "2027-02-28T10:00:00Z", "2027-03-01T10:00:00Z"),
            ("P1Y UTC", "2028-02-29T10:00:00Z", "2029-02-28T10:00:00Z"),
            ("P4Y UTC", "2028-02-29T10:00:00Z", "2032-02-29T10:00:00Z"),
            ("P1M UTC", "2028-01-31T10:00:00Z", "2028-02-29T10:00:00Z"),
            ("P1M UTC", "2027-01-31T10:00:00Z", "2027-02-28T10:00:00Z"),
            ("P1Y2M3W4DT5H6M UTC", "2026-01-01T00:00:00Z", "2027-03-26T05:06:00Z"),
            // Summer time begins on 28 March 2027 in Berlin: the day has 23 hours.
            ("P1D Europe/Berlin", "2027-03-27T11:00:00Z", "2027-03-28T10:00:00Z"),
            ("PT24H Europe/Berlin", "2027-03-27T11:00:00Z", "2027-03-28T11:00:00Z"),
        ] {
            assert_eq!(valid_until(validity, issued_at), expected, "{validity} from {issued_at}");
        }
    }

    #[test]
    fn end_of_day_is_the_start_of_the_next_day_in_the_time_zone() {
        for (validity, issued_at, expected) in [
            ("P1D UTC end-of-day", "2026-12-01T00:00:00Z", "2026-12-03T00:00:00Z"),
            // 23:59 and 00:00 in Seoul.
            ("P7D Asia/Seoul end-of-day", "2026-12-01T14:59:00Z", "2026-12-08T15:00:00Z"),
            ("P7D Asia/Seoul end-of-day", "2026-12-01T15:00:00Z", "2026-12-09T15:00:00Z"),
            // The days on which summer time begins and ends: 23 and 25 hours.
            ("PT1M Europe/Berlin end-of-day", "2027-03-28T00:00:00Z", "2027-03-28T22:00:00Z"),
            ("PT1M Europe/Berlin end-of-day", "2026-10-25T00:00:00Z", "2026-10-25T23:00:00Z"),
            // The clocks go forward at midnight: the next day begins at 01:00.
            ("PT1M America/Sao_Paulo end-of-day", "2018-11-03T12:00:00Z", "2018-11-04T03:00:00Z"),
            // They go back at midnight: 23:00 occurs twice.
            ("PT1M America/Sao_Paulo end-of-day", "2018-02-17T12:00:00Z", "2018-02-18T03:00:00Z"),
            // Samoa skipped 30 December 2011.
            ("PT1M Pacific/Apia end-of-day", "2011-12-30T09:00:00Z", "2011-12-30T10:00:00Z"),
            ("P1D UTC end-of-day", "2028-02-28T10:00:00Z", "2028-03-01T00:00:00Z"),
        ] {
            assert_eq!(valid_until(validity, issued_at), expected, "{validity} from {issued_at}");
        }
    }

    #[test]
    fn fixed_end_does_not_depend_on_issuing() {
        let until: Validity = "2026-12-31T12:00:00Z Asia/Seoul".parse().unwrap();
        let end_of_day: Validity = "2026-12-31T12:00:00Z Asia/Seoul end-of-day".parse().unwrap();
        for issued_at in [0, milliseconds("2026-12-01T00:00:00Z"), i64::MAX] {
            assert_eq!(until.valid_until(issued_at), milliseconds("2026-12-31T12:00:00Z"));
            assert_eq!(end_of_day.valid_until(issued_at), milliseconds("2026-12-31T15:00:00Z"));
        }
        assert_eq!(end_of_day.fixed_end(), Some(milliseconds("2026-12-31T15:00:00Z")));
        assert_eq!("P1D UTC".parse::<Validity>().unwrap().fixed_end(), None);
    }

    #[test]
    fn end_beyond_the_range_of_times_is_the_latest_time() {
        for validity in ["P99Y UTC", "P1D UTC", "PT1M UTC end-of-day"] {
            assert_eq!(validity.parse::<Validity>().unwrap().valid_until(MAX), MAX, "{validity}");
        }
        assert_eq!("P1D UTC".parse::<Validity>().unwrap().valid_until(i64::MAX), MAX);
        assert_eq!(MAX, Timestamp::MAX.as_millisecond());
    }

    #[test]
    fn invalid_duration_or_time_zone_is_rejected_with_its_reason() {
        for duration in ["", "P", "PT", "P0D", "30D", "-P1D", "P-1D", "P1DT1S", "PT0.5S", "P1", "1 day", "PT1.5M"] {
            let error = duration.parse::<CalendarDuration>().unwrap_err();
            assert_eq!(error, InvalidValidity::Duration(duration.to_owned()));
        }
        for time_zone in ["", "Europe/Atlantis", "+09:00", "KST9", "Local", "../UTC"] {
            let end = ValidityEnd::At(0);
            assert_eq!(
                Validity::new(end, time_zone, false),
                Err(InvalidValidity::TimeZone(time_zone.to_owned())),
                "{time_zone}"
            );
        }
        for text in ["", "P1D", "P1D UTC ", "P1D UTC end-of-week", "P1D UTC end-of-day x", "UTC P1D"] {
            text.parse::<Validity>().unwrap_err();
        }
    }

    #[test]
    fn text_is_the_same_for_equal_validities() {
        for (text, same) in [
            ("P30D Asia/Seoul end-of-day", "P30D Asia/Seoul end-of-day"),
            ("P1Y1M1W1DT1H1M UTC", "P13M8DT61M UTC"),
            ("P14D europe/berlin", "P14D Europe/Berlin"),
            ("2026-12-31T12:00:00+09:00 UTC", "2026-12-31T03:00:00Z UTC"),
        ] {
            let validity: Validity = text.parse().unwrap();
            assert_eq!(validity.to_string(), same);
            assert_eq!(same.parse::<Validity>().unwrap(), validity);
        }
    }

    proptest! {
        #[test]
        fn validity_ends_after_issuing(
            months in 0..2200u32,
            days in 0..17_000u32,
            minutes in 1..700_000u32,
            issued_at in 0..MAX,
            time_zone in prop_oneof![Just("UTC"), Just("Europe/Berlin"), Just("America/Sao_Paulo"), Just("Pacific/Apia")],
        ) {
            let end = ValidityEnd::After(CalendarDuration { months, days, minutes });
            let exact = Validity::new(end, time_zone, false).unwrap();
            let end_of_day = Validity::new(end, time_zone, true).unwrap();
            prop_assert!(issued_at < exact.valid_until(issued_at));
            prop_assert!(exact.valid_until(issued_at) <= end_of_day.valid_until(issued_at));
            for validity in [exact, end_of_day] {
                prop_assert_eq!(validity.to_string().parse::<Validity>().unwrap(), validity);
            }
        }
    }
}
