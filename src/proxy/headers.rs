//! What becomes of headers on their way through: pure functions, and the only place for each of them.

use http::{
    HeaderMap, HeaderName, HeaderValue, Uri,
    header::{
        AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST, LOCATION,
        PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SERVER, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
    },
    uri::{Authority, Scheme},
};

use crate::{client::Client, framing::one_framing};

/// Headers that concern one connection alone (RFC 9110 7.6.1), whether `Connection` names them or not.
static HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// SECURITY: these cannot be named away by `Connection` (attacks.md H1): framing, and what the backend
/// decides by.
static NOT_TO_BE_NAMED: [HeaderName; 4] = [AUTHORIZATION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING];

/// What a client says of itself that only a proxy may say, and what would change the method or the environment
/// behind the rules' back (attacks.md H2, P2; `Proxy` is httpoxy). Beside these, all that begins with
/// `X-Forwarded-`.
static NOT_FROM_CLIENTS: [HeaderName; 9] = [
    FORWARDED,
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-client-ip"),
    HeaderName::from_static("cf-connecting-ip"),
    HeaderName::from_static("true-client-ip"),
    HeaderName::from_static("proxy"),
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-method-override"),
];

/// Takes off what concerns the client's connection alone, or is not the client's to say.
pub(crate) fn strip_request(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    // Answered here: hyper sends 100 (Continue) when the body is first read.
    headers.remove(EXPECT);
    join_cookies(headers);
    if headers.keys().any(is_not_from_clients) {
        let theirs: Vec<HeaderName> =
            headers.keys().filter(|name| is_not_from_clients(name)).cloned().collect();
        for name in theirs {
            headers.remove(name);
        }
    }
}

/// The longest head of a response, in bytes of names and values: hyper bounds it by its buffer alone, which grows.
const LONGEST_RESPONSE_HEAD: usize = 64 << 10;

/// Whether a response's head can be passed on (attacks.md U1). The error says what is wrong.
pub(crate) fn passable(headers: &HeaderMap) -> Result<(), &'static str> {
    let length: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if length > LONGEST_RESPONSE_HEAD {
        return Err("a head of more than 64 KiB");
    }
    one_framing(headers)
}

/// Joins the lines that HTTP/2 may split a cookie into (RFC 9113 8.2.3): HTTP/1.1 has one.
fn join_cookies(headers: &mut HeaderMap) {
    let lines: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if lines.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
}

/// Says who asked, for whom, and how; after [`strip_request`], so that nothing can take it off again.
pub(crate) fn set_forwarded(headers: &mut HeaderMap, client: &Client, host: Option<&Authority>) {
    let address = client.address.to_string();
    let for_value = value(address.clone());
    headers.insert("x-real-ip", for_value.clone());
    headers.insert("x-forwarded-for", for_value);
    let proto = client.scheme.as_str();
    headers.insert("x-forwarded-proto", value(proto.to_owned()));
    let node = if client.address.is_ipv6() { format!("\"[{address}]\"") } else { address };
    let Some(host) = host else {
        headers.insert(FORWARDED, value(format!("for={node};proto={proto}")));
        return;
    };
    headers.insert(FORWARDED, value(format!("for={node};host=\"{host}\";proto={proto}")));
    headers.insert("x-forwarded-host", value(host.to_string()));
    let port = host.port_u16().unwrap_or_else(|| default_port(&client.scheme));
    headers.insert("x-forwarded-port", value(port.to_string()));
}

/// Takes off what concerns the backend's connection alone, and what it says of its software.
pub(crate) fn strip_response(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    headers.remove(SERVER);
    headers.remove(VIA);
}

