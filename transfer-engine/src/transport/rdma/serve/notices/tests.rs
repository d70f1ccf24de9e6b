//! Credits without devices: who gets some, who waits, who is taken for one that keeps them from others.

use super::*;
use crate::notice::{Notices, PLACES};

fn desk(receives: &[u32]) -> (Desk, Notices) {
    let mailbox = Arc::new(Mailbox::default());
    let notices = Notices::new(Arc::clone(&mailbox));
    (Desk { left: receives.to_vec(), ..Desk::new(mailbox, Vec::new()) }, notices)
}

fn admitted(desk: &mut Desk, number: u64) -> Purse {
    admitted_on(desk, number, 0)
}

fn admitted_on(desk: &mut Desk, number: u64, device: usize) -> Purse {
    let end = End { number: number as u32, psn: 0, gid: [0; 16], lid: 0, mtu: 1024, reads: 1, answers: 1 };
    let mut purse = Purse::default();
    desk.admit(number, device, &[end], &mut purse);
    Purse { trusted: true, ..purse }
}

/// All credits that are due and there, by connection.
fn fed(desk: &mut Desk, purses: &mut [Purse]) -> Vec<(u64, u32)> {
    let mut all = Vec::new();
    while let Some(hungry) = desk.hungry() {
        let number = hungry.number;
        match desk.feed(hungry, &mut purses[number as usize]) {
            Some(count) => all.push((number, count)),
            None => break,
        }
    }
    all
}

#[test]
fn a_crowd_of_silent_peers_leaves_room_for_one_that_asks() {
    let (mut desk, notices) = desk(&[PLACES as u32]);
    let crowd = u64::from(STANDING_MAX / STANDING);
    let mut purses: Vec<Purse> = (0..crowd + 2).map(|number| admitted(&mut desk, number)).collect();
    let late = crowd as usize;
    assert_eq!((purses[late - 1].standing, purses[late].standing), (STANDING, 0));
    let mut told = 0;
    // It asks, sends, and asks again, until the queue is full.
    loop {
        purses[late].wanted = WISH_MAX;
        desk.look_at(crowd, &mut purses[late]);
        let got: u32 = fed(&mut desk, &mut purses).into_iter().map(|(_, count)| count).sum();
        if got == 0 {
            break;
        }
        for _ in 0..got {
            desk.take(crowd, told, &mut purses[late]).unwrap();
            told += 1;
        }
    }
    assert_eq!(told as usize, PLACES / 2, "all that the others may not use");
    assert!(desk.take(crowd, told, &mut purses[late]).is_err(), "no credit is left");
    // Another one that waits gets its turn with the next places, whoever asked more.
    let other = late + 1;
    purses[other].wanted = 3;
    desk.look_at(crowd + 1, &mut purses[other]);
    (0..20).for_each(|_| assert!(notices.next(Duration::ZERO).is_some()));
    let got = fed(&mut desk, &mut purses);
    assert_eq!(got, [(crowd, 20)]);
    (0..20).for_each(|_| assert!(notices.next(Duration::ZERO).is_some()));
    assert_eq!(fed(&mut desk, &mut purses), [(crowd + 1, 3), (crowd, 12)]);
    // What is returned, or left behind by one that ends, is there for others.
    purses[other].returned = 3;
    desk.look_at(crowd + 1, &mut purses[other]);
    let before = desk.left[0];
    purses.iter_mut().zip(0..).for_each(|(purse, number)| desk.leave(number, purse));
    assert_eq!((desk.standing, desk.left[0]), (0, PLACES as u32));
    assert!(before < PLACES as u32 && desk.owners.is_empty());
    assert_eq!(desk.mailbox.promise(PLACES), PLACES - (told as usize - 40));
}

#[test]
fn no_more_is_given_than_a_device_has_receives_and_a_hoarder_gets_no_more() {
    let (mut desk, _notices) = desk(&[STANDING + WISH_MAX + 1]);
    let mut purses = vec![admitted(&mut desk, 0), admitted(&mut desk, 1)];
    for _ in 0..3 {
        purses[0].wanted = WISH_MAX;
        desk.look_at(0, &mut purses[0]);
        fed(&mut desk, &mut purses);
    }
    assert_eq!((purses[0].held, purses[1].held, desk.left[0]), (STANDING + WISH_MAX - STANDING + 1, STANDING, 0));
    assert!(purses[0].idle_since.is_some() && purses[1].idle_since.is_none());
    purses[0].returned = purses[0].held - STANDING;
    desk.look_at(0, &mut purses[0]);
    assert!(purses[0].idle_since.is_none());
    purses[0].hold(STANDING + WISH_MAX);
    assert!(purses[0].holds(WISH_MAX) && !purses[0].holds(WISH_MAX + STANDING + 1));
}

