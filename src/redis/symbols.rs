//! The only use of anything outside the module API: four functions that every supported server exports.
//!
//! Holding a reply means that the server goes on executing what a client has sent, but neither reads from nor
//! writes to its socket. `RedisModule_BlockClient` cannot do that: it stops the client's pipeline after each
//! command and is not allowed inside EXEC. The server's own `protectClient` does exactly that, and has done so
//! since Redis 4; it is what keeps a client in place while a slow script or DEBUG RELOAD runs.
//!
//! A snapshot must not land in the user's `dbfilename`, and neither `BGSAVE` takes a name nor may the setting be changed
//! (it is protected since 7.0). The server's own `rdbSaveBackground` takes one.

use std::ffi::{c_char, c_int, c_void, CStr};
use std::sync::OnceLock;

type Lookup = unsafe extern "C" fn(u64) -> *mut c_void;
type Act = unsafe extern "C" fn(*mut c_void);
/// Requirements (0: everything), file name in the server's directory, replication position to note (none), flags (0).
/// 7.0 knows three of the four; by the C calling convention the last one is then ignored.
type Save = unsafe extern "C" fn(c_int, *const c_char, *mut c_void, c_int) -> c_int;

struct Symbols {
    lookup: Lookup,
    protect: Act,
    unprotect: Act,
    save: Save,
}

static SYMBOLS: OnceLock<Symbols> = OnceLock::new();

/// Finds the functions; to be called at load, before any other function here.
pub fn find() -> Result<(), String> {
    // SAFETY: the symbols have had these signatures, pointers and a 64-bit id, in all servers that export them.
    let symbols = unsafe {
        Symbols {
            lookup: std::mem::transmute::<*mut c_void, Lookup>(symbol(c"lookupClientByID")?),
            protect: std::mem::transmute::<*mut c_void, Act>(symbol(c"protectClient")?),
            unprotect: std::mem::transmute::<*mut c_void, Act>(symbol(c"unprotectClient")?),
            save: std::mem::transmute::<*mut c_void, Save>(symbol(c"rdbSaveBackground")?),
        }
    };
    SYMBOLS.get_or_init(|| symbols);
    Ok(())
}

fn symbol(name: &CStr) -> Result<*mut c_void, String> {
    // SAFETY: a lookup by a C string among the symbols of the running program.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    match found.is_null() {
        true => Err(format!(
            "this server does not export {name:?}, which raft needs to hold replies and to make snapshots: use a build of Redis or Valkey \
             that is not stripped of its dynamic symbols"
        )),
        false => Ok(found),
    }
}

fn with_client(id: u64, act: impl FnOnce(&Symbols) -> Act) -> bool {
    let symbols = SYMBOLS.get().expect("found at load");
    // SAFETY: the server's main thread; the client is looked up by id each time, because it may be gone.
    unsafe {
        let client = (symbols.lookup)(id);
        if client.is_null() {
            return false;
        }
        act(symbols)(client);
    }
    true
}

/// Forks a child that writes the dataset, as it is now, into the file. False: another child runs, or there is no fork.
pub fn save_in_background(file: &CStr) -> bool {
    let symbols = SYMBOLS.get().expect("found at load");
    // SAFETY: the server's main thread; the name is copied by the fork, the null position is allowed.
    unsafe { (symbols.save)(0, file.as_ptr(), std::ptr::null_mut(), 0) == 0 }
}

/// Nothing is read from or written to the client until [`unprotect`]. False: it is gone.
pub fn protect(id: u64) -> bool {
    with_client(id, |symbols| symbols.protect)
}

/// Its replies leave, and it is read from again. False: it is gone.
pub fn unprotect(id: u64) -> bool {
    with_client(id, |symbols| symbols.unprotect)
}
