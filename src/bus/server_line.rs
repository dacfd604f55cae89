//! Which line of releases a nats-server is of: what a server can do is told by that alone.

/// Major and minor version; `None` for what names none, such as a build from source.
pub(super) fn line_of(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    Some((numbers.next()?, numbers.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_the_first_two_numbers() {
        for (version, line) in [("2.9.10", (2, 9)), ("2.15.1-RC.2", (2, 15)), ("3.0.0-beta", (3, 0))] {
            assert_eq!(line_of(version), Some(line), "{version}");
        }
        for other in ["", "main", "2", "2.x.1"] {
            assert_eq!(line_of(other), None, "{other}");
        }
    }
}
