//! One client connection: many questions in flight, answered out of order, written in batches.

use super::handlers::{Answering, Session, answer};
use crate::engine::{Engine, Throne};
use bytes::{Buf, BytesMut};
use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{KeepAlive, TcpKeepIdle, TcpUserTimeout};
use perilune_protocol::access::Access;
use perilune_protocol::frame::{self, FrameError, Kind};
use perilune_protocol::rpc::Call;
use perilune_protocol::rpc::object::{PutEnd, Remove, RemoveMatching};
use perilune_protocol::rpc::segment::Unmount;
use perilune_protocol::{Fault, FaultCode, Outcome, rpc};
use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

/// Questions that may be under way on one connection; beyond that it is not read from.
const IN_FLIGHT_MAX: usize = 1024;
/// The same in bytes of their bodies.
const IN_FLIGHT_BYTES: usize = frame::BODY_BYTES_MAX as usize;
/// Seconds after which a peer that says nothing is asked by the kernel whether it is there, and one that takes nothing is given up.
const PEER_SILENT_S: u32 = 30;
/// Answers are written out when so many bytes have gathered, or nothing more is ready.
const FLUSH_BYTES: usize = 256 << 10;
const READ_BYTES: usize = 64 << 10;
/// Questions that set something aside until they are answered.
const SETS_ASIDE: [u16; 4] = [PutEnd::OP, Remove::OP, RemoveMatching::OP, Unmount::OP];
/// What a caller may say, and for how long it may stay, before it has presented the token that is asked for.
const STRANGER_BYTES: usize = 4096;
const STRANGER_PATIENCE: Duration = Duration::from_secs(5);

/// Serves a connection until it ends, or the reign it began in does; then tells the node room. Who waits for an answer when a reign ends gets
/// none: whether another leader knows of what was asked is for the asker to find out. What puts and objects are set aside for is carried out
/// all the same.
///
/// `place` is one of those for strangers, given back when this caller is none any more.
pub(super) async fn serve(
    throne: Arc<Throne>,
    stream: TcpStream,
    peer: SocketAddr,
    session: u64,
    access: Arc<Access>,
    place: Option<OwnedSemaphorePermit>,
) {
    let _ = stream.set_nodelay(true);
    // A peer that vanished, or that takes none of its answers, is given up by the kernel; without this it would be kept for ever.
    let _ = setsockopt(&stream, KeepAlive, &true);
    let _ = setsockopt(&stream, TcpKeepIdle, &PEER_SILENT_S);
    let _ = setsockopt(&stream, TcpUserTimeout, &(PEER_SILENT_S * 1000));
    let session = Arc::new(Session::new(session, peer, access));
    let (engine, mut reign) = throne.served();
    tracing::debug!(%peer, "connected");
    let mut answering = FuturesUnordered::new();
    let ended = tokio::select! {
        ended = exchange(&engine, stream, &session, &mut answering, place) => ended,
        _ = reign.changed() => Err("another master leads, or this one does now".into()),
    };
    let has_left = ended.as_ref().map_or_else(|ended| ended.by_peer, |()| true);
    match ended {
        Ok(()) => tracing::debug!(%peer, "closed"),
        Err(Ended { why, .. }) => tracing::info!(%peer, "connection ended: {why}"),
    }
    let rest: FuturesUnordered<Underway> = answering.into_iter().filter(|underway| SETS_ASIDE.contains(&underway.op)).collect();
    if !rest.is_empty() {
        tokio::spawn(rest.for_each(|_| std::future::ready(())));
    }
    if has_left {
        engine.state().writer_left(session.id());
    }
    if engine.leads() {
        engine.state().nodes.disconnected(session.id());
        engine.judge();
    }
}

/// Why a connection ended that was not closed between two frames.
struct Ended {
    why: String,
    /// The other side closed it, or its system did when its process ended. One that is only silent may have been stopped.
    by_peer: bool,
}

impl From<String> for Ended {
    fn from(why: String) -> Self {
        Self { why, by_peer: false }
    }
}

impl From<&str> for Ended {
    fn from(why: &str) -> Self {
        why.to_owned().into()
    }
}

