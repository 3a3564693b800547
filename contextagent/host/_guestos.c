/* What Python can't say to the kernel: starting a script under a supervisor, and a few single calls.
 *
 * A script's supervisor is a process of its own (one clone) that never returns to Python.  It starts the script, adopts
 * whatever the script leaves behind, and tells the agent through a pipe how it ended; the agent tells it through another
 * pipe to end the script.  Either side learns of the other's death by the end of a pipe, so neither pidfd nor SIGCHLD is
 * needed in the agent, and all of this works on any kernel since 2.6.18: each newer feature (PID namespace 2.6.24,
 * child subreaper 3.4, no_new_privs 3.5, close_range 5.9) is tried, and what is not there is done without.
 *
 * Copying the agent's page tables, and then each page that one of the two writes to, would cost more than all that the
 * supervisor does.  So the two share their memory, as after vfork, but both run (ADR 0015).  What makes that safe:
 * - the supervisor writes nowhere but to its own `struct work`, which holds its stack, its order and all its variables;
 * - `errno` is the agent's: the supervisor makes each call that may fail by `sys`, which returns what the kernel said;
 * - it calls nothing that allocates or locks.
 * Descriptors, signals, folders and rights are not shared.  Other processors than x86-64 get a copy.
 * All of it is one file, since a static interpreter takes it in as one built-in module.
 */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef PR_SET_CHILD_SUBREAPER
#define PR_SET_CHILD_SUBREAPER 36
#endif
#ifndef PR_SET_NO_NEW_PRIVS
#define PR_SET_NO_NEW_PRIVS 38
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef SYS_setns
#define SYS_setns (-1) /* headers before Linux 3.0: the kernel then says ENOSYS */
#endif
#ifndef FALLOC_FL_KEEP_SIZE
#define FALLOC_FL_KEEP_SIZE 1
#endif

enum {
    OWN_PIDS = 1,     /* a PID namespace is wanted; in what spawn() returns: and was had */
    KEEP_DAEMONS = 2, /* what the script leaves behind lives on if it ends with exit code 0 */
    OWN_ACCOUNT = 4,  /* nothing else runs as the account: without a namespace, all that does is killed at the end */
    MAY_GAIN = 8,     /* set-uid programs (sudo, apptainer, glexec) work as ever: for pilots, which need them */
};
enum { STATUS_FD = 3, CONTROL_FD = 4, FIRST_FREE_FD = 5 };
enum { MAX_LIMITS = 8, MAX_PROCESSES = 1 << 16, MAX_CAPABILITY = 63 };
enum { SWEEP_S = 10, SWEEP_PAUSE_NS = 2000000 }; /* no bomb may hold the agent up for ever */
enum { LINGER_S = 7, LINGER_PAUSE_NS = 50000000 };
enum { STACK_BYTES = 1 << 16, KERNEL_SIGSET_BYTES = 8 };
enum { MIN_DESCRIPTORS = 1 << 10, MAX_DESCRIPTORS = 1 << 16 }; /* to close without close_range, whatever the limit says */

struct order {
    char **argv, **environment;
    char *folder;
    int out, status, control, flags, limits;
    long uid, gid; /* -1: stay who we are */
    struct { int what; struct rlimit bound; } limit[MAX_LIMITS];
};

struct tree {
    pid_t script;
    int flags, is_subreaper, is_ended, is_told, wait_status;
    long killed;
};

/* All that a supervisor writes to.  Pages of it that are not touched cost nothing. */
struct work {
    volatile pid_t in_use; /* the kernel writes 0 when the supervisor has ended, and its memory is the agent's again */
    size_t size;           /* of the whole, strings included */
    struct order order;
    struct tree tree;
    int exec_error;
    char exec_step; /* which step failed: l(imits), r(ights), d(irectory), x(exec) */
    struct { pid_t pid, parent; char is_ours; } seen[MAX_PROCESSES];
    _Alignas(8) char block[1 << 15];
    _Alignas(16) char stack[STACK_BYTES], script_stack[STACK_BYTES];
    char strings[]; /* argv and environment: pointers, then what they point to */
};

/* ---- calls to the kernel and new processes, without errno ---- */

#if defined __x86_64__ && !defined COPY_MEMORY /* tests build the other half, too */
enum { IS_SHARED = 1 };

