//! Programs that the relay meets in the field: Flask on Waitress, a SOCKS5 proxy, an HTTP proxy.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use tempfile::TempDir;
use tokio::net::TcpStream;

use super::{Client, process::Process, within};

/// Sova in miniature: Flask on Waitress, see `tests/peers/sova.py`.
pub(crate) struct Flask {
    address: SocketAddr,
    _process: Process,
}

/// A SOCKS5 proxy.
pub(crate) struct Microsocks {
    address: SocketAddr,
    process: Process,
}

/// An HTTP proxy.
pub(crate) struct Tinyproxy {
    address: SocketAddr,
    process: Process,
    _dir: TempDir,
}

/// What a request came to in Werkzeug.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// Decoded, as the routes are matched.
    pub(crate) path: String,
    /// The route; `None` where there is none, or a redirect.
    pub(crate) endpoint: Option<String>,
    /// The file parts that Werkzeug found.
    pub(crate) files: usize,
}

impl Flask {
    /// Starts it with the arguments that `sova.py` knows.
    pub(crate) async fn start(args: &[&str]) -> Self {
        let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers");
        let python = peers.join(".venv/bin/python");
        assert!(
            python.exists(),
            "no Python environment: run tests/run, or `python3 -m venv tests/peers/.venv` and \
             `tests/peers/.venv/bin/pip install -r tests/peers/requirements.txt`"
        );
        let mut command = Command::new(python);
        command.arg("-u").arg(peers.join("sova.py")).args(args);
        let process = Process::spawn(command);
        let line = process.line("port line of sova.py", |line| line.starts_with("port ")).await;
        let port: u16 = line["port ".len()..].parse().unwrap();
        Self { address: SocketAddr::from(([127, 0, 0, 1], port)), _process: process }
    }

    /// Starts it again where another was that is gone.
    pub(crate) async fn start_at(address: SocketAddr, args: &[&str]) -> Self {
        let port = address.port().to_string();
        Self::start(&[&["--port", &port], args].concat()).await
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends an event to every stream, past the relay, and says how many there were.
    pub(crate) async fn publish(&self, event: &str) -> u64 {
        let client = Client::http(self.address);
        let answer = client.call("POST", "/api/v1/events").body(event.to_owned()).send().await;
        answer.json()["streams"].as_u64().unwrap()
    }

    /// What it was asked since the last time, past the relay.
    pub(crate) async fn seen(&self) -> Vec<Seen> {
        let answer = Client::http(self.address).get("/_seen").await;
        serde_json::from_slice(&answer.body).unwrap()
    }
}

impl Microsocks {
    pub(crate) async fn start(credentials: Option<(&str, &str)>) -> Self {
        let address = free_address();
        let mut command = Command::new("microsocks");
        command.args(["-i", "127.0.0.1", "-p", &address.port().to_string()]);
        if let Some((user, password)) = credentials {
            command.args(["-u", user, "-P", password]);
        }
        let process = Process::spawn(command);
        listening(address).await;
        Self { address, process }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it has connected a client to `target`, as the client named it.
    pub(crate) async fn connected_to(&self, target: &str) {
        let wanted = format!("connected to {target}");
        self.process.line(&wanted, |line| line.ends_with(&wanted)).await;
    }
}

impl Tinyproxy {
    pub(crate) async fn start(credentials: Option<(&str, &str)>) -> Self {
        let address = free_address();
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("tinyproxy.conf");
        let credentials =
            credentials.map_or(String::new(), |(user, password)| format!("BasicAuth {user} {password}\n"));
        let config = format!("Listen 127.0.0.1\nPort {}\nLogLevel Info\n{credentials}", address.port());
        fs::write(&path, config).unwrap();
        let mut command = Command::new("tinyproxy");
        command.arg("-d").arg("-c").arg(&path);
        let process = Process::spawn(command);
        listening(address).await;
        Self { address, process, _dir: dir }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for the request whose first line begins with `start`.
    pub(crate) async fn asked(&self, start: &str) {
        let wanted = format!(": {start}");
        self.process.line(&wanted, |line| line.contains("Request") && line.contains(&wanted)).await;
    }
}

/// An address whose handshakes are never answered: a listener whose queue is full.
pub(crate) struct BlackHole {
    address: SocketAddr,
    _listener: socket2::Socket,
    _queue: Vec<TcpStream>,
}

impl BlackHole {
    pub(crate) async fn new() -> Self {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut queue = Vec::new();
        // Linux drops the SYN once the queue is full, and so the connection does not come about.
        while let Ok(stream) =
            tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await
        {
            queue.push(stream.unwrap());
            assert!(queue.len() < 10, "the queue is never full");
        }
        Self { address, _listener: listener, _queue: queue }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// An address that nobody listens on, and nobody is given: below the ports that the system gives away, of which a relay
/// of another test may soon have one.
pub(crate) fn free_address() -> SocketAddr {
    const PORTS: u32 = 12_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        // Another run of the suite begins elsewhere.
        let next = std::process::id().wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(20_000 + next % PORTS).unwrap();
        if let Ok(listener) = std::net::TcpListener::bind(("127.0.0.1", port)) {
            return listener.local_addr().unwrap();
        }
    }
}

/// Waits until something listens there. Neither proxy says when it is ready.
async fn listening(address: SocketAddr) {
    within("a proxy to listen", async {
        while TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}
