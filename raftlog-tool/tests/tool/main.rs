//! The binary, as an operator runs it, on logs that a real `Log` wrote.

mod diff;
mod dump;
mod export;
mod generate;
mod live;
mod recover;
mod repair;
mod select;
mod snapshots;
mod stat;
mod support;
mod verify;
