/*
 * bookmark NAME...: sets a bookmark in the recording at this point of the guest's execution. Needs root (I/O ports).
 * Exit status: 0 set, 1 not on a scribe machine or no access to it, 2 usage.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "scribe-ports.h"

enum { NAME_MAX_BYTES = 64 };

int main(int count, char **arguments)
{
	char name[NAME_MAX_BYTES + 4] = "";
	size_t length = 0;

	for (int i = 1; i < count; i++) {
		size_t more = strlen(arguments[i]) + (i > 1);

		if (length + more > NAME_MAX_BYTES) {
			fprintf(stderr, "bookmark: the name is longer than %d bytes\n", NAME_MAX_BYTES);
			return 2;
		}
		sprintf(name + length, "%s%s", i > 1 ? " " : "", arguments[i]);
		length += more;
	}
	/* A name is a place to go to, beside exit numbers and times: it starts with a letter. */
	if (!isalpha((unsigned char)name[0])) {
		fprintf(stderr, "usage: bookmark NAME (starts with a letter)\n");
		return 2;
	}

	switch (scribe_open()) {
	case -1:
		fprintf(stderr, "bookmark: no access to I/O ports: %s\n", strerror(errno));
		return 1;
	case 0:
		fprintf(stderr, "bookmark: not on a scribe machine\n");
		return 1;
	}
	scribe_bookmark(name);
	return 0;
}
