//! The issuer conforms to `/openapi.json`: Schemathesis generates valid and invalid requests from the document and
//! checks the responses against it.

use std::{fs, path::Path};

use couponry_testbed::{programs, scratch::Scratch};
use tokio::process::Command;

use crate::{
    support::{Issuer, World},
    token_signer::Signer,
    tokens::JwksFile,
};

/// Generated requests per operation, the same in every run. More: `COUPONRY_SCHEMATHESIS_EXAMPLES=5000`.
const EXAMPLES: &str = "40";
const SEED: &str = "20261201";

/// JSON Schema limits characters, but a userId has at most 256 bytes.
const HOOKS: &str = r#"
import schemathesis

def is_valid(values):
    user = (values or {}).get("userId") if isinstance(values, dict) else None
    return not isinstance(user, str) or len(user) > 256 or len(user.encode("utf-8", "surrogatepass")) <= 256

@schemathesis.hook
def filter_body(context, body):
    return is_valid(body)

@schemathesis.hook
def filter_path_parameters(context, path_parameters):
    return is_valid(path_parameters)
"#;

async fn assert_conforms(issuer: &Issuer, flags: &[&str]) {
    let python = programs::schemathesis().expect("Schemathesis is not installed: run `cargo xtask setup`");
    let scratch = Scratch::new("schemathesis").unwrap();
    let write = |name: &str, text: &str| fs::write(Path::new(scratch.path()).join(name), text).unwrap();
    write("hooks.py", HOOKS);
    write("schemathesis.toml", "hooks = \"hooks.py\"\n");
    let examples = std::env::var("COUPONRY_SCHEMATHESIS_EXAMPLES");
    let output = Command::new(python)
        .args(["-m", "schemathesis.cli", "run", "--checks", "all", "--continue-on-failure", "--no-color"])
        .args(["--seed", SEED, "--generation-database", "none", "--suppress-health-check", "all"])
        .args(["--max-examples", examples.as_deref().unwrap_or(EXAMPLES)])
        .args(flags)
        .arg(format!("http://127.0.0.1:{}/openapi.json", issuer.listen))
        .current_dir(scratch.path())
        .output()
        .await
        .unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{report}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(report.contains("Tested: 4"), "{report}");
    println!("{report}");
}

#[tokio::test]
async fn responses_conform_to_the_openapi_document() {
    let world = World::shared().await.open(2000).await;
    let issuer = world.ready_issuer(&[]).await;
    assert_conforms(&issuer, &[]).await;
    assert!(issuer.issue("another user").await.succeeded(), "the issuer still serves requests");
}

#[tokio::test]
async fn responses_to_authenticated_requests_conform_to_the_openapi_document() {
    let world = World::shared().await.open(2000).await;
    let key = Signer::secret("1", [1; 64]);
    let file = JwksFile::new(&world, &[&key]);
    let path = file.0.display().to_string();
    let flags = ["--user-identity", "jwt", "--jwt-jwks-file", &path, "--jwt-audience", "coupons"];
    let issuer = world.ready_issuer(&flags).await;
    let token = format!("Authorization: Bearer {}", key.token("HS256", "u1"));
    // A request that names another user than the authenticated one is rejected with 400, which a schema cannot
    // express.
    assert_conforms(&issuer, &["--header", &token, "--exclude-checks", "positive_data_acceptance"]).await;
    let holders = world.redis_store.scan_issued(&world.event).await.unwrap();
    assert!(holders.keys().all(|user| user.as_str() == "u1"), "{holders:?}");
}
