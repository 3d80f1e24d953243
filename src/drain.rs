//! The end of the relay, for what would never end by itself: event streams, each at a moment of its own.

use std::{
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::proxy::pace;

/// Streams end at this pace, so that their browsers do not come back in one instant.
const A_STREAM: Duration = Duration::from_millis(10);

/// Says when the relay ends. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drain(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    begun: CancellationToken,
    /// When the last stream is to have ended; set before `begun` is cancelled.
    streams_until: OnceLock<Instant>,
    /// Streams that wait for their end.
    streams: AtomicUsize,
}

/// One stream's end: ready when its moment has come, and from then on.
pub(crate) struct Ending {
    /// `None` once it has come.
    moment: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    shared: Arc<Shared>,
}

impl Drain {
    /// Begins, once. What is open has `limit` to end; streams end in the first third of it at most, each at a
    /// random moment: a few at once, and 500 within five seconds.
    pub(crate) fn begin(&self, limit: Duration) {
        let streams = u32::try_from(self.streams()).unwrap_or(u32::MAX);
        let spread = A_STREAM.saturating_mul(streams).min(limit / 3);
        self.0.streams_until.get_or_init(|| Instant::now() + spread);
        self.0.begun.cancel();
    }

    /// Cancelled when it begins.
    pub(crate) fn begun(&self) -> &CancellationToken {
        &self.0.begun
    }

    /// How many streams are open, those that wait for their backend too.
    pub(crate) fn streams(&self) -> usize {
        self.0.streams.load(Ordering::Relaxed)
    }

    /// The end of a stream that begins now.
    pub(crate) fn ending(&self) -> Ending {
        self.0.streams.fetch_add(1, Ordering::Relaxed);
        let own = Arc::clone(&self.0);
        let moment: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
            own.begun.cancelled().await;
            let until = own.streams_until.get().copied().unwrap_or_else(Instant::now);
            let left = until.saturating_duration_since(Instant::now());
            tokio::time::sleep(pace::between(Duration::ZERO..left)).await;
        });
        Ending { moment: Some(moment), shared: Arc::clone(&self.0) }
    }
}

impl Future for Ending {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(moment) = &mut self.moment {
            ready!(moment.as_mut().poll(cx));
            self.moment = None;
        }
        Poll::Ready(())
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.shared.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When each of `count` streams ended, after the beginning.
    async fn ends(count: usize, limit: Duration) -> Vec<Duration> {
        let drain = Drain::default();
        let endings: Vec<_> = (0..count).map(|_| drain.ending()).collect();
        assert_eq!(drain.streams(), count);
        let began = Instant::now();
        drain.begin(limit);
        let mut ends = Vec::new();
        for ending in endings
            .into_iter()
            .map(|ending| async move {
                ending.await;
                began.elapsed()
            })
            .map(tokio::spawn)
            .collect::<Vec<_>>()
        {
            ends.push(ending.await.unwrap());
        }
        assert_eq!(drain.streams(), 0);
        ends.sort();
        ends
    }

    #[tokio::test(start_paused = true)]
    async fn k4_a_few_streams_end_at_once() {
        assert!(ends(3, Duration::from_secs(30)).await[2] <= Duration::from_millis(31));
    }

    #[tokio::test(start_paused = true)]
    async fn k4_many_streams_end_one_after_the_other_in_the_first_third_at_most() {
        for (count, last) in [(500, 5.0), (3000, 10.0)] {
            let ends: Vec<_> =
                ends(count, Duration::from_secs(30)).await.iter().map(Duration::as_secs_f64).collect();
            assert!(ends[count - 1] <= last + 0.01 && ends[count - 1] > last * 0.9, "{count}: {ends:?}");
            // Of an even spread half have ended at half the time.
            let half = ends.iter().filter(|end| **end < last / 2.0).count();
            assert!((count * 2 / 5..count * 3 / 5).contains(&half), "{half} of {count}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_begins_in_the_drain_ends_within_it() {
        let drain = Drain::default();
        let endings: Vec<_> = (0..100).map(|_| drain.ending()).collect();
        let began = Instant::now();
        drain.begin(Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(900)).await;
        drain.ending().await;
        assert!(began.elapsed() <= Duration::from_millis(1002), "{:?}", began.elapsed());
        drop(endings);
        drain.ending().await;
    }
}
