//! What sessions keep of watches.

use super::*;

#[test]
fn lasting_watches_are_set_again_and_their_listeners_told_of_the_gap() {
    run(async {
        let servers: Rc<Servers> = Rc::default();
        let session = start(&servers, 1);
        let (mut peer, _client) = established(&servers, &session).await;
        let tree = session.watches().listen("/a", WatchMode::Tree, true);
        let node = session.watches().listen("/b", WatchMode::Node, true);
        peer.event(3, "/a/x/y").await;
        peer.event(2, "/ab").await;
        peer.event(1, "/b").await;
        let changed = |path: &str, kind| Notice::Changed(vec![(path.to_owned(), kind)]);
        assert_eq!(tree.next().await, changed("/a/x/y", EventKind::DataChanged));
        assert_eq!(node.next().await, changed("/b", EventKind::Created));
        drop(peer);
        let mut peer = servers.accept().await;
        peer.connect_request().await;
        peer.grant(9_000, 0x11).await;
        let set = peer.request().await.unwrap();
        assert_eq!(set.opcode, 105);
        let mut input = Decoder::new(&set.body);
        input.long().unwrap();
        let lists = [(); 5].map(|()| input.strings().unwrap());
        assert_eq!(lists, [vec![], vec![], vec![], vec!["/b".to_owned()], vec!["/a".to_owned()]]);
        peer.answer(set.xid, 1, 0, |_| {}).await;
        assert!(matches!(tree.next().await, Notice::Gap(_)));
        assert!(matches!(node.next().await, Notice::Gap(_)));
    });
}

#[test]
fn many_watches_are_set_again_in_parts() {
    let lasting: Vec<_> = (0..5_000).map(|n| (format!("/{n:0100}"), WatchMode::Tree)).collect();
    let parts = in_parts(&lasting, WATCHES_BYTES_MAX);
    let bytes = |part: &(Vec<&str>, Vec<&str>)| -> usize {
        part.0.iter().chain(&part.1).map(|path| path.len() + 4).sum()
    };
    assert!(parts.iter().all(|part| bytes(part) <= WATCHES_BYTES_MAX));
    assert_eq!(parts.len(), 5);
    assert_eq!(parts.iter().map(|part| part.1.len()).sum::<usize>(), lasting.len());
}

#[test]
fn a_watch_that_nobody_wants_any_more_is_taken_away() {
    run(async {
        let servers: Rc<Servers> = Rc::default();
        let session = start(&servers, 1);
        let (mut peer, _client) = established(&servers, &session).await;
        let one = session.watches().listen("/a", WatchMode::Tree, true);
        let other = session.watches().listen("/a", WatchMode::Node, true);
        assert_eq!(session.watches().mode_of("/a"), WatchMode::Tree, "one watch for both");
        drop(one);
        drop(other);
        let removed = peer.request().await.unwrap();
        assert_eq!(removed.opcode, 18);
        assert!(session.watches().lasting().is_empty());
    });
}

#[test]
fn after_an_upgrade_of_the_servers_lasting_watches_are_used() {
    run(async {
        let servers: Rc<Servers> = Rc::default();
        let session = start(&servers, 1);
        let _listener = session.watches().listen("/a", WatchMode::Tree, true);
        let begun = async || {
            let mut peer = servers.accept().await;
            peer.connect_request().await;
            peer.grant(9_000, 0x11).await;
            peer
        };
        let mut old = begun().await;
        let asked = old.request().await.unwrap();
        assert_eq!(asked.opcode, 105);
        old.answer(asked.xid, 1, -6, |_| {}).await;
        drop(old);
        // The same server: it would hang up again.
        let mut old = begun().await;
        let client = session.client(&call()).await.unwrap();
        assert!(!session.has_lasting_watches());
        drop(client.call(&GetData { path: "/a", watch: false }));
        assert_eq!(old.request().await.unwrap().opcode, 4, "and nothing before it");
        drop(old);
        let mut new = begun().await;
        let asked = new.request().await.unwrap();
        assert_eq!(asked.opcode, 105);
        new.answer(asked.xid, 1, 0, |_| {}).await;
        session.client(&call()).await.unwrap();
        assert!(session.has_lasting_watches());
    });
}

#[test]
fn changes_that_nobody_has_looked_at_count_as_what_watches_keep() {
    run(async {
        let budget = Budget::new(1_000);
        let watches = Rc::new(Watches::new(Rc::clone(&budget)));
        let (slow, share) = (watches.listen("/", WatchMode::Tree, false), budget.share());
        let event = Event { kind: EventKind::DataChanged, path: format!("/{:067}", 0) };
        (0..9).for_each(|_| watches.tell(&event));
        assert_eq!(share.bytes_max(), 100);
        let Notice::Changed(changes) = slow.next().await else { panic!() };
        assert_eq!((changes.len(), share.bytes_max()), (9, 1_000));
        (0..11).for_each(|_| watches.tell(&event));
        assert_eq!(share.bytes_max(), 1_000);
        assert!(matches!(slow.next().await, Notice::Gap(_)));
        share.set(950).unwrap();
        watches.tell(&event);
        assert!(matches!(slow.next().await, Notice::Gap(_)), "others keep the rest");
    });
}

#[test]
fn a_session_that_has_ended_keeps_nothing_of_its_watches() {
    run(async {
        let servers: Rc<Servers> = Rc::default();
        let session = start(&servers, 1);
        let (mut peer, client) = established(&servers, &session).await;
        drop(client);
        let watches = Rc::downgrade(session.watches());
        let closing = session.close(Duration::from_secs(5));
        let serving = async {
            let close = peer.request().await.unwrap();
            peer.answer(close.xid, 9, 0, |_| {}).await;
        };
        futures::future::join(closing, serving).await.0.unwrap();
        drop((session, peer));
        sleep(Duration::from_secs(1)).await;
        assert!(watches.upgrade().is_none());
    });
}
