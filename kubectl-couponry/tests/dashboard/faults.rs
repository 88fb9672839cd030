//! Missing permissions, and an API server that does not respond.

use couponry_testbed::{Kubernetes, kubernetes::User};

use crate::support::{Dashboard, apply_crd, click, confirm, manifest, spec};

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
    let pods = ["create", "role", "pods", "--verb=list", "--resource=pods"];
    kubernetes.kubectl(&pods).unwrap();
    kubernetes.kubectl(&["create", "rolebinding", "pods", "--role=pods", "--user=viewer"]).unwrap();
    let pod = couponry_testbed::pods::PodOf { name: "issuer", component: "issuer", monitor_port: 1 };
    pod.create(kubernetes.kubeconfig(), "default").unwrap();
    browser.wait_for_text("resources: [pods/proxy], verbs: [get]").await.unwrap();
    let proxy = ["create", "role", "proxy", "--verb=get", "--resource=pods/proxy"];
    kubernetes.kubectl(&proxy).unwrap();
    kubernetes.kubectl(&["create", "rolebinding", "proxy", "--role=proxy", "--user=viewer"]).unwrap();
    browser.wait_for_text("The metrics of 1 of 1 pods cannot be read: issuer").await.unwrap();

    kubernetes.pause().unwrap();
    browser.wait_for_text("No contact with the Kubernetes API server since").await.unwrap();
    kubernetes.resume().unwrap();
    browser.wait_for("!document.body.innerText.includes('No contact')").await.unwrap();
    kubernetes.kill9().unwrap();
    browser.wait_for_text("No contact with the Kubernetes API server since").await.unwrap();
    kubernetes.restart().unwrap();
    apply("winter");
    browser.wait_for("document.querySelector(\"a[href='#/winter']\")").await.unwrap();
    browser.wait_for("!document.body.innerText.includes('No contact')").await.unwrap();

    drop(dashboard);
    browser.wait_for_text("No contact with the dashboard's program").await.unwrap();
}
