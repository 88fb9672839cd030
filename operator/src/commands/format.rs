//! Human-readable numbers and times.

use jiff::Timestamp;

/// 1234567 as 1,234,567.
pub(super) fn group_digits(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Milliseconds since the Unix epoch as RFC 3339.
pub(super) fn rfc3339(millis: i64) -> String {
    Timestamp::from_millisecond(millis).map_or_else(|_| millis.to_string(), |time| format!("{time:.3}"))
}

/// The time since `millis`, for example `1 min 15 s ago`.
pub(super) fn elapsed(millis: i64, now: Timestamp) -> String {
    let Ok(time) = Timestamp::from_millisecond(millis) else { return "?".to_owned() };
    let elapsed = now.duration_since(time).as_secs().max(0);
    match (elapsed / 3600, elapsed / 60 % 60, elapsed % 60) {
        (0, 0, seconds) => format!("{seconds} s ago"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s ago"),
        (hours, minutes, _) => format!("{hours} h {minutes} min ago"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        let grouped = [0, 999, 1000, 100_000, 1_234_567].map(group_digits);
        assert_eq!(grouped, ["0", "999", "1,000", "100,000", "1,234,567"]);
    }

    #[test]
    fn times_are_formatted_for_people() {
        assert_eq!(rfc3339(1_796_083_200_123), "2026-12-01T00:00:00.123Z");
        let now = Timestamp::from_millisecond(1_796_083_200_000).unwrap();
        let ago = [3, 75, 7500].map(|seconds| elapsed(now.as_millisecond() - seconds * 1000, now));
        assert_eq!(ago, ["3 s ago", "1 min 15 s ago", "2 h 5 min ago"]);
    }
}
