//! Rejects requests that another server could delimit or route differently (RFC 9112, 3.2 and 6.1), beyond those that
//! hyper rejects.

use axum::http::{Request, Version, header};

use crate::problem::Problem;

/// Rejects the request, after which the connection must be closed.
pub(super) fn check<B>(request: &Request<B>) -> Result<(), Problem> {
    let headers = request.headers();
    let hosts = headers.get_all(header::HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        return Err(Problem::invalid(format!("exactly one header `Host` is required, the request has {hosts}")));
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Problem::invalid("the only supported transfer coding is `Transfer-Encoding: chunked`, once")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_accepted(version: Version, headers: &[(&str, &str)]) -> bool {
        let request = headers
            .iter()
            .fold(Request::builder().version(version), |request, (name, value)| request.header(*name, *value));
        check(&request.body(()).unwrap()).is_ok()
    }

    #[test]
    fn request_with_one_host_and_at_most_chunked_is_accepted() {
        let is_accepted = |headers: &[(&str, &str)]| is_accepted(Version::HTTP_11, headers);
        assert!(is_accepted(&[("host", "x")]));
        assert!(is_accepted(&[("host", "")]), "the authority may be empty");
        assert!(!is_accepted(&[]));
        assert!(!is_accepted(&[("host", "x"), ("host", "x")]));
        assert!(is_accepted(&[("host", "x"), ("transfer-encoding", "Chunked")]));
        for codings in ["gzip, chunked", "chunked, chunked", "identity", "xchunked", ""] {
            assert!(!is_accepted(&[("host", "x"), ("transfer-encoding", codings)]), "{codings}");
        }
        assert!(!is_accepted(&[("host", "x"), ("transfer-encoding", "gzip"), ("transfer-encoding", "chunked")]));
    }

    #[test]
    fn http_1_0_request_may_have_no_host() {
        assert!(is_accepted(Version::HTTP_10, &[]));
        assert!(!is_accepted(Version::HTTP_10, &[("host", "x"), ("host", "y")]));
    }
}
