/*
 * refuse: runs an instruction that KVM cannot execute, and says so if it could.
 * Exercises: an instruction the host's KVM refuses. KVM has to emulate what touches a device's memory, and its emulator
 * knows few of the SSE instructions; SQRTPD, which nobody aims at a device, is not among them.
 */
#include <emmintrin.h>
#include <fcntl.h>
#include <sys/mman.h>

#include "workload.h"

#define DEVICE 0xd0000000 /* the first virtio-mmio device of platform scribe-pc-1 */

int main(void)
{
	int memory = open("/dev/mem", O_RDWR | O_SYNC);

	if (memory < 0)
		die("/dev/mem: %m");
	const __m128d *registers = mmap(NULL, 4096, PROT_READ, MAP_SHARED, memory, DEVICE);

	if (registers == MAP_FAILED)
		die("mapping the device: %m");
	printf("refuse: now\n");
	fflush(stdout);

	__m128d result;

	__asm__ volatile("sqrtpd %1, %0" : "=x"(result) : "m"(*registers));
	printf("refuse: not refused (%g)\n", _mm_cvtsd_f64(result));
	return 1;
}
