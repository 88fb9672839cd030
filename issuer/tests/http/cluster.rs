//! A node of a Redis Cluster is down.

use axum::http::StatusCode;
use couponry_testbed::RedisCluster;
use serde_json::json;

use crate::support::{World, until};

/// Whichever keys of the installation the node has, the events of the other nodes are issued and sent to Kafka, also by
/// an issuer that was started meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn events_on_other_nodes_are_served_while_a_node_is_down() {
    // The names of events on these nodes: the first has `couponEvents`, the second `couponActiveEvents`.
    for (node, lost) in [(1, "summer"), (2, "open")] {
        let cluster = RedisCluster::start(3, &["--cluster-require-full-coverage", "no"]).unwrap();
        let mut world = World::on(cluster.url(), couponry_testbed::shared::kafka()).await;
        world.event = "broken".parse().unwrap();
        let world = world.open(100).await;
        let running = world.ready_issuer(&["--outbox-takeover-seconds", "1"]).await;
        let issue = |user: &str, event: &str| json!({ "userId": user, "eventId": event }).to_string();
        assert!(running.post(issue("u0", "broken")).await.succeeded());
        cluster.nodes()[node].kill9().unwrap();

        let started = world.ready_issuer(&["--outbox-takeover-seconds", "1"]).await;
        for (issuer, user) in [(&running, "u1"), (&started, "u2")] {
            // A request during the change may have an unknown outcome.
            until("a coupon is issued", async || issuer.post(issue(user, "broken")).await.status == StatusCode::OK)
                .await;
            assert_eq!(issuer.post(issue("u0", lost)).await.status, StatusCode::SERVICE_UNAVAILABLE);
            until("the outage is reported", async || {
                let (status, text) = issuer.readiness().await;
                assert_eq!(status, 200, "{text}");
                text.contains("redis: 1 of 3 masters of the Redis Cluster at")
                    && issuer.metrics().await.contains("dependency_available{dependency=\"redis\"} 0")
            })
            .await;
        }
        // As an issuer that crashes afterwards.
        world.redis_store.issue(&world.event, &["u3".parse().unwrap()]).await.unwrap().unwrap();
        assert_eq!(world.users_in_kafka(4).await.len(), 4);
        world.wait_until_outbox_is_empty().await;
    }
}
