#!/usr/bin/env python3
"""Writes template_cases.jsonl: chat templates of our own with what Jinja2 makes of them.

Each line is an object with "template" and "variables" (an object, or the name of one that an
earlier line defined with "name") and either "text", the rendered text, or "raises": true where
rendering raises an exception. The environment is set up as the transformers
library sets it up for chat templates (sandboxed, trim_blocks, lstrip_blocks, json.dumps without
ensure_ascii as tojson). Needs the package jinja2; run it in this folder.
"""
import json
import math

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
environment.globals["raise_exception"] = raise_exception

CHAT = {
    "messages": [
        {"role": "system", "content": "  Be brief.\n"},
        {"role": "user", "content": "Wie geht's? \u00e4\u00f6\u00fc \U0001f600"},
        {"role": "assistant", "content": "\tGut.\u00a0\u3000"},
        {"role": "user", "content": "\u2003Ta \u2028"},
    ],
    "add_generation_prompt": True,
    "tools": [{"name": "f", "parameters": {"type": "object", "limit": 1e-7, "many": [1, 2.0, None, True]}}],
    "contexts": ["one", " two "],
    "empty": [],
    "nothing": None,
    "bos": "<b>",
}
VALUES = {
    "n": 7, "z": 0, "neg": -7, "big": 9007199254740993, "r": 0.5, "r0": 0.0, "whole": 7.0, "huge": 9007199254740992.0,
    "s": "h\u00e9llo w\u00f6rld", "e": "", "a": [1, "two", None, [3, 4], {"k": "v"}], "o": {"x": 1, "items": [1], "y": {"z": "deep"}},
    "o2": {"y": {"z": "deep"}, "items": [1], "x": 1.0}, "t": True, "f": False, "none_value": None, "spaces": " \t\n a b \u2003 c\x1c\x85 ",
}

CASES = [{"name": "chat", "variables": CHAT}, {"name": "values", "variables": VALUES}]


def case(template, variables=VALUES):
    name = "chat" if variables is CHAT else "values" if variables is VALUES else variables
    line = {"template": template, "variables": name}
    try:
        line["text"] = environment.from_string(template).render(**variables)
    except jinja2.exceptions.TemplateSyntaxError:
        raise
    except Exception:
        line["raises"] = True
    CASES.append(line)


# Whole chats, in several manners of writing.
case("{{ bos }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'].strip() }}{% if not loop.last %}{{ '\\n' }}{% endif %}"
     "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}", CHAT)
case("""{%- if messages[0].role == 'system' -%}
    {%- set head = messages[0].content | trim -%}
    {%- set rest = messages[1:] -%}
{%- else -%}
    {%- set rest = messages -%}
{%- endif -%}
{{ bos }}
{%- for message in rest %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('roles must alternate') }}
    {%- endif -%}
    {%- if loop.first and head is defined -%}
        {{ '<<' ~ head ~ '>> ' }}
    {%- endif -%}
    {{- message.role + ': ' + message.content | trim + '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- 'assistant: ' -}}
{%- endif -%}
""", CHAT)
case("""{% for message in messages %}
    {# which of them #}
    {% if message.role == 'system' %}
S {{ message.content }}
    {% elif message.role == 'user' %}
U {{ message.content }}
    {% else %}
A {{ message.content }}
    {% endif %}
{% endfor %}
end
""", CHAT)
case("{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}{% for c in contexts %}{{ loop.index }}/{{ loop.length }} {{ c|trim }};{% endfor %}", CHAT)
case("{% if tools or contexts %}yes{% endif %}{% if empty %}no{% endif %}{% if nothing %}no{% endif %}{% if undefined_thing %}no{% endif %}", CHAT)
case("{{ messages[0]['missing'] }}|{{ messages[9] }}|{{ messages[-1].role }}|{{ missing }}|", CHAT)
case("{{ messages[0]['missing'].strip() }}", CHAT)
case("{{ missing.attribute }}", CHAT)
case("{{ missing['x'] }}", CHAT)
case("{{ missing + 'x' }}", CHAT)
case("{{ 'x' + missing }}", CHAT)
case("{{ messages[1].content.missing_method_name }}|", CHAT)
case("{{ raise_exception('no: ' + messages[0].role) }}", CHAT)
case("{% if messages[0]['role'] == 'system' and messages | length > 2 %}{{ messages | length }}{% endif %}", CHAT)

