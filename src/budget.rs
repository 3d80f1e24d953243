//! How many there may be of something at once: a semaphore whose size a reload may change; and how many of them one
//! client may have ([`share`]).

pub(crate) mod share;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio_util::sync::PollSemaphore;

/// A bound that outlives the configuration that set it. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Budget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    permits: Arc<Semaphore>,
    most: AtomicUsize,
    shares: share::Shares,
}

impl Budget {
    /// `most` permits.
    pub(crate) fn new(most: usize) -> Self {
        let most = bounded(most);
        Self(Arc::new(Shared {
            permits: Arc::new(Semaphore::new(most)),
            most: AtomicUsize::new(most),
            shares: share::Shares::default(),
        }))
    }

    fn most(&self) -> usize {
        self.0.most.load(Ordering::Relaxed)
    }

    /// How many permits are taken.
    pub(crate) fn taken(&self) -> usize {
        self.most().saturating_sub(self.0.permits.available_permits())
    }

    /// A permit, when there is one.
    pub(crate) async fn take(&self) -> Result<OwnedSemaphorePermit, AcquireError> {
        Arc::clone(&self.0.permits).acquire_owned().await
    }

    /// The same for who polls.
    pub(crate) fn to_poll(&self) -> PollSemaphore {
        PollSemaphore::new(Arc::clone(&self.0.permits))
    }

    /// A permit, if there is one now.
    pub(crate) fn try_take(&self) -> Result<OwnedSemaphorePermit, TryAcquireError> {
        Arc::clone(&self.0.permits).try_acquire_owned()
    }

    /// Changes the bound to `most`. What is over it ends by itself, and nothing new is let in before: nothing
    /// that is under way is broken off. Must run inside the runtime.
    pub(crate) fn resize(&self, most: usize) {
        let most = bounded(most);
        let before = self.0.most.swap(most, Ordering::Relaxed);
        if most >= before {
            return self.0.permits.add_permits(most - before);
        }
        let surplus = before - most;
        // In pieces, since the semaphore hands out at most `u32::MAX` at a time.
        let taken = surplus - self.0.permits.forget_permits(surplus);
        if let Ok(taken) = u32::try_from(taken)
            && taken > 0
        {
            let permits = Arc::clone(&self.0.permits);
            tokio::spawn(async move {
                // The semaphore is never closed.
                if let Ok(surplus) = permits.acquire_many_owned(taken).await {
                    surplus.forget();
                }
            });
        }
    }
}

fn bounded(most: usize) -> usize {
    most.min(Semaphore::MAX_PERMITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_smaller_budget_lets_nothing_in_until_enough_has_ended() {
        let budget = Budget::new(3);
        let mut taken: Vec<_> = (0..3).map(|_| budget.try_take().unwrap()).collect();
        budget.resize(1);
        tokio::task::yield_now().await;
        for _ in 0..2 {
            taken.pop();
            assert!(budget.try_take().is_err(), "{} are taken", taken.len());
        }
        taken.pop();
        tokio::task::yield_now().await;
        let _one = budget.try_take().unwrap();
        assert!(budget.try_take().is_err());
        budget.resize(2);
        assert!(budget.try_take().is_ok());
    }

    #[tokio::test]
    async fn a_budget_tells_what_is_taken_whatever_its_size() {
        let budget = Budget::new(4);
        let _one = budget.take().await.unwrap();
        for most in [8, 2, 5] {
            budget.resize(most);
            assert_eq!(budget.taken(), 1, "of {most}");
        }
    }
}
