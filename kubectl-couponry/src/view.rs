//! How an event looks in a terminal.

use console::style;
use couponry_crds::{
    CouponEvent,
    status::{BalanceStatus, condition, reason},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt as _;

const BAR: u64 = 30;
const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/// The text without what a terminal takes for a command: what others wrote must not rewrite what we say.
pub(crate) fn plain(text: &str) -> String {
    // Ends of lines, and marks that turn the direction of a text.
    let is_mark =
        |c| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let is_plain = |c: char| !c.is_control() && !is_mark(c);
    text.chars().map(|c| if is_plain(c) { c.to_string() } else { c.escape_default().to_string() }).collect()
}

/// All that is to be said about the event.
pub(crate) fn lines(event: &CouponEvent, now: Timestamp) -> Vec<String> {
    let status = event.status.clone().unwrap_or_default();
    let total = event.spec.total_count;
    let mut lines = vec![
        format!("{}  {}", style(event.name_any()).bold(), plain(&event.spec.policy_name)),
        format!("  {:<10} {}", "state", state(event, now)),
    ];
    if let Some(window) = window(event, now) {
        lines.push(format!("  {:<10} {window}", "window"));
    }
    lines.push(String::new());
    let issued = status.issued.unwrap_or(0);
    lines.push(bar("loaded", status.loaded.unwrap_or(0), total));
    lines.push(bar("issued", issued, total));
    lines.push(bar("recorded", status.recorded.unwrap_or(0), issued));
    if let Some(balance) = &status.balance {
        lines.extend([String::new(), format!("  {:<10} {}", "balance", self::balance(balance))]);
    }
    lines.push(String::new());
    if status.conditions.is_empty() {
        lines.push(format!("  {}", style("no operator has seen it yet").yellow()));
    }
    // That nothing stands in the way is no news.
    let is_news = |said: &&Condition| said.type_ != condition::STALLED || said.status != "False";
    lines.extend(status.conditions.iter().filter(is_news).flat_map(|said| self::condition(said, now)));
    lines
}

/// The same in one line, for logs and pipes.
pub(crate) fn line(event: &CouponEvent) -> String {
    let status = event.status.clone().unwrap_or_default();
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), grouped);
    let stalled = status.condition(condition::STALLED).filter(|stalled| stalled.status == "True");
    let stalled = stalled.map_or_else(String::new, |stalled| format!("  STALLED: {}", plain(&stalled.message)));
    format!(
        "{}  {}  loaded {}/{}  issued {}  recorded {}  available {}{stalled}",
        event.name_any(),
        state_word(event),
        number(status.loaded),
        grouped(event.spec.total_count),
        number(status.issued),
        number(status.recorded),
        number(status.available),
    )
}

/// The reason of the condition Open: the event's state.
pub(crate) fn state_word(event: &CouponEvent) -> String {
    let open = event.status.as_ref().and_then(|status| status.condition(condition::OPEN));
    open.map_or_else(|| "Unknown".to_owned(), |open| plain(&open.reason))
}

fn state(event: &CouponEvent, now: Timestamp) -> String {
    let word = state_word(event);
    let word = match word.as_str() {
        reason::OPEN => style(word).green().bold(),
        reason::PAUSED | reason::LOADING | reason::SCHEDULED => style(word).yellow().bold(),
        _ => style(word).bold(),
    };
    let Some(status) = &event.status else { return word.to_string() };
    let since = [("opened", &status.opened_at), ("sold out", &status.sold_out_at), ("finished", &status.finished_at)];
    let since = since.into_iter().filter_map(|(what, at)| {
        let at = at.as_ref()?.0;
        // The opening is noted before it comes.
        (at <= now).then(|| format!(", {what} {} ago", span(now.duration_since(at))))
    });
    format!("{word}{}", since.collect::<String>())
}

