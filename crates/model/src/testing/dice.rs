//! Random numbers that a seed repeats.

/// SplitMix64: the same seed gives the same cases on every machine.
#[derive(Debug, Clone)]
pub struct Dice(pub u64);

impl Dice {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    /// A number of `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// A number of `low..=high`.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// Whether something happens that does once in so many times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of some values, of which there must be one.
    pub fn of<T: Clone>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())].clone()
    }

    /// One of some characters, of ASCII.
    pub fn byte(&mut self, alphabet: &str) -> u8 {
        self.of(alphabet.as_bytes())
    }

    /// So many of some characters, of ASCII.
    pub fn text(&mut self, alphabet: &str, length: usize) -> String {
        (0..length).map(|_| char::from(self.byte(alphabet))).collect()
    }

    /// Puts values into another order.
    pub fn shuffle<T>(&mut self, values: &mut [T]) {
        for last in (1..values.len()).rev() {
            values.swap(last, self.below(last + 1));
        }
    }

    /// So many of something: each number is as likely, the first of `counts` included.
    pub fn some<T>(
        &mut self,
        counts: std::ops::Range<usize>,
        make: impl FnMut(&mut Dice) -> T,
    ) -> Vec<T> {
        let count = counts.start + self.below(counts.len());
        let mut make = make;
        (0..count).map(|_| make(self)).collect()
    }
}
