//! Users who are not admitted yet, and coupons that are released later.

use couponry_domain::{Acknowledge, AdmissionKey, Gate, Release, Seed, Window};
use couponry_redis::GateSettings;
use serde_json::{Value, json};

use crate::support::{World, until};

#[tokio::test]
async fn responses_have_the_times_of_admission_and_next_drop() {
    for acknowledge in [Acknowledge::Redis, Acknowledge::Kafka] {
        let world = World::shared().await.open(3).await;
        let now = world.redis_store.observe(&world.event).await.unwrap().unwrap().now;
        let key = AdmissionKey::of(&Seed::from([7; 32]));
        let (start, ramp_seconds, next) = (now - 43_200_000, 86_400, now + 3_600_000);
        // Half of the users are admitted, and the nearest admission is not close.
        let users = (0..).map(|number| format!("u{number}"));
        let users = users.map(|user| (key.admitted_at(start, ramp_seconds, &user.parse().unwrap()) - now, user));
        let far: Vec<_> = users.filter(|(offset, _)| offset.abs() > 3_600_000).take(20).collect();
        let (admitted, waiting): (Vec<_>, Vec<_>) = far.into_iter().partition(|(offset, _)| *offset < 0);
        let (offset, late) = &waiting[0];
        let settings = |gate| GateSettings {
            gate,
            window: Window { start: Some(start), end: None },
            acknowledge,
            validity: None,
            release: Release { ramp_seconds: Some(ramp_seconds), drops: format!("{next}:1,").parse().unwrap() },
            admission_key: Some(key.clone()),
            generation: 2,
            stock_epoch: 0,
            total: 3,
        };
        world.redis_store.set_gate(&world.event, world.uid, &settings(Gate::Open)).await.unwrap();
        let issuer = world.ready_issuer(&[]).await;
        let time = |millis| format!("{:.3}", jiff::Timestamp::from_millisecond(millis).unwrap());

        for (_, user) in &admitted[..2] {
            let wait = issuer.issue(late).await;
            let expected = (200, "WAIT", json!(time(now + offset)), Value::Null);
            let received =
                (wait.status.as_u16(), wait.reason(), wait.json["admittedAt"].clone(), wait.json["couponKey"].clone());
            assert_eq!(received, expected, "{}", wait.json);
            assert!(wait.json.get("nextDropAt").is_none() && !wait.succeeded(), "{}", wait.json);
            assert!(issuer.issue(user).await.succeeded());
        }
        for user in [late, &admitted[2].1] {
            let sold_out = issuer.issue(user).await;
            assert_eq!((sold_out.reason(), &sold_out.json["nextDropAt"]), ("SOLD_OUT", &json!(time(next))));
            assert!(sold_out.json.get("admittedAt").is_none(), "{}", sold_out.json);
        }
        let metrics = issuer.metrics().await;
        for (outcome, count) in [("wait", 2), ("issued", 2), ("sold_out", 2)] {
            let line = format!("couponry_issuer_requests_total{{outcome=\"{outcome}\"}} {count}");
            assert!(metrics.contains(&line), "{line} is missing: {metrics}");
        }
        let view = issuer.get("/coupons/summer").await.json;
        let shown = (&view["state"], &view["remaining"], &view["nextDropAt"]);
        assert_eq!(shown, (&json!("SOLD_OUT"), &json!(0), &json!(time(next))), "{view}");
        world.redis_store.set_gate(&world.event, world.uid, &settings(Gate::Closed)).await.unwrap();
        until("the closed event has no next drop", async || {
            let view = issuer.get("/coupons/summer").await.json;
            view["state"] == "ENDED" && view["nextDropAt"].is_null()
        })
        .await;
    }
}