# White space.
for begin, end in (("{%", "%}"), ("{%-", "%}"), ("{%", "-%}"), ("{%-", "-%}"), ("{%+", "%}"), ("{%", "+%}"), ("{%+", "+%}")):
    for before in ("", "  ", "a ", "a\n  ", "\n \n\t", "a \u2003\n\u2003"):
        for after in ("", " ", "\n", "\n\n  b", "  \n b", " \u3000\x1cb"):
            case(f"{before}{begin} if true {end}{after}x{before}{begin} endif {end}{after}")
for begin, end in (("{{", "}}"), ("{{-", "}}"), ("{{", "-}}"), ("{{-", "-}}"), ("{{+", "}}")):
    for before in ("", "  ", "a\n  "):
        for after in ("", "\n", " \n  b", "\n\n"):
            case(f"{before}{begin} 'v' {end}{after}")
for begin, end in (("{#", "#}"), ("{#-", "#}"), ("{#", "-#}"), ("{#-", "-#}"), ("{#+", "+#}"), ("{#", "+#}")):
    for before in ("", "  ", "a\n  ", "a  "):
        for after in ("", "\n", " \n  b", "\n\n"):
            case(f"{before}{begin} {{{{ no }}}} {{% if %}} {end}{after}{before}{{% if true %}}{after}y{{% endif %}}")
for text in ("", "\n", "\n\n", "a\n", "a\r\nb\r\n", "a\rb\r", "{{ 'x' }}\n", "{{ 'x\r\ny' }}\r\n", "  {% if true %}\r\n  x\r\n  {% endif %}\r\n",
             "a{# c #}\n{# d #}\nb", "  {# c #}  {# d #}\n  e", "{#-#}", "{# - #}x", "{#--#} x", "x {#- a -#} y", "{ { % } }", "{{ '{{' }}", "{{ '}}' }}{{ '%}' }}",
             "{% set x = '%}' %}{{ x }}", "{{- -1 }}", "{{-1}}", "{{+1}}", "{{ 1 -}} x", "{", "}}", "%}", "#}", "a { b", "{{'a'}}{{'b'}}",
             "{{\n'a'\n}}", "{{\u2003'a'\u3000}}", "{%if true%}a{%endif%}", "\u00e9\n{%- if true %} \u00e9 {% endif -%} \n\u00e9"):
    case(text)

# Loops and scopes.
case("{% for i in a %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }};{% endfor %}")
case("{% for i in e %}x{% else %}none{% endfor %}{% for i in [] %}x{% endfor %}|{% for i in missing %}x{% else %}none{% endfor %}{% for i in [1] %}x{% else %}no{% endfor %}")
case("{% for k in o %}{{ k }},{% endfor %}{% for c in s %}{{ c }}.{% endfor %}")
case("{% for i in n %}x{% endfor %}")
case("{% for i in none_value %}x{% endfor %}")
case("{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = i + 10 %}{{ x }} {% endfor %}{{ x }}")
case("{% set x = 1 %}{% if t %}{% set x = 2 %}{% endif %}{{ x }}{% if f %}{% set y = 2 %}{% endif %}[{{ y }}]")
case("{% for i in [1, 2] %}{% for j in [3, 4] %}{{ loop.index }}{{ i }}{{ j }} {% endfor %}{{ loop.index }}{% endfor %}{{ i }}{{ loop }}")
case("{% for x in [1, 2] %}{% if loop.first %}{% set y = 'a' %}{% endif %}{{ y }}|{% endfor %}")
case("{% for i in [1, 2] %}{% for j in [loop.index, 9] %}{{ j }}{% endfor %}{% endfor %}")
case("{% for i in [1, 2, 3] %}{% set i = i * 2 %}{{ i }}{% endfor %}{% set n = 1 %}{{ n }}")
case("{% for i in [[1, 2], [3]] %}{% for j in i %}{{ j }}{% set k = j %}{% endfor %}{{ k }}{% endfor %}")
case("{% set a = 1 %}{% set a = a + 1 %}{% set a = a + a %}{{ a }}")
case("{% if f %}1{% elif z %}2{% elif none_value %}3{% elif n %}4{% else %}5{% endif %}{% if f %}{% else %}e{% endif %}{% if t %}{% endif %}")

