//! By hand: a person is shown the record, and the DNS is watched until it is there.

use std::{fmt, io, time::Duration};

use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncWrite, AsyncWriteExt},
    sync::Mutex,
};

use super::{DnsError, Resolvers, wait_until_visible};

/// How often the person is told that it is still being watched.
const TURN: Duration = Duration::from_secs(60);
/// How many times: an hour, after which nobody sits there any more.
const TURNS: u32 = 60;

/// A person at a terminal.
pub(crate) struct Manual {
    input: Mutex<Box<dyn AsyncBufRead + Send + Unpin>>,
    output: Mutex<Box<dyn AsyncWrite + Send + Unpin>>,
    resolvers: Resolvers,
}

impl Manual {
    /// Writes to `output`, and reads a line of `input` as leave to go on at once.
    pub(crate) fn new(
        input: impl AsyncBufRead + Send + Unpin + 'static,
        output: impl AsyncWrite + Send + Unpin + 'static,
        resolvers: Resolvers,
    ) -> Self {
        Self { input: Mutex::new(Box::new(input)), output: Mutex::new(Box::new(output)), resolvers }
    }

    /// Shows the record.
    pub(super) async fn present(&self, fqdn: &str, value: &str) -> Result<(), DnsError> {
        self.say(&format!(
            "Add this record, next to any other at the same name:\n\n    {fqdn}. 60 IN TXT \"{value}\"\n\n"
        ))
        .await
    }

    /// Watches until the record is visible, or the person says that it is there.
    pub(super) async fn wait(&self, fqdn: &str, value: &str) -> Result<(), DnsError> {
        self.say(&format!("Waiting until the name servers of {fqdn} have {value} (Enter: do not wait).\n"))
            .await?;
        tokio::select! {
            seen = self.watch(fqdn, value) => seen,
            told = self.enter() => told,
        }
    }

    /// Shows what is no longer needed.
    pub(super) async fn cleanup(&self, fqdn: &str, value: &str) -> Result<(), DnsError> {
        self.say(&format!("This record can be removed:\n\n    {fqdn}. TXT \"{value}\"\n\n")).await
    }

    async fn watch(&self, fqdn: &str, value: &str) -> Result<(), DnsError> {
        let mut turn = 1;
        loop {
            let seen = wait_until_visible(fqdn, value, TURN, &self.resolvers).await;
            let text = match &seen {
                Ok(()) => return self.say("The record is visible.\n").await,
                Err(DnsError::NotVisible { .. }) => "The record is not on all name servers yet.\n",
                Err(DnsError::NoAnswer { .. }) => {
                    "No name server answers here: press Enter when the record is in place.\n"
                }
                Err(_) => return seen,
            };
            if turn == TURNS {
                let (name, limit) = (fqdn.to_owned(), TURN * TURNS);
                return Err(DnsError::NotVisible { name, limit });
            }
            turn += 1;
            self.say(text).await?;
        }
    }

    /// The next line; never, when there will be none.
    async fn enter(&self) -> Result<(), DnsError> {
        let mut line = Vec::new();
        let mut input = self.input.lock().await;
        match input.read_until(b'\n', &mut line).await {
            Ok(0) => std::future::pending().await,
            Ok(_) => Ok(()),
            Err(error) => Err(DnsError::Terminal(error)),
        }
    }

    async fn say(&self, text: &str) -> Result<(), DnsError> {
        let mut output = self.output.lock().await;
        let written: io::Result<()> = async {
            output.write_all(text.as_bytes()).await?;
            output.flush().await
        }
        .await;
        written.map_err(DnsError::Terminal)
    }
}

impl fmt::Debug for Manual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manual").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::dns::{DnsSolver, Responder};
    use std::net::Ipv4Addr;
    use tokio::{
        io::{AsyncReadExt, BufReader, DuplexStream, duplex},
        time::timeout,
    };
    use tokio_util::task::AbortOnDropHandle;

    const NAME: &str = "_acme-challenge.example.org";
    const SOON: Duration = Duration::from_secs(10);

    /// A person's side: what is typed, and what is shown.
    fn terminal(resolvers: Resolvers) -> (DuplexStream, DuplexStream, DnsSolver) {
        let ((typed, input), (output, shown)) = (duplex(1024), duplex(16 * 1024));
        let manual = Manual::new(BufReader::new(input), output, resolvers);
        (typed, shown, DnsSolver::Manual(manual))
    }

    async fn all(mut shown: DuplexStream, solver: DnsSolver) -> String {
        drop(solver);
        let mut text = String::new();
        shown.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn the_record_is_shown_watched_and_shown_again_when_it_can_go() {
        let (responder, handle) = Responder::bind((Ipv4Addr::LOCALHOST, 0).into(), [NAME]).unwrap();
        let address = responder.addresses().next().unwrap();
        let _running = AbortOnDropHandle::new(tokio::spawn(responder.run()));
        let (typed, shown, solver) = terminal(Resolvers::on_this_machine(address.port()));
        // No line will ever come: watching alone has to do.
        drop(typed);
        solver.present(NAME, "one").await.unwrap();
        let early = timeout(Duration::from_millis(300), solver.wait(NAME, "one")).await;
        assert!(early.is_err(), "the record is not there yet");
        handle.present(NAME, "one").unwrap();
        timeout(SOON, solver.wait(NAME, "one")).await.unwrap().unwrap();
        solver.cleanup(NAME, "one").await.unwrap();
        let text = all(shown, solver).await;
        assert_eq!(text.matches("_acme-challenge.example.org. 60 IN TXT \"one\"").count(), 1);
        assert!(text.contains("The record is visible."), "{text}");
        assert!(text.contains("can be removed") && text.contains("example.org. TXT \"one\""), "{text}");
    }

    #[tokio::test]
    async fn enter_goes_on_without_waiting() {
        let (mut typed, shown, solver) = terminal(Resolvers::on_this_machine(1));
        solver.present(NAME, "one").await.unwrap();
        typed.write_all(b"\n").await.unwrap();
        timeout(SOON, solver.wait(NAME, "one")).await.unwrap().unwrap();
        // One line is leave for one record.
        let next = timeout(Duration::from_millis(200), solver.wait(NAME, "two")).await;
        assert!(next.is_err());
        assert!(all(shown, solver).await.contains("Enter"));
    }

    #[tokio::test]
    async fn a_terminal_that_is_gone_is_an_error() {
        let (_typed, shown, solver) = terminal(Resolvers::on_this_machine(1));
        drop(shown);
        let error = solver.present(NAME, "one").await.unwrap_err();
        assert!(matches!(error, DnsError::Terminal(_)), "{error}");
    }
}
