//! What a component's file is made of, read before the compiler sees it.
//!
//! The compiler's time and memory grow with the code, and with the size of a single function faster
//! than with it. This reads sections alone; whether they make sense is for the validator to say.

/// What counts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Components and modules inside each other.
    pub(crate) nesting: u32,
    /// Bytes of all functions.
    pub(crate) code_bytes: u64,
    /// Bytes of the largest one.
    pub(crate) function_bytes: u64,
}

const PREAMBLE_LEN: usize = 8;
const COMPONENT: [u8; PREAMBLE_LEN] = *b"\0asm\x0d\0\x01\0";
const MODULE: [u8; PREAMBLE_LEN] = *b"\0asm\x01\0\0\0";

/// Sections of components that hold other binaries.
const CORE_MODULE: u8 = 1;
const NESTED_COMPONENT: u8 = 4;
/// The section of a module with its functions.
const CODE: u8 = 10;

/// Measures as far as the file can be read.
pub(crate) fn measure(bytes: &[u8]) -> Shape {
    let mut shape = Shape::default();
    let mut inside = vec![(bytes, 1)];
    while let Some((binary, nesting)) = inside.pop() {
        shape.nesting = shape.nesting.max(nesting);
        let is_component = binary.starts_with(&COMPONENT);
        if !is_component && !binary.starts_with(&MODULE) {
            continue;
        }
        let mut rest = binary.get(PREAMBLE_LEN..).unwrap_or_default();
        while let Some((id, content, after)) = section(rest) {
            rest = after;
            match id {
                CORE_MODULE | NESTED_COMPONENT if is_component => {
                    inside.push((content, nesting + 1));
                }
                CODE if !is_component => count_functions(content, &mut shape),
                _ => {}
            }
        }
    }
    shape
}

/// The next section: its id, its content, and what follows.
fn section(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (id, rest) = bytes.split_first()?;
    let (len, rest) = number(rest)?;
    let (content, after) = rest.split_at_checked(len)?;
    Some((*id, content, after))
}

fn count_functions(content: &[u8], shape: &mut Shape) {
    let Some((count, mut rest)) = number(content) else { return };
    for _ in 0..count {
        let Some((len, body)) = number(rest) else { return };
        let bytes = u64::try_from(len).unwrap_or(u64::MAX);
        shape.code_bytes = shape.code_bytes.saturating_add(bytes);
        shape.function_bytes = shape.function_bytes.max(bytes);
        let Some(after) = body.get(len..) else { return };
        rest = after;
    }
}

/// A number of up to 32 bits as the format writes it, seven bits to a byte.
fn number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value: u64 = 0;
    for (index, byte) in bytes.iter().take(5).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            let rest = bytes.get(index + 1..)?;
            return Some((u32::try_from(value).ok()?.try_into().ok()?, rest));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(mut value: usize) -> Vec<u8> {
        let mut out = Vec::new();
        loop {
            let byte = u8::try_from(value & 0x7f).unwrap();
            value >>= 7;
            out.push(if value == 0 { byte } else { byte | 0x80 });
            if value == 0 {
                return out;
            }
        }
    }

    fn with(start: &[u8], id: u8, content: &[u8]) -> Vec<u8> {
        [start, &[id], &written(content.len()), content].concat()
    }

    #[test]
    fn functions_of_modules_inside_components_are_counted() {
        let bodies = [written(2), written(300), vec![0; 300], written(5), vec![0; 5]].concat();
        let module = with(&MODULE, CODE, &bodies);
        let inner = with(&COMPONENT, CORE_MODULE, &module);
        let outer = with(&with(&COMPONENT, NESTED_COMPONENT, &inner), 0, b"custom");
        let expected = Shape { nesting: 3, code_bytes: 305, function_bytes: 300 };
        assert_eq!(measure(&outer), expected);
    }

    #[test]
    fn what_ends_early_or_lies_about_its_size_is_measured_as_far_as_it_goes() {
        let lying = [&MODULE[..], &[CODE], &written(4), &written(2), &written(9000)].concat();
        assert_eq!(measure(&lying[..lying.len() - 1]).code_bytes, 0);
        assert_eq!(measure(b"\0asm").nesting, 1);
        assert_eq!(measure(&[0xff; 100]), Shape { nesting: 1, ..Shape::default() });
        let endless = [&COMPONENT[..], &[CORE_MODULE, 0xff, 0xff, 0xff, 0xff, 0xff]].concat();
        assert_eq!(measure(&endless).nesting, 1);
    }

    #[test]
    fn deep_nesting_is_measured_without_recursion() {
        let mut component = COMPONENT.to_vec();
        for _ in 0..5_000 {
            component = with(&COMPONENT, NESTED_COMPONENT, &component);
        }
        assert_eq!(measure(&component).nesting, 5_001);
    }
}
