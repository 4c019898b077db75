//! `RAFT.TRANSFER_LEADER [id]`: the administrator's wish that another node leads.

use super::admin::{parse_id, Form, GRACE_MS};
use super::ffi::{self, Context, Text};
use super::main_thread;
use crate::node::bridge::ToRaft;
use std::ffi::c_int;

/// `+OK` when the target leads.
pub unsafe extern "C" fn transfer_command(ctx: Context, argv: *mut Text, argc: c_int) -> c_int {
    let target = match ffi::arguments(argv, argc) {
        [_] => None,
        [_, id] => match parse_id(&ffi::lossy(*id)) {
            Ok(id) => Some(id),
            Err(reason) => return ffi::reply_error(ctx, &format!("ERR {reason}")),
        },
        _ => return ffi::wrong_arity(ctx),
    };
    // As with NODE ADD, 0 leaves the choice to the cluster.
    let target = target.filter(|id| *id != 0);
    let settings = super::configs::current();
    let timeout_ms = settings.transfer_timeout_ms + settings.election_timeout_ms + GRACE_MS;
    main_thread::get()
        .tickets
        .issue(ctx, Form::Status, timeout_ms, |ticket| ToRaft::Transfer { ticket, target })
}
