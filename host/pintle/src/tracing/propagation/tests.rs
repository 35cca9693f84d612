use proptest::prelude::*;

use super::*;

fn back(headers: &[(String, String)]) -> Carried {
    extract(headers.iter().map(|(name, value)| (name.as_str(), value.as_str())))
}

fn one(name: &str, value: &str) -> Option<SpanContext> {
    extract([(name, value)]).span
}

#[test]
fn headers_of_each_convention_are_read_as_their_documents_write_them() {
    let trace = "80f198ee56343ba864fe8b2a57d3eff7";
    let w3c = one("Traceparent", &format!("00-{trace}-e457b5a2e4d86bd1-01")).unwrap();
    assert_eq!((hex(&w3c.trace_id).as_str(), w3c.sampled), (trace, Some(true)));
    let single = one("b3", &format!("{trace}-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90")).unwrap();
    assert_eq!(hex(&single.parent_id.unwrap()), "05e3ac9a4f6e3b90");
    let multi = extract([
        ("X-B3-TraceId", trace),
        ("X-B3-SpanId", "e457b5a2e4d86bd1"),
        ("X-B3-Sampled", "0"),
    ]);
    assert_eq!(multi.span.unwrap().sampled, Some(false));
    let jaeger = one("uber-trace-id", "3dbe2a5b:e457b5a2e4d86bd1:0:3").unwrap();
    assert_eq!(hex(&jaeger.trace_id), "0000000000000000000000003dbe2a5b");
    assert!(jaeger.debug && jaeger.parent_id.is_none());
    assert!(one("uber-trace-id", "3dbe2a5b%3Ae457b5a2e4d86bd1%3A0%3A1").is_some());
    // The example of SkyWalking's documentation.
    let sw8 = "1-TRACEID-SEGMENTID-3-PARENT_SERVICE-PARENT_INSTANCE-PARENT_ENDPOINT-IPPORT";
    let encoded = "1-VFJBQ0VJRA==-U0VHTUVOVElE-3-UEFSRU5UX1NFUlZJQ0U=-UEFSRU5UX0lOU1RBTkNF-UEFSRU5UX0VORFBPSU5U-SVBQT1JU";
    let carried = extract([("sw8", encoded)]);
    let context = carried.skywalking.unwrap();
    let index = context.span_index.to_string();
    let text = [
        &context.trace_id,
        &context.segment_id,
        &index,
        &context.service,
        &context.instance,
        &context.endpoint,
        &context.peer,
    ];
    assert_eq!(format!("1-{}", text.map(String::as_str).join("-")), sw8);
    assert!(carried.span.is_some());
}

#[test]
fn what_is_malformed_is_left_out() {
    for (name, value) in [
        ("traceparent", "00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1"),
        ("traceparent", "00-80F198EE56343BA864FE8B2A57D3EFF7-e457b5a2e4d86bd1-01"),
        ("traceparent", "00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01-x"),
        ("traceparent", "ff-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01"),
        ("traceparent", "00-00000000000000000000000000000000-e457b5a2e4d86bd1-01"),
        ("traceparent", "00-80f198ee56343ba864fe8b2a57d3eff7-0000000000000000-01"),
        ("b3", "0"),
        ("b3", "80f198ee56343ba8-e457b5a2e4d86bd1-x"),
        ("b3", "80f198ee-e457b5a2e4d86bd1-1"),
        ("uber-trace-id", "1:2:3"),
        ("uber-trace-id", "1:2:3:4:5"),
        ("sw8", "1-a-b-c"),
        ("sw8", ""),
    ] {
        assert_eq!(one(name, value), None, "{name}: {value}");
    }
    let two = [
        ("traceparent", "00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01"),
        ("traceparent", "00-11f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01"),
    ];
    assert_eq!(extract(two).span, None, "of two that differ none is believed");
}

#[test]
fn a_later_version_of_w3c_may_say_more() {
    let later = "01-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01-more";
    assert!(one("traceparent", later).is_some());
}

#[test]
fn a_state_that_breaks_the_rules_is_not_passed_on() {
    let parent = ("traceparent", "00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01");
    let state = |text: &str| extract([parent, ("tracestate", text)]).state;
    assert_eq!(state("a=1, b=2"), "a=1,b=2");
    assert_eq!(extract([parent, ("tracestate", "a=1"), ("tracestate", "b=2")]).state, "a=1,b=2");
    assert_eq!(state("A=1"), "");
    assert_eq!(state(&"a=1,".repeat(40)), "");
    assert_eq!(extract([("tracestate", "a=1")]).state, "", "without a parent it means nothing");
}

#[test]
fn a_state_that_is_too_long_loses_its_long_members_and_then_its_oldest() {
    let parent = ("traceparent", "00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01");
    let state = |members: &[&str]| extract([parent, ("tracestate", &members.join(","))]).state;
    let long = format!("long={}", "x".repeat(200));
    let [one, two, three, four, five] =
        ["a", "b", "c", "d", "e"].map(|key| format!("{key}={}", "x".repeat(118)));
    assert_eq!(one.len(), 120);
    assert_eq!(state(&[&one, &long, &two, &three]), [&*one, &two, &three].join(","));
    assert_eq!(state(&[&one, &two, &three, &four, &five]), [&*one, &two, &three, &four].join(","));
    let full = format!("f={}", "x".repeat(26));
    let exactly = [&*one, &two, &three, &four, &full].join(",");
    assert_eq!((exactly.len(), state(&[&exactly])), (512, exactly));
}

