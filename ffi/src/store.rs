//! `perilune_store_*`: the store, one key at a time.

use crate::border::{Out, bytes, bytes_mut, guard, key, slice, take_handle, text};
use crate::buffer::PeriluneBuffer;
use crate::engine::{ENGINES, PeriluneEngine, encode};
use crate::fault::PeriluneStatus;
use crate::handle::Table;
use perilune_client::{Put, Store, StoreConfig, token};
use perilune_protocol::rpc::cluster::Stat;
use perilune_protocol::rpc::segment::Describe;
use perilune_protocol::{FaultCode, Outcome, Pin, PutConfig, SegmentId};
use std::ffi::{c_char, c_void};
use std::time::Duration;

/// The store, as seen by this process.
pub struct PeriluneStore {
    _opaque: [u8; 0],
}

/// How a store finds its masters and how long it waits. Where masters ask for a token it is taken from PERILUNE_ADMIN_TOKEN.
#[repr(C)]
pub struct PeriluneStoreConfig {
    /// `host:port` of each master, with commas between them. NULL: 127.0.0.1:50051.
    pub masters: *const c_char,
    /// The tenant whose keys are meant. NULL: `default`.
    pub tenant: *const c_char,
    /// What is calling, for the master's logs. NULL: the name of this library.
    pub agent: *const c_char,
    /// How long one call may take in all, repetitions included, in milliseconds. 0: 10 000.
    pub deadline_ms: u64,
    /// An engine to move the bytes with, which may be closed afterwards. NULL: an engine of its own.
    pub engine: *mut PeriluneEngine,
}

/// `pin` of a put: the object leaves when it is the oldest.
pub const PERILUNE_PIN_NONE: u32 = 0;
/// `pin` of a put: the object leaves when nothing unpinned is left to evict.
pub const PERILUNE_PIN_SOFT: u32 = 1;
/// `pin` of a put: the object is never evicted.
pub const PERILUNE_PIN_HARD: u32 = 2;

/// How a value is to be stored. All zero is a good start.
#[repr(C)]
pub struct PerilunePutConfig {
    /// Copies, each on a segment of its own. 0: one.
    pub replicas: u8,
    /// Whether fewer copies than asked for are good enough.
    pub best_effort: bool,
    /// Replace an existing object instead of leaving it as it is.
    pub upsert: bool,
    /// PERILUNE_PIN_NONE, PERILUNE_PIN_SOFT or PERILUNE_PIN_HARD.
    pub pin: u32,
    /// Names of segments to prefer, best first.
    pub preferred_segments: *const *const c_char,
    /// How many names.
    pub preferred_segments_count: usize,
}

pub(crate) static STORES: Table<Store> = Table::new("store");

/// Connects to a master and writes a handle of the store to `store`. `config` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perilune_store_create(config: *const PeriluneStoreConfig, store: *mut *mut PeriluneStore) -> PeriluneStatus {
    guard(|| {
        let out = Out::required("store", store)?;
        let token = token::find(None).map_err(|why| FaultCode::InvalidParams.with(why))?;
        let agent = concat!("perilune-c ", env!("CARGO_PKG_VERSION")).into();
        let mut settings = StoreConfig { agent, token, ..StoreConfig::default() };
        // SAFETY: NULL, or a config by the caller's promise; its texts likewise.
        if let Some(config) = unsafe { config.as_ref() } {
            // SAFETY: as above.
            let texts = unsafe { (text("masters", config.masters)?, text("tenant", config.tenant)?, text("agent", config.agent)?) };
            if let Some(masters) = texts.0 {
                settings.masters = masters.split(',').map(str::trim).filter(|at| !at.is_empty()).map(str::to_owned).collect();
                if settings.masters.is_empty() {
                    return Err(FaultCode::InvalidParams.with("masters names none: write host:port, with commas between several"));
                }
            }
            if let Some(tenant) = texts.1 {
                tenant.clone_into(&mut settings.tenant);
            }
            if let Some(agent) = texts.2 {
                agent.clone_into(&mut settings.agent);
            }
            if config.deadline_ms > 0 {
                settings.deadline = Duration::from_millis(config.deadline_ms);
            }
            if !config.engine.is_null() {
                settings.engine = Some(ENGINES.get(config.engine)?.engine.clone());
            }
        }
        let handle = STORES.open(Store::connect(settings)?);
        // SAFETY: the caller's promise about `store`.
        unsafe { out.set(handle) };
        Ok(())
    })
}

