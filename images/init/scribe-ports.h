/* The guest interface (docs/guest-interface.md): one block of I/O ports between the guest and the machine. */
#ifndef SCRIBE_PORTS_H
#define SCRIBE_PORTS_H

#include <stdint.h>
#include <string.h>
#include <sys/io.h>

enum {
	SCRIBE_BASE = 0x5c0,
	SCRIBE_PORTS = 0x30,
	SCRIBE_MAGIC = SCRIBE_BASE + 0x00,
	SCRIBE_STATUS = SCRIBE_BASE + 0x14,
	SCRIBE_POWER_OFF = SCRIBE_BASE + 0x18,
	SCRIBE_DATA = SCRIBE_BASE + 0x20,
	SCRIBE_SELECT = SCRIBE_BASE + 0x24,
	SCRIBE_BOOKMARK = SCRIBE_BASE + 0x28,
};

#define SCRIBE_MAGIC_VALUE 0x42524353u
#define SCRIBE_STREAM_COMMAND 1u

/*
 * Opens the ports to this process. iopl() and not ioperm(): a permission bitmap is copied into the TSS at every switch
 * to the process. Returns 1 if the machine is there, 0 if nothing answers, -1 (errno) if the kernel refuses the ports.
 */
static inline int scribe_open(void)
{
	if (iopl(3) != 0)
		return -1;
	return inl(SCRIBE_MAGIC) == SCRIBE_MAGIC_VALUE;
}

/* Sets a bookmark here, of a process whose ports are open. A name of more than 64 bytes is cut. */
__attribute__((unused)) static inline void scribe_bookmark(const char *name)
{
	size_t length = strlen(name), i = 0;

	/* String output would be one exit per element as well, so plain writes, four bytes as far as they go. */
	for (; i + 4 <= length; i += 4) {
		uint32_t word;

		memcpy(&word, name + i, 4);
		outl(word, SCRIBE_DATA);
	}
	for (; i < length; i++)
		outb((unsigned char)name[i], SCRIBE_DATA);
	outl(0, SCRIBE_BOOKMARK);
}

#endif
