/*
 * signals: about 3000 timer ticks, delivered in every way there is, with children ending in between.
 * Exercises: setitimer and SIGALRM, timer_create and a queued signal, timerfd, signalfd, eventfd, epoll, SIGCHLD,
 * nanosleep; below them one timer interrupt and one idle period per tick. Every wait blocks.
 */
#define _GNU_SOURCE
#include "workload.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { TICKS = 1000, CHILDREN = 20, NAPS = 100 };
static const long PERIOD_NS = 1000 * 1000;

static volatile sig_atomic_t alarms;
static uint64_t sum = DIGEST_START;

static void on_alarm(int signal)
{
	(void)signal;
	alarms++;
}

static int64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000ll + time.tv_nsec;
}

/* `ticks` periods cannot take less time than they last. When they ended goes into the digest. */
static void check_time(const char *what, int64_t start, long ticks)
{
	int64_t took = now() - start;

	/* The first tick may come up to one clock step early, measured from here. */
	if (took < (ticks - 1) * PERIOD_NS)
		die("%s: %ld ticks in %lld ns", what, ticks, (long long)took);
	sum = digest(sum, &took, sizeof took);
}

static long by_setitimer(void)
{
	struct sigaction action = {.sa_handler = on_alarm};
	const struct itimerval period = {{0, PERIOD_NS / 1000}, {0, PERIOD_NS / 1000}}, off = {{0, 0}, {0, 0}};
	sigset_t alarm_only, before;

	sigemptyset(&alarm_only);
	sigaddset(&alarm_only, SIGALRM);
	sigprocmask(SIG_BLOCK, &alarm_only, &before);
	sigaction(SIGALRM, &action, NULL);
	int64_t start = now();

	setitimer(ITIMER_REAL, &period, NULL);
	while (alarms < TICKS)
		sigsuspend(&before);
	setitimer(ITIMER_REAL, &off, NULL);
	check_time("setitimer", start, alarms);
	return alarms;
}

static long by_timer_create(void)
{
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
	const struct itimerspec period = {{0, PERIOD_NS}, {0, PERIOD_NS}};
	sigset_t wanted;
	timer_t timer;
	long ticks = 0;

	sigemptyset(&wanted);
	sigaddset(&wanted, SIGRTMIN);
	sigprocmask(SIG_BLOCK, &wanted, NULL);
	if (timer_create(CLOCK_MONOTONIC, &event, &timer) != 0)
		die("timer_create: %m");
	int64_t start = now();

	timer_settime(timer, 0, &period, NULL);
	while (ticks < TICKS) {
		siginfo_t info;

		if (sigwaitinfo(&wanted, &info) != SIGRTMIN)
			die("sigwaitinfo: %m");
		ticks += 1 + info.si_overrun;
	}
	timer_delete(timer);
	check_time("timer_create", start, ticks);
	return ticks;
}

/* One loop over a timerfd, a signalfd that tells of children, and an eventfd the children add to. */
static long by_epoll(void)
{
	const struct itimerspec period = {{0, PERIOD_NS}, {0, PERIOD_NS}};
	sigset_t child_only;
	long ticks = 0;
	int started = 0, ended = 0;
	uint64_t added = 0;

	sigemptyset(&child_only);
	sigaddset(&child_only, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child_only, NULL);
	int poll = epoll_create1(0), timer = timerfd_create(CLOCK_MONOTONIC, 0), signals = signalfd(-1, &child_only, 0),
	    counter = eventfd(0, 0);
	const int sources[] = {timer, signals, counter};

	for (int i = 0; i < 3; i++) {
		struct epoll_event event = {.events = EPOLLIN, .data.fd = sources[i]};

		if (sources[i] < 0 || epoll_ctl(poll, EPOLL_CTL_ADD, sources[i], &event) != 0)
			die("epoll: %m");
	}
	int64_t start = now();

	timerfd_settime(timer, 0, &period, NULL);
	while (ticks < TICKS || ended < CHILDREN || added < CHILDREN) {
		struct epoll_event events[4];
		int count = epoll_wait(poll, events, 4, -1);

		if (count < 0)
			die("epoll_wait: %m");
		for (int i = 0; i < count; i++) {
			int from = events[i].data.fd;
			uint64_t value;
			struct signalfd_siginfo info;

			if (from == signals) {
				if (read(signals, &info, sizeof info) != sizeof info)
					die("signalfd: %m");
				while (waitpid(-1, NULL, WNOHANG) > 0)
					ended++;
				continue;
			}
			if (read(from, &value, sizeof value) != sizeof value)
				die("read: %m");
			if (from == counter) {
				added += value;
				continue;
			}
			ticks += (long)value;
			/* A child every 16 ticks: it lives for some milliseconds, in parallel with the next ones. */
			if (started < CHILDREN && ticks / 16 > started) {
				started++;
				pid_t child = fork();

				if (child < 0)
					die("fork: %m");
				if (child == 0) {
					usleep((useconds_t)(started % 7) * 3000);
					value = 1;
					_exit(write(counter, &value, sizeof value) != sizeof value);
				}
			}
		}
	}
	check_time("timerfd", start, ticks);
	sum = digest(sum, &ticks, sizeof ticks);
	return ticks;
}

static void naps(void)
{
	for (int i = 0; i < NAPS; i++) {
		const struct timespec nap = {0, 200 * 1000 + i * 10 * 1000};

		if (nanosleep(&nap, NULL) != 0)
			die("nanosleep: %m");
	}
}

int main(void)
{
	long ticks = by_setitimer();

	ticks += by_timer_create();
	ticks += by_epoll();
	naps();
	printf("signals: %ld ticks, %d children, %d naps, digest %016llx\n", ticks, CHILDREN, NAPS, (unsigned long long)sum);
	return 0;
}
