//! HTTP requests with curl.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Sends a request with curl, and returns the status and the body of its response.
pub(super) fn request(
    url: &str,
    token: Option<&str>,
    headers: &[(&str, &str)],
    body: Option<&Value>,
) -> Result<(u16, Value)> {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-m", "20", "-w", "\n%{http_code}", url]);
    for (name, value) in headers {
        curl.args(["-H", &format!("{name}: {value}")]);
    }
    if let Some(token) = token {
        curl.args(["-H", &format!("Authorization: Bearer {token}")]);
    }
    if let Some(body) = body {
        curl.args(["-H", "Content-Type: application/json", "-d", &body.to_string()]);
    }
    let output = curl.output().context("cannot run curl")?;
    ensure!(output.status.success(), "curl {url}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let (body, status) = text.rsplit_once('\n').context("curl printed no status")?;
    let body = serde_json::from_str(body).with_context(|| format!("invalid response of {url}: {body}"))?;
    Ok((status.parse().context("curl printed an invalid status")?, body))
}
