//! The messages of issue responses. Clients decide by `reason`; a message is for people and may change.

use serde::Serialize;
use utoipa::ToSchema;

use super::language::Language;

/// Why no coupon was issued.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum Reason {
    Duplicate,
    Voided,
    SoldOut,
    Wait,
    NotStarted,
    Ended,
    Paused,
}

/// The outcome in words. None: a coupon was issued. `has_drop`: more coupons become available later.
pub(super) const fn message(reason: Option<Reason>, has_drop: bool, language: Language) -> &'static str {
    let (english, korean) = match reason {
        None => ("The coupon is yours.", "쿠폰이 발급되었습니다."),
        Some(Reason::Duplicate) => {
            ("You already have a coupon of this event.", "이미 이 이벤트의 쿠폰을 받으셨습니다.")
        }
        Some(Reason::Voided) => {
            ("Your coupon of this event was voided.", "이 이벤트에서 받으신 쿠폰이 무효 처리되었습니다.")
        }
        Some(Reason::SoldOut) if has_drop => (
            "All coupons so far have been issued. More become available later.",
            "지금까지 공개된 쿠폰이 모두 소진되었습니다. 추가 쿠폰이 나중에 공개됩니다.",
        ),
        Some(Reason::SoldOut) => ("All coupons of this event have been issued.", "쿠폰이 모두 소진되었습니다."),
        Some(Reason::Wait) => (
            "It is not your turn yet. Try again when you are admitted.",
            "아직 입장 순서가 아닙니다. 입장 시각에 다시 시도해 주세요.",
        ),
        Some(Reason::NotStarted) => ("The event has not started yet.", "이벤트가 아직 시작되지 않았습니다."),
        Some(Reason::Ended) => ("The event has ended.", "이벤트가 종료되었습니다."),
        Some(Reason::Paused) => {
            ("The event is paused. Try again later.", "이벤트가 일시 중지되었습니다. 잠시 후 다시 시도해 주세요.")
        }
    };
    match language {
        Language::English => english,
        Language::Korean => korean,
    }
}