/* Return what the kernel says: a result, or a negative error. */
static long call(long number, long a, long b, long c, long d, long e)
{
    long result;
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return result;
}

/* Start a process that runs `run(work)`, which never returns, on a stack of its own; return its pid or a negative error.
 * Given CLONE_VM, it shares our memory; with CLONE_VFORK, too, we go on when it has executed a program or ended. */
static long start_process(long flags, char *stack, void (*run)(struct work *), struct work *w)
{
    long result;
    register volatile pid_t *ended __asm__("r10") = &w->in_use; /* for CLONE_CHILD_CLEARTID alone */
    register long storage __asm__("r8") = 0;
    register void (*what)(struct work *) __asm__("r9") = run;
    register struct work *with __asm__("r12") = w;
    __asm__ volatile("syscall\n\ttest %%rax, %%rax\n\tjnz 1f\n\t"
                     "xor %%ebp, %%ebp\n\tmov %%r12, %%rdi\n\tcall *%%r9\n\thlt\n1:"
                     : "=a"(result) : "a"(SYS_clone), "D"(flags), "S"(stack + STACK_BYTES), "d"(0), "r"(ended), "r"(storage),
                       "r"(what), "r"(with) : "rcx", "r11", "memory");
    return result;
}
#else
enum { IS_SHARED = 0 };

static long call(long number, long a, long b, long c, long d, long e)
{
    long result = syscall(number, a, b, c, d, e);
    return result < 0 ? -errno : result;
}

static long start_process(long flags, char *stack, void (*run)(struct work *), struct work *w)
{
    long result = flags & CLONE_VFORK ? vfork() : syscall(SYS_clone, flags & ~(long)CLONE_CHILD_CLEARTID, 0, 0, 0, 0);
    (void)stack;
    if (result == 0)
        run(w);
    return result < 0 ? -errno : result;
}
#endif

#define SYS_CHOOSE(_1, _2, _3, _4, _5, _6, NAME, ...) NAME
#define L(value) ((long)(value))
#define sys(...) SYS_CHOOSE(__VA_ARGS__, sys5, sys4, sys3, sys2, sys1, sys0)(__VA_ARGS__)
#define sys0(n) call(n, 0, 0, 0, 0, 0)
#define sys1(n, a) call(n, L(a), 0, 0, 0, 0)
#define sys2(n, a, b) call(n, L(a), L(b), 0, 0, 0)
#define sys3(n, a, b, c) call(n, L(a), L(b), L(c), 0, 0)
#define sys4(n, a, b, c, d) call(n, L(a), L(b), L(c), L(d), 0)
#define sys5(n, a, b, c, d, e) call(n, L(a), L(b), L(c), L(d), L(e))

static void leave(int code)
{
    for (;;)
        sys(SYS_exit_group, code);
}

/* Write a line for the agent. */
static void tell(const char *format, ...)
{
    char line[160];
    va_list values;
    va_start(values, format);
    int size = vsnprintf(line, sizeof line, format, values);
    va_end(values);
    while (sys(SYS_write, STATUS_FD, line, size) == -EINTR)
        ;
}

/* ---- the script's own process, between clone and exec: shares the supervisor's memory, which waits for it ---- */

static int set_limit(int what, const struct rlimit *bound)
{
    if (IS_SHARED) /* elsewhere the kernel's structure may be another than the library's */
        return sys(SYS_setrlimit, what, bound);
    return setrlimit(what, bound) ? -errno : 0;
}

static int limit_it(const struct order *o)
{
    for (int i = 0; i < o->limits; i++) {
        struct rlimit bound = o->limit[i].bound, now;
        int error;
        getrlimit(o->limit[i].what, &now);
        if (sys(SYS_geteuid) != 0 && bound.rlim_max > now.rlim_max) /* who is not root can't raise its own bounds */
            bound.rlim_max = now.rlim_max;
        if (bound.rlim_cur > bound.rlim_max)
            bound.rlim_cur = bound.rlim_max;
        if ((error = set_limit(o->limit[i].what, &bound)))
            return error;
    }
    return 0;
}

/* Become an account; not by the library's calls, which would try to do the same in other threads. */
static int change_account(const struct order *o)
{
    int error = sys(SYS_setresgid, o->gid, o->gid, o->gid);
    return error ? error : sys(SYS_setresuid, o->uid, o->uid, o->uid);
}

