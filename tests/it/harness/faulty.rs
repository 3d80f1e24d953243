//! A backend that breaks its responses as it is told, and knows which of its connections served again afterwards.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use super::within;

/// What it does instead of a response, step by step. After the last step it goes on to serve the connection.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Send(Vec<u8>),
    /// A byte, then this pause, and so on.
    Drip(Vec<u8>, Duration),
    /// The bytes over and over, until the relay has enough.
    Flood(Vec<u8>),
    /// Ends the connection with a reset.
    Reset,
    /// Ends the connection in order.
    Close,
}

/// A running one. Dropping it closes everything.
pub(crate) struct Faulty {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    faults: Vec<Vec<Step>>,
    greeting: Vec<u8>,
    served: watch::Sender<Vec<Served>>,
    closed: watch::Sender<usize>,
}

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    /// Counted from 1.
    pub(crate) connection: usize,
    pub(crate) target: String,
}

impl Faulty {
    /// Answers `…/fault/N` with the steps at index N, and everything else with the end of its path.
    pub(crate) async fn start(faults: Vec<Vec<Step>>) -> Self {
        Self::greeting(faults, b"").await
    }

    /// The same, and says `greeting` on each connection before it is asked for anything.
    pub(crate) async fn greeting(faults: Vec<Vec<Step>>, greeting: &[u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            faults,
            greeting: greeting.to_owned(),
            served: watch::Sender::default(),
            closed: watch::Sender::default(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, accepting }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// All requests so far.
    pub(crate) fn served(&self) -> Vec<Served> {
        self.shared.served.borrow().clone()
    }

    /// Waits until the relay, or a step, has closed `count` connections that had a request.
    pub(crate) async fn closed(&self, count: usize) {
        let mut closed = self.shared.closed.subscribe();
        within(&format!("{count} closed connections"), closed.wait_for(|closed| *closed >= count))
            .await
            .unwrap();
    }

    /// The requests that came on a connection after one that `wanted` accepts.
    pub(crate) fn served_after(&self, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let served = self.served();
        let later = |(at, one): (usize, &Served)| {
            served[at + 1..]
                .iter()
                .filter(|other| other.connection == one.connection)
                .map(|other| format!("{} after {}", other.target, one.target))
                .collect::<Vec<_>>()
        };
        served.iter().enumerate().filter(|(_, one)| wanted(&one.target)).flat_map(later).collect()
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    let mut count = 0;
    while let Ok((mut stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        let shared = Arc::clone(&shared);
        count += 1;
        connections.spawn(async move {
            // An error: the relay closed, which is what most faults are to come to.
            let asked = serve(&mut stream, count, &shared).await.unwrap_or(true);
            drop(stream);
            if asked {
                shared.closed.send_modify(|closed| *closed += 1);
            }
        });
    }
}

/// Serves a connection to its end, and says whether it was asked for anything.
async fn serve(stream: &mut TcpStream, connection: usize, shared: &Shared) -> std::io::Result<bool> {
    stream.write_all(&shared.greeting).await?;
    let mut buffer = Vec::new();
    let mut asked = false;
    loop {
        let Some(target) = request(stream, &mut buffer).await? else { return Ok(asked) };
        asked = true;
        let number = target.split_once("/fault/").map(|(_, number)| number.parse::<usize>().unwrap());
        shared.served.send_modify(|served| served.push(Served { connection, target: target.clone() }));
        match number {
            Some(number) => {
                if !play(stream, &shared.faults[number]).await? {
                    return Ok(true);
                }
            }
            None => {
                let body = target.rsplit('/').next().unwrap_or_default();
                stream.write_all(response(body).as_bytes()).await?;
            }
        }
    }
}

/// A response that is whole.
pub(crate) fn response(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// False when it has closed the connection.
async fn play(stream: &mut TcpStream, steps: &[Step]) -> std::io::Result<bool> {
    for step in steps {
        match step {
            Step::Send(bytes) => stream.write_all(bytes).await?,
            Step::Drip(bytes, pause) => {
                for byte in bytes {
                    stream.write_all(&[*byte]).await?;
                    tokio::time::sleep(*pause).await;
                }
            }
            Step::Flood(bytes) => loop {
                stream.write_all(bytes).await?;
            },
            Step::Reset => {
                stream.set_zero_linger()?;
                return Ok(false);
            }
            Step::Close => {
                stream.shutdown().await?;
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Reads a request with its body, and gives its target; `None` when the relay has closed.
async fn request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<Option<String>> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|part| part == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    let length: usize =
        super::raw::header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
    while buffer.len() < end + length {
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
    buffer.drain(..end + length);
    Ok(Some(head.split(' ').nth(1).unwrap_or_default().to_owned()))
}
