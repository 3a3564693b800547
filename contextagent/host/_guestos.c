/* What Python can't say to the kernel: starting a script under a supervisor, and a few single calls.
 *
 * A script's supervisor is a copy of the agent (one clone) that never returns to Python.  It starts the script, adopts
 * whatever the script leaves behind, and tells the agent through a pipe how it ended; the agent tells it through another
 * pipe to end the script.  Either side learns of the other's death by the end of a pipe, so neither pidfd nor SIGCHLD is
 * needed in the agent, and all of this works on any kernel since 2.6.18: each newer feature (PID namespace 2.6.24,
 * child subreaper 3.4, no_new_privs 3.5, close_range 5.9) is tried, and what is not there is done without.
 *
 * The supervisor calls nothing that allocates: it is a copy of a program whose locks may be held.
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
};
enum { STATUS_FD = 3, CONTROL_FD = 4, FIRST_FREE_FD = 5 };
enum { MAX_LIMITS = 8, MAX_PROCESSES = 1 << 16, MAX_CAPABILITY = 63 };
enum { SWEEP_S = 10, SWEEP_PAUSE_NS = 2000000 }; /* no bomb may hold the agent up for ever */

struct order {
    char **argv, **environment;
    const char *folder;
    int out, status, control, flags, limits;
    long uid, gid; /* -1: stay who we are */
    struct { int what; struct rlimit bound; } limit[MAX_LIMITS];
};

struct tree {
    pid_t script;
    int flags, is_subreaper, is_ended, wait_status;
    long killed;
};

/* Write a line for the agent. */
static void tell(const char *format, ...)
{
    char line[160];
    va_list values;
    va_start(values, format);
    int size = vsnprintf(line, sizeof line, format, values);
    va_end(values);
    while (write(STATUS_FD, line, size) < 0 && errno == EINTR)
        ;
}

/* ---- the script's own process, between vfork and exec: shares the supervisor's memory, so it only makes calls ---- */

static volatile int exec_errno;
static volatile char exec_step; /* which step failed: l(imits), r(ights), d(irectory), x(exec) */

static int limit_it(const struct order *o)
{
    for (int i = 0; i < o->limits; i++) {
        struct rlimit bound = o->limit[i].bound, now;
        if (getrlimit(o->limit[i].what, &now))
            return -1;
        if (geteuid() != 0 && bound.rlim_max > now.rlim_max) /* a caller who is not root can't raise its own bounds */
            bound.rlim_max = now.rlim_max;
        if (bound.rlim_cur > bound.rlim_max)
            bound.rlim_cur = bound.rlim_max;
        if (setrlimit(o->limit[i].what, &bound))
            return -1;
    }
    return 0;
}

static int drop_rights(const struct order *o)
{
    /* The bounding set goes first (it needs a capability): where there is no no_new_privs, a set-uid program gains none */
    for (int cap = 0; cap <= MAX_CAPABILITY; cap++)
        if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) && errno == EINVAL)
            break;
    /* Raw calls: the library's own would try to do the same in other threads, whose list we share with the supervisor */
    if (syscall(SYS_setgroups, 0, NULL) || syscall(SYS_setresgid, o->gid, o->gid, o->gid) ||
        syscall(SYS_setresuid, o->uid, o->uid, o->uid))
        return -1;
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    return 0;
}

static void become_script(const struct order *o)
{
    sigset_t none;
    sigemptyset(&none);
    setsid();
    umask(077);
    exec_step = 'l';
    if (limit_it(o))
        return;
    exec_step = 'r';
    if (o->uid >= 0 && drop_rights(o))
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0); /* after the change of user, which clears it: who kills the supervisor ends */
    exec_step = 'd';
    if (chdir(o->folder)) /* with the script's rights: a folder that the account can't enter is no place for it */
        return;
    exec_step = 'x';
    tell("start %d\n", (int)getpid()); /* by ourselves: a script that kills its supervisor must not be faster */
    sigprocmask(SIG_SETMASK, &none, NULL);
    execve(o->argv[0], o->argv, o->environment);
}

/* ---- finding and ending the tree ---- */

static struct { pid_t pid, parent; char is_ours; } seen[MAX_PROCESSES];

