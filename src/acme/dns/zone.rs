//! What our DNS server answers: a pure function of the query and of what is being validated.

use std::collections::HashMap;

use hickory_proto::{
    op::{Edns, Message, OpCode, ResponseCode},
    rr::{
        DNSClass, LowerName, Name, RData, Record, RecordType,
        rdata::{SOA, TXT},
    },
};

use super::DnsError;

/// Names that can be ours at once; a certificate holds 100 at most with most CAs.
const NAMES: usize = 256;
/// Values at one name: a wildcard and its base name, for a few CAs. They fit in one datagram.
const VALUES: usize = 8;
/// Seconds that an answer may be kept. A value is asked for once, and a missing one must not be remembered.
const TTL: u32 = 1;
/// The largest datagram that is not fragmented on any path (DNS flag day 2020).
const DATAGRAM: u16 = 1232;
/// What a client takes that does not say (RFC 1035, section 4.2.1).
const PLAIN_DATAGRAM: u16 = 512;
const HEADER: usize = 12;

/// The names that we answer for, each with the values that stand at it now.
#[derive(Debug, Default)]
pub(super) struct Zone {
    names: HashMap<LowerName, Vec<Box<str>>>,
}

/// How a query came; an answer over a stream has room.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Transport {
    Datagram,
    Stream,
}

/// The name that `fqdn` is in the DNS.
pub(super) fn parse(fqdn: &str) -> Result<Name, DnsError> {
    let mut name =
        Name::from_ascii(fqdn).map_err(|source| DnsError::Name { name: fqdn.to_owned(), source })?;
    name.set_fqdn(true);
    Ok(name)
}

impl Zone {
    /// Answers for `name` from now on, though nothing may be there.
    pub(super) fn add_name(&mut self, name: &Name) -> Result<(), DnsError> {
        let name = LowerName::new(name);
        if self.names.len() >= NAMES && !self.names.contains_key(&name) {
            return Err(DnsError::Full);
        }
        self.names.entry(name).or_default();
        Ok(())
    }

    /// Puts `value` at `name`, next to what is there.
    pub(super) fn add(&mut self, name: &Name, value: &str) -> Result<(), DnsError> {
        // One character-string (RFC 1035, section 3.3); ACME's values have 43 characters.
        if value.is_empty() || value.len() > 255 {
            return Err(DnsError::Value);
        }
        self.add_name(name)?;
        let values = self.names.entry(LowerName::new(name)).or_default();
        if values.iter().any(|there| **there == *value) {
            return Ok(());
        }
        if values.len() >= VALUES {
            return Err(DnsError::Full);
        }
        values.push(value.into());
        Ok(())
    }

    /// Takes `value` away from `name`. The name stays ours: caches and CAs may still ask.
    pub(super) fn remove(&mut self, name: &Name, value: &str) {
        if let Some(values) = self.names.get_mut(&LowerName::new(name)) {
            values.retain(|there| **there != *value);
        }
    }

    /// The answer to the bytes of a query; `None`: better none at all.
    pub(super) fn answer(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        // SECURITY: an answer to an answer is how two servers are made to talk for ever. The bit is looked
        // at before anything is parsed.
        if query.len() < HEADER || query[2] & 0x80 != 0 {
            return None;
        }
        let reply = match Message::from_vec(query) {
            Ok(query) => self.reply(&query),
            Err(_) => malformed(query),
        };
        let limit = match transport {
            Transport::Stream => usize::from(u16::MAX),
            Transport::Datagram => usize::from(reply.limit),
        };
        // Names come from a message that was read, and a TXT record is short: encoding does not fail.
        let bytes = reply.message.to_vec().ok()?;
        if bytes.len() <= limit {
            return Some(bytes);
        }
        reply.message.truncate().to_vec().ok()
    }

    fn reply(&self, query: &Message) -> Reply {
        let mut message = Message::response(query.metadata.id, query.metadata.op_code);
        // RFC 1035, section 4.1.1: copied. Recursion is neither available nor done.
        message.metadata.recursion_desired = query.metadata.recursion_desired;
        let mut limit = PLAIN_DATAGRAM;
        if let Some(asked) = &query.edns {
            // RFC 6891, section 6.2.5: values below 512 mean 512.
            // SECURITY: what a forged sender would get is bounded by us too, and no path fragments it.
            limit = asked.max_payload().clamp(PLAIN_DATAGRAM, DATAGRAM);
            let mut edns = Edns::new();
            edns.set_max_payload(DATAGRAM).set_version(0).set_dnssec_ok(asked.flags().dnssec_ok);
            message.set_edns(edns);
        }
        // The question comes back as it was written: resolvers mix letter cases to know forged answers.
        message.queries.clone_from(&query.queries);
        message.metadata.response_code = self.decide(query, &mut message);
        Reply { message, limit }
    }

