//! The one place where an error becomes a response.

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, RETRY_AFTER},
};

use crate::{body::Body, config::UriPrefix, error::RequestError};

/// How errors are shown: JSON for the API, the front end's own pages, or plain text.
#[derive(Debug)]
pub(crate) struct ErrorPages {
    uri_prefix: UriPrefix,
    /// Bodies of `400.html`, `404.html` … of the served directory.
    pages: Vec<(StatusCode, Bytes)>,
}

impl ErrorPages {
    pub(crate) fn new(uri_prefix: UriPrefix, pages: Vec<(StatusCode, Bytes)>) -> Self {
        Self { uri_prefix, pages }
    }

    /// The response to `error` on the decoded `path` (`None`: it has no canonical form).
    pub(crate) fn respond(&self, error: &RequestError, path: Option<&str>) -> Response<Body> {
        let status = error.status();
        let (content_type, body) = match path.and_then(|path| self.uri_prefix.strip(path)) {
            Some(rest) if !error.is_of_a_rule() && !is_api(rest) => self.page(status, error.message()),
            _ => ("application/json", format!("{{\"error\":\"{}\"}}", error.message()).into()),
        };
        let mut response = Response::new(Body::full(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Some(allow) = error.allow() {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if matches!(error, RequestError::Busy) {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("5"));
        }
        if let RequestError::TooManyRequests(wait) = error {
            // In whole seconds; none would be no wait at all.
            headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1));
        }
        response
    }

    fn page(&self, status: StatusCode, message: &'static str) -> (&'static str, Bytes) {
        match self.pages.iter().find(|(page, _)| *page == status) {
            Some((_, page)) => ("text/html; charset=utf-8", page.clone()),
            None => ("text/plain; charset=utf-8", message.into()),
        }
    }
}

/// At or below `/api/v1`.
fn is_api(rest: &str) -> bool {
    rest.strip_prefix("/api/v1").is_some_and(|below| below.is_empty() || below.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    /// Status, content type and body of an error on a path.
    async fn shown(pages: &ErrorPages, error: RequestError, path: Option<&str>) -> (u16, String, String) {
        let response = pages.respond(&error, path);
        let content_type = response.headers()[CONTENT_TYPE].to_str().unwrap().to_owned();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, content_type, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn the_api_and_what_is_outside_the_prefix_get_json_the_rest_a_page() {
        let pages = ErrorPages::new(
            UriPrefix::new("s").unwrap(),
            vec![(StatusCode::NOT_FOUND, Bytes::from_static(b"PAGE"))],
        );
        let json = (404, "application/json".to_owned(), r#"{"error":"not found"}"#.to_owned());
        for path in ["/s/api/v1", "/s/api/v1/x", "/x", "/", "/sx"] {
            assert_eq!(shown(&pages, RequestError::NotFound, Some(path)).await, json, "{path}");
        }
        assert_eq!(shown(&pages, RequestError::NotFound, None).await, json);
        let page = (404, "text/html; charset=utf-8".to_owned(), "PAGE".to_owned());
        for path in ["/s", "/s/", "/s/x", "/s/api/v1x"] {
            assert_eq!(shown(&pages, RequestError::NotFound, Some(path)).await, page, "{path}");
        }
        let text = (502, "text/plain; charset=utf-8".to_owned(), String::new());
        let busy = shown(&pages, RequestError::Busy, Some("/s/x")).await;
        assert_eq!((busy.0, &busy.1, busy.2.as_str()), (503, &text.1, "server busy"));
    }

    #[tokio::test]
    async fn a_rule_answers_in_json_wherever_it_was_met() {
        let pages = ErrorPages::new(UriPrefix::new("s").unwrap(), Vec::new());
        for (error, status, message) in [
            (RequestError::Blocked, 403, "forbidden"),
            (RequestError::ContentTooBig, 413, "content too big"),
            (RequestError::SizeUnknown, 502, "cannot verify content size"),
        ] {
            let (got, content_type, body) = shown(&pages, error, Some("/s/pfp/1")).await;
            assert_eq!((got, content_type.as_str()), (status, "application/json"));
            assert_eq!(body, format!("{{\"error\":\"{message}\"}}"));
        }
    }
}
