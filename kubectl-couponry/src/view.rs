//! Text of an event for the terminal.

use console::style;
use couponry_crds::{
    CouponEvent,
    status::{BalanceStatus, condition, reason},
};
use indicatif::HumanCount;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt as _;

const BAR_WIDTH: u64 = 30;
const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/// Escapes control characters and characters that change the direction of text, so that text from the cluster cannot
/// manipulate the terminal.
pub(crate) fn sanitize(text: &str) -> String {
    // Line and paragraph separators, and bidirectional formatting characters.
    let is_formatting =
        |c| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let is_safe = |c: char| !c.is_control() && !is_formatting(c);
    text.chars().map(|c| if is_safe(c) { c.to_string() } else { c.escape_default().to_string() }).collect()
}

/// All details of an event, one string per line.
pub(crate) fn details(event: &CouponEvent, now: Timestamp) -> Vec<String> {
    let status = event.status.clone().unwrap_or_default();
    let total = event.spec.total_count;
    let mut lines = vec![
        format!("{}  {}", style(event.name_any()).bold(), sanitize(&event.spec.policy_name)),
        format!("  {:<10} {}", "state", state_with_times(event, now)),
    ];
    if let Some(window) = window(event, now) {
        lines.push(format!("  {:<10} {window}", "window"));
    }
    if let Some(admission) = admission(event, now) {
        lines.push(format!("  {:<10} {admission}", "admission"));
    }
    if !event.spec.drops.is_empty() {
        lines.push(format!("  {:<10} {}", "drops", drops(event, now)));
    }
    lines.push(String::new());
    let issued = status.issued.unwrap_or(0);
    lines.push(progress_bar("loaded", status.loaded.unwrap_or(0), total));
    lines.push(progress_bar("issued", issued, total));
    lines.push(progress_bar("recorded", status.recorded.unwrap_or(0), issued));
    if let Some(redeemed) = status.redeemed {
        lines.push(progress_bar("redeemed", redeemed, status.recorded.unwrap_or(0)));
        lines.push(format!("  {:<10} {}", "reserved", count(status.reserved)));
        lines.push(format!("  {:<10} {}", "voided", count(status.voided)));
    }
    if let Some(balance) = &status.balance {
        lines.extend([String::new(), format!("  {:<10} {}", "balance", self::balance(balance, status.loaded))]);
    }
    lines.push(String::new());
    if status.conditions.is_empty() {
        lines.push(format!("  {}", style("no operator has observed this event yet").yellow()));
    }
    let is_relevant = |it: &&Condition| it.type_ != condition::STALLED || it.status != "False";
    lines.extend(status.conditions.iter().filter(is_relevant).flat_map(|it| self::condition(it, now)));
    lines
}

/// The event in one line, for logs and pipes.
pub(crate) fn summary(event: &CouponEvent) -> String {
    let status = event.status.clone().unwrap_or_default();
    let stalled = status.condition(condition::STALLED).filter(|stalled| stalled.status == "True");
    let stalled = stalled.map_or_else(String::new, |stalled| format!("  STALLED: {}", sanitize(&stalled.message)));
    let held = status.condition(condition::OPEN).filter(|open| open.reason == reason::HELD);
    let held = held.map_or_else(String::new, |held| format!("  HELD: {}", sanitize(&held.message)));
    format!(
        "{}  {}  loaded {}/{}  issued {}  recorded {}  available {}{held}{stalled}",
        event.name_any(),
        state(event),
        count(status.loaded),
        HumanCount(event.spec.total_count),
        count(status.issued),
        count(status.recorded),
        count(status.available),
    )
}

/// State of the event: the reason of its condition Open.
pub(crate) fn state(event: &CouponEvent) -> String {
    let open = event.status.as_ref().and_then(|status| status.condition(condition::OPEN));
    open.map_or_else(|| "Unknown".to_owned(), |open| sanitize(&open.reason))
}

fn state_with_times(event: &CouponEvent, now: Timestamp) -> String {
    let state = state(event);
    let state = match state.as_str() {
        reason::OPEN => style(state).green().bold(),
        reason::PAUSED | reason::HELD | reason::LOADING | reason::SCHEDULED => style(state).yellow().bold(),
        _ => style(state).bold(),
    };
    let Some(status) = &event.status else { return state.to_string() };
    let times = [("opened", &status.opened_at), ("sold out", &status.sold_out_at), ("finished", &status.finished_at)];
    let times = times.into_iter().filter_map(|(what, at)| {
        let at = at.as_ref()?.0;
        // openedAt may be in the future.
        (at <= now).then(|| format!(", {what} {} ago", duration(now.duration_since(at))))
    });
    format!("{state}{}", times.collect::<String>())
}

