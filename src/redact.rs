//! What may be written of a request into a log: never a query value, never the secret prefix.

use aws_lc_rs::{
    error::Unspecified,
    hmac::{self, HMAC_SHA256, Key},
};

use crate::{config::UriPrefix, head::Target};

/// Masks secrets. A query is shown as a short keyed hash, so that lines can be correlated; the key is made at
/// start and never leaves the process, so that nobody can look a token up by its hash.
pub(crate) struct Redactor {
    prefix: UriPrefix,
    key: Key,
}

impl Redactor {
    /// Fails only where the system has no randomness.
    pub(crate) fn new(prefix: UriPrefix) -> Result<Self, Unspecified> {
        let key = Key::generate(HMAC_SHA256, &aws_lc_rs::rand::SystemRandom::new())?;
        Ok(Self { prefix, key })
    }

    /// The same key with another prefix: what a query is shown as stays the same over reloads.
    pub(crate) fn with_prefix(&self, prefix: UriPrefix) -> Self {
        Self { prefix, key: self.key.clone() }
    }

    /// The path of a request, percent-encoded, with `<prefix>` for the secret prefix and a hash for the query.
    pub(crate) fn target(&self, target: &Target) -> String {
        let mut shown = self.prefix.mask(target.path.encoded());
        if let Some(query) = &target.query {
            shown.push('?');
            shown.push_str(&self.hash(query.as_bytes()));
        }
        shown
    }

    /// Eight hexadecimal digits that stand for `secret` until the process ends.
    fn hash(&self, secret: &[u8]) -> String {
        let tag = hmac::sign(&self.key, secret);
        tag.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::CanonicalPath;

    fn shown(redactor: &Redactor, path: &str, query: Option<&str>) -> String {
        let path = CanonicalPath::parse(path).unwrap();
        redactor.target(&Target { path, query: query.map(Box::from), host: None })
    }

    #[test]
    fn g1_neither_prefix_nor_query_is_shown() {
        let redactor = Redactor::new(UriPrefix::new("s3cret").unwrap()).unwrap();
        assert_eq!(shown(&redactor, "/s3cret/api", None), "/<prefix>/api");
        assert_eq!(shown(&redactor, "/x/%733cret%0a".trim_end_matches("%0a"), None), "/x/<prefix>");
        let with_query = shown(&redactor, "/a", Some("authorization=Bearer%20t0ken"));
        assert!(!with_query.contains("t0ken") && with_query.len() == "/a?".len() + 8, "{with_query}");
        assert_eq!(with_query, shown(&redactor, "/a", Some("authorization=Bearer%20t0ken")));
        assert_ne!(with_query, shown(&redactor, "/a", Some("authorization=Bearer%20other")));
    }

    #[test]
    fn g1_the_hash_means_nothing_to_another_process() {
        let [one, two] = [(); 2].map(|()| Redactor::new(UriPrefix::new("").unwrap()).unwrap());
        assert_ne!(shown(&one, "/", Some("t")), shown(&two, "/", Some("t")));
    }
}
