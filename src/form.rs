//! `block_files`: strict multipart in, canonical multipart out.
//!
//! Two parsers that read one body differently are how such filters are passed (attacks.md M1), so nothing of
//! the client's own framing goes upstream: the body is parsed in one strict grammar while it arrives, and what
//! is forwarded is written anew from the fields under a boundary of our own. What that grammar does not cover
//! is refused; what a file part is, is decided widely.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;

pub(crate) use self::{error::FormError, filter::Filter};
use crate::error::BodyError;

mod content_type;
#[cfg(test)]
mod differential;
pub(crate) mod error;
mod filter;
#[cfg(test)]
mod generators;
mod parameters;
mod part;
#[cfg(test)]
mod shapes;

/// What a request's headers say about its body.
#[derive(Debug)]
pub(crate) enum Kind {
    /// Nothing that could be read as a multipart body.
    NotMultipart,
    /// A form, to be sent through the filter.
    Multipart(Box<Filter>),
}

/// Reads the headers of a request; an error where it is not certain that its body is no multipart, or how the
/// body is delimited.
///
/// Without a Content-Type a body is not multipart, for Werkzeug too.
pub(crate) fn kind(headers: &HeaderMap) -> Result<Kind, FormError> {
    match content_type::boundary(headers)? {
        None => Ok(Kind::NotMultipart),
        // SECURITY: we would read the coded bytes and the backend, perhaps, the decoded ones.
        Some(_) if headers.contains_key(http::header::CONTENT_ENCODING) => Err(FormError::Coded),
        Some(boundary) => Ok(Kind::Multipart(Box::new(Filter::new(&boundary)))),
    }
}

/// The request body that goes upstream: what [`Filter`] makes of the client's.
///
/// Fails with [`BodyError::Form`] at the first fault. Trailers are dropped: what they would say is about other
/// bytes. The length is not known before the end.
pub(crate) struct FilteredBody<B> {
    inner: B,
    filter: Box<Filter>,
    /// What the filter gave and nobody took yet; empty between polls.
    out: BytesMut,
    /// After the end or the first error there is nothing more.
    ended: bool,
}

impl<B> FilteredBody<B> {
    pub(crate) fn new(filter: Box<Filter>, inner: B) -> Self {
        Self { inner, filter, out: BytesMut::new(), ended: false }
    }
}

impl<B> http_body::Body for FilteredBody<B>
where
    B: http_body::Body<Data = Bytes, Error = BodyError> + Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        while !this.ended {
            let step = match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.filter.push(&data, &mut this.out).map_err(BodyError::Form),
                    Err(_trailers) => continue,
                },
                Some(Err(error)) => Err(error),
                None => {
                    this.ended = true;
                    this.filter.finish(&mut this.out).map_err(BodyError::Form)
                }
            };
            if let Err(error) = step {
                this.ended = true;
                return Poll::Ready(Some(Err(error)));
            }
            if !this.out.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(this.out.split().freeze()))));
            }
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

impl<B> fmt::Debug for FilteredBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilteredBody").field("filter", &self.filter).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use http::{HeaderValue, header};
    use http_body_util::BodyExt;

    use super::*;

    /// Gives these frames one by one.
    struct Frames(VecDeque<Result<Frame<Bytes>, BodyError>>);

    impl http_body::Body for Frames {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            Poll::Ready(self.0.pop_front())
        }
    }

    fn data(text: &'static str) -> Result<Frame<Bytes>, BodyError> {
        Ok(Frame::data(Bytes::from_static(text.as_bytes())))
    }

    fn filtered<const N: usize>(frames: [Result<Frame<Bytes>, BodyError>; N]) -> FilteredBody<Frames> {
        FilteredBody::new(Box::new(Filter::new(b"B")), Frames(frames.into()))
    }

    const HEAD: &str = "--B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n";

    #[tokio::test]
    async fn a_form_streams_through_and_its_trailers_are_dropped() {
        let trailers = HeaderMap::from_iter([(header::CONTENT_LENGTH, HeaderValue::from_static("1"))]);
        let frames =
            [data(HEAD), data("val"), data("ue\r\n--B--"), data("\r\n"), Ok(Frame::trailers(trailers))];
        let body = filtered(frames).collect().await.unwrap();
        assert!(body.trailers().is_none());
        let text = String::from_utf8(body.to_bytes().to_vec()).unwrap();
        assert!(text.contains("name=\"a\"\r\n\r\nvalue\r\n--"), "{text}");
        assert!(text.ends_with("--\r\n") && !text.contains("--B"), "{text}");
    }

    #[tokio::test]
    async fn m1_a_file_ends_the_body_with_an_error_at_once() {
        let file = "v\r\n--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"x\"\r\n";
        let mut body = filtered([data(HEAD), data(file), data("\r\nnever read")]);
        assert!(body.frame().await.unwrap().is_ok());
        let error = body.frame().await.unwrap().unwrap_err();
        assert!(matches!(error, BodyError::Form(FormError::File)), "{error}");
        assert!(body.frame().await.is_none() && http_body::Body::is_end_stream(&body));
        assert_eq!(body.inner.0.len(), 1);
    }

    #[tokio::test]
    async fn a_cut_off_body_never_looks_whole() {
        let error = filtered([data(HEAD), data("v\r\n--B")]).collect().await.unwrap_err();
        assert!(matches!(error, BodyError::Form(FormError::Truncated)), "{error}");
        let error = filtered([data(HEAD), Err(BodyError::UploadIdle)]).collect().await.unwrap_err();
        assert!(matches!(error, BodyError::UploadIdle), "{error}");
    }

    #[test]
    fn the_headers_decide_what_a_body_is() {
        let mut headers = HeaderMap::new();
        assert!(matches!(kind(&headers), Ok(Kind::NotMultipart)));
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        assert!(matches!(kind(&headers), Ok(Kind::NotMultipart)));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("multipart/form-data; boundary=B"));
        assert_eq!(kind(&headers).unwrap_err(), FormError::Coded);
        headers.remove(header::CONTENT_ENCODING);
        assert!(matches!(kind(&headers), Ok(Kind::Multipart(_))));
    }

    #[test]
    fn only_a_file_is_a_file() {
        assert!(FormError::File.is_file());
        assert!(!FormError::Truncated.is_file() && !FormError::Nested.is_file());
    }
}