#[test]
fn used_credits_come_back_together_and_only_trust_is_heard() {
    let (mut desk, notices) = desk(&[PLACES as u32]);
    let mut purses = vec![admitted(&mut desk, 0)];
    for value in 0..STANDING {
        desk.take(0, value, &mut purses[0]).unwrap();
        let got = fed(&mut desk, &mut purses);
        assert_eq!(got.is_empty(), (value + 1) % STANDING.div_ceil(2) != 0, "after {value}: {got:?}");
    }
    purses[0].trusted = false;
    assert!(desk.take(0, 99, &mut purses[0]).is_err());
    let all: Vec<u32> = std::iter::from_fn(|| notices.next(Duration::ZERO).map(|notice| notice.number)).collect();
    assert_eq!(all, (0..STANDING).collect::<Vec<_>>());
}

/// A connection asks for so many and gets what there is.
fn asks(desk: &mut Desk, purses: &mut [Purse], number: u64, count: u32) -> Vec<(u64, u32)> {
    purses[number as usize].wanted = count;
    desk.look_at(number, &mut purses[number as usize]);
    fed(desk, purses)
}

#[test]
fn who_uses_its_credits_is_no_hoarder_when_the_queue_is_full() {
    let (mut desk, notices) = desk(&[PLACES as u32]);
    let mut purses = vec![admitted(&mut desk, 0), admitted(&mut desk, 1), admitted(&mut desk, 2)];
    assert_eq!(asks(&mut desk, &mut purses, 0, WISH_MAX), [(0, WISH_MAX)]);
    // It has held more than the standing ones for long, while nobody else wanted any.
    let now = Instant::now();
    let earlier = |by: Duration| now.checked_sub(by).unwrap();
    purses[0].idle_since = Some(earlier(2 * KEEP_MAX));
    let _full = desk.mailbox.promise(PLACES);
    assert_eq!(asks(&mut desk, &mut purses, 0, 3), []);
    assert!(!desk.hoards(0, &purses[0], now + 2 * KEEP_MAX), "only itself waits");
    // The hunger of another one has just begun.
    assert_eq!(asks(&mut desk, &mut purses, 1, 3), []);
    assert!(desk.short() && !desk.hoards(0, &purses[0], now));
    let later = Instant::now() + KEEP_MAX;
    assert!(desk.hoards(0, &purses[0], later) && !desk.hoards(2, &purses[2], later), "used none all the time, while another one waited");
    // Who wants none any more waits no longer, and waits anew when it does.
    assert_eq!(asks(&mut desk, &mut purses, 1, 0), []);
    assert!(!desk.hoards(0, &purses[0], later));
    assert_eq!(asks(&mut desk, &mut purses, 1, 3), []);
    // It used one, or returned one: counted anew.
    desk.take(0, 77, &mut purses[0]).unwrap();
    assert!(purses[0].idle_since >= Some(now) && purses[0].held > STANDING);
    purses[0].idle_since = Some(earlier(2 * KEEP_MAX));
    purses[0].returned = 1;
    desk.look_at(0, &mut purses[0]);
    assert!(purses[0].idle_since >= Some(now) && purses[0].held > STANDING);
    assert!(desk.hoards(0, &purses[0], Instant::now() + KEEP_MAX));
    assert_eq!(notices.next(Duration::ZERO).map(|notice| notice.number), Some(77));
}

#[test]
fn a_device_without_receives_holds_up_no_other() {
    let (mut desk, _notices) = desk(&[0, STANDING, PLACES as u32]);
    let mut purses: Vec<Purse> = (0..3).map(|number| admitted_on(&mut desk, number, number as usize)).collect();
    assert_eq!(purses.iter().map(|purse| purse.standing).collect::<Vec<_>>(), [0, STANDING, STANDING]);
    assert_eq!(asks(&mut desk, &mut purses, 0, 5), []);
    assert_eq!(asks(&mut desk, &mut purses, 1, 5), []);
    assert_eq!(asks(&mut desk, &mut purses, 2, WISH_MAX), [(2, WISH_MAX)]);
    let later = Instant::now() + KEEP_MAX;
    assert!(!desk.hoards(2, &purses[2], later), "its credits would help nobody");
    // Those of the same device would.
    desk.take(1, 1, &mut purses[1]).unwrap();
    assert_eq!(fed(&mut desk, &mut purses), [(1, 1)]);
    assert!(desk.hungry.iter().map(|hungry| hungry.number).eq([0, 1]));
}
