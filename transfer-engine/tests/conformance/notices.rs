//! Numbers for who lends a segment: after the bytes, only from who has the right, and none is lost when nobody takes them.

use crate::rig::{LONG, Rig, Way, at, pattern};
use perilune_protocol::{Capability, SegmentId};
use perilune_transfer_engine::{Counted, Job, Notice, TransferErrorKind};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Long enough for a notice to get through where there is room, and over soon where there is none.
const SHORT: Duration = Duration::from_millis(300);

pub(crate) fn a_notice_arrives_after_its_bytes(rig: &Rig) {
    const ROUNDS: u32 = 200;
    const LEN: usize = 3000;
    let notices = rig.server.notices();
    assert_eq!(notices.next(Duration::ZERO), None);
    std::thread::scope(|scope| {
        // Of two threads: their bytes and their notices may take different connections.
        for thread in 0..2 {
            scope.spawn(move || {
                for round in (thread..ROUNDS).step_by(2) {
                    let place = at(u64::from(round) * LEN as u64, LEN);
                    assert_eq!(rig.client.run(&mut [Job::write(&rig.segment, place, &pattern(round.into(), LEN))], LONG), [Ok(())]);
                    rig.client.notify(&rig.segment, round, LONG).unwrap();
                }
            });
        }
        let mut told = BTreeSet::new();
        while told.len() < ROUNDS as usize {
            let Notice { number } = notices.next(LONG).expect("every notice arrives");
            let mut there = vec![0; LEN];
            assert!(rig.memory.read_at(u64::from(number) * LEN as u64, &mut there));
            assert!(there == pattern(number.into(), LEN), "the bytes come before notice {number}");
            assert!(told.insert(number), "no connection broke, so none comes twice");
        }
    });
    assert_eq!(notices.next(Duration::ZERO), None);
    rig.client.notify(&rig.segment, u32::MAX, LONG).unwrap();
    assert_eq!(rig.server.notices().next(LONG), Some(Notice { number: u32::MAX }));
    let sent: u64 = rig.client.counters().transports.iter().filter(|c| c.counted == Counted::Asked).map(|c| c.notify.ops).sum();
    assert_eq!((sent, rig.server.counters().notices_taken), (u64::from(ROUNDS) + 1, u64::from(ROUNDS) + 1));
}

pub(crate) fn notices_that_nobody_takes_hold_their_senders_not_the_bytes(rig: &Rig) {
    const BOUND: u32 = 1024;
    let next = AtomicU32::new(0);
    // Until there is no room for any sender, however the room was shared out.
    let (sent, refused) = std::thread::scope(|scope| {
        let sender = || {
            let mut sent = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                // To connect may take longer, and whoever gave up before would leave room.
                match rig.client.notify(&rig.segment, number, if sent.is_empty() { LONG } else { 5 * SHORT }) {
                    Ok(()) => sent.push(number),
                    Err(error) => return (sent, error),
                }
                assert!(number < 2 * BOUND, "the queue has no bound");
            }
        };
        let senders: Vec<_> = (0..2).map(|_| scope.spawn(sender)).collect();
        let ended: Vec<_> = senders.into_iter().map(|sender| sender.join().unwrap()).collect();
        (ended.iter().flat_map(|(sent, _)| sent.clone()).collect::<BTreeSet<_>>(), ended.into_iter().next().unwrap().1)
    });
    assert_eq!(refused.kind, TransferErrorKind::Timeout);
    let said = refused.to_string();
    assert!(said.contains("notice") && said.contains("no room for notices"), "{said}");
    assert!(sent.len() <= BOUND as usize && sent.len() > BOUND as usize / 4, "{} are in the queue", sent.len());
    let (mut bytes, mut back) = (pattern(1, 100_000), vec![0; 100_000]);
    std::thread::scope(|scope| {
        // Bytes pass while a notice waits.
        let waiting = scope.spawn(|| rig.client.notify(&rig.segment, BOUND * 4, LONG));
        for round in 0..5 {
            bytes[0] = round;
            assert_eq!(rig.client.run(&mut [Job::write(&rig.segment, at(0, bytes.len()), &bytes)], LONG), [Ok(())]);
            assert_eq!(rig.client.run(&mut [Job::read(&rig.segment, at(0, back.len()), &mut back)], LONG), [Ok(())]);
            assert!(back == bytes);
        }
        assert!(!waiting.is_finished(), "nobody took a notice");
        let notices = rig.server.notices();
        let mut taken = BTreeSet::new();
        let begun = Instant::now();
        while !taken.contains(&(BOUND * 4)) {
            let Notice { number } = notices.next(LONG).expect("what was sent is there");
            assert!(taken.insert(number), "none comes twice");
            assert!(begun.elapsed() < LONG);
        }
        assert_eq!(waiting.join().unwrap(), Ok(()), "with room again it gets through");
        while let Some(Notice { number }) = notices.next(SHORT) {
            assert!(taken.insert(number), "none comes twice");
        }
        assert!(taken.is_superset(&sent), "nothing is dropped");
    });
    // And so on, several times what there is room for.
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| (0..3 * BOUND).try_for_each(|number| rig.client.notify(&rig.segment, number, LONG)));
        let notices = rig.server.notices();
        let all: BTreeSet<u32> = (0..3 * BOUND).map_while(|_| notices.next(LONG).map(|notice| notice.number)).collect();
        assert_eq!(all.len(), 3 * BOUND as usize);
        assert_eq!(sender.join().unwrap(), Ok(()));
    });
}

pub(crate) fn a_notice_without_the_capability_is_refused(rig: &Rig) {
    let stranger = rig.described(|desc| desc.capability = Capability::random());
    let nowhere = rig.described(|desc| desc.id = SegmentId::random());
    for (segment, kind) in [(&stranger, TransferErrorKind::Denied), (&nowhere, TransferErrorKind::UnknownSegment)] {
        let error = rig.client.notify(segment, 7, LONG).unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.to_string().starts_with("notice 7 to who lends segment"), "{error}");
    }
    assert_eq!(rig.server.notices().next(Duration::ZERO), None);
    rig.client.notify(&rig.segment, 8, LONG).unwrap();
    assert_eq!(rig.server.notices().next(LONG), Some(Notice { number: 8 }));
    assert!(rig.server.withdraw(rig.segment.id()));
    let begun = Instant::now();
    let error = loop {
        match rig.client.notify(&rig.segment, 9, LONG) {
            Err(error) => break error,
            // A device takes notices from who once showed a capability, until its owner's word of the withdrawal has arrived.
            Ok(()) => assert!(rig.way == Way::Rdma && begun.elapsed() < LONG, "who has lost the right is heard"),
        }
    };
    assert_eq!(error.kind, TransferErrorKind::UnknownSegment, "{error}");
}