/// Rewrites a `Location` that names one of `own`, the backend's addresses, to the public one, without the
/// `base` that goes before every path upstream. With no public name to give it is the path alone.
///
/// Werkzeug makes redirects absolute of the `Host` that it sees, and takes the scheme from a connection that
/// is never TLS. Other absolute locations are left alone.
pub(crate) fn rewrite_location(
    headers: &mut HeaderMap,
    own: &[&Authority],
    base: &str,
    public: Option<(&Scheme, &Authority)>,
) {
    let Some(location) = headers.get(LOCATION).and_then(|value| value.to_str().ok()) else { return };
    let Ok(uri) = location.parse::<Uri>() else { return };
    // By text and not by `Uri`, which would drop a fragment.
    let rewritten = match (uri.scheme(), uri.authority()) {
        (Some(scheme), Some(authority)) if own.iter().any(|own| same_origin(scheme, authority, own)) => {
            let after = &location[scheme.as_str().len() + "://".len() + authority.as_str().len()..];
            let after = without_base(after, base).unwrap_or(after);
            match public {
                Some((scheme, authority)) => format!("{scheme}://{authority}{after}"),
                None => path_alone(after),
            }
        }
        (None, None) if !base.is_empty() => match without_base(location, base) {
            Some(after) => path_alone(after),
            None => return,
        },
        _ => return,
    };
    if let Ok(value) = HeaderValue::try_from(rewritten) {
        headers.insert(LOCATION, value);
    }
}

/// What follows `base` in a path, as the client knows it; `None` where the path is not below it.
fn without_base<'a>(path: &'a str, base: &str) -> Option<&'a str> {
    path.strip_prefix(base).filter(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']))
}

/// A path and what follows it, to stand without a host.
///
/// SECURITY: a browser takes what follows two slashes, of either kind, for a host (attacks.md R1).
fn path_alone(path: &str) -> String {
    format!("/{}", path.trim_start_matches(['/', '\\']))
}

/// An authority as it stands in `Host`: without the port that its scheme has anyway.
pub(crate) fn without_default_port(scheme: &Scheme, authority: &Authority) -> Authority {
    match authority.port_u16() {
        // A host without a port is an authority, as the one with it was.
        Some(port) if port == default_port(scheme) => {
            authority.host().parse().unwrap_or_else(|_| authority.clone())
        }
        Some(_) | None => authority.clone(),
    }
}

fn same_origin(scheme: &Scheme, authority: &Authority, own: &Authority) -> bool {
    let default = default_port(scheme);
    (*scheme == Scheme::HTTP || *scheme == Scheme::HTTPS)
        && authority.host().eq_ignore_ascii_case(own.host())
        && authority.port_u16().unwrap_or(default) == own.port_u16().unwrap_or(default)
}

