//! An EventSource as browsers have it (WHATWG HTML 9.2), strict where they are lenient: a stream that breaks
//! is a fault here, and not only a reason to come back.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http_body_util::BodyExt;
use tokio::{sync::watch, task::JoinHandle};

use super::{Client, within};

/// An EventSource that lives until it is dropped, or is told what it cannot live with.
pub(crate) struct EventSource {
    story: watch::Receiver<Story>,
    task: JoinHandle<()>,
}

/// What became of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Story {
    /// When each response's head came.
    pub(crate) opened: Vec<Instant>,
    /// When each response had ended.
    pub(crate) ended: Vec<Instant>,
    /// The data of each event.
    pub(crate) events: Vec<String>,
    pub(crate) comments: usize,
    pub(crate) retries: Vec<Duration>,
    /// What no browser is to see: another answer than a stream, or one that broke off.
    pub(crate) fault: Option<String>,
}

/// What a browser waits that was told nothing.
const COME_BACK: Duration = Duration::from_secs(3);

impl EventSource {
    /// Asks `client`'s relay for `target`, again and again, with `headers`.
    pub(crate) fn open(client: &Arc<Client>, target: &str, headers: &[(&str, &str)]) -> Self {
        let (sender, story) = watch::channel(Story::default());
        let (client, target) = (Arc::clone(client), target.to_owned());
        let headers: Vec<(String, String)> =
            headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let task = tokio::spawn(async move {
            let mut come_back = COME_BACK;
            loop {
                if let Err(fault) = once(&client, &target, &headers, &sender, &mut come_back).await {
                    sender.send_modify(|story| story.fault = Some(fault));
                    return;
                }
                tokio::time::sleep(come_back).await;
            }
        });
        Self { story, task }
    }

    /// Waits until its story is as `wanted`; fails at a fault.
    pub(crate) async fn until(&self, what: &str, mut wanted: impl FnMut(&Story) -> bool) -> Story {
        let mut story = self.story.clone();
        let found = within(what, story.wait_for(|story| story.fault.is_some() || wanted(story)));
        let story = found.await.expect("an EventSource tells its end").clone();
        assert_eq!(story.fault, None, "waiting for {what}: {story:?}");
        story
    }

    /// Waits until a response has ended, whatever comes then; fails if it did not end well.
    pub(crate) async fn after_end(&self) -> Story {
        let mut story = self.story.clone();
        let ended = within("a stream's end", story.wait_for(|story| !story.ended.is_empty())).await;
        ended.expect("an EventSource that broke off tells no end").clone()
    }

    /// Waits for an event.
    pub(crate) async fn event(&self, data: &str) -> Story {
        self.until(&format!("event {data:?}"), |story| story.events.iter().any(|event| event == data)).await
    }
}

impl Drop for EventSource {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One response, to its end.
async fn once(
    client: &Client,
    target: &str,
    headers: &[(String, String)],
    story: &watch::Sender<Story>,
    come_back: &mut Duration,
) -> Result<(), String> {
    let mut all = vec![("Accept", "text/event-stream")];
    all.extend(headers.iter().map(|(name, value)| (&**name, &**value)));
    let answer = client.persistently(target, &all).await;
    let response = answer.map_err(|error| format!("no answer: {error:?}"))?;
    let is_stream = response.headers().get("content-type").is_some_and(|kind| {
        kind.to_str().is_ok_and(|kind| kind.split(';').next() == Some("text/event-stream"))
    });
    if response.status() != 200 || !is_stream {
        return Err(format!("{} {:?}", response.status(), response.headers()));
    }
    story.send_modify(|story| story.opened.push(Instant::now()));
    let mut body = response.into_body();
    let (mut line, mut data) = (Vec::new(), Vec::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("broken off: {error:?}"))?;
        for byte in frame.into_data().unwrap_or_default() {
            if byte != b'\n' {
                line.push(byte);
                continue;
            }
            let text = String::from_utf8(std::mem::take(&mut line)).map_err(|error| error.to_string())?;
            match text.split_once(':') {
                Some(("", _)) => story.send_modify(|story| story.comments += 1),
                Some(("data", value)) => data.push(value.trim_start().to_owned()),
                Some(("retry", value)) => {
                    let millis = value.trim().parse().map_err(|_| format!("{text:?} is no retry field"))?;
                    *come_back = Duration::from_millis(millis);
                    story.send_modify(|story| story.retries.push(*come_back));
                }
                Some(("event" | "id", _)) => {}
                None if text.is_empty() && data.is_empty() => {}
                None if text.is_empty() => {
                    let event = std::mem::take(&mut data).join("\n");
                    story.send_modify(|story| story.events.push(event));
                }
                Some(_) | None => return Err(format!("{text:?} is no field of a stream")),
            }
        }
    }
    story.send_modify(|story| story.ended.push(Instant::now()));
    Ok(())
}