/// The window with a countdown. None: neither its start nor its end is fixed.
pub(crate) fn window(event: &CouponEvent, now: Timestamp) -> Option<String> {
    let (start, end) = (event.spec.start_time.as_ref().map(time), event.spec.end_time.as_ref().map(time));
    let window = match (start, end) {
        (None, None) => return None,
        (Some(start), None) => format!("from {start}"),
        (None, Some(end)) => format!("until {end}"),
        (Some(start), Some(end)) => format!("{start} to {end}"),
    };
    let left = |at: &Option<Time>| at.as_ref().map(|at| at.0.duration_since(now)).filter(SignedDuration::is_positive);
    let countdown = match (left(&event.spec.start_time), left(&event.spec.end_time)) {
        (Some(start), _) => format!(", {} {}", style("starts in").cyan(), style(duration(start)).cyan().bold()),
        (None, Some(end)) => format!(", {} {}", style("ends in").cyan(), style(duration(end)).cyan().bold()),
        (None, None) => String::new(),
    };
    Some(window + &countdown)
}

/// How far the ramp is, by the clock of this machine.
pub(crate) fn admission(event: &CouponEvent, now: Timestamp) -> Option<String> {
    let ramp = SignedDuration::from_secs(event.spec.admission.as_ref()?.ramp_seconds.into());
    let passed = event.spec.start_time.as_ref().map_or(SignedDuration::ZERO, |start| now.duration_since(start.0));
    let percent = (passed.as_millis() * 100).checked_div(ramp.as_millis()).unwrap_or(100).clamp(0, 100);
    let text = format!("all users within {} from the start", duration(ramp));
    Some(match percent {
        0 => text,
        100 => format!("{text}, all are admitted"),
        _ => format!("{text}, {} {}", style(format!("{percent} % are admitted,")).cyan(), time_left(ramp - passed)),
    })
}

fn time_left(left: SignedDuration) -> String {
    style(format!("{} left", duration(left))).cyan().bold().to_string()
}

/// The coupons that are still held back, by the clock of this machine.
fn drops(event: &CouponEvent, now: Timestamp) -> String {
    let pending: Vec<_> = event.spec.drops.iter().filter(|drop| drop.at.0 > now).collect();
    let Some(next) = pending.first() else { return "nothing is held back".to_owned() };
    let (held_back, count) = (pending.iter().map(|drop| drop.count).sum(), HumanCount(next.count));
    let left = style(duration(next.at.0.duration_since(now))).cyan().bold();
    format!("{} held back; next {count} at {}, in {left}", HumanCount(held_back), time(&next.at))
}

pub(crate) fn time(time: &Time) -> String {
    time.0.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// A count with thousands separators, or `-` if unknown.
pub(crate) fn count(count: Option<u64>) -> String {
    count.map_or_else(|| "-".to_owned(), |count| HumanCount(count).to_string())
}

fn progress_bar(name: &str, done: u64, all: u64) -> String {
    let eighths = done.min(all).saturating_mul(BAR_WIDTH * 8).checked_div(all).unwrap_or(0);
    let full = usize::try_from(eighths / 8).unwrap_or(0);
    let mut drawn = "█".repeat(full);
    let width = usize::try_from(BAR_WIDTH).unwrap_or(0);
    if full < width {
        drawn.push(EIGHTHS[usize::try_from(eighths % 8).unwrap_or(0)]);
    }
    let empty = " ".repeat(width.saturating_sub(drawn.chars().count()));
    let drawn = if done >= all && all > 0 { style(drawn).green() } else { style(drawn).cyan() };
    let percent = done.saturating_mul(100).checked_div(all).map_or_else(String::new, |percent| format!("{percent} %"));
    format!(
        "  {name:<10} ▕{drawn}{empty}▏ {:>10} / {:<10} {percent:>5}",
        HumanCount(done).to_string(),
        HumanCount(all).to_string()
    )
}

fn balance(balance: &BalanceStatus, loaded: Option<u64>) -> String {
    let BalanceStatus { generated, available, unrecorded, recorded, withheld } = *balance;
    // During a preload or a top-up.
    let unloaded = generated.saturating_sub(loaded.unwrap_or(generated));
    let sum = available + unrecorded + recorded + withheld + unloaded;
    let sign = if sum == generated { style("=").green() } else { style("≠").red().bold() };
    let [generated, available, unrecorded, recorded, withheld, unloaded] =
        [generated, available, unrecorded, recorded, withheld, unloaded].map(HumanCount);
    // At most 80 columns, once all coupons are loaded.
    let unloaded = if unloaded.0 > 0 { format!(" + {unloaded} not loaded yet") } else { String::new() };
    format!(
        "{generated} {sign} {available} available + {unrecorded} unrecorded + {recorded} recorded + {withheld} \
         withheld{unloaded}"
    )
}

/// Whether a condition is as expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Good,
    Bad,
    /// In progress, or not due yet.
    Pending,
    Unknown,
}

