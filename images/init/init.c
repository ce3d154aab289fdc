/*
 * PID 1 of the demo image: mounts the kernel's file systems, runs the command the machine asks for with the console as
 * its terminal, reports its exit status and powers off. Without a command it gives a login shell.
 *
 * It powers off as well when SIGUSR2 asks for it, as `/sbin/poweroff` of busybox does: what runs gets SIGTERM and two
 * seconds first, and the status is that of a command that SIGTERM has ended.
 *
 * Whatever goes wrong here is said on the console and powers off with status 125: a guest that waits for somebody to
 * look at it would record nothing but silence.
 *
 * Outside a scribe machine (no MAGIC) the command can be given to the kernel as `-- run CMD ARGS...`; its status is then
 * printed. That is how the image is tried under plain QEMU.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "scribe-command.h"
#include "scribe-ports.h"

static int machine; /* a scribe machine answers at the ports */

static void complain(const char *what, const char *detail)
{
	/* One write per line: the console is shared with whatever still runs. */
	char line[512];
	int length = snprintf(line, sizeof line, "init: %s%s%s\n", what, detail ? ": " : "", detail ? detail : "");

	if (length > (int)sizeof line - 1)
		length = sizeof line - 1;
	(void)!write(STDERR_FILENO, line, (size_t)length);
}

_Noreturn static void power_off(int status)
{
	if (machine) {
		outl((uint32_t)status, SCRIBE_STATUS);
	} else {
		char text[16];

		snprintf(text, sizeof text, "%d", status);
		complain("status", text);
	}

	kill(-1, SIGKILL);
	while (wait(NULL) > 0 || errno == EINTR)
		;
	sync();
	/* EINVAL: the root is an initramfs, which holds nothing to save. */
	if (mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL) != 0 && errno != EINVAL)
		complain("cannot remount / read-only", strerror(errno));
	/* The serial driver still holds the last lines, and powering off would not wait for them. */
	tcdrain(STDERR_FILENO);
#ifdef WITHOUT_DRIVER
	/* Other kernels than ours know no way to power this machine off, and would halt it. */
	if (machine)
		outl(0, SCRIBE_POWER_OFF);
#endif
	reboot(RB_POWER_OFF);

	complain("cannot power off", strerror(errno));
	if (machine)
		outl(0, SCRIBE_POWER_OFF);
	for (;;)
		pause();
}

_Noreturn static void fail(const char *what)
{
	complain(what, strerror(errno));
	power_off(STATUS_INIT);
}

static void open_console(void)
{
	/* The kernel opens descriptors 0 to 2 for us unless its own root had no /dev/console. */
	if (fcntl(STDERR_FILENO, F_GETFD) != -1)
		return;
	int console = open("/dev/console", O_RDWR | O_NOCTTY);

	if (console < 0)
		return;
	while (console < STDERR_FILENO)
		console = dup(console);
}

static void mount_at(const char *type, const char *target, unsigned long flags, const char *options)
{
	mkdir(target, 0755);
	/* EBUSY: the kernel has mounted it (devtmpfs). */
	if (mount(type, target, type, flags, options) != 0 && errno != EBUSY) {
		char what[64];

		snprintf(what, sizeof what, "cannot mount %s", target);
		fail(what);
	}
}

