//! The blocks of a scan: which codes each has, by ITU-T T.81, F.2 (sequential) and G.2 (progressive).

use super::{
    JpegDamage,
    bits::Bits,
    frame::{Component, Frame},
    huffman::Table,
};

/// More coefficients than a block has.
const BEYOND: JpegDamage = JpegDamage::Broken("a block has more than 64 coefficients");

/// What the header of a scan says.
pub struct Scan {
    /// Of each component of the scan: its index in the frame, its DC table and its AC table.
    parts: Vec<(usize, usize, usize)>,
    /// The first coefficient and the last.
    first: u32,
    last: u32,
    /// Whether earlier scans have brought higher bits of them.
    is_refinement: bool,
}

impl Scan {
    /// Reads the header, and notes in the frame what the scan brings.
    pub fn read(frame: &mut Frame, header: &[u8]) -> Result<Self, JpegDamage> {
        let bad = JpegDamage::Broken("a scan's header cannot be read");
        let (count, rest) = header.split_first().ok_or(bad)?;
        let count = usize::from(*count);
        let [first, last, bit] = *rest.get(count * 2..).ok_or(bad)?.first_chunk().ok_or(bad)?;
        if count == 0 || count > frame.components.len() {
            return Err(bad);
        }
        let mut parts = Vec::with_capacity(count);
        for named in rest[..count * 2].chunks_exact(2) {
            let index = frame.components.iter().position(|component| component.id == named[0]).ok_or(bad)?;
            parts.push((index, usize::from(named[1] >> 4), usize::from(named[1] & 15)));
        }
        let (first, last, high, low) = match frame.is_progressive {
            true => (first, last, bit >> 4, bit & 15),
            false => (0, 63, 0, 0),
        };
        if first > last
            || last > 63
            || (frame.is_progressive && first == 0 && last != 0)
            || (first > 0 && count > 1)
        {
            return Err(bad);
        }
        for (index, ..) in &parts {
            frame.components[*index].lowest_bit[usize::from(first)..=usize::from(last)].fill(low);
        }
        Ok(Self { parts, first: first.into(), last: last.into(), is_refinement: high > 0 })
    }
}

/// Reads the blocks of a scan.
pub struct Coding<'a> {
    frame: &'a mut Frame,
    scan: Scan,
    dc: &'a [Option<Table>; 4],
    ac: &'a [Option<Table>; 4],
    /// Blocks that follow without a coefficient of their own.
    run: u32,
}

impl<'a> Coding<'a> {
    /// None where a table that the scan needs is not defined.
    pub fn new(
        frame: &'a mut Frame,
        scan: Scan,
        dc: &'a [Option<Table>; 4],
        ac: &'a [Option<Table>; 4],
    ) -> Option<Self> {
        let has = |tables: &[Option<Table>; 4], index: usize| tables.get(index).is_some_and(Option::is_some);
        let needs_dc = scan.first == 0 && !scan.is_refinement;
        let ready = scan.parts.iter().all(|(_, dc_table, ac_table)| {
            (!needs_dc || has(dc, *dc_table)) && (scan.last == 0 || has(ac, *ac_table))
        });
        ready.then_some(Self { frame, scan, dc, ac, run: 0 })
    }

    /// A scan of one component has blocks for MCUs, and those alone that the picture needs.
    pub fn mcus(&self) -> u32 {
        match *self.scan.parts {
            [(index, ..)] => {
                let (across, down) = self.frame.components[index].blocks;
                across * down
            }
            _ => self.frame.mcus.0 * self.frame.mcus.1,
        }
    }

    /// No run goes across a restart marker or the end.
    pub fn restart(&mut self) -> Result<(), JpegDamage> {
        match self.run {
            0 => Ok(()),
            _ => Err(JpegDamage::Broken("empty blocks go on beyond the picture")),
        }
    }

    pub fn mcu(&mut self, mcu: u32, bits: &mut Bits) -> Result<(), JpegDamage> {
        for part in 0..self.scan.parts.len() {
            let (index, dc, ac) = self.scan.parts[part];
            let Component { horizontal, vertical, blocks: (across, _), stride, .. } =
                self.frame.components[index];
            if self.scan.parts.len() == 1 {
                self.block((index, mcu / across * stride + mcu % across), dc, ac, bits)?;
                continue;
            }
            let (row, column) = (mcu / self.frame.mcus.0 * vertical, mcu % self.frame.mcus.0 * horizontal);
            for block in 0..vertical * horizontal {
                let (y, x) = (row + block / horizontal, column + block % horizontal);
                self.block((index, y * stride + x), dc, ac, bits)?;
            }
        }
        Ok(())
    }

