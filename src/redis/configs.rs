//! Every setting as a module config `raft.<name>`: `redis.conf`, `--raft.name value`, `CONFIG GET/SET/REWRITE`.
//!
//! The module's arguments become the *defaults* of the configs. So a `raft.name` line beats an argument, and what
//! `CONFIG SET` changed and `CONFIG REWRITE` wrote is still in force after a restart with the same arguments.
//!
//! The server drives a change in steps. When the module is loaded, it sets each config once, in an order of its own,
//! so values are *staged* and looked at together only when all are in. `CONFIG SET` stages each of its pairs, then
//! asks each to *apply*: there the whole is validated, and published if it is sound. When any pair is refused, the
//! server stages the old values again, as it read them before.
//!
//! Secrets: the server reads the old values through the same callback that answers `CONFIG GET`, and stages an old
//! value only if it differs from what it reads now. So a secret is read as a [`Mask`] that differs from secret to
//! secret, and staging a mask brings its secret back. `CONFIG REWRITE` writes the mask too: in the next process it
//! means nothing and counts as not given, so the password must be put in again as long as it is needed (only
//! `RAFT.CLUSTER JOIN` needs it).

use crate::node::settings::{Kind, Setting, Settings, SettingsError, Value, SETTINGS};
use crate::redis::options::Arguments;
use redis_module::raw;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_longlong, c_void, CString};
use std::hash::{BuildHasher, RandomState};
use std::ptr;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

/// How a secret is shown: its hash under a key that only this process knows.
struct Mask {
    key: RandomState,
}

impl Mask {
    const START: &'static str = "(hidden ";

    fn of(&self, secret: &Value) -> Value {
        match secret {
            Value::Text(text) if !text.is_empty() => {
                Value::Text(format!("{}{:016x})", Self::START, self.key.hash_one(text)))
            }
            // That no secret is set is no secret.
            other => other.clone(),
        }
    }

    fn is_mask(value: &Value) -> bool {
        matches!(value, Value::Text(text) if text.starts_with(Self::START))
    }
}

/// Invariant: outside of a load and of a `CONFIG SET`, `staged` equals `published`.
struct Store {
    /// The defaults, and over them the module's arguments.
    given: Settings,
    staged: Settings,
    published: Arc<Settings>,
    /// What was in force before `published`.
    previous: Arc<Settings>,
    mask: Mask,
    on_change: Option<fn(&Settings)>,
}

static STORE: LazyLock<Mutex<Store>> = LazyLock::new(|| Mutex::new(Store::new(Settings::default())));

fn store() -> MutexGuard<'static, Store> {
    // A panic cannot leave the store half changed: each change is one assignment.
    STORE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    fn new(given: Settings) -> Self {
        let published = Arc::new(given.clone());
        Store {
            staged: given.clone(),
            given,
            previous: published.clone(),
            published,
            mask: Mask { key: RandomState::new() },
            on_change: None,
        }
    }

    fn stage(&mut self, setting: &Setting, value: Value) -> Result<(), SettingsError> {
        if !setting.hidden || !Mask::is_mask(&value) {
            return setting.write(&mut self.staged, value);
        }
        let known = [&*self.published, &*self.previous].map(|settings| setting.read(settings));
        let secret = known.into_iter().find(|secret| self.mask.of(secret) == value).unwrap_or_else(|| {
            log::warn!(
                "raft.{} is a mask, as CONFIG REWRITE leaves it: it counts as not given",
                setting.name
            );
            setting.read(&self.given)
        });
        setting.write(&mut self.staged, secret)
    }

    fn shown(&self, setting: &Setting) -> Value {
        let value = setting.read(&self.staged);
        if setting.hidden {
            self.mask.of(&value)
        } else {
            value
        }
    }

    /// Publishes what is staged, if it is sound. Returns the hook to call when something changed.
    fn publish(&mut self) -> Result<Option<fn(&Settings)>, SettingsError> {
        self.staged.validate()?;
        if self.staged == *self.published {
            return Ok(None);
        }
        self.previous = std::mem::replace(&mut self.published, Arc::new(self.staged.clone()));
        Ok(self.on_change)
    }
}

/// The settings in force. Any thread may ask.
pub fn current() -> Arc<Settings> {
    store().published.clone()
}

/// Registers what is called, on the main thread, after each change of the settings.
pub fn set_on_change(hook: fn(&Settings)) {
    store().on_change = Some(hook);
}

/// Changes settings from within, as for an address that was found out: all of `change` or nothing takes effect.
pub fn update(
    change: impl FnOnce(&mut Settings) -> Result<(), SettingsError>,
) -> Result<Arc<Settings>, SettingsError> {
    let (hook, published) = {
        let mut store = store();
        let mut changed = store.staged.clone();
        change(&mut changed)?;
        changed.validate()?;
        store.staged = changed;
        (store.publish()?, store.published.clone())
    };
    if let Some(hook) = hook {
        hook(&published);
    }
    Ok(published)
}

