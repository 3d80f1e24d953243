//! placeholder until the filter is merged
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum FormError {
    File,
}
impl FormError {
    pub(crate) fn is_file(self) -> bool {
        true
    }
}
impl std::fmt::Display for FormError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("x")
    }
}
impl std::error::Error for FormError {}
pub(crate) enum Kind {
    NotMultipart,
    Multipart(Filter),
}
pub(crate) struct Filter;
impl Filter {
    pub(crate) fn content_type(&self) -> http::HeaderValue {
        http::HeaderValue::from_static("")
    }
}
pub(crate) fn kind(_: &http::HeaderMap) -> Result<Kind, FormError> {
    Ok(Kind::NotMultipart)
}
pub(crate) struct FilteredBody<B>(B);
impl<B> FilteredBody<B> {
    pub(crate) fn new(b: B, _: Filter) -> Self {
        Self(b)
    }
}
impl<B: http_body::Body<Data = bytes::Bytes, Error = crate::error::BodyError> + Unpin> http_body::Body
    for FilteredBody<B>
{
    type Data = bytes::Bytes;
    type Error = crate::error::BodyError;
    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
        std::pin::Pin::new(&mut self.0).poll_frame(cx)
    }
}
