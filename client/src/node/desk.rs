//! Where the hands of a node wait for orders.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What hands take orders from. Nobody spins while it waits, as channels do: there are many more hands than processors, and next to all of
/// them wait.
pub(super) struct Desk<O> {
    state: Mutex<State<O>>,
    /// Each hand waits at its own.
    seats: Vec<Condvar>,
}

struct State<O> {
    orders: VecDeque<O>,
    /// The hands that wait. The last that came gets the next order: its stack and its part of the heap are still warm.
    idle: Vec<usize>,
    closed: bool,
}

/// Gives orders. Dropped, it closes the desk.
pub(super) struct Giver<O>(Arc<Desk<O>>);

impl<O> Desk<O> {
    /// For so many hands, which are numbered.
    pub(super) fn new(hands: usize) -> (Giver<O>, Arc<Self>) {
        let state = State { orders: VecDeque::new(), idle: Vec::with_capacity(hands), closed: false };
        let desk = Arc::new(Self { state: Mutex::new(state), seats: (0..hands).map(|_| Condvar::new()).collect() });
        (Giver(Arc::clone(&desk)), desk)
    }

    /// The next order for this hand, once there is one; none when the desk is closed and nothing is left on it.
    pub(super) fn take(&self, hand: usize) -> Option<O> {
        let mut state = self.lock();
        loop {
            let order = state.orders.pop_front();
            let waits = state.idle.iter().rposition(|idle| *idle == hand);
            if order.is_some() || state.closed {
                if let Some(place) = waits {
                    state.idle.remove(place);
                }
                return order;
            }
            if waits.is_none() {
                state.idle.push(hand);
            }
            state = self.seats[hand].wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<O>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<O> Giver<O> {
    pub(super) fn give(&self, order: O) {
        let mut state = self.0.lock();
        state.orders.push_back(order);
        // Where none waits, the next that is free looks here first.
        let hand = state.idle.pop();
        drop(state);
        if let Some(hand) = hand {
            self.0.seats[hand].notify_one();
        }
    }
}

impl<O> Drop for Giver<O> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.seats.iter().for_each(Condvar::notify_one);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::thread;

    #[test]
    fn every_order_is_taken_once_and_the_last_that_came_is_the_next() {
        const HANDS: usize = 4;
        const ORDERS: usize = 10_000;
        let (giver, desk) = Desk::new(HANDS);
        let (tell, told) = channel();
        let hands: Vec<_> = (0..HANDS)
            .map(|hand| {
                let (desk, tell) = (Arc::clone(&desk), tell.clone());
                thread::spawn(move || {
                    while let Some(order) = desk.take(hand) {
                        tell.send((hand, order)).unwrap();
                    }
                })
            })
            .collect();
        let wait_for = |idle| {
            while desk.lock().idle.len() < idle {
                thread::yield_now();
            }
        };
        wait_for(HANDS);
        for order in 0..100 {
            let next = *desk.lock().idle.last().unwrap();
            giver.give(order);
            assert_eq!(told.recv().unwrap(), (next, order));
            wait_for(HANDS);
        }
        (100..ORDERS).for_each(|order| giver.give(order));
        // What lies on a closed desk is taken, too.
        drop((giver, tell));
        let mut taken: Vec<_> = told.iter().map(|(_, order)| order).collect();
        taken.sort_unstable();
        assert_eq!(taken, (100..ORDERS).collect::<Vec<_>>());
        hands.into_iter().for_each(|hand| hand.join().unwrap());
    }
}
