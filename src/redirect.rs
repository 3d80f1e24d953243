//! Plain HTTP where HTTPS is meant: a redirect to a name that we serve, never to one the client made up. Below
//! one path a CA finds the proof that it comes for (RFC 8555, section 8.3), and everybody else nothing.

use http::{
    HeaderValue, Method, Response, StatusCode,
    header::{ALLOW, CONNECTION, CONTENT_TYPE, LOCATION},
    request::Parts,
    uri::Authority,
};

use crate::{
    body::Body,
    config::ServerName,
    error::RequestError,
    tls::{
        challenges::{Challenges, HTTP_PATH},
        names::{self, Names},
    },
    wire::Fault,
};

/// The answer to a plain-HTTP request: 301 for GET and HEAD, 308 for the rest, so that a POST stays one; 421
/// where there is no name to send the client to.
pub(crate) fn answer(names: &Names, https_port: u16, parts: &Parts) -> Response<Body> {
    if let Some(token) = parts.uri.path().strip_prefix(HTTP_PATH) {
        return challenge(names.certificates.challenges(), token, &parts.method);
    }
    let mut response = Response::new(Body::empty());
    // What follows is another scheme, perhaps another port: nothing is gained by keeping this connection.
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    let name = asked_name(parts)
        .filter(|name| names.are(name))
        .or_else(|| names.configured.first().cloned())
        .or_else(|| names.certificates.first_name());
    let location = name.and_then(|name| {
        let port = names::port(https_port);
        // `OPTIONS *` has none.
        let path = parts.uri.path_and_query().map(|target| target.as_str());
        let path = path.filter(|path| path.starts_with('/')).unwrap_or("/");
        HeaderValue::try_from(format!("https://{}{port}{path}", name.to_host())).ok()
    });
    *response.status_mut() = match (location, &parts.method) {
        (None, _) => StatusCode::MISDIRECTED_REQUEST,
        (Some(location), method) => {
            response.headers_mut().insert(LOCATION, location);
            if *method == Method::GET || *method == Method::HEAD {
                StatusCode::MOVED_PERMANENTLY
            } else {
                StatusCode::PERMANENT_REDIRECT
            }
        }
    };
    response
}

/// The answer to what is no request.
pub(crate) fn refusal(fault: Fault) -> Response<Body> {
    let error = RequestError::Wire(fault);
    let mut response = Response::new(Body::full(error.message()));
    *response.status_mut() = error.status();
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    if let Some(allow) = error.allow() {
        headers.insert(ALLOW, HeaderValue::from_static(allow));
    }
    response
}

/// The longest token that is looked for: CAs make them of 22 to 43 characters.
const LONGEST_TOKEN: usize = 256;

/// What HTTP-01 shows for `token`: the key authorisation of a challenge that is under way, else nothing (C1).
fn challenge(challenges: &Challenges, token: &str, method: &Method) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(CONNECTION, close);
    let base64url = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_token = token.len() <= LONGEST_TOKEN && token.bytes().all(base64url);
    let asks = *method == Method::GET || *method == Method::HEAD;
    match challenges.http_answer(token).filter(|_| is_token && asks) {
        Some(proof) => {
            let kind = HeaderValue::from_static("text/plain");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            *response.body_mut() = Body::full(bytes::Bytes::copy_from_slice(proof.as_bytes()));
        }
        None => *response.status_mut() = StatusCode::NOT_FOUND,
    }
    response
}

/// The name in `Host`, if it is one (attacks.md R1).
fn asked_name(parts: &Parts) -> Option<ServerName> {
    let host: Authority = parts.headers.get(http::header::HOST)?.to_str().ok()?.parse().ok()?;
    if host.as_str().contains('@') {
        return None;
    }
    host.host().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::UnknownNames, tls::Certificates};
    use std::sync::Arc;

    fn names(challenges: &Arc<Challenges>) -> Names {
        let served = Certificates::new(Vec::new(), None, UnknownNames::Reject, Arc::clone(challenges));
        Names { certificates: Arc::new(served), configured: Arc::new(["chat.example.org".parse().unwrap()]) }
    }

    fn ask(names: &Names, method: Method, target: &str) -> Response<Body> {
        let request = http::Request::builder().method(method).uri(target).body(()).unwrap();
        answer(names, 443, &request.into_parts().0)
    }

    #[test]
    fn c1_a_ca_finds_its_proof_and_nobody_anything_else() {
        let challenges = Arc::new(Challenges::default());
        let names = names(&challenges);
        let _shown = challenges.show_http("t0ken-_", "t0ken-_.thumb");
        let known = format!("{HTTP_PATH}t0ken-_");
        for method in [Method::GET, Method::HEAD] {
            let found = ask(&names, method, &known);
            assert_eq!(found.status(), StatusCode::OK);
            assert_eq!(found.headers()[CONTENT_TYPE], "text/plain");
            assert_eq!(http_body::Body::size_hint(found.body()).exact(), Some(13));
        }
        let long = "x".repeat(4096);
        for token in ["", "other", "t0ken-_/", "t0ken-_.thumb", "../t0ken-_", "%74oken", long.as_str()] {
            let found = ask(&names, Method::GET, &format!("{HTTP_PATH}{token}"));
            assert_eq!(found.status(), StatusCode::NOT_FOUND, "{token}");
            assert!(!found.headers().contains_key(LOCATION), "{token}");
        }
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            assert_eq!(ask(&names, method, &known).status(), StatusCode::NOT_FOUND);
        }
    }

    #[test]
    fn what_only_resembles_the_path_is_redirected() {
        let names = names(&Arc::default());
        let found = ask(&names, Method::GET, "/.well-known/acme-challenge");
        assert_eq!(found.headers()[LOCATION], "https://chat.example.org/.well-known/acme-challenge");
    }
}
