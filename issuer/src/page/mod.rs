//! The page of an event, `GET /coupons/{eventId}/page`, and the files that it loads: compiled into the program.
//!
//! The page is the same for all events and users: it reads the event and requests the coupon over the HTTP API.

mod config;

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use axum::{
    Router,
    body::Bytes,
    extract::Path,
    http::{
        HeaderValue,
        header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS},
    },
    response::{IntoResponse as _, Response},
    routing::get,
};
use couponry_domain::EventName;
use couponry_runtime::problem::Problem;

use self::config::PageConfig;

const HTML: &str = include_str!("../../page/index.html");
const SCRIPT: &str = include_str!("../../page/page.js");
const CLIENT: &str = include_str!("../../../clients/js/dist/index.js");
const STYLE: &str = include_str!("../../page/style.css");
const ICON: &str = include_str!("../../page/icon.svg");

/// Nothing may be loaded from elsewhere, and no other page may embed this one to make users click its button.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'",
);
/// So that proxies serve most requests, and a new version is visible within minutes.
const CACHE: HeaderValue = HeaderValue::from_static("public, max-age=60");

/// Flags of the page.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Event page")]
pub(crate) struct PageArgs {
    /// Serve a page for each event at /coupons/EVENT/page, with a countdown, a button and the coupon.
    #[arg(long, env)]
    page: bool,
    /// File with other texts and colors of the page, and the currency of discounts, in JSON:
    /// `{"texts": {"en": {"title": "Summer sale"}}, "colors": {"light": {"accent": "#0b57d0"}}, "currency": "EUR"}`.
    #[arg(long, env, value_name = "FILE")]
    page_config: Option<PathBuf>,
}

impl PageArgs {
    /// The routes of the page. `identity` is the source of the userId: body, header or jwt.
    ///
    /// # Errors
    /// If the configuration file cannot be read or is invalid.
    pub(crate) fn routes(&self, identity: &'static str) -> anyhow::Result<Option<Router>> {
        if !self.page {
            return Ok(None);
        }
        let config = match &self.page_config {
            None => PageConfig::default(),
            Some(path) => {
                let text = fs::read(path).with_context(|| format!("cannot read --page-config {}", path.display()))?;
                PageConfig::parse(&text).with_context(|| format!("--page-config {} is invalid", path.display()))?
            }
        };
        Ok(Some(routes(&config, identity)))
    }
}

fn routes(config: &PageConfig, identity: &'static str) -> Router {
    let file = |content_type: &'static str, body: Bytes| get(move || async move { respond(content_type, body) });
    let page = async |Path(event): Path<String>| match EventName::try_from(event) {
        Ok(_) => respond("text/html; charset=utf-8", Bytes::from_static(HTML.as_bytes())),
        Err(error) => Problem::invalid(error.to_string()).into_response(),
    };
    let script = |text: &'static str| file("text/javascript; charset=utf-8", Bytes::from_static(text.as_bytes()));
    let style = |text: Bytes| file("text/css; charset=utf-8", text);
    Router::new()
        .route("/coupons/{eventId}/page", get(page))
        .route("/coupons/{eventId}/page/page.js", script(SCRIPT))
        .route("/coupons/{eventId}/page/client.js", script(CLIENT))
        .route("/coupons/{eventId}/page/style.css", style(Bytes::from_static(STYLE.as_bytes())))
        .route("/coupons/{eventId}/page/colors.css", style(config.style().into()))
        .route("/coupons/{eventId}/page/icon.svg", file("image/svg+xml", Bytes::from_static(ICON.as_bytes())))
        .route("/coupons/{eventId}/page/config.json", file("application/json", config.json(identity).into()))
}

fn respond(content_type: &'static str, body: Bytes) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (CACHE_CONTROL, CACHE),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    (headers, body).into_response()
}
