/*
 * clock: reads every clock a program can, many times, and checks that none goes backwards.
 * Exercises: clock_gettime of all ids, gettimeofday, times, RDTSC in user mode (served by the kernel's #GP handler, or
 * refused with a signal), nanosleep. The digest covers every value read: one leaked host clock changes it.
 */
#define _GNU_SOURCE
#include "workload.h"

#include <setjmp.h>
#include <signal.h>
#include <sys/time.h>
#include <sys/times.h>
#include <time.h>

enum { ROUNDS = 300, TSC_PER_ROUND = 4 };

static const struct {
	clockid_t id;
	const char *name;
	int may_be_set; /* follows changes of the calendar time, which nobody makes here */
} clocks[] = {
	{CLOCK_REALTIME, "realtime", 1},
	{CLOCK_MONOTONIC, "monotonic", 0},
	{CLOCK_MONOTONIC_RAW, "monotonic raw", 0},
	{CLOCK_BOOTTIME, "boottime", 0},
	{CLOCK_REALTIME_COARSE, "realtime coarse", 1},
	{CLOCK_MONOTONIC_COARSE, "monotonic coarse", 0},
	{CLOCK_TAI, "tai", 1},
	{CLOCK_PROCESS_CPUTIME_ID, "process", 0},
	{CLOCK_THREAD_CPUTIME_ID, "thread", 0},
};
enum { CLOCKS = sizeof clocks / sizeof clocks[0] };

static uint64_t sum = DIGEST_START;
static unsigned readings;
static sigjmp_buf no_tsc;

static void on_refusal(int signal)
{
	siglongjmp(no_tsc, signal);
}

static void add(int64_t value, int64_t *last, const char *name)
{
	if (value < *last)
		die("%s went backwards: %lld after %lld", name, (long long)value, (long long)*last);
	*last = value;
	sum = digest(sum, &value, sizeof value);
	readings++;
}

static int64_t nanoseconds(clockid_t id)
{
	struct timespec now;

	if (clock_gettime(id, &now) != 0)
		die("clock_gettime(%d): %m", id);
	return now.tv_sec * 1000000000ll + now.tv_nsec;
}

/* RDTSC `times` times; returns how often it was answered. */
static unsigned read_tsc(unsigned times, int64_t *last)
{
	volatile unsigned done = 0;

	if (sigsetjmp(no_tsc, 1) == 0) {
		for (; done < times; done++) {
			uint32_t low, high;

			__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
			add((int64_t)((uint64_t)high << 32 | low), last, "the TSC");
		}
	}
	return done;
}

int main(void)
{
	int64_t last[CLOCKS] = {0}, last_day = 0, last_ticks = 0, last_tsc = 0;
	unsigned tsc_answered = 0, tsc_alive = 1;

	signal(SIGSEGV, on_refusal);
	signal(SIGILL, on_refusal);
	for (unsigned round = 0; round < ROUNDS; round++) {
		for (unsigned i = 0; i < CLOCKS; i++)
			add(nanoseconds(clocks[i].id), &last[i], clocks[i].name);
		struct timeval day;

		gettimeofday(&day, NULL);
		add(day.tv_sec * 1000000ll + day.tv_usec, &last_day, "gettimeofday");
		struct tms used;

		add((int64_t)times(&used), &last_ticks, "times");
		if (tsc_alive) {
			unsigned answered = read_tsc(TSC_PER_ROUND, &last_tsc);

			tsc_answered += answered;
			tsc_alive = answered == TSC_PER_ROUND;
		}
	}

	/* Time goes on while the guest sleeps, by at least as much as was asked for. */
	int64_t before = nanoseconds(CLOCK_MONOTONIC), tsc_before = last_tsc;
	const struct timespec nap = {0, 10 * 1000 * 1000};

	if (nanosleep(&nap, NULL) != 0)
		die("nanosleep: %m");
	int64_t slept = nanoseconds(CLOCK_MONOTONIC) - before;

	if (slept < nap.tv_nsec)
		die("slept %lld ns instead of %ld", (long long)slept, nap.tv_nsec);
	sum = digest(sum, &slept, sizeof slept);
	if (tsc_alive && (read_tsc(1, &last_tsc) != 1 || last_tsc == tsc_before))
		die("the TSC stood still during a sleep");

	printf("clock: %u readings, %u of the TSC, digest %016llx\n", readings, tsc_answered, (unsigned long long)sum);
	return 0;
}