static int drop_rights(const struct order *o)
{
    /* The bounding set goes first (it needs a capability): where there is no no_new_privs, a set-uid program gains none */
    for (int cap = 0; cap <= MAX_CAPABILITY && !(o->flags & MAY_GAIN); cap++)
        if (sys(SYS_prctl, PR_CAPBSET_DROP, cap) == -EINVAL)
            break;
    int error = sys(SYS_setgroups, 0, 0);
    if (!error)
        error = change_account(o);
    if (!error && !(o->flags & MAY_GAIN))
        sys(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    return error;
}

/* Execute the script; return a negative error, and at which step it came. */
static int become_script(struct work *w)
{
    const struct order *o = &w->order;
    uint64_t none = 0;
    int error;
    /* A pilot is no leader of a session, as it is none in a batch system: PanDA's calls setpgrp(), which a leader may not */
    if (!(o->flags & MAY_GAIN && (w->tree.is_subreaper || w->tree.flags & OWN_PIDS)) || sys(SYS_setpgid, 0, 0))
        sys(SYS_setsid); /* where orphans go to init, the session is what they are known by */
    sys(SYS_umask, 077);
    w->exec_step = 'l';
    if ((error = limit_it(o)))
        return error;
    w->exec_step = 'r';
    if (o->uid >= 0 && (error = drop_rights(o)))
        return error;
    sys(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL); /* after the change of user, which clears it: who kills the supervisor ends */
    w->exec_step = 'd';
    if ((error = sys(SYS_chdir, o->folder))) /* with the script's rights: a folder that the account can't enter is no place */
        return error;
    w->exec_step = 'x';
    tell("start %d\n", (int)sys(SYS_getpid)); /* by ourselves: a script that kills its supervisor must not be faster */
    sys(SYS_rt_sigprocmask, SIG_SETMASK, &none, 0, KERNEL_SIGSET_BYTES);
    return sys(SYS_execve, o->argv[0], o->argv, o->environment);
}

static void run_script(struct work *w)
{
    w->exec_error = -become_script(w);
    leave(127);
}

/* ---- finding and ending the tree ---- */

/* Read parent, session and state of a process; return whether it is alive. */
static int look_at(const char *name, pid_t *parent, pid_t *session)
{
    char path[32], text[512], state;
    snprintf(path, sizeof path, "/proc/%.10s/stat", name);
    int fd = sys(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    long size = sys(SYS_read, fd, text, sizeof text - 1);
    sys(SYS_close, fd);
    if (size <= 0)
        return 0;
    text[size] = 0;
    const char *after = strrchr(text, ')'); /* the name before it is the process's to choose */
    return after && sscanf(after + 1, " %c %d %*d %d", &state, parent, session) == 3 && state != 'Z' && state != 'X';
}

/* Return where a process stands in `seen`, whose pids ascend as /proc lists them; -1 when it is not there. */
static long find_seen(const struct work *w, pid_t pid, long count)
{
    long low = 0, high = count;
    while (low < high) {
        long middle = (low + high) / 2;
        if (w->seen[middle].pid < pid)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && w->seen[low].pid == pid ? low : -1;
}

/* Note every living process in `seen`; return how many there are, or -1 without a /proc. */
static long look_around(struct work *w)
{
    struct { uint64_t inode; int64_t next; unsigned short size; unsigned char kind; char name[]; } *entry;
    long size, count = 0;
    int proc = sys(SYS_openat, AT_FDCWD, "/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (proc < 0)
        return -1;
    while ((size = sys(SYS_getdents64, proc, w->block, sizeof w->block)) > 0)
        for (long at = 0; at < size && count < MAX_PROCESSES; at += entry->size) {
            pid_t session;
            entry = (void *)(w->block + at);
            if (entry->name[0] < '1' || entry->name[0] > '9' || !look_at(entry->name, &w->seen[count].parent, &session))
                continue;
            w->seen[count].pid = atoi(entry->name);
            /* Where orphans come to us, the session says nothing more, and its number may have been given anew */
            w->seen[count].is_ours = !w->tree.is_subreaper && session == w->tree.script;
            count++;
        }
    sys(SYS_close, proc);
    return count;
}

/* Send `number` to everything that descends from us (or, where orphans go to init, is of the script's session);
 * return how many there were. */
static long signal_descendants(struct work *w, int number)
{
    long count = look_around(w), found = 0;
    pid_t self = sys(SYS_getpid);
    if (count < 0)
        return !sys(SYS_kill, -w->tree.script, number); /* no /proc: the process group is all that we know */
    for (int is_new = 1; is_new;) {
        is_new = 0;
        for (long i = 0; i < count; i++) {
            if (w->seen[i].is_ours || w->seen[i].pid == self)
                continue;
            long parent = find_seen(w, w->seen[i].parent, count);
            w->seen[i].is_ours = w->seen[i].parent == self || (parent >= 0 && w->seen[parent].is_ours);
            is_new |= w->seen[i].is_ours;
        }
    }
    for (long i = 0; i < count; i++)
        if (w->seen[i].is_ours && w->seen[i].pid != self && !sys(SYS_kill, w->seen[i].pid, number))
            found++;
    return found;
}

static void signal_tree(struct work *w, int number)
{
    if (w->tree.flags & OWN_PIDS)
        sys(SYS_kill, -1, number); /* we are process 1 of the namespace: all but us, none missed */
    else
        signal_descendants(w, number);
}

/* Reap what has ended; remember how the script did.  Return whether there are still children. */
static int reap(struct tree *t, int is_sweep, int options)
{
    int status;
    long pid;
    while ((pid = sys(SYS_wait4, -1, &status, options, 0)) > 0) {
        if (pid == t->script) {
            t->is_ended = 1;
            t->wait_status = status;
        }
        if (is_sweep && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
            t->killed++;
    }
    return pid != -ECHILD;
}

static void run_kill(struct work *w)
{
    if (!change_account(&w->order))
        sys(SYS_kill, -1, SIGKILL);
    leave(0);
}

/* Kill whatever runs as the account, from a child that has become it: the kernel then lets it reach nothing else.
 * Once is enough, since no fork gets past a kill of all; how many there were the kernel does not say. */
static void kill_account(struct work *w)
{
    long pid = start_process(CLONE_VM | CLONE_VFORK | SIGCHLD, w->script_stack, run_kill, w);
    if (pid > 0)
        sys(SYS_wait4, pid, 0, 0, 0);
}

static void sweep(struct work *w)
{
    struct tree *t = &w->tree;
    struct timespec pause = {0, SWEEP_PAUSE_NS}, now, end;
    if (t->flags & OWN_PIDS) {
        sys(SYS_kill, -1, SIGKILL);
        reap(t, 1, 0);
        return;
    }
    if (t->flags & OWN_ACCOUNT && w->order.uid > 0)
        kill_account(w);
    if (t->is_subreaper && !reap(t, 1, WNOHANG))
        return; /* every descendant would have come to be a child of ours, so there is none */
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += SWEEP_S;
    do {
        long found = signal_descendants(w, SIGKILL);
        reap(t, 1, WNOHANG);
        if (!found && (t->is_ended || sys(SYS_kill, t->script, 0)))
            return;
        nanosleep(&pause, NULL); /* no signal ends it: all are blocked */
        reap(t, 1, WNOHANG);
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec < end.tv_sec);
}

/* ---- the supervisor ---- */

static void wake(int number)
{
    (void)number; /* its delivery ends ppoll, and that is all it is for */
}

/* Take no signal as Python did, which ignores some: a script must not; all are blocked here. */
static void arrange_signals(void)
{
    struct { void *handler; unsigned long flags; void *restorer; uint64_t mask; } by_default = {0};
    struct sigaction on_child = {.sa_handler = wake};
    for (int number = 1; number <= KERNEL_SIGSET_BYTES * 8; number++)
        sys(SYS_rt_sigaction, number, &by_default, 0, KERNEL_SIGSET_BYTES);
    sigaction(SIGCHLD, &on_child, NULL); /* can't fail */
}

/* Close this descriptor and all above it. */
static void close_from(int first)
{
    struct rlimit files;
    if (!sys(SYS_close_range, first, ~0U, 0))
        return;
    getrlimit(RLIMIT_NOFILE, &files);
    for (rlim_t fd = first; (fd < files.rlim_cur || fd < MIN_DESCRIPTORS) && fd < MAX_DESCRIPTORS; fd++)
        sys(SYS_close, fd);
}

/* Put our descriptors where we want them, and close all others: the agent's lock must not outlive it in us. */
static void arrange_descriptors(const struct order *o)
{
    /* first out of the way of each other: the agent's own 0 to 4 may be any of them */
    long out = sys(SYS_fcntl, o->out, F_DUPFD, FIRST_FREE_FD), status = sys(SYS_fcntl, o->status, F_DUPFD, FIRST_FREE_FD);
    long control = sys(SYS_fcntl, o->control, F_DUPFD, FIRST_FREE_FD);
    long null = sys(SYS_openat, AT_FDCWD, "/dev/null", O_RDWR);
    if (out < 0 || status < 0 || control < 0 || null < 0) {
        long cause = out < 0 ? out : status < 0 ? status : control < 0 ? control : null;
        dup2(o->status, STATUS_FD);
        tell("fail %d f\n", (int)-cause);
        leave(1);
    }
    dup2(null, 0);
    dup2(out, 1);
    dup2(out, 2);
    dup2(status, STATUS_FD);
    dup2(control, CONTROL_FD);
    sys(SYS_fcntl, STATUS_FD, F_SETFD, FD_CLOEXEC);
    sys(SYS_fcntl, CONTROL_FD, F_SETFD, FD_CLOEXEC);
    close_from(FIRST_FREE_FD);
}

/* Let what is mounted in the namespace stay there, and give it its own /proc. */
static void arrange_mounts(void)
{
    const long proc = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    /* host view: what the host mounts later appears here, what is done here stays here */
    if (sys(SYS_mount, 0, "/", 0, MS_REC | MS_SLAVE, 0) == 0 && sys(SYS_mount, "proc", "/proc", "proc", proc, 0))
        /* in a user namespace whose /proc is read-only, no other is granted (`contextagent simulate`) */
        sys(SYS_mount, "proc", "/proc", "proc", proc | MS_RDONLY, 0);
}

static void report(const struct tree *t)
{
    struct rusage used;
    getrusage(RUSAGE_CHILDREN, &used);
    tell("end %d %lld %lld %ld %ld\n", t->is_ended ? t->wait_status : SIGKILL,
         used.ru_utime.tv_sec * 1000000LL + used.ru_utime.tv_usec, used.ru_stime.tv_sec * 1000000LL + used.ru_stime.tv_usec,
         used.ru_maxrss, t->killed);
}

/* Pass a signal on to the script's own group: what batch systems do, and pilots count on. Return whether it was one. */
static int signal_group(struct work *w)
{
    unsigned char number;
    if (sys(SYS_read, CONTROL_FD, &number, 1) != 1)
        return 0;
    w->tree.is_told = 1;
    sys(SYS_kill, -w->tree.script, number);
    sys(SYS_kill, -w->tree.script, SIGCONT);
    return 1;
}

/* Give the rest of a group that was told to end some time: a shell dies at once of what its child ends in order by. */
static void linger(struct work *w)
{
    struct pollfd control = {CONTROL_FD, POLLIN, 0};
    struct timespec pause = {0, LINGER_PAUSE_NS}, now, end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += LINGER_S;
    do {
        if (sys(SYS_kill, -w->tree.script, 0) || sys(SYS_ppoll, &control, 1, &pause, 0, KERNEL_SIGSET_BYTES) > 0)
            return; /* it is gone; or whatever is said now, if only by the agent's death, ends the waiting */
        pause.tv_nsec = LINGER_PAUSE_NS; /* the kernel wrote into it */
        reap(&w->tree, 0, WNOHANG);
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec < end.tv_sec);
}

/* Wait for the script to end, or for the agent to say (or to die) so. */
static void watch(struct work *w)
{
    struct pollfd control = {CONTROL_FD, POLLIN, 0};
    uint64_t but_child = ~(1ULL << (SIGCHLD - 1));
    for (reap(&w->tree, 0, WNOHANG); !w->tree.is_ended; reap(&w->tree, 0, WNOHANG)) {
        char command;
        if (sys(SYS_ppoll, &control, 1, 0, &but_child, KERNEL_SIGSET_BYTES) <= 0)
            continue;
        if (sys(SYS_read, CONTROL_FD, &command, 1) != 1 || !(command == 'T' || (command == 'S' && signal_group(w))))
            return;
        if (command == 'S')
            continue;
        signal_tree(w, SIGTERM);
        signal_tree(w, SIGCONT); /* a stopped process takes the first only after this */
    }
}

static void supervise(struct work *w)
{
    struct tree *t = &w->tree;
    /* only process 1 may kill "all"; where we are not, the account is what can be swept */
    t->flags = w->order.flags & ~(sys(SYS_getpid) == 1 ? OWN_ACCOUNT : OWN_PIDS);
    arrange_signals();
    arrange_descriptors(&w->order);
    if (t->flags & OWN_PIDS)
        arrange_mounts();
    else
        t->is_subreaper = sys(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0;
    long pid = start_process(CLONE_VM | CLONE_VFORK | SIGCHLD, w->script_stack, run_script, w);
    if (pid < 0 || w->exec_error) {
        tell("fail %d %c\n", pid < 0 ? (int)-pid : w->exec_error, pid < 0 ? 'f' : w->exec_step);
        leave(1);
    }
    t->script = pid;
    dup2(0, 1); /* the output pipe is the script's alone now */
    dup2(0, 2);
    watch(w);
    if (t->is_ended && t->is_told)
        linger(w);
    if (!(t->flags & KEEP_DAEMONS && t->is_ended && t->wait_status == 0))
        sweep(w);
    report(t);
    leave(0);
}

/* ---- for Python ---- */

/* Return how many bytes a tuple of bytes takes as strings with the pointers to them; -1 where one holds a NUL. */
static Py_ssize_t size_of_strings(PyObject *tuple)
{
    Py_ssize_t count = PyTuple_GET_SIZE(tuple), size = (count + 1) * (Py_ssize_t)sizeof(char *);
    for (Py_ssize_t i = 0; i < count; i++) {
        char *text;
        if (PyBytes_AsStringAndSize(PyTuple_GET_ITEM(tuple, i), &text, NULL)) /* refuses a NUL inside */
            return -1;
        size += PyBytes_GET_SIZE(PyTuple_GET_ITEM(tuple, i)) + 1;
    }
    return size + (-size & 7); /* what follows may be pointers again */
}

/* Copy a tuple's strings to `at`, and return the pointers to them, which stand there first. */
static char **put_strings(PyObject *tuple, char *at)
{
    Py_ssize_t count = PyTuple_GET_SIZE(tuple);
    char **made = (char **)at;
    at += (count + 1) * sizeof *made;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *text = PyTuple_GET_ITEM(tuple, i);
        made[i] = at;
        at = (char *)memcpy(at, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text) + 1) + PyBytes_GET_SIZE(text) + 1;
    }
    made[count] = NULL;
    return made;
}

/* Return room for a supervisor, with so many bytes of strings: the last one's, where that has ended. */
static struct work *find_room(size_t strings_bytes)
{
    static struct work *last;
    size_t size = sizeof *last + strings_bytes;
    if (last && !last->in_use && last->size < size) {
        munmap(last, last->size);
        last = NULL;
    }
    if (!last || last->in_use) { /* one that can't be ended keeps its room */
        void *made = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (made == MAP_FAILED)
            return (struct work *)PyErr_SetFromErrno(PyExc_OSError);
        last = made;
        last->size = size;
    }
    memset(&last->order, 0, sizeof last->order);
    memset(&last->tree, 0, sizeof last->tree);
    last->exec_error = 0;
    return last;
}

static int read_limits(PyObject *tuple, struct order *o)
{
    o->limits = (int)PyTuple_GET_SIZE(tuple);
    if (o->limits > MAX_LIMITS) {
        PyErr_SetString(PyExc_ValueError, "too many limits");
        return -1;
    }
    for (int i = 0; i < o->limits; i++) {
        unsigned long long soft, hard;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(tuple, i), "iKK", &o->limit[i].what, &soft, &hard))
            return -1;
        o->limit[i].bound = (struct rlimit){soft, hard};
    }
    return 0;
}

/* Whether this kernel knows PID namespaces: before 2.6.24 it starts a process without one, and says nothing. */
static int has_pid_namespaces(void)
{
    struct utsname about;
    int major = 0, minor = 0, patch = 0;
    if (uname(&about) || sscanf(about.release, "%d.%d.%d", &major, &minor, &patch) < 2)
        return 0;
    return major > 2 || (major == 2 && (minor > 6 || (minor == 6 && patch >= 24)));
}

/* Start the supervisor, sharing our memory where that can be; return its pid, or a negative error. */
static long start_sharing(struct work *w, long flags)
{
    w->in_use = IS_SHARED;
    long pid = IS_SHARED ? start_process(flags | CLONE_VM | CLONE_CHILD_CLEARTID | SIGCHLD, w->stack, supervise, w) : -EINVAL;
    if (pid < 0) {
        w->in_use = 0; /* a copy has room of its own */
        pid = start_process(flags | SIGCHLD, w->stack, supervise, w);
    }
    return pid;
}

/* Start the supervisor: by clone itself, since fork can't ask for namespaces and unshare would move the agent. */
static long start_supervisor(struct work *w)
{
    struct order *o = &w->order;
    sigset_t all, before;
    long pid = -1;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before); /* no handler of Python's may run in the supervisor */
    if (o->flags & OWN_PIDS && has_pid_namespaces())
        pid = start_sharing(w, CLONE_NEWPID | CLONE_NEWNS);
    if (pid < 0) {
        o->flags &= ~OWN_PIDS;
        pid = start_sharing(w, 0);
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    return pid;
}

static PyObject *guestos_spawn(PyObject *module, PyObject *arguments)
{
    struct order o = {0};
    struct work *w;
    PyObject *argv, *environment, *folder = NULL, *limits, *result = NULL;
    Py_ssize_t argv_bytes, environment_bytes;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "O!O!O&(iii)(ll)O!i:spawn", &PyTuple_Type, &argv, &PyTuple_Type, &environment,
                          PyUnicode_FSConverter, &folder, &o.out, &o.status, &o.control, &o.uid, &o.gid, &PyTuple_Type,
                          &limits, &o.flags))
        return NULL;
    if (!read_limits(limits, &o) && (argv_bytes = size_of_strings(argv)) >= 0 &&
        (environment_bytes = size_of_strings(environment)) >= 0 &&
        (w = find_room(argv_bytes + environment_bytes + PyBytes_GET_SIZE(folder) + 1))) {
        o.argv = put_strings(argv, w->strings);
        o.environment = put_strings(environment, w->strings + argv_bytes);
        o.folder = strcpy(w->strings + argv_bytes + environment_bytes, PyBytes_AS_STRING(folder));
        w->order = o;
        long pid = start_supervisor(w);
        errno = (int)-pid;
        result = pid < 0 ? PyErr_SetFromErrno(PyExc_OSError) : Py_BuildValue("ii", (int)pid, w->order.flags);
    }
    Py_DECREF(folder);
    return result;
}

