//! The few calls of the module API that the rest of this room needs, with Rust types.
//!
//! Every function here runs on the server's main thread, inside a callback that was given the context it passes
//! on; that is what makes the calls sound. Functions that the module API has had since 7.0 are taken for granted
//! (the load fails without them).

use super::command_table::Tree;
use redis_module::raw;
use std::ffi::{c_char, c_int, c_longlong, c_void, CStr, CString};
use std::ptr::null_mut;

pub type Context = *mut raw::RedisModuleCtx;
pub type Text = *mut raw::RedisModuleString;

pub const OK: c_int = raw::REDISMODULE_OK as c_int;
pub const ERR: c_int = raw::REDISMODULE_ERR as c_int;

/// A function of the module API, to be named inside an unsafe block: the pointers are set while the module is
/// loaded and never change afterwards.
macro_rules! api {
    ($function:ident) => {
        redis_module::raw::$function
            .expect(concat!(stringify!($function), " is part of the module API since Redis 7.0"))
    };
}
pub(super) use api;

/// The bytes of a string; they live as long as the string, which the caller keeps.
pub fn bytes<'a>(text: Text) -> &'a [u8] {
    let mut length = 0;
    // SAFETY: `text` is a live string of the server; pointer and length describe its own buffer.
    unsafe {
        let start = api!(RedisModule_StringPtrLen)(text, &mut length);
        std::slice::from_raw_parts(start.cast(), length)
    }
}

/// The arguments of a command callback.
pub fn arguments<'a>(argv: *mut Text, argc: c_int) -> &'a [Text] {
    if argc == 0 {
        return &[]; // the server passes no array at all
    }
    // SAFETY: the server passes `argc` valid pointers that live as long as the callback runs.
    unsafe { std::slice::from_raw_parts(argv, argc as usize) }
}

/// The argument as UTF-8; what is not UTF-8 is shown as replacement characters.
pub fn lossy(text: Text) -> String {
    String::from_utf8_lossy(bytes(text)).into_owned()
}

/// A string that belongs to the module and not to a context.
pub struct OwnedText(pub Text);

impl OwnedText {
    pub fn new(content: &[u8]) -> OwnedText {
        // SAFETY: the bytes are copied; a null context makes the string ours to free.
        OwnedText(unsafe {
            api!(RedisModule_CreateString)(null_mut(), content.as_ptr().cast(), content.len())
        })
    }

    /// Another reference to the same string, to be given away.
    pub fn share(&self) -> Text {
        // SAFETY: the string is alive; retaining without a context adds a reference that the receiver drops.
        unsafe { api!(RedisModule_RetainString)(null_mut(), self.0) };
        self.0
    }
}

impl Drop for OwnedText {
    fn drop(&mut self) {
        // SAFETY: this reference is ours, made without a context.
        unsafe { api!(RedisModule_FreeString)(null_mut(), self.0) };
    }
}

/// The reply of a call; freed on drop.
pub struct CallReply(*mut raw::RedisModuleCallReply);

impl CallReply {
    /// One of `REDISMODULE_REPLY_*`.
    pub fn kind(&self) -> c_int {
        // SAFETY: the reply is alive until drop.
        unsafe { api!(RedisModule_CallReplyType)(self.0) }
    }

    pub fn is_error(&self) -> bool {
        self.kind() == raw::REDISMODULE_REPLY_ERROR as c_int
    }

    pub fn is_null(&self) -> bool {
        self.kind() == raw::REDISMODULE_REPLY_NULL as c_int
    }

    /// Status, error or bulk as text.
    pub fn text(&self) -> String {
        let mut length = 0;
        // SAFETY: pointer and length describe the reply's own buffer; null for other types.
        let content = unsafe {
            let start = api!(RedisModule_CallReplyStringPtr)(self.0, &mut length);
            if start.is_null() {
                return String::new();
            }
            std::slice::from_raw_parts(start.cast(), length)
        };
        String::from_utf8_lossy(content).into_owned()
    }

    pub fn forward(&self, ctx: Context) -> c_int {
        // SAFETY: both are alive; the reply is copied into the client's buffer.
        unsafe { api!(RedisModule_ReplyWithCallReply)(ctx, self.0) }
    }

    pub fn tree(&self) -> Tree {
        tree(self.0)
    }
}

