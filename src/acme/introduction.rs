//! What a CA says of itself before anything is asked of it: its directory (RFC 8555, section 7.1.1).

use std::{collections::BTreeMap, fmt};

use http::{Request, header::DATE};
use instant_acme::BodyWrapper;
use serde::Deserialize;
use time::OffsetDateTime;

use super::client::{Client, ClientError};
use crate::config::acme::{Authority, Directory};

/// What `doctor` wants to know of a CA.
#[derive(Debug)]
pub(crate) struct Introduction {
    /// What time it is there, to the second.
    pub(crate) date: Option<OffsetDateTime>,
    /// What it is called in CAA records.
    pub(crate) caa_identities: Vec<String>,
    pub(crate) profiles: Vec<String>,
    pub(crate) wants_external_account: bool,
    /// ARI (RFC 9773).
    pub(crate) has_renewal_info: bool,
}

/// Why there is none.
#[derive(Debug)]
pub(crate) enum IntroductionError {
    Client(ClientError),
    /// What answers is no CA: a page of somebody on the way, perhaps.
    NoDirectory,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    /// Without it there is nothing to be had there.
    #[serde(rename = "newOrder")]
    _new_order: String,
    renewal_info: Option<String>,
    #[serde(default)]
    meta: Meta,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Meta {
    caa_identities: Vec<String>,
    /// Names, and what a person reads about them.
    profiles: BTreeMap<String, String>,
    external_account_required: bool,
}

/// Fetches the directory, on the way that orders would take.
pub(crate) async fn introduce(
    authority: &Authority,
    directory: &Directory,
) -> Result<Introduction, IntroductionError> {
    let client = Client::new(authority).map_err(IntroductionError::Client)?;
    let mut request = Request::new(BodyWrapper::from(Vec::new()));
    *request.uri_mut() = directory.url.clone();
    let (parts, body) = client.exchange(request).await.map_err(IntroductionError::Client)?;
    let date = parts.headers.get(DATE).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
    read(&body, date.map(OffsetDateTime::from)).ok_or(IntroductionError::NoDirectory)
}

fn read(body: &[u8], date: Option<OffsetDateTime>) -> Option<Introduction> {
    let Fields { renewal_info, meta, .. } = serde_json::from_slice(body).ok()?;
    Some(Introduction {
        date,
        caa_identities: meta.caa_identities,
        profiles: meta.profiles.into_keys().collect(),
        wants_external_account: meta.external_account_required,
        has_renewal_info: renewal_info.is_some(),
    })
}

impl fmt::Display for IntroductionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(error) => error.fmt(f),
            Self::NoDirectory => f.write_str("what answers there is no CA"),
        }
    }
}

impl std::error::Error for IntroductionError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Client(error) => error.source(),
            Self::NoDirectory => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_read_and_what_is_none_is_not() {
        let text = br#"{"newOrder": "https://ca.example/order", "renewalInfo": "https://ca.example/ari",
            "meta": {"caaIdentities": ["ca.example"], "profiles": {"classic": "a page"}, "more": 1}}"#;
        let told = read(text, None).unwrap();
        assert_eq!(
            (&*told.caa_identities, &*told.profiles),
            (&["ca.example".to_owned()][..], &["classic".to_owned()][..])
        );
        assert!(told.has_renewal_info && !told.wants_external_account);
        let told = read(br#"{"newOrder": "", "meta": {"externalAccountRequired": true}}"#, None).unwrap();
        assert!(!told.has_renewal_info && told.wants_external_account && told.profiles.is_empty());
        for text in [&b"<html>"[..], b"{}", b"[]", br#"{"meta": {}}"#] {
            assert!(read(text, None).is_none());
        }
    }
}
