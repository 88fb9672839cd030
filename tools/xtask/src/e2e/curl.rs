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
    let mut fields: Vec<String> = headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    fields.extend(token.map(|token| format!("Authorization: Bearer {token}")));
    let body = body.map(Value::to_string);
    if body.is_some() {
        fields.push("Content-Type: application/json".to_owned());
    }
    let mut args: Vec<&str> = fields.iter().flat_map(|field| ["-H", field.as_str()]).collect();
    args.extend(body.iter().flat_map(|body| ["-d", body.as_str()]));
    let Response { status, body, .. } = Response::of(url, &args)?;
    let body = serde_json::from_str(&body).with_context(|| format!("invalid response of {url}: {body}"))?;
    Ok((status, body))
}

/// A response with its headers.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    headers: Vec<(String, String)>,
    pub(super) body: String,
}

impl Response {
    /// Sends a request with these arguments of curl.
    pub(super) fn of(url: &str, args: &[&str]) -> Result<Self> {
        let output = Command::new("curl")
            .args(["-sS", "-i", "-m", "20"])
            .args(args)
            .arg(url)
            .output()
            .context("cannot run curl")?;
        ensure!(output.status.success(), "curl {url}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout);
        let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("{url} returns {text}"))?;
        let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok());
        let header = |line: &str| {
            let (name, value) = line.split_once(": ")?;
            Some((name.to_lowercase(), value.to_owned()))
        };
        Ok(Self {
            status: status.with_context(|| format!("{url} returns {head}"))?,
            headers: head.lines().filter_map(header).collect(),
            body: body.to_owned(),
        })
    }

    /// The value of the first header of this name in lower case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| &**value)
    }
}