static PyObject *done(int is_failed)
{
    if (is_failed)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyObject *guestos_mount(PyObject *module, PyObject *arguments)
{
    PyObject *source, *target;
    const char *kind, *data = NULL;
    unsigned long flags;
    int is_failed;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "O&O&sk|s:mount", PyUnicode_FSConverter, &source, PyUnicode_FSConverter, &target,
                          &kind, &flags, &data))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    is_failed = mount(PyBytes_AS_STRING(source), PyBytes_AS_STRING(target), kind, flags, data);
    Py_END_ALLOW_THREADS
    Py_DECREF(source);
    Py_DECREF(target);
    return done(is_failed);
}

static PyObject *guestos_umount(PyObject *module, PyObject *arguments)
{
    PyObject *target;
    int flags, is_failed;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "O&i:umount", PyUnicode_FSConverter, &target, &flags))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    is_failed = umount2(PyBytes_AS_STRING(target), flags);
    Py_END_ALLOW_THREADS
    Py_DECREF(target);
    return done(is_failed);
}

static PyObject *guestos_unshare(PyObject *module, PyObject *arguments)
{
    int flags;
    (void)module;
    return PyArg_ParseTuple(arguments, "i:unshare", &flags) ? done(unshare(flags)) : NULL;
}

static PyObject *guestos_setns(PyObject *module, PyObject *arguments)
{
    int fd, kind;
    (void)module;
    return PyArg_ParseTuple(arguments, "ii:setns", &fd, &kind) ? done(syscall(SYS_setns, fd, kind) != 0) : NULL;
}

