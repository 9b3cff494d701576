"""What of hymba.h the program beside this file uses, through ctypes. Copy it, add what you need.

The raw part bears the names of hymba.h. A struct may stop before its last fields, since struct_size
tells the library where it ends. ctypes lets other threads run while a call is under way.
"""

import ctypes
import os
from ctypes import (POINTER, byref, c_char, c_char_p, c_float, c_int32, c_int64, c_size_t,
                    c_uint32, c_uint64, c_void_p)

HYMBA_ABI = 0
HYMBA_OK = 0
HYMBA_ENCODE_BOS = 1
HYMBA_LOGITS_LAST = 1
HYMBA_EVENT_END = 2


class hymba_error(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("status", c_int32), ("system_code", c_int32),
                ("position", c_int64), ("message", c_char * 488)]


class hymba_reuse_info(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("reused_tokens", c_uint64),
                ("computed_tokens", c_uint64), ("copied_bytes", c_uint64),
                ("shared_bytes", c_uint64)]


class hymba_sampler_params(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("seed", c_uint64), ("temperature", c_float),
                ("top_k", c_int32), ("top_p", c_float), ("min_p", c_float),
                ("repeat_penalty", c_float), ("repeat_last_n", c_int32)]


class hymba_generation_params(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("max_tokens", c_uint64),
                ("stop_strings", POINTER(c_char_p)), ("n_stop_strings", c_size_t),
                ("flags", c_uint32), ("n_top", c_uint32)]


class hymba_event(ctypes.Structure):
    # text is no c_char_p, which would cut it at a NUL byte.
    _fields_ = [("struct_size", c_size_t), ("kind", c_int32), ("stop", c_int32),
                ("token", c_int32), ("reserved", c_uint32), ("text", c_void_p),
                ("length", c_size_t)]


def sized(structure, **fields):
    """A struct of hymba.h with its size set; what is not named is zero, i.e. the default."""
    return structure(struct_size=ctypes.sizeof(structure), **fields)


_library = ctypes.CDLL("libhymba.so.%d" % HYMBA_ABI)


def _declare(result, name, *arguments):
    function = getattr(_library, name)
    function.restype = result
    function.argtypes = arguments


_handle = POINTER(c_void_p)  # where a function stores a new handle
_error = POINTER(hymba_error)
_reuse = POINTER(hymba_reuse_info)
_declare(c_char_p, "hymba_status_name", c_int32)
_declare(c_int32, "hymba_model_open", c_char_p, c_void_p, _handle, _error)
_declare(None, "hymba_model_release", c_void_p)
_declare(c_void_p, "hymba_model_tokenizer", c_void_p)
_declare(c_void_p, "hymba_tokenizer_retain", c_void_p)
_declare(None, "hymba_tokenizer_release", c_void_p)
_declare(c_int32, "hymba_tokenizer_adds_bos", c_void_p)
_declare(c_int32, "hymba_tokenizer_encode", c_void_p, c_char_p, c_size_t, c_uint32,
         POINTER(c_int32), c_size_t, POINTER(c_size_t), _error)
_declare(c_int32, "hymba_context_create", c_void_p, c_void_p, _handle, _error)
_declare(None, "hymba_context_release", c_void_p)
_declare(c_int32, "hymba_session_create", c_void_p, c_void_p, _handle, _error)
_declare(None, "hymba_session_release", c_void_p)
_declare(c_int32, "hymba_session_append", c_void_p, POINTER(c_int32), c_size_t, c_int32, _error)
_declare(c_int32, "hymba_session_fork", c_void_p, _handle, _reuse, _error)
_declare(c_int32, "hymba_session_save", c_void_p, c_void_p, c_char_p, _reuse, _error)
_declare(c_int32, "hymba_session_load", c_void_p, c_char_p, c_void_p, _handle, _handle, _reuse,
         _error)
_declare(c_int32, "hymba_sampler_create", POINTER(hymba_sampler_params), c_void_p, _handle, _error)
_declare(None, "hymba_sampler_release", c_void_p)
_declare(c_int32, "hymba_generation_create", c_void_p, c_void_p, c_void_p,
         POINTER(hymba_generation_params), _handle, _error)
