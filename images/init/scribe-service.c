/*
 * What systemd runs in the Debian images for the guest interface (docs/guest-interface.md):
 *
 *   scribe-command.service     runs the command the machine asks for with the console as its terminal, reports its exit
 *                              status and begins to power off. Without a command, or without a scribe machine, it ends
 *                              quietly, and the console gets its login.
 *   system-shutdown/scribe     called with "poweroff" when all is unmounted: on a machine without ACPI only our own kernel
 *                              knows the way to power it off.
 *
 * Outside a scribe machine the command can be given to the kernel as `-- run CMD ARGS...`; its status is then printed.
 * That is how the images are tried under plain QEMU.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scribe-command.h"
#include "scribe-ports.h"

static void complain(const char *what, const char *detail)
{
	fprintf(stderr, "scribe: %s: %s\n", what, detail);
}

/* `-- run CMD...` at the end of the kernel's arguments, or NULL. */
static char **command_from_kernel(void)
{
	static char line[4096];
	static char *arguments[sizeof line / 2 + 1];
	FILE *file = fopen("/proc/cmdline", "r");

	if (!file)
		return NULL;
	char *rest = fgets(line, sizeof line, file) ? strstr(line, " -- run ") : NULL;

	fclose(file);
	if (!rest)
		return NULL;
	size_t count = 0;

	for (char *word = strtok(rest + strlen(" -- run "), " \n"); word; word = strtok(NULL, " \n"))
		arguments[count++] = word;
	return count > 0 ? arguments : NULL;
}

/* Signals from the terminal are for the command. */
static void terminal_signals(void (*handler)(int))
{
	static const int all[] = {SIGINT, SIGQUIT, SIGTSTP, SIGTTIN, SIGTTOU, SIGHUP};

	for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
		signal(all[i], handler);
}

_Noreturn static void start(char **arguments)
{
	terminal_signals(SIG_DFL);
	/* Ports are for programs that ask for them. */
	iopl(0);
	if (chdir("/root") != 0) {
		complain("/root", strerror(errno));
		_exit(STATUS_INIT);
	}
	scribe_set_environment();
	execvp(arguments[0], arguments);
	complain(arguments[0], errno == ENOENT ? "not found" : strerror(errno));
	_exit(errno == ENOENT ? STATUS_NOT_FOUND : STATUS_NOT_EXECUTABLE);
}

static int run(char **arguments)
{
	int status;

	terminal_signals(SIG_IGN);
	pid_t child = fork();

	if (child < 0) {
		complain("fork", strerror(errno));
		return STATUS_INIT;
	}
	if (child == 0)
		start(arguments);
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR) {
			complain("wait", strerror(errno));
			return STATUS_INIT;
		}
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static int power_off(int count, char **arguments)
{
	/* With ACPI the kernel does it. */
	if (count < 2 || strcmp(arguments[1], "poweroff") != 0 || access("/sys/firmware/acpi", F_OK) == 0)
		return 0;
	if (scribe_open() == 1)
		outl(0, SCRIBE_POWER_OFF);
	return 0;
}

int main(int count, char **arguments)
{
	const char *slash = strrchr(arguments[0], '/');

	if (strcmp(slash ? slash + 1 : arguments[0], "scribe") == 0)
		return power_off(count, arguments);

	int machine = scribe_open();

	if (machine < 0) {
		complain("no access to I/O ports", strerror(errno));
		return 1;
	}
	errno = 0;
	char **command = machine ? scribe_fetch_command() : command_from_kernel();
	int status = STATUS_INIT;

	if (command)
		status = run(command);
	else if (machine && errno != 0)
		complain("the command", strerror(errno));
	else
		return 0;

	if (machine)
		outl((uint32_t)status, SCRIBE_STATUS);
	else
		fprintf(stderr, "scribe: status: %d\n", status);
	fflush(NULL);
	/* Asked for before this service ends: else the login that waits for it would come first. */
	execl("/bin/systemctl", "systemctl", "--no-block", "poweroff", (char *)NULL);
	complain("systemctl", strerror(errno));
	return 1;
}
