/*
 * race [THOUSANDS]: two threads book on one account, so many thousand times each (600), and no lock is taken.
 * Exercises: a real race. A booking reads the total, adds, and writes it back: three instructions. A thread that loses
 * the processor between the read and the write takes back, when it goes on, all that the other has booked meanwhile: a
 * lost update. It is noticed by the thread that did it, with its next instructions, and gets a bookmark.
 * Exit status: 0 nothing was lost, 1 something was.
 */
#define _GNU_SOURCE
#include "workload.h"

#include <pthread.h>
#include <unistd.h>

#include "../init/scribe-ports.h"

enum { THREADS = 2, ROUNDS = 8 };

static volatile uint64_t total;
static volatile uint64_t booked[THREADS];
static uint64_t bookings = 600 * 1000;
static int on_scribe;

/* What a booking is about: work between one and the next, with a branch in each round. */
static uint64_t work(uint64_t state)
{
	for (int round = 0; round < ROUNDS; round++) {
		state = state * 6364136223846793005u + 1442695040888963407u;
		__asm__ volatile("" : "+r"(state));
	}
	return state;
}

__attribute__((noreturn)) static void lost(int self, uint64_t theirs, uint64_t found)
{
	uint64_t mine = booked[self];

	if (on_scribe)
		scribe_bookmark("lost-update");
	printf(NAME ": lost update: thread %d has booked %llu, the other at least %llu, and the total is %llu\n", self,
	       (unsigned long long)mine, (unsigned long long)theirs, (unsigned long long)found);
	fflush(stdout);
	_exit(1);
}

static void *book(void *argument)
{
	int self = (int)(intptr_t)argument;
	uint64_t state = (uint64_t)self;

	for (uint64_t i = 0; i < bookings; i++) {
		state = work(state);

		uint64_t seen = total;

		total = seen + 1;

		/*
		 * Each counts what it has booked, behind its booking. So the total is never less than both counts, unless an
		 * update was lost; to be sure of it, what the other has booked is read before the total.
		 */
		booked[self] = booked[self] + 1;

		uint64_t theirs = booked[1 - self], found = total;

		if (found < booked[self] + theirs)
			lost(self, theirs, found);
	}
	return NULL;
}

int main(int count, char **arguments)
{
	pthread_t threads[THREADS];

	if (count > 1)
		bookings = strtoull(arguments[1], NULL, 10) * 1000;
	on_scribe = scribe_open() == 1;
	for (int i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, book, (void *)(intptr_t)i) != 0)
			die("no thread");
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	if (total != THREADS * bookings)
		die("of %llu bookings %llu are left", (unsigned long long)(THREADS * bookings), (unsigned long long)total);
	printf(NAME ": %d threads, %llu bookings, none lost\n", THREADS, (unsigned long long)total);
	return 0;
}
