//! The bits of a scan: bytes between two markers, in which `ff 00` stands for `ff`.

use super::{EXTRA_BYTES, JpegDamage};

/// Reads bits, the highest of a byte first, as far as the next marker.
pub struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The lowest `left` bits are those that come next.
    held: u64,
    left: u32,
}

impl<'a> Bits<'a> {
    pub fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, held: 0, left: 0 }
    }

    /// The next data byte, unless a marker or the end is next.
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        if byte != 0xff {
            self.at += 1;
            return Some(byte);
        }
        (self.bytes.get(self.at + 1) == Some(&0)).then(|| {
            self.at += 2;
            byte
        })
    }

    fn fill(&mut self) {
        while self.left <= 56 {
            let Some(byte) = self.byte() else { return };
            self.held = self.held << 8 | u64::from(byte);
            self.left += 8;
        }
    }

    /// The next 16 bits without taking them; what lies beyond the end is 0.
    pub fn peek(&mut self) -> u32 {
        if self.left < 16 {
            self.fill();
        }
        match self.left {
            0..16 => (self.held << (16 - self.left)) as u32 & 0xffff,
            left => (self.held >> (left - 16)) as u32 & 0xffff,
        }
    }

    /// Takes at most 16 bits.
    pub fn take(&mut self, count: u32) -> Result<u32, JpegDamage> {
        if self.left < count {
            self.fill();
            if self.left < count {
                return Err(self.too_short());
            }
        }
        self.left -= count;
        Ok((self.held >> self.left) as u32 & ((1 << count) - 1))
    }

    /// The data ends at its end, or a marker stands where data should be.
    fn too_short(&self) -> JpegDamage {
        match self.bytes.len().saturating_sub(self.at) {
            0 | 1 => JpegDamage::Cut,
            _ => match self.bytes[self.at + 1] {
                0xd9 => JpegDamage::Cut,
                _ => JpegDamage::Broken("a marker stands inside the data of a picture"),
            },
        }
    }

    /// Goes behind the restart marker that must come now.
    pub fn restart(&mut self, number: u8) -> Result<(), JpegDamage> {
        let marker = self.end()?;
        match self.bytes.get(marker..marker + 2) {
            Some([0xff, found]) if *found == 0xd0 + number => {
                *self = Self::new(self.bytes, marker + 2);
                Ok(())
            }
            Some(_) => Err(JpegDamage::Broken("a restart marker is missing")),
            None => Err(JpegDamage::Cut),
        }
    }

    /// Where the next marker is, or the end: there must be next to nothing before it.
    pub fn end(&mut self) -> Result<usize, JpegDamage> {
        let mut extra = (self.left / 8) as usize;
        while self.byte().is_some() {
            extra += 1;
            if extra > EXTRA_BYTES {
                return Err(JpegDamage::Broken("there is more data than the picture has blocks"));
            }
        }
        // Fill bytes before a marker.
        while self.bytes.get(self.at + 1) == Some(&0xff) {
            self.at += 1;
        }
        Ok(self.at)
    }
}
