/* oldkernel 2.6.18|2.6.32 PROGRAM [ARGUMENTS]: run a program as an old x86-64 kernel's system-call table would have it.
 *
 * What was not in that kernel's table is refused as it would be there: calls (ENOSYS), and the younger flags, commands
 * and options of older calls (EINVAL, or ignored where the kernel ignored them).  The auxiliary vector loses what the
 * kernel did not hand out, and uname names the old release.  The rules hold for PROGRAM and all copies of it, by fork or
 * by exec; other programs that it starts are this machine's own and may need this machine's kernel.
 * With OLDKERNEL_LOG, each kind of refusal is appended to that file when the program ends.
 *
 * This shows that a program asks for nothing too young and copes with what it is told.  It is no old kernel: how its
 * ELF loader, its file systems and its /proc behaved is not shown.
 *
 * How: seccomp stops every call that might be refused, and this program, its tracer, decides.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_PID = 1 << 22, MAX_REFUSALS = 256 };
enum { ALLOW = 0, CHANGED = 1 }; /* judge() returns one of these, or a negative errno */

static const struct kernel {
    const char *name, *release;
    long last_call;
    int is_18;
} kernels[] = {
    {"2.6.18", "2.6.18-419.el5", 279, 1},                /* the last is move_pages */
    {"2.6.32", "2.6.32-754.35.1.el6.x86_64", 298, 0},    /* perf_event_open */
};
static const struct kernel *kernel;
static char target[PATH_MAX];
static struct { unsigned char is_known, is_held, is_in_uname; } task[MAX_PID + 1];
static struct { long call, detail; int error; unsigned long count; } refusal[MAX_REFUSALS];

/* Calls of the old table whose arguments may be too young */
static const int looked_at[] = {
    SYS_arch_prctl, SYS_clock_getres, SYS_clock_gettime, SYS_clock_nanosleep, SYS_clone, SYS_fcntl, SYS_futex,
    SYS_getsockopt, SYS_linkat, SYS_lseek, SYS_madvise, SYS_newfstatat, SYS_open, SYS_openat, SYS_prctl, SYS_sendfile,
    SYS_setsockopt, SYS_socket, SYS_socketpair, SYS_umount2, SYS_uname, SYS_unshare, SYS_waitid,
};

/* Clear flags that this kernel ignored. */
static int ignore(unsigned long long *flags, unsigned long long young)
{
    if (!(*flags & young))
        return ALLOW;
    *flags &= ~young;
    return CHANGED;
}

static int judge_option(unsigned long level, unsigned long option)
{
    if (level == 1 /* SOL_SOCKET */)
        return option > (kernel->is_18 ? 35 : 40) || option == 15 /* REUSEPORT */ ? -ENOPROTOOPT : ALLOW;
    if (level == 6 /* TCP */)
        return option > (kernel->is_18 ? 14 : 17) ? -ENOPROTOOPT : ALLOW;
    return ALLOW;
}

static int judge_fcntl(unsigned long command)
{
    if (command > 1030 || (command >= 36 && command <= 38)) /* pipe sizes, seals; locks of open files */
        return -EINVAL;
    return kernel->is_18 && (command == F_DUPFD_CLOEXEC || command == 15 || command == 16) ? -EINVAL : ALLOW;
}

static int judge_futex(unsigned long operation)
{
    if (kernel->is_18 && (operation & (128 | 256))) /* private ones are of 2.6.22 */
        return -ENOSYS;
    return (operation & 127) > (kernel->is_18 ? 8 : 12) ? -ENOSYS : ALLOW;
}

static int judge_sendfile(pid_t pid, int out)
{
    char path[64];
    struct stat about;
    snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, out);
    return stat(path, &about) == 0 && !S_ISSOCK(about.st_mode) ? -EINVAL : ALLOW; /* files are of 2.6.33 */
}