/// Makes all settings known to the server as `raft.<name>`, with `arguments` as their defaults. Only while the module
/// is being loaded.
///
/// # Safety
/// `ctx` must be the context of the running OnLoad.
pub unsafe fn register(ctx: *mut raw::RedisModuleCtx, arguments: &Arguments) -> Result<(), String> {
    let mut given = Settings::default();
    for (setting, value) in arguments.iter() {
        setting.write(&mut given, value.clone()).map_err(|error| error.to_string())?;
    }
    {
        let mut store = store();
        *store = Store { on_change: store.on_change, ..Store::new(given.clone()) };
    }
    for (position, setting) in SETTINGS.iter().enumerate() {
        // SAFETY: the caller vouches for `ctx`.
        let status = unsafe { register_one(ctx, position, setting, &setting.read(&given))? };
        if status != raw::REDISMODULE_OK as c_int {
            return Err(format!("the server refused to register the config raft.{}", setting.name));
        }
    }
    Ok(())
}

const NO_MODULE_CONFIGS: &str = "this server has no module configs: Redis 7.0 or newer is needed";

/// Returns the server's status.
///
/// # Safety
/// `ctx` must be the context of the running OnLoad.
unsafe fn register_one(
    ctx: *mut raw::RedisModuleCtx,
    position: usize,
    setting: &Setting,
    default: &Value,
) -> Result<c_int, String> {
    let mut flags = raw::REDISMODULE_CONFIG_DEFAULT;
    if setting.immutable {
        flags |= raw::REDISMODULE_CONFIG_IMMUTABLE;
    }
    if setting.hidden {
        flags |= raw::REDISMODULE_CONFIG_SENSITIVE | raw::REDISMODULE_CONFIG_HIDDEN;
    }
    if matches!(setting.kind, Kind::Number { memory: true, .. }) {
        flags |= raw::REDISMODULE_CONFIG_MEMORY;
    }
    let name = c_string(setting.name)?;
    let (name, privdata) = (name.as_ptr(), position as *mut c_void);
    // SAFETY (all four): the caller vouches for `ctx`; the server copies names and defaults before it returns;
    // the callbacks are functions of this file, and `privdata` is a number to it, never followed.
    match (setting.kind, default) {
        (Kind::Bool { .. }, Value::Bool(default)) => unsafe {
            let call = raw::RedisModule_RegisterBoolConfig.ok_or(NO_MODULE_CONFIGS)?;
            let default = c_int::from(*default);
            Ok(call(ctx, name, default, flags, Some(get_bool), Some(set_bool), Some(apply), privdata))
        },
        (Kind::Number { min, max, .. }, Value::Number(default)) => unsafe {
            let call = raw::RedisModule_RegisterNumericConfig.ok_or(NO_MODULE_CONFIGS)?;
            let (default, min, max) = (to_signed(*default), to_signed(min), to_signed(max));
            let (get, set) = (Some(get_number as _), Some(set_number as _));
            Ok(call(ctx, name, default, flags, min, max, get, set, Some(apply), privdata))
        },
        (Kind::Text { .. }, Value::Text(default)) => unsafe {
            let call = raw::RedisModule_RegisterStringConfig.ok_or(NO_MODULE_CONFIGS)?;
            let default = c_string(default)?;
            let (get, set) = (Some(get_text as _), Some(set_text as _));
            Ok(call(ctx, name, default.as_ptr(), flags, get, set, Some(apply), privdata))
        },
        (Kind::Enum { names, .. }, Value::Choice(default)) => unsafe {
            let call = raw::RedisModule_RegisterEnumConfig.ok_or(NO_MODULE_CONFIGS)?;
            let names: Vec<CString> = names.iter().map(|name| c_string(name)).collect::<Result<_, _>>()?;
            let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
            let values: Vec<c_int> = (0..names.len() as c_int).collect();
            let (get, set) = (Some(get_choice as _), Some(set_choice as _));
            let (pointers, count) = (pointers.as_mut_ptr(), values.len() as c_int);
            let default = *default as c_int;
            Ok(call(
                ctx,
                name,
                default,
                flags,
                pointers,
                values.as_ptr(),
                count,
                get,
                set,
                Some(apply),
                privdata,
            ))
        },
        _ => Err(format!("the default of {} is of another kind", setting.name)),
    }
}

fn c_string(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|error| error.to_string())
}

