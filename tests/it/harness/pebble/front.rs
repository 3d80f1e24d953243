//! What stands before Pebble: an HTTPS proxy that records what it sees and misbehaves when it is told to.

mod step;

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    client, server,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

pub(crate) use step::Step;

use crate::harness::{Pki, raw, within};

/// How long a test watches that nothing happens. An order on this machine takes a fraction of it.
const A_WHILE: Duration = Duration::from_millis(1500);

/// A running front. Dropping it closes its listener and all its connections.
pub(crate) struct Front {
    address: SocketAddr,
    shared: Arc<Shared>,
    _accepting: AbortOnDropHandle<()>,
}

/// What is done to a request instead of passing it on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    /// Answered with this status, and `Retry-After` in seconds.
    Refuse { status: u16, retry_after: Option<u32> },
    /// The connection is closed without an answer.
    Cut,
    /// Not answered before [`Front::heal`]; then it is passed on.
    Hold,
    /// Answered with a byte a second, without an end.
    Drip,
}

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) step: Step,
    pub(crate) path: String,
    pub(crate) user_agent: String,
    /// What was signed; null where nothing was.
    pub(crate) payload: serde_json::Value,
    /// Whether Pebble, or a fault, has answered it.
    pub(crate) answered: Option<StatusCode>,
}

struct Shared {
    upstream: SocketAddr,
    upstream_tls: Arc<ClientConfig>,
    seen: watch::Sender<Vec<Seen>>,
    faults: watch::Sender<Faults>,
}

#[derive(Default)]
struct Faults {
    /// The first that fits is taken.
    at: Vec<(Step, Fault)>,
    /// Whether connections are closed before a byte was said on them.
    down: bool,
}

type Body = BoxBody<Bytes, Infallible>;

impl Front {
    pub(super) async fn start(pki: &Pki, upstream: SocketAddr, upstream_tls: Arc<ClientConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(pki.server_config(&["localhost"]));
        let shared = Arc::new(Shared {
            upstream,
            upstream_tls,
            seen: watch::Sender::default(),
            faults: watch::Sender::default(),
        });
        let accepting = tokio::spawn(accept(listener, acceptor, Arc::clone(&shared)));
        Self { address, shared, _accepting: AbortOnDropHandle::new(accepting) }
    }

