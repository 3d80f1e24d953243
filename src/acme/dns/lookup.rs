//! A small stub client: one question to one server, over UDP and, where that is not enough, over TCP.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, MessageType, Query},
    rr::{Name, RData, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::DnsError;

/// How long one server may take; the question is asked again anyway.
const ANSWER: Duration = Duration::from_secs(3);
/// As in our own answers: no fragments.
const DATAGRAM: u16 = 1232;
/// The servers that a C library reads from its file, and no more.
const SERVERS: usize = 3;
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where DNS is spoken.
const PORT: u16 = 53;

/// Which resolvers are asked, and on which port they and the servers that they name are.
#[derive(Clone, Debug)]
pub(crate) struct Resolvers {
    /// Read anew each time: networks change while we run.
    file: PathBuf,
    port: u16,
}

/// Whether the server is to find the answer elsewhere.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Recursion {
    Desired,
    Not,
}

impl Resolvers {
    /// The machine's own.
    pub(crate) fn of_machine() -> Self {
        Self { file: RESOLV_CONF.into(), port: PORT }
    }

    /// The one at 127.0.0.1 on this port, where authoritative servers are then, too.
    #[cfg(test)]
    pub(super) fn on_this_machine(port: u16) -> Self {
        Self { file: "/nonexistent/resolv.conf".into(), port }
    }

    /// The port of authoritative servers.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// The resolvers' addresses.
    pub(super) fn addresses(&self) -> Result<Vec<SocketAddr>, DnsError> {
        let servers = match std::fs::read_to_string(&self.file) {
            Ok(text) => name_servers(&text),
            // As resolv.conf(5) has it: no file means the server on this machine.
            Err(error) if error.kind() == io::ErrorKind::NotFound => name_servers(""),
            Err(source) => {
                let file = self.file.clone();
                return Err(DnsError::Resolvers { file, source });
            }
        };
        Ok(servers.into_iter().map(|ip| SocketAddr::new(ip, self.port)).collect())
    }

    /// Those that are asked, if none of them answers; a datagram may get lost, so they are asked twice for `host`.
    pub(crate) async fn silent(&self, host: &str) -> Result<Option<Vec<IpAddr>>, DnsError> {
        let mut name: Name =
            host.parse().map_err(|source| DnsError::Name { name: host.to_owned(), source })?;
        name.set_fqdn(true);
        for _ in 0..2 {
            if self.ask(&name, RecordType::A).await?.is_some() {
                return Ok(None);
            }
        }
        Ok(Some(self.addresses()?.iter().map(SocketAddr::ip).collect()))
    }

    /// The first answer that a resolver gives.
    pub(super) async fn ask(&self, name: &Name, kind: RecordType) -> Result<Option<Message>, DnsError> {
        for resolver in self.addresses()? {
            if let Ok(answer) = ask(resolver, name, kind, Recursion::Desired).await {
                return Ok(Some(answer));
            }
        }
        Ok(None)
    }
}

/// The `nameserver` lines of a resolv.conf(5). Addresses of a link (`fe80::1%eth0`) are left out.
fn name_servers(text: &str) -> Vec<IpAddr> {
    let addresses: Vec<_> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let address = words.next().filter(|word| *word == "nameserver").and(words.next());
            address?.parse().ok()
        })
        .take(SERVERS)
        .collect();
    if addresses.is_empty() {
        return vec![Ipv4Addr::LOCALHOST.into()];
    }
    addresses
}

/// Asks `server` for the records of `kind` at `name`.
pub(super) async fn ask(
    server: SocketAddr,
    name: &Name,
    kind: RecordType,
    recursion: Recursion,
) -> io::Result<Message> {
    // The id is random, and the socket's port is the kernel's choice: an answer must fit both.
    let mut query = Message::query();
    query.metadata.recursion_desired = recursion == Recursion::Desired;
    query.add_query(Query::query(name.clone(), kind));
    let mut edns = Edns::new();
    edns.set_max_payload(DATAGRAM).set_version(0);
    query.set_edns(edns);
    let bytes = query.to_vec().map_err(io::Error::other)?;
    let answer = timeout(ANSWER, by_datagram(server, &query, &bytes)).await??;
    if !answer.metadata.truncation {
        return Ok(answer);
    }
    timeout(ANSWER, by_stream(server, &query, &bytes)).await?
}

