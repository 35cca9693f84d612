use super::*;

fn grants(endpoints: &[&str], allow: &[&str]) -> Grants {
    try_grants(endpoints, allow).unwrap()
}

fn try_grants(endpoints: &[&str], allow: &[&str]) -> Result<Grants, GrantError> {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    Grants::parse("main", &owned(endpoints), &owned(allow), None)
}

fn target(host: &str, port: u16) -> Target {
    Target::new(host, port).unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn nothing_is_granted_without_an_entry() {
    let grants = grants(&[], &[]);
    assert!(grants.check(&target("127.0.0.1", 2379)).is_err());
    assert!(grants.check(&target("93.184.216.34", 443)).is_err());
    assert!(grants.check(&target("example.com", 443)).is_err());
    assert!(grants.check_lookup("example.com").is_err());
}

#[test]
fn a_denial_names_the_line_to_add() {
    let grants = grants(&["etcd1:2379"], &[]);
    let denial = |host, port| grants.check(&target(host, port)).unwrap_err().to_string();
    assert_eq!(
        denial("10.0.0.7", 2379),
        "backend main: connection to 10.0.0.7:2379 denied; \
         add allow = [\"10.0.0.7:2379\"] to [backends.main]"
    );
    assert!(denial("fd00::7", 2379).contains("allow = [\"[fd00::7]:2379\"]"));
    assert_eq!(
        grants.check_lookup("etcd9").unwrap_err().to_string(),
        "backend main: look-up of etcd9 denied; add allow = [\"etcd9:PORT\"] to [backends.main]"
    );
}

#[test]
fn each_suggested_line_grants_what_was_denied() {
    for (host, port) in [("10.0.0.7", 2379), ("fd00::7", 443), ("db.internal", 80)] {
        let line = target(host, port).to_string();
        assert!(grants(&[], &[&line]).check(&target(host, port)).is_ok(), "{line}");
    }
}

#[test]
fn an_endpoint_grants_its_host_on_its_port_only() {
    let grants = grants(&["etcd1:2379", "[::1]:2380", "10.0.0.7:2379"], &[]);
    assert_eq!(grants.check(&target("etcd1", 2379)), Ok(Grant::Written));
    assert_eq!(grants.check(&target("ETCD1.", 2379)), Ok(Grant::Written));
    assert!(grants.check(&target("etcd1", 2380)).is_err());
    assert!(grants.check(&target("::1", 2380)).is_ok());
    assert!(grants.check(&target("10.0.0.7", 2379)).is_ok());
    assert!(grants.check(&target("10.0.0.8", 2379)).is_err());
}

#[test]
fn a_written_name_may_resolve_into_the_operators_networks() {
    let grants = grants(&["etcd1:2379"], &[]);
    let etcd = target("etcd1", 2379);
    for inside in ["127.0.0.1", "10.1.2.3", "169.254.169.254", "fe80::1", "fd00::1"] {
        assert!(grants.check_resolved(&etcd, Grant::Written, address(inside)).is_ok(), "{inside}");
    }
    for nowhere in ["0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "ff02::1", "::ffff:0.0.0.0"] {
        assert!(grants.check_resolved(&etcd, Grant::Written, address(nowhere)).is_err());
    }
}

#[test]
fn a_wildcard_reaches_public_addresses_only() {
    let grants = grants(&[], &["*.example.com:443"]);
    let target = target("a.example.com", 443);
    assert_eq!(grants.check(&target), Ok(Grant::Wildcard));
    assert!(grants.check_resolved(&target, Grant::Wildcard, address("93.184.216.34")).is_ok());
    assert!(grants.check_resolved(&target, Grant::Wildcard, address("2606:2800::1")).is_ok());
    for inside in [
        "127.0.0.1",
        "10.0.0.7",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "198.18.0.1",
        "192.0.0.8",
        "240.0.0.1",
        "::1",
        "fe80::1",
        "fd00::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "2001:db8::1",
        "100::1",
    ] {
        let denied = grants.check_resolved(&target, Grant::Wildcard, address(inside));
        let text = denied.expect_err(inside).to_string();
        assert!(text.contains("allow = [\"a.example.com:443\"]"), "{text}");
    }
}

#[test]
fn a_wildcard_covers_names_below_its_suffix() {
    let grants = grants(&[], &["*.example.com:443"]);
    assert!(grants.check(&target("a.b.example.com", 443)).is_ok());
    for other in ["example.com", "badexample.com", "example.com.evil.org"] {
        assert!(grants.check(&target(other, 443)).is_err(), "{other}");
    }
}

#[test]
fn a_wildcard_with_a_network_reaches_into_that_network() {
    let grants = grants(&[], &["*.example.com:443", "10.0.0.0/8:443"]);
    let target = target("a.example.com", 443);
    assert!(grants.check_resolved(&target, Grant::Wildcard, address("10.9.9.9")).is_ok());
    assert!(grants.check_resolved(&target, Grant::Wildcard, address("127.0.0.1")).is_err());
}

#[test]
fn networks_and_port_ranges_are_granted_as_written() {
    let grants = grants(&[], &["10.0.0.0/8:2000-2100", "[fd00::]/8:*", "192.0.2.1:80"]);
    assert!(grants.check(&target("10.200.0.1", 2000)).is_ok());
    assert!(grants.check(&target("10.200.0.1", 2100)).is_ok());
    assert!(grants.check(&target("10.200.0.1", 2101)).is_err());
    assert!(grants.check(&target("11.0.0.1", 2000)).is_err());
    assert!(grants.check(&target("fd12::1", 65535)).is_ok());
    assert!(grants.check(&target("::ffff:10.0.0.1", 2000)).is_ok());
    assert!(grants.check_lookup("10.internal").is_err());
}

#[test]
fn an_address_that_is_no_host_is_never_reachable() {
    let grants = grants(&[], &["0.0.0.0/0:*", "[::]/0:*"]);
    assert!(grants.check(&target("93.184.216.34", 1)).is_ok());
    for nowhere in ["0.0.0.0", "0.0.0.1", "::", "239.1.1.1"] {
        let text = grants.check(&target(nowhere, 80)).unwrap_err().to_string();
        assert!(text.contains("no setting opens it"), "{text}");
    }
}

#[test]
fn an_endpoint_without_port_takes_the_default() {
    let endpoints = ["etcd1".to_owned(), "[::1]".to_owned(), "b:1".to_owned()];
    let grants = Grants::parse("main", &endpoints, &[], Some(2379)).unwrap();
    let texts: Vec<_> = grants.endpoints().iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["etcd1:2379", "[::1]:2379", "b:1"]);
}

#[test]
fn what_cannot_be_read_is_refused_with_key_and_entry() {
    for endpoint in [
        "",
        "etcd1",
        "etcd1:",
        "etcd1:0",
        "etcd1:70000",
        ":2379",
        "http://etcd1:2379",
        "::1:2379",
        "[::1:2379",
        "[::1]x:1",
        "[etcd1]:1",
        "*.example.com:1",
        "10.0.0.0/8:1",
        "a b:1",
        "127.1:1",
        "0x7f.1:1",
        "2130706433:1",
        "-a:1",
        "[fe80::1%eth0]:1",
        "naïve.example:1",
    ] {
        let error = try_grants(&[endpoint], &[]).expect_err(endpoint);
        assert_eq!((error.key, error.entry.as_str()), ("endpoints", endpoint));
    }
    for allow in ["etcd1", "etcd1:9-8", "etcd1:*-9", "*:443", "*.:443", "10.0.0.0/33:1", "a/8:1"] {
        let error = try_grants(&[], &[allow]).expect_err(allow);
        assert_eq!((error.key, error.entry.as_str()), ("allow", allow));
    }
}
