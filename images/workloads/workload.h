/*
 * Shared by the workloads. They block and do not spin: guest time moves only at exits and while the guest is idle, so a
 * loop that waits for a clock to change would need an exit for every two microseconds of it.
 */
#ifndef WORKLOAD_H
#define WORKLOAD_H

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef NAME
#error "NAME is the workload's name, given by the build"
#endif

/* Ends the workload with a message; `%m` in the format is the system's error. */
__attribute__((format(printf, 1, 2), noreturn, unused)) static void die(const char *format, ...)
{
	int error = errno;
	va_list arguments;

	fprintf(stderr, NAME ": ");
	va_start(arguments, format);
	errno = error;
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	exit(1);
}

/* FNV-1a, 64 bits. */
#define DIGEST_START 0xcbf29ce484222325u

__attribute__((unused)) static uint64_t digest(uint64_t state, const void *data, size_t length)
{
	const unsigned char *bytes = data;

	for (size_t i = 0; i < length; i++)
		state = (state ^ bytes[i]) * 0x100000001b3u;
	return state;
}

#endif
