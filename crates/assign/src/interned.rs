//! Equal values kept once and called by a number.

use std::{collections::BTreeMap, sync::Arc};

/// Values in use, each with a number that stays its own as long as it is in use.
#[derive(Debug)]
pub(crate) struct Interned<T> {
    numbers: BTreeMap<Arc<T>, u32>,
    slots: Vec<Option<Slot<T>>>,
    free: Vec<u32>,
    /// How many numbers have been given out.
    given: u64,
}

#[derive(Debug)]
struct Slot<T> {
    value: Arc<T>,
    uses: usize,
    /// Which of the numbers given out this was, from 1.
    nth: u64,
}

/// What is said of each value in use, by number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answers {
    said: Vec<bool>,
    /// How many numbers had been given out when this was said.
    given: u64,
}

impl Answers {
    pub fn of(&self, number: u32) -> bool {
        self.said[number as usize]
    }
}

impl<T> Default for Interned<T> {
    fn default() -> Self {
        Self { numbers: BTreeMap::new(), slots: Vec::new(), free: Vec::new(), given: 0 }
    }
}

impl<T: Ord> Interned<T> {
    /// Counts one more use of `value`, replaces it by the one kept, and gives its number.
    pub fn take(&mut self, value: &mut Arc<T>) -> u32 {
        if let Some((kept, number)) = self.numbers.get_key_value(value) {
            *value = Arc::clone(kept);
            let slot = self.slots[*number as usize].as_mut().expect("a number that is given out has a slot");
            slot.uses += 1;
            return *number;
        }
        self.given += 1;
        let slot = Some(Slot { value: Arc::clone(value), uses: 1, nth: self.given });
        let number = match self.free.pop() {
            Some(number) => {
                self.slots[number as usize] = slot;
                number
            }
            None => {
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 reads wait")
            }
        };
        self.numbers.insert(Arc::clone(value), number);
        number
    }

    /// Counts one use less; the last one frees the number.
    pub fn release(&mut self, number: u32) {
        let place = &mut self.slots[number as usize];
        let slot = place.as_mut().expect("a number that is given back was given out");
        slot.uses -= 1;
        if slot.uses == 0 {
            self.numbers.remove(&slot.value);
            *place = None;
            self.free.push(number);
        }
    }

    /// Brings `answers` up to date: what `ask` says of each value that has come since. What it says of the others has to
    /// be the same as before.
    pub fn ask(&self, answers: &mut Answers, ask: impl Fn(&T) -> bool) {
        if answers.given == self.given {
            return;
        }
        answers.said.resize(self.slots.len(), false);
        for (slot, said) in self.slots.iter().zip(&mut answers.said) {
            if let Some(slot) = slot.as_ref().filter(|slot| slot.nth > answers.given) {
                *said = ask(&slot.value);
            }
        }
        answers.given = self.given;
    }
}
