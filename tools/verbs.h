/*
 * The verbs of the command. Each takes the arguments behind its name and gives the exit status.
 */
#ifndef TOOLS_VERBS_H
#define TOOLS_VERBS_H

int verb_generate(int argc, char **argv);
int verb_batch(int argc, char **argv);
int verb_chat(int argc, char **argv);
int verb_logits(int argc, char **argv);
int verb_perplexity(int argc, char **argv);
int verb_tokenize(int argc, char **argv);
int verb_detokenize(int argc, char **argv);
int verb_render(int argc, char **argv);
int verb_info(int argc, char **argv);
int verb_init(int argc, char **argv);
int verb_quantize(int argc, char **argv);
int verb_bench(int argc, char **argv);

#endif
