# C without comments and without what stands in strings; lines keep their numbers.
{
    line = ""
    n = length($0)
    for (i = 1; i <= n; i++) {
        character = substr($0, i, 1)
        two = substr($0, i, 2)
        if (comment) {
            if (two == "*/") { comment = 0; i++ }
        } else if (quote != "") {
            if (character == "\\") i++
            else if (character == quote) { quote = ""; line = line character }
        } else if (two == "/*") {
            comment = 1; i++
        } else if (two == "//") {
            break
        } else {
            if (character == "\"" || character == "'") quote = character
            line = line character
        }
    }
    if (!comment) quote = ""
    print line
}
