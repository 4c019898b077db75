//! Transactions that were refused here: `MULTI` and `WATCH` on a node that does not lead.
//!
//! A client may have sent the commands of its transaction behind the refused `MULTI`. On this node they are refused
//! as well, one by one, unless it becomes the leader between two of them: then the rest would run, without being a
//! transaction. So whoever was refused is disconnected when this node becomes the leader. The server frees it at the end
//! of the turn only: until then one of those commands, which waits for a leader, may be woken, and must not run either.

use super::ffi::Context;
use super::gate;
use std::cell::RefCell;
use std::collections::HashSet;

#[derive(Default)]
pub struct Transactions {
    refused: RefCell<HashSet<u64>>,
    /// Disconnected, and not freed yet.
    closing: RefCell<HashSet<u64>>,
}

impl Transactions {
    /// The client was, or is about to be, told that its transaction cannot begin here.
    pub fn refused(&self, client: u64) {
        self.refused.borrow_mut().insert(client);
    }

    /// The client is gone.
    pub fn forget(&self, client: u64) {
        self.refused.borrow_mut().remove(&client);
        self.closing.borrow_mut().remove(&client);
    }

    /// Nothing of this client may run any more.
    pub fn is_closing(&self, client: u64) -> bool {
        self.closing.borrow().contains(&client)
    }

    pub fn close_all(&self, ctx: Context) {
        for client in self.refused.take() {
            self.closing.borrow_mut().insert(client);
            gate::cut_off(ctx, client);
        }
    }
}
