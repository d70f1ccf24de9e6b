//! Serves exported segments to RDMA peers: meets them over TCP, connects queue pairs, gives keys out. The bytes pass by without us.
//!
//! One thread, one epoll. What may take long has threads of its own: connecting queue pairs (the address of the peer must be found first),
//! and registering memory (the thread that lends it).
//!
//! # Who can reach what
//!
//! The right to a segment is checked when its keys are asked for; of what happens afterwards only the devices know, and they check keys. All
//! segments share one protection domain of each device, so a peer with queue pairs can reach one whose capability it never had, if it
//! guesses an address in it and the 32 bits of its key: a wrong guess costs it its queue pair. That is why peers get queue pairs for a
//! moment only without showing a capability, and why the port belongs into a network whose hosts are trusted. The one key they have before
//! is that of a page that holds nothing.

mod conn;
mod connect;
#[cfg(test)]
mod device_tests;
mod lent;
mod notices;
mod reactor;
#[cfg(test)]
mod tests;

use crate::fault::EngineError;
use crate::lane::Wake;
use crate::rdma::{RdmaConnection, RdmaSettings};
use crate::segment::{Export, Exports};
use crate::transport::Server;
use crate::transport::door::Door;
use crate::transport::rdma::device::{Device, Devices};
use crate::transport::rdma::manager::Listener;
use crate::transport::rdma::wire::Offer;
use connect::{Connected, Connector, Station};
use lent::Lent;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use notices::Desk;
use perilune_protocol::{Endpoint, SegmentId};
use reactor::Reactor;
use std::collections::HashMap;
use std::io::Error;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const LISTENER: u64 = 0;
const WAKE: u64 = 1;
const FIRST_DEVICE: u64 = 2;
/// How long a peer may take to say which device it wants, and then to show a capability.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// A running server; stops when dropped.
pub(crate) struct RdmaServer {
    at: SocketAddr,
    notes: mpsc::Sender<Note>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
}

/// What the server's owner, its thread and the connecting threads share.
struct Shared {
    lent: Lent,
    /// A note was sent, there is room for notices again, or the server shall stop.
    wake: Arc<Wake>,
    /// Set once by the owner before it fires `wake`, read by the thread after.
    stopping: AtomicBool,
}

/// What the server's thread is told by others; they fire the wake then.
enum Note {
    /// The thread that made queue pairs is done.
    Connected(Connected),
    /// The keys of this segment are worthless.
    Withdrawn(SegmentId),
    /// Destroy all queue pairs of this device, and drop `done` then.
    Cut { device: usize, done: mpsc::Sender<()> },
}

/// Starts to serve `exports` at `at`, over all `devices`.
pub(crate) fn serve(at: SocketAddr, exports: Arc<Exports>, devices: &Arc<Devices>) -> Result<RdmaServer, EngineError> {
    let opened = devices.demand()?;
    start(at, exports, opened.to_vec(), devices.settings(), CONNECT_MAX)
}