fn tree(reply: *mut raw::RedisModuleCallReply) -> Tree {
    // SAFETY: element replies belong to their parent, which is alive; lengths come from the reply itself.
    unsafe {
        match api!(RedisModule_CallReplyType)(reply) as isize {
            raw::REDISMODULE_REPLY_ARRAY => {
                let count = api!(RedisModule_CallReplyLength)(reply);
                Tree::Array(
                    (0..count).map(|i| tree(api!(RedisModule_CallReplyArrayElement)(reply, i))).collect(),
                )
            }
            raw::REDISMODULE_REPLY_SET => {
                let count = api!(RedisModule_CallReplyLength)(reply);
                Tree::Array(
                    (0..count).map(|i| tree(api!(RedisModule_CallReplySetElement)(reply, i))).collect(),
                )
            }
            raw::REDISMODULE_REPLY_INTEGER => Tree::Integer(api!(RedisModule_CallReplyInteger)(reply)),
            raw::REDISMODULE_REPLY_STRING | raw::REDISMODULE_REPLY_ERROR => {
                let mut length = 0;
                let start = api!(RedisModule_CallReplyStringPtr)(reply, &mut length);
                let content = std::slice::from_raw_parts(start.cast(), length);
                Tree::Text(String::from_utf8_lossy(content).into_owned())
            }
            _ => Tree::Nil,
        }
    }
}

impl Drop for CallReply {
    fn drop(&mut self) {
        // SAFETY: the reply is ours and not used afterwards.
        unsafe { api!(RedisModule_FreeCallReply)(self.0) };
    }
}

/// Runs `name` with `args` as `format` says (the format must end in `v`).
/// `None`: the server refused the call itself, and `errno` says why.
pub fn call_vector(ctx: Context, name: &CStr, format: &CStr, args: &[Text]) -> Option<CallReply> {
    // SAFETY: the format's only variadic part is `v`: a pointer to live strings and their number as size_t.
    let reply = unsafe {
        api!(RedisModule_Call)(ctx, name.as_ptr(), format.as_ptr(), args.as_ptr() as *mut Text, args.len())
    };
    (!reply.is_null()).then_some(CallReply(reply))
}

/// Runs an administrative command; errors of the server come back as `Err` with its text.
pub fn call(ctx: Context, words: &[&str]) -> Result<CallReply, String> {
    let name = CString::new(words[0]).map_err(|error| error.to_string())?;
    let owned: Vec<OwnedText> = words[1..].iter().map(|word| OwnedText::new(word.as_bytes())).collect();
    let args: Vec<Text> = owned.iter().map(|text| text.0).collect();
    match call_vector(ctx, &name, c"Ev", &args) {
        None => Err(format!("{}: {}", words.join(" "), std::io::Error::last_os_error())),
        Some(reply) if reply.is_error() => Err(format!("{}: {}", words.join(" "), reply.text())),
        Some(reply) => Ok(reply),
    }
}

/// The value of one server setting.
pub fn config_get(ctx: Context, name: &str) -> Result<String, String> {
    match call(ctx, &["CONFIG", "GET", name])?.tree() {
        Tree::Array(pair) => match pair.get(1) {
            Some(Tree::Text(value)) => Ok(value.clone()),
            _ => Err(format!("the server has no setting {name}")),
        },
        _ => Err(format!("CONFIG GET {name} gave no array")),
    }
}

pub fn reply_error(ctx: Context, message: &str) -> c_int {
    // A line end would break the protocol.
    let message: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let message = CString::new(message).expect("control characters were replaced");
    // SAFETY: the text is copied.
    unsafe { api!(RedisModule_ReplyWithError)(ctx, message.as_ptr()) }
}

pub fn reply_status(ctx: Context, message: &str) -> c_int {
    let message = CString::new(message).expect("statuses are our own words");
    // SAFETY: the text is copied.
    unsafe { api!(RedisModule_ReplyWithSimpleString)(ctx, message.as_ptr()) }
}

pub fn reply_integer(ctx: Context, value: i64) -> c_int {
    // SAFETY: plain values.
    unsafe { api!(RedisModule_ReplyWithLongLong)(ctx, value as c_longlong) }
}

pub fn reply_bulk(ctx: Context, content: &[u8]) -> c_int {
    // SAFETY: the bytes are copied.
    unsafe { api!(RedisModule_ReplyWithStringBuffer)(ctx, content.as_ptr().cast(), content.len()) }
}

/// `length` replies must follow.
pub fn reply_array(ctx: Context, length: usize) -> c_int {
    // SAFETY: plain values.
    unsafe { api!(RedisModule_ReplyWithArray)(ctx, length as _) }
}