# Expressions: literals.
for text in ("'a' 'b' \"c\"", "'it\\'s'", '"q\\"q"', "'\\n\\t\\r\\\\'", "'\\x41\\u00e9\\U0001F600\\101\\0'", "'\\q\\ '", "'\\\n'", "'\\a\\b\\f\\v' | tojson",
             "'\u00e9\U0001f600'", "0", "0", "00", "123", "9223372036854775807", "true", "True", "false", "False", "none", "None", "-5", "+5", "- -5",
             "[1, 'a', [none]] | tojson", "[1, 2,] | tojson", "[] | tojson", "(1)", "((('x')))"):
    case("{{ " + text + " }}")
# Operators.
for text in ("1 + 2 * 3", "(1 + 2) * 3", "7 // 2", "-7 // 2", "7 // -2", "7 % 3", "-7 % 3", "7 % -3", "-7 % -7", "1 - 2 - 3", "2 * 3 % 4", "t + 1", "t + t", "-t", "1 // 0", "1 % 0",
             "'a' + 'b' ~ 'c' + 'd'", "1 ~ 2", "'x' ~ 1 ~ none_value ~ t ~ r ~ missing",
             "'a' + 1", "1 + 'a'", "none_value + 'a'", "'a' + none_value", "a + 1", "-'a'", "-missing", "- r", "-r0",
             "1 == 1", "1 == '1'", "n == whole", "t == 1", "f == 0", "t == n", "big == huge", "big > huge", "big >= huge", "huge < big", "r < n", "n > r", "r == r0", "z < r", "z == r", "r > z", "1 > r", "-r < z", "z > -r", "-r == z", "none_value == none", "none == false",
             "missing == missing2", "missing == none", "missing == ''", "missing != 1", "s == s", "'a' < 'b'", "'a' < 'B'", "'\u00e9' > 'z'", "'\uffff' < '\U00010000'", "'' < 'a'", "'a' <= 'a'", "'ab' > 'a'", "1 < 2 < 3", "1 < 3 < 2", "3 > 2 > 1 > 0", "1 == 1 == 1",
             "1 < 'a'", "none < 1", "missing < 1", "a == a", "o == o2", "o == a", "[1, [2, t]] == [1, [2, 1]]", "[1] == [1, 2]", "a == [1, 'two', none, [3, 4], 5]", "[] == []",
             "'l' in s", "'x' in s", "'' in s", "'ll\u00f6' in s", "'lo w\u00f6' in s", "1 in s", "1 in a", "'two' in a", "'three' in a", "none in a", "[3, 4] in a", "'x' in o", "'q' in o", "'q' not in o", "1 in o", "a in o", "1 in missing", "1 in n", "missing in a", "missing in 'abc'", "1 not in a", "not 1 in a", "1 in a",
             "not t", "not not t", "not missing", "t and n", "t and z and n", "f or n", "z or e or 'x'", "missing or 'd'", "n and missing", "not t or t", "not (t or t)", "t or missing.x", "f and missing.x", "f or missing.x",
             "'y' if t else 'n'", "'y' if f else 'n'", "'y' if f", "1 if f else 2 if f else 3", "1 if t if f else 5", "('y' if t else 'n') + 'x'", "'y' if t else missing.x",
             "s[0]", "s[1]", "s[-1]", "s[99]", "s[1:3]", "s[:2]", "s[2:]", "s[:]", "s[-3:]", "s[:-3]", "s[5:2]", "s[-99:99]", "s[none:2]", "a[1:3] | tojson", "a[-2:] | tojson", "a[5:] | tojson", "a[0]", "a[t]", "a['x']", "a[r]", "a[none]", "a.0", "a.3.1", "a[3][1]", "o[1]", "o['x']", "o.x", "o.y.z", "o['y']['z']", "o['items'] | tojson", "o.q", "o['q']", "o.q.r", "o[a]", "n[0]", "none_value.x", "none_value['x']", "none_value[0]", "n[1:]", "o[1:]", "missing[1:]", "missing[0]", "s['x']", "s.x_y", "s[missing]", "o[missing]", "o[none]",
             "a[4].k", "o | length", "a | length", "s | length", "e | length", "missing | length", "n | length", "none_value | length", "a | count"):
    case("{{ " + text + " }}")
