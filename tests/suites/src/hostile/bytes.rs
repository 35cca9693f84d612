//! Components that nobody would build: made of the fixture's bytes.

use anyhow::{Context, Result, ensure};
use pintle_fixture_hostile::{Behaviour, MARK_BYTES, MARK_START};

use crate::built;

/// How a component begins.
pub const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
/// How a core module begins.
pub const MODULE: &[u8] = b"\0asm\x01\0\0\0";

/// The file of the fixture, as it was built.
///
/// # Errors
///
/// Fails when the fixture is not what it should be.
pub fn hostile() -> Result<Vec<u8>> {
    let file = built("fixtures").join("hostile.wasm");
    std::fs::read(&file).with_context(|| {
        format!("{} is not built; run `cargo xtask build --fixtures`", file.display())
    })
}

/// The same plugin in another file: with a section that no one reads.
pub fn variant(file: &[u8], tag: &str) -> Vec<u8> {
    let name = b"pintle-test";
    let content = [number(name.len()).as_slice(), name, tag.as_bytes()].concat();
    [file, &section(0, &content)].concat()
}

/// Writes the name of a behaviour into the file.
///
/// # Errors
///
/// Fails when the fixture is not what it should be.
pub fn marked(mut file: Vec<u8>, behaviour: Behaviour) -> Result<Vec<u8>> {
    let blank: Vec<u8> = [MARK_START.as_bytes(), &[b' '; 8]].concat();
    let at = position(&file, &blank).context("no mark in the file")?;
    let text = format!("{MARK_START} {}", behaviour.name());
    let text = format!("{text:MARK_BYTES$}");
    let place = file.get_mut(at..at + MARK_BYTES).context("the mark is cut off")?;
    place.copy_from_slice(text.as_bytes());
    Ok(file)
}

/// Replaces every occurrence by bytes of the same length.
///
/// # Errors
///
/// Fails when the fixture is not what it should be.
pub fn replaced(mut file: Vec<u8>, old: &str, new: &[u8]) -> Result<Vec<u8>> {
    ensure!(old.len() == new.len(), "another length would move everything");
    let mut found = 0;
    while let Some(at) = position(&file, old.as_bytes()) {
        file.splice(at..at + old.len(), new.iter().copied());
        found += 1;
    }
    ensure!(found > 0, "{old} is not in the file");
    Ok(file)
}

fn position(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// A number as the format writes it, seven bits to a byte.
pub fn number(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let low = u8::try_from(value & 0x7f).unwrap_or_default();
        value >>= 7;
        out.push(if value == 0 { low } else { low | 0x80 });
        if value == 0 {
            return out;
        }
    }
}

/// A section with its number and its length.
pub fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id][..], number(content.len()).as_slice(), content].concat()
}

/// Core modules of the outermost component.
fn module_count(file: &[u8]) -> usize {
    let mut rest = file.get(COMPONENT.len()..).unwrap_or_default();
    let mut count = 0;
    while let Some((id, after)) = rest.split_first() {
        let digits = after.iter().take(5).take_while(|byte| **byte & 0x80 != 0).count() + 1;
        let low = after.iter().take(digits).enumerate();
        let len: usize = low.map(|(place, byte)| usize::from(byte & 0x7f) << (7 * place)).sum();
        count += usize::from(*id == 1);
        rest = after.get(digits + len..).unwrap_or_default();
    }
    count
}

/// Adds a core module that is instantiated together with the plugin.
pub fn with_module(file: Vec<u8>, module: &[u8]) -> Vec<u8> {
    let index = number(module_count(&file));
    let instance = [&[1, 0][..], &index, &[0]].concat();
    [file, section(1, module), section(2, &instance)].concat()
}

/// A core module of these sections.
pub fn module(sections: &[Vec<u8>]) -> Vec<u8> {
    [MODULE, &sections.concat()].concat()
}

/// A module with one memory of so many pages.
pub fn memory(pages: usize) -> Vec<u8> {
    module(&[section(5, &[&[1, 0][..], &number(pages)].concat())])
}

/// A module with one table of so many elements.
pub fn table(elements: usize) -> Vec<u8> {
    module(&[section(4, &[&[1, 0x70, 0][..], &number(elements)].concat())])
}

/// A section with a component that holds a component, and so on.
pub fn nested(innermost: Vec<u8>, levels: usize) -> Vec<u8> {
    let mut inside = innermost;
    for _ in 0..levels {
        inside = [COMPONENT, &section(4, &inside)].concat();
    }
    section(4, &inside)
}

/// A module with one function without parameters or results, which may run at once.
pub fn function(body: &[u8], at_once: bool) -> Vec<u8> {
    let code = [number(1), number(body.len()), body.to_vec()].concat();
    let mut sections = vec![section(1, &[1, 0x60, 0, 0]), section(3, &[1, 0])];
    if at_once {
        sections.push(section(8, &[0]));
    }
    sections.push(section(10, &code));
    module(&sections)
}
