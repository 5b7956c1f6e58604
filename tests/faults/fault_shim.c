/* Faults of the disk and of the machine, put between a process and libc by LD_PRELOAD: only tests load it.

   It counts calls on files below FAULT_DIR (whose path holds FAULT_MATCH, if that is set) and acts at the FAULT_AT-th:
   FAULT_OPS   which calls: r (read), w (write), x (create, rename, remove, flush), any of them together
   FAULT_DO    an errno as a number | signal as "s9" | "short" (half of what was asked for) | "clock" | "none"
   FAULT_LAST  last call that it acts on (default: FAULT_AT itself; 0 = every later one)
   FAULT_RANK  the rank (RANK or OMPI_COMM_WORLD_RANK) that is meant; unset = any
   FAULT_COUNT a file of 3 int64, the calls so far: r, w, x
   FAULT_HOST  the host name of that rank;  FAULT_CLOCK  seconds that its clock jumps ("clock": at the call; else from the start) */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

static char folder[4096], match[256], host[65];
static int armed, action, jumped, ops[3];
static long first, last, seen, seconds;
static long *count;
enum { NONE, ERROR, SIGNAL, SHORT, CLOCK };
static int number;

void fault_arm(void) {
    const char *s, *rank = getenv("RANK") ? getenv("RANK") : getenv("OMPI_COMM_WORLD_RANK");
    armed = 0;
    seen = jumped = 0;
    host[0] = 0;
    seconds = 0;
    if (!(s = getenv("FAULT_DIR"))) return;
    snprintf(folder, sizeof folder, "%s", s);
    if ((s = getenv("FAULT_RANK")) && *s && (!rank || strcmp(s, rank))) return;
    snprintf(match, sizeof match, "%s", getenv("FAULT_MATCH") ? getenv("FAULT_MATCH") : "");
    s = getenv("FAULT_OPS") ? getenv("FAULT_OPS") : "";
    ops[0] = strchr(s, 'r') != 0, ops[1] = strchr(s, 'w') != 0, ops[2] = strchr(s, 'x') != 0;
    first = getenv("FAULT_AT") ? atol(getenv("FAULT_AT")) : 0;
    last = getenv("FAULT_LAST") ? atol(getenv("FAULT_LAST")) : first;
    s = getenv("FAULT_DO") ? getenv("FAULT_DO") : "none";
    action = !strcmp(s, "none") ? NONE : !strcmp(s, "short") ? SHORT : !strcmp(s, "clock") ? CLOCK : *s == 's' ? SIGNAL : ERROR;
    number = atoi(*s == 's' ? s + 1 : s);
    if ((s = getenv("FAULT_HOST"))) snprintf(host, sizeof host, "%s", s);
    if ((s = getenv("FAULT_CLOCK"))) seconds = atol(s), jumped = action != CLOCK;
    if ((s = getenv("FAULT_COUNT"))) {
        int fd = open(s, O_RDWR | O_CREAT, 0666);
        if (fd >= 0 && !ftruncate(fd, 3 * sizeof(long))) {
            count = mmap(0, 3 * sizeof(long), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
            if (count == MAP_FAILED) count = 0;
        }
        close(fd);
    }
    armed = 1;
}
__attribute__((constructor)) static void begin(void) { fault_arm(); }

/* 0: go on; 1: give less; -1: errno is set */
static int meet(int kind, const char *path) {
    if (strncmp(path, folder, strlen(folder)) || (*match && !strstr(path, match))) return 0;
    if (count) __sync_fetch_and_add(count + kind, 1);
    if (!ops[kind]) return 0;
    long n = __sync_add_and_fetch(&seen, 1);
    if (n < first || (last && n > last)) return 0;
    if (action == ERROR) { errno = number; return -1; }
    if (action == SIGNAL) kill(getpid(), number);
    if (action == CLOCK) jumped = 1;
    return action == SHORT;
}
static int on(int kind, int fd) {
    char name[64], path[4096];
    if (!armed || fd < 3) return 0;
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    int error = errno;
    ssize_t n = readlink(name, path, sizeof path - 1);
    errno = error;
    if (n <= 0) return 0;
    path[n] = 0;
    return meet(kind, path);
}
static int at(int kind, const char *path) {
    char full[8192];
    if (!armed || !path) return 0;
    if (*path == '/') return meet(kind, path);
    if (!getcwd(full, 4096)) return 0;
    strcat(strcat(full, "/"), path);
    return meet(kind, full);
}
#define REAL(name) static __typeof__(name) *real; if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)
#define LESS(n) ((n) > 1 ? (n) / 2 : (n))
#define MOVE(name, kind, params, full, half) \
    ssize_t name params { REAL(name); int f = on(kind, fd); if (f < 0) return -1; return f ? half : full; }
MOVE(read, 0, (int fd, void *b, size_t n), real(fd, b, n), real(fd, b, LESS(n)))
MOVE(pread, 0, (int fd, void *b, size_t n, off_t o), real(fd, b, n, o), real(fd, b, LESS(n), o))
MOVE(pread64, 0, (int fd, void *b, size_t n, off64_t o), real(fd, b, n, o), real(fd, b, LESS(n), o))
MOVE(readv, 0, (int fd, const struct iovec *v, int n), real(fd, v, n), real(fd, v, LESS(n)))
MOVE(preadv, 0, (int fd, const struct iovec *v, int n, off_t o), real(fd, v, n, o), real(fd, v, LESS(n), o))
MOVE(preadv64, 0, (int fd, const struct iovec *v, int n, off64_t o), real(fd, v, n, o), real(fd, v, LESS(n), o))
MOVE(write, 1, (int fd, const void *b, size_t n), real(fd, b, n), real(fd, b, LESS(n)))
MOVE(pwrite, 1, (int fd, const void *b, size_t n, off_t o), real(fd, b, n, o), real(fd, b, LESS(n), o))
MOVE(pwrite64, 1, (int fd, const void *b, size_t n, off64_t o), real(fd, b, n, o), real(fd, b, LESS(n), o))
MOVE(writev, 1, (int fd, const struct iovec *v, int n), real(fd, v, n), real(fd, v, LESS(n)))
MOVE(pwritev, 1, (int fd, const struct iovec *v, int n, off_t o), real(fd, v, n, o), real(fd, v, LESS(n), o))
MOVE(pwritev64, 1, (int fd, const struct iovec *v, int n, off64_t o), real(fd, v, n, o), real(fd, v, LESS(n), o))
MOVE(pwritev2, 1, (int fd, const struct iovec *v, int n, off_t o, int g), real(fd, v, n, o, g), real(fd, v, LESS(n), o, g))
MOVE(pwritev64v2, 1, (int fd, const struct iovec *v, int n, off64_t o, int g), real(fd, v, n, o, g), real(fd, v, LESS(n), o, g))

int fsync(int fd) { REAL(fsync); return on(2, fd) < 0 ? -1 : real(fd); }
int fdatasync(int fd) { REAL(fdatasync); return on(2, fd) < 0 ? -1 : real(fd); }
int rename(const char *a, const char *b) { REAL(rename); return at(2, b) < 0 ? -1 : real(a, b); }
int renameat(int i, const char *a, int j, const char *b) { REAL(renameat); return at(2, b) < 0 ? -1 : real(i, a, j, b); }
int unlink(const char *a) { REAL(unlink); return at(2, a) < 0 ? -1 : real(a); }
int mkdir(const char *a, mode_t m) { REAL(mkdir); return at(2, a) < 0 ? -1 : real(a, m); }
#define OPEN(name) int name(const char *a, int flags, ...) { \
    REAL(name); va_list l; va_start(l, flags); mode_t m = flags & (O_CREAT | O_TMPFILE) ? va_arg(l, mode_t) : 0; va_end(l); \
    if (at(flags & O_CREAT ? 2 : 0, a) < 0) return -1; return real(a, flags, m); }