/// Lets the server hand in the values of `redis.conf` and the command line, and puts the whole in force. After
/// [`register`], still in OnLoad.
///
/// # Safety
/// `ctx` must be the context of the running OnLoad.
pub unsafe fn load(ctx: *mut raw::RedisModuleCtx) -> Result<Arc<Settings>, String> {
    // SAFETY: the caller vouches for `ctx`; the callbacks that the server calls take the lock, which is free here.
    let status = unsafe { raw::RedisModule_LoadConfigs.map(|call| call(ctx)) };
    match status {
        Some(status) if status == raw::REDISMODULE_OK as c_int => {
            update(|_| Ok(())).map_err(|error| error.to_string())
        }
        // The server has logged which, and why.
        Some(_) => {
            Err("a raft.* value in redis.conf or on the command line was refused: see the line above".into())
        }
        None => Err(NO_MODULE_CONFIGS.into()),
    }
}

fn to_signed(number: u64) -> c_longlong {
    // All bounds in the table fit; a test holds it to that.
    c_longlong::try_from(number).unwrap_or(c_longlong::MAX)
}

/// The setting that a callback is about.
fn setting_of(privdata: *mut c_void) -> &'static Setting {
    &SETTINGS[privdata as usize]
}

unsafe extern "C" fn get_bool(_name: *const c_char, privdata: *mut c_void) -> c_int {
    c_int::from(store().shown(setting_of(privdata)) == Value::Bool(true))
}

unsafe extern "C" fn get_number(_name: *const c_char, privdata: *mut c_void) -> c_longlong {
    match store().shown(setting_of(privdata)) {
        Value::Number(number) => to_signed(number),
        _ => 0,
    }
}

unsafe extern "C" fn get_choice(_name: *const c_char, privdata: *mut c_void) -> c_int {
    match store().shown(setting_of(privdata)) {
        Value::Choice(choice) => choice as c_int,
        _ => 0,
    }
}

thread_local! {
    /// The strings last given to the server, by position in `SETTINGS`: it copies them, but never frees them. Only
    /// the main thread gets here.
    static GIVEN: RefCell<HashMap<usize, *mut raw::RedisModuleString>> = RefCell::new(HashMap::new());
}

unsafe extern "C" fn get_text(_name: *const c_char, privdata: *mut c_void) -> *mut raw::RedisModuleString {
    let text = match store().shown(setting_of(privdata)) {
        Value::Text(text) => text,
        _ => String::new(),
    };
    let string = create_string(&text);
    if let Some(previous) = GIVEN.with(|given| given.borrow_mut().insert(privdata as usize, string)) {
        // SAFETY: made by `create_string`, held by this map alone, and copied by the server when it was given.
        unsafe {
            if let Some(free) = raw::RedisModule_FreeString {
                free(ptr::null_mut(), previous);
            }
        }
    }
    string
}

unsafe extern "C" fn set_bool(
    _name: *const c_char,
    value: c_int,
    privdata: *mut c_void,
    error: *mut *mut raw::RedisModuleString,
) -> c_int {
    stage(privdata, Value::Bool(value != 0), error)
}

unsafe extern "C" fn set_number(
    _name: *const c_char,
    value: c_longlong,
    privdata: *mut c_void,
    error: *mut *mut raw::RedisModuleString,
) -> c_int {
    match u64::try_from(value) {
        Ok(value) => stage(privdata, Value::Number(value), error),
        Err(_) => refuse(error, &format!("{} must not be negative", setting_of(privdata).name)),
    }
}

unsafe extern "C" fn set_choice(
    _name: *const c_char,
    value: c_int,
    privdata: *mut c_void,
    error: *mut *mut raw::RedisModuleString,
) -> c_int {
    match usize::try_from(value) {
        Ok(value) => stage(privdata, Value::Choice(value), error),
        Err(_) => refuse(error, &format!("{} must not be negative", setting_of(privdata).name)),
    }
}

unsafe extern "C" fn set_text(
    _name: *const c_char,
    value: *mut raw::RedisModuleString,
    privdata: *mut c_void,
    error: *mut *mut raw::RedisModuleString,
) -> c_int {
    let mut length = 0;
    // SAFETY: the server's string is valid during the call, and the bytes are copied before it ends.
    let bytes = unsafe {
        match raw::RedisModule_StringPtrLen.map(|call| call(value, &mut length)) {
            Some(start) if !start.is_null() => std::slice::from_raw_parts(start.cast::<u8>(), length),
            _ => &[],
        }
    };
    match std::str::from_utf8(bytes) {
        Ok(text) => stage(privdata, Value::Text(text.to_owned()), error),
        Err(_) => refuse(error, &format!("{} must be valid UTF-8", setting_of(privdata).name)),
    }
}

fn stage(privdata: *mut c_void, value: Value, error: *mut *mut raw::RedisModuleString) -> c_int {
    let staged = store().stage(setting_of(privdata), value);
    match staged {
        Ok(()) => raw::REDISMODULE_OK as c_int,
        Err(reason) => refuse(error, &reason.to_string()),
    }
}