pub(crate) fn health(condition: &Condition) -> Health {
    let type_ = condition.type_.as_str();
    match condition.status.as_str() {
        "False" if type_ == condition::STALLED => Health::Good,
        _ if type_ == condition::STALLED => Health::Bad,
        "True" => Health::Good,
        "Unknown" => Health::Unknown,
        // These are False in normal operation, too.
        _ if [condition::OPEN, condition::RECORDED, condition::PRELOADED].contains(&type_) => Health::Pending,
        _ => Health::Bad,
    }
}

fn condition(condition: &Condition, now: Timestamp) -> Vec<String> {
    let Condition { type_, reason, message, last_transition_time, .. } = condition;
    let (type_, reason) = (sanitize(type_), sanitize(reason));
    let sign = match health(condition) {
        Health::Good => style("✓").green(),
        Health::Unknown => style("?").yellow(),
        Health::Pending => style("·").dim(),
        Health::Bad if type_ == condition::STALLED => style("✗").red(),
        Health::Bad => style("✗").yellow(),
    };
    let since = duration(now.duration_since(last_transition_time.0).max(SignedDuration::ZERO));
    let mut lines = vec![format!("  {sign} {type_:<10} {reason:<20} {}", style(format!("{since} ago")).dim())];
    if !message.is_empty() {
        lines.push(format!("    {:<10} {}", "", style(sanitize(message)).dim()));
    }
    lines
}

