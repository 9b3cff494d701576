/*
 * What of hymba.h the program beside this file uses, as C++17: handles that release themselves,
 * and exceptions in place of statuses. Copy it and add what you need.
 *
 * No exception may pass through the library, so a hook or callback given to it must be noexcept.
 */
#ifndef HYMBA_HPP
#define HYMBA_HPP

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hymba.h"

namespace hymba {

class error : public std::runtime_error {
public:
    error(hymba_status status, const hymba_error &record)
        : std::runtime_error(record.message), status_(status)
    {
    }
    hymba_status status() const noexcept { return status_; }
    const char *name() const noexcept { return hymba_status_name(status_); }

private:
    hymba_status status_;
};

/* A struct of hymba.h with its size set and all else zero, i.e. with defaults. */
template <class Struct> Struct sized() noexcept
{
    Struct result{};
    result.struct_size = sizeof result;
    return result;
}

/* Calls a function whose last argument is a hymba_error, and throws what it reports. */
template <class Function, class... Arguments> void call(Function function, Arguments... arguments)
{
    hymba_error record = sized<hymba_error>();
    if (hymba_status status = function(arguments..., &record); status != HYMBA_OK)
        throw error(status, record);
}

template <auto release> struct releaser {
    template <class Object> void operator()(Object *object) const noexcept { release(object); }
};

/* Children hold their parents, so handles may be destroyed in any order. */
template <class Object, auto release> using handle = std::unique_ptr<Object, releaser<release>>;

class tokenizer {
public:
    explicit tokenizer(hymba_tokenizer *borrowed) : handle_(hymba_tokenizer_retain(borrowed)) {}
    hymba_tokenizer *get() const noexcept { return handle_.get(); }

    std::vector<std::int32_t> encode(std::string_view text) const
    {
        std::uint32_t flags = hymba_tokenizer_adds_bos(get()) ? HYMBA_ENCODE_BOS : 0;
        std::size_t needed = 0;
        call(hymba_tokenizer_encode, get(), text.data(), text.size(), flags, nullptr,
             std::size_t{0}, &needed);
        std::vector<std::int32_t> tokens(needed);
        call(hymba_tokenizer_encode, get(), text.data(), text.size(), flags, tokens.data(),
             tokens.size(), &needed);
        return tokens;
    }

private:
    handle<hymba_tokenizer, hymba_tokenizer_release> handle_;
};

class model {
public:
    explicit model(const std::string &directory)
    {
        hymba_model *opened = nullptr;
        call(hymba_model_open, directory.c_str(), nullptr, &opened);
        handle_.reset(opened);
    }
    hymba_model *get() const noexcept { return handle_.get(); }
    hymba::tokenizer tokenizer() const { return hymba::tokenizer(hymba_model_tokenizer(get())); }

private:
    handle<hymba_model, hymba_model_release> handle_;
};

class context {
public:
    explicit context(const model &model)
    {
        hymba_context *created = nullptr;
        call(hymba_context_create, model.get(), nullptr, &created);
        handle_.reset(created);
    }
    hymba_context *get() const noexcept { return handle_.get(); }

private:
    handle<hymba_context, hymba_context_release> handle_;
};

class session {
public:
    explicit session(const context &context)
    {
        hymba_session *created = nullptr;
        call(hymba_session_create, context.get(), nullptr, &created);
        handle_.reset(created);
    }
    hymba_session *get() const noexcept { return handle_.get(); }

    void append(const std::vector<std::int32_t> &tokens)
    {
        call(hymba_session_append, get(), tokens.data(), tokens.size(),
             std::int32_t{HYMBA_LOGITS_LAST});
    }

    std::pair<session, hymba_reuse_info> fork()
    {
        hymba_session *made = nullptr;
        auto reuse = sized<hymba_reuse_info>();
        call(hymba_session_fork, get(), &made, &reuse);
        return {session(made), reuse};
    }

    void save(const std::string &path)
    {
        call(hymba_session_save, get(), nullptr, path.c_str(), nullptr);
    }

    static std::pair<session, hymba_reuse_info> load(const context &context,
                                                     const std::string &path)
    {
        hymba_session *loaded = nullptr;
        auto reuse = sized<hymba_reuse_info>();
        call(hymba_session_load, context.get(), path.c_str(), nullptr, &loaded, nullptr, &reuse);
        return {session(loaded), reuse};
    }

private:
    explicit session(hymba_session *owned) noexcept : handle_(owned) {}
    handle<hymba_session, hymba_session_release> handle_;
};

class sampler {
public:
    explicit sampler(const hymba_sampler_params &params)
    {
        hymba_sampler *created = nullptr;
        call(hymba_sampler_create, &params, nullptr, &created);
        handle_.reset(created);
    }
    hymba_sampler *get() const noexcept { return handle_.get(); }

private:
    handle<hymba_sampler, hymba_sampler_release> handle_;
};

/* for (generation story(...); story.next();) std::cout << story.text(); */
class generation {
public:
    generation(session &session, sampler &sampler, const tokenizer &tokenizer,
               const hymba_generation_params &params)
    {
        hymba_generation *created = nullptr;
        call(hymba_generation_create, session.get(), sampler.get(), tokenizer.get(), &params,
             &created);
        handle_.reset(created);
    }

    /* False when nothing more comes. The last event may bring text that was held back. */
    bool next()
    {
        if (event_.kind == HYMBA_EVENT_END)
            return false;
        call(hymba_generation_next, handle_.get(), &event_);
        return true;
    }

    /* Whole UTF-8 characters; valid until next. */
    std::string_view text() const noexcept { return {event_.text, event_.length}; }

private:
    handle<hymba_generation, hymba_generation_release> handle_;
    hymba_event event_ = sized<hymba_event>();
};

} // namespace hymba

#endif // HYMBA_HPP
