//! WebSocket: after a 101 on both sides, bytes go through as they are.

use http::{
    HeaderMap, HeaderValue, Method, Response, Version,
    header::{CONNECTION, UPGRADE},
    request::Parts,
};
use hyper::{
    body::Incoming,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;

use super::pool::Lease;
use crate::{body::Body, error::RequestError, in_flight::InFlight, metrics::Counted, rules::ProxyPolicy};

/// A client's wish to switch to WebSocket. Its request is in flight for as long as the tunnel stands: until then
/// the client owes no other.
pub(super) struct Wish {
    client: OnUpgrade,
    in_flight: InFlight,
}

/// The wish, if the request has it.
///
/// SECURITY: WebSocket alone: `Upgrade: h2c` would let a client speak past the rules (attacks.md S9). A rule
/// that checks bodies lets nothing through that it cannot check.
pub(super) fn wanted(parts: &mut Parts, policy: ProxyPolicy, in_flight: &InFlight) -> Option<Wish> {
    let names_upgrade = parts
        .headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|name| name.trim().eq_ignore_ascii_case("upgrade"));
    let mut protocols = parts.headers.get_all(UPGRADE).iter();
    let is_websocket =
        protocols.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
            && protocols.next().is_none();
    let may =
        parts.version == Version::HTTP_11 && parts.method == Method::GET && policy == ProxyPolicy::default();
    let client = parts.extensions.remove().filter(|_| names_upgrade && is_websocket && may)?;
    Some(Wish { client, in_flight: in_flight.another() })
}

impl Wish {
    /// Passes the wish on, after the client's own connection headers were stripped.
    pub(super) fn ask(&self, headers: &mut HeaderMap) {
        set(headers);
    }

    /// Joins the two connections once the client's has switched too. `held` is kept for as long.
    pub(super) fn tunnel(
        self,
        mut response: Response<Incoming>,
        held: (Lease, Counted),
    ) -> Result<Response<Body>, RequestError> {
        let is_websocket =
            response.headers().get(UPGRADE).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket"));
        if !is_websocket {
            return Err(RequestError::BadResponse(
                "the backend switched to another protocol than was asked for",
            ));
        }
        let backend = hyper::upgrade::on(&mut response);
        super::headers::strip_response(response.headers_mut());
        set(response.headers_mut());
        // Before the 101 goes out: the client sends nothing of the tunnel until it has come.
        let in_flight = self.in_flight.into_tunnel();
        held.0.close_plainly();
        // The client's connection waits for it, and the relay's end for that.
        tokio::spawn(async move {
            let joined = join(self.client, backend).await;
            drop((held, in_flight));
            if let Err(error) = joined {
                tracing::debug!(%error, "tunnel ended");
            }
        });
        Ok(response.map(|_| Body::empty()))
    }
}

async fn join(client: OnUpgrade, backend: OnUpgrade) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (client, backend): (Upgraded, Upgraded) = tokio::try_join!(client, backend)?;
    tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(backend)).await?;
    Ok(())
}

fn set(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}