/* Read parent, session and state of a process; return whether it is alive. */
static int look_at(const char *name, pid_t *parent, pid_t *session)
{
    char path[32], text[512], state;
    snprintf(path, sizeof path, "/proc/%.10s/stat", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t size = read(fd, text, sizeof text - 1);
    close(fd);
    if (size <= 0)
        return 0;
    text[size] = 0;
    const char *after = strrchr(text, ')'); /* the name before it is the process's to choose */
    return after && sscanf(after + 1, " %c %d %*d %d", &state, parent, session) == 3 && state != 'Z' && state != 'X';
}

/* Return where a process stands in `seen`, whose pids ascend as /proc lists them; -1 when it is not there. */
static long find_seen(pid_t pid, long count)
{
    long low = 0, high = count;
    while (low < high) {
        long middle = (low + high) / 2;
        if (seen[middle].pid < pid)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && seen[low].pid == pid ? low : -1;
}

/* Send `number` to everything that descends from us (or, where orphans go to init, is of the script's session);
 * return how many there were. */
static long signal_descendants(const struct tree *t, int number)
{
    struct { uint64_t inode; int64_t next; unsigned short size; unsigned char kind; char name[]; } *entry;
    _Alignas(8) static char block[1 << 15];
    long size, count = 0, found = 0;
    pid_t self = getpid();
    int proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (proc < 0)
        return kill(-t->script, number) ? 0 : 1; /* no /proc: the process group is all that we know */
    while ((size = syscall(SYS_getdents64, proc, block, sizeof block)) > 0)
        for (long at = 0; at < size && count < MAX_PROCESSES; at += entry->size) {
            pid_t session;
            entry = (void *)(block + at);
            if (entry->name[0] < '1' || entry->name[0] > '9' || !look_at(entry->name, &seen[count].parent, &session))
                continue;
            seen[count].pid = atoi(entry->name);
            /* Where orphans come to us, the session says nothing more, and its number may have been given anew */
            seen[count].is_ours = !t->is_subreaper && session == t->script;
            count++;
        }
    close(proc);
    for (int is_new = 1; is_new;) {
        is_new = 0;
        for (long i = 0; i < count; i++) {
            if (seen[i].is_ours || seen[i].pid == self)
                continue;
            long parent = find_seen(seen[i].parent, count);
            seen[i].is_ours = seen[i].parent == self || (parent >= 0 && seen[parent].is_ours);
            is_new |= seen[i].is_ours;
        }
    }
    for (long i = 0; i < count; i++)
        if (seen[i].is_ours && seen[i].pid != self && !kill(seen[i].pid, number))
            found++;
    return found;
}

static void signal_tree(const struct tree *t, int number)
{
    if (t->flags & OWN_PIDS)
        kill(-1, number); /* we are process 1 of the namespace: all but us, none missed */
    else
        signal_descendants(t, number);
}

/* Reap what has ended; remember how the script did.  Return whether there are still children. */
static int reap(struct tree *t, int is_sweep, int options)
{
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, options)) > 0) {
        if (pid == t->script) {
            t->is_ended = 1;
            t->wait_status = status;
        }
        if (is_sweep && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
            t->killed++;
    }
    return pid == 0 || errno != ECHILD;
}

/* Kill whatever runs as the account, from a child that has become it: the kernel then lets it reach nothing else.
 * Once is enough, since no fork gets past a kill of all; how many there were the kernel does not say. */
static void kill_account(const struct order *o)
{
    pid_t pid = vfork();
    if (pid == 0) {
        if (!syscall(SYS_setresgid, o->gid, o->gid, o->gid) && !syscall(SYS_setresuid, o->uid, o->uid, o->uid))
            kill(-1, SIGKILL);
        _exit(0);
    }
    if (pid > 0)
        waitpid(pid, NULL, 0);
}

static void sweep(struct tree *t, const struct order *o)
{
    struct timespec pause = {0, SWEEP_PAUSE_NS}, now, end;
    if (t->flags & OWN_PIDS) {
        kill(-1, SIGKILL);
        reap(t, 1, 0);
        return;
    }
    if (t->flags & OWN_ACCOUNT && o->uid > 0)
        kill_account(o);
    if (t->is_subreaper && !reap(t, 1, WNOHANG))
        return; /* every descendant would have come to be a child of ours, so there is none */
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += SWEEP_S;
    do {
        long found = signal_descendants(t, SIGKILL);
        reap(t, 1, WNOHANG);
        if (!found && (t->is_ended || kill(t->script, 0)))
            return;
        nanosleep(&pause, NULL);
        reap(t, 1, WNOHANG);
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec < end.tv_sec);
}

