//! Missing permissions, and an API server that does not respond.

use couponry_testbed::{Kubernetes, kubernetes::User, shared};

use crate::support::{Dashboard, apply_crd, click, confirm, manifest, namespace, spec};

#[tokio::test(flavor = "multi_thread")]
async fn missing_permissions_and_outages_are_reported() {
    let viewer = User { token: "viewer-token", name: "viewer", groups: &["system:authenticated"] };
    let kubernetes = Kubernetes::start_with(&[viewer]).unwrap();
    apply_crd(|args, input| drop(kubernetes.kubectl_with(args, input).unwrap()), kubernetes.kubeconfig());
    let apply = |name: &str| {
        kubernetes.kubectl_with(&["apply", "-f", "-"], &manifest("default", name, &spec("Summer sale", 10))).unwrap();
    };
    apply("summer");
    let role = ["create", "role", "viewer", "--verb=get,list,watch", "--resource=couponevents.couponry.dev"];
    kubernetes.kubectl(&role).unwrap();
    kubernetes.kubectl(&["create", "rolebinding", "viewer", "--role=viewer", "--user=viewer"]).unwrap();
    let kubeconfig = kubernetes.kubeconfig().with_file_name("viewer");
    let admin = std::fs::read_to_string(kubernetes.kubeconfig()).unwrap();
    std::fs::write(&kubeconfig, admin.replace("admin-token", viewer.token)).unwrap();

    let dashboard = Dashboard::start(&kubeconfig, "default");
    let browser = dashboard.open().await;
    browser.wait_for_text("as viewer").await.unwrap();
    browser.wait_for_text("Not allowed to list the pods in the namespace default").await.unwrap();
    click(&browser, "a[href='#/summer']").await;
    browser.wait_for_text("Not allowed to list Kubernetes Events").await.unwrap();
    confirm(&browser, "pause", "summer").await;
    browser.wait_for_text("not allowed to patch events in the namespace default").await.unwrap();
    browser.check_accessibility().await.unwrap();
    click(&browser, "#dialog-cancel").await;
    click(&browser, ".back a").await;

    // With pods, but without their metrics.
    let pods = ["create", "role", "pods", "--verb=list,watch", "--resource=pods"];
    kubernetes.kubectl(&pods).unwrap();
    kubernetes.kubectl(&["create", "rolebinding", "pods", "--role=pods", "--user=viewer"]).unwrap();
    let pod = couponry_testbed::pods::PodOf { name: "issuer", component: "issuer", monitor_port: 1 };
    pod.create(kubernetes.kubeconfig(), "default").unwrap();
    browser.wait_for_text("resources: [pods/proxy], verbs: [get]").await.unwrap();
    let proxy = ["create", "role", "proxy", "--verb=get", "--resource=pods/proxy"];
    kubernetes.kubectl(&proxy).unwrap();
    kubernetes.kubectl(&["create", "rolebinding", "proxy", "--role=proxy", "--user=viewer"]).unwrap();
    browser.wait_for_text("The metrics of 1 of 1 pods cannot be read: issuer").await.unwrap();

    click(&browser, "a[href='#/summer']").await;
    kubernetes.pause().unwrap();
    browser.wait_for_text("No contact with the Kubernetes API server since").await.unwrap();
    browser.wait_for_text("Unknown: the dashboard has no current data").await.unwrap();
    confirm(&browser, "pause", "summer").await;
    browser.wait_for_text("the API server has not confirmed the change within").await.unwrap();
    kubernetes.resume().unwrap();
    browser.wait_for("!document.body.innerText.includes('No contact')").await.unwrap();
    click(&browser, "#dialog-cancel").await;
    click(&browser, ".back a").await;
    kubernetes.kill9().unwrap();
    browser.wait_for_text("No contact with the Kubernetes API server since").await.unwrap();
    kubernetes.restart().unwrap();
    // Without a change of an event.
    browser.wait_for("!document.body.innerText.includes('No contact')").await.unwrap();
    apply("winter");
    browser.wait_for("document.querySelector(\"a[href='#/winter']\")").await.unwrap();

    drop(dashboard);
    browser.wait_for_text("No contact with the dashboard's program").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_credentials_are_reported_with_the_time_of_the_data() {
    let namespace = namespace();
    let kubectl = |args: &[&str]| shared::kubectl(&[args, &["-n", &namespace]].concat()).unwrap();
    shared::kubectl_with(&["apply", "-f", "-"], &manifest(&namespace, "summer", &spec("Summer sale", 10))).unwrap();
    kubectl(&["create", "serviceaccount", "visitor"]);
    kubectl(&[
        "create",
        "rolebinding",
        "visitor",
        "--clusterrole=admin",
        &format!("--serviceaccount={namespace}:visitor"),
    ]);
    kubectl(&["create", "role", "events", "--verb=get,list,watch", "--resource=couponevents.couponry.dev"]);
    kubectl(&["create", "rolebinding", "events", "--role=events", &format!("--serviceaccount={namespace}:visitor")]);
    let token = kubectl(&["create", "token", "visitor"]);
    let scratch = couponry_testbed::scratch::Scratch::new("visitor").unwrap();
    let kubeconfig = scratch.path().join("kubeconfig");
    let admin = std::fs::read_to_string(shared::kubeconfig()).unwrap();
    std::fs::write(&kubeconfig, admin.replace("admin-token", token.trim())).unwrap();
    let dashboard = Dashboard::start(&kubeconfig, &namespace);
    let browser = dashboard.open().await;
    browser.wait_for_text("Summer sale").await.unwrap();
    kubectl(&["delete", "serviceaccount", "visitor"]);
    let notice = "/The API server rejects the credentials, .* since [0-9:]+ \\(/.test(document.body.innerText)";
    browser.wait_for(notice).await.unwrap();
}
