//! Synthetic sides of known cost: what the rows say of them.
#![allow(clippy::unwrap_used, reason = "helpers of tests, which may panic")]

use std::cell::RefCell;
use std::convert::Infallible;
use std::time::Duration;

use futures::executor::block_on;
use pintle_test_bench::{
    Bounds, ChaosRow, Comparison, Cost, Curve, Growth, Measure, Report, Row, Target, Verdict,
    bootstrap, midmean,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Operations that say they took about this long, give or take a share, with a tail.
fn side(typical_us: f64, spread: f64, seed: u64) -> impl FnMut() -> Claim {
    let mut random = SmallRng::seed_from_u64(seed);
    move || {
        let stray =
            1.0 + spread * (random.random_range(-1.0..1.0) + random.random_range(-1.0..1.0));
        let tail = if random.random_range(0..100) < 2 { 3.0 } else { 1.0 };
        std::future::ready(Ok(Duration::from_secs_f64(typical_us * stray * tail * 1e-6)))
    }
}

type Claim = std::future::Ready<Result<Duration, Infallible>>;

fn compare(ours_us: f64, peer_us: f64, spread: f64, measure: Measure, target: Target) -> Row {
    let comparison = Comparison::new("P1-x", "synthetic").target(measure, target).operations(500);
    let (ours, peer) = (side(ours_us, spread, 1), side(peer_us, spread, 2));
    block_on(comparison.run_timed(ours, peer)).unwrap().remove(0)
}

#[test]
fn known_ratio_lies_within_narrow_bounds() {
    for ratio in [0.5, 0.9, 1.0, 1.1, 3.0] {
        for measure in [Measure::P50, Measure::P99] {
            let row = compare(100.0 * ratio, 100.0, 0.1, measure, Target::AtMost(1.0));
            // One interval in twenty may miss the truth, by little.
            assert!(row.low * 0.99 <= ratio && ratio <= row.high * 1.01, "{ratio}: {row:?}");
            assert!(row.high / row.low < 1.1, "{row:?}");
            assert!((row.ours / row.peer.unwrap() / ratio - 1.0).abs() < 0.05, "{row:?}");
        }
    }
}

#[test]
fn about_nineteen_intervals_of_twenty_hold_the_truth() {
    let mut random = SmallRng::seed_from_u64(11);
    let mut hits = 0;
    for seed in 0..100 {
        let ratios: Vec<f64> = (0..30).map(|_| random.random_range(0.8..1.2)).collect();
        let bounds = bootstrap(&ratios, seed, midmean);
        hits += u32::from(bounds.low <= 1.0 && 1.0 <= bounds.high);
    }
    assert!((88..=99).contains(&hits), "{hits} of 100");
}

#[test]
fn faster_passes_and_slower_fails() {
    let at_most = Target::AtMost(0.95);
    let faster = compare(90.0, 100.0, 0.1, Measure::P50, at_most);
    assert_eq!((faster.id.as_str(), faster.verdict), ("P1-x-p50", Verdict::Pass));
    assert_eq!(compare(100.0, 100.0, 0.1, Measure::P50, at_most).verdict, Verdict::Fail);
    assert_eq!(compare(110.0, 100.0, 0.1, Measure::P50, at_most).verdict, Verdict::Fail);
}

#[test]
fn equal_sides_pass_a_target_with_room_and_not_one_without() {
    let passes = |limit| compare(100.0, 100.0, 0.1, Measure::P50, Target::AtMost(limit)).verdict;
    assert_eq!(passes(1.05), Verdict::Pass);
    assert_eq!(passes(0.99), Verdict::Fail);
}

#[test]
fn restless_machine_is_inconclusive_whatever_the_ratio() {
    // The peer slows down from one measurement to the next of the same round.
    let clock = RefCell::new(0u64);
    let ours = || std::future::ready(Ok::<_, Infallible>(1.0));
    let peer = || {
        let mut clock = clock.borrow_mut();
        *clock += 1;
        // The two peers of a round differ by 10 %, always in the same sense.
        let slow = is_second(*clock) as u8;
        std::future::ready(Ok::<_, Infallible>(10.0 + f64::from(slow)))
    };
    let comparison = Comparison::new("P9", "synthetic").rounds(12);
    let row = comparison.run_values("µs", Target::AtMost(1.0), ours, peer);
    let row = block_on(row).unwrap();
    assert_eq!(row.verdict, Verdict::Inconclusive, "{row:?}");
    assert!(row.high < 1.0);
}

/// Whether the n-th measurement of the peer, from 1, is the second of its round by name.
fn is_second(n: u64) -> bool {
    let (round, position) = ((n - 1) / 2, (n - 1) % 2);
    let second_comes_first = matches!(round % 6, 1 | 3 | 4);
    (position == 1) != second_comes_first
}

#[test]
fn noise_of_the_machine_is_no_pass() {
    let mut random = SmallRng::seed_from_u64(5);
    let mut verdicts = Vec::new();
    for _ in 0..20 {
        let random = RefCell::new(&mut random);
        let wild = || {
            let value = random.borrow_mut().random_range(1.0..10.0);
            std::future::ready(Ok::<f64, Infallible>(value))
        };
        let comparison = Comparison::new("P9", "synthetic").rounds(12);
        let row = block_on(comparison.run_values("µs", Target::AtMost(1.1), wild, wild)).unwrap();
        verdicts.push(row.verdict);
    }
    let count = |wanted| verdicts.iter().filter(|verdict| **verdict == wanted).count();
    assert!(count(Verdict::Inconclusive) >= 15, "{verdicts:?}");
    assert_eq!(count(Verdict::Pass), 0, "{verdicts:?}");
}

#[test]
fn throughput_and_cpu_are_of_the_whole_round() {
    let work = |turns: u32| async move {
        let mut sum = 0u64;
        for turn in 0..turns {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(u64::from(turn)));
        }
        Ok::<_, Infallible>(())
    };
    let comparison = Comparison::new("P2-x", "synthetic")
        .target(Measure::Throughput, Target::AtLeast(1.5))
        .target(Measure::CpuPerOperation, Target::AtMost(0.8))
        .target(Measure::PerCpuSecond, Target::AtLeast(1.5))
        .outstanding(8)
        .operations(100)
        .rounds(20);
    let rows = block_on(comparison.run(|| work(10_000), || work(160_000))).unwrap();
    let ratios: Vec<f64> = rows.iter().map(|row| row.ratio.unwrap()).collect();
    // Sixteen times the work; how much exactly is the machine's affair.
    assert!(ratios[0] > 2.0 && ratios[1] < 0.5 && ratios[2] > 2.0, "{rows:?}");
    assert!(rows.iter().all(|row| row.id == "P2-x"));
}

