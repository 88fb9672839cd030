//! The record cutoff of a recovery.

mod support;

use std::sync::atomic::{AtomicI64, Ordering};

use couponry_postgres::{RecordOutcome, Rejection, StoredEvent};
use support::{Fixture, record};

#[tokio::test]
async fn record_of_issuance_before_cutoff_is_rejected() {
    let fixture = Fixture::new().await;
    let (event, c) = fixture.event_with_coupons(1, 10, 0).await;
    let at = |issued_at, user: &str, i: usize| {
        let mut record = record(&event, user, &c[i]);
        record.issued.issued_at = issued_at;
        record
    };
    let early = at(1000, "u0", 0);
    assert_eq!(fixture.database.record(std::slice::from_ref(&early)).await.unwrap(), [RecordOutcome::Recorded]);
    assert!(fixture.database.set_record_cutoff(&event, 2000).await.unwrap());
    let late = RecordOutcome::Rejected(Rejection::BeforeRecordCutoff);
    let records = [early, at(1999, "u1", 1), at(2000, "u2", 2), at(1999, "u0", 3), at(1999, "u2", 4)];
    let expected = [RecordOutcome::AlreadyRecorded, late.clone(), RecordOutcome::Recorded, late.clone(), late];
    assert_eq!(fixture.database.record(&records).await.unwrap(), expected);

    assert!(
        !fixture.database.set_record_cutoff(&event, 3000).await.unwrap(),
        "another operator has set it since the event was read"
    );
    let known = fixture.database.event(event.uid).await.unwrap().unwrap();
    assert_eq!(known.record_cutoff, Some(2000));
    assert!(fixture.database.set_record_cutoff(&known, 3000).await.unwrap());
    assert_eq!(fixture.database.event(event.uid).await.unwrap().unwrap().record_cutoff, Some(3000));
}

/// Issuances that Redis marks as recorded, and Postgres has lost, are recorded again, unless a recovery has started
/// since.
#[tokio::test]
async fn record_again_ignores_the_cutoff_that_the_caller_knows() {
    let fixture = Fixture::new().await;
    let (event, c) = fixture.event_with_coupons(1, 10, 0).await;
    let issued = |user: &str, i: usize| record(&event, user, &c[i]).issued;
    let users = |names: &[&str]| Some(names.iter().map(|name| name.parse().unwrap()).collect());
    fixture.database.record(&[record(&event, "u0", &c[0])]).await.unwrap();
    assert!(fixture.database.set_record_cutoff(&event, 253_000_000_000_000).await.unwrap());
    assert_eq!(fixture.database.record_again(&event, &[issued("u1", 1)]).await.unwrap(), None, "a recovery started");
    let known = fixture.database.event(event.uid).await.unwrap().unwrap();
    let mut unknown = issued("u4", 4);
    unknown.coupon = "UNKNOWN".parse().unwrap();
    let all = [issued("u2", 0), issued("u0", 3), issued("u1", 1), issued("u0", 0), unknown, issued("u3", 1)];
    assert_eq!(fixture.database.record_again(&known, &all).await.unwrap(), users(&["u0", "u1"]));
    assert_eq!(fixture.database.recorded_count(event.uid).await.unwrap(), 2);
    let latest = all.iter().map(|one| one.issued_at).max();
    assert_eq!(fixture.database.latest_issued_at(event.uid).await.unwrap(), latest);
}

/// No issuance before the cutoff is recorded after the cutoff was set.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_recorded_before_cutoff_after_it_was_set() {
    const COUNT: u64 = 2000;
    let fixture = Fixture::new().await;
    let (event, coupons) = fixture.event_with_coupons(1, COUNT, 0).await;
    let next = AtomicI64::new(0);
    let record_all = async || {
        let mut recorded = 0;
        loop {
            let i = usize::try_from(next.fetch_add(10, Ordering::Relaxed)).unwrap();
            let Some(coupons) = coupons.get(i..i + 10) else { return recorded };
            let records: Vec<_> = coupons.iter().map(|c| record(&event, &format!("u{}", c.ordinal), c)).collect();
            let done = fixture.database.record(&records).await.unwrap();
            recorded += done.iter().filter(|one| **one == RecordOutcome::Recorded).count();
        }
    };
    let set_cutoff = async {
        while next.load(Ordering::Relaxed) < 500 {
            tokio::task::yield_now().await;
        }
        let known: StoredEvent = fixture.database.event(event.uid).await.unwrap().unwrap();
        assert!(fixture.database.set_record_cutoff(&known, i64::from(u32::MAX) * 1000).await.unwrap());
        let counted = fixture.database.recorded_count(event.uid).await.unwrap();
        // Others are still recording.
        assert!(
            next.load(Ordering::Relaxed) < i64::try_from(COUNT).unwrap(),
            "the cutoff was set too late for this test"
        );
        counted
    };
    let recorders = futures::future::join_all((0..3).map(|_| record_all()));
    let (recorded, counted) = tokio::join!(recorders, set_cutoff);
    let after = fixture.database.recorded_count(event.uid).await.unwrap();
    assert_eq!((after, recorded.iter().sum::<usize>() as u64), (counted, counted));
    assert!(counted >= 10);
}
