//! `object_store` alone: a put and a get for each object, so many at a time.

use super::place::Prepared;
use super::{Bytes, Duration, Mover, Trouble, touched};
use futures_util::{StreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;
use tokio::runtime::Runtime;

pub(super) struct Bare {
    store: Arc<dyn ObjectStore>,
    runtime: Runtime,
    in_flight: usize,
    objects: usize,
}

/// As many as requests of this build run on.
const THREADS: usize = 2;

impl Bare {
    pub(super) fn start(place: &Prepared, in_flight: usize) -> Result<Self, Trouble> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
        Ok(Self { store: place.store("bare")?, runtime, in_flight, objects: 0 })
    }

    /// Does something with each object, each time on a task of its own, and shows what came of it, in their order.
    fn each<T: Send + 'static, F>(
        &self,
        values: &[Bytes],
        act: impl Fn(Arc<dyn ObjectStore>, Path, Bytes) -> F,
        mut show: impl FnMut(usize, T) -> Result<(), Trouble>,
    ) -> Result<(), Trouble>
    where
        F: Future<Output = object_store::Result<T>> + Send + 'static,
    {
        let work = stream::iter(values.iter().enumerate()).map(|(nth, value)| {
            let task = self.runtime.spawn(act(Arc::clone(&self.store), name(nth), value.clone()));
            async move { Ok::<T, Trouble>(task.await??) }
        });
        self.runtime.block_on(async {
            let mut done = pin!(work.buffered(self.in_flight).enumerate());
            while let Some((nth, done)) = done.next().await {
                show(nth, done?)?;
            }
            Ok(())
        })
    }
}

fn name(nth: usize) -> Path {
    Path::from(format!("objects/{:02x}/{nth:06}", nth % 256))
}

impl Mover for Bare {
    fn offload(&mut self, values: &[Bytes]) -> Result<Duration, Trouble> {
        let began = Instant::now();
        self.each(values, |store, name, value| async move { store.put(&name, value.into()).await }, |_, _| Ok(()))?;
        self.objects = values.len();
        Ok(began.elapsed())
    }

    fn read_back(&mut self, values: &[Bytes]) -> Result<Duration, Trouble> {
        let mut buffers = touched(values);
        let began = Instant::now();
        self.each(
            values,
            |store, name, _| async move { store.get(&name).await?.bytes().await },
            |nth, bytes| {
                let into = buffers[nth].get_mut(..bytes.len()).ok_or("object_store gave more bytes than were put")?;
                into.copy_from_slice(&bytes);
                Ok(())
            },
        )?;
        let took = began.elapsed();
        if buffers == values { Ok(took) } else { Err("object_store gave other bytes than were put".into()) }
    }

    fn forget(&mut self) -> Result<(), Trouble> {
        let nothing = vec![Bytes::new(); std::mem::take(&mut self.objects)];
        self.each(&nothing, |store, name, _| async move { store.delete(&name).await }, |_, ()| Ok(()))
    }
}
