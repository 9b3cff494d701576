//! What of hymba.h the program beside this file uses, without any crate. Copy it and add what you
//! need. The module `ffi` bears the names of hymba.h; what follows it is safe to use. A struct may
//! stop before its last fields, since struct_size tells the library where it ends.

use std::ffi::{CStr, CString};
use std::marker::PhantomData;
use std::{fmt, mem, ptr, slice};

#[allow(non_camel_case_types)]
pub mod ffi {
    use std::os::raw::{c_char, c_void};

    pub const HYMBA_OK: i32 = 0;
    pub const HYMBA_ERROR_ARGUMENT: i32 = -1;
    pub const HYMBA_ENCODE_BOS: u32 = 1;
    pub const HYMBA_LOGITS_LAST: i32 = 1;
    pub const HYMBA_EVENT_END: i32 = 2;

    /// All handles: only pointers to them exist.
    pub type handle = c_void;

    #[repr(C)]
    pub struct hymba_error {
        pub struct_size: usize,
        pub status: i32,
        pub system_code: i32,
        pub position: i64,
        pub message: [c_char; 488],
    }

    #[repr(C)]
    pub struct hymba_reuse_info {
        pub struct_size: usize,
        pub reused_tokens: u64,
        pub computed_tokens: u64,
        pub copied_bytes: u64,
        pub shared_bytes: u64,
    }

    #[repr(C)]
    pub struct hymba_sampler_params {
        pub struct_size: usize,
        pub seed: u64,
        pub temperature: f32,
        pub top_k: i32,
        pub top_p: f32,
        pub min_p: f32,
        pub repeat_penalty: f32,
        pub repeat_last_n: i32,
    }

    #[repr(C)]
    pub struct hymba_generation_params {
        pub struct_size: usize,
        pub max_tokens: u64,
        pub stop_strings: *const *const c_char,
        pub n_stop_strings: usize,
        pub flags: u32,
        pub n_top: u32,
    }

    #[repr(C)]
    pub struct hymba_event {
        pub struct_size: usize,
        pub kind: i32,
        pub stop: i32,
        pub token: i32,
        pub reserved: u32,
        pub text: *const c_char,
        pub length: usize,
    }

    #[link(name = "hymba")]
    #[rustfmt::skip]
    extern "C" {
        pub fn hymba_status_name(status: i32) -> *const c_char;
        pub fn hymba_model_open(directory: *const c_char, params: *const c_void,
            model: *mut *mut handle, error: *mut hymba_error) -> i32;
        pub fn hymba_model_release(model: *mut handle);
        pub fn hymba_model_tokenizer(model: *const handle) -> *mut handle;
        pub fn hymba_tokenizer_adds_bos(tokenizer: *const handle) -> i32;
        pub fn hymba_tokenizer_encode(tokenizer: *const handle, text: *const c_char,
            length: usize, flags: u32, ids: *mut i32, capacity: usize, needed: *mut usize,
            error: *mut hymba_error) -> i32;
        pub fn hymba_context_create(model: *mut handle, params: *const c_void,
            context: *mut *mut handle, error: *mut hymba_error) -> i32;
        pub fn hymba_context_release(context: *mut handle);
        pub fn hymba_session_create(context: *mut handle, params: *const c_void,
            session: *mut *mut handle, error: *mut hymba_error) -> i32;
        pub fn hymba_session_release(session: *mut handle);
        pub fn hymba_session_append(session: *mut handle, tokens: *const i32, n_tokens: usize,
            logits: i32, error: *mut hymba_error) -> i32;
        pub fn hymba_session_fork(session: *mut handle, fork: *mut *mut handle,
            info: *mut hymba_reuse_info, error: *mut hymba_error) -> i32;
        pub fn hymba_session_save(session: *mut handle, sampler: *const handle,
            path: *const c_char, info: *mut hymba_reuse_info, error: *mut hymba_error) -> i32;
        pub fn hymba_session_load(context: *mut handle, path: *const c_char,
            params: *const c_void, session: *mut *mut handle, sampler: *mut *mut handle,
            info: *mut hymba_reuse_info, error: *mut hymba_error) -> i32;
        pub fn hymba_sampler_create(params: *const hymba_sampler_params, host: *const c_void,
            sampler: *mut *mut handle, error: *mut hymba_error) -> i32;
        pub fn hymba_sampler_release(sampler: *mut handle);
        pub fn hymba_generation_create(session: *mut handle, sampler: *mut handle,
            tokenizer: *mut handle, params: *const hymba_generation_params,
            generation: *mut *mut handle, error: *mut hymba_error) -> i32;
        pub fn hymba_generation_next(generation: *mut handle, event: *mut hymba_event,
            error: *mut hymba_error) -> i32;
        pub fn hymba_generation_release(generation: *mut handle);
    }
}

