/* The syntax tree of a template. */
#ifndef HY_TEXT_TEMPLATE_NODE_H
#define HY_TEXT_TEMPLATE_NODE_H

#include "text/template_value.h"

enum hy_node_kind {
    /* Statements */
    HY_NODE_DATA,      /* string: literal text */
    HY_NODE_PRINT,     /* first: expression */
    HY_NODE_IF,        /* first: list of BRANCH */
    HY_NODE_BRANCH,    /* first: condition, NULL for else; second: list of statements */
    HY_NODE_FOR,       /* string: variable; first: iterable; second: body; third: else */
    HY_NODE_SET,       /* string: variable; first: expression */
    /* Expressions */
    HY_NODE_CONSTANT,  /* constant */
    HY_NODE_NAME,      /* string */
    HY_NODE_LIST,      /* first: list of items, n of them */
    HY_NODE_ATTRIBUTE, /* first: object; string: name */
    HY_NODE_SUBSCRIPT, /* first: object; second: key */
    HY_NODE_SLICE,     /* first: object; second: from, third: to, NULL where absent */
    HY_NODE_CALL,      /* callable; first: what it applies to, NULL for functions; arguments */
    HY_NODE_CHOICE,    /* first if second else third, NULL if absent */
    HY_NODE_AND,
    HY_NODE_OR,
    HY_NODE_NOT,
    HY_NODE_NEGATIVE,
    HY_NODE_POSITIVE,
    HY_NODE_ADD,
    HY_NODE_SUBTRACT,
    HY_NODE_MULTIPLY,
    HY_NODE_FLOOR,     /* // */
    HY_NODE_REMAINDER, /* % */
    HY_NODE_JOIN,      /* ~ */
    HY_NODE_COMPARE,   /* first: expression; second: list of the following, compared in a chain */
    HY_NODE_EQUAL,     /* first: right operand */
    HY_NODE_NOT_EQUAL,
    HY_NODE_LESS,
    HY_NODE_LESS_EQUAL,
    HY_NODE_MORE,
    HY_NODE_MORE_EQUAL,
    HY_NODE_IN,
    HY_NODE_NOT_IN
};

enum { HY_TEMPLATE_MAX_ARGUMENTS = 2 };

struct hy_template_callable;

struct hy_node {
    enum hy_node_kind kind;
    int height;                    /* of the expression tree below */
    size_t position;               /* in the template's source */
    struct hy_node *next;          /* in a list */
    struct hy_node *first, *second, *third;
    struct hy_node *arguments[HY_TEMPLATE_MAX_ARGUMENTS]; /* NULL where not given */
    const struct hy_template_callable *callable;
    struct hy_string string;
    struct hy_value constant;
    size_t n;
};

#endif