async fn by_datagram(server: SocketAddr, query: &Message, bytes: &[u8]) -> io::Result<Message> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    // Connected: the kernel drops what others send, and tells when nobody listens.
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; usize::from(DATAGRAM)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // What does not fit the question is somebody's guess: the real answer may still come.
        if let Some(answer) = read(&buffer[..length], query) {
            return Ok(answer);
        }
    }
}

async fn by_stream(server: SocketAddr, query: &Message, bytes: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    let framed = [&length.to_be_bytes()[..], bytes].concat();
    stream.write_all(&framed).await?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    let mut buffer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut buffer).await?;
    read(&buffer, query).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The answer in `bytes`, if it is one to `query`.
fn read(bytes: &[u8], query: &Message) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let fits = answer.metadata.message_type == MessageType::Response
        && answer.metadata.id == query.metadata.id
        && answer.queries == query.queries;
    fits.then_some(answer)
}

/// The addresses in an answer.
pub(super) fn addresses(answer: &Message) -> impl Iterator<Item = IpAddr> {
    answer.answers.iter().filter_map(|record| {
        if let RData::A(address) = &record.data {
            Some(IpAddr::V4(address.0))
        } else if let RData::AAAA(address) = &record.data {
            Some(IpAddr::V6(address.0))
        } else {
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::dns::{Responder, zone};
    use hickory_proto::op::ResponseCode;
    use tokio_util::task::AbortOnDropHandle;

    const NAME: &str = "_acme-challenge.example.org";

    #[test]
    fn name_servers_are_read_as_the_c_library_does() {
        let text = "# nameserver 9.9.9.9\nsearch lan\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 # two\n\
                    nameserver fe80::1%eth0\nnameserver\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n";
        let found = name_servers(text);
        let expected = ["192.0.2.1", "2001:db8::1", "192.0.2.3"];
        assert_eq!(found, expected.map(|address| address.parse::<IpAddr>().unwrap()));
        assert_eq!(name_servers(""), [Ipv4Addr::LOCALHOST]);
    }

    #[test]
    fn a_machine_without_the_file_asks_itself_and_one_that_hides_it_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let mut resolvers = Resolvers::of_machine();
        resolvers.file = directory.path().join("none");
        assert_eq!(resolvers.addresses().unwrap(), ["127.0.0.1:53".parse().unwrap()]);
        resolvers.file = directory.path().to_owned();
        assert!(matches!(resolvers.addresses(), Err(DnsError::Resolvers { .. })));
    }

    #[tokio::test]
    async fn a_truncated_answer_is_asked_for_again_over_tcp() {
        let (responder, handle) = Responder::bind("127.0.0.1:0".parse().unwrap(), [NAME]).unwrap();
        let address = responder.addresses().next().unwrap();
        let _running = AbortOnDropHandle::new(tokio::spawn(responder.run()));
        for number in 0..8 {
            handle.present(NAME, &format!("{number}{}", "x".repeat(200))).unwrap();
        }
        let name = zone::parse(NAME).unwrap();
        let answer = ask(address, &name, RecordType::TXT, Recursion::Not).await.unwrap();
        assert_eq!(answer.answers.len(), 8);
    }

    #[tokio::test]
    async fn answers_that_do_not_fit_the_question_are_passed_over() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let _running = AbortOnDropHandle::new(tokio::spawn(async move {
            let mut buffer = [0; 512];
            let (length, peer) = server.recv_from(&mut buffer).await.unwrap();
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let mut right = Message::response(query.metadata.id, query.metadata.op_code);
            right.queries = query.queries.clone();
            let mut wrong_id = right.clone();
            wrong_id.metadata.id ^= 1;
            let mut wrong_question = right.clone();
            wrong_question.queries[0].set_query_type(RecordType::A);
            let mut wrong_code = right.clone();
            wrong_code.metadata.response_code = ResponseCode::NXDomain;
            right.metadata.response_code = ResponseCode::Refused;
            server.send_to(b"junk", peer).await.unwrap();
            for answer in [wrong_id, wrong_question, query, right, wrong_code] {
                server.send_to(&answer.to_vec().unwrap(), peer).await.unwrap();
            }
        }));
        let name = zone::parse(NAME).unwrap();
        let answer = ask(address, &name, RecordType::TXT, Recursion::Desired).await.unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    }
}