    fn block(&mut self, at: (usize, u32), dc: usize, ac: usize, bits: &mut Bits) -> Result<(), JpegDamage> {
        if self.scan.first == 0 {
            match (self.scan.is_refinement, &self.dc[dc.min(3)]) {
                (false, Some(table)) => {
                    let category = table.symbol(bits)?;
                    if category > self.frame.max_category {
                        return Err(JpegDamage::Broken("a difference is out of range"));
                    }
                    bits.take(category.into())?;
                }
                (_, _) => {
                    bits.take(1)?;
                }
            }
        }
        let (Some(table), true) = (&self.ac[ac.min(3)], self.scan.last > 0) else { return Ok(()) };
        if !self.frame.is_progressive {
            return sequential(table, bits);
        }
        let (first, last) = (self.scan.first, self.scan.last);
        let nonzero = &mut self.frame.components[at.0].nonzero[at.1 as usize];
        match self.scan.is_refinement {
            false => begun(table, bits, (first, last), nonzero, &mut self.run),
            true => refined(table, bits, (first, last), nonzero, &mut self.run),
        }
    }
}

/// All AC coefficients of a block.
fn sequential(table: &Table, bits: &mut Bits) -> Result<(), JpegDamage> {
    let mut at = 1;
    while at < 64 {
        let symbol = table.symbol(bits)?;
        let (zeros, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
        match (zeros, size) {
            (15, 0) => at += 16,
            (_, 0) => break,
            _ => {
                at += zeros + 1;
                bits.take(size)?;
            }
        }
    }
    if at > 64 { Err(BEYOND) } else { Ok(()) }
}

/// The first bits of a band of coefficients.
fn begun(
    table: &Table,
    bits: &mut Bits,
    (first, last): (u32, u32),
    nonzero: &mut u64,
    run: &mut u32,
) -> Result<(), JpegDamage> {
    if *run > 0 {
        *run -= 1;
        return Ok(());
    }
    let mut at = first;
    while at <= last {
        let symbol = table.symbol(bits)?;
        let (zeros, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
        match (zeros, size) {
            (15, 0) => at += 16,
            (_, 0) => {
                *run = (1 << zeros) - 1 + bits.take(zeros)?;
                return Ok(());
            }
            _ => {
                at += zeros;
                if at > last {
                    return Err(BEYOND);
                }
                bits.take(size)?;
                *nonzero |= 1 << at;
                at += 1;
            }
        }
    }
    if at > last + 1 { Err(BEYOND) } else { Ok(()) }
}

/// One more bit of a band of coefficients: one for each that is not zero, and those that now are not.
fn refined(
    table: &Table,
    bits: &mut Bits,
    (first, last): (u32, u32),
    nonzero: &mut u64,
    run: &mut u32,
) -> Result<(), JpegDamage> {
    let mut at = first;
    while *run == 0 && at <= last {
        let symbol = table.symbol(bits)?;
        let (mut zeros, size) = (u32::from(symbol >> 4), symbol & 15);
        match (zeros, size) {
            (15, 0) => {}
            (_, 0) => {
                *run = (1 << zeros) + bits.take(zeros)?;
                break;
            }
            (_, 1) => {
                bits.take(1)?;
            }
            _ => return Err(JpegDamage::Broken("a coefficient has more than one new bit")),
        }
        while at <= last {
            if *nonzero >> at & 1 == 1 {
                bits.take(1)?;
            } else if zeros == 0 {
                break;
            } else {
                zeros -= 1;
            }
            at += 1;
        }
        if size == 1 {
            if at > last {
                return Err(BEYOND);
            }
            *nonzero |= 1 << at;
        }
        at += 1;
    }
    if *run > 0 {
        while at <= last {
            if *nonzero >> at & 1 == 1 {
                bits.take(1)?;
            }
            at += 1;
        }
        *run -= 1;
    }
    Ok(())
}
