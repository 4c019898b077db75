//! RESP2, the only language spoken here: by clients, between peers, and on the local links to Redis.
//!
//! Three outcomes everywhere: complete, not yet, invalid. A length that the other side sent is checked
//! against a limit before it is used and is never allocated ahead of the bytes themselves.

mod command;
mod encode;
mod reply;
mod slot;

pub use command::{parse_command, CommandParser, Limits};
pub use encode::{encode_command, write_array_header, write_bulk, write_bulk_header, CRLF};
pub use reply::{parse_reply, Reply};
pub use slot::{crc16, key_slot};

/// Why bytes are not RESP, or more of it than is allowed. Offsets count from the start of the frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RespError {
    #[error("expected {expected} at byte {offset}, found {found:#04x}")]
    Unexpected { offset: usize, expected: &'static str, found: u8 },
    #[error("invalid number at byte {offset}")]
    Number { offset: usize },
    #[error("{found} arguments or elements, at most {limit} are allowed")]
    TooMany { found: u64, limit: usize },
    #[error("a frame of at least {found} bytes, at most {limit} are allowed")]
    TooLong { found: u64, limit: usize },
    #[error("a line of more than {limit} bytes without an end")]
    LineTooLong { limit: usize },
    #[error("arrays nested deeper than {limit}")]
    TooDeep { limit: usize },
}
