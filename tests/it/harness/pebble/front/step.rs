//! What a request to an ACME server is for.

use base64::prelude::*;

/// What a request is for (RFC 8555, section 7.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    Directory,
    NewNonce,
    NewAccount,
    Account,
    NewOrder,
    Order,
    Authorization,
    Challenge,
    Finalize,
    Certificate,
    RenewalInfo,
    Other,
}

impl Step {
    /// By Pebble's addresses.
    pub(super) fn of(path: &str) -> Self {
        let first = path.trim_start_matches('/').split('/').next().unwrap_or("");
        match first {
            "dir" => Self::Directory,
            "nonce-plz" => Self::NewNonce,
            "sign-me-up" => Self::NewAccount,
            "my-account" => Self::Account,
            "order-plz" => Self::NewOrder,
            "my-order" => Self::Order,
            "authZ" => Self::Authorization,
            "chalZ" => Self::Challenge,
            "finalize-order" => Self::Finalize,
            "certZ" => Self::Certificate,
            _ if path.contains("/renewalInfo/") => Self::RenewalInfo,
            _ => Self::Other,
        }
    }
}

/// What a JWS signs (RFC 7515, section 7.2); null where `body` is none, or signs nothing.
pub(super) fn payload(body: &[u8]) -> serde_json::Value {
    let signed: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let payload = signed["payload"].as_str().unwrap_or_default();
    let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap_or_default();
    serde_json::from_slice(&payload).unwrap_or_default()
}
