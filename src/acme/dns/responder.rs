//! The relay's own DNS server, for `_acme-challenge` names that are delegated to it.
//!
//! It is the smallest server that a validation needs: see [`zone`] for what it answers. The
//! operator adds `_acme-challenge.example.org. NS this-machine.example.org.` once.

use std::{
    collections::HashMap,
    fmt, io,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Semaphore, time::sleep};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use super::{
    DnsError, server,
    zone::{self, Transport, Zone},
};

/// How often the machine's addresses are looked at, when all of them are listened on.
const LOOK: Duration = Duration::from_secs(30);

/// Puts values into the server's answers and takes them out again.
#[derive(Clone, Debug, Default)]
pub(crate) struct ResponderHandle {
    zone: Arc<Mutex<Zone>>,
}

/// The server, bound; it answers while [`Responder::run`] is polled.
#[derive(Debug)]
pub(crate) struct Responder {
    listen: SocketAddr,
    handle: ResponderHandle,
    sockets: Vec<Sockets>,
}

/// What listens on one address; no runtime is needed yet.
#[derive(Debug)]
struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

/// Why the responder cannot listen.
#[derive(Debug)]
pub(crate) enum ResponderError {
    /// A name that it would answer for is none.
    Name(DnsError),
    /// The address cannot be had.
    Bind { address: SocketAddr, source: io::Error },
    /// The machine does not tell its addresses.
    Addresses(io::Error),
}

impl ResponderHandle {
    /// Answers with `value`, among others, when asked for the TXT records of `fqdn`.
    pub(crate) fn present(&self, fqdn: &str, value: &str) -> Result<(), DnsError> {
        let name = zone::parse(fqdn)?;
        self.zone().add(&name, value)
    }

    /// Does so no longer.
    pub(crate) fn cleanup(&self, fqdn: &str, value: &str) -> Result<(), DnsError> {
        let name = zone::parse(fqdn)?;
        self.zone().remove(&name, value);
        Ok(())
    }

    /// The answer to the bytes of a query; `None`: better none at all.
    pub(super) fn answer(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        self.zone().answer(query, transport)
    }

    /// The zone is whole between any two of its methods, also if one of them panicked.
    fn zone(&self) -> MutexGuard<'_, Zone> {
        self.zone.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Responder {
    /// Binds `listen`, UDP and TCP. `names` are answered for from the start, and every name that is presented.
    ///
    /// An unspecified address means each address of the machine, bound on its own: answers then leave from
    /// the address that was asked, and a resolver of the machine's own on 127.0.0.53:53 is not in the way.
    pub(crate) fn bind<'a>(
        listen: SocketAddr,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<(Self, ResponderHandle), ResponderError> {
        let (mut responder, handle) = Self::unbound(listen, names)?;
        responder.have_sockets()?;
        Ok((responder, handle))
    }

    /// The same, for when another still has the address.
    pub(crate) fn unbound<'a>(
        listen: SocketAddr,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<(Self, ResponderHandle), ResponderError> {
        let handle = ResponderHandle::default();
        for name in names {
            let name = zone::parse(name).map_err(ResponderError::Name)?;
            handle.zone().add_name(&name).map_err(ResponderError::Name)?;
        }
        let responder = Self { listen, handle: handle.clone(), sockets: Vec::new() };
        Ok((responder, handle))
    }

    /// Binds what is not bound yet.
    pub(crate) fn have_sockets(&mut self) -> Result<(), ResponderError> {
        if self.sockets.is_empty() {
            let listen = self.listen;
            self.sockets = if listen.ip().is_unspecified() {
                bind_all(listen)?
            } else {
                let bound = Sockets::bind(listen);
                vec![bound.map_err(|source| ResponderError::Bind { address: listen, source })?]
            };
        }
        Ok(())
    }

    /// Where it listens.
    #[cfg(test)]
    pub(super) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.sockets.iter().filter_map(|sockets| sockets.udp.local_addr().ok())
    }

