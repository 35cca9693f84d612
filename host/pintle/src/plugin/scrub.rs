//! placeholder until plugin::scrub::Scrubber lands
#[derive(Default)]
pub(crate) struct Scrubber;
impl Scrubber {
    pub(crate) fn scrub<'a>(&self, t: &'a str) -> std::borrow::Cow<'a, str> {
        t.into()
    }
}