/* ---- the supervisor ---- */

static void wake(int number)
{
    (void)number; /* its delivery ends ppoll, and that is all it is for */
}

/* Put our descriptors where we want them, and close all others: the agent's lock must not outlive it in us. */
static void arrange_descriptors(const struct order *o)
{
    /* first out of the way of each other: the agent's own 0 to 4 may be any of them */
    int out = fcntl(o->out, F_DUPFD, FIRST_FREE_FD), status = fcntl(o->status, F_DUPFD, FIRST_FREE_FD);
    int control = fcntl(o->control, F_DUPFD, FIRST_FREE_FD), null = open("/dev/null", O_RDWR);
    if (out < 0 || status < 0 || control < 0 || null < 0) {
        int cause = errno;
        dup2(o->status, STATUS_FD);
        tell("fail %d f\n", cause);
        _exit(1);
    }
    dup2(null, 0);
    dup2(out, 1);
    dup2(out, 2);
    dup2(status, STATUS_FD);
    dup2(control, CONTROL_FD);
    fcntl(STATUS_FD, F_SETFD, FD_CLOEXEC);
    fcntl(CONTROL_FD, F_SETFD, FD_CLOEXEC);
    if (syscall(SYS_close_range, FIRST_FREE_FD, ~0U, 0)) {
        struct rlimit files;
        getrlimit(RLIMIT_NOFILE, &files);
        for (rlim_t fd = FIRST_FREE_FD; fd < files.rlim_cur && fd < 1 << 16; fd++)
            close(fd);
    }
}

static void report(const struct tree *t)
{
    struct rusage used;
    getrusage(RUSAGE_CHILDREN, &used);
    tell("end %d %lld %lld %ld %ld\n", t->is_ended ? t->wait_status : SIGKILL,
         used.ru_utime.tv_sec * 1000000LL + used.ru_utime.tv_usec, used.ru_stime.tv_sec * 1000000LL + used.ru_stime.tv_usec,
         used.ru_maxrss, t->killed);
}

/* Wait for the script to end, or for the agent to say (or to die) so. */
static void watch(struct tree *t)
{
    struct pollfd control = {CONTROL_FD, POLLIN, 0};
    sigset_t but_child;
    sigfillset(&but_child);
    sigdelset(&but_child, SIGCHLD);
    for (reap(t, 0, WNOHANG); !t->is_ended; reap(t, 0, WNOHANG)) {
        char command;
        if (ppoll(&control, 1, NULL, &but_child) <= 0)
            continue;
        if (read(CONTROL_FD, &command, 1) != 1 || command != 'T')
            return;
        signal_tree(t, SIGTERM);
        signal_tree(t, SIGCONT); /* a stopped process takes the first only after this */
    }
}

static void supervise(const struct order *o)
{
    /* only process 1 may kill "all"; where we are not, the account is what can be swept */
    struct tree t = {.flags = o->flags & ~(getpid() == 1 ? OWN_ACCOUNT : OWN_PIDS)};
    struct sigaction on_child = {.sa_handler = wake};
    for (int number = 1; number < NSIG; number++) /* all are blocked here; what Python ignores a script must not */
        signal(number, SIG_DFL);
    sigaction(SIGCHLD, &on_child, NULL);
    arrange_descriptors(o);
    if (t.flags & OWN_PIDS) {
        /* host view: what the host mounts later appears here, what is done here stays here; and its own /proc */
        if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) == 0 &&
            mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL))
            /* in a user namespace whose /proc is read-only, no other is granted (`contextagent simulate`) */
            mount("proc", "/proc", "proc", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    } else {
        t.is_subreaper = prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0;
    }
    t.script = vfork();
    if (t.script == 0) {
        become_script(o);
        exec_errno = errno;
        _exit(127);
    }
    if (t.script < 0 || exec_errno) {
        tell("fail %d %c\n", t.script < 0 ? errno : exec_errno, t.script < 0 ? 'f' : exec_step);
        _exit(1);
    }
    dup2(0, 1); /* the output pipe is the script's alone now */
    dup2(0, 2);
    watch(&t);
    if (!(t.flags & KEEP_DAEMONS && t.is_ended && t.wait_status == 0))
        sweep(&t, o);
    report(&t);
    _exit(0);
}

