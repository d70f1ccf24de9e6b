//! The right bytes arrive at the right place.

use crate::rig::{LONG, Rig, Way, at, pattern};
use perilune_protocol::Extent;
use perilune_transfer_engine::{Counted, Job};

pub(crate) fn every_size_comes_back(rig: &Rig) {
    for len in [0, 1, 3, 480, 481, 4095, 4096, 8191, 8193, 65_537, 1 << 20, (1 << 20) + 1, 64 << 20] {
        let offset = if len < 1 << 20 { 4093 } else { 0 };
        let sent = pattern(len as u64, len);
        let written = rig.client.run(&mut [Job::write(&rig.segment, at(offset, len), &sent)], LONG);
        assert_eq!(written, [Ok(())], "write of {len}");
        let mut there = vec![0; len];
        assert!(rig.memory.read_at(offset, &mut there));
        assert!(there == sent, "{len} bytes must be in the segment when the write is done");
        let mut back = vec![0xee; len + 2];
        let read = rig.client.run(&mut [Job::read(&rig.segment, at(offset, len), &mut back[1..=len])], LONG);
        assert_eq!(read, [Ok(())], "read of {len}");
        assert!(back[1..=len] == sent[..], "{len} bytes must come back");
        assert_eq!((back[0], back[len + 1]), (0xee, 0xee), "nothing beside the buffer is touched");
    }
}

pub(crate) fn many_extents_and_slices(rig: &Rig) {
    // More extents than one frame takes, of lengths that never match those of the slices.
    let extents: Vec<Extent> = (0..10_000u64).map(|i| Extent { offset: (10_000 - i) * 16, len: i % 14 }).collect();
    let total: u64 = extents.iter().map(|e| e.len).sum();
    let sent = pattern(5, total as usize);
    let from: Vec<&[u8]> = sent.chunks(37).collect();
    assert_eq!(rig.client.run(&mut [Job::write_gather(&rig.segment, extents.clone(), from)], LONG), [Ok(())]);
    let mut sent_of = &sent[..];
    for extent in &extents {
        let mut there = vec![0; extent.len as usize];
        assert!(rig.memory.read_at(extent.offset, &mut there));
        assert_eq!(there, sent_of[..there.len()], "at {}", extent.offset);
        sent_of = &sent_of[there.len()..];
    }
    let mut back = vec![0; sent.len()];
    let into: Vec<&mut [u8]> = back.chunks_mut(53).collect();
    assert_eq!(rig.client.run(&mut [Job::read_scatter(&rig.segment, extents, into)], LONG), [Ok(())]);
    assert!(back == sent);
}

pub(crate) fn a_batch_has_one_outcome_each(rig: &Rig) {
    let sent: Vec<Vec<u8>> = (0..500).map(|i| pattern(i, 1 + (i as usize * 97) % 9000)).collect();
    let place = |i: usize| at(i as u64 * 10_000, sent[i].len());
    let mut jobs: Vec<Job<'_>> = (0..sent.len()).map(|i| Job::write(&rig.segment, place(i), &sent[i])).collect();
    assert!(rig.client.run(&mut jobs, LONG).iter().all(Result::is_ok));
    let mut back: Vec<Vec<u8>> = sent.iter().map(|bytes| vec![0; bytes.len()]).collect();
    let lying = rig.described(|desc| desc.size = u64::MAX);
    let mut jobs: Vec<Job<'_>> = back
        .iter_mut()
        .enumerate()
        .map(
            |(i, into)| {
                if i % 50 == 7 { Job::read(&lying, at(u64::MAX / 2, into.len()), into) } else { Job::read(&rig.segment, place(i), into) }
            },
        )
        .collect();
    let outcomes = rig.client.run(&mut jobs, LONG);
    for (i, outcome) in outcomes.iter().enumerate() {
        assert_eq!(outcome.is_err(), i % 50 == 7, "{i}: {outcome:?}");
        assert_eq!(back[i] == sent[i], i % 50 != 7, "{i}");
    }
}

pub(crate) fn threads_do_not_mix_their_bytes(rig: &Rig) {
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            scope.spawn(move || {
                for round in 0..100u64 {
                    let len = 1 + ((thread * 7919 + round * 104_729) % 20_000) as usize;
                    let sent = pattern(thread << 32 | round, len);
                    let mut back = vec![0; len];
                    let place = at(thread * (1 << 20), len);
                    assert_eq!(rig.client.run(&mut [Job::write(&rig.segment, place.clone(), &sent)], LONG), [Ok(())]);
                    assert_eq!(rig.client.run(&mut [Job::read(&rig.segment, place, &mut back)], LONG), [Ok(())]);
                    assert!(back == sent, "thread {thread}, round {round}");
                }
            });
        }
    });
}

pub(crate) fn transfers_are_counted(rig: &Rig) {
    let mut buffer = [0; 100];
    rig.client.run(&mut [Job::read(&rig.segment, at(0, 100), &mut buffer)], LONG);
    rig.client.run(&mut [Job::write(&rig.segment, at(0, 10), &buffer[..10])], LONG);
    let wrong = rig.described(|desc| desc.size = u64::MAX);
    rig.client.run(&mut [Job::write(&wrong, at(u64::MAX / 2, 10), &buffer[..10])], LONG);
    let name = match rig.way {
        Way::Fake => "fake",
        Way::Tcp => "tcp",
        Way::Shm => "shm",
        Way::Rdma => "rdma",
    };
    let counters = rig.client.counters();
    let counts = counters.transports.iter().find(|c| c.transport == name && c.counted == Counted::Asked).unwrap();
    assert_eq!((counts.read.ops, counts.read.bytes), (1, 100));
    assert_eq!((counts.write.ops, counts.write.bytes), (1, 10));
    assert_eq!(counts.write.errors.iter().map(|(_, n)| n).sum::<u64>(), 1);
    if rig.way == Way::Tcp {
        let counters = rig.server.counters();
        let served = counters.transports.iter().find(|c| c.counted == Counted::Served).unwrap();
        assert_eq!((served.read.bytes, served.write.bytes), (100, 10));
    }
}