    /// Adds the records to `message` and gives the code.
    fn decide(&self, query: &Message, message: &mut Message) -> ResponseCode {
        if query.metadata.op_code != OpCode::Query {
            return ResponseCode::NotImp;
        }
        let [question] = &query.queries[..] else {
            message.queries.clear();
            return ResponseCode::FormErr;
        };
        if query.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return ResponseCode::BADVERS;
        }
        let values = match self.names.get(&LowerName::new(question.name())) {
            Some(values) if question.query_class() == DNSClass::IN => values,
            // SECURITY: no recursion and no referral, so that nobody is served or flooded through us.
            Some(_) | None => return ResponseCode::Refused,
        };
        let name = question.name();
        let record = |data| Record::from_rdata(name.clone(), TTL, data);
        let asked = question.query_type();
        // Zone transfers, and the question that exists to get long answers (RFC 8482).
        if [RecordType::AXFR, RecordType::IXFR, RecordType::ANY].contains(&asked) {
            return ResponseCode::Refused;
        }
        if asked == RecordType::SOA {
            message.add_answer(record(soa(name)));
        } else if asked == RecordType::TXT && !values.is_empty() {
            let text = |value: &str| record(RData::TXT(TXT::new(vec![value.to_owned()])));
            message.add_answers(values.iter().map(|value| text(value)));
        } else {
            // The name is there and has no such record (RFC 2308, section 2.2).
            message.add_authority(record(soa(name)));
        }
        message.metadata.authoritative = true;
        ResponseCode::NoError
    }
}

/// An answer, and how long it may be in a datagram.
struct Reply {
    message: Message,
    limit: u16,
}

/// To what cannot be read: the header's fields alone, nothing of what followed.
fn malformed(query: &[u8]) -> Reply {
    let id = u16::from_be_bytes([query[0], query[1]]);
    let op_code = OpCode::from_u8(query[2] >> 3 & 0x0f);
    Reply { message: Message::error_msg(id, op_code, ResponseCode::FormErr), limit: PLAIN_DATAGRAM }
}

