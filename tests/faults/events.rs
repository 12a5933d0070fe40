//! The events of a watch on their way through a proxy.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::fault::{Asked, EXPIRED, Events};
use crate::proxy::Shared;

/// An event that is to come after the next one waits for it no longer than this.
const SWAP_WITHIN: Duration = Duration::from_secs(1);

struct Stream {
    from: BoxStream<'static, reqwest::Result<Bytes>>,
    buffer: Vec<u8>,
    /// Comes after the next event.
    held: Option<String>,
    expiry: watch::Receiver<usize>,
    tally: Shared,
    asked: Asked,
    over: bool,
}

/// The body of a watch's answer.
pub fn edited(answer: reqwest::Response, tally: Shared, asked: Asked) -> Body {
    let mut expiry = tally.lock().expect("not poisoned").expiry();
    expiry.mark_unchanged();
    let from = answer.bytes_stream().boxed();
    let state = Stream { from, buffer: Vec::new(), held: None, expiry, tally, asked, over: false };
    Body::from_stream(stream::unfold(state, |mut state| async move {
        let text = state.next().await?;
        Some((Ok::<_, Infallible>(text), state))
    }))
}

impl Stream {
    /// One event or more.
    async fn next(&mut self) -> Option<String> {
        loop {
            if self.over {
                return None;
            }
            let mut expiry = self.expiry.clone();
            let line = tokio::select! {
                line = self.line() => line,
                _ = expiry.changed() => {
                    self.over = true;
                    return Some(format!("{EXPIRED}\n"));
                }
            };
            let Some(line) = line else {
                self.over = true;
                return self.held.take();
            };
            let (met, rewriting) = {
                let mut tally = self.tally.lock().expect("not poisoned");
                let told = !line.contains(r#""type":"BOOKMARK""#) && self.held.is_none();
                let met = if told { tally.meet_event(&self.asked.path) } else { None };
                (met, tally.rewriting(&self.asked))
            };
            let line = rewriting.map_or(line.clone(), |(from, to)| line.replace(from, to));
            match met {
                None => return Some(line + &self.held.take().unwrap_or_default()),
                Some(Events::Drop(_)) => {}
                Some(Events::Swap(_)) => self.held = Some(line),
                // Until the one who watches gives up.
                Some(Events::Stall) => loop {
                    sleep(Duration::from_secs(3600)).await;
                },
            }
        }
    }

    /// The next line, or what waits to come after it.
    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(end + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                return Some(String::from_utf8_lossy(&line).into_owned());
            }
            let more = match &self.held {
                None => self.from.next().await,
                Some(_) => match timeout(SWAP_WITHIN, self.from.next()).await {
                    Ok(more) => more,
                    Err(_) => return self.held.take(),
                },
            };
            self.buffer.extend_from_slice(&more?.ok()?);
        }
    }
}
