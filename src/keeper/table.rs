//! A table for people: columns of equal width, two spaces between, the last as long as it is.

/// Lays out rows under a heading; a line each. Control characters become spaces: a cell is one line.
pub fn lines<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> Vec<String> {
    let heading = heading.map(str::to_owned);
    let rows: Vec<[String; N]> = std::iter::once(&heading)
        .chain(rows)
        .map(|row| row.each_ref().map(|cell| cell.replace(char::is_control, " ")))
        .collect();
    let widths: [usize; N] = std::array::from_fn(|column| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    });
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_each_other() {
        let rows = [["a", "generate", "out of\nmemory"], ["a-long-name", "inpaint", ""]];
        let rows = rows.map(|row| row.map(str::to_owned));
        assert_eq!(
            lines(["JOB", "WHAT", "WHY"], &rows),
            ["JOB          WHAT      WHY", "a            generate  out of memory", "a-long-name  inpaint"]
        );
    }
}
