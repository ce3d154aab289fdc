/*
 * doubles: ten thousand numbers of every magnitude, printed in every way that shows all of their bits. The text's SHA-256
 * is that of the same program on any IEEE 754 machine. Plain C, so that small compilers take it too.
 *
 *   doubles        all of the text
 *   doubles N      the first N numbers
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t state = 0x5c41be;

/* splitmix64 (Steele, Lea, Flood 2014) */
static uint64_t next(void)
{
	uint64_t z = state += 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

int main(int count, char **arguments)
{
	int numbers = count > 1 ? atoi(arguments[1]) : 10000;
	double sum = 0;

	for (int i = 0; i < numbers; i++) {
		uint64_t bits = next();
		double value, again;
		char text[64];

		if ((bits >> 52 & 0x7ff) == 0x7ff)
			bits ^= (uint64_t)1 << 62; /* no infinities, no NaNs: their texts say nothing of their bits */
		if (i % 8 == 0)
			bits &= ~((uint64_t)0x7ff << 52); /* a denormal */
		if (i % 8 == 1)
			bits = (bits & 0x800fffffffffffff) | (0x3e0 + (bits >> 52 & 0x3f)) << 52; /* about 1 */
		memcpy(&value, &bits, sizeof value);
		snprintf(text, sizeof text, "%.17g", value);
		again = strtod(text, NULL);
		if (memcmp(&again, &value, sizeof value) != 0) {
			printf("%s is read as %.17g\n", text, again);
			return 1;
		}
		if (i % 8 == 1)
			sum = sum / 3 + value * value - (float)value;
		printf("%s %a %.21Lg %.3f %lld\n", text, value, (long double)value * 3 / 7, i % 8 == 1 ? value : 0.0,
		       (long long)(i % 8 == 1 ? value * 1e9 : 0.0));
	}
	printf("%.17g\n", sum);
	return 0;
}
