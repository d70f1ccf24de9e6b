//! The thread of the server: who connects, who speaks, who is told what.

use crate::lane::milliseconds;
use crate::rdma::RdmaConnection;
use crate::segment::Exports;
use crate::transport::door::Door;
use crate::transport::rdma::device::Device;
use crate::transport::rdma::manager::{Heard, Listener};
use crate::transport::rdma::serve::conn::{Conn, Served};
use crate::transport::rdma::serve::connect::{Connected, Connector};
use crate::transport::rdma::serve::notices::{Desk, KEEP_MAX};
use crate::transport::rdma::serve::{FIRST_DEVICE, LISTENER, Note, Shared, WAKE, by_manager};
use crate::transport::rdma::sys::device_is_gone;
use crate::transport::rdma::wire::{Offer, Tell, encode};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags, EpollTimeout};
use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

const EVENTS: usize = 64;
/// As many connections may be there that have shown no right to anything; those that came first make room for more.
pub(super) const STRANGERS_MAX: usize = if cfg!(test) { 64 } else { 1024 };

pub(super) struct Reactor {
    pub(super) epoll: Epoll,
    pub(super) door: Door,
    pub(super) devices: Vec<Arc<Device>>,
    /// The connection manager of each device, where it is used.
    pub(super) managers: Vec<Option<Listener>>,
    pub(super) connection: RdmaConnection,
    /// What peers are told of the devices, in the same order.
    pub(super) offers: Vec<Offer>,
    pub(super) exports: Arc<Exports>,
    pub(super) shared: Arc<Shared>,
    pub(super) connector: Connector,
    pub(super) desk: Desk,
    /// For the connecting threads.
    pub(super) notes: mpsc::Sender<Note>,
    pub(super) heard: mpsc::Receiver<Note>,
    /// How long a peer may take to say which device it wants, and then to show a capability.
    pub(super) patience: Duration,
    pub(super) conns: HashMap<u64, Served>,
    pub(super) next: u64,
}

impl Reactor {
    pub(super) fn run(mut self) {
        // The scope joins the connecting threads, so that no queue pair outlives the server.
        thread::scope(|scope| self.run_in(scope));
    }

