//! Plain HTTP where HTTPS is meant: a redirect to a name that we serve, never to one the client made up.

use std::sync::Arc;

use http::{
    HeaderValue, Method, Response, StatusCode,
    header::{CONNECTION, LOCATION},
    request::Parts,
    uri::Authority,
};

use crate::{body::Body, config::ServerName, tls::Certificates};

/// The names that a client may be sent to.
#[derive(Clone)]
pub(crate) struct Names {
    pub(crate) certificates: Arc<Certificates>,
    /// Those of the config. Who asks for none of ours is sent to the first.
    pub(crate) configured: Arc<[ServerName]>,
}

impl Names {
    fn are(&self, name: &ServerName) -> bool {
        self.configured.contains(name) || self.certificates.is_for(name)
    }
}

/// The answer to a plain-HTTP request: 301 for GET and HEAD, 308 for the rest, so that a POST stays one; 421
/// where there is no name to send the client to.
pub(crate) fn answer(names: &Names, https_port: u16, parts: &Parts) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    // What follows is another scheme, perhaps another port: nothing is gained by keeping this connection.
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    let name = asked_name(parts)
        .filter(|name| names.are(name))
        .or_else(|| names.configured.first().cloned())
        .or_else(|| names.certificates.first_name());
    let location = name.and_then(|name| {
        let port = if https_port == 443 { String::new() } else { format!(":{https_port}") };
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

/// The name in `Host`, if it is one (attacks.md R1).
fn asked_name(parts: &Parts) -> Option<ServerName> {
    let host: Authority = parts.headers.get(http::header::HOST)?.to_str().ok()?.parse().ok()?;
    if host.as_str().contains('@') {
        return None;
    }
    host.host().parse().ok()
}
