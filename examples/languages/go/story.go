// Two continuations of one beginning, a session in a file, and an error:
//
//	story MODEL_DIRECTORY SESSION_FILE
//	go build
package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"story/hymba"
)

func openWhatIsNotThere() {
	model, err := hymba.Open("no-such-model")
	var failure *hymba.Error
	if errors.As(err, &failure) {
		// Behind the first colon stands what the operating system calls it.
		reason, _, _ := strings.Cut(failure.Message, ":")
		fmt.Printf("%s: %s\n", failure.Name(), reason)
		return
	}
	model.Close()
}

func printReuse(what string, reuse hymba.Reuse) {
	fmt.Printf("%s: %d tokens reused, %d computed\n", what, reuse.Reused, reuse.Computed)
}

func stream(model *hymba.Model, session *hymba.Session, title string, sampling hymba.Sampling,
	maxTokens uint64) error {
	generation, err := session.Generate(model, sampling, maxTokens)
	if err != nil {
		return err
	}
	defer generation.Close()
	fmt.Print(title, ":")
	for generation.Next() {
		fmt.Print(generation.Text())
	}
	fmt.Println()
	return generation.Err()
}

func tell(directory, sessionFile string) error {
	model, err := hymba.Open(directory)
	if err != nil {
		return err
	}
	defer model.Close()
	context, err := model.NewContext()
	if err != nil {
		return err
	}
	defer context.Close()
	session, err := context.NewSession()
	if err != nil {
		return err
	}
	defer session.Close()

	tokens, err := model.Encode("Once upon a time")
	if err != nil {
		return err
	}
	if err := session.Append(tokens); err != nil {
		return err
	}
	fmt.Printf("prompt: %d tokens\n", len(tokens))
	fork, reuse, err := session.Fork()
	if err != nil {
		return err
	}
	defer fork.Close()
	printReuse("fork", reuse)

	sampling := hymba.Sampling{Temperature: 0.8, TopK: 40, Seed: 7}
	if err := stream(model, session, "seed 7", sampling, 40); err != nil {
		return err
	}
	sampling.Seed = 8
	if err := stream(model, fork, "seed 8", sampling, 40); err != nil {
		return err
	}

	if err := session.Save(sessionFile); err != nil {
		return err
	}
	loaded, reuse, err := context.Load(sessionFile)
	if err != nil {
		return err
	}
	defer loaded.Close()
	printReuse("load", reuse)
	// All zero: always the most probable token.
	return stream(model, loaded, "greedy", hymba.Sampling{}, 10)
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: story MODEL_DIRECTORY SESSION_FILE")
		os.Exit(2)
	}
	openWhatIsNotThere()
	if err := tell(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