use ffi::*;

/// A struct with its size set; what is not named is zero, i.e. the default.
macro_rules! sized_by_default {
    ($($name:ident)*) => { $(impl Default for $name {
        fn default() -> Self {
            // Numbers and pointers, of which each may be zero.
            Self { struct_size: mem::size_of::<Self>(), ..unsafe { mem::zeroed() } }
        }
    })* };
}
sized_by_default! {
    hymba_error hymba_reuse_info hymba_sampler_params hymba_generation_params hymba_event
}

pub use ffi::hymba_reuse_info as Reuse;
pub use ffi::hymba_sampler_params as Sampling;

#[derive(Debug)]
pub struct Error {
    pub status: i32,
    pub message: String,
}

impl Error {
    pub fn name(&self) -> &'static str {
        // Static storage, ASCII.
        unsafe { CStr::from_ptr(hymba_status_name(self.status)) }
            .to_str()
            .unwrap_or("")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "{}: {}", self.name(), self.message)
    }
}

impl std::error::Error for Error {}

pub type Result<T> = std::result::Result<T, Error>;

/// Makes a call that takes a hymba_error.
fn check(call: impl FnOnce(*mut hymba_error) -> i32) -> Result<()> {
    let mut record = hymba_error::default();
    match call(&mut record) {
        HYMBA_OK => Ok(()),
        status => {
            let message = unsafe { CStr::from_ptr(record.message.as_ptr()) };
            Err(Error {
                status,
                message: message.to_string_lossy().into_owned(),
            })
        }
    }
}

/// Owns one reference. Children hold their parents, so the order of drops is free.
struct Handle {
    raw: *mut handle,
    release: unsafe extern "C" fn(*mut handle),
}

impl Handle {
    /// Makes a call that stores a new handle.
    fn create(
        release: unsafe extern "C" fn(*mut handle),
        call: impl FnOnce(*mut *mut handle, *mut hymba_error) -> i32,
    ) -> Result<Handle> {
        let mut raw = ptr::null_mut();
        check(|error| call(&mut raw, error))?;
        Ok(Handle { raw, release })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        unsafe { (self.release)(self.raw) }
    }
}

fn path_argument(path: &str) -> Result<CString> {
    CString::new(path).map_err(|_| Error {
        status: HYMBA_ERROR_ARGUMENT,
        message: "the path holds a NUL byte".to_string(),
    })
}

pub struct Model(Handle);

// Immutable: any number of threads may use one model at once.
unsafe impl Send for Model {}
unsafe impl Sync for Model {}

impl Model {
    pub fn open(directory: &str) -> Result<Model> {
        let directory = path_argument(directory)?;
        Handle::create(hymba_model_release, |model, error| unsafe {
            hymba_model_open(directory.as_ptr(), ptr::null(), model, error)
        })
        .map(Model)
    }

    pub fn tokenizer(&self) -> Tokenizer<'_> {
        Tokenizer {
            raw: unsafe { hymba_model_tokenizer(self.0.raw) },
            model: PhantomData,
        }
    }
}

/// Borrowed from its model.
pub struct Tokenizer<'a> {
    raw: *mut handle,
    model: PhantomData<&'a Model>,
}

