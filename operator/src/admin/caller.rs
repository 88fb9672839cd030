//! Who asks, and whether they may: Kubernetes decides both.

use axum::http::{HeaderMap, header};
use couponry_crds::CouponEvent;
use couponry_runtime::Problem;
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, UserInfo},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Resource as _, api::PostParams};

use super::{Admin, answer};

/// How to sign in, in the words of HTTP.
const CHALLENGE: &str = r#"Bearer realm="couponry""#;

/// The user whose token the request carries, if they may create coupon events in our namespace.
pub(super) async fn authorize(admin: &Admin, headers: &HeaderMap) -> Result<String, Problem> {
    let user = authenticate(admin, token(headers)?).await?;
    let name = user.username.clone().unwrap_or_default();
    let attributes = ResourceAttributes {
        namespace: Some(admin.namespace.clone()),
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
    let reviews = Api::<SubjectAccessReview>::all(admin.client.clone());
    let reviewed = answer(reviews.create(&PostParams::default(), &review))
        .await
        .map_err(|refusal| refusal.unavailable("cannot ask Kubernetes what a caller may do"))?;
    if reviewed.status.is_some_and(|status| status.allowed && status.denied != Some(true)) {
        return Ok(name);
    }
    tracing::warn!(caller = name, "refused: may not create couponevents");
    Err(Problem::forbidden(format!("{name} may not create couponevents in the namespace {}", admin.namespace)))
}

fn token(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (all.next(), all.next()) else {
        let detail = "send one header `Authorization: Bearer TOKEN` with a token of Kubernetes";
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
            Problem::unauthorized("the header Authorization is not of the form `Bearer TOKEN`")
                .with_challenge(CHALLENGE)
        })
}

async fn authenticate(admin: &Admin, token: &str) -> Result<UserInfo, Problem> {
    let review =
        TokenReview { spec: TokenReviewSpec { token: token.to_owned(), audiences: None }, ..TokenReview::default() };
    let reviews = Api::<TokenReview>::all(admin.client.clone());
    let reviewed = answer(reviews.create(&PostParams::default(), &review))
        .await
        .map_err(|refusal| refusal.unavailable("cannot ask Kubernetes whose token a caller has"))?;
    let status = reviewed.status.unwrap_or_default();
    match status.user {
        Some(user) if status.authenticated == Some(true) => Ok(user),
        _ => Err(Problem::unauthorized("Kubernetes does not take the token: it may have expired")
            .with_challenge(r#"Bearer realm="couponry", error="invalid_token""#)),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_token_is_one_and_a_bearers() {
        let with = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
            }
            token(&headers).map(str::to_owned).map_err(|problem| problem.status())
        };
        assert_eq!(with(&["Bearer abc"]), Ok("abc".to_owned()));
        assert_eq!(with(&["bearer  abc "]), Ok("abc".to_owned()));
        for wrong in [&[][..], &["abc"], &["Bearer "], &["Basic abc"], &["Bearer a", "Bearer b"]] {
            assert_eq!(with(wrong), Err(401), "{wrong:?}");
        }
    }
}
