/* primes: a sieve, for a compiler to compile. There are 9592 primes below 100000 and their sum is 454396537. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void)
{
	enum { LIMIT = 100000 };
	char *composite = malloc(LIMIT);
	long count = 0, sum = 0, last = 0;

	memset(composite, 0, LIMIT);
	for (long i = 2; i < LIMIT; i++) {
		if (composite[i])
			continue;
		count++;
		sum += last = i;
		for (long j = i * i; j < LIMIT; j += i)
			composite[j] = 1;
	}
	printf("primes: %ld below %d, sum %ld, last %ld\n", count, LIMIT, sum, last);
	free(composite);
	return 0;
}
