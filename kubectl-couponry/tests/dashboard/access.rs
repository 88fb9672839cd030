//! Only the browser that opened the link may use the dashboard.

use couponry_testbed::shared;

use crate::support::{Dashboard, manifest, namespace, spec};

#[test]
fn requests_without_the_link_or_from_other_sites_are_rejected() {
    let namespace = namespace();
    shared::kubectl_with(&["apply", "-f", "-"], &manifest(&namespace, "summer", &spec("Summer sale", 10))).unwrap();
    let dashboard = Dashboard::start(&shared::kubeconfig(), &namespace);
    let (own, other_name) = (format!("127.0.0.1:{}", dashboard.port), format!("localhost:{}", dashboard.port));
    let get = |path: &str, headers: &[(&str, &str)]| dashboard.request(&format!("GET {path}"), headers, "");

    for path in ["/", "/dashboard.js", "/api/stream", "/api/events/summer", "/?token=", "/?token=wrong"] {
        let (status, head, body) = get(path, &[("host", &own)]);
        assert_eq!(status, 401, "{path}: {body}");
        assert!(!head.contains("set-cookie") && body.contains("kubectl couponry dashboard"), "{head}{body}");
    }
    let link = dashboard.url.strip_prefix(&format!("http://{own}")).unwrap();
    // DNS rebinding: the name of another site resolves to this address.
    for host in ["evil.example", "evil.example:80", &format!("evil.example:{}", dashboard.port), "127.0.0.1", ""] {
        assert_eq!(get(link, &[("host", host)]).0, 421, "{host}");
    }
    let (status, head, body) = get(link, &[("host", &own)]);
    assert!(status == 200 && body.contains("content=\"0;url=/\""), "{head}{body}");
    let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
    let (cookie, attributes) = cookie.split_once(';').unwrap();
    assert_eq!(attributes, " Path=/; HttpOnly; SameSite=Strict");
    let (status, _, body) = get(link, &[("host", &own)]);
    assert!(status == 401 && body.contains("was used already"), "{body}");
    // The browser that has the cookie may follow the link again, and the token leaves the address.
    assert_eq!(get(link, &[("host", &own), ("cookie", cookie)]).0, 303);

    let (status, head, body) = get("/", &[("host", &own), ("cookie", cookie)]);
    assert!(status == 200 && body.contains("<!doctype html>"), "{head}");
    assert!(head.contains("content-security-policy: default-src 'none'; script-src 'self';"), "{head}");
    assert_eq!(get("/", &[("host", &other_name), ("cookie", cookie)]).0, 200);
    assert_eq!(get("/", &[("host", &own), ("cookie", &cookie.replace('=', "=x"))]).0, 401);

    let pause = |origin: Option<&str>, body: &str| {
        let mut headers = vec![("host", own.as_str()), ("cookie", cookie), ("content-type", "application/json")];
        headers.extend(origin.map(|origin| ("origin", origin)));
        let (status, _, body) = dashboard.request("POST /api/events/summer/pause", &headers, body);
        (status, body)
    };
    let uid = shared::kubectl(&["get", "ce", "summer", "-n", &namespace, "-o", "jsonpath={.metadata.uid}"]).unwrap();
    let confirmed = |name: &str, uid: &str| format!(r#"{{"name":"{name}","uid":"{uid}","total":10}}"#);
    for origin in
        [None, Some("null"), Some("https://evil.example"), Some(&*format!("https://{own}")), Some("http://127.0.0.1:1")]
    {
        assert_eq!(pause(origin, &confirmed("summer", &uid)).0, 403, "{origin:?}");
    }
    let issuance =
        || shared::kubectl(&["get", "ce", "summer", "-n", &namespace, "-o", "jsonpath={.spec.issuance}"]).unwrap();
    let same = format!("http://{own}");
    let (status, body) = pause(Some(&same), &confirmed("winter", &uid));
    assert!(status == 422 && body.contains("not confirmed: type summer"), "{body}");
    let (status, body) = pause(Some(&same), &confirmed("summer", "another"));
    assert!(status == 422 && body.contains("deleted and created again"), "{body}");
    assert_eq!(issuance(), "Auto");
    assert_eq!(pause(Some(&same), &confirmed("summer", &uid)).0, 200);
    assert_eq!(issuance(), "Paused");
}
