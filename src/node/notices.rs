//! What nodes tell each other about membership, outside of consensus: where they are, that they want to leave, that
//! they have been taken out. All of it is only ever a hint or a request; the log alone decides who is a member.

use super::address::HostPort;
use super::kinds::{DENIED, FAREWELL, HERE, LEAVE, THERE};
use super::wire::{Encoded, WireError};
use crate::consensus::NodeId;
use bytes::Bytes;

/// Longest reason that is sent, in bytes.
const MAX_REASON_BYTES: usize = 1024;
/// Ends every notice: the beginning of an address is an address, too, and a member would be looked for there.
const END: &str = "\n";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// "Peers find me at this address, clients at that one." Said to each peer when a link to it is up.
    Here { peer_address: String, address: String },
    /// To the leader: "node `id`, a member, has told me that it is at another place than the log says".
    There { id: NodeId, peer_address: String, address: String },
    /// To the leader: "take me out of the membership".
    Leave,
    /// Answer to `Leave`: it is not done.
    Denied { reason: String },
    /// "A committed membership has taken node `id` out", to that node.
    Farewell { id: NodeId },
}

/// Whether a frame of this kind is one of these.
pub fn is_kind(kind: u8) -> bool {
    matches!(kind, HERE | LEAVE | FAREWELL | DENIED | THERE)
}

pub fn encode(notice: &Notice) -> Encoded {
    let (kind, header) = match notice {
        Notice::Here { peer_address, address } => (HERE, format!("{peer_address} {address}")),
        Notice::There { id, peer_address, address } => (THERE, format!("{id} {peer_address} {address}")),
        Notice::Leave => (LEAVE, String::new()),
        Notice::Farewell { id } => (FAREWELL, id.to_string()),
        Notice::Denied { reason } => {
            let end = (0..=MAX_REASON_BYTES.min(reason.len())).rev().find(|at| reason.is_char_boundary(*at));
            (DENIED, reason[..end.unwrap_or(0)].to_string())
        }
    };
    Encoded { kind, header: (header + END).into_bytes(), payloads: Vec::new() }
}

/// # Errors
/// What has another form than [`encode`] gives it.
pub fn decode(kind: u8, header: &[u8], payload: &Bytes) -> Result<Notice, WireError> {
    let error = WireError::Length { kind, length: header.len() + payload.len() };
    let text = std::str::from_utf8(header).ok().and_then(|text| text.strip_suffix(END));
    let Some(text) = text.filter(|_| payload.is_empty()) else { return Err(error) };
    match kind {
        HERE => {
            let (peer_address, address) = place(text).ok_or(error)?;
            Ok(Notice::Here { peer_address, address })
        }
        THERE => {
            let named = text.split_once(' ').and_then(|(id, rest)| Some((node_id(id)?, place(rest)?)));
            let (id, (peer_address, address)) = named.ok_or(error)?;
            Ok(Notice::There { id, peer_address, address })
        }
        LEAVE if text.is_empty() => Ok(Notice::Leave),
        FAREWELL => node_id(text).map(|id| Notice::Farewell { id }).ok_or(error),
        DENIED if text.len() <= MAX_REASON_BYTES && !text.contains(char::is_control) => {
            Ok(Notice::Denied { reason: text.to_string() })
        }
        LEAVE | DENIED => Err(error),
        kind => Err(WireError::UnknownKind { kind }),
    }
}

/// The address for peers, and the one for clients.
fn place(text: &str) -> Option<(String, String)> {
    let (peer_address, address) = text.split_once(' ')?;
    let both = HostPort::parse(peer_address).is_ok() && HostPort::parse(address).is_ok();
    both.then(|| (peer_address.to_string(), address.to_string()))
}

/// One spelling: no sign, no leading zeros.
fn node_id(text: &str) -> Option<NodeId> {
    text.parse().ok().filter(|id: &NodeId| text == id.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here(peer_address: &str, address: &str) -> Notice {
        Notice::Here { peer_address: peer_address.into(), address: address.into() }
    }

    #[test]
    fn every_notice_comes_back_as_it_was() {
        let denied = Notice::Denied { reason: "node 7 is the last voter – no".into() };
        let there = Notice::There { id: 3, peer_address: "host:1".into(), address: "host:2".into() };
        for notice in [
            here("[::1]:15000", "host.example:5000"),
            there,
            Notice::Leave,
            Notice::Farewell { id: 7 },
            denied,
        ] {
            let frame = encode(&notice);
            assert!(is_kind(frame.kind));
            assert_eq!(decode(frame.kind, &frame.header, &Bytes::new()), Ok(notice));
        }
    }

    #[test]
    fn what_is_no_notice_is_refused() {
        for (kind, header) in [
            (HERE, &b"host:1"[..]),
            (HERE, b"host:1 nowhere"),
            (HERE, b"nowhere host:1"),
            (HERE, b"host:1 host:2 host:3"),
            (HERE, b"\xff:1 host:2"),
            (THERE, b"host:1 host:2"),
            (THERE, b"3 host:1"),
            (THERE, b"-3 host:1 host:2"),
            (THERE, b"3 host:1 host:2 host:3"),
            (LEAVE, b"x"),
            (FAREWELL, b"x"),
            (FAREWELL, b""),
            (FAREWELL, b"+7"),
            (FAREWELL, b"07"),
            (FAREWELL, b"99999999999999999999"),
            (DENIED, b"two\r\nlines"),
            (DENIED, &[b'x'; MAX_REASON_BYTES + 1]),
            (99, b""),
        ] {
            let ended = [header, END.as_bytes()].concat();
            assert!(decode(kind, &ended, &Bytes::new()).is_err(), "{kind} {header:?}");
        }
        assert!(decode(LEAVE, END.as_bytes(), &Bytes::from_static(b"x")).is_err());
    }

    #[test]
    fn a_notice_that_is_cut_short_or_drawn_out_is_refused() {
        let there = Notice::There { id: 3, peer_address: "host:15000".into(), address: "host:5000".into() };
        let denied = Notice::Denied { reason: "no".into() };
        for notice in
            [here("host:15000", "host:5000"), there, Notice::Leave, Notice::Farewell { id: 77 }, denied]
        {
            let Encoded { kind, header, .. } = encode(&notice);
            for end in 0..header.len() {
                assert!(decode(kind, &header[..end], &Bytes::new()).is_err(), "{notice:?} up to {end}");
            }
            for more in 0..=u8::MAX {
                let longer = [&header[..], &[more]].concat();
                assert!(decode(kind, &longer, &Bytes::new()).is_err(), "{notice:?} and {more}");
            }
        }
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let frame = encode(&Notice::Denied { reason: "é".repeat(MAX_REASON_BYTES) });
        assert!(frame.header.len() <= MAX_REASON_BYTES + END.len());
        assert!(decode(frame.kind, &frame.header, &Bytes::new()).is_ok());
    }
}
