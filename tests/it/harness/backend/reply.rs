//! What a backend answers.

use std::time::Duration;

use tokio::sync::mpsc;

/// A response, or what stands in for one.
pub(crate) struct Reply {
    pub(super) status: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) content: Content,
    /// Whether it is sent before the request's body has been read.
    pub(super) early: bool,
    /// How long the request's body waits to be read.
    pub(super) reads_after: Duration,
    /// Whether the connection is closed after it, without a word about it in the head.
    pub(super) close: bool,
}

pub(super) enum Content {
    /// With a Content-Length, unless the headers have one.
    Whole(Vec<u8>),
    /// That many zeros.
    Zeros(u64),
    /// Chunked, as the test feeds it.
    Feed,
    /// Chunked: the request's body as it comes.
    Echo,
    /// These bytes instead of a response; then the connection is closed.
    Raw(Vec<u8>),
    /// `101`, then whatever comes is sent back.
    Tunnel,
    /// Nothing, until the relay closes.
    Silence,
}

/// A response body in a test's hands. Dropping it ends the body.
pub(crate) struct Feed(mpsc::Sender<Piece>);

pub(super) enum Piece {
    Data(Vec<u8>),
    /// Close the connection in the middle of the body.
    Break,
}

impl Reply {
    /// `200` with a body.
    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::with(Content::Whole(body.into()))
    }

    /// A status line after the version, such as `404 NOT FOUND`, with an empty body.
    pub(crate) fn status(status: &str) -> Self {
        Self::ok("").with_status(status)
    }

    /// Another status line, after the version.
    pub(crate) fn with_status(mut self, status: &str) -> Self {
        status.clone_into(&mut self.status);
        self
    }

    /// `200` with `length` zeros.
    pub(crate) fn zeros(length: u64) -> Self {
        Self::with(Content::Zeros(length))
    }

    /// `200` with a chunked body that the test feeds; see [`super::Backend::feed`].
    pub(crate) fn feed() -> Self {
        Self::with(Content::Feed)
    }

    /// A [`Reply::feed`] of server-sent events.
    pub(crate) fn events() -> Self {
        Self::feed().header("Content-Type", "text/event-stream")
    }

    /// `200` with the request's body, sent back chunk by chunk as it comes.
    pub(crate) fn echo() -> Self {
        Self::with(Content::Echo)
    }

    /// Exactly these bytes, then the end of the connection.
    pub(crate) fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self::with(Content::Raw(bytes.into()))
    }

    /// Switches protocols; the new one sends everything back.
    pub(crate) fn tunnel(protocol: &str) -> Self {
        Self::with(Content::Tunnel)
            .with_status("101 Switching Protocols")
            .header("Connection", "Upgrade")
            .header("Upgrade", protocol)
    }

    /// Never answers.
    pub(crate) fn silence() -> Self {
        Self::with(Content::Silence)
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sent as soon as the request's head is there.
    pub(crate) fn early(mut self) -> Self {
        self.early = true;
        self
    }

    /// The request's body is not read for so long.
    pub(crate) fn reads_after(mut self, pause: Duration) -> Self {
        self.reads_after = pause;
        self
    }

    /// The connection is closed after it, although nothing says so; after an early one without reading more.
    pub(crate) fn then_close(mut self) -> Self {
        self.close = true;
        self
    }

    fn with(content: Content) -> Self {
        Self {
            status: "200 OK".to_owned(),
            headers: Vec::new(),
            content,
            early: false,
            reads_after: Duration::ZERO,
            close: false,
        }
    }

    /// The head as it is written, framing included.
    pub(super) fn head(&self) -> String {
        let mut head = format!("HTTP/1.1 {}\r\n", self.status);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let framed = self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        match &self.content {
            Content::Whole(_) | Content::Zeros(_) if framed => {}
            Content::Whole(body) => head.push_str(&format!("Content-Length: {}\r\n", body.len())),
            Content::Zeros(length) => head.push_str(&format!("Content-Length: {length}\r\n")),
            Content::Feed | Content::Echo => head.push_str("Transfer-Encoding: chunked\r\n"),
            Content::Raw(_) | Content::Tunnel | Content::Silence => {}
        }
        head.push_str("\r\n");
        head
    }
}

impl Feed {
    pub(super) fn new() -> (Self, mpsc::Receiver<Piece>) {
        let (sender, receiver) = mpsc::channel(1);
        (Self(sender), receiver)
    }

    pub(crate) async fn send(&self, data: impl Into<Vec<u8>>) {
        let sent = self.0.send(Piece::Data(data.into())).await;
        assert!(sent.is_ok(), "the relay has closed the stream");
    }

    /// False once the relay has closed the connection. What does not go out at once is left out.
    pub(crate) fn try_send(&self, data: impl Into<Vec<u8>>) -> bool {
        !matches!(self.0.try_send(Piece::Data(data.into())), Err(mpsc::error::TrySendError::Closed(_)))
    }

    /// Sends to whoever still listens; false once nobody does.
    pub(crate) async fn offer(&self, data: impl Into<Vec<u8>>) -> bool {
        self.0.send(Piece::Data(data.into())).await.is_ok()
    }

    /// Whether the relay has closed the connection.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Closes the connection in the middle of the body.
    pub(crate) async fn break_off(self) {
        let sent = self.0.send(Piece::Break).await;
        assert!(sent.is_ok(), "the relay has closed the stream");
        self.0.closed().await;
    }

    /// Waits until the relay has closed the connection.
    pub(crate) async fn closed(&self) {
        super::within("the relay to close the stream", self.0.closed()).await;
    }
}