static PyObject *guestos_pivot_root(PyObject *module, PyObject *arguments)
{
    PyObject *root, *old;
    int is_failed;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "O&O&:pivot_root", PyUnicode_FSConverter, &root, PyUnicode_FSConverter, &old))
        return NULL;
    is_failed = syscall(SYS_pivot_root, PyBytes_AS_STRING(root), PyBytes_AS_STRING(old)) != 0;
    Py_DECREF(root);
    Py_DECREF(old);
    return done(is_failed);
}

static PyObject *guestos_new_keyring(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return done(syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, NULL) < 0);
}

static PyObject *guestos_prctl(PyObject *module, PyObject *arguments)
{
    int option;
    unsigned long value;
    (void)module;
    return PyArg_ParseTuple(arguments, "ik:prctl", &option, &value) ? done(prctl(option, value, 0, 0, 0)) : NULL;
}

static PyObject *guestos_close_from(PyObject *module, PyObject *arguments)
{
    int first;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "i:close_from", &first))
        return NULL;
    close_from(first);
    Py_RETURN_NONE;
}

static PyObject *guestos_reserve(PyObject *module, PyObject *arguments)
{
    int fd;
    long long from, size;
    (void)module;
    return PyArg_ParseTuple(arguments, "iLL:reserve", &fd, &from, &size)
               ? done(fallocate(fd, FALLOC_FL_KEEP_SIZE, from, size)) : NULL;
}

