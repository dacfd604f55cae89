//! Server-sent events (HTML standard, 9.2.6), read from whatever pieces the network delivers, in bounded memory.

/// The most bytes of one event; a `complete` event carries a whole picture in base64.
const MAX_EVENT: usize = 64 << 20;

/// An event that has data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SseEvent {
    /// The last id that was seen, on this event or before it.
    pub id: Option<String>,
    /// Its data lines, joined by newlines.
    pub data: String,
}

/// The event is larger than is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event of more than {MAX_EVENT} bytes")]
pub struct EventTooLarge;

/// Turns bytes into events. Lines end in LF, CR or CRLF; fields other than `id` and `data` are skipped.
#[derive(Debug, Default)]
pub struct SseParser {
    line: Vec<u8>,
    data: Option<Vec<u8>>,
    id: Option<String>,
    /// The last byte was CR: a LF right after it belongs to the same line end.
    after_cr: bool,
    /// A line was read: no byte order mark can come any more.
    started: bool,
}

impl SseParser {
    /// Takes the next bytes; gives the events that they complete.
    ///
    /// # Errors
    /// [`EventTooLarge`]; the parser cannot go on after it.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<SseEvent>, EventTooLarge> {
        let mut events = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            if std::mem::take(&mut self.after_cr) && rest[0] == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let (part, next) = match end {
                Some(end) => (&rest[..end], &rest[end + 1..]),
                None => (rest, &rest[rest.len()..]),
            };
            if self.line.len() + part.len() + self.data.as_ref().map_or(0, Vec::len) > MAX_EVENT {
                return Err(EventTooLarge);
            }
            self.line.extend_from_slice(part);
            if let Some(end) = end {
                self.after_cr = rest[end] == b'\r';
                let line = std::mem::take(&mut self.line);
                events.extend(self.end_of_line(&line));
            }
            rest = next;
        }
        Ok(events)
    }

    fn end_of_line(&mut self, line: &[u8]) -> Option<SseEvent> {
        let line = if std::mem::replace(&mut self.started, true) {
            line
        } else {
            line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line)
        };
        if line.is_empty() {
            let data = self.data.take()?;
            return Some(SseEvent { id: self.id.clone(), data: String::from_utf8_lossy(&data).into_owned() });
        }
        let (field, value) = match line.iter().position(|&byte| byte == b':') {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &line[line.len()..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => match &mut self.data {
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
                None => self.data = Some(value.to_vec()),
            },
            b"id" if !value.contains(&0) => self.id = Some(String::from_utf8_lossy(value).into_owned()),
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(pieces: &[&[u8]]) -> Vec<SseEvent> {
        let mut parser = SseParser::default();
        pieces.iter().flat_map(|piece| parser.feed(piece).unwrap()).collect()
    }

    fn event(id: Option<&str>, data: &str) -> SseEvent {
        SseEvent { id: id.map(str::to_owned), data: data.to_owned() }
    }

    #[test]
    fn fields_are_read_by_the_standard() {
        let text = "\u{feff}: hello\nid: 3\nevent: x\ndata: a\ndata:b\ndata\n\ndata:  c\n\n\nid\ndata: d\n\nretry: 5\n\ndata: cut";
        assert_eq!(
            parse(&[text.as_bytes()]),
            [event(Some("3"), "a\nb\n"), event(Some("3"), " c"), event(Some(""), "d")]
        );
    }

    #[test]
    fn every_line_end_is_one() {
        let expected = [event(Some("1"), "a"), event(Some("2"), "b")];
        for end in ["\n", "\r", "\r\n"] {
            let text = ["id: 1", "data: a", "", "id: 2", "data: b", "", ""].join(end);
            assert_eq!(parse(&[text.as_bytes()]), expected, "{end:?}");
        }
        assert_eq!(
            parse(&[b"data: a\r", b"\n\r", b"\ndata: b\r\n\r\n"]),
            [event(None, "a"), event(None, "b")]
        );
    }

    #[test]
    fn a_character_may_be_cut_anywhere() {
        let text = "id: 7\ndata: {\"prompt\":\"ein Kreis in 红色 🟥\"}\n\n".as_bytes();
        let whole = parse(&[text]);
        for cut in 0..=text.len() {
            assert_eq!(parse(&[&text[..cut], &text[cut..]]), whole, "cut at {cut}");
        }
        assert_eq!(parse(&text.chunks(1).collect::<Vec<_>>()), whole);
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let mut parser = SseParser::default();
        let piece = vec![b'x'; MAX_EVENT / 2];
        assert_eq!(parser.feed(b"data: "), Ok(vec![]));
        assert_eq!(parser.feed(&piece), Ok(vec![]));
        assert_eq!(parser.feed(&piece), Err(EventTooLarge));
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(text in "(id: ?[0-9a-z]{0,3}|data:[ a-zäöü€]{0,9}|:|\r|\n|\r\n){0,40}", size in 1_usize..9) {
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            prop_assert_eq!(parse(&pieces), parse(&[text.as_bytes()]));
        }
    }
}
