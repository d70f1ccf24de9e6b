//! Where a changefeed delivers: one small trait, a file for each kind of place.

mod blackhole;
#[cfg(feature = "kafka")]
mod kafka;
mod storage;
mod webhook;

use super::check::{Checked, Scheme};
use super::config::ReplicaConfig;
use super::failure::{Code, Failure};
use super::row::Row;
use crate::api::Boxed;
use perilune_protocol::Tso;
use perilune_vault::Vault;
use std::path::PathBuf;
use uuid::Uuid;

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Values with something between them, a row a line.
    Csv,
    /// An object of JSON, a row a line.
    CanalJson,
    /// TiCDC's own: a key and a value for each row.
    Open,
}

/// A place that takes rows. Dropped, it is given up; what it kept and did not flush was never there.
///
/// Between any two calls whoever calls makes sure that nobody else can have led before the second. So what a sink has found in an earlier call was
/// written by nobody who came later.
pub(crate) trait Sink: Send {
    /// Takes rows, in their order, and gives the bytes that they are there. It may keep them until [`Sink::flush`].
    fn write<'a>(&'a mut self, rows: &'a [Row]) -> Boxed<'a, Result<u64, Failure>>;
    /// Makes durable what it took, and then tells its readers that everything up to `checkpoint` is there.
    fn flush(&mut self, checkpoint: Tso) -> Boxed<'_, Result<(), Failure>>;
    /// How long rows may be kept, in milliseconds.
    fn keeps_ms(&self) -> u64 {
        1000
    }
}

/// Of this process, what sinks need.
#[derive(Clone, Default)]
pub(crate) struct Place {
    /// Directories lie below this one.
    pub(crate) root: Option<PathBuf>,
    /// Opens buckets that are in this process.
    #[cfg(feature = "simulation")]
    pub(crate) within: Option<crate::secrets::Within>,
}

impl Place {
    /// The bucket in this process that has a prefix, where there are such.
    #[cfg(feature = "simulation")]
    fn within(&self, prefix: &str) -> Option<Vault> {
        self.within.as_ref().map(|within| within(prefix))
    }

    #[cfg(not(feature = "simulation"))]
    fn within(&self, _: &str) -> Option<Vault> {
        None
    }
}

impl Protocol {
    /// The protocol that is called so, where this kind of sink speaks it.
    ///
    /// # Errors
    /// [`Code::SinkUnknownProtocol`].
    pub(crate) fn of(scheme: Scheme, said: Option<&str>) -> Result<Self, Failure> {
        let unknown = || Code::SinkUnknownProtocol.with(format!("unknown '{:.64}' message protocol for sink", said.unwrap_or_default()));
        let protocol = match said.map(str::to_ascii_lowercase).as_deref() {
            Some("csv") => Self::Csv,
            Some("canal-json") => Self::CanalJson,
            Some("default" | "open-protocol") => Self::Open,
            // They need no protocol, or have one of their own.
            None | Some("") if matches!(scheme, Scheme::Blackhole | Scheme::Http) => Self::CanalJson,
            _ => return Err(unknown()),
        };
        let speaks = match scheme {
            Scheme::Blackhole => true,
            Scheme::File | Scheme::S3 => protocol != Self::Open,
            Scheme::Http => protocol != Self::Csv,
            #[cfg(feature = "kafka")]
            Scheme::Kafka => protocol != Self::Csv,
        };
        if speaks { Ok(protocol) } else { Err(unknown()) }
    }
}

/// Whose a sink is.
pub(crate) struct Whose<'a> {
    /// `namespace/name` of the feed.
    pub(crate) name: &'a str,
    /// The cluster.
    pub(crate) cluster: Uuid,
    /// The number of the feed, and which of its runs this is: higher than those of all before that had this name.
    pub(crate) run: [u64; 2],
}

impl<'a> Whose<'a> {
    /// Of a sink that is only tried.
    pub(crate) fn tried(name: &'a str) -> Self {
        Self { name, cluster: Uuid::nil(), run: [0, 0] }
    }
}

/// Opens the sink of a feed and finds out that it can be written to.
///
/// # Errors
/// Why it cannot.
pub(crate) async fn open(whose: &Whose<'_>, checked: &Checked, config: &ReplicaConfig, place: &Place) -> Result<Box<dyn Sink>, Failure> {
    Ok(match checked.scheme {
        Scheme::Blackhole => Box::new(blackhole::Blackhole),
        Scheme::File | Scheme::S3 => Box::new(storage::Storage::open(whose, checked, config, place).await?),
        Scheme::Http => Box::new(webhook::Webhook::open(whose, checked, config).await?),
        #[cfg(feature = "kafka")]
        Scheme::Kafka => Box::new(kafka::Kafka::open(checked, config).await?),
    })
}