fn start(
    at: SocketAddr,
    exports: Arc<Exports>,
    devices: Vec<Arc<Device>>,
    settings: &RdmaSettings,
    patience: Duration,
) -> Result<RdmaServer, EngineError> {
    let refused = |cause: Error| EngineError::Listen { at: at.to_string(), cause };
    let connector = Connector::new(&devices).map_err(|failure| EngineError::NoRdma(failure.cause))?;
    let managers = listeners(&devices, settings.connection)?;
    let shared = Arc::new(Shared {
        wake: Arc::new(Wake::new().map_err(refused)?),
        lent: Lent::new(devices.clone(), settings.region),
        stopping: AtomicBool::new(false),
    });
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|e| refused(e.into()))?;
    let door = Door::open(at, &epoll, LISTENER).map_err(refused)?;
    let real = door.at().map_err(refused)?;
    epoll.add(shared.wake.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, WAKE)).map_err(|e| refused(e.into()))?;
    for (number, device) in (FIRST_DEVICE..).zip(&devices) {
        epoll.add(&device.context, EpollEvent::new(EpollFlags::EPOLLIN, number)).map_err(|e| refused(e.into()))?;
    }
    exports.mailbox.watch(Arc::clone(&shared.wake));
    let first_channel = FIRST_DEVICE + devices.len() as u64;
    for (number, station) in (first_channel..).zip(&connector.stations) {
        epoll.add(station.channel.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, number)).map_err(|e| refused(e.into()))?;
    }
    let desk = Desk::new(Arc::clone(&exports.mailbox), connector.stations.clone());
    let first_manager = first_channel + devices.len() as u64;
    for (number, manager) in (first_manager..).zip(&managers) {
        let Some(manager) = manager else { continue };
        epoll.add(&**manager.events(), EpollEvent::new(EpollFlags::EPOLLIN, number)).map_err(|e| refused(e.into()))?;
    }
    let offer = |((device, manager), station): ((&Arc<Device>, &Option<Listener>), &Arc<Station>)| {
        let manager = manager.as_ref().map(Listener::port);
        let (notices, places) = (station.depth > 0, device.soft_roce);
        Offer { name: device.name.clone(), gid: device.address().unwrap_or_default(), iwarp: device.iwarp, notices, places, manager }
    };
    let offers = devices.iter().zip(&managers).zip(&connector.stations).map(offer).collect();
    let (notes, heard) = mpsc::channel();
    let reactor = Reactor {
        epoll,
        door,
        offers,
        exports,
        shared: Arc::clone(&shared),
        connector,
        notes: notes.clone(),
        heard,
        patience,
        conns: HashMap::new(),
        next: first_manager + devices.len() as u64,
        managers,
        connection: settings.connection,
        devices,
        desk,
    };
    let thread =
        thread::Builder::new().name("pl-rdma-serve".to_owned()).stack_size(256 << 10).spawn(move || reactor.run()).map_err(refused)?;
    Ok(RdmaServer { at: real, notes, thread: Some(thread), shared })
}

/// Whether the connection manager is to listen at a device.
fn by_manager(device: &Device, connection: RdmaConnection) -> bool {
    device.iwarp || connection == RdmaConnection::Cm
}

/// The connection manager of each device, where it is used. A device without it serves those who connect another way, if it can.
fn listeners(devices: &[Arc<Device>], connection: RdmaConnection) -> Result<Vec<Option<Listener>>, EngineError> {
    let (mut listeners, mut refused) = (Vec::new(), None);
    for device in devices {
        // A port that is not active has no address to listen at; it is looked at again as peers come.
        let wanted = by_manager(device, connection) && device.address().is_some();
        let listener = wanted.then(|| Listener::new(device)).transpose().unwrap_or_else(|failure| {
            tracing::warn!("{}", failure.cause);
            refused = Some(failure.cause);
            None
        });
        let useless = wanted && listener.is_none();
        listeners.push((listener, useless));
    }
    match refused {
        Some(cause) if listeners.iter().all(|(_, useless)| *useless) => Err(EngineError::NoRdma(cause)),
        _ => Ok(listeners.into_iter().map(|(listener, _)| listener).collect()),
    }
}

impl Server for RdmaServer {
    fn endpoint(&self) -> Endpoint {
        Endpoint::Rdma(self.at.to_string())
    }

    fn lend(&self, id: SegmentId, export: &Arc<Export>) -> Result<(), EngineError> {
        self.shared.lent.lend(id, export)
    }

    fn withdraw(&self, id: SegmentId) {
        let Some(mut regions) = self.shared.lent.take(id) else { return };
        for (device, of_device) in regions.iter_mut().enumerate() {
            if let Err(cause) = lent::unregister(of_device) {
                tracing::error!("segment {id}: cannot unregister its memory, so all queue pairs of device {device} are ended: {cause}");
                self.cut(device);
                if let Err(cause) = lent::unregister(of_device) {
                    tracing::error!("segment {id}: its memory stays registered with device {device} until the server stops: {cause}");
                }
            }
        }
        self.shared.lent.keep(regions);
        self.tell(Note::Withdrawn(id));
    }
}

impl RdmaServer {
    /// Destroys all queue pairs of a device.
    fn cut(&self, device: usize) {
        let (done, ended) = mpsc::channel();
        self.tell(Note::Cut { device, done });
        // Nothing is ever sent: `done` is dropped when it is done, or with a server thread that ended, and its queue pairs with it.
        let _ = ended.recv();
    }

    fn tell(&self, note: Note) {
        // Refused only when the thread has ended; then there is nobody left to tell.
        let _ = self.notes.send(note);
        self.shared.wake.fire();
    }
}

impl Drop for RdmaServer {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.wake.fire();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