OPEN(open)
OPEN(open64)
#define OPENAT(name) int name(int d, const char *a, int flags, ...) { \
    REAL(name); va_list l; va_start(l, flags); mode_t m = flags & (O_CREAT | O_TMPFILE) ? va_arg(l, mode_t) : 0; va_end(l); \
    if (at(flags & O_CREAT ? 2 : 0, a) < 0) return -1; return real(d, a, flags, m); }
OPENAT(openat)
OPENAT(openat64)

int clock_gettime(clockid_t c, struct timespec *t) {
    REAL(clock_gettime);
    int r = real(c, t);
    if (jumped && c == CLOCK_REALTIME) t->tv_sec += seconds;
    return r;
}
int gettimeofday(struct timeval *restrict t, void *restrict z) {
    static int (*real)(struct timeval *, void *);
    if (!real) real = (int (*)(struct timeval *, void *))dlsym(RTLD_NEXT, "gettimeofday");
    int r = real(t, z);
    if (jumped) t->tv_sec += seconds;
    return r;
}
time_t time(time_t *p) {
    REAL(time);
    time_t t = real(0) + (jumped ? seconds : 0);
    if (p) *p = t;
    return t;
}
int uname(struct utsname *u) {
    REAL(uname);
    int r = real(u);
    if (armed && *host && !r) snprintf(u->nodename, sizeof u->nodename, "%s", host);
    return r;
}
int gethostname(char *name, size_t n) {
    REAL(gethostname);
    if (armed && *host) return snprintf(name, n, "%s", host), 0;
    return real(name, n);
}