/// Closes a store and leaves NULL in `store`. Calls of other threads that are under way end first or end well. When `store` holds NULL
/// it fails and does no harm.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perilune_store_close(store: *mut *mut PeriluneStore) -> PeriluneStatus {
    // SAFETY: the caller's promise about `store`.
    guard(|| STORES.close(unsafe { take_handle(store) }?).map(drop))
}

/// Asks a master whether it is there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perilune_store_health(store: *mut PeriluneStore) -> PeriluneStatus {
    guard(|| STORES.get(store)?.call(&Stat {}).map(drop))
}

/// Stores a value under a key of 1 to 4096 bytes. `config` may be NULL. When the key exists and `upsert` is not set, its value is left
/// as it is and the call succeeds; `existed`, when it is not NULL, says which it was.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perilune_store_put(
    store: *mut PeriluneStore,
    key_bytes: *const c_void,
    key_length: usize,
    value: *const c_void,
    value_length: usize,
    config: *const PerilunePutConfig,
    existed: *mut bool,
) -> PeriluneStatus {
    guard(|| {
        let store = STORES.get(store)?;
        // SAFETY: the caller's promise about the key, the value and the config.
        let (key, value, config) = unsafe { (key(key_bytes, key_length)?, bytes("the value", value, value_length)?, put_config(config)?) };
        let put = store.put(&key, value, &config)?;
        // SAFETY: the caller's promise about `existed`.
        unsafe { Out::optional(existed).set(put == Put::Existed) };
        Ok(())
    })
}

/// Reads the value of a key into memory of the library: free it with perilune_buffer_free. The bytes are verified.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perilune_store_get(
    store: *mut PeriluneStore,
    key_bytes: *const c_void,
    key_length: usize,
    value: *mut PeriluneBuffer,
) -> PeriluneStatus {
    guard(|| {
        let store = STORES.get(store)?;
        let out = Out::required("value", value)?;
        // SAFETY: the caller's promise about the key.
        let got = store.get(&unsafe { key(key_bytes, key_length) }?)?;
        // SAFETY: the caller's promise about `value`.
        unsafe { out.set(PeriluneBuffer::new(got)) };
        Ok(())
    })
}

/// Reads the value of a key into `capacity` bytes at `into`, and writes how many it has to `length`. The bytes are verified.
/// PERILUNE_INVALID_PARAMS when the value is larger than `capacity`; perilune_store_size tells how large it is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perilune_store_get_into(
    store: *mut PeriluneStore,
    key_bytes: *const c_void,
    key_length: usize,
    into: *mut c_void,
    capacity: usize,
    length: *mut usize,
) -> PeriluneStatus {
    guard(|| {
        let store = STORES.get(store)?;
        let out = Out::required("length", length)?;
        // SAFETY: the caller's promise about the key and `into`.
        let (key, into) = unsafe { (key(key_bytes, key_length)?, bytes_mut("into", into, capacity)?) };
        let got = store.get_into(&key, into)?;
        // SAFETY: the caller's promise about `length`.
        unsafe { out.set(got) };
        Ok(())
    })
}

/// Whether a key exists and can be read. Grants a lease if it does: for a while it will not be evicted.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perilune_store_exists(
    store: *mut PeriluneStore,
    key_bytes: *const c_void,
    key_length: usize,
    exists: *mut bool,
) -> PeriluneStatus {
    guard(|| {
        let store = STORES.get(store)?;
        let out = Out::required("exists", exists)?;
        // SAFETY: the caller's promise about the key.
        let found = store.exists(&[unsafe { key(key_bytes, key_length) }?])?;
        // SAFETY: the caller's promise about `exists`.
        unsafe { out.set(found == [true]) };
        Ok(())
    })
}

/// Writes how many bytes the value of a key has to `size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perilune_store_size(
    store: *mut PeriluneStore,
    key_bytes: *const c_void,
    key_length: usize,
    size: *mut u64,
) -> PeriluneStatus {
    guard(|| {
        let store = STORES.get(store)?;
        let out = Out::required("size", size)?;
        // SAFETY: the caller's promise about the key.
        let bytes = store.size(&unsafe { key(key_bytes, key_length) }?)?;
        // SAFETY: the caller's promise about `size`.
        unsafe { out.set(bytes) };
        Ok(())
    })
}