static PyObject *guestos_clock_status(PyObject *module, PyObject *unused)
{
    struct timex now = {0};
    (void)module, (void)unused;
    return adjtimex(&now) < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(now.status);
}

static PyMethodDef methods[] = {
    {"spawn", guestos_spawn, METH_VARARGS,
     "spawn(argv, environment, folder, (out, status, control), (uid, gid), limits, flags) -> (pid, flags)\n\n"
     "Start a script under a supervisor; return the supervisor's pid, and the flags that the kernel granted.\n"
     "argv, environment: tuples of bytes.  (-1, -1): keep the caller's rights.  limits: (resource, soft, hard), ....\n"
     "The supervisor writes lines to `status`: `start PID`, then `end WAITSTATUS USER_US SYSTEM_US MAXRSS_KIB KILLED`;\n"
     "or `fail ERRNO STEP` alone.  On `control` it reads T (TERM to the tree), or S and a byte (that signal to the\n"
     "script's group, whose rest then has a moment longer than the script); anything else, or its end, kills the tree."},
    {"mount", guestos_mount, METH_VARARGS, "mount(source, target, kind, flags[, data])"},
    {"umount", guestos_umount, METH_VARARGS, "umount(target, flags)"},
    {"unshare", guestos_unshare, METH_VARARGS, "unshare(flags)"},
    {"setns", guestos_setns, METH_VARARGS, "setns(fd, kind)"},
    {"pivot_root", guestos_pivot_root, METH_VARARGS, "pivot_root(new, old)"},
    {"new_keyring", guestos_new_keyring, METH_NOARGS, "new_keyring(): leave the caller's session keyring for an empty one"},
    {"prctl", guestos_prctl, METH_VARARGS, "prctl(option, value)"},
    {"close_from", guestos_close_from, METH_VARARGS,
     "close_from(first): close this descriptor and all above it; os.closerange makes a call for each with some libraries"},
    {"reserve", guestos_reserve, METH_VARARGS, "reserve(fd, from, size): allocate blocks, leave the file's size as it is"},
    {"clock_status", guestos_clock_status, METH_NOARGS, "clock_status() -> the status word of adjtimex(2)"},
    {NULL, NULL, 0, NULL},
};

static int add_constants(PyObject *module)
{
    /* the limits, too: importing `resource` for five numbers would cost a boot 0.3 ms */
    static const struct { const char *name; long value; } constant[] = {
        {"OWN_PIDS", OWN_PIDS},           {"KEEP_DAEMONS", KEEP_DAEMONS},   {"OWN_ACCOUNT", OWN_ACCOUNT},
        {"MAY_GAIN", MAY_GAIN},           {"RLIMIT_AS", RLIMIT_AS},       {"RLIMIT_CORE", RLIMIT_CORE},
        {"RLIMIT_CPU", RLIMIT_CPU},       {"RLIMIT_NOFILE", RLIMIT_NOFILE}, {"RLIMIT_NPROC", RLIMIT_NPROC},
    };
    for (size_t i = 0; i < sizeof constant / sizeof *constant; i++)
        if (PyModule_AddIntConstant(module, constant[i].name, constant[i].value))
            return -1;
    return 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, add_constants}, {0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_guestos", "What Python can't say to the kernel.", 0, methods, slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__guestos(void)
{
    return PyModuleDef_Init(&definition);
}
