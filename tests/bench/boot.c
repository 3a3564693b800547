/* boot ROOT UPPER OUTPUT NETWORK [SOURCE:TARGET]... -- PROGRAM [WORD]...
 *
 * Run a program as a first boot in a root tree that nothing is left in afterwards, and print what it cost:
 *
 *     exit-code wall-s user-s system-s peak-kib
 *
 * In mount, UTS and IPC namespaces of its own each SOURCE is bound onto TARGET in the tree; UPPER, unless it is "-", takes all
 * other changes by an overlay.  NETWORK is the file of a network namespace; "-" is one of its own with nothing but loopback.
 * The clock starts when all of that stands.
 * User and system time are of the program and of all that it and its children waited for; the peak is the largest single
 * process.  Linked statically, because a child can't report a smaller peak than that of the process it was forked from.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void must(int outcome, const char *what)
{
    if (outcome >= 0) return;
    fprintf(stderr, "boot: cannot prepare '%s': %s\n", what, strerror(errno));
    exit(125);
}

static void make_folders(char *path)
{
    for (char *slash = path + 1; (slash = strchr(slash, '/')); *slash++ = '/') {
        *slash = 0;
        mkdir(path, 0755);
    }
    mkdir(path, 0755); /* a file that is there already takes the bind as well */
}

static const char *overlay(const char *root, const char *upper)
{
    static char view[1024];
    char work[1024], options[4096];
    snprintf(view, sizeof view, "%s.view", upper);
    snprintf(work, sizeof work, "%s.work", upper);
    snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s,workdir=%s", root, upper, work);
    mkdir(view, 0755);
    mkdir(work, 0755);
    must(mount("overlay", view, "overlay", 0, options), options);
    return view;
}

static void bind_to(const char *root, char *pair)
{
    char target[4096], *colon = strchr(pair, ':');
    if (!colon) must(-1, pair);
    *colon = 0;
    snprintf(target, sizeof target, "%s%s", root, colon + 1);
    make_folders(target);
    must(mount(pair, target, NULL, MS_BIND, NULL), target);
}

static void mount_kernels(const char *root, const char *kind)
{
    char target[4096];
    snprintf(target, sizeof target, "%s/%s", root, strcmp(kind, "sysfs") ? kind : "sys");
    must(mount(kind, target, kind, MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL), target);
}

static void loopback_up(void)
{
    struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
    int link = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    must(link, "socket");
    must(ioctl(link, SIOCSIFFLAGS, &request), "lo");
    close(link);
}

static void enter_network(const char *name)
{
    if (!strcmp(name, "-")) {
        must(unshare(CLONE_NEWNET), "network");
        loopback_up();
        return;
    }
    int network = open(name, O_RDONLY | O_CLOEXEC);
    must(network, name);
    must(setns(network, CLONE_NEWNET), name);
    close(network);
}

int main(int argc, char **argv)
{
    int at = 5, status;
    struct timespec begin, end;
    struct rusage used;
    if (argc < 7) return 125;
    const char *root = argv[1];
    int input = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int output = open(argv[3], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    must(input, "/dev/null");
    must(output, argv[3]);
    enter_network(argv[4]); /* before /sys is mounted, which shows the links of whoever mounts it */
    must(unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC), "namespaces");
    must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "/");
    if (strcmp(argv[2], "-")) root = overlay(root, argv[2]);
    mount_kernels(root, "proc");
    mount_kernels(root, "sysfs");
    for (; at < argc && strcmp(argv[at], "--"); at++) bind_to(root, argv[at]);
    if (++at >= argc) return 125;
    must(chroot(root), root);
    must(chdir("/"), "/");
    clearenv();
    setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
    setenv("LANG", "C.UTF-8", 1);
    setenv("HOME", "/root", 1);
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); /* whoever is left behind and has ended is counted, too */

    clock_gettime(CLOCK_MONOTONIC, &begin);
    pid_t program = fork();
    must(program, "fork");
    if (program == 0) {
        setsid();
        dup2(input, 0), dup2(output, 1), dup2(output, 2);
        execvp(argv[at], argv + at);
        _exit(127);
    }
    while (waitpid(program, &status, 0) < 0) continue;
    clock_gettime(CLOCK_MONOTONIC, &end);
    while (waitpid(-1, NULL, WNOHANG) > 0) continue;
    getrusage(RUSAGE_CHILDREN, &used);
    printf("%d %.6f %ld.%06ld %ld.%06ld %ld\n", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
           (end.tv_sec - begin.tv_sec) + (end.tv_nsec - begin.tv_nsec) / 1e9, (long)used.ru_utime.tv_sec,
           (long)used.ru_utime.tv_usec, (long)used.ru_stime.tv_sec, (long)used.ru_stime.tv_usec, used.ru_maxrss);
    return 0;
}