/// Called once for each changed config after all pairs of one `CONFIG SET` are staged.
unsafe extern "C" fn apply(
    _ctx: *mut raw::RedisModuleCtx,
    _privdata: *mut c_void,
    error: *mut *mut raw::RedisModuleString,
) -> c_int {
    // The hook runs without the lock: it may ask for the settings.
    let published = store().publish();
    match published {
        Ok(hook) => {
            if let Some(hook) = hook {
                hook(&current());
            }
            raw::REDISMODULE_OK as c_int
        }
        Err(reason) => refuse(error, &reason.to_string()),
    }
}

/// Hands the reason of a refusal to the server, which shows and frees it.
fn refuse(error: *mut *mut raw::RedisModuleString, reason: &str) -> c_int {
    if !error.is_null() {
        // SAFETY: `error` is the server's place for the message, valid during the callback; it may be null when the
        // server restores old values.
        unsafe { *error = create_string(reason) };
    }
    raw::REDISMODULE_ERR as c_int
}

fn create_string(text: &str) -> *mut raw::RedisModuleString {
    // SAFETY: the server copies `text`; without a context the string is ours, or the server's once it is handed over.
    unsafe {
        match raw::RedisModule_CreateString {
            Some(create) => create(ptr::null_mut(), text.as_ptr().cast::<c_char>(), text.len()),
            None => ptr::null_mut(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(name: &str) -> &'static Setting {
        Setting::find(name).unwrap_or_else(|| panic!("no setting {name}"))
    }

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    fn hook(_: &Settings) {}

    #[test]
    fn values_are_in_force_only_once_they_are_sound_together() {
        let mut store = Store { on_change: Some(hook), ..Store::new(Settings::default()) };
        // Each alone would break the rule, in this order even for a moment.
        store.stage(setting("election-timeout"), Value::Number(100)).unwrap();
        assert!(matches!(store.publish(), Err(SettingsError::ElectionTimeoutTooShort { .. })));
        assert_eq!(store.published.election_timeout_ms, 1000);
        store.stage(setting("request-timeout"), Value::Number(20)).unwrap();
        assert!(store.publish().unwrap().is_some());
        assert_eq!(store.published.election_timeout_ms, 100);
        assert!(store.publish().unwrap().is_none(), "the hook is for changes only");
    }

    #[test]
    fn a_refused_value_stages_nothing() {
        let mut store = Store::new(Settings::default());
        assert!(store.stage(setting("addr"), text("nonsense")).is_err());
        assert!(store.stage(setting("append-req-max-count"), Value::Number(0)).is_err());
        assert_eq!(store.staged, *store.published);
    }

    /// What the server does to put an old value back: nothing, when it reads the same.
    fn restore(store: &mut Store, setting: &Setting, backup: Value) {
        if store.shown(setting) != backup {
            store.stage(setting, backup).unwrap();
        }
    }

    #[test]
    fn a_secret_is_never_shown_and_survives_a_rollback() {
        let mut store = Store::new(Settings::default());
        let password = setting("cluster-password");
        for old in ["", "old"] {
            store.stage(password, text(old)).unwrap();
            store.publish().unwrap();
            let backup = store.shown(password);
            store.stage(password, text("new")).unwrap();
            assert!(!store.shown(password).to_string().contains("new"));
            // Another pair of the same CONFIG SET is refused, before and after this one was applied.
            restore(&mut store, password, backup.clone());
            assert_eq!(store.staged.cluster_password, old);
            store.stage(password, text("new")).unwrap();
            store.publish().unwrap();
            restore(&mut store, password, backup);
            store.publish().unwrap();
            assert_eq!(store.published.cluster_password, old);
        }
        assert!(!store.shown(password).to_string().contains("old"));
    }

    #[test]
    fn the_mask_of_another_process_counts_as_not_given() {
        let password = setting("cluster-password");
        let given = Settings { cluster_password: "argument".to_owned(), ..Settings::default() };
        let left_by_rewrite = Store::new(given.clone()).shown(password);
        let mut store = Store::new(given);
        store.stage(password, left_by_rewrite).unwrap();
        assert_eq!(store.staged.cluster_password, "argument");
        store.stage(setting("cluster-user"), text("(hidden x)")).unwrap();
        assert_eq!(store.staged.cluster_user, "(hidden x)");
    }

    #[test]
    fn all_bounds_fit_the_numbers_of_the_server() {
        for setting in SETTINGS {
            if let Kind::Number { default, min, max, .. } = setting.kind {
                assert!(max <= c_longlong::MAX as u64 && (min..=max).contains(&default), "{}", setting.name);
            }
        }
    }
}