impl From<std::io::Error> for Ended {
    fn from(error: std::io::Error) -> Self {
        let by_peer = matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof);
        Self { why: error.to_string(), by_peer }
    }
}

async fn exchange(
    engine: &Engine,
    mut stream: TcpStream,
    session: &Arc<Session>,
    answering: &mut FuturesUnordered<Underway>,
    mut place: Option<OwnedSemaphorePermit>,
) -> Result<(), Ended> {
    let mut input = BytesMut::new();
    let mut output = Vec::new();
    let mut in_flight = 0;
    let patience = tokio::time::Instant::now() + STRANGER_PATIENCE;
    loop {
        let broken = take_questions(engine, session, &mut input, answering, &mut in_flight).err();
        while let Some(Some((asked, frame))) = answering.next().now_or_never() {
            in_flight -= asked;
            output.extend_from_slice(&frame);
            if output.len() >= FLUSH_BYTES {
                flush(&mut stream, &mut output).await?;
            }
        }
        if let Some(error) = broken {
            // Say why before closing, as far as the other side can still understand it.
            let fault: Outcome<()> = Err(Fault::from(error));
            let _ = rpc::encode_answer(&mut output, 0, 0, &fault);
            flush(&mut stream, &mut output).await?;
            return Err(error.to_string().into());
        }
        flush(&mut stream, &mut output).await?;
        // A stranger gets neither memory nor time.
        let stranger = !session.is_admitted();
        if !stranger {
            drop(place.take());
        }
        if stranger && input.len() > STRANGER_BYTES {
            return Err("too much was said before a token".into());
        }
        input.reserve(if stranger { STRANGER_BYTES } else { READ_BYTES });
        tokio::select! {
            read = stream.read_buf(&mut input), if answering.len() < IN_FLIGHT_MAX && in_flight < IN_FLIGHT_BYTES => match read {
                Ok(0) if input.is_empty() => return Ok(()),
                Ok(0) => return Err(Ended { why: "closed in the middle of a frame".into(), by_peer: true }),
                Ok(_) => {}
                Err(e) => return Err(e.into()),
            },
            // Made when it is polled: the others of a select are made each time, wanted or not.
            () = async { tokio::time::sleep_until(patience).await }, if stranger => return Err("no token was presented in time".into()),
            Some((asked, frame)) = answering.next(), if !answering.is_empty() => {
                in_flight -= asked;
                output.extend_from_slice(&frame);
            }
        }
    }
}

/// An answer on its way, to which question, and the bytes of that.
struct Underway {
    op: u16,
    asked: usize,
    answer: Answering,
}

impl Future for Underway {
    type Output = (usize, Vec<u8>);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let asked = self.asked;
        self.answer.as_mut().poll(context).map(|frame| (asked, frame))
    }
}

/// Starts answering every whole question that has arrived, as far as the limits go.
fn take_questions(
    engine: &Engine,
    session: &Arc<Session>,
    input: &mut BytesMut,
    answering: &FuturesUnordered<Underway>,
    in_flight: &mut usize,
) -> Result<(), FrameError> {
    while answering.len() < IN_FLIGHT_MAX && *in_flight < IN_FLIGHT_BYTES {
        let Some((header, body, taken)) = frame::split(input)? else { return Ok(()) };
        let answer: Answering = if header.kind == Kind::Question {
            answer(engine, session, header.op, header.id, body)
        } else {
            let stray: Outcome<()> = Err(FaultCode::InvalidParams.with("an answer was sent to the server"));
            let mut frame = Vec::new();
            let _ = rpc::encode_answer(&mut frame, header.op, header.id, &stray);
            Box::pin(std::future::ready(frame))
        };
        answering.push(Underway { op: header.op, asked: taken, answer });
        *in_flight += taken;
        input.advance(taken);
    }
    Ok(())
}

async fn flush(stream: &mut TcpStream, output: &mut Vec<u8>) -> std::io::Result<()> {
    if !output.is_empty() {
        stream.write_all(output).await?;
        output.clear();
        output.shrink_to(FLUSH_BYTES);
    }
    Ok(())
}
