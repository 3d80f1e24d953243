//! `max_size`: how large a response will be, asked before it is fetched.

use http::{
    Method, Request, Response, StatusCode,
    header::{
        CONTENT_LENGTH, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE,
    },
    request::Parts,
};

use super::{Progress, Upstream, send::Errand};
use crate::{body::Body, client::Client, error::RequestError};

/// Asks with a HEAD for the size of what a GET would fetch.
pub(super) async fn probe(
    upstream: &Upstream,
    get: &Parts,
    client: &Client,
    max: u64,
) -> Result<(), RequestError> {
    let mut head = Request::new(Body::empty());
    *head.method_mut() = Method::HEAD;
    *head.uri_mut() = get.uri.clone();
    *head.headers_mut() = get.headers.clone();
    // The size of the whole is asked for, whatever part of it the client wants, and whatever it has already.
    for name in
        [RANGE, IF_RANGE, IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, CONTENT_LENGTH]
    {
        head.headers_mut().remove(name);
    }
    let errand = Errand::Request { retry_for: upstream.bounds.retry_for };
    let (response, _lease) = upstream.sender.send(head, client, &Progress::new(), errand).await?;
    response_size(&response).ok_or(RequestError::SizeUnknown).and_then(|size| within(size, max))
}

/// Holds the response itself against the limit. One to a GET may come without a length: it is counted.
pub(super) fn response<B>(method: &Method, response: &Response<B>, max: u64) -> Result<(), RequestError> {
    match response_size(response) {
        Some(size) => within(size, max),
        None if *method == Method::HEAD => Err(RequestError::SizeUnknown),
        None => Ok(()),
    }
}

fn within(size: u64, max: u64) -> Result<(), RequestError> {
    if size > max { Err(RequestError::ContentTooBig) } else { Ok(()) }
}

fn response_size<B>(response: &Response<B>) -> Option<u64> {
    if matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return Some(0);
    }
    let mut lengths = response.headers().get_all(CONTENT_LENGTH).iter();
    let length = lengths.next()?.to_str().ok()?.parse().ok()?;
    lengths.next().is_none().then_some(length)
}
