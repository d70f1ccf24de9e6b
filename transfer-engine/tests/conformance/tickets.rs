//! Tickets: polled, waited for, awaited, dropped; and registration.

use crate::rig::{LONG, Rig, at, kind_of, pattern};
use perilune_transfer_engine::{EngineError, Job, LocalSlice, Op, Request, TransferErrorKind};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

fn request(rig: &Rig, op: Op, offset: u64, buffer: &mut [u8]) -> Request {
    Request { op, segment: rig.segment.clone(), extents: at(offset, buffer.len()), local: vec![LocalSlice::from_mut(buffer)] }
}

pub(crate) fn a_ticket_is_polled_waited_for_and_awaited(rig: &Rig) {
    for round in 0..50u64 {
        let mut sent = pattern(round, 300_000);
        let mut back = vec![0; sent.len()];
        let writes = vec![request(rig, Op::Write, 0, &mut sent)];
        // SAFETY: `sent` outlives the ticket and is not touched meanwhile.
        let ticket = unsafe { rig.client.submit(writes, LONG) };
        assert_eq!(ticket.wait(), [Ok(())]);
        let reads = vec![request(rig, Op::Read, 0, &mut back[..150_000]), request(rig, Op::Read, 150_000, &mut back[150_000..])];
        // SAFETY: `back` outlives the ticket and is not touched meanwhile.
        let mut ticket = unsafe { rig.client.submit(reads, LONG) };
        let outcomes = if round % 2 == 0 {
            block_on(ticket)
        } else {
            loop {
                // Nobody waits: the background thread moves the bytes.
                if let Some(outcomes) = ticket.poll() {
                    assert_eq!(ticket.poll(), None, "outcomes are given once");
                    break outcomes;
                }
                std::thread::yield_now();
            }
        };
        assert_eq!(outcomes, [Ok(()), Ok(())]);
        assert!(back == sent, "round {round}");
    }
}

/// Who submitted does not come back: the background thread takes over, and gives the lane back to one who waits.
pub(crate) fn what_nobody_waits_for_is_moved_all_the_same(rig: &Rig) {
    for round in 1..=20_u8 {
        let mut sent = vec![round; if round % 2 == 0 { 3000 } else { 24 << 20 }];
        let last = sent.len() as u64 - 1;
        let writes = vec![request(rig, Op::Write, 0, &mut sent)];
        // SAFETY: `sent` outlives the ticket and is not touched meanwhile.
        let ticket = unsafe { rig.client.submit(writes, LONG) };
        let (mut there, asked) = ([0], Instant::now());
        while there != [round] {
            assert!(asked.elapsed() < LONG, "round {round}: {:?}", ticket.wait());
            std::thread::yield_now();
            assert!(rig.memory.read_at(last, &mut there));
        }
        assert_eq!(ticket.wait(), [Ok(())]);
    }
}

pub(crate) fn a_dropped_ticket_leaves_the_buffers_alone(rig: &Rig) {
    const LEN: usize = 8 << 20;
    assert!(rig.memory.write_at(0, &vec![1; LEN]));
    for round in 0..20 {
        let mut buffer = vec![0; LEN];
        let reads = vec![request(rig, Op::Read, 0, &mut buffer)];
        // SAFETY: `buffer` outlives the ticket and is not touched meanwhile.
        let ticket = unsafe { rig.client.submit(reads, LONG) };
        drop(ticket);
        buffer.fill(9);
        // The answer of a cancelled read still comes; a later read behind it on the same connection finds its own bytes.
        let mut later = vec![0; 100];
        let reads = vec![request(rig, Op::Read, LEN as u64 - 100, &mut later)];
        // SAFETY: as above.
        assert_eq!(unsafe { rig.client.submit(reads, LONG) }.wait(), [Ok(())]);
        assert_eq!(later, vec![1; 100]);
        assert!(buffer.iter().all(|&b| b == 9), "round {round}: touched after the drop");
        // The same for a write, whose frame may be half sent.
        let mut sent = vec![1; LEN];
        let writes = vec![request(rig, Op::Write, 0, &mut sent)];
        // SAFETY: as above.
        drop(unsafe { rig.client.submit(writes, LONG) });
        sent.fill(2);
        drop(sent);
        let mut check = vec![0; 100];
        let reads = vec![request(rig, Op::Read, LEN as u64, &mut check)];
        // SAFETY: as above.
        assert_eq!(unsafe { rig.client.submit(reads, LONG) }.wait(), [Ok(())]);
        assert_eq!(check, vec![0; 100]);
    }
    let mut there = vec![0; LEN];
    assert!(rig.memory.read_at(0, &mut there));
    assert!(there.iter().all(|&b| b == 1), "bytes of a buffer that was given back were sent");
}

/// However much is queued, a lane stays open for other things.
pub(crate) fn a_dropped_ticket_ends_a_long_queue(rig: &Rig) {
    const LAST: u64 = 70 << 20;
    let mut large = vec![1; 16 << 20];
    let mut writes: Vec<_> = (0..400).map(|_| request(rig, Op::Write, 0, &mut large)).collect();
    writes.push(request(rig, Op::Write, LAST, &mut large[..8]));
    // SAFETY: `large` outlives the ticket and is only read.
    drop(unsafe { rig.client.submit(writes, LONG) });
    let mut there = [7; 8];
    assert!(rig.memory.read_at(LAST, &mut there));
    assert_eq!(there, [0; 8], "the whole queue was moved before anything else");
}

pub(crate) fn registering_rules(rig: &Rig) {
    let mut buffer = vec![0u8; 4096];
    let base = buffer.as_mut_ptr();
    // SAFETY: `buffer` outlives its registrations.
    unsafe {
        rig.client.register(base, 4096).unwrap();
        assert!(matches!(rig.client.register(base, 4096), Err(EngineError::Overlap { .. })));
        assert!(matches!(rig.client.register(base.add(4095), 1), Err(EngineError::Overlap { .. })));
        assert!(matches!(rig.client.register(base, 0), Err(EngineError::BadBuffer { .. })));
    }
    assert!(matches!(rig.client.unregister(base.wrapping_add(1)), Err(EngineError::NotRegistered(_))));
    rig.client.unregister(base).unwrap();
    assert!(matches!(rig.client.unregister(base), Err(EngineError::NotRegistered(_))));
}

/// After its deadline the space of a put may be somebody else's: nothing may be written there any more, however long the queue was.
pub(crate) fn nothing_moves_after_the_deadline(rig: &Rig) {
    const LEN: usize = 16 << 20;
    const LAST: u64 = 70 << 20;
    let large = vec![1; LEN];
    assert_eq!(
        kind_of(rig.client.run(&mut [Job::write(&rig.segment, at(LAST, 8), &large[..8])], Duration::ZERO)),
        TransferErrorKind::Timeout
    );
    // Far more than can be moved until then.
    let mut jobs: Vec<Job<'_>> = (0..200).map(|_| Job::write(&rig.segment, at(0, LEN), &large)).collect();
    jobs.push(Job::write(&rig.segment, at(LAST, 8), &large[..8]));
    let begun = Instant::now();
    let mut outcomes = rig.client.run(&mut jobs, Duration::from_millis(5));
    assert!(begun.elapsed() < LONG, "{:?}", begun.elapsed());
    assert_eq!(outcomes.pop().unwrap().unwrap_err().kind, TransferErrorKind::Timeout);
    let mut there = [7; 8];
    assert!(rig.memory.read_at(LAST, &mut there));
    assert_eq!(there, [0; 8], "{} of 200 were in time", outcomes.iter().filter(|outcome| outcome.is_ok()).count());
}
