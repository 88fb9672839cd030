//! The redeemer conforms to `/openapi.json`: Schemathesis generates valid and invalid requests from the document and
//! checks the responses against it.

use std::{fs, path::Path};

use couponry_testbed::{programs, scratch::Scratch};
use tokio::process::Command;

use crate::support::{World, body};

/// Generated requests per operation, the same in every run. More: `COUPONRY_SCHEMATHESIS_EXAMPLES=5000`.
const EXAMPLES: &str = "40";
const SEED: &str = "20261201";

/// JSON Schema limits characters, but a userId has at most 256 bytes. Some of the valid requests name the coupon of u1.
/// Valid idempotency keys are made unique: the document cannot express that a key must not be used for two requests.
const HOOKS: &str = r#"
import itertools
import re
import schemathesis

NAMES = {"eventId": "summer", "couponKey": "COUPON", "userId": "u1"}
number = itertools.count()

def is_valid(values):
    user = (values or {}).get("userId") if isinstance(values, dict) else None
    return not isinstance(user, str) or len(user) > 256 or len(user.encode("utf-8", "surrogatepass")) <= 256

@schemathesis.hook
def filter_body(context, body):
    return is_valid(body)

@schemathesis.hook
def filter_query(context, query):
    return is_valid(query)

@schemathesis.hook
def map_body(context, body):
    is_named = isinstance(body, dict) and all(re.fullmatch("[A-Za-z0-9]+", str(body.get(name))) for name in NAMES)
    return dict(body, **NAMES) if is_named and re.fullmatch("[A-Z0-9]+", body["couponKey"]) else body

@schemathesis.hook
def map_headers(context, headers):
    key = (headers or {}).get("Idempotency-Key")
    if isinstance(key, str) and re.fullmatch(r"[!#-\[\]-~]{1,100}", key):
        headers = dict(headers, **{"Idempotency-Key": f"{key}-{next(number)}"})
    return headers
"#;

#[tokio::test]
async fn responses_conform_to_the_openapi_document() {
    let world = World::open(10).await;
    let server = world.ready_redeemer().await;
    let coupon = world.issue_and_record("u1").await;
    let python = programs::schemathesis().expect("Schemathesis is not installed: run `cargo xtask setup`");
    let scratch = Scratch::new("schemathesis").unwrap();
    let write = |name: &str, text: &str| fs::write(Path::new(scratch.path()).join(name), text).unwrap();
    write("hooks.py", &HOOKS.replace("COUPON", coupon.as_str()));
    write("schemathesis.toml", "hooks = \"hooks.py\"\n");
    let examples = std::env::var("COUPONRY_SCHEMATHESIS_EXAMPLES");
    let output = Command::new(python)
        .args(["-m", "schemathesis.cli", "run", "--checks", "all", "--continue-on-failure", "--no-color"])
        .args(["--seed", SEED, "--generation-database", "none", "--suppress-health-check", "all"])
        .args(["--max-examples", examples.as_deref().unwrap_or(EXAMPLES)])
        .arg(format!("http://127.0.0.1:{}/openapi.json", server.listen))
        .current_dir(scratch.path())
        .output()
        .await
        .unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{report}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(report.contains("Tested: 5"), "{report}");
    println!("{report}");
    let other = world.issue_and_record("u2").await;
    assert_eq!(server.post("redeem", "another", &body(&other, "u2", "order")).await.state(), "REDEEMED");
}
