/* The command that the machine asks for (docs/guest-interface.md): fetching it, and starting it as images/README.md says. */
#ifndef SCRIBE_COMMAND_H
#define SCRIBE_COMMAND_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scribe-ports.h"

enum {
	STATUS_INIT = 125,           /* init itself failed */
	STATUS_NOT_EXECUTABLE = 126, /* as in a shell */
	STATUS_NOT_FOUND = 127,
	COMMAND_MAX = 64 * 1024,
};

/* String input: KVM serves up to a page of it per exit, so four bytes at a time as far as they go. */
static inline void scribe_read_data(char *to, size_t length)
{
	size_t words = length / 4, bytes = length % 4;
	unsigned short port = SCRIBE_DATA;

	__asm__ volatile("rep insl" : "+D"(to), "+c"(words) : "d"(port) : "memory");
	__asm__ volatile("rep insb" : "+D"(to), "+c"(bytes) : "d"(port) : "memory");
}

/* The command as an argv. NULL with errno 0: there is none; NULL with another: it cannot be had. */
static inline char **scribe_fetch_command(void)
{
	static char command[COMMAND_MAX];

	errno = 0;
	outl(SCRIBE_STREAM_COMMAND, SCRIBE_SELECT);
	size_t length = inl(SCRIBE_SELECT);

	if (length == 0)
		return NULL;
	if (length > sizeof command) {
		errno = E2BIG;
		return NULL;
	}
	/* Touched first, so that no page fault falls into the middle of the string instruction. */
	memset(command, 0, sizeof command);
	scribe_read_data(command, length);
	outl(0, SCRIBE_SELECT);
	if (command[length - 1] != '\0') {
		errno = EBADMSG;
		return NULL;
	}

	size_t count = 0;

	for (size_t i = 0; i < length; i++)
		count += command[i] == '\0';
	char **arguments = calloc(count + 1, sizeof *arguments);

	if (!arguments)
		return NULL;
	char *next = command;

	for (size_t i = 0; i < count; i++) {
		arguments[i] = next;
		next += strlen(next) + 1;
	}
	errno = 0;
	return arguments;
}

/* Nothing but this is in the command's environment. */
static inline void scribe_set_environment(void)
{
	/* TERM=... on the kernel command line wins over the kernel's own default "linux". */
	const char *term = getenv("TERM");
	char kept[32] = "vt100";

	if (term && *term && strcmp(term, "linux") != 0)
		snprintf(kept, sizeof kept, "%s", term);
	clearenv();
	setenv("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
	setenv("HOME", "/root", 1);
	setenv("USER", "root", 1);
	setenv("SHELL", "/bin/sh", 1);
	setenv("TERM", kept, 1);
	setenv("LANG", "C", 1);
}

#endif