/// The port of a scheme when none is written.
pub(crate) fn default_port(scheme: &Scheme) -> u16 {
    if *scheme == Scheme::HTTPS { 443 } else { 80 }
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .filter(|name| !NOT_TO_BE_NAMED.contains(name))
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// SECURITY: WSGI turns `X_Forwarded_For` and `X-Forwarded-For` into the same variable: no name with an
/// underscore goes through.
fn is_not_from_clients(name: &HeaderName) -> bool {
    name.as_str().starts_with("x-forwarded-")
        || name.as_str().contains('_')
        || NOT_FROM_CLIENTS.contains(name)
}

/// Of text that is visible ASCII by construction: addresses, authorities, numbers.
fn value(text: String) -> HeaderValue {
    // `Authority`, `IpAddr` and `u16` print nothing else; an empty value is the harmless way out.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::StandsFor;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    fn client() -> Client {
        Client { address: "192.0.2.7".parse().unwrap(), scheme: Scheme::HTTPS, stands_for: StandsFor::Itself }
    }

    #[test]
    fn h1_what_connection_names_goes_but_framing_host_and_authorization_stay() {
        let mut map = headers(&[
            ("connection", "close, X-Forwarded-For, Content-Length, Host, Authorization"),
            ("connection", "x-secret"),
            ("x-secret", "1"),
            ("content-length", "3"),
            ("host", "a"),
            ("authorization", "Bearer t"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
        ]);
        strip_request(&mut map);
        set_forwarded(&mut map, &client(), Some(&Authority::from_static("chat.example.org")));
        assert!(!map.contains_key("x-secret"));
        assert!(!map.contains_key("connection") && !map.contains_key("upgrade") && !map.contains_key("te"));
        assert!(map.contains_key("content-length") && map.contains_key("host"));
        assert_eq!(map["authorization"], "Bearer t");
        assert_eq!(map["x-forwarded-for"], "192.0.2.7");
    }

    #[test]
    fn u1_a_head_that_is_too_long_does_not_pass() {
        let long = "x".repeat(LONGEST_RESPONSE_HEAD - 1);
        assert_eq!(passable(&headers(&[("a", &long)])), Ok(()));
        assert!(passable(&headers(&[("a", &long), ("b", "")])).is_err());
    }

    #[test]
    fn a_base_that_goes_before_paths_upstream_is_taken_off_again() {
        let rewritten = |location: &str, public| {
            let mut map = headers(&[("location", location)]);
            rewrite_location(&mut map, &[&Authority::from_static("127.0.0.1:80")], "/base", public);
            map["location"].to_str().unwrap().to_owned()
        };
        let host = Authority::from_static("chat.example.org");
        let public = Some((&Scheme::HTTPS, &host));
        assert_eq!(rewritten("http://127.0.0.1/base/next?q", public), "https://chat.example.org/next?q");
        assert_eq!(rewritten("/base/next", public), "/next");
        assert_eq!(rewritten("/based", public), "/based");
        assert_eq!(rewritten("http://127.0.0.1/base/next", None), "/next");
        assert_eq!(rewritten("http://127.0.0.1/base", None), "/");
        assert_eq!(rewritten("/base", public), "/");
        assert_eq!(rewritten("/base?q", public), "/?q");
        assert_eq!(rewritten("next", public), "next");
    }

    #[test]
    fn r1_a_path_that_stands_alone_names_no_host() {
        for path in ["//evil.example/", "/\\evil.example/", "\\\\evil.example/"] {
            assert_eq!(path_alone(path), "/evil.example/", "{path}");
        }
    }

    #[test]
    fn a_host_has_no_port_that_goes_without_saying() {
        for (scheme, authority, host) in [
            (Scheme::HTTPS, "a.example:443", "a.example"),
            (Scheme::HTTP, "a.example:443", "a.example:443"),
            (Scheme::HTTP, "[::1]:80", "[::1]"),
        ] {
            assert_eq!(without_default_port(&scheme, &authority.parse().unwrap()), host);
        }
    }

    #[test]
    fn h2_what_the_client_says_of_itself_is_set_anew() {
        let mut map = headers(&[
            ("x-forwarded-for", "6.6.6.6"),
            ("x_forwarded_for", "6.6.6.6"),
            ("x-forwarded-prefix", "/evil"),
            ("forwarded", "for=6.6.6.6"),
            ("cf-connecting-ip", "6.6.6.6"),
            ("x-http-method-override", "DELETE"),
            ("x-forwarded-user", "admin"),
            ("x-forwarded-ssl", "on"),
            ("x-client-ip", "6.6.6.6"),
            ("proxy", "http://evil.example"),
        ]);
        strip_request(&mut map);
        assert!(map.is_empty(), "{map:?}");
        set_forwarded(&mut map, &client(), Some(&Authority::from_static("chat.example.org:8443")));
        assert_eq!(map["forwarded"], "for=192.0.2.7;host=\"chat.example.org:8443\";proto=https");
        assert_eq!(map["x-forwarded-host"], "chat.example.org:8443");
        assert_eq!(map["x-forwarded-port"], "8443");
        assert_eq!(map["x-forwarded-proto"], "https");
        assert!(!map.contains_key("x-forwarded-prefix"));
    }

    #[test]
    fn a_cookie_that_http2_split_is_one_line_again() {
        let mut map = headers(&[("cookie", "a=1"), ("cookie", "b=2")]);
        strip_request(&mut map);
        assert_eq!(map.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }

    #[test]
    fn a_location_that_names_the_backend_is_rewritten_and_no_other() {
        let rewritten = |location: &str| {
            let mut map = headers(&[("location", location)]);
            let own =
                [&Authority::from_static("127.0.0.1:42836"), &Authority::from_static("chat.example.org")];
            let public = Authority::from_static("chat.example.org");
            rewrite_location(&mut map, &own, "", Some((&Scheme::HTTPS, &public)));
            map["location"].to_str().unwrap().to_owned()
        };
        assert_eq!(rewritten("http://127.0.0.1:42836/abc/#x"), "https://chat.example.org/abc/#x");
        assert_eq!(rewritten("http://127.0.0.1:42836"), "https://chat.example.org");
        assert_eq!(rewritten("http://chat.example.org/abc/?q"), "https://chat.example.org/abc/?q");
        for other in
            ["/abc/", "http://127.0.0.1:1/abc", "https://elsewhere.example/", "ftp://127.0.0.1:42836/"]
        {
            assert_eq!(rewritten(other), other);
        }
    }
}
