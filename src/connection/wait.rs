//! A deadline that is set when waiting begins.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::time::{Instant, Sleep};

/// A timer that is kept between waits: setting one anew is cheaper than making one.
#[derive(Debug, Default)]
pub(crate) struct Wait {
    sleep: Option<Pin<Box<Sleep>>>,
    armed: bool,
}

impl Wait {
    pub(crate) fn disarm(&mut self) {
        self.armed = false;
    }

    pub(crate) fn poll_until(
        &mut self,
        deadline: impl FnOnce() -> Instant,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if !self.armed {
            self.armed = true;
            let deadline = deadline();
            match &mut self.sleep {
                Some(sleep) => sleep.as_mut().reset(deadline),
                None => self.sleep = Some(Box::pin(tokio::time::sleep_until(deadline))),
            }
        }
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}
