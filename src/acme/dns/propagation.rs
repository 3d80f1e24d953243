//! Waiting for a record that somebody else's servers are to have.
//!
//! A CA asks the name's own servers, and any one of them. So all of them are looked at, past the machine's
//! resolver: that one would remember for an hour that there was nothing. It only tells where they are.

use std::{net::SocketAddr, time::Duration};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Name, RData, Record, RecordType},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until, timeout_at},
};
use tracing::debug;

use super::{
    DnsError,
    lookup::{self, Recursion, Resolvers},
    zone,
};

/// The pause between two looks, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Referrals and aliases that are followed.
const STEPS: usize = 8;
/// Servers of one zone that are asked.
const SERVERS: usize = 16;

/// Whether the text of a TXT record is what is looked for.
type Wanted<'a> = &'a (dyn Fn(&[u8]) -> bool + Sync);

/// What the name's servers say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum View {
    /// All that answer have the record.
    Visible,
    /// One that answers has it not.
    Missing,
    /// None answers.
    Silence,
}

/// Waits until every name server of `fqdn` that answers has `value` among its TXT records, for `limit`.
///
/// [`DnsError::NoAnswer`]: nobody answered in all that time, so that nothing is known.
pub(crate) async fn wait_until_visible(
    fqdn: &str,
    value: &str,
    limit: Duration,
    resolvers: &Resolvers,
) -> Result<(), DnsError> {
    let name = zone::parse(fqdn)?;
    let wanted = |text: &[u8]| text == value.as_bytes();
    let deadline = Instant::now() + limit;
    let mut pause = FIRST_PAUSE;
    let mut last = View::Silence;
    loop {
        // A look that the deadline cuts off says no more than the one before.
        let Ok(view) = timeout_at(deadline, look(&name, &wanted, resolvers)).await else {
            break;
        };
        match view? {
            View::Visible => return Ok(()),
            View::Missing => last = View::Missing,
            View::Silence => {}
        }
        debug!(fqdn, ?last, "the TXT record is not visible yet");
        let next = Instant::now() + pause;
        if next >= deadline {
            break;
        }
        sleep_until(next).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    Err(not_seen(last, fqdn, limit))
}

/// Looks once whether every name server of `fqdn` that answers within `limit` has a TXT record that is `wanted`.
pub(crate) async fn look_once(
    fqdn: &str,
    wanted: Wanted<'_>,
    limit: Duration,
    resolvers: &Resolvers,
) -> Result<(), DnsError> {
    let name = zone::parse(fqdn)?;
    match timeout_at(Instant::now() + limit, look(&name, wanted, resolvers)).await {
        Ok(Ok(View::Visible)) => Ok(()),
        Ok(Ok(view @ (View::Missing | View::Silence))) => Err(not_seen(view, fqdn, limit)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(not_seen(View::Silence, fqdn, limit)),
    }
}

fn not_seen(view: View, fqdn: &str, limit: Duration) -> DnsError {
    let name = fqdn.to_owned();
    match view {
        View::Silence => DnsError::NoAnswer { name, limit },
        View::Visible | View::Missing => DnsError::NotVisible { name, limit },
    }
}

/// Asks once, following aliases and delegations from the zone above `name`.
async fn look(name: &Name, wanted: Wanted<'_>, resolvers: &Resolvers) -> Result<View, DnsError> {
    let mut name = name.clone();
    // Beginning above: asked for the name itself, the resolver would remember that it is not there.
    let mut servers = servers_above(&name, resolvers).await?;
    for _ in 0..STEPS {
        let answers = ask_all(&servers, &name).await;
        if answers.is_empty() {
            break;
        }
        if let Some(target) = answers.iter().find_map(|answer| alias(answer, &name)) {
            servers = servers_above(&target, resolvers).await?;
            name = target;
        } else if let Some(delegates) = answers.iter().find_map(referral) {
            servers = addresses_of(&delegates, resolvers).await?;
        } else if answers.iter().all(|answer| has(answer, wanted)) {
            return Ok(View::Visible);
        } else {
            return Ok(View::Missing);
        }
    }
    // Where only the resolver is to be reached, as on many filtered networks, its word has to do.
    Ok(match resolvers.ask(&name, RecordType::TXT).await? {
        Some(answer) if has(&answer, wanted) => View::Visible,
        Some(answer) if is_told(&answer) => View::Missing,
        Some(_) | None => View::Silence,
    })
}

/// The servers of the zone that `name` is in, not counting one that begins at `name` itself.
async fn servers_above(name: &Name, resolvers: &Resolvers) -> Result<Vec<SocketAddr>, DnsError> {
    let mut zone = name.base_name();
    while !zone.is_root() {
        let Some(answer) = resolvers.ask(&zone, RecordType::NS).await? else {
            break;
        };
        let servers = name_servers(&answer.answers);
        if !servers.is_empty() {
            return addresses_of(&servers, resolvers).await;
        }
        zone = zone.base_name();
    }
    Ok(Vec::new())
}

async fn addresses_of(servers: &[Name], resolvers: &Resolvers) -> Result<Vec<SocketAddr>, DnsError> {
    let mut addresses = Vec::new();
    for server in servers {
        for kind in [RecordType::A, RecordType::AAAA] {
            let answer = resolvers.ask(server, kind).await?;
            let found = answer.iter().flat_map(lookup::addresses);
            addresses.extend(found.map(|ip| SocketAddr::new(ip, resolvers.port())));
        }
        if addresses.len() >= SERVERS {
            break;
        }
    }
    Ok(addresses)
}

/// What the servers that answer say of the TXT records at `name`; those that are silent or lame are left out.
async fn ask_all(servers: &[SocketAddr], name: &Name) -> Vec<Message> {
    let mut asked = JoinSet::new();
    for server in servers.iter().copied() {
        let name = name.clone();
        asked.spawn(async move { lookup::ask(server, &name, RecordType::TXT, Recursion::Not).await });
    }
    let mut answers = Vec::new();
    while let Some(asked) = asked.join_next().await {
        answers.extend(asked.ok().and_then(Result::ok).filter(is_told));
    }
    answers
}

/// Whether the server knows: there are records, or there is nothing.
fn is_told(answer: &Message) -> bool {
    matches!(answer.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain)
}

fn name_servers(records: &[Record]) -> Vec<Name> {
    let mut servers = Vec::new();
    for record in records {
        if let RData::NS(server) = &record.data {
            servers.push(server.0.clone());
        }
    }
    servers
}

/// The name that stands for `name`, where the answer has no more than that.
fn alias(answer: &Message, name: &Name) -> Option<Name> {
    let has_text = answer.answers.iter().any(|record| matches!(record.data, RData::TXT(_)));
    if has_text {
        return None;
    }
    answer.answers.iter().find_map(|record| {
        if let RData::CNAME(target) = &record.data
            && record.name == *name
        {
            Some(target.0.clone())
        } else {
            None
        }
    })
}

/// The servers that another one points to: no answer of its own, and no SOA to say that there is none.
fn referral(answer: &Message) -> Option<Vec<Name>> {
    if answer.metadata.authoritative || !answer.answers.is_empty() {
        return None;
    }
    Some(name_servers(&answer.authorities)).filter(|servers| !servers.is_empty())
}

/// Whether what is `wanted` is among the TXT records, each a whole of its strings.
fn has(answer: &Message, wanted: Wanted<'_>) -> bool {
    answer
        .answers
        .iter()
        .any(|record| matches!(&record.data, RData::TXT(text) if wanted(&text.txt_data.concat())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::dns::{Responder, ResponderHandle};
    use hickory_proto::{
        op::Query,
        rr::rdata::{A, CNAME, NS},
    };
    use std::{
        net::{IpAddr, Ipv4Addr},
        sync::{Arc, Mutex},
    };
    use tokio::net::UdpSocket;
    use tokio_util::task::AbortOnDropHandle;

    const NAME: &str = "_acme-challenge.example.org";
    const VALUE: &str = "the-value";
    const LONG: Duration = Duration::from_secs(20);
    const SHORT: Duration = Duration::from_millis(1500);

    type Running = AbortOnDropHandle<()>;
    type Questions = Arc<Mutex<Vec<String>>>;

    /// A server at `address` that adds to each answer what `answer` says, and the questions that it gets.
    async fn serve(
        address: SocketAddr,
        answer: impl Fn(&Query, &mut Message) + Send + 'static,
    ) -> (SocketAddr, Questions, Running) {
        let socket = UdpSocket::bind(address).await.unwrap();
        let address = socket.local_addr().unwrap();
        let questions = Questions::default();
        let asked = Arc::clone(&questions);
        let task = tokio::spawn(async move {
            let mut buffer = [0; 1500];
            loop {
                let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
                let query = Message::from_vec(&buffer[..length]).unwrap();
                let question = &query.queries[0];
                asked.lock().unwrap().push(format!("{} {}", question.name(), question.query_type()));
                let mut message = Message::response(query.metadata.id, query.metadata.op_code);
                message.queries.clone_from(&query.queries);
                answer(question, &mut message);
                socket.send_to(&message.to_vec().unwrap(), peer).await.unwrap();
            }
        });
        (address, questions, AbortOnDropHandle::new(task))
    }

    fn name(text: &str) -> Name {
        zone::parse(text).unwrap()
    }

    fn record(at: &str, data: RData) -> Record {
        Record::from_rdata(name(at), 60, data)
    }

    /// A resolver that knows the servers of example.org and of acme.example.net.
    async fn resolver() -> (SocketAddr, Questions, Running) {
        serve((Ipv4Addr::LOCALHOST, 0).into(), |question, message| {
            let asked = (question.name().to_ascii(), question.query_type());
            match (asked.0.as_str(), asked.1) {
                ("example.org.", RecordType::NS) => {
                    for server in ["ns2.example", "ns3.example"] {
                        message.add_answer(record("example.org", RData::NS(NS(name(server)))));
                    }
                }
                ("acme.example.net.", RecordType::NS) => {
                    let server = RData::NS(NS(name("ns4.example")));
                    message.add_answer(record("acme.example.net", server));
                }
                (server, RecordType::A) if server.ends_with(".example.") => {
                    let last = server.as_bytes()[2] - b'0';
                    message.add_answer(record(server, RData::A(A(Ipv4Addr::new(127, 0, 0, last)))));
                }
                _ => {}
            }
        })
        .await
    }

    /// A real authoritative server of ours at 127.0.0.`last`.
    fn authority(
        last: u8,
        port: u16,
        at: &str,
    ) -> (u16, ResponderHandle, AbortOnDropHandle<std::io::Result<()>>) {
        let address = (Ipv4Addr::new(127, 0, 0, last), port).into();
        let (responder, handle) = Responder::bind(address, [at]).unwrap();
        let port = responder.addresses().next().unwrap().port();
        (port, handle, AbortOnDropHandle::new(tokio::spawn(responder.run())))
    }

    #[tokio::test]
    async fn every_server_of_the_name_must_have_it_and_the_resolver_is_not_asked_for_it() {
        let (resolver, questions, _resolving) = resolver().await;
        let (port, two, _two) = authority(2, resolver.port(), NAME);
        let (_, three, _three) = authority(3, port, NAME);
        let resolvers = Resolvers::on_this_machine(port);
        two.present(NAME, VALUE).unwrap();
        three.present(NAME, "another").unwrap();
        let early = wait_until_visible(NAME, VALUE, SHORT, &resolvers).await;
        assert!(matches!(early, Err(DnsError::NotVisible { .. })), "{early:?}");
        let late = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(500)).await;
            three.present(NAME, VALUE).unwrap();
        });
        wait_until_visible(NAME, VALUE, LONG, &resolvers).await.unwrap();
        late.await.unwrap();
        let questions = questions.lock().unwrap();
        assert!(questions.iter().all(|question| !question.starts_with("_acme")), "{questions:?}");
    }

    #[tokio::test]
    async fn a_server_that_is_down_is_not_waited_for() {
        let (resolver, _, _resolving) = resolver().await;
        let (port, two, _two) = authority(2, resolver.port(), NAME);
        two.present(NAME, VALUE).unwrap();
        let resolvers = Resolvers::on_this_machine(port);
        wait_until_visible(NAME, VALUE, LONG, &resolvers).await.unwrap();
    }

    #[tokio::test]
    async fn a_delegation_is_followed() {
        let (resolver, _, _resolving) = resolver().await;
        let (port, four, _four) = authority(4, resolver.port(), NAME);
        let refer = |_: &Query, message: &mut Message| {
            message.add_authority(record(NAME, RData::NS(NS(name("ns4.example")))));
        };
        let parent = (IpAddr::from([127, 0, 0, 2]), port).into();
        let (_, _, _parent) = serve(parent, refer).await;
        four.present(NAME, VALUE).unwrap();
        let resolvers = Resolvers::on_this_machine(port);
        wait_until_visible(NAME, VALUE, LONG, &resolvers).await.unwrap();
    }

    #[tokio::test]
    async fn an_alias_is_followed_into_its_own_zone() {
        let (resolver, _, _resolving) = resolver().await;
        let target = "abc.acme.example.net";
        let (port, four, _four) = authority(4, resolver.port(), target);
        let refer = move |_: &Query, message: &mut Message| {
            message.metadata.authoritative = true;
            message.add_answer(record(NAME, RData::CNAME(CNAME(name(target)))));
        };
        let parent = (IpAddr::from([127, 0, 0, 3]), port).into();
        let (_, _, _parent) = serve(parent, refer).await;
        four.present(target, VALUE).unwrap();
        let resolvers = Resolvers::on_this_machine(port);
        wait_until_visible(NAME, VALUE, LONG, &resolvers).await.unwrap();
    }

    #[tokio::test]
    async fn where_only_the_resolver_is_reached_its_word_counts() {
        // Our own server as the resolver: it refuses to tell any name servers.
        let (port, resolver, _resolving) = authority(1, 0, NAME);
        let resolvers = Resolvers::on_this_machine(port);
        let early = wait_until_visible(NAME, VALUE, SHORT, &resolvers).await;
        assert!(matches!(early, Err(DnsError::NotVisible { .. })), "{early:?}");
        resolver.present(NAME, VALUE).unwrap();
        wait_until_visible(NAME, VALUE, LONG, &resolvers).await.unwrap();
    }

    #[tokio::test]
    async fn silence_is_told_apart_from_a_missing_record() {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        // One that says nothing, and a port where nobody is.
        for port in [silent.local_addr().unwrap().port(), 1] {
            let resolvers = Resolvers::on_this_machine(port);
            let error = wait_until_visible(NAME, VALUE, SHORT, &resolvers).await.unwrap_err();
            assert!(matches!(error, DnsError::NoAnswer { .. }), "{error}");
        }
        let error = wait_until_visible("a..b", VALUE, SHORT, &Resolvers::on_this_machine(1)).await;
        assert!(matches!(error, Err(DnsError::Name { .. })));
    }

    #[test]
    fn a_text_in_several_strings_is_one_value() {
        let mut answer = Message::response(1, hickory_proto::op::OpCode::Query);
        let text = hickory_proto::rr::rdata::TXT::new(vec!["the-".to_owned(), "value".to_owned()]);
        answer.add_answer(record(NAME, RData::TXT(text)));
        assert!(has(&answer, &|text| text == VALUE.as_bytes()) && !has(&answer, &|text| text == b"the-"));
    }
}
