#include "text/exponential.h"

#include <math.h>

static const double LN2 = 0x1.62e42fefa39efp-1;

double hy_exponential(double x)
{
    static const double LOG2_E = 1.4426950408889634, LN2_HIGH = 0x1.62e42feep-1,
                        LN2_LOW = 0x1.a39ef35793c76p-33;
    static const double INVERSE_FACTORIAL[] = {
        1,           1,            1.0 / 2,       1.0 / 6,        1.0 / 24,
        1.0 / 120,   1.0 / 720,    1.0 / 5040,    1.0 / 40320,    1.0 / 362880,
        1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800,
    };
    if (!(x > -708))
        return 0;
    double power = floor(x * LOG2_E + 0.5);
    double rest = (x - power * LN2_HIGH) - power * LN2_LOW; /* within +-0.35 */
    double sum = 0;
    for (int n = 13; n >= 0; n--)
        sum = INVERSE_FACTORIAL[n] + sum * rest;
    return ldexp(sum, (int)power);
}

double hy_logarithm(double x)
{
    static const double SQRT_HALF = 0.70710678118654752;
    int power;
    double fraction = frexp(x, &power);
    if (fraction < SQRT_HALF) {
        fraction *= 2;
        power--;
    }
    /* log f = 2 artanh((f - 1) / (f + 1)), whose argument lies within +-0.172. */
    double argument = (fraction - 1) / (fraction + 1), square = argument * argument, sum = 0;
    for (int n = 23; n >= 1; n -= 2)
        sum = 1.0 / n + sum * square;
    return power * LN2 + 2 * argument * sum;
}
