/* nofsync PROGRAM [ARGS…]: run a program to which every flush of a file to its disk is a success that does nothing.
 *
 * The negative control of the power cuts: an agent that forgot to flush would differ from ours in nothing else.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DO_NOTHING(name) \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##name, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO)

int main(int count, char **words) {
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        DO_NOTHING(fsync),
        DO_NOTHING(fdatasync),
        DO_NOTHING(sync),
        DO_NOTHING(syncfs),
        DO_NOTHING(sync_file_range),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {sizeof rules / sizeof *rules, rules};

    if (count < 2) {
        fprintf(stderr, "usage: nofsync PROGRAM [ARGS...]\n");
        return 64;
    }
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter)) {
        perror("nofsync: cannot filter system calls");
        return 1;
    }
    execv(words[1], words + 1);
    perror(words[1]);
    return 127;
}
