//! A Huffman table of a JPEG.

use super::{JpegDamage, bits::Bits};

/// Codes up to this length are looked up at once.
const SHORT: u32 = 9;

/// Finds symbols by their codes.
pub struct Table {
    /// By the next nine bits: the code's length and its symbol; a length of 0 is a longer code.
    short: Box<[(u8, u8); 1 << SHORT]>,
    /// By length: the first code beyond, aligned to 16 bits; and what takes a code to the index of its symbol.
    beyond: [u32; 17],
    offset: [i32; 17],
    symbols: Vec<u8>,
}

impl Table {
    /// The table at the beginning of `bytes`, and its length in bytes.
    pub fn read(bytes: &[u8]) -> Result<(Self, usize), JpegDamage> {
        let bad = JpegDamage::Broken("a Huffman table cannot be read");
        let counts = bytes.get(..16).ok_or(bad)?;
        let total: usize = counts.iter().map(|count| usize::from(*count)).sum();
        let symbols = bytes.get(16..16 + total).filter(|_| total <= 256).ok_or(bad)?.to_vec();
        let mut short = Box::new([(0, 0); 1 << SHORT]);
        let (mut beyond, mut offset) = ([0; 17], [0; 17]);
        let (mut code, mut index) = (0u32, 0usize);
        for (length, count) in (1u32..).zip(counts) {
            let count = usize::from(*count);
            offset[length as usize] = index as i32 - code as i32;
            if code as usize + count > 1 << length {
                return Err(bad);
            }
            for symbol in &symbols[index..index + count] {
                if length <= SHORT {
                    let first = (code << (SHORT - length)) as usize;
                    short[first..first + (1 << (SHORT - length))].fill((length as u8, *symbol));
                }
                code += 1;
            }
            index += count;
            beyond[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Ok((Self { short, beyond, offset, symbols }, 16 + total))
    }

    /// The next symbol.
    pub fn symbol(&self, bits: &mut Bits) -> Result<u8, JpegDamage> {
        let next = bits.peek();
        let (length, symbol) = self.short[(next >> (16 - SHORT)) as usize];
        if length > 0 {
            bits.take(length.into())?;
            return Ok(symbol);
        }
        for length in SHORT + 1..=16 {
            if next < self.beyond[length as usize] {
                bits.take(length)?;
                let index = (next >> (16 - length)) as i32 + self.offset[length as usize];
                let symbol = usize::try_from(index).ok().and_then(|index| self.symbols.get(index));
                return symbol.copied().ok_or(JpegDamage::Broken("a code stands for nothing"));
            }
        }
        // Beyond the end there are zeros only, or a code that is cut.
        bits.take(16)?;
        Err(JpegDamage::Broken("a code stands for nothing"))
    }
}
