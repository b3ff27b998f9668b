/*
 * The least that a guest can do, for tests/bench/machine to compare imgrun with. A static program.
 *
 *   floor                   as init: ends the machine; with write=MIB on the kernel's command line
 *                           it writes so much to the virtio-serial port before
 *   floor pour MIB          in a machine: writes as much to standard output
 *   floor pipe MIB          in a machine: reads as much from itself through a pipe; prints MiB/s
 *   floor exec ROUNDS PROG  in a machine: starts PROG and waits for it; prints the median and the
 *                           99th percentile, milliseconds
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 65536 };
static char block[BLOCK];

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void pour(int to, long mib)
{
	long left = mib << 20;

	while (left > 0) {
		ssize_t n = write(to, block, left < BLOCK ? left : BLOCK);

		if (n < 0)
			break;
		left -= n;
	}
}

static void pipe_through(long mib)
{
	double began = now();
	int ends[2];

	if (pipe(ends) != 0)
		return;
	if (fork() == 0) {
		close(ends[0]);
		pour(ends[1], mib);
		_exit(0);
	}
	close(ends[1]);
	while (read(ends[0], block, BLOCK) > 0)
		;
	printf("pipe %.1f\n", mib / (now() - began) * 1e3);
}

static void write_port(long mib)
{
	int port;

	mount("dev", "/dev", "devtmpfs", 0, "");
	/* Its name has the number of its virtio device: the disk is the other one. */
	while ((port = open("/dev/vport0p1", O_RDWR)) < 0
	       && (port = open("/dev/vport1p1", O_RDWR)) < 0)
		usleep(1000);
	pour(port, mib);
	/* A reset would lose what is under way: the host says when it has all. */
	if (read(port, block, 1) < 0)
		perror("floor: reading the port");
}

static void execs(long rounds, char *program)
{
	double *times = calloc(rounds, sizeof *times);
	char *arguments[] = { program, NULL }, *environment[] = { NULL };

	for (long i = 0; i < rounds; i++) {
		double began = now();
		pid_t child = vfork();

		if (child == 0) {
			execve(program, arguments, environment);
			_exit(127);
		}
		waitpid(child, NULL, 0);
		times[i] = now() - began;
	}
	qsort(times, rounds, sizeof *times, compare);
	printf("%s %.2f %.2f\n", program, times[rounds / 2], times[rounds * 99 / 100]);
}

int main(int count, char **words)
{
	if (count == 4 && strcmp(words[1], "exec") == 0) {
		execs(atol(words[2]), words[3]);
		return 0;
	}
	if (count == 3 && strcmp(words[1], "pour") == 0) {
		pour(STDOUT_FILENO, atol(words[2]));
		return 0;
	}
	if (count == 3 && strcmp(words[1], "pipe") == 0) {
		pipe_through(atol(words[2]));
		return 0;
	}
	/* Words that the kernel does not know are its init's environment. */
	if (getenv("write"))
		write_port(atol(getenv("write")));
	reboot(RB_AUTOBOOT);
	return 1;
}
