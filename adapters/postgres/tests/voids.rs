//! Voiding coupons in a real Postgres.

mod support;

use couponry_domain::{
    UserId,
    code::CouponCode,
    redemption::{Change, Order, Refusal, UseKind},
};
use couponry_postgres::{
    CouponWithHolder, Database, RecordOutcome, StoredEvent, UseCounts, UseOutcome, UseRequest, VoidOutcome,
};
use futures::{TryStreamExt as _, future::join_all};
use support::{Fixture, record};

/// Event 1 with 30 coupons, of which coupon N is issued to `uN`.
async fn issued_event(fixture: &Fixture, issued: usize) -> (StoredEvent, Vec<CouponCode>) {
    let (event, coupons) = fixture.event_with_coupons(1, 30, 0).await;
    let records: Vec<_> =
        coupons.iter().take(issued).map(|coupon| record(&event, &format!("u{}", coupon.ordinal), coupon)).collect();
    assert_eq!(fixture.database.record(&records).await.unwrap(), vec![RecordOutcome::Recorded; issued]);
    (event, coupons.into_iter().map(|coupon| coupon.code).collect())
}

fn request(event: &StoredEvent, coupon: &CouponCode, user: &str, change: Change, order: &str) -> UseRequest {
    UseRequest {
        event: event.name.clone(),
        coupon: coupon.clone(),
        user: user.parse().unwrap(),
        order: Order { id: order.parse().unwrap(), amount: None },
        change,
        id: format!("{coupon}-{change:?}-{order}").replace(' ', "").parse().unwrap(),
        hash: [0; 32],
        actor: None,
    }
}

async fn void(database: &Database, event: &StoredEvent, coupon: &CouponCode) -> VoidOutcome {
    database.void_coupon(event.uid, coupon, "admin", "a reason").await.unwrap()
}

#[tokio::test]
async fn void_is_final_idempotent_and_refused_after_redemption() {
    let fixture = Fixture::new().await;
    let (event, coupons) = issued_event(&fixture, 4).await;
    let database = &fixture.database;
    let send = async |coupon: usize, change| {
        let request = request(&event, &coupons[coupon], &format!("u{coupon}"), change, "A");
        database.use_coupon(&request).await.unwrap()
    };
    // Also while an order has reserved it.
    assert!(matches!(send(1, Change::Reserve { seconds: 60 }).await, UseOutcome::Changed { .. }));
    assert!(matches!(send(2, Change::Redeem).await, UseOutcome::Changed { .. }));
    for (coupon, first, second) in [
        (0, VoidOutcome::Voided, VoidOutcome::AlreadyVoided),
        (1, VoidOutcome::Voided, VoidOutcome::AlreadyVoided),
        (
            2,
            VoidOutcome::Refused(Refusal::Redeemed { by_order: false }),
            VoidOutcome::Refused(Refusal::Redeemed { by_order: false }),
        ),
        // Not issued.
        (4, VoidOutcome::NotRecorded, VoidOutcome::NotRecorded),
    ] {
        assert_eq!(void(database, &event, &coupons[coupon]).await, first, "{coupon}");
        assert_eq!(void(database, &event, &coupons[coupon]).await, second, "{coupon}");
    }
    assert_eq!(send(0, Change::Redeem).await, UseOutcome::Refused(Refusal::Voided));
    assert_eq!(send(1, Change::Redeem).await, UseOutcome::Refused(Refusal::Voided));
    let history = database.coupon_history(event.uid, &coupons[1]).await.unwrap();
    let kinds: Vec<_> = history.iter().map(|(entry, actor)| (entry.kind, actor.as_deref())).collect();
    assert_eq!(kinds, [(UseKind::Reserved, None), (UseKind::Voided, Some("admin"))]);
    assert_eq!(fixture.sql("SELECT DISTINCT actor, reason FROM coupon_use WHERE kind = 'VOIDED'"), "admin|a reason");

    assert_eq!(database.use_counts(event.uid).await.unwrap(), UseCounts { reserved: 0, redeemed: 1, voided: 2 });
    let mut voided: Vec<(UserId, CouponCode)> = database.stream_voided(event.uid).try_collect().await.unwrap();
    voided.sort();
    let of = |user: &str, coupon: usize| (user.parse::<UserId>().unwrap(), coupons[coupon].clone());
    assert_eq!(voided, [of("u0", 0), of("u1", 1)]);
    let among = database.voided_among(event.uid, &coupons[1..4]).await.unwrap();
    assert_eq!(among, [coupons[1].clone()]);
    let all: Vec<CouponWithHolder> = database.stream_coupons_with_holders(event.uid).try_collect().await.unwrap();
    assert_eq!(all.len(), 30);
    let of_voided: Vec<_> = all.into_iter().filter(|coupon| coupon.is_voided).map(|coupon| coupon.code).collect();
    assert_eq!(of_voided, coupons[..2]);
}

