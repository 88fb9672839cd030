//! `/openapi.json` says what the issuer does: Schemathesis asks everything that the document allows, and much that it does not,
//! and looks whether the answers are the ones that it names.

use std::{fs, path::Path};

use couponry_testbed::{programs, scratch::Scratch};
use tokio::process::Command;

use crate::{
    signer::Signer,
    support::{Issuer, World},
    tokens::KeyFile,
};

/// Requests of each kind for each page, the same ones in every run. For more: `COUPONRY_SCHEMATHESIS_EXAMPLES=5000`.
const EXAMPLES: &str = "40";
const SEED: &str = "20261201";

/// What a JSON schema cannot say: a userId has at most 256 bytes, not characters.
const HOOKS: &str = r#"
import schemathesis

def is_sayable(values):
    user = (values or {}).get("userId") if isinstance(values, dict) else None
    return not isinstance(user, str) or len(user) > 256 or len(user.encode("utf-8", "surrogatepass")) <= 256

@schemathesis.hook
def filter_body(context, body):
    return is_sayable(body)

@schemathesis.hook
def filter_path_parameters(context, path_parameters):
    return is_sayable(path_parameters)
"#;

async fn assert_true(issuer: &Issuer, more: &[&str]) {
    let python = programs::schemathesis().expect("Schemathesis is not there: run `cargo xtask setup`");
    let scratch = Scratch::new("schemathesis").unwrap();
    let write = |name: &str, text: &str| fs::write(Path::new(scratch.path()).join(name), text).unwrap();
    write("hooks.py", HOOKS);
    write("schemathesis.toml", "hooks = \"hooks.py\"\n");
    let examples = std::env::var("COUPONRY_SCHEMATHESIS_EXAMPLES");
    let output = Command::new(python)
        .args(["-m", "schemathesis.cli", "run", "--checks", "all", "--continue-on-failure", "--no-color"])
        .args(["--seed", SEED, "--generation-database", "none", "--suppress-health-check", "all"])
        .args(["--max-examples", examples.as_deref().unwrap_or(EXAMPLES)])
        .args(more)
        .arg(format!("http://127.0.0.1:{}/openapi.json", issuer.listen))
        .current_dir(scratch.path())
        .output()
        .await
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("Tested: 3"), "{told}");
    println!("{told}");
}

#[tokio::test]
async fn every_answer_is_one_that_the_document_names() {
    let world = World::shared().await.open(2000).await;
    let issuer = world.ready_issuer(&[]).await;
    assert_true(&issuer, &[]).await;
    assert!(issuer.issue("somebody else").await.succeeded(), "it goes on");
}

#[tokio::test]
async fn every_answer_to_who_is_signed_in_is_one_that_the_document_names() {
    let world = World::shared().await.open(2000).await;
    let key = Signer::secret("1", [1; 64]);
    let file = KeyFile::new(&world, &[&key]);
    let path = file.0.display().to_string();
    let flags = ["--user-identity", "jwt", "--jwt-jwks-file", &path, "--jwt-audience", "coupons"];
    let issuer = world.ready_issuer(&flags).await;
    let token = format!("Authorization: Bearer {}", key.token("HS256", "u1"));
    // Another user than the one who is signed in is a 400, which no schema can know.
    assert_true(&issuer, &["--header", &token, "--exclude-checks", "positive_data_acceptance"]).await;
    let holders = world.stock.scan_issued(&world.event).await.unwrap();
    assert!(holders.keys().all(|user| user.as_str() == "u1"), "{holders:?}");
}