# Filters, tests, methods.
for text in ("spaces | trim", "spaces | trim | length", "missing | trim", "none_value | trim", "n | trim", "'xxaxx' | trim('x')", "'xxaxx' | trim(chars='x')", "'abcba' | trim('ba')", "'\u00e9a\u00e9' | trim('\u00e9')", "'a' | trim(none)",
             "missing | default", "missing | default('d')", "missing | d('d')", "e | default('d')", "e | default('d', true)", "e | default('d', boolean=true)", "e | default(boolean=true, default_value='k')", "n | default('d')", "z | default('d', true)", "none_value | default('d')", "none_value | default('d', true)", "missing | default(boolean=true) is defined", "o.q | default('d')", "missing.x | default('d')", "missing | default(none)",
             "'aBc' | upper", "'aBc' | lower", "n | upper", "missing | upper", "t | lower", "n | string + 'x'", "r | string", "s | string", "n | string | length",
             "'a' + 'b ' | trim + 'c'", "('a' + 'b ') | trim + 'c'", "n | string",
             "spaces.strip()", "spaces.lstrip()", "spaces.rstrip()", "'xxaxx'.strip('x')", "'xxaxx'.lstrip('x')", "'xxaxx'.rstrip('x')", "'abcba'.strip('ab')", "'\u00e9a\u00e9'.strip('\u00e9')", "'a'.strip(none)", "''.strip()", "' \u200b '.strip() | length", "none_value.strip()", "missing.strip()", "a.strip()", "o.strip()", "'a'.strip(1)",
             "s.startswith('h')", "s.startswith('\u00e9')", "s.startswith('')", "s.startswith(s)", "s.startswith(s + 'x')", "s.endswith('d')", "s.endswith('\u00f6rld')", "s.endswith('x')", "s.startswith(1)", "n.startswith('1')", "'aBc'.upper()", "'aBc'.lower()",
             "'a,b,,c'.split(',') | tojson", "',a,'.split(',') | tojson", "''.split(',') | tojson", "'abc'.split('abc') | tojson", "'a--b--c'.split('--')[-1]", "'aaaa'.split('aa') | tojson", "spaces.split() | tojson", "'  '.split() | tojson", "''.split() | tojson", "'a b'.split(none) | tojson", "'a b'.split(sep=' ') | tojson" , "'a'.split('') | tojson", "'<t>x</t>y'.split('</t>')[0].split('<t>')[1]", "'\u00e9 \u2003\u00e9'.split() | tojson",
             "o.get('x')", "o.get('q')", "o.get('q', 'd')", "o.get('x', 'd')", "o.get(1)", "o.get(a)", "missing.get('x')", "a.get('x')", "o.get('y').get('z')", "o.get('q') is none",
             "missing is defined", "missing is not defined", "n is defined", "none_value is defined", "o.q is defined", "missing is undefined", "n is undefined", "missing.x is defined",
             "none_value is none", "n is none", "missing is none", "n is not none", "none is none", "s is string", "n is string", "missing is string", "e is string",
             "o is mapping", "a is mapping", "s is mapping", "missing is mapping", "a is sequence", "o is sequence", "s is sequence", "n is sequence", "missing is sequence", "none_value is sequence", "a is iterable", "n is iterable", "o is iterable", "s is iterable", "missing is iterable",
             "n is number", "r is number", "t is number", "s is number", "n is integer", "t is integer", "r is integer", "whole is integer", "r is float", "n is float", "t is boolean", "n is boolean", "z is boolean", "t is true", "n is true", "f is false", "z is false", "f is true", "none is false",
             "not n is defined", "not missing is defined", "n is defined and s is string", "n is defined or missing.x", "'a' if n is defined else 'b'", "1 + 1 is number", "n is number == true", "s is string and not (s is not string)", "[n is defined, n is none] | tojson"):
    case("{{ " + text + " }}")
