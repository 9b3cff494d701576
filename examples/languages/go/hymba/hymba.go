// Package hymba is what of hymba.h the program beside it uses. Copy it and add what you need.
//
// cgo finds the library through CGO_CFLAGS, CGO_LDFLAGS and LD_LIBRARY_PATH where it is not
// installed. Handles are given back by Close, in any order, since children hold their parents.
package hymba

/*
#cgo LDFLAGS: -lhymba
#include <stdlib.h>
#include <hymba.h>
*/
import "C"

import "unsafe"

// Error is what a call of the library reports.
type Error struct {
	Status  int32
	Message string
}

// Name is the name of the status in hymba.h.
func (e *Error) Name() string { return C.GoString(C.hymba_status_name(C.hymba_status(e.Status))) }

func (e *Error) Error() string { return e.Name() + ": " + e.Message }

// newRecord gives the library a place to write an error. It is on Go's side: no thread of the
// operating system remembers it, so a goroutine may move between two calls.
func newRecord() *C.hymba_error {
	return &C.hymba_error{struct_size: C.sizeof_hymba_error}
}

func check(status C.hymba_status, record *C.hymba_error) error {
	if status == C.HYMBA_OK {
		return nil
	}
	return &Error{int32(status), C.GoString(&record.message[0])}
}

// Reuse says what a call took over and what it computed.
type Reuse struct{ Reused, Computed uint64 }

func newReuse() *C.hymba_reuse_info {
	return &C.hymba_reuse_info{struct_size: C.sizeof_hymba_reuse_info}
}

func reuseOf(info *C.hymba_reuse_info) Reuse {
	return Reuse{uint64(info.reused_tokens), uint64(info.computed_tokens)}
}

// Model may be used by any number of goroutines at once.
type Model struct{ handle *C.hymba_model }

func Open(directory string) (*Model, error) {
	path := C.CString(directory)
	defer C.free(unsafe.Pointer(path))
	model, record := &Model{}, newRecord()
	status := C.hymba_model_open(path, nil, &model.handle, record)
	if err := check(status, record); err != nil {
		return nil, err
	}
	return model, nil
}

func (m *Model) Close() {
	C.hymba_model_release(m.handle)
	m.handle = nil
}

// Encode returns the tokens of a text.
func (m *Model) Encode(text string) ([]int32, error) {
	data := C.CString(text)
	defer C.free(unsafe.Pointer(data))
	tokenizer, length := C.hymba_model_tokenizer(m.handle), C.size_t(len(text))
	var flags C.uint32_t
	if C.hymba_tokenizer_adds_bos(tokenizer) != 0 {
		flags = C.HYMBA_ENCODE_BOS
	}
	var needed C.size_t
	record := newRecord()
	status := C.hymba_tokenizer_encode(tokenizer, data, length, flags, nil, 0, &needed, record)
	if err := check(status, record); err != nil || needed == 0 {
		return nil, err
	}
	tokens := make([]int32, needed)
	status = C.hymba_tokenizer_encode(tokenizer, data, length, flags, first(tokens), needed,
		&needed, record)
	return tokens, check(status, record)
}

// first is where the library finds a slice; it does not keep it.
func first(tokens []int32) *C.int32_t {
	if len(tokens) == 0 {
		return nil
	}
	return (*C.int32_t)(&tokens[0])
}

// Context computes for its sessions, one call at a time.
type Context struct{ handle *C.hymba_context }

func (m *Model) NewContext() (*Context, error) {
	context, record := &Context{}, newRecord()
	status := C.hymba_context_create(m.handle, nil, &context.handle, record)
	if err := check(status, record); err != nil {
		return nil, err
	}
	return context, nil
}

func (c *Context) Close() {
	C.hymba_context_release(c.handle)
	c.handle = nil
}

// Session is one sequence of tokens.
type Session struct{ handle *C.hymba_session }

func (c *Context) NewSession() (*Session, error) {
	session, record := &Session{}, newRecord()
	status := C.hymba_session_create(c.handle, nil, &session.handle, record)
	if err := check(status, record); err != nil {
		return nil, err
	}
	return session, nil
}

func (c *Context) Load(file string) (*Session, Reuse, error) {
	path := C.CString(file)
	defer C.free(unsafe.Pointer(path))
	session, record, info := &Session{}, newRecord(), newReuse()
	status := C.hymba_session_load(c.handle, path, nil, &session.handle, nil, info, record)
	if err := check(status, record); err != nil {
		return nil, Reuse{}, err
	}
	return session, reuseOf(info), nil
}

func (s *Session) Close() {
	C.hymba_session_release(s.handle)
	s.handle = nil
}

func (s *Session) Append(tokens []int32) error {
	record := newRecord()
	return check(C.hymba_session_append(s.handle, first(tokens), C.size_t(len(tokens)),
		C.HYMBA_LOGITS_LAST, record), record)
}

func (s *Session) Fork() (*Session, Reuse, error) {
	fork, record, info := &Session{}, newRecord(), newReuse()
	status := C.hymba_session_fork(s.handle, &fork.handle, info, record)
	if err := check(status, record); err != nil {
		return nil, Reuse{}, err
	}
	return fork, reuseOf(info), nil
}

func (s *Session) Save(file string) error {
	path := C.CString(file)
	defer C.free(unsafe.Pointer(path))
	record := newRecord()
	return check(C.hymba_session_save(s.handle, nil, path, nil, record), record)
}

// Sampling says how tokens are chosen; all zero: always the most probable one.
type Sampling struct {
	Temperature float32
	TopK        int32
	Seed        uint64
}

// Generation is used like a bufio.Scanner: Next, Text, and Err at the end.
type Generation struct {
	handle *C.hymba_generation
	event  C.hymba_event
	err    error
}

func (s *Session) Generate(m *Model, sampling Sampling, maxTokens uint64) (*Generation, error) {
	params := C.hymba_sampler_params{
		struct_size: C.sizeof_hymba_sampler_params,
		seed:        C.uint64_t(sampling.Seed),
		temperature: C.float(sampling.Temperature),
		top_k:       C.int32_t(sampling.TopK),
	}
	limits := C.hymba_generation_params{
		struct_size: C.sizeof_hymba_generation_params,
		max_tokens:  C.uint64_t(maxTokens),
	}
	record := newRecord()
	var sampler *C.hymba_sampler
	if err := check(C.hymba_sampler_create(&params, nil, &sampler, record), record); err != nil {
		return nil, err
	}
	defer C.hymba_sampler_release(sampler) // the generation holds it
	g := &Generation{event: C.hymba_event{struct_size: C.sizeof_hymba_event}}
	status := C.hymba_generation_create(s.handle, sampler, C.hymba_model_tokenizer(m.handle),
		&limits, &g.handle, record)
	if err := check(status, record); err != nil {
		return nil, err
	}
	return g, nil
}

// Next is false when nothing more comes; the last text may be what was held back.
func (g *Generation) Next() bool {
	if g.err != nil || g.event.kind == C.HYMBA_EVENT_END {
		return false
	}
	record := newRecord()
	g.err = check(C.hymba_generation_next(g.handle, &g.event, record), record)
	return g.err == nil
}

func (g *Generation) Text() string { return C.GoStringN(g.event.text, C.int(g.event.length)) }

func (g *Generation) Err() error { return g.err }

func (g *Generation) Close() {
	C.hymba_generation_release(g.handle)
	g.handle = nil
}
