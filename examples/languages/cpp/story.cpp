/*
 * Two continuations of one beginning, a session in a file, and an error:
 *
 *     story MODEL_DIRECTORY SESSION_FILE
 *     c++ -std=c++17 -o story story.cpp $(pkg-config --cflags --libs hymba)
 */
#include <iostream>
#include <string>

#include "hymba.hpp"

static void open_what_is_not_there()
{
    try {
        hymba::model model("no-such-model");
    } catch (const hymba::error &error) {
        // Behind the first colon stands what the operating system calls it.
        std::string message = error.what();
        std::cout << error.name() << ": " << message.substr(0, message.find(':')) << '\n';
    }
}

static void print_reuse(const char *what, const hymba_reuse_info &reuse)
{
    std::cout << what << ": " << reuse.reused_tokens << " tokens reused, "
              << reuse.computed_tokens << " computed\n";
}

static void stream(hymba::session &session, const hymba::tokenizer &tokenizer, const char *title,
                   const hymba_sampler_params &sampling, std::uint64_t max_tokens)
{
    auto limits = hymba::sized<hymba_generation_params>();
    limits.max_tokens = max_tokens;
    hymba::sampler sampler(sampling);
    hymba::generation generation(session, sampler, tokenizer, limits);
    std::cout << title << ':';
    while (generation.next())
        std::cout << generation.text() << std::flush;
    std::cout << '\n';
}

static void tell(const char *directory, const char *session_file)
{
    hymba::model model(directory);
    hymba::context context(model);
    hymba::session session(context);
    hymba::tokenizer tokenizer = model.tokenizer();

    auto tokens = tokenizer.encode("Once upon a time");
    session.append(tokens);
    std::cout << "prompt: " << tokens.size() << " tokens\n";
    auto [fork, fork_reuse] = session.fork();
    print_reuse("fork", fork_reuse);

    auto sampling = hymba::sized<hymba_sampler_params>();
    sampling.temperature = 0.8f;
    sampling.top_k = 40;
    sampling.seed = 7;
    stream(session, tokenizer, "seed 7", sampling, 40);
    sampling.seed = 8;
    stream(fork, tokenizer, "seed 8", sampling, 40);

    session.save(session_file);
    auto [loaded, load_reuse] = hymba::session::load(context, session_file);
    print_reuse("load", load_reuse);
    // All zero: always the most probable token.
    stream(loaded, tokenizer, "greedy", hymba::sized<hymba_sampler_params>(), 10);
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        std::cerr << "usage: story MODEL_DIRECTORY SESSION_FILE\n";
        return 2;
    }
    try {
        open_what_is_not_there();
        tell(argv[1], argv[2]);
    } catch (const hymba::error &error) {
        std::cerr << error.name() << ": " << error.what() << '\n';
        return 1;
    } catch (const std::exception &error) {
        std::cerr << error.what() << '\n';
        return 1;
    }
}