    fn run_in<'scope>(&mut self, scope: &'scope Scope<'scope, '_>) {
        let mut events = [EpollEvent::empty(); EVENTS];
        while !self.shared.stopping.load(Ordering::SeqCst) {
            let count = match self.epoll.wait(&mut events, self.timeout()) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(e) => return tracing::error!("the RDMA server at {:?} stopped: epoll: {e}", self.door.at()),
            };
            self.door.reopen(&self.epoll);
            for event in &events[..count] {
                match event.data() {
                    LISTENER => self.accept(),
                    WAKE => self.shared.wake.clear(),
                    number => {
                        let (place, count) = ((number - FIRST_DEVICE) as usize, self.devices.len());
                        match self.devices.get(place) {
                            _ if place < 2 * count && device_is_gone(*event) => self.part_with(place % count),
                            Some(device) => tell_events(device),
                            None if place < 2 * count => self.desk.collect(place - count),
                            None if place < 3 * count => self.managed(place - 2 * count),
                            None => self.turn(number),
                        }
                    }
                }
            }
            while let Ok(note) = self.heard.try_recv() {
                self.hear(note);
            }
            self.notices();
            self.connector.start(scope, &self.notes, &self.shared);
            self.close_late();
        }
    }

    /// Until the first connection that says nothing, or keeps what others wait for, is given up.
    fn timeout(&self) -> EpollTimeout {
        let since = self.conns.values().filter_map(|served| served.conn.silent_since()).min();
        let late = since.map(|at| self.patience.saturating_sub(at.elapsed()));
        let short = self.desk.short().then_some(KEEP_MAX);
        self.door
            .pause()
            .into_iter()
            .chain(late)
            .chain(short)
            .min()
            .map_or(EpollTimeout::NONE, |wait| EpollTimeout::from(milliseconds(wait)))
    }

    fn turn(&mut self, number: u64) {
        let Some(served) = self.conns.get_mut(&number) else { return };
        let ended = served.conn.turn(&self.offers, &self.exports, &self.shared.lent);
        if let Some((device, ends)) = served.conn.wish() {
            let managed = served.conn.token().is_some();
            self.connector.queue(number, served.conn.peer, device, ends, managed);
        }
        self.desk.look_at(number, &mut served.conn.purse);
        self.settle(number, ended);
    }

    /// A device is gone: its peers hear it by the end of their connections.
    fn part_with(&mut self, device: usize) {
        tracing::warn!("the RDMA device {} is gone", self.devices[device].name);
        let _ = self.epoll.delete(&self.devices[device].context);
        let _ = self.epoll.delete(self.connector.stations[device].channel.as_fd());
        self.cut(device);
    }

    /// Ends all queue pairs of a device.
    fn cut(&mut self, device: usize) {
        let ended: Vec<u64> = self.conns.iter().filter(|(_, s)| s.conn.device() == Some(device)).map(|(n, _)| *n).collect();
        ended.into_iter().for_each(|number| self.close(number));
    }

    /// What the connection manager of a device heard.
    fn managed(&mut self, device: usize) {
        while let Some(heard) = self.managers[device].as_ref().and_then(Listener::next) {
            match heard {
                Heard::Request(request) => {
                    let mut conns = self.conns.iter_mut();
                    let wants = |conn: &Conn| conn.token() == Some(request.token) && conn.device() == Some(device);
                    let Some((&number, served)) = conns.find(|(_, served)| wants(&served.conn)) else {
                        tracing::debug!("the connection manager was asked for a connection that is not there");
                        continue;
                    };
                    let accepted = served.conn.accept(request, number);
                    self.settle(number, accepted);
                }
                Heard::Ended(number, cause) => self.settle(number, Err(cause)),
            }
        }
    }

    /// Closes a connection that ended, or has it polled for what it waits for.
    fn settle(&mut self, number: u64, ended: Result<(), String>) {
        let Some(served) = self.conns.get_mut(&number) else { return };
        let interest = served.conn.interest();
        let polled = ended.and_then(|()| {
            if interest != served.interest {
                served.interest = interest;
                self.epoll.modify(served.conn.socket(), &mut EpollEvent::new(interest, number)).map_err(|e| e.to_string())?;
            }
            Ok(())
        });
        if let Err(cause) = polled {
            tracing::debug!(number, "RDMA connection closed: {cause}");
            self.close(number);
        }
    }

    fn close(&mut self, number: u64) {
        self.connector.forget(number);
        let Some(mut served) = self.conns.remove(&number) else { return };
        // What arrived before the queue pairs failed counts: its sender was told so. To destroy them may take it from the completion queue.
        served.conn.fail();
        self.desk.leave(number, &mut served.conn.purse);
    }

    /// Takes in the notices that came, and gives out what credits there are.
    fn notices(&mut self) {
        while let Some((number, value)) = self.desk.next() {
            let Some(served) = self.conns.get_mut(&number) else { continue };
            let taken = self.desk.take(number, value, &mut served.conn.purse);
            self.settle(number, taken);
        }
        while let Some(hungry) = self.desk.hungry() {
            let number = hungry.number;
            let Some(served) = self.conns.get_mut(&number) else { continue };
            let Some(count) = self.desk.feed(hungry, &mut served.conn.purse) else { break };
            if count > 0 {
                let told = served.conn.tell_unasked(&encode(&Tell::Credits { count }));
                self.settle(number, told);
            }
        }
        if self.desk.short() {
            let now = Instant::now();
            let hoards = |(number, served): &(&u64, &Served)| self.desk.hoards(**number, &served.conn.purse, now);
            let hoarders: Vec<u64> = self.conns.iter().filter(hoards).map(|(number, _)| *number).collect();
            for number in hoarders {
                self.settle(number, Err("it kept credits that others wait for".to_owned()));
            }
        }
    }

    fn hear(&mut self, note: Note) {
        match note {
            Note::Connected(Connected { number, outcome }) => {
                self.connector.done(number);
                // Of a connection that ended meanwhile the queue pairs are dropped here.
                let Some(served) = self.conns.get_mut(&number) else { return };
                let Some(device) = served.conn.connecting() else { return };
                if let Ok((_, ends)) = &outcome {
                    self.desk.admit(number, device, ends, &mut served.conn.purse);
                }
                let told = served.conn.connected(outcome, self.connector.stations[device].scratch);
                self.settle(number, told);
            }
            Note::Withdrawn(segment) => {
                let frame = encode(&Tell::Withdrawn { segment });
                let holders: Vec<u64> = self.conns.iter().filter(|(_, served)| served.conn.device().is_some()).map(|(n, _)| *n).collect();
                for number in holders {
                    let Some(served) = self.conns.get_mut(&number) else { continue };
                    let told = served.conn.tell_unasked(&frame);
                    self.settle(number, told);
                }
            }
            Note::Cut { device, done } => {
                self.cut(device);
                drop(done);
            }
        }
    }

    fn close_late(&mut self) {
        let late = |served: &Served| served.conn.silent_since().is_some_and(|at| at.elapsed() >= self.patience);
        let late: Vec<(u64, IpAddr)> = self.conns.iter().filter(|(_, served)| late(served)).map(|(n, s)| (*n, s.conn.peer)).collect();
        for (number, peer) in late {
            let vouched = self.conns.values().any(|served| served.conn.purse.trusted && served.conn.peer == peer);
            match self.conns.get_mut(&number) {
                Some(served) if vouched && served.conn.device().is_some() => served.conn.known = true,
                _ => self.close(number),
            }
        }
    }

    /// Closes the oldest connections of strangers while there are too many.
    fn crowd_out(&mut self) {
        if self.conns.len() <= STRANGERS_MAX {
            return;
        }
        let mut strangers: Vec<u64> = self.conns.iter().filter(|(_, served)| !served.conn.known).map(|(number, _)| *number).collect();
        strangers.sort_unstable();
        let many = strangers.len().saturating_sub(STRANGERS_MAX);
        strangers[..many].iter().for_each(|number| self.close(*number));
    }

    /// Links come and go, and their addresses with them: who connects now is told of those there are.
    fn look_at_links(&mut self) {
        for (place, (device, offer)) in self.devices.iter().zip(&mut self.offers).enumerate() {
            offer.gid = device.address().unwrap_or_default();
            let heard = self.managers[place].as_ref().is_some_and(|listener| listener.is_at(offer.gid));
            if !offer.is_active() || heard || !by_manager(device, self.connection) {
                continue;
            }
            // One at an address that the port had before hears nobody.
            if let Some(old) = self.managers[place].take() {
                let _ = self.epoll.delete(&**old.events());
                offer.manager = None;
            }
            let number = FIRST_DEVICE + (2 * self.devices.len() + place) as u64;
            let listener = Listener::new(device).map_err(|failure| failure.cause).and_then(|listener| {
                let polled = self.epoll.add(&**listener.events(), EpollEvent::new(EpollFlags::EPOLLIN, number));
                polled.map(|()| listener).map_err(|e| e.to_string())
            });
            match listener {
                Ok(listener) => (offer.manager, self.managers[place]) = (Some(listener.port()), Some(listener)),
                Err(cause) => tracing::debug!("{cause}"),
            }
        }
    }

    fn accept(&mut self) {
        let mut looked = false;
        while let Some(stream) = self.door.next(&self.epoll, "RDMA") {
            if !std::mem::replace(&mut looked, true) {
                self.look_at_links();
            }
            let number = self.next;
            self.next += 1;
            let conn = Conn::new(stream).and_then(|conn| {
                self.epoll.add(conn.socket(), EpollEvent::new(EpollFlags::EPOLLIN, number))?;
                Ok(conn)
            });
            match conn {
                Ok(conn) => {
                    self.conns.insert(number, Served { conn, interest: EpollFlags::EPOLLIN });
                    self.crowd_out();
                }
                Err(e) => tracing::warn!("an RDMA connection could not be served: {e}"),
            }
        }
    }
}

/// For people only: that a queue pair or a link failed is noticed where bytes move.
fn tell_events(device: &Device) {
    while let Some(event) = device.context.next_event() {
        tracing::info!(device = device.name, "RDMA device: {event}");
    }
}
