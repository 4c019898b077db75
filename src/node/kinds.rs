//! The kinds of frames that peers send each other, in one place, so that no two mean different things. A link's own frames are
//! below `crate::link`.

/// Consensus (`wire`).
pub const PRE_VOTE: u8 = 1;
pub const PRE_VOTE_REPLY: u8 = 2;
pub const VOTE: u8 = 3;
pub const VOTE_REPLY: u8 = 4;
pub const APPEND: u8 = 5;
pub const APPENDED: u8 = 6;
pub const REFUSED: u8 = 7;
pub const TIMEOUT_NOW: u8 = 8;
pub const FORGOT: u8 = 9;
pub const REMEMBER: u8 = 10;

/// Entries that a peer has lost (`fetch`).
pub const FETCH: u8 = 32;
pub const FETCHED: u8 = 33;

/// Who is where, and who is no member any more (`notices`).
pub const HERE: u8 = 48;
pub const LEAVE: u8 = 49;
pub const DENIED: u8 = 50;
pub const FAREWELL: u8 = 51;
pub const THERE: u8 = 52;

/// Snapshots (`transfer`).
pub const OFFER: u8 = 64;
pub const WANT: u8 = 65;
pub const PART: u8 = 66;

/// Reads on nodes that do not lead (`follower_reads`).
pub const READ_ASK: u8 = 80;
pub const READ_INDEX: u8 = 81;

#[cfg(test)]
mod tests {
    use super::super::{fetch, follower_reads, notices, transfer};

    #[test]
    fn each_kind_has_one_room() {
        for kind in 0..=u8::MAX {
            let rooms = [
                fetch::is_kind(kind),
                follower_reads::is_kind(kind),
                notices::is_kind(kind),
                transfer::is_kind(kind),
                (1..=10).contains(&kind),
            ];
            assert!(rooms.iter().filter(|claimed| **claimed).count() <= 1, "frames of kind {kind}");
        }
    }
}
