//! Mutual proof of the cluster secret, before any frame.
//!
//! ```text
//!   dialler                                                       acceptor
//!   HELLO-RAFT <version> <cluster> <own id> <target id> <nonce d>  ->
//!                                     <-  *2 <nonce a> <HMAC(secret, "accept" | transcript)>
//!   AUTH-RAFT <HMAC(secret, "dial" | transcript)>                  ->
//!                                     <-  +OK                             (from here on: frames)
//! ```
//!
//! The transcript is: protocol version, both nonces, both ids, the cluster id. Each side contributes a fresh
//! nonce, so that nothing recorded earlier is of use, and the two labels differ, so that no proof can be sent
//! back as the other. Nonces and proofs travel as lower-case hexadecimal.

use crate::limits::{CLUSTER_ID_BYTES, SECRET_BYTES};
use crate::resp::encode_command;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::io;

/// Of the frames and of this handshake; both sides must speak the same.
pub const PROTOCOL_VERSION: u32 = 1;
pub(super) const HELLO: &[u8] = b"HELLO-RAFT";
pub(super) const AUTH: &[u8] = b"AUTH-RAFT";
const NONCE_BYTES: usize = 16;

/// Who this node is. The secret was made when the cluster was, and is given only to its members.
#[derive(Clone)]
pub struct PeerIdentity {
    /// `CLUSTER_ID_BYTES` ASCII characters.
    pub cluster_id: String,
    /// Never 0.
    pub node_id: u64,
    pub secret: [u8; SECRET_BYTES],
}

impl std::fmt::Debug for PeerIdentity {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "node {} of cluster {} (secret not shown)", self.node_id, self.cluster_id)
    }
}

impl PeerIdentity {
    /// Whether the parts have the form that they must have.
    pub(super) fn is_valid(&self) -> bool {
        let id = self.cluster_id.as_bytes();
        self.node_id != 0 && id.len() == CLUSTER_ID_BYTES && id.iter().all(u8::is_ascii_graphic)
    }
}

pub(super) type Nonce = [u8; NONCE_BYTES];

pub(super) fn fresh_nonce() -> io::Result<Nonce> {
    let mut nonce = Nonce::default();
    getrandom::fill(&mut nonce).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(nonce)
}

/// What both sides prove that they agree on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transcript {
    pub dialler_nonce: Nonce,
    pub acceptor_nonce: Nonce,
    pub dialler_id: u64,
    pub acceptor_id: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Accept,
    Dial,
}

impl Transcript {
    /// The proof of `side`, as text.
    pub fn proof(&self, identity: &PeerIdentity, side: Side) -> String {
        to_hex(&self.mac(identity, side).finalize().into_bytes())
    }

    /// Whether `proof` is the one of `side`; takes the same time for every wrong one.
    pub fn verify(&self, identity: &PeerIdentity, side: Side, proof: &[u8]) -> bool {
        from_hex::<32>(proof).is_some_and(|proof| self.mac(identity, side).verify_slice(&proof).is_ok())
    }

    /// All parts but the label have a fixed length, so no two transcripts give the same bytes.
    fn mac(&self, identity: &PeerIdentity, side: Side) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&identity.secret).expect("HMAC takes keys of any length");
        mac.update(match side {
            Side::Accept => b"accept",
            Side::Dial => b"dial",
        });
        mac.update(&PROTOCOL_VERSION.to_le_bytes());
        mac.update(&self.dialler_nonce);
        mac.update(&self.acceptor_nonce);
        mac.update(&self.dialler_id.to_le_bytes());
        mac.update(&self.acceptor_id.to_le_bytes());
        mac.update(identity.cluster_id.as_bytes());
        mac
    }
}

/// The dialler's first words.
pub(super) fn hello(identity: &PeerIdentity, target: u64, nonce: &Nonce) -> Vec<u8> {
    let mut out = Vec::new();
    let numbers = [PROTOCOL_VERSION.to_string(), identity.node_id.to_string(), target.to_string()];
    let [version, own, target] = &numbers;
    let nonce = to_hex(nonce);
    encode_command(
        &mut out,
        &[
            HELLO,
            version.as_bytes(),
            identity.cluster_id.as_bytes(),
            own.as_bytes(),
            target.as_bytes(),
            nonce.as_bytes(),
        ],
    );
    out
}

pub(super) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn from_hex<const LENGTH: usize>(text: &[u8]) -> Option<[u8; LENGTH]> {
    if text.len() != 2 * LENGTH {
        return None;
    }
    let mut bytes = [0; LENGTH];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let high = (pair[0] as char).to_digit(16)?;
        let low = (pair[1] as char).to_digit(16)?;
        *byte = (high * 16 + low) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> PeerIdentity {
        PeerIdentity { cluster_id: "c".repeat(32), node_id: 1, secret: [7; 32] }
    }

    #[test]
    fn every_part_of_the_transcript_is_bound() {
        let base =
            Transcript { dialler_nonce: [1; 16], acceptor_nonce: [2; 16], dialler_id: 1, acceptor_id: 2 };
        let proof = base.proof(&identity(), Side::Dial);
        assert!(base.verify(&identity(), Side::Dial, proof.as_bytes()));
        assert!(!base.verify(&identity(), Side::Accept, proof.as_bytes()));
        let swapped = Transcript {
            dialler_nonce: base.acceptor_nonce,
            acceptor_nonce: base.dialler_nonce,
            dialler_id: 2,
            acceptor_id: 1,
        };
        for other in [
            Transcript { dialler_nonce: [3; 16], ..base },
            Transcript { acceptor_nonce: [3; 16], ..base },
            Transcript { dialler_id: 3, ..base },
            Transcript { acceptor_id: 3, ..base },
            swapped,
        ] {
            assert!(!other.verify(&identity(), Side::Dial, proof.as_bytes()));
        }
        let other_secret = PeerIdentity { secret: [8; 32], ..identity() };
        assert!(!base.verify(&other_secret, Side::Dial, proof.as_bytes()));
        let other_cluster = PeerIdentity { cluster_id: "d".repeat(32), ..identity() };
        assert!(!base.verify(&other_cluster, Side::Dial, proof.as_bytes()));
        assert!(!base.verify(&identity(), Side::Dial, &proof.as_bytes()[..62]));
        assert!(!base.verify(&identity(), Side::Dial, b""));
    }

    #[test]
    fn hexadecimal_round_trip_and_refusals() {
        assert_eq!(from_hex::<3>(to_hex(&[0, 255, 16]).as_bytes()), Some([0, 255, 16]));
        assert_eq!(from_hex::<1>(b"0"), None);
        assert_eq!(from_hex::<1>(b"0g"), None);
        assert_eq!(from_hex::<1>(b"+1"), None);
        assert_eq!(from_hex::<1>(b"000"), None);
    }

    #[test]
    fn the_secret_is_not_printed() {
        assert!(!format!("{:?}", identity()).contains("7, 7"));
    }
}
