//! Exports a span to a collector on loopback.

use std::time::Duration;

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use couponry_runtime::telemetry::TelemetryArgs;
use opentelemetry_proto::tonic::{collector::trace::v1::ExportTraceServiceRequest, common::v1::any_value::Value};
use prost::Message as _;
use tokio::{net::TcpListener, sync::mpsc, time};

#[derive(Debug, clap::Parser)]
struct Args {
    #[command(flatten)]
    telemetry: TelemetryArgs,
}

#[tokio::test]
async fn otlp_endpoint_receives_the_spans_of_the_service_at_shutdown() {
    let (sender, mut exports) = mpsc::unbounded_channel();
    let receiver = post(async move |headers: HeaderMap, body: Bytes| {
        sender.send((headers["content-type"].clone(), body)).map_or(StatusCode::GONE, |()| StatusCode::OK)
    });
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    // On another thread, because that of the issuer waits until the last spans are exported.
    std::thread::spawn(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let listener = TcpListener::from_std(listener).unwrap();
            axum::serve(listener, Router::new().route("/v1/traces", receiver)).await.unwrap();
        });
    });

    let Args { telemetry } = clap::Parser::parse_from(["test", "--otlp-endpoint", &endpoint, "--log", "warn"]);
    let guard = telemetry.init("couponry-test").unwrap();
    tracing::debug_span!(target: "couponry_test", "issue_batch", users = 3).in_scope(|| {
        tracing::debug_span!(target: "hyper", "foreign").in_scope(|| {});
    });
    drop(guard);

    let (content_type, body) = time::timeout(Duration::from_mins(1), exports.recv()).await.unwrap().unwrap();
    assert_eq!(content_type, "application/x-protobuf");
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let [resource] = request.resource_spans.as_slice() else { panic!("{request:?}") };
    let attributes = &resource.resource.as_ref().unwrap().attributes;
    let service = attributes.iter().find(|attribute| attribute.key == "service.name").unwrap();
    let service = service.value.as_ref().and_then(|value| value.value.as_ref());
    assert_eq!(service, Some(&Value::StringValue("couponry-test".to_owned())));
    let [span] = resource.scope_spans[0].spans.as_slice() else { panic!("{resource:?}") };
    assert_eq!(span.name, "issue_batch");
    let users = span.attributes.iter().find(|attribute| attribute.key == "users").unwrap();
    assert_eq!(users.value.as_ref().unwrap().value, Some(Value::IntValue(3)));
}
