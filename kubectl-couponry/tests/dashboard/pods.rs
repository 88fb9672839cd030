//! Pods that do not respond, or with more than metrics.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use couponry_testbed::{pods::PodOf, shared};

use crate::support::{Dashboard, manifest, namespace, open_event, spec};

/// An issuer's pod, which serves each connection with `respond`.
fn pod(namespace: &str, name: &str, respond: impl Fn(TcpStream) + Send + 'static) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let monitor_port = listener.local_addr().unwrap().port();
    PodOf { name, component: "issuer", monitor_port }.create(&shared::kubeconfig(), namespace).unwrap();
    std::thread::spawn(move || listener.incoming().map_while(Result::ok).for_each(respond));
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_and_endless_pods_do_not_stop_the_others() {
    let namespace = namespace();
    let (count, issued) = (AtomicU32::new(0), "couponry_issuer_coupons_issued_total");
    pod(&namespace, "issuer-counting", move |mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let issued_now = count.fetch_add(100, Ordering::Relaxed);
        let text = format!("couponry_issuer_outbox_in_flight 0\n{issued}{{event=\"summer\"}} {issued_now}\n");
        let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}", text.len());
    });
    let dashboard = Dashboard::start(&shared::kubeconfig(), &namespace);
    let browser = dashboard.open().await;
    let rate = "/[1-9][0-9]* coupons per second/.test(document.querySelector('#overview-summary').textContent)";
    let event = manifest(&namespace, "summer", &spec("Sale", 1_000_000));
    shared::kubectl_with(&["apply", "-f", "-"], &event).unwrap();
    let status = r#"{"status":{"conditions":[{"type":"Open","status":"True","reason":"Open","message":"Open.","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}"#;
    let patch = ["patch", "ce", "summer", "-n", &namespace, "--subresource=status", "--type=merge", "-p", status];
    shared::kubectl(&patch).unwrap();
    browser.wait_for(rate).await.unwrap();

    // Connections are accepted and never answered.
    let open = Mutex::new(Vec::new());
    pod(&namespace, "issuer-silent", move |stream| open.lock().unwrap().push(stream));
    pod(&namespace, "issuer-endless", |mut stream| {
        std::thread::spawn(move || {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n");
            while stream.write_all(&[b'x'; 8 * 1024]).is_ok() {}
        });
    });
    browser.wait_for_text("The metrics of 2 of 3 pods cannot be read").await.unwrap();
    browser.wait_for_text("more than 4194304 bytes").await.unwrap();
    open_event(&browser, "summer").await;
    browser.wait_for_text("of 1 of 3 issuers").await.unwrap();
    for pod in ["issuer-silent", "issuer-endless"] {
        browser.wait_for_text(&format!("{pod}: no metrics yet")).await.unwrap();
    }
    browser.wait_for("/^[1-9]/.test(document.querySelector('#issued-plot .legend strong').textContent)").await.unwrap();
}
