# What a header declares besides functions, in its order: "struct NAME" for each struct with a body,
# "field NAME FIELD" for each of its fields, "constant NAME" for each enumerator and each macro with
# a value but those of the version. Written for hymba.h: nothing nested, one field a declaration.

# Comments become one space; they may span lines.
{
    line = $0
    code = ""
    while (line != "") {
        if (inside) {
            end = index(line, "*/")
            if (!end)
                break
            line = substr(line, end + 2)
            inside = 0
        } else {
            start = index(line, "/*")
            code = code (start ? substr(line, 1, start - 1) " " : line)
            line = start ? substr(line, start + 2) : ""
            inside = start > 0
        }
    }
    if (code ~ /^#define HYMBA_[A-Z_]+ +[^ ]/ && code !~ /HYMBA_(API|VERSION)/) {
        split(code, words, " ")
        print "constant " words[2]
    }
    if (code !~ /^#/)
        text = text " " code
}

# The name a declaration declares: of a function pointer what stands in (*name), otherwise the last
# word before an array's bracket.
function declared(declaration) {
    if (match(declaration, /\( *\* *[a-z_]+ *\)/)) {
        declaration = substr(declaration, RSTART, RLENGTH)
        gsub(/[^a-z_]/, "", declaration)
        return declaration
    }
    sub(/ *\[.*/, "", declaration)
    sub(/ *$/, "", declaration)
    sub(/.*[^a-zA-Z0-9_]/, "", declaration)
    return declaration
}

END {
    while (match(text, /(struct hymba_[a-z_]+|enum) *{[^}]*}/)) {
        block = substr(text, RSTART, RLENGTH)
        text = substr(text, RSTART + RLENGTH)
        body = block
        sub(/^[^{]*{/, "", body)
        sub(/}$/, "", body)
        if (block ~ /^enum/) {
            n = split(body, parts, ",")
            for (i = 1; i <= n; i++)
                if (match(parts[i], /HYMBA_[A-Z0-9_]+/))
                    print "constant " substr(parts[i], RSTART, RLENGTH)
            continue
        }
        split(block, words, /[ {]+/)
        name = words[2]
        print "struct " name
        n = split(body, parts, ";")
        for (i = 1; i <= n; i++)
            if (parts[i] ~ /[a-z]/)
                print "field " name " " declared(parts[i])
    }
}
