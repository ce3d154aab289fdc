/* The guest interface (docs/guest-interface.md): one block of I/O ports between the guest and the machine. */
#ifndef SCRIBE_PORTS_H
#define SCRIBE_PORTS_H

#include <stdint.h>
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

#endif
