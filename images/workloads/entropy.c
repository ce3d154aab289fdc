/*
 * entropy: prints random bytes from everywhere a program gets them.
 * Exercises: getrandom, /dev/urandom, the kernel's AT_RANDOM, address-space layout. All follow from the machine's seed.
 */
#define _GNU_SOURCE
#include "workload.h"

#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/random.h>
#include <unistd.h>

static void show(const char *from, const unsigned char *bytes, size_t length)
{
	printf("entropy: %-12s ", from);
	for (size_t i = 0; i < length; i++)
		printf("%02x", bytes[i]);
	putchar('\n');
}

int main(void)
{
	unsigned char bytes[32];

	if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes)
		die("getrandom: %m");
	show("getrandom", bytes, sizeof bytes);
	int file = open("/dev/urandom", O_RDONLY);

	if (file < 0 || read(file, bytes, 16) != 16)
		die("/dev/urandom: %m");
	show("urandom", bytes, 16);
	show("AT_RANDOM", (const unsigned char *)getauxval(AT_RANDOM), 16);
	printf("entropy: %-12s %p\n", "stack", (void *)bytes);
	return 0;
}
