use std::cell::Cell;

use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;

use super::*;

fn scrubber(secrets: &[&str]) -> Scrubber {
    let secrets: Vec<_> = secrets.iter().copied().map(Secret::new).collect();
    Scrubber::new(&secrets).unwrap()
}

#[track_caller]
fn scrubs(secret: &str, text: &str, expected: &str) {
    assert_eq!(scrubber(&[secret]).scrub(text), expected);
}

#[test]
fn takes_the_secret_itself_out() {
    scrubs("hunter2", "login as ann:hunter2 failed", "login as ann:[secret] failed");
    scrubs("hunter2", "hunter2hunter2", "[secret]");
    scrubs("hunter2", "hunter2 hunter2", "[secret] [secret]");
    scrubs("pässwörd", "it is 'pässwörd'", "it is '[secret]'");
}

#[test]
fn leaves_texts_without_secrets_as_they_are() {
    let text = "nothing 100% secret + here: %zz %";
    assert!(matches!(scrubber(&["hunter2"]).scrub(text), Cow::Borrowed(same) if same == text));
    assert!(matches!(Scrubber::default().scrub("hunter2"), Cow::Borrowed("hunter2")));
    assert!(matches!(scrubber(&[""]).scrub("hunter2"), Cow::Borrowed("hunter2")));
}

#[test]
fn takes_base64_out_with_its_padding_and_its_edges() {
    scrubs("hunter2", "token aHVudGVyMg==.", "token [secret].");
    scrubs("hunter2", "token aHVudGVyMg.", "token [secret].");
    scrubs(
        "hunter2",
        "Authorization: Basic YW5uOmh1bnRlcjI=",
        "Authorization: Basic YW5uO[secret]",
    );
}

#[test]
fn takes_percent_encoding_out_however_much_of_it_is_encoded() {
    scrubs("a b/c&d", "?p=a%20b%2Fc%26d&x", "?p=[secret]&x");
    scrubs("a b/c&d", "?p=a+b%2fc%26d&x", "?p=[secret]&x");
    scrubs("a b/c&d", "?p=a+b/c&d&x", "?p=[secret]&x");
    scrubs("hunter2", "%68unter%32!", "[secret]!");
    scrubs("a b/c&d", "?p=a%2520b%252Fc%2526d&x", "?p=[secret]&x");
    scrubs("p+ss wörd", "p%2Bss+w%C3%B6rd", "[secret]");
}

#[test]
fn takes_the_escaped_forms_of_json_and_debug_out() {
    let secret = "a\"b\\c\nd";
    for text in [format!("{secret:?}"), serde_json::to_string(secret).unwrap()] {
        scrubs(secret, &text, "\"[secret]\"");
    }
}

#[test]
fn takes_single_lines_of_a_long_secret_out() {
    let key = "-----BEGIN KEY-----\nMIIBVgIBADANBgkq\nshort\n-----END KEY-----\n";
    scrubs(key, "read MIIBVgIBADANBgkq and short", "read [secret] and short");
}

#[test]
fn takes_short_secrets_out_as_words_only() {
    scrubs(
        "cat",
        "the cat sat in concatenation, cat's",
        "the [secret] sat in concatenation, [secret]'s",
    );
    scrubs("cat", "in base64 it is Y2F0", "in base64 it is Y2F0");
}

#[test]
fn a_secret_inside_another_leaves_nothing_of_either() {
    let both = scrubber(&["hunter2", "my hunter2 is long"]);
    assert_eq!(both.scrub("my hunter2 is long, hunter2"), "[secret], [secret]");
    let overlapping = scrubber(&["abcdef", "defghi"]);
    assert_eq!(overlapping.scrub("-abcdefghi-"), "-[secret]-");
}

#[test]
fn never_prints_what_it_looks_for() {
    assert_eq!(format!("{:?}", scrubber(&["hunter2"])), "Scrubber");
    assert_eq!(format!("{:?}", Secret::new("hunter2")), "[secret]");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_form_of_a_secret_survives(
        secret in "[a-zA-Z0-9 +/%&=\"\\\\äß-]{4,40}",
        before in "[ -~äß]{0,12}",
        after in "[ -~äß]{0,12}",
    ) {
        let inside = format!("{before}{secret}{after}");
        let forms = [
            inside.clone(),
            format!("{before} {} {after}", STANDARD.encode(&secret)),
            format!("{before} {} {after}", URL_SAFE_NO_PAD.encode(&secret)),
            STANDARD.encode(&inside),
            URL_SAFE.encode(&inside),
            STANDARD_NO_PAD.encode(&inside),
            utf8_percent_encode(&inside, NON_ALPHANUMERIC).to_string(),
            utf8_percent_encode(&inside, NON_ALPHANUMERIC).to_string().replace("%20", "+"),
        ];
        let scrubber = scrubber(&[&secret]);
        for form in forms {
            let scrubbed = scrubber.scrub(&form);
            prop_assert!(scrubbed.contains(SCRUBBED), "{form:?} became {scrubbed:?}");
            prop_assert!(!scrubbed.contains(&secret), "{form:?} became {scrubbed:?}");
        }
    }

    #[test]
    fn any_text_is_scrubbed_without_harm(text in "\\PC{0,60}", secret in "\\PC{0,8}") {
        let scrubber = scrubber(&[&secret]);
        let once = scrubber.scrub(&text).into_owned();
        prop_assert!(secret.len() < SHORT_BYTES || SCRUBBED.contains(&secret)
            || !once.replace(SCRUBBED, "\n").contains(&secret));
    }
}

#[test]
fn a_secret_across_the_cut_is_taken_out_whole_and_nothing_behind_it_is_shown() {
    let scrubber = scrubber(&["hunter2-hunter2"]);
    let encoded: String = "hunter2-hunter2".bytes().map(|byte| format!("%25{byte:02X}")).collect();
    for secret in ["hunter2-hunter2", &encoded] {
        for before in 0..=20 {
            let text = format!("{}{secret}{}", "x".repeat(before), "tail".repeat(1000));
            let shown = scrubber.scrub_head(&text, 20).into_owned();
            let hidden = format!("{}{SCRUBBED}", "x".repeat(before));
            if before == 20 {
                assert_eq!(shown, format!("{}…", "x".repeat(20)));
            } else {
                assert!(shown.starts_with(&hidden), "{shown}");
                assert!(shown.len() <= hidden.len() + 20, "{shown}");
            }
        }
    }
    assert_eq!(scrubber.scrub_head("short", 20), "short");
    assert_eq!(Scrubber::default().scrub_head("äöü", 3), "ä…");
}

thread_local! {
    /// Bytes of text in which secrets were looked for.
    pub(super) static SEARCHED: Cell<usize> = const { Cell::new(0) };
}

#[test]
fn what_is_cut_off_is_not_searched() {
    let scrubber = scrubber(&["hunter2-hunter2"]);
    let searched = |len: usize| {
        SEARCHED.set(0);
        let text = "%2B".repeat(len);
        assert!(scrubber.scrub_head(&text, 8 << 10).len() < 9 << 10);
        SEARCHED.get()
    };
    let bytes = searched(8 << 10);
    assert!((8 << 10..10 << 10).contains(&bytes), "{bytes} bytes for the first 8 KiB");
    assert_eq!(searched(1 << 20), bytes);
}
