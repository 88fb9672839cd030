//! Authenticates and authorizes a caller with `TokenReview` and `SubjectAccessReview`.

use axum::http::{HeaderMap, header};
use couponry_crds::CouponEvent;
use couponry_runtime::Problem;
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, UserInfo},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Resource as _, api::PostParams};

use crate::admin::state::{AdminState, call};

/// The value of WWW-Authenticate (RFC 6750).
const CHALLENGE: &str = r#"Bearer realm="couponry""#;

/// Returns the name of the caller, who must be allowed to create coupon events in the namespace.
pub(super) async fn authorize(state: &AdminState, headers: &HeaderMap) -> Result<String, Problem> {
    let user = authenticate(state, bearer_token(headers)?).await?;
    let name = user.username.clone().unwrap_or_default();
    let attributes = ResourceAttributes {
        namespace: Some(state.namespace.clone()),
        verb: Some("create".to_owned()),
        group: Some(CouponEvent::group(&()).into_owned()),
        version: Some(CouponEvent::version(&()).into_owned()),
        resource: Some(CouponEvent::plural(&()).into_owned()),
        ..ResourceAttributes::default()
    };
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            user: user.username,
            uid: user.uid,
            groups: user.groups,
            extra: user.extra,
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let reviews = Api::<SubjectAccessReview>::all(state.client.clone());
    let reviewed = call(reviews.create(&PostParams::default(), &review))
        .await
        .map_err(|error| error.unavailable("create a SubjectAccessReview"))?;
    if reviewed.status.is_some_and(|status| status.allowed && status.denied != Some(true)) {
        return Ok(name);
    }
    tracing::warn!(caller = name, "caller rejected: not allowed to create couponevents");
    Err(Problem::forbidden(format!(
        "{name} is not allowed to create couponevents in the namespace {}",
        state.namespace
    )))
}

fn bearer_token(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (all.next(), all.next()) else {
        let detail = "send exactly one header `Authorization: Bearer TOKEN` with a Kubernetes token";
        return Err(Problem::unauthorized(detail).with_challenge(CHALLENGE));
    };
    value
        .to_str()
        .ok()
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .filter(|token| !token.is_empty())
        .ok_or_else(|| {
            Problem::unauthorized("the header Authorization must have the form `Bearer TOKEN`")
                .with_challenge(CHALLENGE)
        })
}

async fn authenticate(state: &AdminState, token: &str) -> Result<UserInfo, Problem> {
    let review =
        TokenReview { spec: TokenReviewSpec { token: token.to_owned(), audiences: None }, ..TokenReview::default() };
    let reviews = Api::<TokenReview>::all(state.client.clone());
    let reviewed = call(reviews.create(&PostParams::default(), &review))
        .await
        .map_err(|error| error.unavailable("create a TokenReview"))?;
    let status = reviewed.status.unwrap_or_default();
    match status.user {
        Some(user) if status.authenticated == Some(true) => Ok(user),
        _ => Err(Problem::unauthorized("Kubernetes rejects the token; it may have expired")
            .with_challenge(r#"Bearer realm="couponry", error="invalid_token""#)),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn bearer_token_requires_exactly_one_valid_header() {
        let with = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
            }
            bearer_token(&headers).map(str::to_owned).map_err(|problem| problem.status())
        };
        assert_eq!(with(&["Bearer abc"]), Ok("abc".to_owned()));
        assert_eq!(with(&["bearer  abc "]), Ok("abc".to_owned()));
        for invalid in [&[][..], &["abc"], &["Bearer "], &["Basic abc"], &["Bearer a", "Bearer b"]] {
            assert_eq!(with(invalid), Err(401), "{invalid:?}");
        }
    }

    #[test]
    fn reviewed_resource_is_couponevents() {
        assert_eq!(CouponEvent::group(&()), "couponry.dev");
        assert_eq!(CouponEvent::plural(&()), "couponevents");
    }
}
