//! A report as text.

use console::style;
use indicatif::HumanCount;

use super::{
    figures::{Figures, Issuing},
    issuer_metrics::IssuerMetrics,
};
use crate::view::sanitize;

/// Lines of the curve.
const MAX_LINES: u64 = 20;
const BAR_WIDTH: f64 = 40.0;

/// `metrics`: the error is in words.
pub(super) fn format(figures: &Figures, metrics: &Result<IssuerMetrics, String>) -> String {
    let mut lines = vec![format!("{}  {}", style(&figures.name).bold(), sanitize(&figures.policy_name))];
    let mut add = |label: &str, text: String| lines.push(format!("  {label:<10} {text}"));
    let recorded = HumanCount(figures.recorded);
    add("issued", format!("{recorded} of {} coupons, as far as recorded", HumanCount(figures.total)));
    let sold_out = figures.sold_out_after_milliseconds.map(duration);
    add("sold out", sold_out.map_or_else(|| "no".to_owned(), |duration| format!("after {duration}")));
    for discount in &figures.discounts {
        let [recorded, total] = [discount.recorded, discount.total].map(HumanCount);
        add("", format!("{recorded} of {total} of {}", discount.discount));
    }
    if let Some(issuing) = &figures.issuing {
        add("first", time(issuing.first_at));
        add("last", time(issuing.last_at));
        add("peak", format!("{} per second", HumanCount(issuing.peak_per_second)));
        let [median, high, max] = issuing.recording_delay.map(duration);
        add("recording", format!("{median} after issuing (median), {high} (p99), {max} (maximum)"));
    }
    let [reserved, voided] = [figures.reserved, figures.voided].map(HumanCount);
    let share = (figures.redeemed * 100).checked_div(figures.recorded).unwrap_or_default();
    let redeemed = HumanCount(figures.redeemed);
    add("redeemed", format!("{redeemed} ({share} %), reserved now {reserved}, voided {voided}"));
    match metrics {
        Err(unavailable) => add("latency", unavailable.clone()),
        Ok(metrics) => {
            let latency = |share| metrics.latency(share).map_or("unknown".to_owned(), |ms| format!("{ms:.1} ms"));
            let scope = format!("all events since the {} issuers started", metrics.issuers);
            add("latency", format!("{} (p50), {} (p99); {scope}", latency(0.5), latency(0.99)));
            let outcomes = metrics.outcomes.iter().map(|(outcome, count)| format!("{outcome} {}", HumanCount(*count)));
            add("outcomes", format!("{}; {scope}", outcomes.collect::<Vec<_>>().join(", ")));
        }
    }
    lines.extend(figures.issuing.iter().flat_map(curve));
    lines.join("\n") + "\n"
}

fn curve(issuing: &Issuing) -> Vec<String> {
    let (seconds, rates) = issuing.rates(MAX_LINES);
    let max = rates.iter().map(|(_, rate)| *rate).fold(f64::MIN_POSITIVE, f64::max);
    let mut lines = vec![String::new(), format!("  issued per second, by {seconds} s")];
    lines.extend(rates.iter().map(|(at, rate)| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most the width")]
        let width = (rate / max * BAR_WIDTH).ceil() as usize;
        format!("  {}  {:<40} {rate:.0}", at.strftime("%H:%M:%S"), "█".repeat(width))
    }));
    lines
}

fn time(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S%.3f UTC").to_string()
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn duration(milliseconds: u64) -> String {
    match milliseconds {
        0..1000 => format!("{milliseconds} ms"),
        1000..60_000 => format!("{:.1} s", milliseconds as f64 / 1000.0),
        _ => format!("{} min {} s", milliseconds / 60_000, milliseconds / 1000 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{figures::tests::summer, issuer_metrics::tests::two_issuers},
        *,
    };

    #[test]
    fn text_of_an_event_has_its_figures_and_its_curve() {
        let text = console::strip_ansi_codes(&format(&summer(), &Ok(two_issuers()))).into_owned();
        insta::assert_snapshot!(text, @r"
        summer  Summer <sale>
          issued     1,000 of 1,000 coupons, as far as recorded
          sold out   after 3.2 s
                     700 of 700 of PERCENT:10
                     300 of 300 of AMOUNT:5000
          first      2026-12-01 00:00:00.010 UTC
          last       2026-12-01 00:00:03.250 UTC
          peak       600 per second
          recording  40 ms after issuing (median), 900 ms (p99), 1 min 1 s (maximum)
          redeemed   250 (25 %), reserved now 3, voided 1
          latency    0.6 ms (p50), 1.9 ms (p99); all events since the 2 issuers started
          outcomes   issued 180, sold_out 20; all events since the 2 issuers started

          issued per second, by 1 s
          00:00:00  ████████████████████                     300
          00:00:01  ████████████████████████████████████████ 600
          00:00:02                                           0
          00:00:03  ███████                                  100
        ");
    }

    #[test]
    fn text_of_an_event_without_issuances_has_no_curve() {
        let nothing = Figures { recorded: 0, sold_out_after_milliseconds: None, issuing: None, ..summer() };
        let text = format(&nothing, &Ok(IssuerMetrics::default()));
        assert!(text.contains("sold out   no\n") && !text.contains("per second"), "{text}");
        assert!(
            format(&nothing, &Err("not available: no issuer is running".to_owned()))
                .contains("latency    not available")
        );
        assert!(text.contains("latency    unknown (p50)"), "{text}");
    }
}