    /// Named and not numbered, so that whoever connects has to resolve it.
    pub(crate) fn authority(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    pub(crate) fn directory(&self) -> String {
        format!("https://{}/dir", self.authority())
    }

    /// From now on every request for `step` meets `fault`.
    pub(crate) fn fault(&self, step: Step, fault: Fault) {
        self.shared.faults.send_modify(|faults| faults.at.push((step, fault)));
    }

    /// From now on nobody gets through.
    pub(crate) fn down(&self) {
        self.shared.faults.send_modify(|faults| faults.down = true);
    }

    /// From now on everything is passed on again.
    pub(crate) fn heal(&self) {
        self.shared.faults.send_modify(|faults| *faults = Faults::default());
    }

    /// All requests for `step` so far.
    pub(crate) fn seen(&self, step: Step) -> Vec<Seen> {
        let seen = self.shared.seen.borrow();
        seen.iter().filter(|seen| seen.step == step).cloned().collect()
    }

    /// How many requests for `step` there were so far.
    pub(crate) fn count(&self, step: Step) -> usize {
        self.seen(step).len()
    }

    /// How many of them succeeded.
    pub(crate) fn accepted(&self, step: Step) -> usize {
        let accepted = |seen: &&Seen| seen.answered.is_some_and(|status| status.is_success());
        self.seen(step).iter().filter(accepted).count()
    }

    /// Waits until `count` requests for `step` have come.
    pub(crate) async fn wait(&self, step: Step, count: usize) {
        self.wait_for(&format!("{count} requests for {step:?}"), |seen| {
            seen.iter().filter(|seen| seen.step == step).count() >= count
        })
        .await;
    }

    /// Waits until `count` requests for `step` have been answered.
    pub(crate) async fn wait_answered(&self, step: Step, count: usize) {
        self.wait_for(&format!("{count} answers for {step:?}"), |seen| {
            let answered = |seen: &&Seen| seen.step == step && seen.answered.is_some();
            seen.iter().filter(answered).count() >= count
        })
        .await;
    }

    /// Waits a while, and fails if there were more than `count` requests for `step` then.
    pub(crate) async fn no_more_than(&self, step: Step, count: usize) {
        tokio::time::sleep(A_WHILE).await;
        let seen = self.seen(step);
        assert!(seen.len() <= count, "{} instead of {count}: {seen:#?}", seen.len());
    }

    async fn wait_for(&self, what: &str, wanted: impl Fn(&[Seen]) -> bool) {
        let mut seen = self.shared.seen.subscribe();
        let found = within(what, seen.wait_for(|seen| wanted(seen))).await;
        drop(found.unwrap());
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    // Dropped with this task, which ends every connection.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        if shared.faults.borrow().down {
            continue;
        }
        let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
        connections.spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let service = service_fn(|request| handle(request, &shared));
            // An error: the relay is gone, or the connection was to be cut.
            let _ = server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn handle(request: Request<Incoming>, shared: &Shared) -> io::Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let step = Step::of(parts.uri.path());
    let mut number = 0;
    shared.seen.send_modify(|seen| {
        number = seen.len();
        seen.push(Seen {
            step,
            path: parts.uri.path().to_owned(),
            user_agent: parts
                .headers
                .get(header::USER_AGENT)
                .map(|value| value.to_str().unwrap().to_owned())
                .unwrap_or_default(),
            payload: step::payload(&body),
            answered: None,
        });
    });
    let answer = match shared.fault(step) {
        Some(Fault::Cut) => return Err(io::Error::other("cut, as it was to be")),
        Some(Fault::Refuse { status, retry_after }) => refusal(status, retry_after),
        Some(Fault::Drip) => Response::new(Blanks(tokio::time::interval(Duration::from_secs(1))).boxed()),
        Some(Fault::Hold) => {
            let mut faults = shared.faults.subscribe();
            let healed = faults.wait_for(|faults| faults.at.is_empty()).await;
            drop(healed.map_err(io::Error::other)?);
            shared.pass_on(Request::from_parts(parts, body)).await?
        }
        None => shared.pass_on(Request::from_parts(parts, body)).await?,
    };
    shared.seen.send_modify(|seen| seen[number].answered = Some(answer.status()));
    Ok(answer)
}

impl Shared {
    fn fault(&self, step: Step) -> Option<Fault> {
        let faults = self.faults.borrow();
        let found = faults.at.iter().find(|(at, _)| *at == step);
        found.map(|(_, fault)| *fault)
    }

    /// Asks Pebble. The Host goes along: the addresses in Pebble's answers are made of it.
    async fn pass_on(&self, request: Request<Bytes>) -> io::Result<Response<Body>> {
        let name = self.upstream.ip().to_string();
        let stream = raw::handshake(self.upstream, Arc::clone(&self.upstream_tls), &name).await?;
        let (mut sender, connection) =
            client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let response = sender.send_request(request.map(Full::new)).await.map_err(io::Error::other)?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        Ok(Response::from_parts(parts, Full::new(body).boxed()))
    }
}

fn refusal(status: u16, retry_after: Option<u32>) -> Response<Body> {
    let kind = if status == 429 { "rateLimited" } else { "serverInternal" };
    let problem = serde_json::json!({
        "type": format!("urn:ietf:params:acme:error:{kind}"),
        "detail": "the front says no",
        "status": status,
    });
    let mut response =
        Response::builder().status(status).header(header::CONTENT_TYPE, "application/problem+json");
    if let Some(seconds) = retry_after {
        response = response.header(header::RETRY_AFTER, seconds);
    }
    response.body(Full::new(problem.to_string().into()).boxed()).unwrap()
}

/// A body of blanks, one a second.
struct Blanks(tokio::time::Interval);

impl http_body::Body for Blanks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let tick = self.0.poll_tick(context);
        tick.map(|_| Some(Ok(Frame::data(Bytes::from_static(b" ")))))
    }
}
