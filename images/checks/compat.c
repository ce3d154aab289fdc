/*
 * compat: a 32-bit program, for the processor's compatibility mode. System calls in both ways, instructions that 64-bit
 * mode does not have, the exceptions they raise, and a far call into 64-bit code and back. Prints one line; the first
 * result that is not what the manual says ends it with status 1.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef __i386__
#error "this is a 32-bit program: gcc -m32"
#endif

static int checks;

static void check(const char *what, long found, long wanted)
{
	checks++;
	if (found == wanted)
		return;
	printf("compat: %s: %#lx instead of %#lx\n", what, found, wanted);
	exit(1);
}

/* A system call by INT 0x80. */
static long interrupt(long number)
{
	long result;

	__asm__ volatile("int $0x80" : "=a"(result) : "a"(number) : "memory");
	return result;
}

static sigjmp_buf back;
static volatile int signal_seen;

static void caught(int number)
{
	signal_seen = number;
	siglongjmp(back, 1);
}

static void decimal(void)
{
	uint32_t a;

	/* 79 + 35 = 114 in packed decimal; 53 - 29 = 24. */
	__asm__("addb $0x35, %%al; daa" : "=a"(a) : "0"(0x79) : "cc");
	check("DAA", a & 0xff, 0x14);
	__asm__("subb $0x29, %%al; das" : "=a"(a) : "0"(0x53) : "cc");
	check("DAS", a & 0xff, 0x24);
	__asm__("addb $9, %%al; aaa" : "=a"(a) : "0"(0x0008) : "cc");
	check("AAA", a & 0xffff, 0x107);
	__asm__("subb $9, %%al; aas" : "=a"(a) : "0"(0x0105) : "cc");
	check("AAS", a & 0xffff, 0x0006);
	__asm__("aam" : "=a"(a) : "0"(0x4f) : "cc");
	check("AAM", a & 0xffff, 0x0709);
	__asm__("aad" : "=a"(a) : "0"(0x0709) : "cc");
	check("AAD", a & 0xffff, 0x4f);
}

static void stack(void)
{
	uint32_t sum;

	/* PUSHA stores EDI lowest and EAX highest. */
	__asm__ volatile("movl $1, %%eax; movl $2, %%ecx; movl $4, %%edx\n\t"
	                 "pushal\n\t"
	                 "movl 28(%%esp), %%eax; addl 24(%%esp), %%eax; addl 20(%%esp), %%eax; movl %%eax, 28(%%esp)\n\t"
	                 "xorl %%edx, %%edx; popal; addl %%edx, %%eax"
	                 : "=a"(sum) : : "ecx", "edx", "cc", "memory");
	check("PUSHA, POPA", sum, 11);
	__asm__ volatile("pushl %%ds; popl %%eax" : "=a"(sum));
	check("PUSH DS", sum & 0xffff, 0x2b);
}

static void exceptions(void)
{
	static const int32_t bounds[2] = {10, 20};
	struct sigaction action = {.sa_handler = caught};

	sigaction(SIGSEGV, &action, NULL);
	__asm__ volatile("bound %0, %1" : : "r"(20), "m"(bounds));
	if (sigsetjmp(back, 1) == 0)
		__asm__ volatile("bound %0, %1" : : "r"(21), "m"(bounds));
	check("BOUND", signal_seen, SIGSEGV);

	signal_seen = 0;
	__asm__ volatile("xorl %%eax, %%eax; into" : : : "eax", "cc");
	if (sigsetjmp(back, 1) == 0)
		__asm__ volatile("movl $0x7fffffff, %%eax; incl %%eax; into" : : : "eax", "cc");
	check("INTO", signal_seen, SIGSEGV);

	signal_seen = 0;
	if (sigsetjmp(back, 1) == 0)
		__asm__ volatile("movl 0xfffffff0, %%eax" : : : "eax");
	check("a page of the kernel", signal_seen, SIGSEGV);
}

/* Far calls between the kernel's 32-bit (0x23) and 64-bit (0x33) user code segments. */
static void far_call(void)
{
	/* mov rax, 0x123456789abcdef0; ror rax, 32; retfd */
	static const unsigned char code[] = {0x48, 0xb8, 0xf0, 0xde, 0xbc, 0x9a, 0x78, 0x56, 0x34, 0x12,
	                                     0x48, 0xc1, 0xc8, 0x20, 0xcb};
	unsigned char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct __attribute__((packed)) {
		uint32_t offset;
		uint16_t selector;
	} target = {(uint32_t)page, 0x33};
	uint32_t result;

	memcpy(page, code, sizeof code);
	__asm__ volatile("lcall *%1" : "=a"(result) : "m"(target) : "memory", "cc");
	check("a far call into 64-bit code", (long)result, 0x12345678);
	munmap(page, 4096);
}

static void children(void)
{
	int status = 0;
	pid_t child = fork();

	if (child == 0)
		_exit(interrupt(SYS_getpid) == getpid() && interrupt(SYS_getppid) == getppid() ? 42 : 1);
	waitpid(child, &status, 0);
	check("a child", WIFEXITED(status) ? WEXITSTATUS(status) : -1, 42);
}

int main(void)
{
	uint32_t segment;

	/* getpid() goes through the vDSO: SYSCALL or SYSENTER. */
	check("INT 0x80", interrupt(SYS_getpid), getpid());
	__asm__("movl %%cs, %0" : "=r"(segment));
	check("CS", segment & 0xffff, 0x23);
	decimal();
	stack();
	exceptions();
	far_call();
	children();
	printf("compat: %d results of a 32-bit program, as the manual says\n", checks);
	return 0;
}
