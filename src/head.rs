//! A request's head, checked before anything is matched: one method that we know, one host, one framing.

use std::net::Ipv6Addr;

use http::{
    HeaderValue, Method, Request, Response, StatusCode, Version, header,
    request::Parts,
    uri::{Authority, Scheme},
};

use crate::{
    body::Body,
    error::RequestError,
    framing::one_framing,
    methods::{ALLOW, METHODS},
    path::CanonicalPath,
    wire::{Bounds, Fault},
};

/// What a request asks for.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) path: CanonicalPath,
    /// The raw query: what follows the `?`.
    pub(crate) query: Option<Box<str>>,
    /// The host that the client named; only HTTP/1.0 may name none.
    pub(crate) host: Option<Authority>,
}

impl Target {
    /// The path and query as they go upstream, behind `base`.
    pub(crate) fn path_and_query(&self, base: &str) -> String {
        let path = self.path.encoded();
        match &self.query {
            Some(query) => format!("{base}{path}?{query}"),
            None => format!("{base}{path}"),
        }
    }
}

/// `OPTIONS *`: what the server itself can do, whatever is behind it.
pub(crate) fn is_of_the_server(parts: &Parts) -> bool {
    parts.method == Method::OPTIONS && parts.uri.path() == "*"
}

/// What the server itself can do.
pub(crate) fn allowed() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(ALLOW));
    response
}

/// The target of a request whose head does not contradict itself.
pub(crate) fn target(parts: &Parts) -> Result<Target, RequestError> {
    if !METHODS.contains(&parts.method) {
        return Err(RequestError::Method { allow: ALLOW });
    }
    let host = host(parts)?;
    one_framing(&parts.headers).map_err(RequestError::Head)?;
    if parts.version == Version::HTTP_2 {
        http2(parts).map_err(RequestError::Head)?;
    }
    let is_known = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if !parts.headers.get_all(header::EXPECT).iter().all(is_known) {
        return Err(RequestError::Expectation);
    }
    let path = CanonicalPath::parse(parts.uri.path()).map_err(RequestError::Path)?;
    Ok(Target { path, query: parts.uri.query().map(Box::from), host })
}

/// What an HTTP/2 head has more of than it may: HTTP/1's are read within these bounds, and their size is h2's to keep.
pub(crate) fn beyond<B>(bounds: Bounds, request: &Request<B>) -> Option<Fault> {
    if request.version() != Version::HTTP_2 {
        return None;
    }
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    // A cookie may come in many lines, and is one header (RFC 9113 8.2.3).
    let headers = request.headers();
    let crumbs = headers.get_all(header::COOKIE).iter().count();
    if target > bounds.target {
        Some(Fault::Target)
    } else if headers.len() - crumbs + crumbs.min(1) > bounds.headers {
        Some(Fault::Headers)
    } else {
        None
    }
}

/// What the h2 crate lets pass that RFC 9113 forbids, and that would go upstream.
fn http2(Parts { uri, headers, .. }: &Parts) -> Result<(), &'static str> {
    // 8.3.1: it begins with a slash. (h2 refuses all that has none but this.)
    if uri.path_and_query().is_some_and(|path| path.as_str().starts_with('?')) {
        return Err("a :path that is a query alone");
    }
    // 8.2.1: in HTTP/1.1 they would be no part of the value.
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let padded = |value: &HeaderValue| {
        let value = value.as_bytes();
        is_blank(value.first()) || is_blank(value.last())
    };
    if headers.values().any(padded) {
        return Err("a header with blanks around its value");
    }
    Ok(())
}

/// The one host that `Host` and the target's authority agree on (attacks.md S10, D2).
fn host(parts: &Parts) -> Result<Option<Authority>, RequestError> {
    let mut lines = parts.headers.get_all(header::HOST).iter();
    let line = lines.next();
    if lines.next().is_some() {
        return Err(RequestError::Head("more than one Host"));
    }
    let line = match line {
        None => None,
        Some(value) => Some(
            Authority::try_from(value.as_bytes()).map_err(|_| RequestError::Head("a Host that is none"))?,
        ),
    };
    if parts.uri.scheme().is_some_and(|scheme| *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS) {
        return Err(RequestError::Head("a target of another scheme than http and https"));
    }
    let host = match (parts.uri.authority().cloned(), line) {
        (Some(target), Some(line)) if target.as_str().eq_ignore_ascii_case(line.as_str()) => line,
        (Some(_), Some(_)) => return Err(RequestError::Head("Host differs from the target's authority")),
        // HTTP/1.1 has to say it twice (RFC 9112 3.2.2).
        (Some(target), None) if parts.version != Version::HTTP_11 => target,
        (None, Some(line)) => line,
        (None, None) if parts.version == Version::HTTP_10 => return Ok(None),
        (_, None) => return Err(RequestError::Head("no Host")),
    };
    let is_one = host.as_str().strip_prefix(host.host()).is_some_and(|rest| {
        // The http crate takes the first host and the last port of what is both more than once, `a:1[b]:2`.
        is_host(host.host()) && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port))
    });
    if is_one { Ok(Some(host)) } else { Err(RequestError::Head("a Host that is none")) }
}

fn is_port(port: &str) -> bool {
    port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
}

