//! The checkout of the tutorial, `docs/tutorial/checkout.py`, called by `shop.py`.

use std::{path::Path, process::Output};

use couponry_domain::{code::CouponCode, redemption::UseKind};
use tokio::{
    io::{self, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::Command,
};

use crate::support::World;

/// The checkout of an order of 12,000 with this coupon of `u1`.
async fn check_out(port: u16, coupon: &CouponCode, order: &str, env: &[(&str, &str)]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/tutorial/shop.py");
    let mut command = Command::new("python3");
    command.arg(script).args(["summer", coupon.as_str(), "u1", order, "12000"]);
    command.env("REDEEMER_URL", format!("http://127.0.0.1:{port}")).envs(env.iter().copied());
    command.output().await.unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The history of the coupon: what was done, and by which order.
async fn history(world: &World, coupon: &CouponCode) -> Vec<(UseKind, String)> {
    let history = world.database.coupon_history(world.uid, coupon).await.unwrap();
    history.into_iter().map(|(it, _)| (it.kind, it.order.unwrap().into())).collect()
}

#[tokio::test]
async fn tutorial_checkout_redeems_paid_orders_and_releases_declined_ones() {
    let world = World::open(10).await;
    let server = world.ready_redeemer().await;
    let coupon = world.issue_and_record("u1").await;

    let declined = check_out(server.listen, &coupon, "order-1", &[("PAYMENT", "declined")]).await;
    assert_eq!(stderr(&declined), "order-1: payment-declined\n");
    let paid = check_out(server.listen, &coupon, "order-2", &[]).await;
    assert_eq!(stdout(&paid), "order-2: paid 10800, discount 1200\n");
    let refused = check_out(server.listen, &coupon, "order-3", &[]).await;
    assert_eq!(stderr(&refused), "order-3: coupon-redeemed\n");

    let of = |kind, order: &str| (kind, order.to_owned());
    let expected = [
        of(UseKind::Reserved, "order-1"),
        of(UseKind::Released, "order-1"),
        of(UseKind::Reserved, "order-2"),
        of(UseKind::Redeemed, "order-2"),
    ];
    assert_eq!(history(&world, &coupon).await, expected);
}

/// A proxy that loses the response of every other connection, after the redeemer has sent it.
async fn lossy_proxy(redeemer: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        for number in 0.. {
            let (client, _) = listener.accept().await.unwrap();
            let server = TcpStream::connect(("127.0.0.1", redeemer)).await.unwrap();
            let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                (client.into_split(), server.into_split());
            let forward = tokio::spawn(async move { io::copy(&mut from_client, &mut to_server).await });
            // The client does not keep connections, so the redeemer closes them after the response.
            let mut response = Vec::new();
            from_server.read_to_end(&mut response).await.unwrap();
            assert!(response.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&response));
            if number % 2 == 1 {
                to_client.write_all(&response).await.unwrap();
            }
            drop(to_client);
            forward.abort();
        }
    });
    port
}

#[tokio::test]
async fn tutorial_checkout_repeats_a_request_whose_response_was_lost_without_a_second_effect() {
    let world = World::open(10).await;
    let server = world.ready_redeemer().await;
    let coupon = world.issue_and_record("u1").await;
    let paid = check_out(lossy_proxy(server.listen).await, &coupon, "order-1", &[]).await;
    assert_eq!(stdout(&paid), "order-1: paid 10800, discount 1200\n");
    let expected = [UseKind::Reserved, UseKind::Redeemed].map(|kind| (kind, "order-1".to_owned()));
    assert_eq!(history(&world, &coupon).await, expected);
    let metrics = server.metrics().await;
    for operation in ["reserve", "redeem"] {
        let count = format!(r#"couponry_redeemer_responses_total{{operation="{operation}",code="200"}} 2"#);
        assert!(metrics.contains(&count), "{metrics}");
    }
}
