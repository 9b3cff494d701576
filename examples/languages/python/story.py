"""Two continuations of one beginning, a session in a file, and an error.

    python3 story.py MODEL_DIRECTORY SESSION_FILE

LD_LIBRARY_PATH names the library's folder if it is not installed.
"""

import sys

import hymba


def open_what_is_not_there():
    try:
        hymba.Model("no-such-model").close()
    except hymba.Error as error:
        # Behind the first colon stands what the operating system calls it.
        print("%s: %s" % (error.name, str(error).split(":")[0]))


def print_reuse(what, reuse):
    print("%s: %d tokens reused, %d computed" % (what, reuse.reused_tokens, reuse.computed_tokens))


def print_stream(title, pieces):
    print(title, end=":")
    for text in pieces:
        print(text, end="", flush=True)
    print()


def tell(directory, session_file):
    with hymba.Model(directory) as model, model.tokenizer() as tokenizer, \
            hymba.Context(model) as context, context.session() as session:
        tokens = tokenizer.encode("Once upon a time")
        session.append(tokens)
        print("prompt: %d tokens" % len(tokens))
        fork, reuse = session.fork()
        with fork:
            print_reuse("fork", reuse)
            sampling = {"temperature": 0.8, "top_k": 40}
            print_stream("seed 7", session.generate(tokenizer, 40, seed=7, **sampling))
            print_stream("seed 8", fork.generate(tokenizer, 40, seed=8, **sampling))

        session.save(session_file)
        loaded, reuse = context.load(session_file)
        with loaded:
            print_reuse("load", reuse)
            # No parameters: always the most probable token.
            print_stream("greedy", loaded.generate(tokenizer, 10))


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: story.py MODEL_DIRECTORY SESSION_FILE")
    open_what_is_not_there()
    try:
        tell(*sys.argv[1:])
    except hymba.Error as error:
        sys.exit("%s: %s" % (error.name, error))


if __name__ == "__main__":
    main()