#[test]
fn outstanding_operations_overlap_up_to_the_limit() {
    let running = RefCell::new((0u32, 0u32));
    let operation = || async {
        {
            let mut running = running.borrow_mut();
            running.0 += 1;
            running.1 = running.1.max(running.0);
        }
        let mut yielded = false;
        std::future::poll_fn(|context| {
            if std::mem::replace(&mut yielded, true) {
                return std::task::Poll::Ready(());
            }
            context.waker().wake_by_ref();
            std::task::Poll::Pending
        })
        .await;
        running.borrow_mut().0 -= 1;
        Ok::<_, Infallible>(())
    };
    let comparison = Comparison::new("P2", "synthetic").outstanding(5).operations(50).rounds(1);
    block_on(comparison.run(operation, operation)).unwrap();
    assert_eq!(*running.borrow(), (0, 5));
}

#[test]
fn failing_operation_names_the_side_and_the_round() {
    let fine = || std::future::ready(Ok::<_, std::io::Error>(()));
    let broken = || std::future::ready(Err(std::io::Error::other("no route")));
    let error = block_on(Comparison::new("P1-etcd", "get").run(fine, broken)).unwrap_err();
    assert_eq!(error.to_string(), "bench P1-etcd: the peer failed in round 0");
    assert_eq!(error.source.to_string(), "no route");
}

#[test]
fn growth_finds_the_exponent_of_each_cost_and_judges_it() {
    let growth = Growth::new("P12-keys", "a list of keys", &[10, 100, 1_000, 10_000]);
    let mut random = SmallRng::seed_from_u64(3);
    let costs = move |size: u64| {
        let noise = random.random_range(0.98..1.02);
        let size = size as f64;
        std::future::ready(Ok::<_, Infallible>([size * noise, size.powi(2) * noise]))
    };
    let kinds = [("-time", "ms"), ("-cpu", "CPU ms")].map(|(suffix, unit)| Cost { suffix, unit });
    let rows = block_on(growth.run(kinds, costs)).unwrap();
    let [linear, square] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!((linear.id.as_str(), linear.verdict), ("P12-keys-time", Verdict::Pass));
    assert!((linear.ours - 1.0).abs() < 0.02, "{linear:?}");
    assert_eq!((square.id.as_str(), square.verdict), ("P12-keys-cpu", Verdict::Fail));
    assert!((square.ours - 2.0).abs() < 0.02, "{square:?}");
}