static void mount_all(void)
{
	mount_at("devtmpfs", "/dev", MS_NOSUID, "mode=755");
	mount_at("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_at("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_at("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=620,ptmxmode=666");
	mount_at("tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777");
	mount_at("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=755");

	static const char *const links[][2] = {
		{"/proc/self/fd", "/dev/fd"},
		{"/proc/self/fd/0", "/dev/stdin"},
		{"/proc/self/fd/1", "/dev/stdout"},
		{"/proc/self/fd/2", "/dev/stderr"},
	};
	for (size_t i = 0; i < sizeof links / sizeof links[0]; i++)
		if (symlink(links[i][0], links[i][1]) != 0 && errno != EEXIST)
			fail(links[i][1]);
}

static void set_hostname(void)
{
	char name[64];
	int file = open("/etc/hostname", O_RDONLY);

	if (file < 0)
		return;
	ssize_t length = read(file, name, sizeof name);

	close(file);
	if (length > 0 && name[length - 1] == '\n')
		length--;
	if (length > 0 && sethostname(name, (size_t)length) != 0)
		fail("cannot set the host name");
}

/* The command as an argv, or NULL if there is none. */
static char **fetch_command(void)
{
	char **arguments = scribe_fetch_command();

	if (!arguments && errno != 0)
		fail(errno == EBADMSG ? "the command does not end with a NUL" : "the command");
	return arguments;
}

/* `run CMD...` among the kernel's arguments to init. Words the kernel did not understand may stand before it. */
static char **command_from_arguments(char **arguments)
{
	for (; *arguments; arguments++)
		if (strcmp(*arguments, "run") == 0 && arguments[1])
			return arguments + 1;
	return NULL;
}

_Noreturn static void start(char **arguments)
{
	static char *const shell[] = {"-sh", NULL};

	/* A session of its own with the console as controlling terminal: Ctrl-C typed there is SIGINT here. */
	if (setsid() < 0)
		goto failed;
	int console = open("/dev/console", O_RDWR);

	if (console < 0 || ioctl(console, TIOCSCTTY, 1) != 0)
		goto failed;
	for (int i = STDIN_FILENO; i <= STDERR_FILENO; i++)
		if (dup2(console, i) < 0)
			goto failed;
	if (console > STDERR_FILENO)
		close(console);
	if (chdir("/root") != 0)
		goto failed;
	scribe_set_environment();

	if (!arguments) {
		execv("/bin/sh", shell);
		goto failed;
	}
	execvp(arguments[0], arguments);
	complain(arguments[0], errno == ENOENT ? "not found" : strerror(errno));
	_exit(errno == ENOENT ? STATUS_NOT_FOUND : STATUS_NOT_EXECUTABLE);

failed:
	complain("cannot start the command", strerror(errno));
	_exit(STATUS_INIT);
}

/* Everything that loses its parent is ours to reap. When the command itself has ended the machine does. */
static void reap(pid_t command)
{
	int status;
	pid_t gone;

	while ((gone = waitpid(-1, &status, WNOHANG)) > 0)
		if (gone == command)
			power_off(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
	if (gone < 0 && errno != ECHILD && errno != EINTR)
		fail("cannot wait for the command");
}

/* Somebody wants the machine to power off: all processes may end by themselves, for a while. */
_Noreturn static void end_all(pid_t command, const sigset_t *awaited)
{
	static const struct timespec patience = {.tv_sec = 2};

	kill(-1, SIGTERM);
	/* A stopped process would not see it. */
	kill(-1, SIGCONT);
	while (sigtimedwait(awaited, NULL, &patience) == SIGCHLD)
		reap(command);
	power_off(128 + SIGTERM);
}

int main(int count, char **arguments)
{
	(void)count;
	open_console();
	if (getpid() != 1) {
		complain("I am only of use as the first process", NULL);
		return 1;
	}

	mount_all();
	set_hostname();
	machine = scribe_open();
	if (machine < 0) {
		machine = 0;
		fail("no access to I/O ports");
	}
	char **run = machine ? fetch_command() : command_from_arguments(arguments + 1);

	if (!machine && !run)
		complain("not on a scribe machine: no command, just a shell", NULL);

	sigset_t awaited, before;

	sigemptyset(&awaited);
	sigaddset(&awaited, SIGCHLD);
	sigaddset(&awaited, SIGUSR2);
	sigprocmask(SIG_BLOCK, &awaited, &before);
	pid_t child = fork();

	if (child < 0)
		fail("cannot fork");
	if (child == 0) {
		/* Ports are for init and for programs that ask for them. */
		iopl(0);
		sigprocmask(SIG_SETMASK, &before, NULL);
		start(run);
	}

	for (;;) {
		int signal = sigwaitinfo(&awaited, NULL);

		if (signal == SIGUSR2)
			end_all(child, &awaited);
		reap(child);
	}
}