/// Every name of ours is a zone of its own: it is what was delegated. Nothing of it is to be remembered.
fn soa(name: &Name) -> RData {
    let ttl = TTL.cast_signed();
    RData::SOA(SOA::new(name.clone(), name.clone(), 1, ttl, ttl, ttl, TTL))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Query;
    use proptest::prelude::*;

    const NAME: &str = "_acme-challenge.example.org";
    const VALUE: &str = "gfj9Xq-Rg85nM_vAbCdEfGhIjKlMnOpQrStUvWxYz01";

    fn name(text: &str) -> Name {
        parse(text).unwrap()
    }

    /// A zone with `values` at [`NAME`].
    fn zone(values: &[&str]) -> Zone {
        let mut zone = Zone::default();
        zone.add_name(&name(NAME)).unwrap();
        for value in values {
            zone.add(&name(NAME), value).unwrap();
        }
        zone
    }

    fn query(text: &str, kind: RecordType) -> Message {
        let mut query = Message::query();
        query.metadata.recursion_desired = true;
        query.add_query(Query::query(name(text), kind));
        query
    }

    fn ask(zone: &Zone, query: &Message) -> Message {
        let bytes = zone.answer(&query.to_vec().unwrap(), Transport::Datagram).unwrap();
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!(answer.metadata.id, query.metadata.id);
        assert_eq!(answer.metadata.message_type, hickory_proto::op::MessageType::Response);
        assert!(!answer.metadata.recursion_available);
        answer
    }

    fn texts(answer: &Message) -> Vec<String> {
        let texts = answer.answers.iter().map(|record| {
            let RData::TXT(text) = &record.data else {
                panic!("{record} is no TXT record");
            };
            String::from_utf8(text.txt_data.concat()).unwrap()
        });
        texts.collect()
    }

    #[test]
    fn a_txt_query_gets_every_value_and_the_authoritative_bit() {
        let other = "a-second-value-for-the-wildcard";
        let answer = ask(&zone(&[VALUE, other, VALUE]), &query(NAME, RecordType::TXT));
        assert_eq!(texts(&answer), [VALUE, other]);
        assert!(answer.metadata.authoritative && answer.metadata.recursion_desired);
        assert!(answer.authorities.is_empty() && answer.additionals.is_empty() && answer.edns.is_none());
    }

    #[test]
    fn a_value_that_was_cleaned_up_is_gone_and_the_name_is_still_ours() {
        let mut zone = zone(&[VALUE, "other"]);
        zone.remove(&name("_ACME-challenge.Example.org"), VALUE);
        zone.remove(&name("never.there.example"), VALUE);
        assert_eq!(texts(&ask(&zone, &query(NAME, RecordType::TXT))), ["other"]);
        zone.remove(&name(NAME), "other");
        let answer = ask(&zone, &query(NAME, RecordType::TXT));
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(answer.answers.is_empty() && answer.metadata.authoritative);
        assert!(matches!(answer.authorities[0].data, RData::SOA(_)));
    }

    #[test]
    fn other_types_of_our_names_have_no_data_and_nothing_to_remember() {
        let zone = zone(&[VALUE]);
        for kind in [RecordType::A, RecordType::NS, RecordType::CAA, RecordType::Unknown(65280)] {
            let answer = ask(&zone, &query(NAME, kind));
            assert_eq!(answer.metadata.response_code, ResponseCode::NoError, "{kind}");
            assert!(answer.answers.is_empty() && answer.metadata.authoritative);
            let RData::SOA(soa) = &answer.authorities[0].data else { panic!("no SOA for {kind}") };
            assert_eq!((soa.minimum, answer.authorities[0].ttl), (TTL, TTL));
        }
        let answer = ask(&zone, &query(NAME, RecordType::SOA));
        assert!(matches!(answer.answers[0].data, RData::SOA(_)));
    }

    #[test]
    fn names_that_are_not_ours_are_refused_without_a_referral() {
        let zone = zone(&[VALUE]);
        let others =
            ["example.org", "_acme-challenge.example.com", "x._acme-challenge.example.org", ".", "org"];
        for other in others {
            let answer = ask(&zone, &query(other, RecordType::TXT));
            assert_eq!(answer.metadata.response_code, ResponseCode::Refused, "{other}");
            assert!(!answer.metadata.authoritative && answer.all_sections().next().is_none());
        }
    }

    #[test]
    fn transfers_other_classes_and_any_are_refused() {
        let zone = zone(&[VALUE]);
        for kind in [RecordType::AXFR, RecordType::IXFR, RecordType::ANY] {
            let answer = ask(&zone, &query(NAME, kind));
            assert_eq!(answer.metadata.response_code, ResponseCode::Refused, "{kind}");
        }
        let mut chaos = query(NAME, RecordType::TXT);
        chaos.queries[0].set_query_class(DNSClass::CH);
        assert_eq!(ask(&zone, &chaos).metadata.response_code, ResponseCode::Refused);
    }

    #[test]
    fn letter_case_does_not_matter_and_comes_back_as_it_was_asked() {
        let mixed = "_aCmE-cHaLLenGe.eXAMPLE.oRg";
        let answer = ask(&zone(&[VALUE]), &query(mixed, RecordType::TXT));
        assert_eq!(texts(&answer), [VALUE]);
        assert!(answer.queries[0].name().eq_case(&name(mixed)));
        assert!(answer.answers[0].name.eq_case(&name(mixed)));
    }

    #[test]
    fn an_answer_that_is_too_long_for_the_datagram_is_truncated_and_whole_over_a_stream() {
        let values: Vec<_> = (0..VALUES).map(|number| format!("{number}{}", "x".repeat(200))).collect();
        let zone = zone(&values.iter().map(String::as_str).collect::<Vec<_>>());
        let mut query = query(NAME, RecordType::TXT);
        for edns in [None, Some(100), Some(512), Some(65535)] {
            query.edns = edns.map(|size| {
                let mut edns = Edns::new();
                edns.set_max_payload(size);
                edns
            });
            let bytes = query.to_vec().unwrap();
            let answer = zone.answer(&bytes, Transport::Datagram).unwrap();
            let limit = if edns == Some(65535) { DATAGRAM } else { PLAIN_DATAGRAM };
            assert!(answer.len() <= usize::from(limit), "{edns:?}");
            let answer = Message::from_vec(&answer).unwrap();
            assert!(answer.metadata.truncation && answer.answers.is_empty(), "{edns:?}");
            let whole = zone.answer(&bytes, Transport::Stream).unwrap();
            let whole = Message::from_vec(&whole).unwrap();
            assert!(!whole.metadata.truncation);
            assert_eq!(texts(&whole), values);
        }
    }

    #[test]
    fn values_of_a_wildcard_and_its_base_fit_in_a_plain_datagram() {
        let longest = format!("_acme-challenge.{}", vec!["a".repeat(49); 4].join("."));
        let mut zone = Zone::default();
        for value in 0..2 {
            zone.add(&name(&longest), &format!("{value}{}", &VALUE[1..])).unwrap();
        }
        assert_eq!(texts(&ask(&zone, &query(&longest, RecordType::TXT))).len(), 2);
    }

    #[test]
    fn edns_is_answered_with_edns_and_an_unknown_version_of_it_refused() {
        let zone = zone(&[VALUE]);
        let mut query = query(NAME, RecordType::TXT);
        let mut edns = Edns::new();
        edns.set_max_payload(4096).set_dnssec_ok(true);
        query.set_edns(edns.clone());
        let answer = ask(&zone, &query);
        let told = answer.edns.as_ref().unwrap();
        assert_eq!((told.version(), told.max_payload()), (0, DATAGRAM));
        assert!(told.flags().dnssec_ok && told.options().as_ref().is_empty());
        edns.set_version(1);
        query.set_edns(edns);
        let answer = ask(&zone, &query);
        assert!(answer.answers.is_empty());
        assert_eq!(answer.edns.unwrap().rcode_high(), 1);
    }

    #[test]
    fn two_questions_or_none_are_malformed_and_other_operations_not_there() {
        let zone = zone(&[VALUE]);
        let mut two = query(NAME, RecordType::TXT);
        two.add_query(Query::query(name("b.example"), RecordType::TXT));
        let mut none = two.clone();
        none.queries.clear();
        for query in [two, none] {
            let answer = ask(&zone, &query);
            assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
            assert!(answer.queries.is_empty() && answer.answers.is_empty());
        }
        let mut notify = query(NAME, RecordType::SOA);
        notify.metadata.op_code = OpCode::Notify;
        assert_eq!(ask(&zone, &notify).metadata.response_code, ResponseCode::NotImp);
    }

    #[test]
    fn answers_and_scraps_are_not_answered_and_damage_is_told_in_twelve_bytes() {
        let zone = zone(&[VALUE]);
        let mut bytes = query(NAME, RecordType::TXT).to_vec().unwrap();
        assert_eq!(zone.answer(&bytes[..HEADER - 1], Transport::Datagram), None);
        let told = zone.answer(&bytes[..bytes.len() - 3], Transport::Datagram).unwrap();
        assert_eq!(told.len(), HEADER);
        assert_eq!((&told[..2], told[3] & 0x0f), (&bytes[..2], 1));
        bytes[2] |= 0x80;
        assert_eq!(zone.answer(&bytes, Transport::Datagram), None);
    }

    #[test]
    fn what_stands_in_the_zone_is_bounded() {
        let mut zone = zone(&[]);
        for value in ["", &"x".repeat(256)] {
            assert!(matches!(zone.add(&name(NAME), value), Err(DnsError::Value)));
        }
        for value in 0..VALUES {
            zone.add(&name(NAME), &value.to_string()).unwrap();
        }
        assert!(matches!(zone.add(&name(NAME), "one more"), Err(DnsError::Full)));
        for number in 1..NAMES {
            zone.add_name(&name(&format!("a{number}.example"))).unwrap();
        }
        assert!(matches!(zone.add(&name("more.example"), VALUE), Err(DnsError::Full)));
        assert!(parse(&"a".repeat(64)).is_err() && parse("a..b").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_answer_long(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let zone = zone(&[VALUE]);
            if let Some(answer) = zone.answer(&bytes, Transport::Datagram) {
                prop_assert!(answer.len() <= usize::from(DATAGRAM));
                prop_assert!(bytes.len() >= HEADER && bytes[2] & 0x80 == 0);
                prop_assert_eq!(&answer[..2], &bytes[..2]);
                prop_assert!(answer[2] & 0x80 != 0);
            }
        }

        #[test]
        fn no_damage_to_a_query_makes_it_panic(
            damage in proptest::collection::vec((0..80usize, any::<u8>()), 1..6),
            cut in 0..80usize,
            with_edns in any::<bool>(),
        ) {
            let zone = zone(&[VALUE]);
            let mut query = query(NAME, RecordType::TXT);
            if with_edns {
                query.set_edns(Edns::new());
            }
            let mut bytes = query.to_vec().unwrap();
            for (index, byte) in damage {
                if let Some(place) = bytes.get_mut(index) {
                    *place = byte;
                }
            }
            let kept = bytes.len().min(cut.max(HEADER));
            let _ = zone.answer(&bytes[..kept], Transport::Stream);
            if let Some(answer) = zone.answer(&bytes, Transport::Datagram) {
                prop_assert!(answer.len() <= usize::from(DATAGRAM));
                prop_assert!(Message::from_vec(&answer).is_ok());
            }
        }
    }
}
