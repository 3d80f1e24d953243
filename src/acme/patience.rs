//! How patient we are with a CA: how often we look what it has done, and that calls which it refused for a used-up
//! nonce are made again (RFC 8555, section 6.5).

use std::time::Duration;

/// Between two looks at the CA's state, the first and the longest.
pub(super) const FIRST_POLL: Duration = Duration::from_millis(500);
pub(super) const LONGEST_POLL: Duration = Duration::from_secs(5);
/// How often a call is made. The library makes three tries of each: with half of all nonces refused one call
/// in 30,000 fails (K11).
pub(super) const CALLS: usize = 5;

/// Makes a call until it is not refused for its nonce.
///
/// A macro, because the future of a function that takes an async closure is not `Send` for every lifetime in it.
macro_rules! patiently {
    ($call:expr) => {{
        let mut left = $crate::acme::patience::CALLS;
        loop {
            left -= 1;
            match $call.await {
                Err(instant_acme::Error::Api(problem))
                    if left > 0 && $crate::acme::patience::is(&problem, "badNonce") => {}
                answer => break answer,
            }
        }
    }};
}
pub(super) use patiently;

/// Whether a problem is of this kind (RFC 8555, section 6.7).
pub(super) fn is(problem: &instant_acme::Problem, kind: &str) -> bool {
    let named = problem.r#type.as_deref();
    named.and_then(|name| name.strip_prefix("urn:ietf:params:acme:error:")) == Some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use instant_acme::Error;

    fn refusal(kind: &str) -> Error {
        let text = format!(r#"{{"type":"urn:ietf:params:acme:error:{kind}"}}"#);
        Error::Api(serde_json::from_str(&text).unwrap())
    }

    #[tokio::test]
    async fn k11_a_bad_nonce_is_no_answer_and_everything_else_is() {
        for (kind, calls) in [("badNonce", CALLS), ("rateLimited", 1)] {
            let mut made = 0;
            let answer: Result<(), Error> = patiently!(async {
                made += 1;
                Err(refusal(kind))
            });
            assert!(answer.is_err());
            assert_eq!(made, calls, "{kind}");
        }
        let mut made = 0;
        let answer = patiently!(async {
            made += 1;
            if made < 3 { Err(refusal("badNonce")) } else { Ok(made) }
        });
        assert_eq!(answer.unwrap(), 3);
    }
}
