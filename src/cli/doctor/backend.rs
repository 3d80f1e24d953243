//! The backend: whether it answers, on the way and below the prefix that are configured.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Empty;

use super::{
    Finding,
    name_servers::{NameServers, SILENT, next_hop},
};
use crate::{
    cli::health,
    config::{Backend, ProxyUrl, UriPrefix},
    error::Chain,
    proxy::egress::{self, Egress, Form},
    site,
};

/// A backend that takes longer to say that it is well is not.
const LIMIT: Duration = Duration::from_secs(10);

/// Asks it for its health.
pub(super) async fn look(
    backend: &Backend,
    proxy: Option<&ProxyUrl>,
    servers: NameServers,
    prefix: &UriPrefix,
) -> Finding {
    let url = &backend.url;
    let egress = match way(backend, proxy) {
        Ok(egress) => egress,
        Err(error) => return Finding::fault("backend", error, ""),
    };
    if servers.hide(next_hop(&url.authority, proxy)).await {
        return Finding::fault("backend", format_args!("{url} is not found: {SILENT}"), "");
    }
    let asked = tokio::time::timeout(LIMIT, ask(&egress, backend, prefix)).await;
    match asked {
        Ok(Ok(status)) if status.is_success() => {
            Finding::well("backend", format_args!("{url} answers, and says that it is well"))
        }
        Ok(Ok(StatusCode::NOT_FOUND)) => Finding::fault(
            "backend",
            format_args!("{url} answers, and has no /health below uri_prefix"),
            "uri_prefix has to be the one in Sova's config.toml, letter by letter; or another program listens there",
        ),
        Ok(Ok(status)) => Finding::fault(
            "backend",
            format_args!("{url} answers /health with {status}"),
            "what Sova says of it: journalctl -u parley-chat",
        ),
        Ok(Err(reason)) => Finding::fault("backend", format_args!("{url}: {reason}"), advice(proxy)),
        Err(_) => {
            let text = format!("{url} does not answer /health within {} s", LIMIT.as_secs());
            Finding::fault("backend", text, advice(proxy))
        }
    }
}

fn advice(proxy: Option<&ProxyUrl>) -> String {
    match proxy {
        Some(ProxyUrl { authority, .. }) => {
            format!(
                "the way goes through [upstream_proxy] at {authority}: does the proxy run, and does Sova?"
            )
        }
        None => "does Sova run, and listen there? systemctl status parley-chat; [server] in its config.toml"
            .into(),
    }
}

fn way(backend: &Backend, proxy: Option<&ProxyUrl>) -> Result<Egress, site::SiteError> {
    let roots = match &backend.ca_file {
        Some(file) => site::read_roots(file)?,
        None => egress::web_roots(),
    };
    Egress::new(&backend.url, proxy.cloned(), &Arc::new(roots), backend.timeouts.connect)
        .map_err(|_| site::SiteError::OriginName(backend.url.clone()))
}

async fn ask(egress: &Egress, backend: &Backend, prefix: &UriPrefix) -> Result<StatusCode, String> {
    let stream = egress.connect(None).await.map_err(|error| Chain(&error).to_string())?;
    let path = format!("{}/health", prefix.as_path());
    let mut request =
        Request::builder().method(Method::GET).header(header::HOST, backend.url.authority.as_str());
    request = match egress.form() {
        Form::Origin => request.uri(path),
        Form::Absolute { authorization } => {
            let request = request.uri(format!("{}{path}", backend.url));
            match authorization {
                Some(authorization) => request.header(header::PROXY_AUTHORIZATION, authorization),
                None => request,
            }
        }
    };
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    health::status(stream, request).await.map_err(|error| Chain(&error).to_string())
}
