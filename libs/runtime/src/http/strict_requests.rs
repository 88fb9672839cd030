//! Rejects requests that another server could delimit or route differently (RFC 9112, 3.2 and 6.1), beyond those that
//! hyper rejects. Also enforces the limit of the head, of which hyper may read more at once.

use axum::http::{Request, Version, header};

use crate::problem::Problem;

/// Rejects the request, after which the connection must be closed.
pub(super) fn check<B>(request: &Request<B>, max_head: usize) -> Result<(), Problem> {
    let headers = request.headers();
    // With the separators `: ` and CRLF.
    let fields: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    let target = request.uri();
    let path_and_query = target.path_and_query().map_or("", |target| target.as_str());
    if fields + path_and_query.len() > max_head {
        return Err(Problem::head_too_large(format!(
            "the request line and the headers have more than {max_head} bytes"
        )));
    }
    if has_invalid_escape(target.path()) {
        return Err(Problem::invalid("the path has a `%` without two hexadecimal digits; write %25 for the character"));
    }
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

fn has_invalid_escape(path: &str) -> bool {
    let is_escape = |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
    path.split('%').skip(1).any(|rest| !is_escape(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_sign_must_begin_an_escape() {
        for path in ["/", "/a%20b", "/%25", "/%E2%82%ac"] {
            assert!(!has_invalid_escape(path), "{path}");
        }
        for path in ["/%", "/a%2", "/%zz", "/%25%", "/%%20"] {
            assert!(has_invalid_escape(path), "{path}");
        }
    }

    fn is_accepted(version: Version, headers: &[(&str, &str)]) -> bool {
        let request = headers
            .iter()
            .fold(Request::builder().version(version), |request, (name, value)| request.header(*name, *value));
        check(&request.body(()).unwrap(), 1000).is_ok()
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
