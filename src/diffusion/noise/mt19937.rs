//! The Mersenne Twister of Matsumoto and Nishimura, seeded by one 32-bit number.

const WORDS: usize = 624;
const MIDDLE: usize = 397;

/// State and place in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Mt19937 {
    words: Box<[u32; WORDS]>,
    next: usize,
}

impl Mt19937 {
    /// `init_genrand(seed)`.
    pub fn new(seed: u32) -> Self {
        let mut words = Box::new([0; WORDS]);
        words[0] = seed;
        for i in 1..WORDS {
            let before: u32 = words[i - 1];
            words[i] = (before ^ before >> 30).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        Self { words, next: WORDS }
    }

    /// All words of the state, and the place of the next one.
    pub fn state(&self) -> (&[u32], usize) {
        (&self.words[..], self.next)
    }

    /// Goes on from what `state` gave; none for anything else than 624 words and a place among or behind them.
    pub fn from_state(words: Vec<u32>, next: usize) -> Option<Self> {
        let words: Box<[u32; WORDS]> = words.into_boxed_slice().try_into().ok()?;
        (next <= WORDS).then_some(Self { words, next })
    }

    /// The next 32 bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.next == WORDS {
            self.twist();
        }
        let mut y = self.words[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= y << 7 & 0x9d2c_5680;
        y ^= y << 15 & 0xefc6_0000;
        y ^ y >> 18
    }

    fn twist(&mut self) {
        for i in 0..WORDS {
            let y = self.words[i] & 0x8000_0000 | self.words[(i + 1) % WORDS] & 0x7fff_ffff;
            let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.words[i] = self.words[(i + MIDDLE) % WORDS] ^ y >> 1 ^ odd;
        }
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::Mt19937;

    #[test]
    fn the_ten_thousandth_number_is_that_of_the_standard() {
        let mut engine = Mt19937::new(5489);
        let last = (0..10_000).map(|_| engine.next_u32()).last();
        assert_eq!(last, Some(4_123_659_995));
    }
}
