//! The frame header of a JPEG, and which of its coefficients the scans have brought.

use super::JpegDamage;

/// A component: luma or one of chroma.
pub struct Component {
    pub id: u8,
    pub horizontal: u32,
    pub vertical: u32,
    /// Blocks that the picture needs: across and down.
    pub blocks: (u32, u32),
    /// Blocks across, whole MCUs counted.
    pub stride: u32,
    /// Of a progressive picture: which coefficients of each block are not zero.
    pub nonzero: Vec<u64>,
    /// By coefficient: the lowest bit that a scan has brought; [`UNSEEN`] before the first.
    pub lowest_bit: [u8; 64],
}

/// No scan has brought the coefficient.
pub const UNSEEN: u8 = u8::MAX;

/// What the frame header says.
pub struct Frame {
    pub is_progressive: bool,
    /// The most bits of a difference of DC coefficients.
    pub max_category: u8,
    pub components: Vec<Component>,
    /// MCUs across and down.
    pub mcus: (u32, u32),
}

impl Frame {
    /// None: a kind that the decoder does not read, or a header that it refuses.
    pub fn read(marker: u8, content: &[u8]) -> Result<Option<Self>, JpegDamage> {
        if !matches!(marker, 0xc0..=0xc2) {
            return Ok(None);
        }
        let [precision, h0, h1, w0, w1, count, rest @ ..] = content else {
            return Err(JpegDamage::Broken("its frame header is too short"));
        };
        let (height, width) = (u32::from_be_bytes([0, 0, *h0, *h1]), u32::from_be_bytes([0, 0, *w0, *w1]));
        let described = rest.chunks_exact(3).take((*count).into());
        let readable = described.clone().all(|c| matches!((c[1] >> 4, c[1] & 15), (1..=4, 1..=4)));
        if width == 0
            || height == 0
            || !(1..=4).contains(count)
            || !readable
            || described.len() < (*count).into()
        {
            return Ok(None);
        }
        let most = |shift: u8| described.clone().map(|c| u32::from(c[1] >> shift & 15)).max().unwrap_or(1);
        let (most_h, most_v) = (most(4), most(0));
        let mcus = (width.div_ceil(8 * most_h), height.div_ceil(8 * most_v));
        let is_progressive = marker == 0xc2;
        let component = |c: &[u8]| {
            let (horizontal, vertical) = (u32::from(c[1] >> 4), u32::from(c[1] & 15));
            let stride = mcus.0 * horizontal;
            let blocks = match is_progressive {
                true => stride as usize * (mcus.1 * vertical) as usize,
                false => 0,
            };
            Component {
                id: c[0],
                horizontal,
                vertical,
                blocks: (
                    (width * horizontal).div_ceil(most_h).div_ceil(8),
                    (height * vertical).div_ceil(most_v).div_ceil(8),
                ),
                stride,
                nonzero: vec![0; blocks],
                lowest_bit: [UNSEEN; 64],
            }
        };
        let components = described.clone().map(component).collect();
        let max_category = if *precision == 8 { 11 } else { 15 };
        Ok(Some(Self { is_progressive, max_category, components, mcus }))
    }

    /// Whether every component was there. `in_full`: with every bit of every coefficient, of a progressive picture.
    pub fn is_complete(&self, in_full: bool) -> bool {
        self.components.iter().all(|component| match in_full && self.is_progressive {
            true => component.lowest_bit.iter().all(|bit| *bit == 0),
            false => component.lowest_bit[0] != UNSEEN,
        })
    }
}

/// A table of quantisation has no zeros: damage that hits it would leave a flat picture.
pub fn check_quantisation(mut content: &[u8]) -> Result<(), JpegDamage> {
    while let Some((kind, values)) = content.split_first() {
        let width = if kind >> 4 == 0 { 1 } else { 2 };
        let table =
            values.get(..64 * width).ok_or(JpegDamage::Broken("a quantisation table is too short"))?;
        if table.chunks(width).any(|value| value.iter().all(|byte| *byte == 0)) {
            return Err(JpegDamage::Broken("a quantisation table has zeros"));
        }
        content = &values[64 * width..];
    }
    Ok(())
}

/// The number of two bytes at `at`.
pub fn number(bytes: &[u8], at: usize) -> Result<u32, JpegDamage> {
    match bytes.get(at..at + 2) {
        Some([high, low]) => Ok(u32::from_be_bytes([0, 0, *high, *low])),
        _ => Err(JpegDamage::Cut),
    }
}
