//! What must not be moved is not moved.

use crate::rig::{LONG, Rig, SIZE, Way, at, kind_of, pattern};
use perilune_protocol::{Capability, Extent, SegmentId};
use perilune_transfer_engine::{Job, Request, TransferErrorKind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub(crate) fn a_range_outside_is_refused(rig: &Rig) {
    // Both by the caller's own knowledge of the segment, and by its owner when that knowledge is wrong.
    let lying = rig.described(|desc| desc.size = u64::MAX);
    for segment in [&rig.segment, &lying] {
        for (offset, len) in [(SIZE, 1), (SIZE - 1, 2), (u64::MAX - 1, 2), (u64::MAX / 2, 64)] {
            let mut buffer = vec![7; len];
            let written = rig.client.run(&mut [Job::write(segment, at(offset, len), &buffer)], LONG);
            assert_eq!(kind_of(written), TransferErrorKind::Denied, "write {offset} {len}");
            let read = rig.client.run(&mut [Job::read(segment, at(offset, len), &mut buffer)], LONG);
            let message = read[0].as_ref().unwrap_err().to_string();
            assert!(message.contains("read") && message.contains(&format!("{offset}..")), "{message}");
            assert_eq!(kind_of(read), TransferErrorKind::Denied, "read {offset} {len}");
            assert!(buffer.iter().all(|&b| b == 7), "a refused read touches nothing");
        }
        // One bad extent among good ones refuses them all.
        let sent = pattern(1, 20);
        let extents = vec![Extent { offset: 0, len: 10 }, Extent { offset: SIZE - 5, len: 10 }];
        assert_eq!(kind_of(rig.client.run(&mut [Job::write(segment, extents, &sent)], LONG)), TransferErrorKind::Denied);
        let mut there = [1; 10];
        assert!(rig.memory.read_at(0, &mut there));
        assert_eq!(there, [0; 10], "nothing of a refused write is there");
    }
    // A large refused write is swallowed, and the connection still works.
    let large = vec![1; 8 << 20];
    assert_eq!(kind_of(rig.client.run(&mut [Job::write(&lying, at(SIZE - 1, large.len()), &large)], LONG)), TransferErrorKind::Denied);
    assert_eq!(rig.client.run(&mut [Job::write(&rig.segment, at(0, 3), b"yes")], LONG), [Ok(())]);
}

pub(crate) fn a_wrong_capability_is_refused(rig: &Rig) {
    assert_eq!(rig.client.run(&mut [Job::write(&rig.segment, at(0, 6), b"secret")], LONG), [Ok(())]);
    let stranger = rig.described(|desc| desc.capability = Capability::random());
    let mut buffer = [0; 6];
    assert_eq!(kind_of(rig.client.run(&mut [Job::read(&stranger, at(0, 6), &mut buffer)], LONG)), TransferErrorKind::Denied);
    assert_eq!(kind_of(rig.client.run(&mut [Job::write(&stranger, at(0, 6), b"broken")], LONG)), TransferErrorKind::Denied);
    assert_eq!(buffer, [0; 6]);
    assert_eq!(rig.client.run(&mut [Job::read(&rig.segment, at(0, 6), &mut buffer)], LONG), [Ok(())]);
    assert_eq!(&buffer, b"secret");
}

pub(crate) fn an_unknown_segment_is_refused(rig: &Rig) {
    let nowhere = rig.described(|desc| desc.id = SegmentId::random());
    let mut buffer = [0; 6];
    assert_eq!(kind_of(rig.client.run(&mut [Job::read(&nowhere, at(0, 6), &mut buffer)], LONG)), TransferErrorKind::UnknownSegment);
    assert_eq!(kind_of(rig.client.run(&mut [Job::write(&nowhere, at(0, 6), b"broken")], LONG)), TransferErrorKind::UnknownSegment);
    let unreachable = rig.described(|desc| desc.endpoints.clear());
    assert_eq!(kind_of(rig.client.run(&mut [Job::write(&unreachable, at(0, 6), b"broken")], LONG)), TransferErrorKind::PeerUnreachable);
    assert!(!rig.server.withdraw(nowhere.id()));
}

pub(crate) fn lengths_must_agree(rig: &Rig) {
    let mut buffer = [0; 6];
    for extents in [at(0, 5), at(0, 7), Vec::new(), vec![Extent { offset: 0, len: 5 }; 2]] {
        let outcome = rig.client.run(&mut [Job::read(&rig.segment, extents, &mut buffer)], LONG);
        assert_eq!(kind_of(outcome), TransferErrorKind::BadRequest);
    }
    // SAFETY: there is no local memory.
    let ticket = unsafe {
        rig.client.submit(
            vec![Request { op: perilune_transfer_engine::Op::Read, segment: rig.segment.clone(), extents: Vec::new(), local: Vec::new() }],
            LONG,
        )
    };
    assert_eq!(ticket.wait(), [Ok(())], "nothing is moved, and that succeeds");
}

pub(crate) fn a_withdrawn_segment_gives_no_new_byte(rig: &Rig) {
    const LEN: usize = 1 << 20;
    assert!(rig.memory.write_at(0, &vec![b'a'; LEN]));
    let (reads, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut buffer = vec![0; LEN];
                    loop {
                        let outcome = rig.client.run(&mut [Job::read(&rig.segment, at(0, LEN), &mut buffer)], LONG).remove(0);
                        assert!(!buffer.contains(&b'b'), "a byte from after the withdrawal");
                        match outcome {
                            Ok(()) => reads.fetch_add(1, Ordering::SeqCst),
                            Err(error) => return error,
                        };
                        assert!(!stop.load(Ordering::SeqCst), "a read that began after the withdrawal succeeded");
                    }
                })
            })
            .collect();
        while reads.load(Ordering::SeqCst) < 10 {
            std::thread::yield_now();
        }
        assert!(rig.server.withdraw(rig.segment.id()));
        assert!(rig.memory.write_at(0, &vec![b'b'; LEN]));
        for reader in readers {
            assert_eq!(reader.join().unwrap().kind, TransferErrorKind::UnknownSegment);
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert!(!rig.server.withdraw(rig.segment.id()));
    // Lent again, it works again, without the client's doing.
    rig.server.export(rig.segment.id(), rig.memory.clone(), rig.segment.desc().capability).unwrap();
    assert!(rig.server.export(rig.segment.id(), rig.memory.clone(), rig.segment.desc().capability).is_err());
    if rig.way == Way::Rdma {
        rig.server.export_rdma(rig.segment.id()).unwrap();
    }
    let mut buffer = [0; 3];
    assert_eq!(rig.client.run(&mut [Job::read(&rig.segment, at(0, 3), &mut buffer)], LONG), [Ok(())]);
    assert_eq!(&buffer, b"bbb");
}