    /// Answers for as long as it is polled. It returns only where a socket of a given address is broken.
    pub(crate) async fn run(self) -> io::Result<()> {
        let Self { listen, handle, sockets } = self;
        let permits = Arc::new(Semaphore::new(server::CONNECTIONS));
        if !listen.ip().is_unspecified() {
            for sockets in sockets {
                sockets.serve(&handle, &permits).await?;
            }
            return Ok(());
        }
        let mut serving: HashMap<IpAddr, AbortOnDropHandle<io::Result<()>>> = HashMap::new();
        let mut new = sockets;
        loop {
            for sockets in new.drain(..) {
                let Ok(address) = sockets.udp.local_addr() else {
                    continue;
                };
                let (handle, permits) = (handle.clone(), Arc::clone(&permits));
                let task = tokio::spawn(async move { sockets.serve(&handle, &permits).await });
                serving.insert(address.ip(), AbortOnDropHandle::new(task));
            }
            sleep(LOOK).await;
            // Addresses come late at boot, and go; sockets that broke are bound anew.
            serving.retain(|_, task| !task.is_finished());
            match addresses(listen) {
                Ok(now) => {
                    serving.retain(|address, _| now.contains(address));
                    for ip in now.into_iter().filter(|ip| !serving.contains_key(ip)) {
                        // Told once, at the start: another program has the port there.
                        new.extend(Sockets::bind(SocketAddr::new(ip, listen.port())));
                    }
                }
                Err(error) => warn!(%error, "the machine does not tell its addresses"),
            }
        }
    }
}

/// Every address that can be had. Other programs may have the port on some of them: a resolver for a bridge
/// of virtual machines is common. Where it can be had on none, that is an error.
fn bind_all(listen: SocketAddr) -> Result<Vec<Sockets>, ResponderError> {
    let mut bound = Vec::new();
    let mut reachable = 0;
    let mut refused = None;
    for ip in addresses(listen).map_err(ResponderError::Addresses)? {
        let address = SocketAddr::new(ip, listen.port());
        match Sockets::bind(address) {
            Ok(sockets) => {
                bound.push(sockets);
                reachable += usize::from(!ip.is_loopback());
            }
            Err(error) if ip.is_loopback() => debug!(%address, %error, "no DNS answers on loopback"),
            Err(source) => {
                warn!(%address, error = %source, "no DNS answers on this address");
                refused.get_or_insert(ResponderError::Bind { address, source });
            }
        }
    }
    match refused {
        Some(refused) if reachable == 0 => Err(refused),
        Some(_) | None => Ok(bound),
    }
}

/// The machine's addresses of the families that `listen` means: `::` is IPv4 too.
fn addresses(listen: SocketAddr) -> io::Result<Vec<IpAddr>> {
    let all = if_addrs::get_if_addrs()?;
    let wanted = all.into_iter().filter(|interface| {
        // A link-local address is none without its interface, and nothing is delegated to one.
        !interface.is_link_local() && (listen.is_ipv6() || interface.ip().is_ipv4())
    });
    Ok(wanted.map(|interface| interface.ip()).collect())
}

impl Sockets {
    fn bind(address: SocketAddr) -> io::Result<Self> {
        let tcp = TcpListener::bind(address)?;
        // Port 0 is one port for both.
        let udp = UdpSocket::bind(tcp.local_addr()?)?;
        tcp.set_nonblocking(true)?;
        udp.set_nonblocking(true)?;
        Ok(Self { udp, tcp })
    }

    async fn serve(self, handle: &ResponderHandle, permits: &Arc<Semaphore>) -> io::Result<()> {
        if let Ok(address) = self.udp.local_addr() {
            info!(%address, "answers DNS challenges");
        }
        let udp = tokio::net::UdpSocket::from_std(self.udp)?;
        let tcp = tokio::net::TcpListener::from_std(self.tcp)?;
        tokio::select! {
            broken = server::datagrams(&udp, handle) => broken,
            broken = server::connections(&tcp, handle, permits) => broken,
        }
    }
}

