//! Two continuations of one beginning, a session in a file, and an error:
//!
//!     story MODEL_DIRECTORY SESSION_FILE
//!     rustc --edition 2021 -O story.rs $(pkg-config --libs-only-L hymba)
//!
//! LD_LIBRARY_PATH names the library's folder if it is not installed.

mod hymba;

use hymba::{Context, Model, Reuse, Sampling, Session, Tokenizer};
use std::io::{self, Write};

fn open_what_is_not_there() {
    if let Err(error) = Model::open("no-such-model") {
        // Behind the first colon stands what the operating system calls it.
        let reason = error.message.split(':').next().unwrap_or("");
        println!("{}: {}", error.name(), reason);
    }
}

fn print_reuse(what: &str, reuse: &Reuse) {
    println!(
        "{}: {} tokens reused, {} computed",
        what, reuse.reused_tokens, reuse.computed_tokens
    );
}

fn stream(
    session: &mut Session,
    tokenizer: &Tokenizer,
    title: &str,
    sampling: &Sampling,
    max_tokens: u64,
) -> Result<(), Box<dyn std::error::Error>> {
    print!("{}:", title);
    for text in session.generate(tokenizer, sampling, max_tokens)? {
        print!("{}", text?);
        io::stdout().flush()?;
    }
    println!();
    Ok(())
}

fn tell(directory: &str, session_file: &str) -> Result<(), Box<dyn std::error::Error>> {
    let model = Model::open(directory)?;
    let context = Context::new(&model)?;
    let mut session = context.session()?;
    let tokenizer = model.tokenizer();

    let tokens = tokenizer.encode("Once upon a time")?;
    session.append(&tokens)?;
    println!("prompt: {} tokens", tokens.len());
    let (mut fork, reuse) = session.fork()?;
    print_reuse("fork", &reuse);

    let first = Sampling {
        temperature: 0.8,
        top_k: 40,
        seed: 7,
        ..Default::default()
    };
    let second = Sampling { seed: 8, ..first };
    stream(&mut session, &tokenizer, "seed 7", &first, 40)?;
    stream(&mut fork, &tokenizer, "seed 8", &second, 40)?;

    session.save(session_file)?;
    let (mut loaded, reuse) = context.load(session_file)?;
    print_reuse("load", &reuse);
    // All zero: always the most probable token.
    stream(&mut loaded, &tokenizer, "greedy", &Sampling::default(), 10)
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.len() != 3 {
        eprintln!("usage: story MODEL_DIRECTORY SESSION_FILE");
        std::process::exit(2);
    }
    open_what_is_not_there();
    if let Err(error) = tell(&arguments[1], &arguments[2]) {
        eprintln!("{}", error);
        std::process::exit(1);
    }
}
