//! Tests of the checks of [`Connect`] and [`Backoff`].

use super::*;

fn refused(connect: Connect) -> String {
    connect.into_parts().unwrap_err().to_string()
}

#[test]
fn what_is_wrong_is_told_when_it_is_used() {
    let ms = Duration::from_millis;
    let to = || Connect::new("h:1");
    let policy = Backoff::default();
    let cases = [
        (Connect::new("h"), "\"h\" is not a valid address: the port is missing;"),
        (Connect::from(("a b", 1)), "' ' cannot be part"),
        (to().timeout(Duration::ZERO), "cannot connect to h:1: the timeout must be longer than zero"),
        (to().receive_buffer(0), "the receive buffer must be at least 1"),
        (to().send_buffer(0), "the send buffer must be at least 1"),
        (to().keepalive(Some(Keepalive { tries: 0, ..Keepalive::default() })), "number of tries must be"),
        (to().retry(Backoff { min: ms(0), ..policy }), "must have a min of at least 1ms, not 0ns"),
        (to().retry(Backoff { max: ms(99), ..policy }), "99ms is less than 100ms"),
        (to().retry(Backoff { factor: 0.5, ..policy }), "a factor of at least 1, not 0.5"),
        (to().retry(Backoff { factor: f64::NAN, ..policy }), "a factor of at least 1, not NaN"),
        (to().reconnect(Backoff { tries: Limit::At(0), ..policy }), "must allow at least 1 try"),
        (Connect::new("127.0.0.1:1").local("[::1]:0".parse().unwrap()), ""),
    ];
    for (connect, says) in cases {
        if says.is_empty() {
            // A name may have addresses of either family, and a literal in a string is treated like a name: the
            // mismatch is reported when connecting.
            assert!(connect.into_parts().is_ok());
            continue;
        }
        let error = refused(connect);
        assert!(error.contains(says), "{error}");
    }
    let v4: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let error = refused(Connect::from(v4).local("[::1]:0".parse().unwrap()));
    assert!(
        error.ends_with("127.0.0.1:1: the local address must be of the same address family as the destination"),
        "{error}"
    );
    assert!(refused(Connect::from(Address::Unix(None))).contains("the path is missing"));
}

#[test]
fn a_given_stream_cannot_be_given_twice() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let error = refused(Connect::from(stream).reconnect(Backoff::default()));
    assert!(error.contains("the existing stream: the retry policy is not allowed"), "{error}");
}

#[test]
fn waits_grow_between_their_bounds_and_differ() {
    let policy = Backoff { min: Duration::from_millis(100), max: Duration::from_secs(1), ..Backoff::default() };
    for (failed, most) in [(1, 200), (2, 400), (3, 800), (4, 1000), (5, 1000), (u32::MAX, 1000)] {
        assert_eq!(policy.wait(failed, 0), policy.min);
        let longest = policy.wait(failed, u64::MAX);
        let most = Duration::from_millis(most);
        assert!(longest <= most && longest > most - Duration::from_millis(1), "{longest:?} of {most:?}");
        assert!(policy.wait(failed, u64::MAX / 2) < longest);
    }
    let endless = Backoff { max: Duration::MAX, tries: Limit::Unlimited, ..policy };
    assert!(endless.wait(u32::MAX, u64::MAX) <= Duration::MAX);
    assert!(!endless.is_over(u32::MAX) && policy.is_over(10) && !policy.is_over(9));
}
