//! What comes after the stock was restored without it.

mod support;

use std::sync::atomic::{AtomicI64, Ordering};

use couponry_domain::IssuedRecord;
use couponry_postgres::{Recording, Refusal, StoredEvent};
use support::{Books, record};

#[tokio::test]
async fn what_was_issued_before_the_seal_and_comes_after_it_is_refused() {
    let books = Books::open().await;
    let (event, c) = books.stocked(1, 10, 0).await;
    let at = |issued_at, user: &str, i: usize| IssuedRecord { issued_at, ..record(&event, user, &c[i]) };
    let early = at(1000, "u0", 0);
    assert_eq!(books.database.record(std::slice::from_ref(&early)).await.unwrap(), [Recording::Recorded]);
    assert!(books.database.set_record_cutoff(&event, 2000).await.unwrap());
    let late = Recording::Refused(Refusal::TooLate);
    let records = [early, at(1999, "u1", 1), at(2000, "u2", 2), at(1999, "u0", 3), at(1999, "u2", 4)];
    let expected = [Recording::AlreadyRecorded, late.clone(), Recording::Recorded, late.clone(), late];
    assert_eq!(books.database.record(&records).await.unwrap(), expected);

    assert!(!books.database.set_record_cutoff(&event, 3000).await.unwrap(), "somebody else has sealed it since it was seen");
    let seen = books.database.event(event.uid).await.unwrap().unwrap();
    assert_eq!(seen.record_cutoff, Some(2000));
    assert!(books.database.set_record_cutoff(&seen, 3000).await.unwrap());
    assert_eq!(books.database.event(event.uid).await.unwrap().unwrap().record_cutoff, Some(3000));
}

/// Whatever was counted when the seal was set is all that there ever is.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_gets_in_behind_the_seal() {
    const COUNT: u64 = 2000;
    let books = Books::open().await;
    let (event, coupons) = books.stocked(1, COUNT, 0).await;
    let next = AtomicI64::new(0);
    let recording = async || {
        let mut recorded = 0;
        loop {
            let i = usize::try_from(next.fetch_add(10, Ordering::Relaxed)).unwrap();
            let Some(coupons) = coupons.get(i..i + 10) else { return recorded };
            let records: Vec<_> = coupons.iter().map(|c| record(&event, &format!("u{}", c.ordinal), c)).collect();
            let done = books.database.record(&records).await.unwrap();
            recorded += done.iter().filter(|one| **one == Recording::Recorded).count();
        }
    };
    let sealing = async {
        while next.load(Ordering::Relaxed) < 500 {
            tokio::task::yield_now().await;
        }
        let seen: StoredEvent = books.database.event(event.uid).await.unwrap().unwrap();
        assert!(books.database.set_record_cutoff(&seen, i64::from(u32::MAX) * 1000).await.unwrap());
        let counted = books.database.issued_count(event.uid).await.unwrap();
        // Others are still trying.
        assert!(next.load(Ordering::Relaxed) < i64::try_from(COUNT).unwrap(), "it was sealed too late for this test");
        counted
    };
    let recorders = futures::future::join_all((0..3).map(|_| recording()));
    let (recorded, counted) = tokio::join!(recorders, sealing);
    let after = books.database.issued_count(event.uid).await.unwrap();
    assert_eq!((after, recorded.iter().sum::<usize>() as u64), (counted, counted));
    assert!(counted >= 10);
}