#[test]
fn what_is_decided_without_a_span_is_heard_and_told() {
    for (name, value, decision) in [
        ("b3", "0", Some(false)),
        ("b3", "d", Some(true)),
        ("X-B3-Sampled", "0", Some(false)),
        ("X-B3-Flags", "1", Some(true)),
        ("b3", "x", None),
        ("accept", "*/*", None),
    ] {
        let carried = extract([(name, value)]);
        assert_eq!((carried.span, carried.decision()), (None, decision), "{name}: {value}");
        assert_eq!(carried.trace_headers().and_then(|headers| headers.sampled), decision);
        for format in [Format::B3, Format::B3Single] {
            assert_eq!(back(&inject(&carried, format)).decision(), decision);
        }
        assert!(inject(&carried, Format::W3c).is_empty());
    }
}

#[test]
fn a_decision_that_is_left_to_us_is_not_taken_for_a_refusal() {
    let headers = |b3: &str| extract([("b3", b3)]).trace_headers().unwrap();
    let ids = "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1";
    assert_eq!(headers(ids).sampled, Some(true));
    assert_eq!(headers(&format!("{ids}-0")).sampled, None, "`traceparent` says so");
}

#[test]
fn equal_contexts_of_skywalking_stay_equal_elsewhere() {
    let context = |trace: &str, index| SkyWalkingContext {
        sampled: true,
        trace_id: trace.into(),
        segment_id: "s".into(),
        span_index: index,
        service: "a".into(),
        instance: "b".into(),
        endpoint: "c".into(),
        peer: "d".into(),
    };
    assert_eq!(context("x.1.2", 3).span(), context("x.1.2", 3).span());
    assert_ne!(context("x.1.2", 3).span(), context("x.1.2", 4).span());
    let id = "80f198ee56343ba864fe8b2a57d3eff7";
    assert_eq!(hex(&context(id, 0).span().unwrap().trace_id), id);
}

#[test]
fn baggage_is_bounded() {
    let long = (0..200).map(|number| format!("k{number}=v")).collect::<Vec<_>>().join(",");
    assert_eq!(extract([("baggage", long.as_str())]).baggage.len(), BAGGAGE_MEMBERS_MAX);
    let large = format!("a={},b=2", "x".repeat(9_000));
    assert!(extract([("baggage", large.as_str())]).baggage.is_empty());
}

fn any_span() -> impl Strategy<Value = SpanContext> {
    (1..u128::MAX, 1..u64::MAX, any::<Option<u64>>(), any::<bool>(), any::<bool>()).prop_map(
        |(trace, span, parent, sampled, debug)| SpanContext {
            trace_id: trace.to_be_bytes(),
            span_id: span.to_be_bytes(),
            parent_id: parent.filter(|parent| *parent != 0).map(u64::to_be_bytes),
            sampled: Some(sampled || debug),
            debug,
        },
    )
}

fn any_baggage() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::btree_map("[a-z][a-z0-9_.-]{0,10}", "\\PC{0,20}", 0..5)
        .prop_map(|map| map.into_iter().collect())
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(span in any_span(), baggage in any_baggage(), state in "([a-z]{1,5}=[0-9]{1,5}(,[f-h]{2}=x)?)?") {
        for format in Format::ALL {
            let carried = Carried { span: Some(span), state: state.clone(), baggage: baggage.clone(), skywalking: None, sampled: None };
            let read = back(&inject(&carried, format));
            let found = read.span.unwrap();
            prop_assert_eq!(found.trace_id, span.trace_id, "{}", format);
            prop_assert_eq!(found.is_sampled(), span.is_sampled());
            if format == Format::SkyWalking {
                // Its numbers are others; they are the same for whoever reads them.
                prop_assert_eq!(read.skywalking.unwrap().span(), Some(found));
            } else {
                prop_assert_eq!(found.span_id, span.span_id);
            }
            if matches!(format, Format::B3 | Format::B3Single | Format::Jaeger) {
                prop_assert_eq!((found.parent_id, found.debug), (span.parent_id, span.debug));
            }
            if format == Format::W3c {
                prop_assert_eq!(&read.state, &state);
            }
            if !matches!(format, Format::B3 | Format::B3Single) {
                prop_assert_eq!(&read.baggage, &baggage, "{}", format);
            }
        }
    }

    #[test]
    fn no_header_makes_it_panic(
        name in "(traceparent|tracestate|baggage|b3|x-b3-traceid|x-b3-spanid|uber-trace-id|uberctx-a|sw8|sw8-correlation)",
        value in "[0-9a-f:=,;%é-]{0,80}|\\PC{0,60}",
    ) {
        let carried = extract([(name.as_str(), value.as_str())]);
        for format in Format::ALL {
            let _ = inject(&carried, format);
        }
    }

    #[test]
    fn a_context_of_skywalking_is_written_as_it_was_read(texts in prop::array::uniform6("\\PC{1,12}"), span_index: u32, sampled: bool) {
        let [trace_id, segment_id, service, instance, endpoint, peer] = texts;
        let context = SkyWalkingContext { sampled, trace_id, segment_id, span_index, service, instance, endpoint, peer };
        let carried = Carried { skywalking: Some(context.clone()), ..Carried::default() };
        prop_assert_eq!(back(&inject(&carried, Format::SkyWalking)).skywalking, Some(context));
    }
}
