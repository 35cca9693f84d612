use super::*;
use crate::auth::Auth;
use crate::server::ServerOptions;
use crate::settings::Settings;
use crate::wire::layout::Range;
use crate::wire::messages::{Event, KeyValue, ResponseHeader};
use futures::FutureExt;
use pintle_plugin_sdk::Endpoint;
use pintle_plugin_sdk::testing::run;

const PEER: &str = "etcd:2379";

/// Watches over a live stream whose other end is in our hands.
struct Stage {
    watches: Rc<Watches>,
    sent: mpsc::UnboundedReceiver<WatchRequest>,
    told: Rc<RefCell<Vec<String>>>,
}

impl Stage {
    fn new() -> Self {
        let settings = Settings::default();
        let options =
            ServerOptions { connect_timeout: settings.connect_timeout(), http2: settings.http2() };
        let nowhere = Endpoint { host: "127.0.0.1".to_owned(), port: 1, tls: false };
        let client = Client::start(vec![nowhere], options, Auth::new(None)).unwrap();
        let watches = Watches::new(client, Layout::new("/prod/"));
        let (requests, sent) = mpsc::unbounded();
        let carried = Carried { requests: Some(requests), ..Carried::default() };
        watches.state.borrow_mut().streams.insert(Role::Live, carried);
        Self { watches, sent, told: Rc::default() }
    }

    fn open(&self, start_revision: i64) -> Subscription {
        let told = Rc::clone(&self.told);
        let range = Range::of_key(b"/prod/a".to_vec());
        let target = Target { range, start_revision, prev_kv: false };
        self.watches.open(target, move |notice| {
            told.borrow_mut().push(match notice {
                Notice::Events(events) => {
                    format!("{:?}", events.iter().map(Event::revision).collect::<Vec<_>>())
                }
                Notice::Progress(revision) => format!("progress {revision}"),
            });
        })
    }

    fn receive(&self, response: WatchResponse) -> Verdict {
        self.watches.receive(Role::Live, response, true, PEER)
    }

    fn created(&self, id: i64) -> Verdict {
        self.receive(WatchResponse { watch_id: id, created: true, ..WatchResponse::default() })
    }

    fn progress(&self, revision: i64) -> Verdict {
        let header = Some(ResponseHeader { cluster_id: 7, revision });
        self.receive(WatchResponse { header, watch_id: -1, ..WatchResponse::default() })
    }

    fn event(&self, id: i64, revision: i64) -> Verdict {
        let kv = KeyValue { mod_revision: revision, ..KeyValue::default() };
        let events = vec![Event { kv: Some(kv), ..Event::default() }];
        self.receive(WatchResponse { watch_id: id, events, ..WatchResponse::default() })
    }

    fn is_canceled_on_the_server(&mut self, id: i64) -> bool {
        let cancel = WatchRequestUnion::Cancel(WatchCancelRequest { watch_id: id });
        let requests = std::iter::from_fn(|| self.sent.try_recv().ok());
        requests.collect::<Vec<_>>().contains(&cancel.into())
    }
}

#[test]
fn progress_says_nothing_of_a_watch_that_the_server_does_not_know_yet() {
    run(async {
        let stage = Stage::new();
        let watch = stage.open(101);
        // The answer to a question that was asked before the watch was.
        stage.progress(101);
        stage.created(watch.id());
        stage.event(watch.id(), 101);
        stage.progress(102);
        assert_eq!(*stage.told.borrow(), ["[101]", "progress 102"]);
    });
}

#[test]
fn a_refused_watch_ends_and_the_others_go_on() {
    run(async {
        let stage = Stage::new();
        let (mut denied, other) = (stage.open(101), stage.open(101));
        let verdict =
            stage.receive(WatchResponse {
                watch_id: -1,
                created: true,
                canceled: true,
                cancel_reason:
                    "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
                        .to_owned(),
                ..WatchResponse::default()
            });
        assert!(matches!(verdict, Verdict::Fine));
        let Some(End::Refused(error)) = denied.ended().now_or_never() else { panic!() };
        assert_eq!(error.code(), "denied");
        stage.created(other.id());
        stage.event(other.id(), 101);
        assert_eq!(*stage.told.borrow(), ["[101]"]);
    });
}

#[test]
fn a_token_that_has_ended_breaks_the_stream_so_that_it_opens_with_another() {
    run(async {
        let stage = Stage::new();
        let _watch = stage.open(101);
        let verdict =
            stage.receive(WatchResponse {
                watch_id: -1,
                created: true,
                canceled: true,
                cancel_reason:
                    "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"
                        .to_owned(),
                ..WatchResponse::default()
            });
        let Verdict::Broken(failure) = verdict else { panic!() };
        assert_eq!(failure.remedy, Remedy::Authenticate);
    });
}

#[test]
fn the_server_is_told_to_forget_a_compacted_watch() {
    run(async {
        let mut stage = Stage::new();
        let mut watch = stage.open(5);
        stage.created(watch.id());
        stage.receive(WatchResponse {
            watch_id: watch.id(),
            canceled: true,
            compact_revision: 90,
            ..WatchResponse::default()
        });
        assert!(matches!(watch.ended().now_or_never(), Some(End::Compacted(90))));
        assert!(stage.is_canceled_on_the_server(watch.id()));
    });
}

#[test]
fn another_cluster_ends_all_watches_of_the_one_before() {
    run(async {
        let stage = Stage::new();
        let mut watch = stage.open(101);
        stage.created(watch.id());
        stage.progress(101);
        let header = Some(ResponseHeader { cluster_id: 8, revision: 200 });
        stage.receive(WatchResponse { header, watch_id: -1, ..WatchResponse::default() });
        assert!(matches!(watch.ended().now_or_never(), Some(End::WentBack(200))));
    });
}
