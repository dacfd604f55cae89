//! Whether a JPEG has all that its headers promise. The decoder fills in what is missing with grey and says nothing; here
//! every scan is read code by code, without computing a pixel, and must end where its last block ends.
//!
//! JPEG has no checksum: damage that leaves a stream which can be read to its end (a few changed bits, whole blocks put in
//! another's place) is not noticed. What the decoder refuses by itself is left to it: arithmetic coding, lossless and
//! hierarchical files, and headers that cannot be read.

mod bits;
mod blocks;
mod frame;
mod huffman;

use bits::Bits;
use blocks::{Coding, Scan};
use frame::Frame;
use huffman::Table;

/// The most scans of one picture, as the decoder takes them; encoders write about ten.
const MAX_SCANS: u32 = 100;
/// Bytes between a scan's last block and the next marker that are overlooked: some cameras write a few.
const EXTRA_BYTES: usize = 4;

/// Why a JPEG is not whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JpegDamage {
    /// The data ends before the picture does.
    #[error("the JPEG is cut off: its data ends before the picture does")]
    Cut,
    /// Something in the data cannot be.
    #[error("the JPEG is damaged: {0}")]
    Broken(&'static str),
}

/// Reads all scans. A missing end mark alone is no damage.
///
/// # Errors
/// [`JpegDamage`] where the data ends too early, too late, or cannot be read.
pub fn check(bytes: &[u8]) -> Result<(), JpegDamage> {
    let mut walk = Walk {
        bytes,
        at: 0,
        frame: None,
        dc: Default::default(),
        ac: Default::default(),
        restart_every: 0,
        scans: 0,
    };
    walk.run()
}

/// A marker and what follows it.
enum Next {
    /// A segment: its marker, and its content.
    Segment(u8, std::ops::Range<usize>),
    /// The end mark.
    End,
    /// The data's end, without a mark.
    Nothing,
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    frame: Option<Frame>,
    dc: [Option<Table>; 4],
    ac: [Option<Table>; 4],
    /// MCUs between two restart markers; 0: there are none.
    restart_every: u32,
    scans: u32,
}

impl Walk<'_> {
    fn run(&mut self) -> Result<(), JpegDamage> {
        loop {
            match self.next()? {
                Next::Segment(0xc4, content) => self.tables(content)?,
                Next::Segment(0xdb, content) => frame::check_quantisation(&self.bytes[content])?,
                Next::Segment(0xdd, content) => self.restart_every = frame::number(&self.bytes[content], 0)?,
                Next::Segment(marker @ 0xc0..=0xcf, content) if marker != 0xc8 => {
                    let Some(frame) = Frame::read(marker, &self.bytes[content])? else { return Ok(()) };
                    if self.frame.replace(frame).is_some() {
                        return Err(JpegDamage::Broken("it has two frame headers"));
                    }
                }
                Next::Segment(0xda, content) => {
                    if !self.scan(content)? {
                        return Ok(());
                    }
                }
                Next::Segment(..) => {}
                Next::End => return self.complete(false),
                Next::Nothing => return self.complete(true),
            }
        }
    }

    /// The next marker with its content. What stands between two segments is passed over, as by the decoder.
    fn next(&mut self) -> Result<Next, JpegDamage> {
        loop {
            let Some(found) = self.bytes[self.at..].iter().position(|byte| *byte == 0xff) else {
                return Ok(Next::Nothing);
            };
            let mark = self.at + found + 1;
            let Some(marker) = self.bytes.get(mark).copied() else { return Ok(Next::Nothing) };
            self.at = mark + usize::from(marker != 0xff);
            match marker {
                0xff | 0x00 | 0x01 | 0xd0..=0xd8 => continue,
                0xd9 => return Ok(Next::End),
                _ => {}
            }
            let length = frame::number(&self.bytes[self.at..], 0)? as usize;
            let content = self.at + 2..self.at + length;
            if length < 2 {
                return Err(JpegDamage::Broken("a segment has no length"));
            }
            if content.end > self.bytes.len() {
                return Err(JpegDamage::Cut);
            }
            self.at = content.end;
            return Ok(Next::Segment(marker, content));
        }
    }

    fn tables(&mut self, content: std::ops::Range<usize>) -> Result<(), JpegDamage> {
        let mut rest = &self.bytes[content];
        while let Some((id, definition)) = rest.split_first() {
            let (class, id) = (id >> 4, usize::from(id & 15));
            let (table, used) = Table::read(definition)?;
            let tables = if class == 0 { &mut self.dc } else { &mut self.ac };
            *tables.get_mut(id).ok_or(JpegDamage::Broken("a Huffman table has no number"))? = Some(table);
            rest = &definition[used..];
        }
        Ok(())
    }

    /// Whether it could be read: without Huffman tables (motion JPEG leaves out the usual ones) it is left to the decoder.
    fn scan(&mut self, content: std::ops::Range<usize>) -> Result<bool, JpegDamage> {
        self.scans += 1;
        if self.scans > MAX_SCANS {
            return Err(JpegDamage::Broken("it has more than 100 scans"));
        }
        let frame = self.frame.as_mut().ok_or(JpegDamage::Broken("a scan comes before the frame header"))?;
        let scan = Scan::read(frame, &self.bytes[content])?;
        let Some(mut coding) = Coding::new(frame, scan, &self.dc, &self.ac) else { return Ok(false) };
        let mut bits = Bits::new(self.bytes, self.at);
        let mut restarts = 0u8;
        for mcu in 0..coding.mcus() {
            if self.restart_every > 0 && mcu > 0 && mcu % self.restart_every == 0 {
                bits.restart(restarts)?;
                restarts = (restarts + 1) & 7;
                coding.restart()?;
            }
            coding.mcu(mcu, &mut bits)?;
        }
        coding.restart()?;
        self.at = bits.end()?;
        Ok(true)
    }

    /// `is_open`: there was no end mark, so that a progressive picture may lack its last scans.
    fn complete(&self, is_open: bool) -> Result<(), JpegDamage> {
        match &self.frame {
            Some(frame) if frame.is_complete(is_open) => Ok(()),
            _ => Err(JpegDamage::Cut),
        }
    }
}

#[cfg(test)]
mod tests;
