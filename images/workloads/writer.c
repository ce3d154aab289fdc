/*
 * writer [DIR]: writes 4 MiB in pieces, syncs, renames, reads back and verifies (DIR: /root).
 * Exercises: the block device in both directions (the page cache is told to forget what was synced), ext4 allocation,
 * append, overwrite, truncate, rename, unlink, directory sync.
 */
#define _GNU_SOURCE
#include "workload.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILES = 8, FILE_BYTES = 512 * 1024, SYNC_EVERY = 128 * 1024, PIECE_MAX = 24 * 1024 };

static unsigned char content[FILE_BYTES], back[FILE_BYTES];

/* xorshift64: the content depends on nothing but the file's number. */
static uint64_t next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void fill(int number)
{
	uint64_t state = 0x9e3779b97f4a7c15u * (uint64_t)(number + 1);

	for (size_t i = 0; i < FILE_BYTES; i += 8) {
		uint64_t word = next(&state);

		memcpy(content + i, &word, 8);
	}
}

static void must(int ok, const char *what, const char *path)
{
	if (!ok)
		die("%s %s: %m", what, path);
}

static void sync_directory(void)
{
	int here = open(".", O_RDONLY | O_DIRECTORY);

	must(here >= 0 && fsync(here) == 0, "fsync", ".");
	close(here);
}

/* Appends in pieces of changing size, syncs every now and then, and gives the file its final name. */
static void write_file(const char *draft, const char *name)
{
	int file = open(draft, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0644);
	size_t done = 0, synced = 0, piece = 1000;

	must(file >= 0, "create", draft);
	while (done < FILE_BYTES) {
		size_t length = piece < FILE_BYTES - done ? piece : FILE_BYTES - done;

		must(write(file, content + done, length) == (ssize_t)length, "write", draft);
		done += length;
		piece = piece * 3 % PIECE_MAX + 512;
		if (done - synced >= SYNC_EVERY) {
			must(fsync(file) == 0, "fsync", draft);
			synced = done;
		}
	}
	must(fsync(file) == 0, "fsync", draft);
	must(posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED) == 0, "fadvise", draft);
	close(file);
	must(rename(draft, name) == 0, "rename", draft);
}

static uint64_t verify(const char *name, size_t expected)
{
	int file = open(name, O_RDONLY);
	struct stat about;
	size_t done = 0;

	must(file >= 0 && fstat(file, &about) == 0, "open", name);
	if ((size_t)about.st_size != expected)
		die("%s has %lld bytes, not %zu", name, (long long)about.st_size, expected);
	while (done < expected) {
		ssize_t got = read(file, back + done, expected - done);

		must(got > 0, "read", name);
		done += (size_t)got;
	}
	close(file);
	for (size_t i = 0; i < expected; i++)
		if (back[i] != content[i])
			die("%s differs at byte %zu", name, i);
	return digest(DIGEST_START, back, expected);
}

int main(int count, char **arguments)
{
	const char *parent = count > 1 ? arguments[1] : "/root";
	uint64_t sum = DIGEST_START;

	must(chdir(parent) == 0, "chdir", parent);
	must(mkdir("writer", 0755) == 0 || errno == EEXIST, "mkdir", "writer");
	must(chdir("writer") == 0, "chdir", "writer");
	for (int i = 0; i < FILES; i++) {
		char draft[32], name[32];

		snprintf(draft, sizeof draft, "draft%d", i);
		snprintf(name, sizeof name, "file%d", i);
		fill(i);
		write_file(draft, name);
	}
	sync_directory();
	for (int i = 0; i < FILES; i++) {
		char name[32];

		snprintf(name, sizeof name, "file%d", i);
		fill(i);
		uint64_t one = verify(name, FILE_BYTES);

		sum = digest(sum, &one, sizeof one);
	}

	/* In place: overwrite the middle of one, cut another, then remove them all. */
	int file = open("file1", O_RDWR);

	must(file >= 0, "open", "file1");
	fill(FILES);
	must(pwrite(file, content + 100000, 70000, 100000) == 70000 && fdatasync(file) == 0, "overwrite", "file1");
	must(posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED) == 0, "fadvise", "file1");
	must(pread(file, back, 70000, 100000) == 70000 && memcmp(back, content + 100000, 70000) == 0, "read back", "file1");
	close(file);
	must(truncate("file2", 12345) == 0, "truncate", "file2");
	fill(2);
	verify("file2", 12345);
	for (int i = 0; i < FILES; i++) {
		char name[32];

		snprintf(name, sizeof name, "file%d", i);
		must(unlink(name) == 0, "unlink", name);
	}
	sync_directory();
	must(chdir("..") == 0 && rmdir("writer") == 0, "rmdir", "writer");
	printf("writer: %d files, %d KiB, digest %016llx\n", FILES, FILES * FILE_BYTES / 1024, (unsigned long long)sum);
	return 0;
}
