//! The rules that a dump keeps, whatever comes from the kernel: see [`crate::fuzzing`].

use super::codec::{Malformed, decode, messages};
use super::*;

/// One datagram, as an answer to each kind of request. The sequence number is that of its first message, and every
/// other port in it is wanted.
pub(crate) fn netlink(bytes: &[u8]) {
    let all: Vec<_> = messages(bytes).collect();
    assert!(all.len() <= bytes.len() / 16 + 1);
    assert!(all.iter().rev().skip(1).all(Result::is_ok), "the walk ends at the first that is malformed");
    let envelopes: Vec<_> = all.iter().filter_map(|message| message.as_ref().ok()).collect();
    let mut ports = Vec::new();
    for envelope in &envelopes {
        let Message::Socket(payload) = envelope.content else { continue };
        let reply = decode(payload);
        let is_whole = payload.len() >= 72 && (payload[0] == 2 || payload[0] == 10);
        assert_eq!(reply.is_err(), !is_whole);
        if let Ok(reply) = reply {
            ports.extend(Port::new(reply.local.port()));
        }
    }
    let wanted: Vec<Port> = ports.into_iter().step_by(2).collect();
    let sequence = envelopes.first().map_or(0, |envelope| envelope.sequence);
    for (protocol, states) in [
        (Protocol::Tcp, States::TCP_LISTENING),
        (Protocol::Tcp, States::TCP_OTHERS),
        (Protocol::Udp, States::UDP_WAITING),
        (Protocol::Udp, States::UDP_CONNECTED),
    ] {
        let request = Request { family: Family::Both, protocol, states, port: None, at: None, bound_to: &[] };
        let step = Dump::new(sequence, request, &wanted).take(bytes);
        let of_ours = || envelopes.iter().filter(|envelope| envelope.sequence == sequence);
        match step {
            Ok(Step::Last(Outcome::Complete(sockets))) => {
                assert!(of_ours().any(|envelope| envelope.content == Message::Done(None)), "a dump has an end");
                let until_done = of_ours().take_while(|envelope| envelope.content != Message::Done(None));
                assert!(!until_done.into_iter().any(|envelope| envelope.interrupted));
                for socket in sockets {
                    let port = Port::new(socket.local.port()).unwrap();
                    assert!(wanted.contains(&port) && socket.protocol == protocol, "{socket:?} was not asked for");
                    assert!(socket.local.is_ipv6() || !socket.v6only);
                }
            }
            Ok(Step::Last(Outcome::Inconsistent)) => {
                assert!(of_ours().any(|envelope| envelope.interrupted || envelope.content == Message::Overrun));
            }
            Ok(Step::More) => assert!(!all.contains(&Err(Malformed))),
            Err(SockDiagError::Refused(_)) => {
                assert!(
                    of_ours().any(|envelope| {
                        matches!(envelope.content, Message::Error(Some(_)) | Message::Done(Some(_)))
                    })
                );
            }
            Err(error) => assert!(matches!(error, SockDiagError::Malformed), "{error:?}"),
        }
    }
}