/// Formats a duration in its two largest units.
pub(crate) fn duration(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
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
  balance: {generated: 100000, available: 50000, unrecorded: 1000, recorded: 49000, withheld: 0}
  conditions:
    - {type: Open, status: 'True', reason: Open, message: '', lastTransitionTime: '2026-12-01T00:00:00Z'}
    - {type: Stalled, status: 'True', reason: DriftFound, message: a coupon is lost, lastTransitionTime: '2026-12-01T01:59:50Z'}
";

    fn details_text(yaml: &str, now: &str) -> String {
        let lines = details(&event(yaml), now.parse().unwrap());
        let lines = lines.iter().map(|line| console::strip_ansi_codes(line).trim_end().to_owned());
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn details_of_open_event_show_counts_balance_and_conditions() {
        insta::assert_snapshot!(details_text(&format!("{SUMMER}{STATUS}"), "2026-12-01T02:00:00Z"), @r"
        summer  Summer sale
          state      Open, opened 2 h 0 min ago
          window     2026-12-01 00:00:00 UTC to 2026-12-02 00:00:00 UTC, ends in 22 h 0 min

          loaded     ▕██████████████████████████████▏    100,000 / 100,000    100 %
          issued     ▕███████████████               ▏     50,000 / 100,000     50 %
          recorded   ▕█████████████████████████████▍▏     49,000 / 50,000      98 %

          balance    100,000 = 50,000 available + 1,000 unrecorded + 49,000 recorded + 0 withheld

          ✓ Open       Open                 2 h 0 min ago
          ✗ Stalled    DriftFound           10 s ago
                       a coupon is lost
        ");
    }

    #[test]
    fn details_show_admission_and_next_drop() {
        let released = SUMMER.replace(
            "  startTime",
            "  admission: {rampSeconds: 600}\n  drops:\n    - {at: '2026-12-01T01:00:00Z', count: 20000}\n    - {at: \
             '2026-12-01T02:00:00Z', count: 1000}\n  startTime",
        );
        let lines = |now: &str| {
            let text = details_text(&released, now);
            text.lines().skip(3).take(2).map(|line| line.trim().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(
            lines("2026-11-30T23:59:00Z"),
            [
                "admission  all users within 10 min 0 s from the start",
                "drops      21,000 held back; next 20,000 at 2026-12-01 01:00:00 UTC, in 1 h 1 min",
            ]
        );
        assert_eq!(
            lines("2026-12-01T00:02:30Z")[0],
            "admission  all users within 10 min 0 s from the start, 25 % are admitted, 7 min 30 s left"
        );
        assert_eq!(
            lines("2026-12-01T01:00:00Z"),
            [
                "admission  all users within 10 min 0 s from the start, all are admitted",
                "drops      1,000 held back; next 1,000 at 2026-12-01 02:00:00 UTC, in 1 h 0 min",
            ]
        );
        assert_eq!(lines("2026-12-01T02:00:00Z")[1], "drops      nothing is held back");
    }

    #[test]
    fn balance_of_event_in_preload_includes_coupons_that_are_not_loaded() {
        let in_preload = BalanceStatus { generated: 100, available: 60, ..BalanceStatus::default() };
        let text = |loaded| console::strip_ansi_codes(&balance(&in_preload, loaded)).into_owned();
        assert_eq!(text(Some(60)), "100 = 60 available + 0 unrecorded + 0 recorded + 0 withheld + 40 not loaded yet");
        assert_eq!(text(Some(100)), "100 ≠ 60 available + 0 unrecorded + 0 recorded + 0 withheld");
    }

    #[test]
    fn details_of_unobserved_event_show_missing_operator() {
        insta::assert_snapshot!(details_text(SUMMER, "2026-11-30T23:59:30Z"), @r"
        summer  Summer sale
          state      Unknown
          window     2026-12-01 00:00:00 UTC to 2026-12-02 00:00:00 UTC, starts in 30 s

          loaded     ▕                              ▏          0 / 100,000      0 %
          issued     ▕                              ▏          0 / 100,000      0 %
          recorded   ▕                              ▏          0 / 0

          no operator has observed this event yet
        ");
    }

    #[test]
    fn summary_shows_counts_and_stalled_message() {
        let event = event(&format!("{SUMMER}{STATUS}"));
        insta::assert_snapshot!(summary(&event), @"summer  Open  loaded 100,000/100,000  issued 50,000  recorded 49,000  available 50,000  STALLED: a coupon is lost");
    }

    #[test]
    fn summary_of_held_event_shows_the_reason() {
        let message = "'Issuing is held: wrong discount. Remove the annotation couponry.dev/hold to continue.'";
        let status = STATUS
            .replace(
                "status: 'True', reason: Open, message: ''",
                &format!("status: 'False', reason: Held, message: {message}"),
            )
            .replace("type: Stalled, status: 'True'", "type: Stalled, status: 'False'");
        let event = event(&format!("{SUMMER}{status}"));
        insta::assert_snapshot!(summary(&event), @"summer  Held  loaded 100,000/100,000  issued 50,000  recorded 49,000  available 50,000  HELD: Issuing is held: wrong discount. Remove the annotation couponry.dev/hold to continue.");
    }

    #[test]
    fn control_characters_from_the_cluster_are_escaped() {
        let name = r#"policyName: "\e[2J\r\nsold out \u202e\u2066\u009b1m 여름 🎟""#;
        let manifest = SUMMER.replace("policyName: Summer sale", name);
        let status = STATUS.replace("a coupon is lost", r#""a\e]0;b\a""#);
        let yaml = format!("{manifest}{status}");
        let text = details_text(&yaml, "2026-12-01T02:00:00Z");
        let first = text.lines().next().unwrap();
        assert_eq!(first, r"summer  \u{1b}[2J\r\nsold out \u{202e}\u{2066}\u{9b}1m 여름 🎟");
        assert!(text.lines().any(|line| line.ends_with(r"a\u{1b}]0;b\u{7}")), "{text}");
        assert!(summary(&event(&yaml)).ends_with(r"STALLED: a\u{1b}]0;b\u{7}"));
    }

    #[test]
    fn duration_has_two_largest_units() {
        let formatted = [5, 65, 3700, 90_000].map(|seconds| duration(SignedDuration::from_secs(seconds)));
        assert_eq!(formatted, ["5 s", "1 min 5 s", "1 h 1 min", "1 d 1 h"]);
    }
}
