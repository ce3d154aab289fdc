/*
 * spin [MILLIONS]: counts without a system call, for ever or for so many million turns.
 * Exercises: a guest that makes no exit. Guest time stands still meanwhile, so no timer can interrupt it either.
 */
#include "workload.h"

int main(int count, char **arguments)
{
	unsigned long long left = count > 1 ? strtoull(arguments[1], NULL, 10) * 1000000 : 0;

	printf("spin: silent from here on\n");
	fflush(stdout);
	do
		__asm__ volatile("" : "+r"(left));
	while (--left);
	printf("spin: done\n");
	return 0;
}
