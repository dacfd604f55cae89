//! Durations, sizes and pixel counts as they are written on the command line: `30s`, `64MiB`, `2048x2048`.

use std::time::Duration;

/// Reads `30s`, `60m`, `1h`, `250ms`, `1h 30m`.
///
/// # Errors
/// A sentence that says what is allowed, for clap.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it as 30s, 5m or 1h"))
}

/// Reads bytes: `1048576`, `64KiB`, `64MiB`, `2GiB` (powers of 1024), `64kB`, `64MB`, `2GB` (powers of 1000).
///
/// # Errors
/// A sentence that says what is allowed, for clap.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        unit => {
            return Err(format!(
                "`{unit}` is no unit of size; there are B, KiB, MiB, GiB, TiB, kB, MB, GB, TB"
            ));
        }
    };
    let number: u64 = number.parse().map_err(|_| format!("`{text}` is no size; write it as 64MiB"))?;
    number.checked_mul(factor).ok_or_else(|| format!("`{text}` is too large"))
}

/// Reads a number of pixels: `4194304` or `2048x2048`.
///
/// # Errors
/// A sentence that says what is allowed, for clap.
pub fn parse_pixels(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is no number of pixels; write it as 2048x2048");
    let pixels = match text.split_once('x') {
        Some((width, height)) => {
            let width: u64 = width.trim().parse().map_err(|_| bad())?;
            let height: u64 = height.trim().parse().map_err(|_| bad())?;
            width.checked_mul(height).ok_or_else(bad)?
        }
        None => text.trim().parse().map_err(|_| bad())?,
    };
    if pixels == 0 { Err(bad()) } else { Ok(pixels) }
}

/// A random number in 0..1.
pub fn random_unit() -> f64 {
    // Without randomness what is waited for is half of the bound, which is still a pause.
    let bits = getrandom::u64().unwrap_or(1 << 63);
    bits as f64 / (u64::MAX as f64 + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_a_unit_of_1024_or_of_1000() {
        assert_eq!(parse_size("64MiB"), Ok(64 << 20));
        assert_eq!(parse_size("64 MB"), Ok(64_000_000));
        assert_eq!(parse_size("1234"), Ok(1234));
        for bad in ["", "MiB", "-1", "1.5GiB", "64mb", "99999999999TiB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_duration_has_a_unit() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("60m"), Ok(Duration::from_secs(3600)));
        assert!(parse_duration("90").is_err());
    }

    #[test]
    fn pixels_are_a_product_or_a_number() {
        assert_eq!(parse_pixels("2048x1024"), Ok(2048 * 1024));
        assert_eq!(parse_pixels("4096"), Ok(4096));
        for bad in ["0", "x", "0x8", "8x8x8", "big"] {
            assert!(parse_pixels(bad).is_err(), "{bad}");
        }
    }
}
