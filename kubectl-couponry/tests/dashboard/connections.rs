//! Connections between the pages and the program, and the browser that it opens.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
};

use couponry_testbed::{scratch::Scratch, shared};

use crate::support::{Dashboard, manifest, namespace, spec};

#[tokio::test(flavor = "multi_thread")]
async fn eight_tabs_leave_connections_for_the_buttons() {
    let namespace = namespace();
    shared::kubectl_with(&["apply", "-f", "-"], &manifest(&namespace, "summer", &spec("Sale", 10))).unwrap();
    let dashboard = Dashboard::start(&shared::kubeconfig(), &namespace);
    let browser = dashboard.open().await;
    let address = format!("http://127.0.0.1:{}/", dashboard.port);
    let first = browser.window().await.unwrap();
    for _ in 1..8 {
        browser.wait_for_text("Sale").await.unwrap();
        let tab = browser.new_tab().await.unwrap();
        browser.switch_to_window(tab).await.unwrap();
        browser.goto(&address).await.unwrap();
    }
    browser.wait_for_text("Sale").await.unwrap();
    browser.wait_for("fetch('/api/identity').then(response => response.ok)").await.unwrap();
    // A tab that is visible again continues.
    shared::kubectl_with(&["apply", "-f", "-"], &manifest(&namespace, "winter", &spec("Later", 10))).unwrap();
    browser.switch_to_window(first).await.unwrap();
    browser.wait_for_text("Later").await.unwrap();
    browser.wait_for("!document.body.innerText.includes('No contact')").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn program_that_is_stopped_is_reported_until_it_continues() {
    let namespace = namespace();
    let dashboard = Dashboard::start(&shared::kubeconfig(), &namespace);
    let browser = dashboard.open().await;
    browser.wait_for_text("This namespace has no events").await.unwrap();
    dashboard.signal("STOP");
    browser.wait_for_text("No contact with the dashboard's program").await.unwrap();
    dashboard.signal("CONT");
    browser.wait_for("!document.body.innerText.includes('No contact')").await.unwrap();
}

/// On a terminal, with a browser that notes how it was started.
#[tokio::test(flavor = "multi_thread")]
async fn browser_has_its_own_process_group_and_no_link_among_its_arguments() {
    let namespace = namespace();
    let scratch = Scratch::new("xdg-open").unwrap();
    let note = scratch.path().join("note");
    let browser = scratch.path().join("xdg-open");
    let script = "#!/bin/sh\necho $$ $(ps -o pgid= -p $$) $(stat -c %a%u \"$1\" \"$(dirname \"$1\")\") \"$@\" >\"$NOTE.new\"\n\
                  cat \"$1\" >\"$NOTE.page\"\nmv \"$NOTE.new\" \"$NOTE\"\n";
    std::fs::write(&browser, script).unwrap();
    std::fs::set_permissions(&browser, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", scratch.path().display(), std::env::var("PATH").unwrap());
    let command = format!(
        "{} --kubeconfig {} -n {namespace} dashboard",
        env!("CARGO_BIN_EXE_kubectl-couponry"),
        shared::kubeconfig().display()
    );
    let mut terminal = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .env("PATH", path)
        .env("NOTE", &note)
        .env("XDG_RUNTIME_DIR", scratch.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until(|| note.exists()).await;
    let words = std::fs::read_to_string(&note).unwrap();
    let words: Vec<&str> = words.split_whitespace().collect();
    let [process, group, file_mode, directory_mode, page] = words[..] else { panic!("{words:?}") };
    assert_eq!(process, group, "Ctrl-C reaches the process group of the terminal");
    assert!(file_mode.starts_with("600") && directory_mode.starts_with("700"), "{words:?}");
    assert!(page.ends_with("/couponry.html") && Path::new(page).exists(), "{page}");

    // The page opens the dashboard, and is removed.
    let browser = couponry_browser::Browser::start().await.unwrap();
    browser.goto(&format!("file://{page}")).await.unwrap();
    browser.wait_for_text("This namespace has no events").await.unwrap();
    let address = browser.current_url().await.unwrap();
    assert_eq!((address.path(), address.query()), ("/", None));
    wait_until(|| !Path::new(page).exists()).await;
    terminal.kill().unwrap();
    terminal.wait().unwrap();
}

async fn wait_until(condition: impl Fn() -> bool) {
    let started = std::time::Instant::now();
    while !condition() {
        assert!(started.elapsed() < std::time::Duration::from_mins(2), "the condition did not become true");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
