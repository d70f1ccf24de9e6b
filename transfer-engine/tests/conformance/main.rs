//! What every transport must do, run over each of them.

mod bounds;
mod bytes;
mod notices;
mod peers;
mod rig;
mod tickets;

/// Runs every rule over every transport, one test each.
macro_rules! conformance {
    ($($room:ident: $($rule:ident),+;)+) => {
        mod fake { $($(#[test] fn $rule() { super::$room::$rule(&super::rig::Rig::new(super::rig::Way::Fake)); })+)+ }
        mod tcp { $($(#[test] fn $rule() { super::$room::$rule(&super::rig::Rig::new(super::rig::Way::Tcp)); })+)+ }
        mod shm { $($(#[test] fn $rule() { super::$room::$rule(&super::rig::Rig::new(super::rig::Way::Shm)); })+)+ }
        #[cfg(feature = "rdma")]
        mod rdma { $($(
            #[test]
            #[ignore = "needs an RDMA device: scripts/rxe-vm"]
            fn $rule() { super::$room::$rule(&super::rig::Rig::new(super::rig::Way::Rdma)); }
        )+)+ }
    };
}

conformance! {
    bytes: every_size_comes_back, many_extents_and_slices, a_batch_has_one_outcome_each, threads_do_not_mix_their_bytes, transfers_are_counted;
    bounds: a_range_outside_is_refused, a_wrong_capability_is_refused, an_unknown_segment_is_refused, lengths_must_agree, a_withdrawn_segment_gives_no_new_byte;
    notices: a_notice_arrives_after_its_bytes, notices_that_nobody_takes_hold_their_senders_not_the_bytes, a_notice_without_the_capability_is_refused;
    tickets: a_ticket_is_polled_waited_for_and_awaited, what_nobody_waits_for_is_moved_all_the_same, a_dropped_ticket_leaves_the_buffers_alone, registering_rules, nothing_moves_after_the_deadline, a_dropped_ticket_ends_a_long_queue;
}
