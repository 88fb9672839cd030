//! Callers with tokens of Kubernetes service accounts.

use axum::http::{HeaderValue, StatusCode, header};
use couponry_testbed::{scratch::Scratch, shared, unique_name};
use serde_json::json;

use crate::support::{Redeemer, Response, World, body, until};

/// A namespace with service accounts.
struct Namespace(String);

impl Namespace {
    fn create() -> Self {
        let name = unique_name("redeemer");
        shared::kubectl(&["create", "namespace", &name]).unwrap();
        Self(name)
    }

    /// A new service account that may redeem these events. Empty: none.
    fn account(&self, name: &str, events: &[&str]) {
        self.kubectl(&["create", "serviceaccount", name]);
        if events.is_empty() {
            return;
        }
        let metadata = json!({"name": name, "namespace": self.0});
        let permission = json!({
            "apiGroups": ["couponry.dev"], "resources": ["couponevents"], "verbs": ["redeem"], "resourceNames": events,
        });
        let (group, api) = ("rbac.authorization.k8s.io", "rbac.authorization.k8s.io/v1");
        let role = json!({"apiVersion": api, "kind": "Role", "metadata": metadata, "rules": [permission]});
        let binding = json!({
            "apiVersion": api, "kind": "RoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": self.0}],
        });
        for object in [role, binding] {
            shared::kubectl_with(&["apply", "-f", "-"], &object.to_string()).unwrap();
        }
    }

    fn token(&self, account: &str, flags: &[&str]) -> String {
        self.kubectl(&[&["create", "token", account], flags].concat()).trim().to_owned()
    }

    fn kubectl(&self, args: &[&str]) -> String {
        shared::kubectl(&[args, &["--namespace", &self.0]].concat()).unwrap()
    }

    /// A redeemer that authenticates callers.
    async fn redeemer(&self, world: &World, flags: &[&str]) -> Redeemer {
        let kubeconfig = shared::kubeconfig();
        let env = [("KUBECONFIG", kubeconfig.to_str().unwrap()), ("POD_NAMESPACE", &self.0)];
        let redeemer = world.redeemer_with(&[&["--auth", "service-account"], flags].concat(), &env);
        redeemer.wait_until_ready().await;
        redeemer
    }
}

async fn send(server: &Redeemer, token: Option<&str>, key: &str, body: &serde_json::Value) -> Response {
    let mut request = server.request("reserve", Some(key), body);
    if let Some(token) = token {
        let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
        request.headers_mut().insert(header::AUTHORIZATION, value);
    }
    server.send(request).await.unwrap()
}

const AUDIENCE: [&str; 2] = ["--audience", "couponry-redeemer"];