fn window(event: &CouponEvent, now: Timestamp) -> Option<String> {
    let (start, end) = (event.spec.start_time.as_ref().map(time), event.spec.end_time.as_ref().map(time));
    let said = match (start, end) {
        (None, None) => return None,
        (Some(start), None) => format!("from {start}"),
        (None, Some(end)) => format!("until {end}"),
        (Some(start), Some(end)) => format!("{start} to {end}"),
    };
    let left = |at: &Option<Time>| at.as_ref().map(|at| at.0.duration_since(now)).filter(SignedDuration::is_positive);
    let countdown = match (left(&event.spec.start_time), left(&event.spec.end_time)) {
        (Some(start), _) => format!(", {} {}", style("starts in").cyan(), style(span(start)).cyan().bold()),
        (None, Some(end)) => format!(", {} {}", style("ends in").cyan(), style(span(end)).cyan().bold()),
        (None, None) => String::new(),
    };
    Some(said + &countdown)
}

fn time(time: &Time) -> String {
    time.0.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

fn bar(name: &str, done: u64, all: u64) -> String {
    let eighths = done.min(all).saturating_mul(BAR * 8).checked_div(all).unwrap_or(0);
    let full = usize::try_from(eighths / 8).unwrap_or(0);
    let mut drawn = "█".repeat(full);
    let width = usize::try_from(BAR).unwrap_or(0);
    if full < width {
        drawn.push(EIGHTHS[usize::try_from(eighths % 8).unwrap_or(0)]);
    }
    let empty = " ".repeat(width.saturating_sub(drawn.chars().count()));
    let drawn = if done >= all && all > 0 { style(drawn).green() } else { style(drawn).cyan() };
    let percent = done.saturating_mul(100).checked_div(all).map_or_else(String::new, |percent| format!("{percent} %"));
    format!("  {name:<10} ▕{drawn}{empty}▏ {:>10} / {:<10} {percent:>5}", grouped(done), grouped(all))
}

fn balance(balance: &BalanceStatus) -> String {
    let BalanceStatus { generated, available, unrecorded, recorded, voided } = *balance;
    let sum = available + unrecorded + recorded + voided;
    let [all, available, unrecorded, recorded, voided] = [generated, available, unrecorded, recorded, voided].map(grouped);
    let sign = if sum == generated { style("=").green() } else { style("≠").red().bold() };
    // Fits into 80 columns.
    format!("{all} {sign} {available} available + {unrecorded} unrecorded + {recorded} recorded + {voided} voided")
}

fn condition(condition: &Condition, now: Timestamp) -> Vec<String> {
    let Condition { type_, status, reason, message, last_transition_time, .. } = condition;
    let (type_, reason) = (plain(type_), plain(reason));
    let sign = match status.as_str() {
        _ if type_ == condition::STALLED => style("✗").red(),
        "True" => style("✓").green(),
        "Unknown" => style("?").yellow(),
        // Not open, not recorded yet: that is no fault.
        _ if [condition::OPEN, condition::RECORDED, condition::PRELOADED].contains(&type_.as_str()) => {
            style("·").dim()
        }
        _ => style("✗").yellow(),
    };
    let since = span(now.duration_since(last_transition_time.0).max(SignedDuration::ZERO));
    let mut lines = vec![format!("  {sign} {type_:<10} {reason:<20} {}", style(format!("{since} ago")).dim())];
    if !message.is_empty() {
        lines.push(format!("    {:<10} {}", "", style(plain(message)).dim()));
    }
    lines
}

/// 1234567 as 1,234,567.
pub(crate) fn grouped(number: u64) -> String {
    indicatif::HumanCount(number).to_string()
}

/// A time span in its two largest units.
pub(crate) fn span(span: SignedDuration) -> String {
    let seconds = span.as_secs().max(0);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(yaml: &str) -> CouponEvent {
        serde_yaml::from_str(yaml).unwrap()
    }

    const SUMMER: &str = "
apiVersion: couponry.dev/v1alpha1
kind: CouponEvent
metadata: {name: summer}
spec:
  policyName: Summer sale
  totalCount: 100000
  discounts: [{type: Percent, value: 10, allocationPercentage: 100}]
  startTime: '2026-12-01T00:00:00Z'
  endTime: '2026-12-02T00:00:00Z'
";
    const STATUS: &str = "
status:
  loaded: 100000
  issued: 50000
  recorded: 49000
  available: 50000
  openedAt: '2026-12-01T00:00:00Z'
  balance: {generated: 100000, available: 50000, unrecorded: 1000, recorded: 49000, voided: 0}
  conditions:
    - {type: Open, status: 'True', reason: Open, message: '', lastTransitionTime: '2026-12-01T00:00:00Z'}
    - {type: Stalled, status: 'True', reason: DriftFound, message: a coupon is lost, lastTransitionTime: '2026-12-01T01:59:50Z'}
";

    fn text(yaml: &str, now: &str) -> String {
        let lines = lines(&event(yaml), now.parse().unwrap());
        console::strip_ansi_codes(&lines.join("\n")).into_owned()
    }

    #[test]
    fn a_running_event_shows_everything() {
        let text = text(&format!("{SUMMER}{STATUS}"), "2026-12-01T02:00:00Z");
        for part in [
            "summer  Summer sale",
            "state      Open, opened 2 h 0 min ago",
            "2026-12-01 00:00:00 UTC to 2026-12-02 00:00:00 UTC, ends in 22 h 0 min",
            "issued     ▕███████████████               ▏     50,000 / 100,000     50 %",
            "recorded   ▕█████████████████████████████▍▏     49,000 / 50,000      98 %",
            "100,000 = 50,000 available + 1,000 unrecorded + 49,000 recorded + 0 voided",
            "✗ Stalled    DriftFound           10 s ago",
            "a coupon is lost",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }

    #[test]
    fn an_event_that_nobody_has_seen_says_so() {
        let text = text(SUMMER, "2026-11-30T23:59:30Z");
        assert!(text.contains("state      Unknown"), "{text}");
        assert!(text.contains("starts in 30 s"), "{text}");
        assert!(text.contains("no operator has seen it yet"), "{text}");
    }

    #[test]
    fn a_line_has_the_numbers() {
        let line = line(&event(&format!("{SUMMER}{STATUS}")));
        let expected = "summer  Open  loaded 100,000/100,000  issued 50,000  recorded 49,000  available 50,000  \
                        STALLED: a coupon is lost";
        assert_eq!(line, expected);
    }

    #[test]
    fn what_others_wrote_does_not_reach_the_terminal_as_a_command() {
        let name = r#"policyName: "\e[2J\r\nsold out \u202e\u2066\u009b1m 여름 🎟""#;
        let shown = SUMMER.replace("policyName: Summer sale", name);
        let status = STATUS.replace("a coupon is lost", r#""a\e]0;b\a""#);
        let event = event(&format!("{shown}{status}"));
        let text = lines(&event, "2026-12-01T02:00:00Z".parse().unwrap());
        let text = text.iter().map(|line| console::strip_ansi_codes(line).into_owned()).collect::<Vec<_>>();
        assert_eq!(text[0], r"summer  \u{1b}[2J\r\nsold out \u{202e}\u{2066}\u{9b}1m 여름 🎟");
        assert!(text.iter().any(|line| line.ends_with(r"a\u{1b}]0;b\u{7}")), "{text:?}");
        assert!(line(&event).ends_with(r"STALLED: a\u{1b}]0;b\u{7}"));
    }

    #[test]
    fn spans_have_two_units() {
        let said = [5, 65, 3700, 90_000].map(|seconds| span(SignedDuration::from_secs(seconds)));
        assert_eq!(said, ["5 s", "1 min 5 s", "1 h 1 min", "1 d 1 h"]);
    }
}
