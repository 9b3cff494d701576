# libhymba. `make` builds the libraries and the command; `make help` lists the other targets.

CC ?= cc
CXX ?= c++
AR ?= ar
NM ?= nm
OBJCOPY ?= objcopy
PKG_CONFIG ?= pkg-config
INSTALL ?= install
CFLAGS ?= -O2 -g

PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
INCLUDEDIR ?= $(PREFIX)/include
LIBDIR ?= $(PREFIX)/lib
DESTDIR ?=

# V=1 shows whole command lines.
Q := $(if $(filter 1,$(V)),,@)
say = $(if $(filter 1,$(V)),@:,@printf '  %-7s %s\n' '$(1)' '$(2)')

WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla
SANITIZE_FLAGS := $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-sanitize-recover=all \
	-fno-omit-frame-pointer)
BASE_FLAGS := -std=c11 -D_XOPEN_SOURCE=700 -D_FILE_OFFSET_BITS=64 -ffp-contract=off \
	-fvisibility=hidden -fPIC $(WARNINGS) $(SANITIZE_FLAGS) $(EXTRA_CFLAGS)

# Objects lie in a folder named after the compiler and all flags, so that builds never mix.
COMPILER := $(shell $(CC) --version 2>/dev/null | head -n 1) $(shell $(CC) -dumpmachine 2>/dev/null)
KEY := $(shell printf '%s' '$(CC) $(COMPILER) $(BASE_FLAGS) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS)' \
	| cksum | cut -d' ' -f1)
OBJ := build/$(KEY)

# Deferred, since nothing is installed yet when `make setup` reads this file.
# -ldl: dlopen, for C libraries that have it apart.
LIBS = $(or $(shell $(PKG_CONFIG) --libs jansson zlib 2>/dev/null),-ljansson -lz) -lm -lpthread \
	-ldl
LIB_CFLAGS := $(shell $(PKG_CONFIG) --cflags jansson zlib 2>/dev/null)
CHECK_LIBS = $(or $(shell $(PKG_CONFIG) --libs check 2>/dev/null),-lcheck -lsubunit -lrt) -lpthread

ABI := $(shell sed -n 's/^.define HYMBA_ABI //p' include/hymba.h)
VERSION := $(shell sed -n 's/^.define HYMBA_VERSION_M[AI][JN]OR //p; \
	s/^.define HYMBA_VERSION_PATCH //p' include/hymba.h | paste -s -d. -)
SONAME := libhymba.so.$(ABI)

