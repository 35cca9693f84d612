//! Transactions: all of their operations at one moment, or none.

use super::{Ensemble, Line};
use crate::wire::{Decoder, Encoder, ErrorCode};

/// What stands where an operation failed, or nothing more comes.
const NONE: i32 = -1;

impl Ensemble {
    pub(super) fn multi(&self, line: &Line, input: &mut Decoder<'_>) -> Vec<u8> {
        let before = self.nodes.borrow().clone();
        self.untold.replace(Some(Vec::new()));
        let mut done = Vec::new();
        let outcome = self.all_of(line, input, &mut done);
        let changes = self.untold.take().unwrap_or_default();
        let mut body = Vec::new();
        match outcome {
            Ok(()) => {
                changes.iter().for_each(|(path, kind)| self.fire(path, *kind));
                for (opcode, answer) in done {
                    header(&mut body, opcode, false);
                    body.extend_from_slice(&answer);
                }
            }
            Err(ErrorCode(code)) => {
                self.nodes.replace(before);
                for code in done.iter().map(|_| 0).chain([code]) {
                    header(&mut body, NONE, false);
                    Encoder::new(&mut body).int(code);
                }
            }
        }
        header(&mut body, NONE, true);
        body
    }

    /// Does one operation after the other, until one is refused.
    fn all_of(
        &self,
        line: &Line,
        input: &mut Decoder<'_>,
        done: &mut Vec<(i32, Vec<u8>)>,
    ) -> Result<(), ErrorCode> {
        loop {
            let (opcode, is_end) = (input.int().unwrap(), input.bool().unwrap());
            input.int().unwrap();
            if is_end {
                return Ok(());
            }
            done.push((opcode, self.answer(line, opcode, input)?));
        }
    }
}

fn header(body: &mut Vec<u8>, opcode: i32, is_end: bool) {
    let mut out = Encoder::new(body);
    out.int(opcode);
    out.bool(is_end);
    out.int(if opcode == NONE { NONE } else { 0 });
}
