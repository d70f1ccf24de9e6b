//! Questions whose answer is a look at every object: one at a time, with a rest after each, so that nobody who asks again and again has a
//! master do nothing else.

use crate::work::aside;
use perilune_protocol::Outcome;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

/// The rest after a walk, as so many times what it took.
const REST: u32 = 3;

/// When the next walk may begin. Held by the one that walks; those who wait come in the order in which they asked.
#[derive(Default)]
pub(crate) struct Walks(Mutex<Option<Instant>>);

impl Walks {
    /// Runs a walk off the threads that serve connections, when it is its turn.
    pub(crate) async fn run<T: Send + 'static>(&self, walk: impl FnOnce() -> T + Send + 'static) -> Outcome<T> {
        let mut next = self.0.lock().await;
        if let Some(next) = *next {
            sleep_until(next).await;
        }
        let began = Instant::now();
        let done = aside(walk).await;
        *next = Some(Instant::now() + began.elapsed() * REST);
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[tokio::test(flavor = "multi_thread")]
    async fn walks_come_one_by_one() {
        let (walks, inside) = (Arc::new(Walks::default()), Arc::new(AtomicUsize::new(0)));
        let all = (0..8).map(|n| {
            let (walks, inside) = (Arc::clone(&walks), Arc::clone(&inside));
            tokio::spawn(async move {
                let walk = move || {
                    let alone = inside.fetch_add(1, Ordering::SeqCst) == 0;
                    std::thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                    (alone, n)
                };
                walks.run(walk).await
            })
        });
        for (n, one) in all.collect::<Vec<_>>().into_iter().enumerate() {
            assert_eq!(one.await.unwrap(), Ok((true, n)));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_walk_is_followed_by_a_rest() {
        let (walks, took) = (Walks::default(), Duration::from_millis(2));
        let began = Instant::now();
        let long = walks.run(move || while began.elapsed() < took {}).await;
        let next = walks.run(Instant::now).await.unwrap();
        assert!(long.is_ok() && next - began >= took * (1 + REST), "{:?}", next - began);
    }
}