for text in ("n", "z", "neg", "big", "r", "r0", "whole", "huge", "s", "e", "t", "f", "none_value", "missing"):
    case("[{{ " + text + " }}]{% if " + text + " %}true{% else %}false{% endif %}")

# JSON text.
STRANGE = {"text": "".join(chr(i) for i in range(1, 160)) + "\u2028\u2029\ufeff\U0001f600<>&'\"/", "nul": "a\0b", "key \"q\" \u00e9": {"": []},
           "deep": [[[[[[]]]]], {}, {"a": {"b": {"c": [1, {"d": None}]}}}], "b": [True, False, None], "integers": [0, -1, 9223372036854775807, -9223372036854775808]}
case("{{ strange | tojson }}", {"strange": STRANGE})
case("{{ strange.text }}{{ strange.nul }}{{ strange.nul | length }}", {"strange": STRANGE})
REALS = [0.0, -0.0, 1.0, -1.5, 0.1, 0.3, 1e-4, 1e-5, 1e-7, 1.5e-7, 123456789.0, 1e15, 1e16, 1e17, 1.5e16, 123456789012345680.0, 1e22, 1e23, 1e100, 1e308, 1.7976931348623157e308, 5e-324, 2.2250738585072014e-308,
         0.1 + 0.2, 1 / 3, 2 / 3, 9007199254740993.0, 1e-10, 100.0, 99999.99999, 0.00012345, 1.0000000000000002, 7.120236347223045e-307, 5.641232424577593e-278, 2.0 ** -44, 2.0 ** 60, 2.0 ** 70, 2.0 ** -1022, 4.35, 1e21, 12345678901234567890.0]
REALS += [math.ldexp(1.0, e) for e in range(-1070, 1024, 41)]
case("{{ reals | tojson }}", {"reals": REALS})
case("{% for x in reals %}{{ x }} {{ x ~ '' }};{% endfor %}", {"reals": REALS})
case("{{ missing | tojson }}")
case("{{ [1, missing] | tojson }}")
case("{{ a[1:4] | tojson }}{{ [a, o, s, t, none] | tojson }}")

# All white space, and some characters that are none.
SPACE = [chr(i) for i in range(0x110000) if chr(i).isspace()]
NOT_SPACE = ["\x1b", "\x7f", "\u0080", "\u0084", "\u00ad", "\u180e", "\u200b", "\u200c", "\u2060", "\ufeff", "\u303f", "\U0001f600"]
for character in SPACE + NOT_SPACE:
    case("{{ text.strip() | length }}{{ text | trim | tojson }}{{ text.split() | tojson }}", {"text": character + "a" + character + "b" + character})

with open("template_cases.jsonl", "w", encoding="utf-8") as file:
    for line in CASES:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
