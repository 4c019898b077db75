//! ACLs, where a command runs as `RAFT <command>`: what counts is the user's right to the command itself.
//!
//! The server checks `RAFT` first, so every user gets the right to the wrappers (for data, `CLUSTER`, `SHUTDOWN`):
//! at start, and after each `ACL` command. It gives nothing by itself, because the wrapped command is checked
//! against the same user before it runs.

use super::command_table::Tree;
use super::ffi::{self, api, Context, Text};
use redis_module::raw;
use std::cell::Cell;
use std::ffi::c_int;

/// Rules that every user gets.
const GRANTED: &[&str] = &["+raft", "+raft.topology", "+raft.denied", "+raft.shutdown"];

/// Whether the users' rights must be looked at before the server sleeps.
pub struct Access {
    stale: Cell<bool>,
    /// Changes of users that may be queued in a transaction.
    queued: Cell<u32>,
}

impl Access {
    pub fn new() -> Access {
        Access { stale: Cell::new(true), queued: Cell::new(0) }
    }

    /// An ACL command is about to run, or to be queued.
    pub fn acl_command(&self, subcommand: &[u8]) {
        if [&b"setuser"[..], b"load", b"deluser"].iter().any(|word| subcommand.eq_ignore_ascii_case(word)) {
            self.stale.set(true);
            self.queued.set(self.queued.get().saturating_add(1));
        }
    }

    /// A transaction is about to run.
    pub fn exec(&self) {
        if self.queued.get() > 0 {
            self.queued.set(self.queued.get() - 1);
            self.stale.set(true);
        }
    }

    pub fn refresh(&self, ctx: Context) {
        if self.stale.take() {
            if let Err(error) = grant(ctx) {
                log::error!("users without all rights cannot run data commands: {error}");
            }
        }
    }
}

fn grant(ctx: Context) -> Result<(), String> {
    let Tree::Array(users) = ffi::call(ctx, &["ACL", "USERS"])?.tree() else { return Ok(()) };
    for user in users {
        if let Tree::Text(name) = user {
            let words: Vec<&str> =
                ["ACL", "SETUSER", &name].into_iter().chain(GRANTED.iter().copied()).collect();
            ffi::call(ctx, &words)?;
        }
    }
    Ok(())
}

/// The server's own words if the calling user has no right to `command`.
pub fn refusal(ctx: Context, command: &[Text]) -> Option<String> {
    let user = CurrentUser::of(ctx)?;
    // SAFETY: the user and the strings are alive.
    let allowed = unsafe {
        let argv = command.as_ptr() as *mut Text;
        api!(RedisModule_ACLCheckCommandPermissions)(user.0, argv, command.len() as c_int) == ffi::OK
    };
    if allowed {
        return None;
    }
    let flag = raw::REDISMODULE_CMD_KEY_UPDATE | raw::REDISMODULE_CMD_KEY_ACCESS;
    let key_refused = |key: &Text| {
        // SAFETY: the user and the key are alive.
        unsafe { api!(RedisModule_ACLCheckKeyPermissions)(user.0, *key, flag as c_int) != ffi::OK }
    };
    Some(match ffi::keys(ctx, command).iter().any(key_refused) {
        true => "NOPERM this user has no permissions to access one of the keys used as arguments".to_string(),
        false => {
            let name = ffi::lossy(command[0]).to_ascii_lowercase();
            format!("NOPERM this user has no permissions to run the '{name}' command")
        }
    })
}

struct CurrentUser(*mut raw::RedisModuleUser);

impl CurrentUser {
    /// `None` for a context without a user, which may do anything.
    fn of(ctx: Context) -> Option<CurrentUser> {
        // SAFETY: the name is freed after use; the user is freed on drop.
        unsafe {
            let name = api!(RedisModule_GetCurrentUserName)(ctx);
            if name.is_null() {
                return None;
            }
            let user = api!(RedisModule_GetModuleUserFromUserName)(name);
            api!(RedisModule_FreeString)(ctx, name);
            (!user.is_null()).then_some(CurrentUser(user))
        }
    }
}

impl Drop for CurrentUser {
    fn drop(&mut self) {
        // SAFETY: made by `of`, freed once; the server's own user stays.
        unsafe { api!(RedisModule_FreeModuleUser)(self.0) };
    }
}
