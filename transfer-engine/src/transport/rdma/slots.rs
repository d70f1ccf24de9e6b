//! Values that are found without a table: the number of one says which slot it lies in, and how many lay there before it.

/// Slots that are used again and again. A number is the slot, in its lower half, and its turn, in its upper: that of a value that is gone finds
/// nothing, though another one lies there now.
pub(super) struct Slots<T> {
    slots: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Slots<T> {
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }

    /// How many values there are.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes a value in, and says its number.
    pub(super) fn insert(&mut self, value: T) -> u64 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            (self.slots.len() - 1) as u32
        });
        let (turn, place) = &mut self.slots[slot as usize];
        *place = Some(value);
        u64::from(*turn) << 32 | u64::from(slot)
    }

    pub(super) fn get(&self, number: u64) -> Option<&T> {
        let (turn, value) = self.slots.get(number as u32 as usize)?;
        value.as_ref().filter(|_| *turn == (number >> 32) as u32)
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        let (turn, value) = self.slots.get_mut(number as u32 as usize)?;
        value.as_mut().filter(|_| *turn == (number >> 32) as u32)
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<T> {
        let (turn, value) = self.slots.get_mut(number as u32 as usize)?;
        let gone = value.take_if(|_| *turn == (number >> 32) as u32)?;
        *turn = turn.wrapping_add(1);
        self.free.push(number as u32);
        Some(gone)
    }

    /// All values, each with its number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        let all = self.slots.iter().enumerate();
        all.filter_map(|(slot, (turn, value))| Some((u64::from(*turn) << 32 | slot as u64, value.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// Beside a table, with a step of a fixed sequence for every insertion and removal.
    #[test]
    fn a_number_finds_its_own_value_and_no_later_one() {
        let (mut slots, mut table, mut gone, mut random) = (Slots::new(), HashMap::new(), Vec::new(), 1_u64);
        for value in 0..2000_u64 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let number = slots.insert(value);
            assert_eq!(table.insert(number, value), None, "no number comes twice");
            if random >> 40 & 1 == 0 {
                let number = *table.keys().min_by_key(|number| number.rotate_left((random >> 50) as u32 & 63)).unwrap();
                assert_eq!(slots.remove(number), table.remove(&number));
                gone.push(number);
            }
            assert_eq!(slots.len(), table.len());
        }
        assert!(
            gone.iter().all(|&number| slots.get(number).is_none() && slots.get_mut(number).is_none() && slots.remove(number).is_none())
        );
        assert_eq!(slots.iter().map(|(number, value)| (number, *value)).collect::<HashMap<_, _>>(), table);
        assert!(table.iter().all(|(&number, value)| slots.get(number) == Some(value) && slots.get_mut(number).copied() == Some(*value)));
        assert!(slots.slots.len() < 1500, "slots are used again");
    }
}