static int judge(pid_t pid, struct user_regs_struct *r)
{
    const unsigned long long cloexec = kernel->is_18 ? O_CLOEXEC : 0; /* 2.6.23 */
    const unsigned long long path_or_nameless = 010000000 | 020000000; /* O_PATH, O_TMPFILE */
    const unsigned long long namespaces = CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;
    switch (r->orig_rax) {
    case SYS_open: return ignore(&r->rsi, path_or_nameless | cloexec);
    case SYS_openat: return ignore(&r->rdx, path_or_nameless | cloexec);
    case SYS_clone: /* an unknown flag was no error */
        return ignore(&r->rdi, kernel->is_18 ? namespaces : 0x02000000 /* CLONE_NEWCGROUP */);
    case SYS_unshare: return r->rdi & (kernel->is_18 ? namespaces : CLONE_NEWUSER | CLONE_NEWPID) ? -EINVAL : ALLOW;
    case SYS_futex: return judge_futex(r->rsi);
    case SYS_socket:
    case SYS_socketpair: return kernel->is_18 && r->rsi & ~0xfULL ? -EINVAL : ALLOW; /* SOCK_CLOEXEC: 2.6.27 */
    case SYS_setsockopt:
    case SYS_getsockopt: return judge_option(r->rsi, r->rdx);
    case SYS_fcntl: return judge_fcntl(r->rsi);
    case SYS_newfstatat: return r->r10 & ~0x100ULL ? -EINVAL : ALLOW;
    case SYS_linkat: return r->r8 & ~0x400ULL ? -EINVAL : ALLOW;
    case SYS_clock_gettime:
    case SYS_clock_getres:
    case SYS_clock_nanosleep: return (long)r->rdi >= (kernel->is_18 ? 4 : 7) ? -EINVAL : ALLOW;
    case SYS_prctl: return r->rdi > (kernel->is_18 ? 20 : 33) ? -EINVAL : ALLOW;
    case SYS_madvise: return r->rdx == 8 || (r->rdx >= (kernel->is_18 ? 12 : 14) && r->rdx < 100) ? -EINVAL : ALLOW;
    case SYS_lseek: return r->rdx > 2 ? -EINVAL : ALLOW; /* SEEK_DATA */
    case SYS_waitid: return r->rdi > 2 ? -EINVAL : ALLOW; /* P_PIDFD */
    case SYS_arch_prctl: return r->rdi < 0x1001 || r->rdi > 0x1004 ? -EINVAL : ALLOW;
    case SYS_umount2: return r->rsi & ~7ULL ? -EINVAL : ALLOW;
    case SYS_sendfile: return judge_sendfile(pid, (int)r->rdi);
    default: return (long)r->orig_rax > kernel->last_call ? -ENOSYS : ALLOW;
    }
}

static void note(long call, long detail, int error)
{
    int i = 0;
    while (i < MAX_REFUSALS - 1 && refusal[i].count &&
           (refusal[i].call != call || refusal[i].detail != detail || refusal[i].error != error))
        i++;
    refusal[i].call = call;
    refusal[i].detail = detail;
    refusal[i].error = error;
    refusal[i].count++;
}

/* A new task may stop before the event that announces it: it is held if its parent is. */
static void meet(pid_t pid)
{
    char path[64], line[256];
    int group = 0, parent = 0;
    if (task[pid].is_known)
        return;
    task[pid].is_known = 1;
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *file = fopen(path, "r");
    if (!file)
        return;
    while (fgets(line, sizeof line, file)) {
        sscanf(line, "Tgid: %d", &group);
        sscanf(line, "PPid: %d", &parent);
    }
    fclose(file);
    task[pid].is_held = task[group != pid ? group : parent].is_held;
}

/* After an exec: is it the program in question?  Then take from its auxiliary vector what the kernel did not give. */
static void see_exec(pid_t pid)
{
    char path[64], program[PATH_MAX];
    struct user_regs_struct r;
    snprintf(path, sizeof path, "/proc/%d/exe", pid);
    ssize_t size = readlink(path, program, sizeof program - 1);
    program[size < 0 ? 0 : size] = 0;
    task[pid].is_held = !strcmp(program, target);
    if (!task[pid].is_held || ptrace(PTRACE_GETREGS, pid, 0, &r))
        return;
    unsigned long at = r.rsp + 8 * (ptrace(PTRACE_PEEKDATA, pid, r.rsp, 0) + 2); /* past the arguments */
    while (ptrace(PTRACE_PEEKDATA, pid, at, 0))
        at += 8;
    for (at += 8;; at += 16) {
        long kind = ptrace(PTRACE_PEEKDATA, pid, at, 0);
        if (kind == 0)
            break;
        /* 33: the vDSO, of 2.6.23; off for both, so that no call goes past us.  25, 31: random bytes, the file's name */
        if (kind == 33 || (kind >= 26 && kind <= 30) || kind == 51 || (kernel->is_18 && (kind == 25 || kind == 31)))
            ptrace(PTRACE_POKEDATA, pid, at, (void *)1L); /* AT_IGNORE */
    }
}

/* A call that may be refused. */
static void see_call(pid_t pid)
{
    struct user_regs_struct r;
    if (!task[pid].is_held || ptrace(PTRACE_GETREGS, pid, 0, &r))
        return;
    long call = (long)r.orig_rax;
    int verdict = judge(pid, &r);
    if (verdict == ALLOW)
        return;
    int is_by_second = call == SYS_fcntl || call == SYS_futex || call == SYS_socket || call == SYS_socketpair;
    long detail = call > kernel->last_call || verdict == CHANGED ? 0 : (long)(is_by_second ? r.rsi : r.rdi);
    note(call, detail, verdict < 0 ? -verdict : 0);
    if (verdict < 0) {
        r.orig_rax = -1;
        r.rax = (unsigned long long)verdict;
    }
    ptrace(PTRACE_SETREGS, pid, 0, &r);
}

/* uname has answered: put the old release in its answer. */
static void see_uname(pid_t pid)
{
    struct user_regs_struct r;
    if (ptrace(PTRACE_GETREGS, pid, 0, &r))
        return;
    struct iovec mine = {(void *)kernel->release, strlen(kernel->release) + 1};
    struct iovec its = {(void *)(r.rdi + offsetof(struct utsname, release)), mine.iov_len};
    process_vm_writev(pid, &mine, 1, &its, 1, 0);
}