/// A name as DNS and people have them, or an address. The grammar of URIs has room for more, `a,b` and `$(x)` among
/// it, which nobody is called, and which a backend would write into its links.
fn is_host(host: &str) -> bool {
    match host.strip_prefix('[') {
        Some(address) => address.strip_suffix(']').is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
        None => {
            !host.is_empty()
                && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(version: Version, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().version(version).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn host_of(version: Version, uri: &str, headers: &[(&str, &str)]) -> Result<Option<String>, String> {
        target(&parts(version, uri, headers))
            .map(|target| target.host.map(|host| host.to_string()))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn s10_one_host_that_is_one() {
        let of = |uri, headers: &[_]| host_of(Version::HTTP_11, uri, headers);
        assert_eq!(of("/", &[("host", "a.example:8443")]), Ok(Some("a.example:8443".into())));
        assert_eq!(of("http://a.example/", &[("host", "A.example")]), Ok(Some("A.example".into())));
        assert_eq!(of("/", &[("host", "[::1]:8443")]), Ok(Some("[::1]:8443".into())));
        for headers in [
            &[][..],
            &[("host", "")],
            &[("host", "a"), ("host", "a")],
            &[("host", "a/x?y@z")],
            &[("host", "a, b")],
            &[("host", "u@a")],
            &[("host", "a:")],
            &[("host", "a:x")],
            &[("host", "a,b")],
            &[("host", "$(a)")],
            &[("host", "[a]")],
            &[("host", "[::1")],
        ] {
            assert!(of("/", headers).is_err(), "{headers:?}");
        }
        for host in [
            " ", "a b", "a/", "/a", "a?b", "a#b", "a,b", "u:p@a", "@a", "a@", "a:80:80", "a:-1", "a:65536",
            ":80", ":", "http://a", "a\\b", "[::1", "::1]", "[]", "[x]", "a:80 b", "a\tb", "<a>", "\"a\"",
            "a%00", "\u{e9}", "a|b", "a^b", "{a}", "[::1]x", "[::1]:x", "a[b]", "a:1[b]:2",
        ]
        .into_iter()
        // The fuzzer's.
        .chain([".:443[1,]:3"])
        {
            assert!(of("/", &[("host", host)]).is_err(), "{host:?}");
        }
        for host in ["a", "A.example", "a_b.c", "a-b:1", "[::1]", "[::1]:8443", "127.0.0.1:65535", "xn--a"] {
            assert_eq!(of("/", &[("host", host)]), Ok(Some(host.into())));
        }
        assert!(of("http://a.example/", &[("host", "b.example")]).is_err());
        assert!(of("ftp://a.example/", &[("host", "a.example")]).is_err());
    }

    #[test]
    fn s10_only_http_1_0_may_name_no_host() {
        assert_eq!(host_of(Version::HTTP_10, "/", &[]), Ok(None));
        assert_eq!(host_of(Version::HTTP_10, "http://a.example/", &[]), Ok(Some("a.example".into())));
        assert!(host_of(Version::HTTP_11, "http://a.example/", &[]).is_err());
    }

    #[test]
    fn d2_authority_and_host_agree() {
        let of = |uri, headers: &[_]| host_of(Version::HTTP_2, uri, headers);
        assert_eq!(of("https://a.example/", &[]), Ok(Some("a.example".into())));
        assert!(of("https://a.example/", &[("host", "b.example")]).is_err());
        assert!(of("https://u@a.example/", &[]).is_err());
        assert!(of("/", &[]).is_err());
    }

    #[test]
    fn d1_no_blanks_around_a_value_in_http2() {
        let of =
            |version, value| host_of(version, "https://a.example/", &[("x", value), ("host", "a.example")]);
        for value in [" y", "y ", "\ty", "y\t", " "] {
            assert!(of(Version::HTTP_2, value).is_err(), "{value:?}");
            assert!(of(Version::HTTP_11, value).is_ok(), "{value:?}");
        }
        for value in ["", "y", "y z"] {
            assert!(of(Version::HTTP_2, value).is_ok(), "{value:?}");
        }
    }

    #[test]
    fn d1_a_path_begins_with_a_slash() {
        assert!(host_of(Version::HTTP_2, "https://a.example?x", &[]).is_err());
        assert!(host_of(Version::HTTP_2, "https://a.example/?x", &[]).is_ok());
        assert!(host_of(Version::HTTP_11, "http://a.example?x", &[("host", "a.example")]).is_ok());
    }

    #[test]
    fn s2_s3_one_framing_header_of_those_that_hyper_shows() {
        let of = |headers: &[_]| host_of(Version::HTTP_11, "/", &[&[("host", "a")], headers].concat());
        assert!(of(&[("content-length", "3")]).is_ok());
        assert!(of(&[("transfer-encoding", "Chunked")]).is_ok());
        assert!(of(&[("content-length", "3"), ("content-length", "3")]).is_err());
        assert!(of(&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]).is_err());
        assert!(of(&[("transfer-encoding", "gzip, chunked")]).is_err());
    }

    #[test]
    fn s11_unknown_methods_are_not_let_in() {
        for method in ["TRACE", "CONNECT", "PROPFIND", "get"] {
            let mut parts = parts(Version::HTTP_11, "/", &[("host", "a")]);
            parts.method = method.parse().unwrap();
            assert!(matches!(target(&parts), Err(RequestError::Method { .. })), "{method}");
        }
    }

    #[test]
    fn s14_no_expectation_but_100_continue() {
        assert!(host_of(Version::HTTP_11, "/", &[("host", "a"), ("expect", "100-Continue")]).is_ok());
        assert!(host_of(Version::HTTP_11, "/", &[("host", "a"), ("expect", "200-ok")]).is_err());
    }
}
