//! Reads an event stream (WHATWG HTML section 9.2.6) from the pieces in which it arrives.

/// Most bytes of one event.
const EVENT_BYTES_MAX: usize = 64 << 20;

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) id: Option<String>,
    pub(crate) event: String,
    pub(crate) data: String,
}

/// An event that is larger than any that the API sends.
#[derive(Debug, thiserror::Error)]
#[error("an event of more than {EVENT_BYTES_MAX} bytes")]
pub(crate) struct TooLarge;

/// State between pieces.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    buffer: Vec<u8>,
    /// How much of the buffer holds no line end.
    searched: usize,
    frame: Frame,
    has_data: bool,
}

impl Decoder {
    /// Takes a piece in and gives the events that are complete with it.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Result<Vec<Frame>, TooLarge> {
        self.buffer.extend_from_slice(piece);
        let mut frames = Vec::new();
        while let Some(line) = self.next_line() {
            if let Some(frame) = self.line(&line) {
                frames.push(frame);
            }
        }
        if self.buffer.len() + self.frame.data.len() > EVENT_BYTES_MAX {
            return Err(TooLarge);
        }
        Ok(frames)
    }

    /// The server ends lines with `\n`, and a `\r` before it does no harm.
    fn next_line(&mut self) -> Option<String> {
        let unsearched = self.buffer.get(self.searched..)?;
        let Some(position) = unsearched.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            return None;
        };
        let rest = self.buffer.split_off(self.searched + position + 1);
        let mut line = std::mem::replace(&mut self.buffer, rest);
        self.searched = 0;
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Some(String::from_utf8_lossy(&line).into_owned())
    }

    fn line(&mut self, line: &str) -> Option<Frame> {
        if line.is_empty() {
            let frame = std::mem::take(&mut self.frame);
            return std::mem::take(&mut self.has_data).then_some(frame);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.frame.id = Some(value.into()),
            "event" => self.frame.event = value.into(),
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.frame.data.push('\n');
                }
                self.frame.data.push_str(value);
            }
            // Comments (heartbeats) and fields of other versions.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = ": heartbeat\n\nid: a.1\nevent: put\ndata: {\"x\":\ndata: 1}\n\n\
                          event: snapshot-end\r\ndata:{}\r\n\r\nevent: cut\ndata: off";

    fn frames(pieces: &[&[u8]]) -> Vec<Frame> {
        let mut decoder = Decoder::default();
        pieces.iter().flat_map(|piece| decoder.push(piece).unwrap()).collect()
    }

    #[test]
    fn events_are_read_however_they_are_cut() {
        let whole = frames(&[STREAM.as_bytes()]);
        let expected = [
            Frame { id: Some("a.1".into()), event: "put".into(), data: "{\"x\":\n1}".into() },
            Frame { id: None, event: "snapshot-end".into(), data: "{}".into() },
        ];
        assert_eq!(whole, expected);
        let bytes: Vec<&[u8]> = STREAM.as_bytes().chunks(1).collect();
        assert_eq!(frames(&bytes), expected);
    }

    #[test]
    fn an_event_without_end_is_given_up() {
        let mut decoder = Decoder::default();
        let piece = vec![b'x'; 1 << 20];
        let refused = (0..=EVENT_BYTES_MAX >> 20).any(|_| decoder.push(&piece).is_err());
        assert!(refused);
    }
}