/* Deal with one stop; return the signal to deliver, or -1 when the task already goes on. */
static int see_stop(pid_t pid, int status)
{
    int number = WSTOPSIG(status), event = status >> 16;
    unsigned long child;
    struct user_regs_struct r;
    switch (event) {
    case PTRACE_EVENT_SECCOMP:
        if (task[pid].is_held && !ptrace(PTRACE_GETREGS, pid, 0, &r) && r.orig_rax == SYS_uname) {
            task[pid].is_in_uname = 1;
            ptrace(PTRACE_SYSCALL, pid, 0, 0);
            return -1;
        }
        see_call(pid);
        return 0;
    case PTRACE_EVENT_EXEC:
        see_exec(pid);
        return 0;
    case PTRACE_EVENT_FORK:
    case PTRACE_EVENT_VFORK:
    case PTRACE_EVENT_CLONE:
        if (!ptrace(PTRACE_GETEVENTMSG, pid, 0, &child) && child <= MAX_PID) {
            task[child].is_held = task[pid].is_held;
            task[child].is_known = 1;
        }
        return 0;
    }
    if (number == (SIGTRAP | 0x80)) {
        if (task[pid].is_in_uname)
            see_uname(pid);
        task[pid].is_in_uname = 0;
        return 0;
    }
    return event == 0 && number != SIGSTOP && number != SIGTRAP ? number : 0;
}

static void become_program(char **argv)
{
    struct sock_filter filter[64];
    unsigned short size = 0;
    filter[size++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    filter[size++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, (unsigned)kernel->last_call, 0, 1);
    filter[size++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE);
    for (size_t i = 0; i < sizeof looked_at / sizeof *looked_at; i++) {
        filter[size++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)looked_at[i], 0, 1);
        filter[size++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE);
    }
    filter[size++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {size, filter};
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    raise(SIGSTOP);
    /* With CAP_SYS_ADMIN a filter needs no no_new_privs, which would change what set-uid programs do */
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) {
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) {
            perror("oldkernel: cannot filter");
            _exit(125);
        }
    }
    execv(argv[0], argv);
    perror("oldkernel: cannot start the program");
    _exit(127);
}

static void write_log(const char *path)
{
    FILE *file = path ? fopen(path, "a") : NULL;
    for (int i = 0; file && i < MAX_REFUSALS && refusal[i].count; i++)
        fprintf(file, "%s call %ld detail %ld: %s, %lu times\n", kernel->name, refusal[i].call, refusal[i].detail,
                refusal[i].error ? strerror(refusal[i].error) : "flags ignored", refusal[i].count);
    if (file)
        fclose(file);
}

/* Trace the program and all that comes of it to its end; tell how the program itself ended as soon as it does. */
static void trace(char **argv, int result)
{
    int status;
    pid_t first = fork();
    if (first == 0)
        become_program(argv);
    int null = open("/dev/null", O_RDWR); /* a daemon may outlive the program, and who reads its output must see the end */
    for (int fd = 0; fd < 3; fd++)
        dup2(null, fd);
    waitpid(first, &status, 0);
    ptrace(PTRACE_SETOPTIONS, first, 0, PTRACE_O_TRACESECCOMP | PTRACE_O_TRACEEXEC | PTRACE_O_TRACEFORK |
           PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
    ptrace(PTRACE_CONT, first, 0, 0);
    for (pid_t pid; (pid = waitpid(-1, &status, __WALL)) > 0 || errno == EINTR;) {
        if (pid < 0)
            continue;
        if (!WIFSTOPPED(status)) {
            task[pid].is_known = 0;
            if (pid == first) {
                write_log(getenv("OLDKERNEL_LOG"));
                prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0); /* what it left is left to live */
                if (write(result, &status, sizeof status) != sizeof status)
                    _exit(125);
            }
            continue;
        }
        meet(pid);
        int number = see_stop(pid, status);
        if (number >= 0)
            ptrace(PTRACE_CONT, pid, 0, (void *)(long)number);
    }
    _exit(0);
}

int main(int argc, char **argv)
{
    int status;
    for (size_t i = 0; argc > 2 && i < sizeof kernels / sizeof *kernels; i++)
        if (!strcmp(argv[1], kernels[i].name))
            kernel = &kernels[i];
    if (!kernel || !realpath(argv[2], target)) {
        fprintf(stderr, "usage: oldkernel 2.6.18|2.6.32 PROGRAM [ARGUMENTS]\n");
        return 125;
    }
    int result[2];
    if (pipe2(result, O_CLOEXEC)) {
        perror("oldkernel: cannot make a pipe");
        return 125;
    }
    pid_t tracer = fork();
    if (tracer == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0); /* who kills us ends the program, and all that it left */
        close(result[0]);
        trace(argv + 2, result[1]);
    }
    close(result[1]);
    if (tracer < 0 || read(result[0], &status, sizeof status) != sizeof status)
        return 125;
    if (WIFSIGNALED(status)) /* who waits for us sees what became of the program */
        raise(WTERMSIG(status));
    return WIFSIGNALED(status) ? 125 : WEXITSTATUS(status);
}