#[tokio::test]
async fn redemption_and_void_at_the_same_time_have_one_winner() {
    let fixture = Fixture::new().await;
    let (event, coupons) = issued_event(&fixture, 30).await;
    // A redeemer and the operator.
    let databases: Vec<_> = (0..2).map(|_| Database::connect(&fixture.server.url()).unwrap()).collect();
    let (mut voided, mut redeemed) = (0, 0);
    for (i, coupon) in coupons.iter().enumerate() {
        let user = format!("u{i}");
        let requests: Vec<_> =
            (0..4).map(|n| request(&event, coupon, &user, Change::Redeem, &format!("order-{n}"))).collect();
        let redemptions = join_all(requests.iter().map(|request| databases[0].use_coupon(request)));
        let voids = join_all((0..4).map(|_| void(&databases[1], &event, coupon)));
        // Both are sometimes first.
        let (redemptions, voids) = if i % 2 == 0 {
            tokio::join!(redemptions, voids)
        } else {
            let (voids, redemptions) = tokio::join!(voids, redemptions);
            (redemptions, voids)
        };
        let won = redemptions.iter().filter(|outcome| matches!(outcome, Ok(UseOutcome::Changed { .. }))).count();
        let by_void = voids.iter().filter(|outcome| **outcome == VoidOutcome::Voided).count();
        assert_eq!(won + by_void, 1, "{redemptions:?} {voids:?}");
        let expected = if by_void == 1 { Refusal::Voided } else { Refusal::Redeemed { by_order: false } };
        for outcome in redemptions.into_iter().map(Result::unwrap) {
            let is_expected =
                matches!(outcome, UseOutcome::Changed { .. }) || outcome == UseOutcome::Refused(expected.clone());
            assert!(is_expected, "{outcome:?}");
        }
        voided += by_void;
        redeemed += won;
    }
    println!("{voided} voided, {redeemed} redeemed");
    assert_eq!(fixture.sql("SELECT count(*), count(DISTINCT code) FROM coupon_use"), "30|30");
}

#[tokio::test]
async fn issuance_is_updated_only_to_erase_its_user() {
    let fixture = Fixture::new().await;
    let (event, coupons) = issued_event(&fixture, 2).await;
    let user: UserId = "u0".parse().unwrap();
    let key = couponry_domain::PseudonymKey::of(&event.seed);
    assert_eq!(fixture.database.event(event.uid).await.unwrap().unwrap().pseudonym_key(), None);
    for _ in 0..2 {
        fixture.database.erase_user(event.uid, &user, &key.pseudonym(&user)).await.unwrap();
    }
    let erased = fixture.database.find_issuances(event.uid, &[], &coupons[..1]).await.unwrap();
    assert_eq!(erased[0].issued.user_id, key.pseudonym(&user));
    assert_eq!(fixture.database.event(event.uid).await.unwrap().unwrap().pseudonym_key(), Some(key.clone()));
    for update in [
        "user_id = 'u9'".to_owned(),
        "user_id = 'erased:1', value = 1".to_owned(),
        "user_id = 'erased:1', recorded_at = now() + interval '1 s'".to_owned(),
        "user_id = 'erased:1', valid_until = now()".to_owned(),
        format!("user_id = 'erased:1', code = '{}'", coupons[5]),
        "value = value".to_owned(),
    ] {
        assert!(fixture.server.sql(&format!("UPDATE issuance SET {update} WHERE user_id = 'u1'")).is_err(), "{update}");
    }
    let again = "UPDATE issuance SET user_id = 'erased:1' WHERE user_id LIKE 'erased:%'";
    assert!(fixture.server.sql(again).is_err());
    // The record of an erased user is consumed again; the coupon of another erased user is not that of this one.
    let stock = fixture.database.coupons(event.uid, 0, 2).await.unwrap();
    let replayed = [record(&event, "u0", &stock[0]), record(&event, "u1", &stock[0])];
    let outcomes = fixture.database.record(&replayed[..1]).await.unwrap();
    assert_eq!(outcomes, [RecordOutcome::AlreadyRecorded]);
    let foreign = fixture.database.record(&replayed[1..]).await.unwrap();
    assert!(matches!(foreign[..], [RecordOutcome::Rejected(_)]), "{foreign:?}");
}