impl fmt::Display for ResponderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(error) => error.fmt(f),
            Self::Bind { address, source } => {
                write!(f, "[tls.acme.dns] listen: {address} cannot be bound: {source}")?;
                if source.kind() == io::ErrorKind::PermissionDenied {
                    f.write_str("; ports below 1024 need CAP_NET_BIND_SERVICE, as in the unit")?;
                }
                if source.kind() == io::ErrorKind::AddrInUse {
                    f.write_str(
                        "; another program has the port: give an address of the machine that it leaves free",
                    )?;
                }
                Ok(())
            }
            Self::Addresses(error) => write!(f, "the machine does not tell its addresses: {error}"),
        }
    }
}

impl std::error::Error for ResponderError {}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::{
        op::{Message, Query, ResponseCode},
        rr::RecordType,
    };
    use std::net::Ipv4Addr;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpStream, UdpSocket},
        process::Command,
        time::timeout,
    };

    const NAME: &str = "_acme-challenge.example.org";
    const SOON: Duration = Duration::from_secs(10);

    /// A responder that runs until the returned task is dropped.
    fn start() -> (SocketAddr, ResponderHandle, AbortOnDropHandle<io::Result<()>>) {
        let listen = (Ipv4Addr::LOCALHOST, 0).into();
        let (responder, handle) = Responder::bind(listen, [NAME]).unwrap();
        let address = responder.addresses().next().unwrap();
        (address, handle, AbortOnDropHandle::new(tokio::spawn(responder.run())))
    }

    fn query(name: &str) -> Vec<u8> {
        let mut query = Message::query();
        query.add_query(Query::query(zone::parse(name).unwrap(), RecordType::TXT));
        query.to_vec().unwrap()
    }

    async fn ask_by_datagram(address: SocketAddr, query: &[u8]) -> Message {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket.send_to(query, address).await.unwrap();
        let mut buffer = [0; 2048];
        let (length, from) = timeout(SOON, socket.recv_from(&mut buffer)).await.unwrap().unwrap();
        assert_eq!(from, address);
        Message::from_vec(&buffer[..length]).unwrap()
    }

    async fn ask_by_stream(stream: &mut TcpStream, query: &[u8]) -> Message {
        let length = u16::try_from(query.len()).unwrap().to_be_bytes();
        stream.write_all(&[&length, query].concat()).await.unwrap();
        let length = stream.read_u16().await.unwrap();
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await.unwrap();
        Message::from_vec(&answer).unwrap()
    }

    #[tokio::test]
    async fn what_is_presented_is_answered_over_both_transports_until_it_is_cleaned_up() {
        let (address, handle, _running) = start();
        let mut stream = TcpStream::connect(address).await.unwrap();
        for values in [0, 1, 2] {
            if values > 0 {
                handle.present(NAME, &format!("value-{values}")).unwrap();
            }
            for answer in
                [ask_by_datagram(address, &query(NAME)).await, ask_by_stream(&mut stream, &query(NAME)).await]
            {
                assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
                assert_eq!(answer.answers.len(), values);
            }
        }
        handle.cleanup(NAME, "value-1").unwrap();
        assert_eq!(ask_by_datagram(address, &query(NAME)).await.answers.len(), 1);
        let other = ask_by_datagram(address, &query("example.org")).await;
        assert_eq!(other.metadata.response_code, ResponseCode::Refused);
    }

    #[tokio::test]
    async fn junk_and_answers_do_not_stop_it() {
        let (address, handle, _running) = start();
        handle.present(NAME, "value").unwrap();
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut answer = query(NAME);
        answer[2] |= 0x80;
        for junk in [&b""[..], b"x", &[0xff; 2000], &[0; 60000], &answer] {
            socket.send_to(junk, address).await.unwrap();
        }
        assert_eq!(ask_by_datagram(address, &query(NAME)).await.answers.len(), 1);
        for junk in [&[0xff, 0xff, 1][..], &[0, 0], &[0, 3, 1, 2, 3]] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(junk).await.unwrap();
            let mut rest = Vec::new();
            let closed = timeout(SOON, stream.read_to_end(&mut rest)).await.unwrap();
            assert!(closed.is_err() || rest.is_empty(), "{junk:?}");
        }
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert_eq!(ask_by_stream(&mut stream, &query(NAME)).await.answers.len(), 1);
    }

    #[tokio::test]
    async fn silent_connections_are_bounded_in_number_and_time() {
        let (address, handle, _running) = start();
        handle.present(NAME, "value").unwrap();
        let mut silent = Vec::new();
        for _ in 0..server::CONNECTIONS {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // Answered: it has its place.
            ask_by_stream(&mut stream, &query(NAME)).await;
            silent.push(stream);
        }
        let mut late = TcpStream::connect(address).await.unwrap();
        let read = timeout(Duration::from_secs(2), late.read(&mut [0])).await.unwrap();
        assert!(matches!(read, Ok(0) | Err(_)), "one too many is closed at once");
        let read = timeout(SOON, silent[0].read(&mut [0])).await.unwrap();
        assert!(matches!(read, Ok(0) | Err(_)), "silence ends it");
        assert_eq!(ask_by_datagram(address, &query(NAME)).await.answers.len(), 1);
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_told_with_its_address() {
        let (address, _handle, _running) = start();
        let refused = Responder::bind(address, []).unwrap_err().to_string();
        assert!(refused.contains(&address.to_string()) && refused.contains("another program"), "{refused}");
    }

    #[tokio::test]
    async fn an_unspecified_address_is_each_address_of_the_machine() {
        let (responder, handle) = Responder::bind("[::]:0".parse().unwrap(), []).unwrap();
        let bound: Vec<_> = responder.addresses().collect();
        assert!(bound.iter().all(|address| !address.ip().is_unspecified()));
        let loopback = *bound.iter().find(|address| address.ip() == Ipv4Addr::LOCALHOST).unwrap();
        let _running = AbortOnDropHandle::new(tokio::spawn(responder.run()));
        handle.present(NAME, "value").unwrap();
        assert_eq!(ask_by_datagram(loopback, &query(NAME)).await.answers.len(), 1);
    }

    #[tokio::test]
    async fn dropping_the_task_frees_the_port() {
        let (address, _handle, running) = start();
        drop(running);
        let freed = async {
            while Responder::bind(address, []).is_err() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(SOON, freed).await.unwrap();
    }

    #[tokio::test]
    async fn dig_takes_its_answers() {
        let mut found = false;
        for directory in std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()) {
            found |= directory.join("dig").is_file();
        }
        if !found {
            eprintln!("skipped: there is no dig here");
            return;
        }
        let (address, handle, _running) = start();
        handle.present(NAME, "value-one").unwrap();
        handle.present(NAME, "value-two").unwrap();
        let port = address.port().to_string();
        let dig = async |arguments: &[&str]| {
            let mut command = Command::new("dig");
            command.args(["@127.0.0.1", "-p", &port, "+tries=1", "+time=5", "+norecurse"]);
            let output = command.args(arguments).output().await.unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            assert!(!text.contains("WARNING") && !text.contains("malformed"), "{text}");
            text
        };
        for transport in ["+notcp", "+tcp"] {
            for edns in ["+edns=0", "+noedns"] {
                let text = dig(&[transport, edns, "TXT", "_ACME-challenge.example.ORG"]).await;
                assert!(text.contains("status: NOERROR") && text.contains("flags: qr aa;"), "{text}");
                assert!(text.contains("\"value-one\"") && text.contains("\"value-two\""), "{text}");
                let text = dig(&[transport, edns, "A", NAME]).await;
                assert!(text.contains("status: NOERROR") && text.contains("SOA"), "{text}");
                assert!(text.contains("ANSWER: 0"), "{text}");
                let text = dig(&[transport, edns, "TXT", "example.org"]).await;
                assert!(text.contains("status: REFUSED"), "{text}");
            }
        }
    }
}