/// `pairs` times two replies must follow.
pub fn reply_map(ctx: Context, pairs: usize) -> c_int {
    // SAFETY: plain values.
    unsafe { api!(RedisModule_ReplyWithMap)(ctx, pairs as _) }
}

pub fn wrong_arity(ctx: Context) -> c_int {
    // SAFETY: plain call.
    unsafe { api!(RedisModule_WrongArity)(ctx) }
}

pub fn client_id(ctx: Context) -> u64 {
    // SAFETY: plain call.
    unsafe { api!(RedisModule_GetClientId)(ctx) }
}

/// The keys among the command's words, in order.
pub fn keys(ctx: Context, command: &[Text]) -> Vec<Text> {
    let mut count = 0;
    // SAFETY: the strings are alive; the result is null or an array of `count` positions that the caller frees.
    unsafe {
        let argv = command.as_ptr() as *mut Text;
        let positions = api!(RedisModule_GetCommandKeys)(ctx, argv, command.len() as c_int, &mut count);
        if positions.is_null() {
            return Vec::new();
        }
        let found =
            (0..count as usize).filter_map(|i| command.get(*positions.add(i) as usize).copied()).collect();
        api!(RedisModule_Free)(positions.cast());
        found
    }
}

/// `REDISMODULE_CTX_FLAGS_*`.
pub fn context_flags(ctx: Context) -> u32 {
    // SAFETY: plain call.
    unsafe { api!(RedisModule_GetContextFlags)(ctx) as u32 }
}

/// Drops all keys; their memory is freed in the background.
pub fn reset_dataset() {
    // SAFETY: plain values; the server's main thread, outside of any command.
    unsafe { api!(RedisModule_ResetDataset)(0, 1) };
}

/// Puts a command into the replication stream.
pub fn replicate(ctx: Context, name: &CStr, words: &[&CStr]) {
    let owned: Vec<OwnedText> = words.iter().map(|word| OwnedText::new(word.to_bytes())).collect();
    let args: Vec<Text> = owned.iter().map(|text| text.0).collect();
    // SAFETY: the format's only variadic part is `v`: a pointer to live strings and their number as size_t.
    let result =
        unsafe { api!(RedisModule_Replicate)(ctx, name.as_ptr(), c"v".as_ptr(), args.as_ptr(), args.len()) };
    assert_eq!(result, OK, "{name:?} is a registered command and the format is valid");
}

/// A context that outlives the callback that `ctx` belongs to. It is the module's, so that calls made with it do
/// not pass through the module's own filter.
pub fn lasting_context(ctx: Context) -> Context {
    // SAFETY: `ctx` is alive; the new context is never freed, and used on the main thread alone, which holds the
    // global lock whenever it runs a callback.
    unsafe { api!(RedisModule_GetDetachedThreadSafeContext)(ctx) }
}

/// Runs `callback` in the next turn of the event loop.
pub fn next_turn(callback: unsafe extern "C" fn(*mut c_void)) {
    // SAFETY: the callback is a function of this module and ignores its argument.
    let result = unsafe { api!(RedisModule_EventLoopAddOneShot)(Some(callback), null_mut()) };
    assert_eq!(result, OK, "adding a one-shot callback only fails without a callback");
}

/// Writes a line to the server's log; any thread may.
pub fn log_line(level: &CStr, message: &str) {
    let message: String = message.chars().map(|c| if c == '\0' { ' ' } else { c }).collect();
    let message = CString::new(message).expect("zeros were replaced");
    // SAFETY: a null context is allowed; the format takes exactly one C string.
    unsafe { api!(RedisModule_Log)(null_mut(), level.as_ptr(), c"<raft> %s".as_ptr(), message.as_ptr()) };
}

pub type CommandFunction = unsafe extern "C" fn(Context, *mut Text, c_int) -> c_int;

/// Registers a command that has no keys.
pub fn create_command(ctx: Context, name: &CStr, run: CommandFunction, flags: &CStr) -> Result<(), String> {
    // SAFETY: names and flags are C strings; the function lives as long as the module, which is never unloaded.
    let result = unsafe {
        api!(RedisModule_CreateCommand)(
            ctx,
            name.as_ptr() as *const c_char,
            Some(run),
            flags.as_ptr(),
            0,
            0,
            0,
        )
    };
    match result == OK {
        true => Ok(()),
        false => Err(format!("the server refused to register the command {name:?}")),
    }
}
