//! What the leader does so that there is something to tell: nodes that come and go enter the log, and the clock may move on. And who needed
//! something for a while needs it no more.

use crate::engine::Engine;
use crate::log::Room;
use perilune_state::Effect;
use std::sync::atomic::Ordering;

/// Who asked how far all is known will ask again within so many milliseconds.
const ASKS_AGAIN_MS: u64 = 10_000;
/// The clock may move on for so many milliseconds more, or the log is asked for a higher limit.
const LEFT_MS: u64 = 4_000;

impl Engine {
    /// A round of that.
    pub(crate) async fn tend_events(&self) {
        self.events().walks.sweep(self.now());
        // None of this is worth the last room.
        if self.inner.log.room().0 != Room::Enough || self.writable().is_err() {
            return;
        }
        let state = self.state();
        let mut news = state.nodes.news(state.began(), self.now());
        let asked = self.events().asked.load(Ordering::Relaxed);
        if asked > 0 && self.now() < asked + ASKS_AGAIN_MS {
            let near = state.tso.near_limit(self.wall_ms(), LEFT_MS);
            news.extend(near.map(|need| Effect::TsoLimit(need.0)));
        }
        let tended = async {
            for effect in news {
                self.commit(&effect).await?;
            }
            self.forget_expired().await
        };
        if let Err(fault) = tended.await {
            tracing::debug!("tried again with the next round: {fault}");
        }
    }
}