/* ---- for Python ---- */

static char **strings(PyObject *tuple)
{
    Py_ssize_t size = PyTuple_GET_SIZE(tuple);
    char **made = PyMem_Calloc(size + 1, sizeof *made);
    if (!made)
        return (char **)PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < size; i++)
        if (PyBytes_AsStringAndSize(PyTuple_GET_ITEM(tuple, i), &made[i], NULL)) { /* refuses a NUL inside */
            PyMem_Free(made);
            return NULL;
        }
    return made;
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

/* Start the supervisor: by clone itself, since fork can't ask for namespaces and unshare would move the agent. */
static pid_t start_supervisor(struct order *o)
{
    sigset_t all, before;
    pid_t pid = -1;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before); /* no handler of Python's may run in the copy */
    if (o->flags & OWN_PIDS && has_pid_namespaces())
        pid = (pid_t)syscall(SYS_clone, CLONE_NEWPID | CLONE_NEWNS | SIGCHLD, 0, 0, 0, 0);
    if (pid < 0) {
        o->flags &= ~OWN_PIDS;
        pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    } else {
        o->flags &= ~OWN_ACCOUNT;
    }
    if (pid == 0)
        supervise(o);
    sigprocmask(SIG_SETMASK, &before, NULL);
    return pid;
}

static PyObject *guestos_spawn(PyObject *module, PyObject *arguments)
{
    struct order o = {0};
    PyObject *argv, *environment, *folder = NULL, *limits, *result = NULL;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "O!O!O&(iii)(ll)O!i:spawn", &PyTuple_Type, &argv, &PyTuple_Type, &environment,
                          PyUnicode_FSConverter, &folder, &o.out, &o.status, &o.control, &o.uid, &o.gid, &PyTuple_Type,
                          &limits, &o.flags))
        return NULL;
    o.folder = PyBytes_AS_STRING(folder);
    if (!read_limits(limits, &o) && (o.argv = strings(argv)) && (o.environment = strings(environment))) {
        pid_t pid = start_supervisor(&o);
        result = pid < 0 ? PyErr_SetFromErrno(PyExc_OSError) : Py_BuildValue("ii", (int)pid, o.flags);
    }
    PyMem_Free(o.argv);
    PyMem_Free(o.environment);
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
     "or `fail ERRNO STEP` alone.  On `control` it reads T (TERM to the tree); anything else, or its end, kills the tree."},
    {"mount", guestos_mount, METH_VARARGS, "mount(source, target, kind, flags[, data])"},
    {"umount", guestos_umount, METH_VARARGS, "umount(target, flags)"},
    {"unshare", guestos_unshare, METH_VARARGS, "unshare(flags)"},
    {"setns", guestos_setns, METH_VARARGS, "setns(fd, kind)"},
    {"pivot_root", guestos_pivot_root, METH_VARARGS, "pivot_root(new, old)"},
    {"new_keyring", guestos_new_keyring, METH_NOARGS, "new_keyring(): leave the caller's session keyring for an empty one"},
    {"prctl", guestos_prctl, METH_VARARGS, "prctl(option, value)"},
    {"reserve", guestos_reserve, METH_VARARGS, "reserve(fd, from, size): allocate blocks, leave the file's size as it is"},
    {"clock_status", guestos_clock_status, METH_NOARGS, "clock_status() -> the status word of adjtimex(2)"},
    {NULL, NULL, 0, NULL},
};

static int add_constants(PyObject *module)
{
    /* the limits, too: importing `resource` for five numbers would cost a boot 0.3 ms */
    static const struct { const char *name; long value; } constant[] = {
        {"OWN_PIDS", OWN_PIDS},           {"KEEP_DAEMONS", KEEP_DAEMONS},   {"OWN_ACCOUNT", OWN_ACCOUNT},
        {"RLIMIT_AS", RLIMIT_AS},         {"RLIMIT_CORE", RLIMIT_CORE},     {"RLIMIT_CPU", RLIMIT_CPU},
        {"RLIMIT_NOFILE", RLIMIT_NOFILE}, {"RLIMIT_NPROC", RLIMIT_NPROC},
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