#[test]
fn plot_shows_growth_in_proportion_as_ten_columns_for_a_tenfold() {
    let points = vec![(10.0, 2.0), (100.0, 20.0), (1_000.0, 200.0)];
    let curve = Curve { unit: "ms".to_owned(), points };
    let expected = "P12, ms; ten columns are a tenfold\n  10 │█ 2.000\n \
                    100 │███████████ 20.00\n1000 │█████████████████████ 200.0\n";
    assert_eq!(curve.plot("P12"), expected);
    let bounds = Bounds { estimate: 1.0, low: 1.0, high: 1.0 };
    let row = Row::absolute(("P12", "keys", "exponent"), bounds, None, Target::AtMost(1.1));
    let mut report = Report::default();
    report.push(Row { curve: Some(curve), ..row });
    assert!(report.to_string().ends_with(&format!("\n\n{expected}")), "{report}");
    let json = serde_json::to_value(report.rows()).unwrap();
    assert_eq!(json[0]["curve"]["points"][2], serde_json::json!([1_000.0, 200.0]));
}

#[test]
fn json_has_exactly_the_agreed_fields() {
    let bounds = Bounds { estimate: 0.9, low: 0.85, high: 0.94 };
    let head = ("P1-etcd-p50", "config get", "µs");
    let mut report = Report::default();
    report.push(Row::relative(head, (90.0, 100.0), bounds, 1.01, Target::AtMost(0.95)));
    let file = tempfile::tempdir().unwrap();
    let file = file.path().join("bench.json");
    report.write_json(&file).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let expected = serde_json::json!([{
        "id": "P1-etcd-p50", "what": "config get", "ours": 90.0, "peer": 100.0, "unit": "µs",
        "ratio": 0.9, "low": 0.85, "high": 0.94, "aa": 1.01, "target": "≤ 0.95", "verdict": "pass",
    }]);
    assert_eq!(json, expected);
    assert!(report.is_passed());
    let error = report.write_json(std::path::Path::new("/nowhere/bench.json")).unwrap_err();
    assert!(error.to_string().contains("/nowhere/bench.json"), "{error}");
}

#[test]
fn chaos_row_passes_only_with_the_whole_load_and_no_violation() {
    let row = |done| ChaosRow::new("R4-zookeeper", "locks", "0 stale writes", 10, done);
    assert_eq!(row(10).verdict, Verdict::Pass);
    assert_eq!(row(9).verdict, Verdict::Inconclusive);
    assert_eq!(row(9).violations(1).verdict, Verdict::Fail);
    let mut report = Report::default();
    report.push(row(10).detail("ten of ten"));
    let json = serde_json::to_value(report.rows()).unwrap();
    let expected = serde_json::json!([{
        "id": "R4-zookeeper", "what": "locks", "done": 10, "violations": 0,
        "detail": "ten of ten", "target": "0 stale writes", "verdict": "pass",
    }]);
    assert_eq!(json, expected);
}

#[test]
fn table_lines_up_and_an_empty_report_does_not_pass() {
    let mut report = Report::<ChaosRow>::default();
    assert!(!report.is_passed());
    report.push(ChaosRow::new("R1", "≤ wide", "0", 1, 1));
    report.push(ChaosRow::new("R2-etcd", "x", "0", 1, 0));
    let table = report.to_string();
    let columns: Vec<usize> = table
        .lines()
        .map(|line| line.chars().take_while(|c| *c != '≤' && *c != 'x' && *c != 'w').count())
        .collect();
    assert_eq!(columns, [9, 9, 9], "{table}");
    assert!(!report.is_passed());
}

#[test]
fn absolute_target_needs_no_peer() {
    let bounds = |mebibytes: f64| Bounds { estimate: mebibytes, low: mebibytes, high: mebibytes };
    let head = ("P10", "idle host", "MiB");
    let row = Row::absolute(head, bounds(42.0), None, Target::AtMost(60.0));
    assert_eq!((row.verdict, row.peer, row.ratio), (Verdict::Pass, None, None));
    let row = Row::absolute(head, bounds(61.0), None, Target::AtMost(60.0));
    assert_eq!(row.verdict, Verdict::Fail);
    let row = Row::absolute(head, bounds(f64::NAN), None, Target::AtMost(60.0));
    assert_eq!(row.verdict, Verdict::Inconclusive);
}
