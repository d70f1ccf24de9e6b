//! A list that mostly has one item: copies of an object, extents of a copy.

use std::ops::Deref;

/// A slice of its own. A lone item lies in it, so that it takes no allocation and no step through memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Few<T>(Items<T>);

/// What has one item is never `Other`, or equal lists would differ.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Items<T> {
    One(T),
    Other(Box<[T]>),
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self(Items::Other(Box::default()))
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.0 {
            Items::One(item) => std::slice::from_ref(item),
            Items::Other(items) => items,
        }
    }
}

impl<T> From<Vec<T>> for Few<T> {
    fn from(mut items: Vec<T>) -> Self {
        match items.pop() {
            Some(only) if items.is_empty() => Self(Items::One(only)),
            Some(last) => {
                items.push(last);
                Self(Items::Other(items.into()))
            }
            None => Self::default(),
        }
    }
}

impl<T: Clone> From<&[T]> for Few<T> {
    fn from(items: &[T]) -> Self {
        match items {
            [only] => Self(Items::One(only.clone())),
            items => Self(Items::Other(items.into())),
        }
    }
}

impl<T> FromIterator<T> for Few<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut items = items.into_iter();
        let Some(first) = items.next() else { return Self::default() };
        match items.next() {
            None => Self(Items::One(first)),
            Some(second) => Self(Items::Other([first, second].into_iter().chain(items).collect())),
        }
    }
}

impl<'a, T> IntoIterator for &'a Few<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_it_was_made_it_is_what_was_put_in() {
        for count in 0..5 {
            let items: Vec<String> = (0..count).map(|n| n.to_string()).collect();
            let made = [Few::from(items.clone()), Few::from(items.as_slice()), items.iter().cloned().collect()];
            for few in made {
                assert_eq!(*few, *items);
                assert_eq!((&few, few.into_iter().count()), (&Few::from(items.clone()), count));
                assert_eq!(matches!(few.0, Items::One(_)), count == 1);
            }
        }
    }
}
