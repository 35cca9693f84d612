//! A sink that is away for a while.

use super::*;

/// Takes nothing before it is back, and remembers what was brought.
#[derive(Default)]
struct Away {
    is_back: AtomicBool,
    brought: Mutex<Vec<String>>,
}

impl Away {
    /// How often this span was brought.
    fn tries(&self, number: u64) -> usize {
        let name = span(number).name;
        self.brought.lock().unwrap().iter().filter(|brought| **brought == name).count()
    }
}

impl Sink for Away {
    fn name(&self) -> &'static str {
        "away"
    }

    fn deliver(&self, batch: Bytes) -> BoxFuture<'_, Result<ExportResult, Failure>> {
        self.brought.lock().unwrap().push(spans_of(batch)[0].name.clone());
        let answer = if self.is_back.load(Ordering::SeqCst) {
            Ok(ExportResult { accepted: 1, rejected: vec![] })
        } else {
            Err(Failure { remedy: Remedy::Later(None), message: "nobody is there".into() })
        };
        Box::pin(std::future::ready(answer))
    }
}

/// A sink that has to see the spans of a trace together would not, if each batch had a pause of its own:
/// that of the first has grown to many times that of the second.
#[test]
fn batches_that_wait_for_a_sink_come_back_together() {
    run(async {
        let sink = Arc::new(Away::default());
        let settings = TracingSettings { batch_spans: 1, ..settings() };
        let pipeline = serve(&settings, vec![Arc::clone(&sink) as Arc<dyn Sink>]);
        for (number, tries) in [(0, 4), (1, 6)] {
            pipeline.offer(spans(number..number + 1)).unwrap();
            while sink.tries(number) < tries {
                tokio::task::yield_now().await;
            }
        }
        sink.is_back.store(true, Ordering::SeqCst);
        pipeline.flush().await;
        assert_eq!(pipeline.status().sinks[0].delivered, 2);
        let brought = sink.brought.lock().unwrap();
        let second = brought.iter().position(|name| *name == span(1).name).unwrap();
        for three in brought[second..].windows(3) {
            assert!(three[0] != three[1] || three[1] != three[2], "one went alone: {brought:?}");
        }
    });
}