_declare(c_int32, "hymba_generation_next", c_void_p, POINTER(hymba_event), _error)
_declare(None, "hymba_generation_release", c_void_p)


class Error(Exception):
    def __init__(self, status, message):
        super().__init__(message)
        self.status = status
        self.name = _library.hymba_status_name(status).decode()


def _call(function, *arguments):
    error = sized(hymba_error)
    status = function(*arguments, byref(error))
    if status != HYMBA_OK:
        raise Error(status, error.message.decode("utf-8", "replace"))


class _Object:
    """Owns a handle until close or the end of a with block; in any order, since children hold
    their parents."""

    _release = None

    def __init__(self, handle):
        self.handle = handle

    def close(self):
        handle, self.handle = self.handle, None
        type(self)._release(handle)  # None is fine

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()


class Tokenizer(_Object):
    _release = _library.hymba_tokenizer_release

    def encode(self, text):
        data = text.encode()
        flags = HYMBA_ENCODE_BOS if _library.hymba_tokenizer_adds_bos(self.handle) else 0
        needed = c_size_t()
        encode = _library.hymba_tokenizer_encode
        _call(encode, self.handle, data, len(data), flags, None, 0, byref(needed))
        tokens = (c_int32 * needed.value)()
        _call(encode, self.handle, data, len(data), flags, tokens, len(tokens), byref(needed))
        return list(tokens)


class Model(_Object):
    _release = _library.hymba_model_release

    def __init__(self, directory):
        handle = c_void_p()
        _call(_library.hymba_model_open, os.fsencode(directory), None, byref(handle))
        super().__init__(handle)

    def tokenizer(self):
        borrowed = _library.hymba_model_tokenizer(self.handle)
        return Tokenizer(_library.hymba_tokenizer_retain(borrowed))


class Context(_Object):
    _release = _library.hymba_context_release

    def __init__(self, model):
        handle = c_void_p()
        _call(_library.hymba_context_create, model.handle, None, byref(handle))
        super().__init__(handle)

    def session(self):
        handle = c_void_p()
        _call(_library.hymba_session_create, self.handle, None, byref(handle))
        return Session(handle)

    def load(self, path):
        """The session saved in a file, and what was reused."""
        handle, reuse = c_void_p(), sized(hymba_reuse_info)
        _call(_library.hymba_session_load, self.handle, os.fsencode(path), None, byref(handle),
              None, byref(reuse))
        return Session(handle), reuse


class Session(_Object):
    _release = _library.hymba_session_release

    def append(self, tokens):
        array = (c_int32 * len(tokens))(*tokens)
        _call(_library.hymba_session_append, self.handle, array, len(array), HYMBA_LOGITS_LAST)

    def fork(self):
        handle, reuse = c_void_p(), sized(hymba_reuse_info)
        _call(_library.hymba_session_fork, self.handle, byref(handle), byref(reuse))
        return Session(handle), reuse

    def save(self, path):
        _call(_library.hymba_session_save, self.handle, None, os.fsencode(path), None)

    def generate(self, tokenizer, max_tokens, **sampling):
        """Yields text as it comes; sampling is the fields of hymba_sampler_params."""
        sampler, generation = c_void_p(), c_void_p()
        event = sized(hymba_event)
        try:
            _call(_library.hymba_sampler_create, byref(sized(hymba_sampler_params, **sampling)),
                  None, byref(sampler))
            _call(_library.hymba_generation_create, self.handle, sampler, tokenizer.handle,
                  byref(sized(hymba_generation_params, max_tokens=max_tokens)), byref(generation))
            while event.kind != HYMBA_EVENT_END:
                _call(_library.hymba_generation_next, generation, byref(event))
                yield ctypes.string_at(event.text, event.length).decode()
        finally:
            _library.hymba_generation_release(generation)
            _library.hymba_sampler_release(sampler)
