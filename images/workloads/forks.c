/*
 * forks: processes that hand tokens to each other.
 * Exercises: fork, copy-on-write, exec, exit and wait, pipes, the scheduler's choice of who runs next. The order in which
 * a crowd of children reports is printed as a digest: it is the scheduler's doing and must be the same in every replay.
 */
#define _GNU_SOURCE
#include "workload.h"

#include <sys/wait.h>
#include <unistd.h>

enum { RING = 8, ROUNDS = 100, DEPTH = 5, CROWD = 24, EXECS = 12 };

static void make_pipe(int ends[2])
{
	if (pipe(ends) != 0)
		die("pipe: %m");
}

static pid_t split(void)
{
	fflush(NULL);
	pid_t child = fork();

	if (child < 0)
		die("fork: %m");
	return child;
}

static void get(int from, void *data, size_t length)
{
	if (read(from, data, length) != (ssize_t)length)
		die("read: short");
}

static void put(int to, const void *data, size_t length)
{
	if (write(to, data, length) != (ssize_t)length)
		die("write: short");
}

static void reap(pid_t child)
{
	int status;

	if (waitpid(child, &status, 0) != child)
		die("waitpid: %m");
	if (status != 0)
		die("child ended with status %#x", status);
}

/* A token goes round RING processes ROUNDS times; each adds its number. */
static void ring(void)
{
	int pipes[RING][2];
	pid_t children[RING];
	uint64_t token = 0, expected = 0;

	for (int i = 0; i < RING; i++)
		make_pipe(pipes[i]);
	for (int i = 1; i < RING; i++) {
		children[i] = split();
		if (children[i] == 0) {
			for (int round = 0; round < ROUNDS; round++) {
				get(pipes[i - 1][0], &token, sizeof token);
				token += (uint64_t)i;
				put(pipes[i][1], &token, sizeof token);
			}
			_exit(0);
		}
	}
	for (int round = 0; round < ROUNDS; round++) {
		put(pipes[0][1], &token, sizeof token);
		get(pipes[RING - 1][0], &token, sizeof token);
	}
	for (int i = 1; i < RING; i++) {
		reap(children[i]);
		expected += (uint64_t)i * ROUNDS;
	}
	for (int i = 0; i < RING; i++) {
		close(pipes[i][0]);
		close(pipes[i][1]);
	}
	if (token != expected)
		die("the token is %llu, not %llu", (unsigned long long)token, (unsigned long long)expected);
}

/* A binary tree of processes; each node reports the size of its subtree to its parent through a pipe. */
static uint32_t tree(unsigned depth)
{
	uint32_t total = 1;

	if (depth == 0)
		return total;
	pid_t children[2];
	int ends[2];

	make_pipe(ends);
	for (int i = 0; i < 2; i++) {
		children[i] = split();
		if (children[i] == 0) {
			uint32_t below = tree(depth - 1);

			put(ends[1], &below, sizeof below);
			_exit(0);
		}
	}
	for (int i = 0; i < 2; i++) {
		uint32_t below;

		get(ends[0], &below, sizeof below);
		total += below;
	}
	for (int i = 0; i < 2; i++)
		reap(children[i]);
	close(ends[0]);
	close(ends[1]);
	return total;
}

/* Children that all write to one pipe, after yielding a different number of times each. */
static uint64_t crowd(void)
{
	int ends[2];
	uint64_t order = DIGEST_START;

	make_pipe(ends);
	for (int i = 0; i < CROWD; i++) {
		if (split() == 0) {
			uint8_t number = (uint8_t)i;

			for (int turn = 0; turn < (i * 7) % 5; turn++)
				usleep(0);
			put(ends[1], &number, 1);
			_exit(0);
		}
	}
	for (int i = 0; i < CROWD; i++) {
		uint8_t number;

		get(ends[0], &number, 1);
		order = digest(order, &number, 1);
	}
	for (int i = 0; i < CROWD; i++)
		if (wait(NULL) < 0)
			die("wait: %m");
	close(ends[0]);
	close(ends[1]);
	return order;
}

/* This program again, as another one: it ends with the number it is given. */
static void execs(void)
{
	for (int i = 0; i < EXECS; i++) {
		char number[8];
		int status;

		snprintf(number, sizeof number, "%d", i);
		pid_t child = split();

		if (child == 0) {
			execl("/proc/self/exe", "forks", number, (char *)NULL);
			_exit(127);
		}
		if (waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != i)
			die("exec %d ended with status %#x", i, status);
	}
}

int main(int count, char **arguments)
{
	if (count > 1)
		return atoi(arguments[1]);
	ring();
	uint32_t nodes = tree(DEPTH);

	if (nodes != (2u << DEPTH) - 1)
		die("the tree has %u nodes, not %u", nodes, (2u << DEPTH) - 1);
	uint64_t order = crowd();

	execs();
	printf("forks: %d processes, %d hand-overs, order %016llx\n", RING - 1 + (int)nodes - 1 + CROWD + EXECS, RING * ROUNDS,
	       (unsigned long long)order);
	return 0;
}