LIB_SOURCES := $(sort $(wildcard src/base/*.c src/tensor/*.c src/format/*.c src/kernel/*.c \
	src/text/*.c src/backend/*.c src/model/*.c src/state/*.c src/run/*.c src/train/*.c lib/*.c))
ifneq (,$(findstring x86_64,$(COMPILER)))
LIB_SOURCES += $(sort $(wildcard src/kernel/x86/*.c))
endif
ifneq (,$(findstring aarch64,$(COMPILER)))
LIB_SOURCES += $(sort $(wildcard src/kernel/arm/*.c))
endif
TOOL_SOURCES := $(sort $(wildcard tools/*.c))
BENCH_SOURCES := $(sort $(wildcard bench/*.c))
EXAMPLE_SOURCES := $(sort $(wildcard examples/*.c))
TEST_SOURCES := $(sort $(wildcard tests/*/test_*.c))
HELPER_SOURCES := $(filter-out $(TEST_SOURCES),$(sort $(wildcard tests/*/*.c)))
FAULT_SOURCES := $(filter tests/fault/%,$(HELPER_SOURCES))
PLUGIN_SOURCES := $(addprefix tests/backend/,guarded_device.c guarded_ops.c guarded_ranks.c)
SUPPORT_SOURCES := $(filter-out $(FAULT_SOURCES) $(PLUGIN_SOURCES),$(HELPER_SOURCES))
FUZZ_SOURCES := $(filter tests/fuzz/%,$(SUPPORT_SOURCES))
HARNESS_TESTS := $(sort $(wildcard tests/cuda/test_*.cpp))
TEST_SCRIPTS := $(sort $(wildcard tests/*/check_*.sh tests/*/check.sh))

objects = $(patsubst %.c,$(OBJ)/%.o,$(1))
LIB_OBJECTS := $(call objects,$(LIB_SOURCES))
TOOL_OBJECTS := $(call objects,$(TOOL_SOURCES))
EXAMPLES := $(EXAMPLE_SOURCES:%.c=$(OBJ)/%)
BENCHES := $(BENCH_SOURCES:%.c=$(OBJ)/%)
INTERNAL := $(OBJ)/libhymba-internal.a
SUPPORT := $(OBJ)/tests/libsupport.a

# The products of this configuration; build/ and bin/ hold copies of those made last.
PRODUCTS := $(OBJ)/libhymba.a $(OBJ)/$(SONAME) $(OBJ)/hymba

all: $(PRODUCTS)
	@mkdir -p bin
	@cmp -s $(OBJ)/libhymba.a build/libhymba.a || $(INSTALL) -m 644 $(OBJ)/libhymba.a build
	@cmp -s $(OBJ)/$(SONAME) build/$(SONAME) || $(INSTALL) -m 755 $(OBJ)/$(SONAME) build
	@ln -sf $(SONAME) build/libhymba.so
	@cmp -s $(OBJ)/hymba bin/hymba || $(INSTALL) -m 755 $(OBJ)/hymba bin

help:
	@echo 'make                 the libraries into build/, the command into bin/'
	@echo 'make demo            set up, build, and generate text with the demo model'
	@echo 'make check           set up, build, and run all tests; TESTS="..." runs a subset'
	@echo 'make check-long      all tests in their long form, and fuzz, with figures'
	@echo 'make check-asan      the tests under the address and undefined-behaviour sanitizers'
	@echo 'make check-tsan      the tests under the thread sanitizer'
	@echo 'make check-valgrind  the small suites under valgrind'
	@echo 'make check-arm       part of the tests for AArch64, cross-compiled, in an emulator'
	@echo 'make cuda            the plug-in for CUDA devices; CUDA_ARCHS="80 90" for fewer'
	@echo 'make check-cuda      the tests that need a GPU, and what each kernel takes'
	@echo 'make fuzz            each fuzz target for SECONDS'
	@echo 'make coverage        lines of the library that the tests run'
	@echo 'make abi-baseline    write lib/libhymba.abi anew, after a wanted change (docs/abi.md)'
	@echo 'make setup           install what building and testing need (Debian, Ubuntu)'
	@echo 'make benches         the programs of bench/, into build/*/bench'
	@echo 'make install         under PREFIX, LIBDIR, ...; DESTDIR is put before all paths'
	@echo 'make uninstall       remove what install put there'
	@echo 'make clean           remove build/ and bin/'
	@echo 'Variables: CC CFLAGS LDFLAGS EXTRA_CFLAGS SANITIZE PREFIX LIBDIR DESTDIR JOBS V=1'

# ---------------------------------------------------------------- objects

# Only these files may use instructions beyond the base machine; all else runs anywhere. Where
# variables of unrolled loops live is not worth the minutes that gcc would track them.
AVX2_FLAGS := -mavx2 -mfma -mf16c -fno-var-tracking
AVX512_FLAGS := $(AVX2_FLAGS) -mavx512f -mavx512bw -mavx512vl -mavx512dq
ifneq (,$(findstring x86_64,$(COMPILER)))
$(OBJ)/%_avx2.o: ISA_FLAGS = $(AVX2_FLAGS) $(VECTOR_CHECKS)
$(OBJ)/%_avx512.o: ISA_FLAGS = $(AVX512_FLAGS) $(VECTOR_CHECKS)
$(OBJ)/%_avx512_vnni.o: ISA_FLAGS = $(AVX512_FLAGS) -mavx512vnni $(VECTOR_CHECKS)
$(OBJ)/%_avx512_bf16.o: ISA_FLAGS = $(AVX512_FLAGS) -mavx512vnni -mavx512bf16 $(VECTOR_CHECKS)
# Compilers older than the instructions leave these kernels out.
AMX_FLAGS := $(shell $(CC) -mamx-tile -mamx-bf16 -mamx-int8 -E -x c /dev/null >/dev/null 2>&1 \
	&& echo -mamx-tile -mamx-bf16 -mamx-int8)
$(OBJ)/%_amx.o: ISA_FLAGS = $(AVX512_FLAGS) -mavx512vnni -mavx512bf16 $(AMX_FLAGS) \
	$(VECTOR_CHECKS)
endif
$(OBJ)/src/kernel/arm/%_neon_dot.o: ISA_FLAGS = -march=armv8.2-a+dotprod
$(OBJ)/src/kernel/arm/%_neon_bf16.o: ISA_FLAGS = -march=armv8.2-a+dotprod+bf16

# The address sanitizer checks vector loads by calls, which take most of the time of a whole model,
# whose arrays are slices of large blocks without borders that it would see. It is in the vector
# kernels of the tests of kernels, where each array has borders: objects of their own. There and in
# CUDA kernels, whose accesses the harness checks, it finds what three checks of undefined behaviour
# would, and gcc takes minutes to write those, and its own in place of calls, into unrolled loops.
ifneq (,$(findstring address,$(SANITIZE)))
$(OBJ)/src/kernel/x86/%.o: VECTOR_CHECKS = -O2 -fno-sanitize=all
UNROLLED_CHECKS := -O1 -fno-sanitize=null,alignment,object-size \
	$(if $(findstring clang,$(COMPILER)),,--param asan-instrumentation-with-call-threshold=0)
$(OBJ)/checked/%.o $(OBJ)/tests/kernel/amx%.o: VECTOR_CHECKS = $(UNROLLED_CHECKS)
CHECKED_KERNELS := $(patsubst %.c,$(OBJ)/checked/%.o,$(filter src/kernel/x86/%,$(LIB_SOURCES)))
endif

# What lies outside the library sees the public header alone; tests see everything.
$(OBJ)/src/%.o $(OBJ)/checked/%.o $(OBJ)/plain/%.o $(OBJ)/lib/%.o: INCLUDES = -Iinclude -Isrc
$(OBJ)/tools/%.o $(OBJ)/examples/%.o: INCLUDES = -Iinclude
$(OBJ)/bench/%.o: INCLUDES = -Iinclude -Isrc
$(OBJ)/tests/%.o: INCLUDES = -Iinclude -Isrc -Itests/support
$(OBJ)/tests/cuda/test_goldens.o $(OBJ)/tests/cuda/test_graphs.o $(OBJ)/tests/cuda/test_launches.o \
	$(OBJ)/tests/cuda/test_step_bytes.o $(OBJ)/tests/cuda/test_group.o \
	$(OBJ)/tests/cuda/test_public_ranks.o: \
	INCLUDES = -Iinclude -Isrc -Itests/support -Itests/cuda

compile = $(CC) $(INCLUDES) $(LIB_CFLAGS) $(BASE_FLAGS) $(CPPFLAGS) $(CFLAGS) $(ISA_FLAGS) \
	-MMD -MP -c $< -o $@

$(OBJ)/%.o: %.c
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(compile)

$(OBJ)/checked/%.o: %.c
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(compile)

$(OBJ)/plain/%.o: %.c
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(compile)

# The demo model lies in the command, brought in by the assembler.
$(OBJ)/tools/demo_model.o: $(wildcard examples/demo/*)

# ---------------------------------------------------------------- library

# All objects with internal names visible: what unit tests link.
$(INTERNAL): $(LIB_OBJECTS)
	$(call say,AR,$@)
	$(Q)rm -f $@ && $(AR) rcs $@ $(LIB_OBJECTS)

# One relocatable object whose hidden names are local: visibility alone does not protect a program
# that links the archive.
$(OBJ)/libhymba.a: $(LIB_OBJECTS)
	$(call say,AR,$@)
	$(Q)rm -f $@ && $(CC) -r -nostdlib -o $(OBJ)/hymba-whole.o $(LIB_OBJECTS)
	$(Q)$(OBJCOPY) --localize-hidden $(OBJ)/hymba-whole.o $(OBJ)/hymba.o
	$(Q)$(AR) rcs $@ $(OBJ)/hymba.o && rm -f $(OBJ)/hymba-whole.o

$(OBJ)/$(SONAME): $(LIB_OBJECTS) lib/hymba.map
	$(call say,LD,$@)
	$(Q)$(CC) -shared $(CFLAGS) $(SANITIZE_FLAGS) $(LDFLAGS) -Wl,-soname,$(SONAME) \
		-Wl,--version-script=lib/hymba.map -o $@ $(LIB_OBJECTS) $(LIBS)
	@ln -sf $(SONAME) $(OBJ)/libhymba.so

link = $(CC) $(CFLAGS) $(SANITIZE_FLAGS) $(LDFLAGS) -o $@

$(OBJ)/hymba: $(TOOL_OBJECTS) $(OBJ)/libhymba.a
	$(call say,LD,$@)
	$(Q)$(link) $(TOOL_OBJECTS) $(OBJ)/libhymba.a $(LIBS)

$(OBJ)/examples/%: $(OBJ)/examples/%.o $(OBJ)/libhymba.a
	$(call say,LD,$@)
	$(Q)$(link) $< $(OBJ)/libhymba.a $(LIBS)

$(OBJ)/bench/%: $(OBJ)/bench/%.o $(INTERNAL)
	$(call say,LD,$@)
	$(Q)$(link) $< $(INTERNAL) $(LIBS)

# ------------------------------------------------------------------ tests

$(SUPPORT): $(call objects,$(SUPPORT_SOURCES))
	$(Q)rm -f $@ && $(AR) rcs $@ $^

# What tests/fault puts in the place of the system's calls must reach no other program.
$(OBJ)/tests/fault/%: $(OBJ)/tests/fault/%.o $(call objects,$(FAULT_SOURCES)) $(SUPPORT) $(INTERNAL)
	$(call say,LD,$@)
	$(Q)$(link) $< $(call objects,$(FAULT_SOURCES)) $(SUPPORT) $(INTERNAL) $(CHECK_LIBS) $(LIBS)

$(OBJ)/tests/kernel/%: $(OBJ)/tests/kernel/%.o $(CHECKED_KERNELS) $(SUPPORT) $(INTERNAL)
	$(call say,LD,$@)
	$(Q)$(link) $< $(CHECKED_KERNELS) $(SUPPORT) $(INTERNAL) $(CHECK_LIBS) $(LIBS)

$(OBJ)/tests/%: $(OBJ)/tests/%.o $(SUPPORT) $(INTERNAL)
	$(call say,LD,$@)
	$(Q)$(link) $< $(SUPPORT) $(INTERNAL) $(CHECK_LIBS) $(LIBS)

# A plug-in with a device for tests, where a context looks for one: beside the program. Its arrays
# end before pages that may not be touched; its kernels are the same in every build, without
# sanitizers and counters, which would take most of the time.
TEST_PLUGIN := $(OBJ)/tests/backend/libhymba-cuda.so
PLAIN_KERNELS := $(patsubst %.c,$(OBJ)/plain/%.o, \
	$(filter src/kernel/ref_% src/kernel/by_rows.c,$(LIB_SOURCES)))
$(OBJ)/plain/%.o: override CFLAGS := -O2
$(OBJ)/plain/%.o: ISA_FLAGS = -fno-sanitize=all
$(TEST_PLUGIN): $(call objects,$(PLUGIN_SOURCES)) $(PLAIN_KERNELS) $(INTERNAL)
	$(call say,LD,$@)
	$(Q)$(CC) -shared $(CFLAGS) $(SANITIZE_FLAGS) $(LDFLAGS) -o $@ \
		$(call objects,$(PLUGIN_SOURCES)) $(PLAIN_KERNELS) $(INTERNAL) $(LIBS)
$(addprefix $(OBJ)/tests/backend/test_device_,failures speed weights) \
$(addprefix $(OBJ)/tests/backend/,test_device test_device_sampling test_device_scheduler \
	test_group test_group_sessions test_group_session_failures test_ranks): \
	| $(TEST_PLUGIN)

# The CUDA kernels and the plug-in's host code, compiled for this processor under the harness of
# tests/cuda; $(CXX) is of the compiler's family, so that sanitizers agree.
HARNESS_CXX := $(if $(findstring clang,$(CC)),$(subst clang,clang++,$(CC)),$(CXX))
# Which loops are unrolled is nvcc's matter.
HARNESS_FLAGS := -std=c++17 -DHYMBA_HARNESS -ffp-contract=off -fPIC -Wall -Wextra -Wpedantic \
	-Wshadow -Wno-unknown-pragmas -Wno-pass-failed $(SANITIZE_FLAGS) $(EXTRA_CFLAGS)
HARNESS_INCLUDES := -Iinclude -Isrc -Itests/cuda -Icuda -Itests/support
CUDA_SOURCES := $(sort $(wildcard cuda/*.cu))
HARNESS_SOURCES := $(filter-out $(HARNESS_TESTS) tests/cuda/check_cuda.cpp, \
	$(sort $(wildcard tests/cuda/*.cpp))) $(CUDA_SOURCES)
harness_objects = $(patsubst %.cu,$(OBJ)/%.o,$(patsubst %.cpp,$(OBJ)/%.o,$(1)))
CHECK_CUDA := $(addprefix tests/cuda/,check_cuda.cpp compare_ops.cpp compare_bench.cpp \
	compare_copies.cpp compare_rows.cpp compare_products.cpp compare_states.cpp \
	compare_attention.cpp compare_sample.cpp compare_8bit.cpp compare_step.cpp compare_ranks.cpp)
HARNESS := $(OBJ)/tests/libcuda-harness.a
compile_harness = $(HARNESS_CXX) $(HARNESS_INCLUDES) $(HARNESS_FLAGS) $(CPPFLAGS) $(CFLAGS) \
	-MMD -MP

$(OBJ)/cuda/%.o: cuda/%.cu
	$(call say,CXX,$<)
	@mkdir -p $(@D)
	$(Q)$(compile_harness) $(UNROLLED_CHECKS) -x c++ -c $< -o $@

$(OBJ)/tests/cuda/%.o: tests/cuda/%.cpp
	$(call say,CXX,$<)
	@mkdir -p $(@D)
	$(Q)$(compile_harness) $(FAST) -c $< -o $@

# Where whole models spend most of their time under the harness.
$(OBJ)/tests/cuda/blas_products.o: FAST = -O3

$(HARNESS): $(call harness_objects,$(HARNESS_SOURCES))
	$(call say,AR,$@)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$(OBJ)/tests/cuda/%: $(OBJ)/tests/cuda/%.o $(HARNESS) $(SUPPORT) $(INTERNAL)
	$(call say,LD,$@)
	$(Q)$(HARNESS_CXX) $(CFLAGS) $(SANITIZE_FLAGS) $(LDFLAGS) -o $@ $< $(HARNESS) $(SUPPORT) \
		$(INTERNAL) $(CHECK_LIBS) $(LIBS)

# The plug-in with the harness as its device, for whole models.
HARNESS_PLUGIN := $(OBJ)/tests/cuda/libhymba-cuda.so
$(HARNESS_PLUGIN): $(HARNESS) $(INTERNAL)
	$(call say,LD,$@)
	$(Q)$(HARNESS_CXX) -shared $(CFLAGS) $(SANITIZE_FLAGS) $(LDFLAGS) -o $@ \
		-Wl,--whole-archive $(HARNESS) -Wl,--no-whole-archive $(INTERNAL) $(LIBS)

$(OBJ)/tests/cuda/test_goldens $(OBJ)/tests/cuda/test_graphs $(OBJ)/tests/cuda/test_launches \
	$(OBJ)/tests/cuda/test_step_bytes $(OBJ)/tests/cuda/test_group \
	$(OBJ)/tests/cuda/test_public_ranks $(OBJ)/tests/cuda/test_ranks_forward \
	$(OBJ)/tests/cuda/test_ranks_8bit: \
	| $(HARNESS_PLUGIN)

# TESTS: programs and scripts by source path, with or without .c; all of them by default.
TESTS ?= $(TEST_SOURCES) $(HARNESS_TESTS) $(TEST_SCRIPTS)
SCRIPTS_TO_RUN := $(filter %.sh,$(TESTS))
PROGRAMS_TO_RUN := $(patsubst %.cpp,%,$(patsubst %.c,%,$(filter-out %.sh,$(TESTS))))
PROGRAM_FILES := $(PROGRAMS_TO_RUN:%=$(OBJ)/%)
TESTS_TO_RUN := $(PROGRAMS_TO_RUN) $(SCRIPTS_TO_RUN)
# These begin first, so that at the end no long one runs alone.
SLOW_TESTS := $(addprefix tests/,cuda/check_nvcc.sh cuda/check_models.sh cuda/test_goldens \
	cuda/test_ranks_forward cuda/test_ranks_8bit cuda/test_missing_ranks cuda/test_group \
	cuda/test_launches cuda/test_step_bytes languages/check_examples.sh run/test_batch \
	run/test_golden run/test_oracle run/test_calibrate fault/test_faults backend/test_device \
	backend/test_device_failures model/test_quantise hostile/test_memory_limits \
	threads/test_cancel)

# Unit tests need the internal archive alone; all others, and all scripts, may look at the products.
UNIT := $(foreach stage,base tensor format kernel text backend model state run cuda, \
	tests/$(stage)/%)
test-programs: $(PROGRAM_FILES)
examples: $(EXAMPLES)
benches: $(BENCHES)
BEYOND_UNIT := $(filter-out $(UNIT),$(PROGRAMS_TO_RUN)) $(SCRIPTS_TO_RUN)
test-files: $(PROGRAM_FILES) $(if $(strip $(BEYOND_UNIT)),$(PRODUCTS) $(EXAMPLES)) \
	$(if $(filter tests/cuda/check_models.sh,$(SCRIPTS_TO_RUN)),$(HARNESS_PLUGIN))

# Everything that can be built is run, and what cannot be built counts as failed.
JOBS ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
parallel = $(if $(findstring -j,$(MAKEFLAGS)),,-j$(JOBS))
RUN_TESTS = JOBS='$(JOBS)' MAKE='$(MAKE)' CC='$(CC)' CXX='$(CXX)' NM='$(NM)' HYMBA_BUILD='$(OBJ)' \
	HYMBA_COMMAND='$(OBJ)/hymba' HYMBA_FLAGS='$(CFLAGS) $(SANITIZE_FLAGS)' \
	HYMBA_SANITIZE='$(SANITIZE)' tests/support/run.sh \
	$(filter $(SLOW_TESTS),$(TESTS_TO_RUN)) $(filter-out $(SLOW_TESTS),$(TESTS_TO_RUN))

run-tests:
	+@if $(MAKE) --no-print-directory -k $(parallel) test-files; then failed=0; else failed=1; fi; \
		HYMBA_BUILD_FAILED=$$failed HYMBA_WRAPPER='$(WRAPPER)' $(RUN_TESTS)

check:
	@.ci/setup.sh check
	+@$(MAKE) --no-print-directory run-tests

# The long forms of the tests that have one, and the fuzz targets; they print their figures.
check-long:
	@.ci/setup.sh ci
	+@HYMBA_LONG=1 $(MAKE) --no-print-directory run-tests
	+@$(MAKE) --no-print-directory fuzz

# Left out: CUDA kernels one by one, whose accesses the harness checks, and all of which run in
# test_goldens; what counts or compares on whole models the launches that other tests make one by
# one; tiles in plain C; and the count of a model's bytes, whose thousands of tokens take minutes.
ASAN_TESTS ?= $(filter-out %.sh tests/cuda/test_attention% tests/cuda/test_matmul_% \
	tests/cuda/test_rows% $(addprefix tests/cuda/,test_conv_scan.cpp test_sample.cpp \
	test_graphs.c test_group.c test_launches.c test_ranks_8bit.c test_ranks_forward.c \
	test_step_bytes.c) tests/run/test_amx_model.c tests/hostile/test_memory_limits.c,$(TESTS))
check-asan:
	@.ci/setup.sh check
	+@CK_FORK=no $(MAKE) --no-print-directory run-tests \
		SANITIZE=address,undefined CFLAGS='-O1 -g1' TESTS='$(ASAN_TESTS)'

# What never starts a thread has no races; what injects faults or reads hostile files makes the
# calls that tests/run makes, too; and the command's threads are those of tests/run, its signals
# those of batch and chat.
TSAN_TESTS ?= $(filter-out tests/fault/test_faults.c tests/fault/test_kill.c \
	$(addprefix tests/run/,test_amx_model.c test_oracle.c) \
	$(foreach d,tensor format kernel text model state fuzz backend abi cuda hostile tools, \
	tests/$d/%),$(TEST_SOURCES)) tests/text/test_tokenizer.c tests/backend/test_group.c \
	tests/backend/test_meeting.c tests/tools/test_batch.c tests/tools/test_chat_terminal.c
check-tsan:
	@.ci/setup.sh check
	+@CK_FORK=no $(MAKE) --no-print-directory run-tests \
		SANITIZE=thread CFLAGS='-O2 -g1' TESTS='$(TSAN_TESTS)'

# valgrind runs some thirty times slower: only what needs no model of any size, goes through no
# number format and no list of texts whole, and neither draws thousands of tokens nor waits. It has
# no long double of 80 bits, in which the reference of test_sampler_stages computes.
VALGRIND_TESTS ?= $(filter-out tests/model/test_quantise.c tests/tensor/test_dtype.c \
	tests/base/test_thread.c $(addprefix tests/text/test_,sampler.c sampler_chance.c \
	sampler_stages.c text_stream.c tokenizer.c), \
	$(filter $(foreach d,base tensor format text model state,tests/$d/%),$(TEST_SOURCES)))
check-valgrind:
	@.ci/setup.sh valgrind
	+@CK_FORK=no $(MAKE) --no-print-directory run-tests TESTS='$(VALGRIND_TESTS)' \
		WRAPPER='valgrind -q --leak-check=full --error-exitcode=99'

# AArch64, cross-compiled and run by an emulator, which has all instructions with ARM_CPU=max; other
# processors have fewer: `qemu-aarch64 -cpu help` names them. It fails where a process with threads
# forks, and does not limit a process's memory: test_thread needs both. Files are the kernel's.
ARM_CPU ?= max
ARM_TESTS ?= $(filter-out tests/base/test_file.c tests/base/test_thread.c, \
	$(filter $(foreach d,base tensor format kernel state,tests/$d/%),$(TEST_SOURCES))) \
	tests/run/test_golden.c tests/run/check_instruction_sets.sh
ARM := aarch64-linux-gnu
check-arm:
	@.ci/setup.sh arm
	+@PKG_CONFIG_LIBDIR=/usr/lib/$(ARM)/pkgconfig $(MAKE) --no-print-directory run-tests \
		CC=$(ARM)-gcc AR=$(ARM)-ar NM=$(ARM)-nm OBJCOPY=$(ARM)-objcopy EXTRA_CFLAGS=-Werror \
		CFLAGS=-O2 TESTS='$(ARM_TESTS)' WRAPPER='qemu-aarch64 -cpu $(ARM_CPU)'

# Lines of the library that the tests run; fails below what tests/coverage/report.sh names. Counters
# are atomic: gcc may count a loop by one that another thread changes.
coverage:
	@.ci/setup.sh coverage
	+@$(MAKE) --no-print-directory run-coverage CFLAGS='-O1 -g --coverage -fprofile-update=atomic'
# Left out is what goes through the same lines again, many times.
COVERAGE_TESTS ?= $(filter-out tests/fault/test_faults.c tests/hostile/test_memory_limits.c \
	tests/kernel/test_amx.c tests/cuda/% tests/threads/% tests/tools/% \
	$(addprefix tests/run/,test_amx_model.c test_batch.c test_calibrate.c test_golden.c \
	test_oracle.c),$(TEST_SOURCES))
run-coverage:
	@find $(OBJ) -name '*.gcda' -delete 2>/dev/null || true
	+@$(MAKE) --no-print-directory run-tests TESTS='$(COVERAGE_TESTS)'
	@tests/coverage/report.sh $(OBJ)

# The binary interface that tests/abi/check_abi.sh holds the library to; docs/abi.md says when.
abi-baseline:
	@.ci/setup.sh check
	@mkdir -p build
	@tests/abi/baseline.sh > build/libhymba.abi && mv build/libhymba.abi lib/libhymba.abi

setup:
	@.ci/setup.sh check

demo:
	@.ci/setup.sh build
	+@$(MAKE) --no-print-directory $(parallel) all
	@bin/hymba generate -p "Once upon a time" -n 120 --seed 1

# ------------------------------------------------------------------- CUDA

# The plug-in for CUDA devices, with nvcc of CUDA 12 or 13. CUDA_ARCHS: the architectures it has
# code for, "90" or "80 90", by default all of these that nvcc knows; later ones take the last one's
# PTX.
NVCC ?= nvcc
CUDA_ARCHS ?= $(foreach a,80 86 87 89 90 100 120,$(if \
	$(filter compute_$(a),$(shell $(NVCC) --list-gpu-arch 2>/dev/null)),$(a)))
CUDA_OBJ = $(OBJ)/nvcc/$(subst $() $(),-,$(strip $(CUDA_ARCHS)))
CUDA_CODE = $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(a),code=sm_$(a)) \
	-gencode arch=compute_$(lastword $(CUDA_ARCHS)),code=compute_$(lastword $(CUDA_ARCHS))
NVCC_FLAGS := -std=c++17 -O3 -Werror all-warnings -Xcompiler \
	-fPIC,-fvisibility=hidden,-Wall,-Wextra
CUDA_INCLUDES := -Iinclude -Isrc -Icuda
# Where the libraries of this nvcc lie, for the linker and for the plug-in when it is opened.
CUDA_LIBDIR ?= $(abspath $(dir $(realpath $(shell command -v $(NVCC))))/../lib64)
CUDA_PLUGIN = $(CUDA_OBJ)/libhymba-cuda.so

cuda:
	@command -v $(NVCC) >/dev/null 2>&1 || { echo 'make cuda: there is no nvcc: put that of CUDA' \
		'12 or 13 on PATH or name it with NVCC=; the core needs none'; exit 1; }
	+@$(MAKE) --no-print-directory all build-cuda

# What each kernel takes of a multiprocessor stands beside its object, in a file *.o.log.
# The rules with a deferred folder, which costs a call of nvcc, are there for these targets alone.
ifneq (,$(filter cuda-plugin build-cuda build-check-cuda,$(MAKECMDGOALS)))
CUDA_OBJECTS := $(CUDA_SOURCES:cuda/%.cu=$(CUDA_OBJ)/%.o)
cuda-plugin: $(CUDA_PLUGIN)
build-cuda: cuda-plugin
	@mkdir -p build
	@cmp -s $(CUDA_PLUGIN) build/libhymba-cuda.so || $(INSTALL) -m 755 $(CUDA_PLUGIN) build
	@mkdir -p bin && ln -sf ../build/libhymba-cuda.so bin/libhymba-cuda.so

$(CUDA_OBJ)/%.o: cuda/%.cu
	$(call say,NVCC,$<)
	@mkdir -p $(@D)
	$(Q)$(NVCC) $(CUDA_INCLUDES) $(NVCC_FLAGS) $(CUDA_CODE) -Xptxas -v -MMD -MP -c $< -o $@ \
		> $@.log 2>&1 || { cat $@.log; exit 1; }

$(CUDA_PLUGIN): $(CUDA_OBJECTS) $(OBJ)/src/base/status.o cuda/plugin.map
	$(call say,LD,$@)
	$(Q)$(NVCC) -shared -cudart static $(CUDA_CODE) -o $@ $(CUDA_OBJECTS) $(OBJ)/src/base/status.o \
		-Xlinker --version-script=cuda/plugin.map -L$(CUDA_LIBDIR) -Xlinker -rpath=$(CUDA_LIBDIR) \
		-lcublasLt -ldl

# The program knows the plug-in's table alone.
build-check-cuda: build-cuda $(call harness_objects,$(CHECK_CUDA)) $(INTERNAL)
	$(call say,LD,build/check_cuda)
	@mkdir -p build
	$(Q)$(HARNESS_CXX) $(CFLAGS) $(LDFLAGS) -o build/check_cuda \
		$(call harness_objects,$(CHECK_CUDA)) $(INTERNAL) $(CUDA_PLUGIN) \
		-Wl,-rpath,$(abspath $(CUDA_OBJ)) -Wl,-rpath-link,$(CUDA_LIBDIR) $(LIBS)

-include $(CUDA_OBJECTS:.o=.d)
endif

# On a machine with a GPU: every op against generic C, whole models against the CPU, then the time
# of each kernel.
check-cuda: cuda
	+@$(MAKE) --no-print-directory build-check-cuda
	@build/check_cuda
	@HYMBA_COMMAND=bin/hymba HYMBA_TOKENS=64 HYMBA_CUDA_PLUGIN=$(abspath build/libhymba-cuda.so) \
		sh tests/cuda/check_models.sh

# ---------------------------------------------------------------- install

install: all
	$(INSTALL) -d $(DESTDIR)$(INCLUDEDIR) $(DESTDIR)$(LIBDIR)/pkgconfig $(DESTDIR)$(BINDIR)
	$(INSTALL) -m 644 include/hymba.h $(DESTDIR)$(INCLUDEDIR)
	$(INSTALL) -m 644 $(OBJ)/libhymba.a $(DESTDIR)$(LIBDIR)
	$(INSTALL) -m 755 $(OBJ)/$(SONAME) $(DESTDIR)$(LIBDIR)
	ln -sf $(SONAME) $(DESTDIR)$(LIBDIR)/libhymba.so
	$(INSTALL) -m 755 $(OBJ)/hymba $(DESTDIR)$(BINDIR)
	if [ -e build/libhymba-cuda.so ]; then \
		$(INSTALL) -m 755 build/libhymba-cuda.so $(DESTDIR)$(LIBDIR); fi
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR)|' -e 's|@INCLUDEDIR@|$(INCLUDEDIR)|' \
		-e 's|@VERSION@|$(VERSION)|' pkgconfig/hymba.pc.in \
		> $(DESTDIR)$(LIBDIR)/pkgconfig/hymba.pc

uninstall:
	rm -f $(DESTDIR)$(INCLUDEDIR)/hymba.h $(DESTDIR)$(LIBDIR)/libhymba.a \
		$(DESTDIR)$(LIBDIR)/$(SONAME) $(DESTDIR)$(LIBDIR)/libhymba.so \
		$(DESTDIR)$(LIBDIR)/libhymba-cuda.so \
		$(DESTDIR)$(LIBDIR)/pkgconfig/hymba.pc $(DESTDIR)$(BINDIR)/hymba

clean:
	rm -rf build bin

# ---------------------------------------------------------------- fuzzing

# In `make check` each target runs its corpus (tests/fuzz/replay.c); here it is linked with a
# fuzzer's driver instead. tests/fuzz/run.sh sets the variables.
SECONDS ?= 60
FUZZ_BIN ?= $(OBJ)/fuzz
fuzz:
	@.ci/setup.sh ci
	+@MAKE='$(MAKE)' JOBS='$(JOBS)' tests/fuzz/run.sh $(SECONDS) $(FUZZ_NAMES)

$(FUZZ_BIN)/%: $(OBJ)/tests/fuzz/test_%.o \
		$(call objects,$(filter-out tests/fuzz/replay.c,$(FUZZ_SOURCES))) $(INTERNAL)
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(link) $(FUZZ_DRIVER) $^ $(LIBS)

fuzz-programs: $(FUZZ_NAMES:%=$(FUZZ_BIN)/%)

.PHONY: fuzz fuzz-programs
.PHONY: cuda cuda-plugin build-cuda check-cuda build-check-cuda
.PHONY: abi-baseline
.PHONY: all examples benches help check check-long check-asan check-tsan check-valgrind check-arm \
	coverage run-coverage setup demo install uninstall clean run-tests test-files test-programs
.SECONDARY:
.DELETE_ON_ERROR:

-include $(LIB_OBJECTS:.o=.d) $(CHECKED_KERNELS:.o=.d) $(PLAIN_KERNELS:.o=.d) \
	$(TOOL_OBJECTS:.o=.d) $(EXAMPLES:=.d) $(BENCHES:=.d) \
	$(patsubst %.c,$(OBJ)/%.d,$(HELPER_SOURCES) $(TEST_SOURCES)) \
	$(patsubst %.o,%.d,$(call harness_objects,$(HARNESS_SOURCES) $(HARNESS_TESTS)))
