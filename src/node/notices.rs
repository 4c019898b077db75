//! What nodes tell each other about membership, outside of consensus: where they are, that they want to leave, that
//! they have been taken out. All of it is only ever a hint or a request; the log alone decides who is a member.

use super::address::HostPort;
use super::kinds::{DENIED, FAREWELL, HERE, LEAVE};
use super::wire::{Encoded, WireError};
use bytes::Bytes;

/// Longest reason that is sent, in bytes.
const MAX_REASON_BYTES: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// "Peers find me at this address, clients at that one." Said to each peer when a link to it is up.
    Here { peer_address: String, address: String },
    /// To the leader: "take me out of the membership".
    Leave,
    /// Answer to `Leave`: it is not done.
    Denied { reason: String },
    /// "A committed membership has taken you out."
    Farewell,
}

/// Whether a frame of this kind is one of these.
pub fn is_kind(kind: u8) -> bool {
    matches!(kind, HERE | LEAVE | FAREWELL | DENIED)
}

pub fn encode(notice: &Notice) -> Encoded {
    let (kind, header) = match notice {
        Notice::Here { peer_address, address } => (HERE, format!("{peer_address} {address}")),
        Notice::Leave => (LEAVE, String::new()),
        Notice::Farewell => (FAREWELL, String::new()),
        Notice::Denied { reason } => {
            let end = (0..=MAX_REASON_BYTES.min(reason.len())).rev().find(|at| reason.is_char_boundary(*at));
            (DENIED, reason[..end.unwrap_or(0)].to_string())
        }
    };
    Encoded { kind, header: header.into_bytes(), payloads: Vec::new() }
}

/// # Errors
/// What has another form than [`encode`] gives it.
pub fn decode(kind: u8, header: &[u8], payload: &Bytes) -> Result<Notice, WireError> {
    let error = WireError::Length { kind, length: header.len() + payload.len() };
    let Some(text) = std::str::from_utf8(header).ok().filter(|_| payload.is_empty()) else {
        return Err(error);
    };
    match kind {
        HERE => match text.split_once(' ') {
            Some((peer_address, address)) if is_address(peer_address) && is_address(address) => {
                Ok(Notice::Here { peer_address: peer_address.to_string(), address: address.to_string() })
            }
            _ => Err(error),
        },
        LEAVE if text.is_empty() => Ok(Notice::Leave),
        FAREWELL if text.is_empty() => Ok(Notice::Farewell),
        DENIED if text.len() <= MAX_REASON_BYTES && !text.contains(char::is_control) => {
            Ok(Notice::Denied { reason: text.to_string() })
        }
        LEAVE | FAREWELL | DENIED => Err(error),
        kind => Err(WireError::UnknownKind { kind }),
    }
}

fn is_address(text: &str) -> bool {
    HostPort::parse(text).is_ok()
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
        for notice in [here("[::1]:15000", "host.example:5000"), Notice::Leave, Notice::Farewell, denied] {
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
            (LEAVE, b"x"),
            (FAREWELL, b"x"),
            (DENIED, b"two\r\nlines"),
            (DENIED, &[b'x'; MAX_REASON_BYTES + 1]),
            (99, b""),
        ] {
            assert!(decode(kind, header, &Bytes::new()).is_err(), "{kind} {header:?}");
        }
        assert!(decode(LEAVE, b"", &Bytes::from_static(b"x")).is_err());
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let frame = encode(&Notice::Denied { reason: "é".repeat(MAX_REASON_BYTES) });
        assert!(frame.header.len() <= MAX_REASON_BYTES);
        assert!(decode(frame.kind, &frame.header, &Bytes::new()).is_ok());
    }
}
