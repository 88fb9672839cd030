//! The npm package of the JavaScript client, installed as a user would, with a real issuer.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use axum::{Router, http::header::CONTENT_TYPE, routing::get};
use couponry_browser::Browser;
use couponry_testbed::{npm_package, path::on_path, process, programs::require, scratch::Scratch};
use serde_json::json;
use tokio::{net::TcpListener, process::Command};

use crate::support::World;

const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../clients/js");

/// A project in which the package is installed, without the network.
fn project() -> Scratch {
    let project = Scratch::new("js-project").unwrap();
    let dir = project.path();
    let tarball = npm_package::pack(dir).unwrap();
    fs::write(dir.join("package.json"), json!({"private": true, "type": "module"}).to_string()).unwrap();
    let npm = require(on_path("npm"), "npm").unwrap();
    let cache = dir.join("npm-cache");
    let args: [&Path; 9] = [
        "install".as_ref(),
        "--offline".as_ref(),
        "--no-audit".as_ref(),
        "--no-fund".as_ref(),
        "--cache".as_ref(),
        &cache,
        "--prefix".as_ref(),
        dir,
        &tarball,
    ];
    process::output(&npm, &args, None).unwrap();
    project
}

fn installed(project: &Scratch) -> PathBuf {
    project.path().join("node_modules/@couponry/client")
}

#[test]
fn npm_package_has_the_script_its_types_and_the_license() {
    let project = project();
    let package = installed(&project);
    let files = |dir: &str| -> Vec<String> {
        let entries = fs::read_dir(package.join(dir)).unwrap();
        entries.map(|entry| format!("{dir}{}", entry.unwrap().file_name().display())).collect()
    };
    let found: BTreeSet<_> = files("").into_iter().chain(files("dist/")).collect();
    let expected =
        ["LICENSE", "README.md", "dist", "dist/index.d.ts", "dist/index.js", "dist/schema.d.ts", "package.json"];
    assert_eq!(found, expected.map(str::to_owned).into());
    // The issuer contains it for its page.
    let script = |path: &Path| fs::read_to_string(path.join("dist/index.js")).unwrap();
    assert_eq!(script(&package), script(Path::new(CLIENT)), "run `cargo xtask codegen`");

    let again = Scratch::new("npm-package-again").unwrap();
    let tarballs = [npm_package::pack(again.path()).unwrap(), project.path().join("couponry-client-0.1.0.tgz")];
    let [one, other] = tarballs.map(|tarball| fs::read(tarball).unwrap());
    assert!(one == other, "the bytes of the package depend on more than its sources");

    let consumer = project.path().join("consumer.ts");
    fs::copy(Path::new(CLIENT).join("test/consumer.ts"), &consumer).unwrap();
    let options = ["--noEmit", "--strict", "--module", "nodenext", "--target", "es2022", "--lib", "es2022,dom"];
    let args: Vec<&Path> = options.iter().map(Path::new).chain([consumer.as_path()]).collect();
    npm_package::compile(&args).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn javascript_client_passes_its_tests_with_a_real_issuer() {
    let world = World::shared().await.open(100).await;
    let issuer = world.ready_issuer(&["--rate-limit-per-user", "1", "--rate-limit-per-user-burst", "2"]).await;
    let project = project();
    fs::copy(Path::new(CLIENT).join("test/client.test.js"), project.path().join("client.test.js")).unwrap();
    let output = Command::new(require(on_path("node"), "node").unwrap())
        .args(["--test", "client.test.js"])
        .current_dir(project.path())
        .env("ISSUER", format!("http://127.0.0.1:{}", issuer.listen))
        .env("EVENT", world.event.as_str())
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{report}");
    assert!(report.contains("# pass 9"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn javascript_client_receives_a_coupon_in_a_page_of_another_origin() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let shop = format!("http://127.0.0.1:{}", listener.local_addr().unwrap().port());
    let script = fs::read_to_string(installed(&project()).join("dist/index.js")).unwrap();
    let files = Router::new()
        .route("/", get(async || ([(CONTENT_TYPE, "text/html")], "<!doctype html><title>Shop</title>")))
        .route("/client.js", get(async || ([(CONTENT_TYPE, "text/javascript")], script)));
    tokio::spawn(async { axum::serve(listener, files).await.unwrap() });

    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&["--cors-allowed-origins", &shop]).await;
    let browser = Browser::start_with(&[]).await.unwrap();
    browser.goto(format!("{shop}/")).await.unwrap();
    let issue = format!(
        "import('/client.js').then(({{ CouponryClient }}) => \
         new CouponryClient({{ baseUrl: 'http://127.0.0.1:{}/' }}).issue('summer', 'kim'))",
        issuer.listen
    );
    let outcome = browser.evaluate(&issue).await.unwrap();
    assert_eq!((&outcome["success"], &outcome["hasCoupon"]), (&json!(true), &json!(true)), "{outcome}");
    assert_eq!(outcome["couponKey"], issuer.issue("kim").await.coupon());
}
