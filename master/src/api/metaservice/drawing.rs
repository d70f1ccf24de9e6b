//! A key of the metadata, taken apart as the page's server draws it: each field over the digits it begins at.

use perilune_protocol::metakey::{self, Field};
use std::fmt::Write;

/// What lines are drawn with.
struct Pen {
    /// Where a line to the right begins.
    corner: char,
    right: char,
    down: char,
    arrow: char,
}

const BOXES: Pen = Pen { corner: '┌', right: '─', down: '│', arrow: '▼' };
const ASCII: Pen = Pen { corner: '/', right: '-', down: '|', arrow: 'v' };

/// The drawing, with the digits below it as they were given. `None`: they are those of no key.
pub(super) fn draw(digits: &str, unicode: bool) -> Option<String> {
    let pen = if unicode { BOXES } else { ASCII };
    let (space, fields) = metakey::decode(&metakey::unhex(digits))?;
    let values = [format!("key space: {space}")].into_iter().chain(fields.iter().map(|(_, field)| Field::to_string(field)));
    let columns: Vec<usize> = [0].into_iter().chain(fields.iter().map(|(at, _)| 2 * at)).collect();
    let width = columns.last()? + 2;
    let mut drawing = String::new();
    for (nth, value) in values.enumerate() {
        let line = |at| match at {
            at if at > columns[nth] => pen.right,
            at if at == columns[nth] => pen.corner,
            at if columns.contains(&at) => pen.down,
            _ => ' ',
        };
        drawing.extend((0..width).map(line));
        // Writing to a text has no way to fail.
        let _ = writeln!(drawing, " {nth}. {value}");
    }
    for mark in [pen.down, pen.arrow] {
        drawing.extend((0..width).map(|at| if columns.contains(&at) { mark } else { ' ' }));
        drawing.push('\n');
    }
    Some(drawing + digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "0110696e7374616e636500011072656772657373696f6e5f696e7374616e6365300001";

    #[test]
    fn the_sample_of_the_page_is_drawn_to_the_letter() {
        let boxes = "\
┌───────────────────────── 0. key space: 1
│ ┌─────────────────────── 1. instance
│ │                     ┌─ 2. regression_instance0
│ │                     │\x20
▼ ▼                     ▼\x20
0110696e7374616e636500011072656772657373696f6e5f696e7374616e6365300001";
        assert_eq!(draw(PAGE, true).as_deref(), Some(boxes));
        let ascii = "\
/------------------------- 0. key space: 1
| /----------------------- 1. instance
| |                     /- 2. regression_instance0
| |                     |\x20
v v                     v\x20
0110696e7374616e636500011072656772657373696f6e5f696e7374616e6365300001";
        assert_eq!(draw(PAGE, false).as_deref(), Some(ascii));
    }

    #[test]
    fn no_value_breaks_its_line_and_no_key_is_drawn_without_end() {
        let key = metakey::encode(1, &[Field::Bytes(b"a\nb\x1b[31m".to_vec()), Field::Int(-7)]);
        let drawing = draw(&metakey::hex(&key), false).unwrap();
        assert_eq!(drawing.lines().count(), 6, "{drawing}");
        assert!(drawing.contains("1. a\\nb\\u{1b}[31m\n") && drawing.contains("2. -7\n"), "{drawing}");
        let longest = metakey::encode(1, &vec![Field::Int(0); metakey::FIELDS_MAX]);
        assert!(draw(&metakey::hex(&longest), true).unwrap().len() < 64 << 10);
        assert_eq!(draw(&"61".repeat(100_000), true), None);
    }
}
