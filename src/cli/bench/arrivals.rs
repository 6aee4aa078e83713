//! Which of the messages of a run have arrived: a bit for each.

/// Messages by their number, from 0 on.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    words: Vec<u64>,
    distinct: u64,
    repeated: u64,
}

/// Numbers beyond it are nobody's: a payload may say anything, and memory is not made for that.
const NUMBERS_MAX: u64 = 1 << 36;

impl Arrivals {
    /// Notes one; whether it is there for the first time.
    pub(super) fn insert(&mut self, number: u64) -> bool {
        if number >= NUMBERS_MAX {
            return false;
        }
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        *(if is_new {
            &mut self.distinct
        } else {
            &mut self.repeated
        }) += 1;
        is_new
    }

    /// How many different ones have arrived.
    pub(super) fn distinct(&self) -> u64 {
        self.distinct
    }

    /// How often one came that had come before.
    pub(super) fn repeated(&self) -> u64 {
        self.repeated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_twice_counts_once_and_is_told() {
        let mut arrivals = Arrivals::default();
        for number in [0, 63, 64, 1_000_000, 64, 64, 0] {
            arrivals.insert(number);
        }
        assert_eq!((arrivals.distinct(), arrivals.repeated()), (4, 3));
        assert!(!arrivals.insert(u64::MAX), "no memory is made for that");
        assert_eq!(arrivals.distinct(), 4);
    }
}