#[tokio::test]
async fn caller_needs_a_token_for_the_audience_and_the_permission_for_the_event() {
    let world = World::open(10).await;
    let namespace = Namespace::create();
    namespace.account("checkout", &["summer"]);
    namespace.account("other-event", &["winter"]);
    namespace.account("without-role", &[]);
    let server = namespace.redeemer(&world, &[]).await;
    let coupon = world.issue_and_record("u1").await;
    let order = body(&coupon, "u1", "order-1");

    let [checkout, other_event, without_role] =
        ["checkout", "other-event", "without-role"].map(|account| namespace.token(account, &AUDIENCE));
    let of_api_server = namespace.token("checkout", &[]);
    for (token, status, problem) in [
        (None, StatusCode::UNAUTHORIZED, "unauthorized"),
        (Some("garbage"), StatusCode::UNAUTHORIZED, "unauthorized"),
        (Some(of_api_server.as_str()), StatusCode::UNAUTHORIZED, "unauthorized"),
        (Some(other_event.as_str()), StatusCode::FORBIDDEN, "forbidden"),
        (Some(without_role.as_str()), StatusCode::FORBIDDEN, "forbidden"),
    ] {
        let response = send(&server, token, "1", &order).await;
        assert_eq!((response.status, response.problem()), (status, problem), "{response:?}");
        let challenge = response.headers.get("www-authenticate");
        assert_eq!(challenge.is_some(), status == StatusCode::UNAUTHORIZED, "{response:?}");
    }
    // The other operations.
    assert_eq!(server.validate(&order).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(server.coupon(&coupon).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(world.database.coupon_history(world.uid, &coupon).await.unwrap(), []);

    assert_eq!(send(&server, Some(&checkout), "1", &order).await.state(), "RESERVED");
    let history = world.database.coupon_history(world.uid, &coupon).await.unwrap();
    let caller = format!("system:serviceaccount:{}:checkout", namespace.0);
    assert_eq!(history[0].1.as_deref(), Some(caller.as_str()));
    let metrics = server.metrics().await;
    for count in [r#"{reason="forbidden"} 2"#, r#"{reason="invalid_token"} 2"#] {
        assert!(metrics.contains(&format!("couponry_redeemer_authentication_failures_total{count}")), "{metrics}");
    }
    let document = server.get("/openapi.json").await.json;
    assert_eq!(document["security"], json!([{"caller": []}]));
}

#[tokio::test]
async fn permission_that_was_withdrawn_ends_when_the_decision_expires() {
    let world = World::open(10).await;
    let namespace = Namespace::create();
    namespace.account("checkout", &["summer"]);
    let server = namespace.redeemer(&world, &["--auth-cache-seconds", "1"]).await;
    let coupon = world.issue_and_record("u1").await;
    let (order, token) = (body(&coupon, "u1", "order-1"), namespace.token("checkout", &AUDIENCE));
    assert_eq!(send(&server, Some(&token), "1", &order).await.state(), "RESERVED");
    namespace.kubectl(&["delete", "rolebinding", "checkout"]);
    until("the permission has ended", async || {
        send(&server, Some(&token), "1", &order).await.status == StatusCode::FORBIDDEN
    })
    .await;
    namespace.account("another", &["summer"]);
    let token = namespace.token("another", &AUDIENCE);
    assert_eq!(send(&server, Some(&token), "2", &order).await.state(), "RESERVED");
}

#[tokio::test]
async fn unavailable_api_server_is_a_503() {
    let world = World::open(10).await;
    let coupon = world.issue_and_record("u1").await;
    let closed = couponry_testbed::ports::free().unwrap();
    let scratch = couponry_testbed::scratch::Scratch::new("kubeconfig").unwrap();
    let path = scratch.path().join("config");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": format!("http://127.0.0.1:{closed}")}}],
        "users": [{"name": "test", "user": {}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    });
    std::fs::write(&path, config.to_string()).unwrap();
    let server = world.redeemer_with(&["--auth", "service-account"], &[("KUBECONFIG", path.to_str().unwrap())]);
    server.wait_until_ready().await;
    send(&server, Some("token"), "1", &body(&coupon, "u1", "order-1")).await.assert_unavailable();
    assert_eq!(world.database.coupon_history(world.uid, &coupon).await.unwrap(), []);
}

/// A server that accepts connections and never responds.
#[tokio::test]
async fn redemption_while_the_api_server_hangs_returns_503_and_changes_nothing() {
    let world = World::open(10).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let scratch = Scratch::new("kubeconfig").unwrap();
    let kubeconfig = scratch.path().join("config");
    let server = format!("http://{}", listener.local_addr().unwrap());
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c", "users": [{"name": "u", "user": {}}],
        "clusters": [{"name": "k", "cluster": {"server": server}}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
    });
    std::fs::write(&kubeconfig, config.to_string()).unwrap();
    let env = [("KUBECONFIG", kubeconfig.to_str().unwrap()), ("POD_NAMESPACE", "shop")];
    let redeemer = world.redeemer_with(&["--auth", "service-account"], &env);
    redeemer.wait_until_ready().await;
    let coupon = world.issue_and_record("u1").await;
    let response = send(&redeemer, Some("token"), "1", &body(&coupon, "u1", "order-1")).await;
    response.assert_unavailable();
    assert!(response.json["detail"].as_str().unwrap().contains("Nothing was changed"), "{response:?}");
    let metrics = redeemer.metrics().await;
    assert!(metrics.contains(r#"authentication_failures_total{reason="unavailable"} 1"#), "{metrics}");
}

/// Otherwise the roles of another namespace would decide about the coupons.
#[tokio::test]
async fn redeemer_for_the_database_of_another_namespace_is_not_ready() {
    let world = World::open(10).await;
    let owner = couponry_postgres::Owner { namespace: "another".to_owned(), uid: "1".to_owned() };
    world.database.claim_installation(&owner).await.unwrap();
    let kubeconfig = shared::kubeconfig();
    let env = [("KUBECONFIG", kubeconfig.to_str().unwrap()), ("POD_NAMESPACE", "shop")];
    let redeemer = world.redeemer_with(&["--auth", "service-account"], &env);
    until("the other owner is reported", async || {
        let (status, text) = redeemer.readiness().await;
        status == 503 && text.contains("the namespace another") && text.contains("authorized in the namespace shop")
    })
    .await;
}