/// Removes a key. PERILUNE_OBJECT_HAS_LEASE when a reader holds a lease on it, unless `force`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perilune_store_remove(
    store: *mut PeriluneStore,
    key_bytes: *const c_void,
    key_length: usize,
    force: bool,
) -> PeriluneStatus {
    guard(|| {
        let store = STORES.get(store)?;
        // SAFETY: the caller's promise about the key.
        let key = unsafe { key(key_bytes, key_length) }?;
        store.remove(&[key], force).into_iter().collect()
    })
}

/// Removes every key in which the regular expression `pattern` is found, leased ones only with `force`, and writes how many to
/// `removed`, which may be NULL. An empty pattern matches all keys.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perilune_store_remove_matching(
    store: *mut PeriluneStore,
    pattern: *const c_char,
    force: bool,
    removed: *mut u64,
) -> PeriluneStatus {
    guard(|| {
        let store = STORES.get(store)?;
        // SAFETY: the caller's promise about `pattern`.
        let pattern =
            unsafe { text("pattern", pattern) }?.ok_or_else(|| FaultCode::InvalidParams.with("pattern is NULL: \"\" matches all keys"))?;
        let count = store.remove_matching(pattern, force)?;
        // SAFETY: the caller's promise about `removed`.
        unsafe { Out::optional(removed).set(count) };
        Ok(())
    })
}

/// Registers memory that values are read into or put from. See perilune_engine_register.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perilune_store_register(store: *mut PeriluneStore, address: *mut c_void, size: usize) -> PeriluneStatus {
    guard(|| {
        let store = STORES.get(store)?;
        Out::required("address", address)?;
        // SAFETY: the caller's promise about the memory.
        unsafe { store.register(address.cast(), size) }
    })
}

/// Takes back the registration of the memory that starts at `address`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perilune_store_unregister(store: *mut PeriluneStore, address: *mut c_void) -> PeriluneStatus {
    guard(|| STORES.get(store)?.unregister(address.cast()))
}

/// Asks the master for the descriptor of a segment, by its id in text, so that an engine can open it. Free it with perilune_buffer_free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perilune_store_describe(
    store: *mut PeriluneStore,
    segment_id: *const c_char,
    descriptor: *mut PeriluneBuffer,
) -> PeriluneStatus {
    guard(|| {
        let store = STORES.get(store)?;
        let out = Out::required("descriptor", descriptor)?;
        // SAFETY: the caller's promise about `segment_id`.
        let id = unsafe { text("segment_id", segment_id) }?.ok_or_else(|| FaultCode::InvalidParams.with("segment_id is NULL"))?;
        let id: SegmentId =
            id.parse().map_err(|_| FaultCode::InvalidParams.with(format!("`{id}` is not a segment id: it must be a uuid")))?;
        let answers = store.call(&Describe { segments: vec![id] })?;
        let desc = answers.into_iter().next().unwrap_or_else(|| Err(FaultCode::Internal.with("the master answered for no segment")))?;
        let described = encode(&desc)?;
        // SAFETY: the caller's promise about `descriptor`.
        unsafe { out.set(PeriluneBuffer::new(described)) };
        Ok(())
    })
}

/// Reads a put config; NULL means the defaults.
///
/// # Safety
/// NULL, or a config whose names are as many as it says, each a zero-terminated string.
pub(crate) unsafe fn put_config(config: *const PerilunePutConfig) -> Outcome<PutConfig> {
    // SAFETY: the caller's promise.
    let Some(config) = (unsafe { config.as_ref() }) else { return Ok(PutConfig::default()) };
    let pin = match config.pin {
        PERILUNE_PIN_NONE => Pin::None,
        PERILUNE_PIN_SOFT => Pin::Soft,
        PERILUNE_PIN_HARD => Pin::Hard,
        other => {
            return Err(FaultCode::InvalidParams.with(format!("pin is {other}: it must be PERILUNE_PIN_NONE, _SOFT or _HARD (0, 1, 2)")));
        }
    };
    // SAFETY: the caller's promise.
    let names = unsafe { slice("preferred_segments", config.preferred_segments, config.preferred_segments_count) }?;
    let mut preferred_segments = Vec::with_capacity(names.len());
    for name in names {
        // SAFETY: the caller's promise.
        let name = unsafe { text("a preferred segment", *name) }?;
        preferred_segments.push(name.ok_or_else(|| FaultCode::InvalidParams.with("a preferred segment is NULL"))?.to_owned());
    }
    Ok(PutConfig { replicas: config.replicas.max(1), best_effort: config.best_effort, pin, preferred_segments, upsert: config.upsert })
}