impl Tokenizer<'_> {
    pub fn encode(&self, text: &str) -> Result<Vec<i32>> {
        let bos = unsafe { hymba_tokenizer_adds_bos(self.raw) } != 0;
        let flags = if bos { HYMBA_ENCODE_BOS } else { 0 };
        let (data, length, mut needed) = (text.as_ptr().cast(), text.len(), 0);
        let mut encode = |tokens, capacity| {
            check(|error| unsafe {
                let needed = &mut needed;
                hymba_tokenizer_encode(
                    self.raw, data, length, flags, tokens, capacity, needed, error,
                )
            })?;
            Ok(needed)
        };
        let mut tokens = vec![0; encode(ptr::null_mut(), 0)?];
        encode(tokens.as_mut_ptr(), tokens.len())?;
        Ok(tokens)
    }
}

pub struct Context(Handle);

impl Context {
    pub fn new(model: &Model) -> Result<Context> {
        Handle::create(hymba_context_release, |context, error| unsafe {
            hymba_context_create(model.0.raw, ptr::null(), context, error)
        })
        .map(Context)
    }

    pub fn session(&self) -> Result<Session> {
        Handle::create(hymba_session_release, |session, error| unsafe {
            hymba_session_create(self.0.raw, ptr::null(), session, error)
        })
        .map(Session)
    }

    pub fn load(&self, path: &str) -> Result<(Session, Reuse)> {
        let path = path_argument(path)?;
        let mut reuse = Reuse::default();
        let loaded = Handle::create(hymba_session_release, |session, error| unsafe {
            let (params, sampler) = (ptr::null(), ptr::null_mut());
            hymba_session_load(
                self.0.raw,
                path.as_ptr(),
                params,
                session,
                sampler,
                &mut reuse,
                error,
            )
        })?;
        Ok((Session(loaded), reuse))
    }
}

pub struct Session(Handle);

impl Session {
    pub fn append(&mut self, tokens: &[i32]) -> Result<()> {
        check(|error| unsafe {
            let (data, length) = (tokens.as_ptr(), tokens.len());
            hymba_session_append(self.0.raw, data, length, HYMBA_LOGITS_LAST, error)
        })
    }

    pub fn fork(&mut self) -> Result<(Session, Reuse)> {
        let mut reuse = Reuse::default();
        let fork = Handle::create(hymba_session_release, |fork, error| unsafe {
            hymba_session_fork(self.0.raw, fork, &mut reuse, error)
        })?;
        Ok((Session(fork), reuse))
    }

    pub fn save(&mut self, path: &str) -> Result<()> {
        let path = path_argument(path)?;
        check(|error| unsafe {
            hymba_session_save(
                self.0.raw,
                ptr::null(),
                path.as_ptr(),
                ptr::null_mut(),
                error,
            )
        })
    }

    /// Text as it comes. While it is in use nothing else can reach the session.
    pub fn generate<'a>(
        &'a mut self,
        tokenizer: &Tokenizer<'_>,
        sampling: &Sampling,
        max_tokens: u64,
    ) -> Result<Generation<'a>> {
        let sampler = Handle::create(hymba_sampler_release, |sampler, error| unsafe {
            hymba_sampler_create(sampling, ptr::null(), sampler, error)
        })?;
        let limits = hymba_generation_params {
            max_tokens,
            ..Default::default()
        };
        let handle = Handle::create(hymba_generation_release, |generation, error| unsafe {
            let (session, sampler, tokenizer) = (self.0.raw, sampler.raw, tokenizer.raw);
            hymba_generation_create(session, sampler, tokenizer, &limits, generation, error)
        })?;
        Ok(Generation {
            handle,
            ended: false,
            session: PhantomData,
        })
    }
}

pub struct Generation<'a> {
    handle: Handle,
    ended: bool,
    session: PhantomData<&'a mut Session>,
}

impl Iterator for Generation<'_> {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let mut event = hymba_event::default();
        let result =
            check(|error| unsafe { hymba_generation_next(self.handle.raw, &mut event, error) });
        self.ended = result.is_err() || event.kind == HYMBA_EVENT_END;
        Some(result.map(|()| {
            let text = unsafe { slice::from_raw_parts(event.text.cast(), event.length) };
            String::from_utf8_lossy(text).into_owned()
        }))
    }
}
