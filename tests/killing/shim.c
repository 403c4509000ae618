/* Counts what a process asks the kernel for under a folder, and strikes at the n-th time.

   Loaded by LD_PRELOAD. It lets everything through until `shim_arm` maps a plan, a file that all processes of one
   command share: forked ones inherit the map, started ones find the file in SLIDEDUCK_FAULT. Calls that libc makes of
   itself (fwrite, fclose) do not pass here; DuckDB, Arrow, torch, HDF5 and Python do theirs through these names. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { COUNT, KILL, TEAR, FULL, FULL_ONCE, READ_ERROR, READ_ONLY, INTERRUPT, CLOCK, TEAR_PLACE };

/* Laid out as `Plan` in shim.py. */
struct plan {
    volatile long count;   /* changes under the folder so far */
    volatile long reads;   /* reads under the folder so far */
    volatile long struck;  /* how often something was done */
    long kind;
    long at;               /* 1 is the first */
    long seconds;          /* CLOCK: how far it jumps */
    long group;            /* KILL, TEAR: the process group that dies; INTERRUPT: the process */
    char folder[1024];     /* changes count here */
    char inputs[1024];     /* reads count here */
};

static struct plan *plan;

void shim_arm(const char *path) {
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return;
    void *map = mmap(NULL, sizeof(struct plan), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (map != MAP_FAILED)
        plan = map;
}

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("SLIDEDUCK_FAULT");
    if (path)
        shim_arm(path);
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) \
        real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static int within(const char *folder, const char *path) {
    size_t length = strlen(folder);
    return length && !strncmp(folder, path, length) && (path[length] == '/' || !path[length]);
}

/* Whether an open file lies in a folder; a deleted one still has its path. */
static int fd_within(const char *folder, int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return within(folder, path);
}

static int path_within(const char *folder, int at, const char *name) {
    char path[2 * PATH_MAX], link[64];
    if (name[0] == '/')
        return within(folder, name);
    ssize_t length;
    if (at == AT_FDCWD)
        length = getcwd(path, PATH_MAX) ? (ssize_t)strlen(path) : -1;
    else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        length = readlink(link, path, PATH_MAX - 1);
    }
    if (length < 0)
        return 0;
    snprintf(path + length, PATH_MAX, "/%s", name);
    return within(folder, path);
}

/* Needs room; changes a folder; flushes; writes where the file has room already, which a full disk lets it. */
enum { SPACE = 1, NAME = 2, SYNC = 4, PLACE = 8 };

/* Returns the error that a change is to end with, or 0; -1 asks for half of a write. */
static int change(int needs) {
    long number = __sync_add_and_fetch(&plan->count, 1);
    if (number < plan->at || plan->kind == COUNT || plan->kind == READ_ERROR)
        return 0;
    switch (plan->kind) {
    case KILL:
        __sync_add_and_fetch(&plan->struck, 1);
        kill(-plan->group, SIGKILL);
        pause();
        return 0;
    case TEAR:
    case TEAR_PLACE:
        if (!(needs & (plan->kind == TEAR ? SPACE : PLACE)) || (needs & NAME)) {
            if (number == plan->at)
                plan->at++;  /* nothing to tear: the next one */
            return 0;
        }
        return -1;
    case FULL_ONCE:
        if (!(needs & SPACE) || plan->struck)
            return 0;
        __sync_add_and_fetch(&plan->struck, 1);
        return ENOSPC;
    case FULL:
        if (!(needs & SPACE))
            return 0;
        return __sync_add_and_fetch(&plan->struck, 1) == 1 && !(needs & NAME) ? -1 : ENOSPC;
    case READ_ONLY:
        if (!(needs & (NAME | SPACE | PLACE)))
            return 0;
        __sync_add_and_fetch(&plan->struck, 1);
        return EROFS;
    case INTERRUPT:
        /* Once, and again while the first is dealt with. */
        if (number == plan->at || number == plan->at + 2) {
            __sync_add_and_fetch(&plan->struck, 1);
            kill(plan->group, SIGINT);
        }
        return 0;
    case CLOCK:
        __sync_add_and_fetch(&plan->struck, 1);
        return 0;
    }
    return 0;
}

static void end_torn(void) {
    if (plan->kind == TEAR || plan->kind == TEAR_PLACE) {
        __sync_add_and_fetch(&plan->struck, 1);
        kill(-plan->group, SIGKILL);
        pause();
    }
}

static int bad_read(int fd) {
    if (!plan || !fd_within(plan->inputs, fd))
        return 0;
    long number = __sync_add_and_fetch(&plan->reads, 1);
    if (plan->kind != READ_ERROR || number < plan->at)
        return 0;
    __sync_add_and_fetch(&plan->struck, 1);
    return 1;
}

/* The half that a full disk still takes, or that a kill leaves. Where the file had room already a kill leaves whole
   pages: the kernel copies each at once. */
static size_t halved(size_t size, int needs) {
    return needs & PLACE ? size / 2 & ~(size_t)4095 : size / 2;
}

/* What a write needs that ends at a place in a file. */
static int room(int fd, off_t end) {
    struct stat now;
    return fstat(fd, &now) || end > now.st_size ? SPACE : PLACE;
}

static off_t place(int fd) {
    int flags = fcntl(fd, F_GETFL);
    return flags & O_APPEND ? LLONG_MAX / 2 : lseek(fd, 0, SEEK_CUR);
}

#define WRITES(name, arguments, call, half, size, end) \
    ssize_t name arguments { \
        REAL(name); \
        if (plan && fd_within(plan->folder, fd)) { \
            int needs = room(fd, end), error = change(needs); \
            if (error == -1) { \
                ssize_t done = (size) > 1 ? real half : 0; \
                end_torn(); \
                if (done > 0) \
                    return done; \
                error = ENOSPC; \
            } \
            if (error) { \
                errno = error; \
                return -1; \
            } \
        } \
        return real call; \
    }

WRITES(write, (int fd, const void *data, size_t size), (fd, data, size), (fd, data, halved(size, needs)), size,
       place(fd) + (off_t)size)
WRITES(pwrite, (int fd, const void *data, size_t size, off_t to), (fd, data, size, to),
       (fd, data, halved(size, needs), to), size, to + (off_t)size)
WRITES(pwrite64, (int fd, const void *data, size_t size, off64_t to), (fd, data, size, to),
       (fd, data, halved(size, needs), to), size, to + (off_t)size)
WRITES(writev, (int fd, const struct iovec *data, int parts), (fd, data, parts), (fd, data, parts / 2), parts,
       LLONG_MAX / 2)
WRITES(pwritev, (int fd, const struct iovec *data, int parts, off_t to), (fd, data, parts, to),
       (fd, data, parts / 2, to), parts, LLONG_MAX / 2)
WRITES(pwritev64, (int fd, const struct iovec *data, int parts, off64_t to), (fd, data, parts, to),
       (fd, data, parts / 2, to), parts, LLONG_MAX / 2)
WRITES(sendfile, (int fd, int from, off_t *at, size_t size), (fd, from, at, size), (fd, from, at, size / 2), size,
       LLONG_MAX / 2)
WRITES(sendfile64, (int fd, int from, off64_t *at, size_t size), (fd, from, at, size), (fd, from, at, size / 2), size,
       LLONG_MAX / 2)

/* A file that becomes shorter needs no room. */
static int growing(int fd, off_t size) {
    struct stat now;
    return fstat(fd, &now) || size > now.st_size ? SPACE : NAME;
}

#define ON_FILE(name, arguments, call, needs) \
    int name arguments { \
        REAL(name); \
        if (plan && fd_within(plan->folder, fd)) { \
            int error = change(needs); \
            if (error == -1) { \
                end_torn(); \
                error = ENOSPC; \
            } \
            if (error) { \
                errno = error; \
                return -1; \
            } \
        } \
        return real call; \
    }

ON_FILE(fsync, (int fd), (fd), SYNC)
ON_FILE(fdatasync, (int fd), (fd), SYNC)
ON_FILE(ftruncate, (int fd, off_t size), (fd, size), growing(fd, size))
ON_FILE(ftruncate64, (int fd, off64_t size), (fd, size), growing(fd, size))
ON_FILE(fallocate, (int fd, int mode, off_t from, off_t size), (fd, mode, from, size), SPACE)
ON_FILE(fallocate64, (int fd, int mode, off64_t from, off64_t size), (fd, mode, from, size), SPACE)

/* posix_fallocate returns its error. */
#define RESERVES(name, off) \
    int name(int fd, off from, off size) { \
        REAL(name); \
        if (plan && fd_within(plan->folder, fd)) { \
            int error = change(SPACE); \
            if (error == -1) { \
                end_torn(); \
                error = ENOSPC; \
            } \
            if (error) \
                return error; \
        } \
        return real(fd, from, size); \
    }

RESERVES(posix_fallocate, off_t)
RESERVES(posix_fallocate64, off64_t)

#define ON_NAME(name, arguments, call, at, path, needs) \
    int name arguments { \
        REAL(name); \
        if (plan && path_within(plan->folder, at, path)) { \
            int error = change(needs); \
            if (error) { \
                errno = error == -1 ? ENOSPC : error; \
                return -1; \
            } \
        } \
        return real call; \
    }

ON_NAME(rename, (const char *from, const char *to), (from, to), AT_FDCWD, to, NAME)
ON_NAME(renameat, (int a, const char *from, int b, const char *to), (a, from, b, to), b, to, NAME)
ON_NAME(renameat2, (int a, const char *from, int b, const char *to, unsigned f), (a, from, b, to, f), b, to, NAME)
ON_NAME(link, (const char *from, const char *to), (from, to), AT_FDCWD, to, NAME | SPACE)
ON_NAME(linkat, (int a, const char *from, int b, const char *to, int f), (a, from, b, to, f), b, to, NAME | SPACE)
ON_NAME(symlink, (const char *from, const char *to), (from, to), AT_FDCWD, to, NAME | SPACE)
ON_NAME(unlink, (const char *path), (path), AT_FDCWD, path, NAME)
ON_NAME(unlinkat, (int at, const char *path, int f), (at, path, f), at, path, NAME)
ON_NAME(rmdir, (const char *path), (path), AT_FDCWD, path, NAME)
ON_NAME(mkdir, (const char *path, mode_t mode), (path, mode), AT_FDCWD, path, NAME | SPACE)
ON_NAME(mkdirat, (int at, const char *path, mode_t mode), (at, path, mode), at, path, NAME | SPACE)
ON_NAME(truncate, (const char *path, off_t size), (path, size), AT_FDCWD, path, SPACE)
ON_NAME(truncate64, (const char *path, off64_t size), (path, size), AT_FDCWD, path, SPACE)

/* Opening makes a name where there is none, and a read-only file system refuses to open for writing. */
static int opening(int at, const char *path, int flags) {
    if (!plan || !(flags & (O_CREAT | O_WRONLY | O_RDWR | O_TRUNC)) || !path_within(plan->folder, at, path))
        return 0;
    struct stat there;
    int made = (flags & O_CREAT) && fstatat(at, path, &there, 0) && errno == ENOENT;
    if (!made && !(flags & O_TRUNC) && plan->kind != READ_ONLY)
        return 0;
    int error = change(NAME | (made ? SPACE : 0));
    return error == -1 ? ENOSPC : error;
}

#define OPENS(name, arguments, call, at, path, last) \
    int name arguments { \
        REAL(name); \
        mode_t mode = 0; \
        if (flags & (O_CREAT | __O_TMPFILE)) { \
            va_list rest; \
            va_start(rest, last); \
            mode = va_arg(rest, mode_t); \
            va_end(rest); \
        } \
        int error = opening(at, path, flags); \
        if (error) { \
            errno = error; \
            return -1; \
        } \
        return real call; \
    }

OPENS(open, (const char *path, int flags, ...), (path, flags, mode), AT_FDCWD, path, flags)
OPENS(open64, (const char *path, int flags, ...), (path, flags, mode), AT_FDCWD, path, flags)
OPENS(openat, (int at, const char *path, int flags, ...), (at, path, flags, mode), at, path, flags)
OPENS(openat64, (int at, const char *path, int flags, ...), (at, path, flags, mode), at, path, flags)

#define STREAMS(name) \
    FILE *name(const char *path, const char *mode) { \
        REAL(name); \
        int flags = mode[0] == 'r' ? (strchr(mode, '+') ? O_RDWR : O_RDONLY) : O_CREAT | O_WRONLY; \
        if (mode[0] == 'w') \
            flags |= O_TRUNC; \
        int error = opening(AT_FDCWD, path, flags); \
        if (error) { \
            errno = error; \
            return NULL; \
        } \
        return real(path, mode); \
    }

STREAMS(fopen)
STREAMS(fopen64)

#define READS(name, arguments, call) \
    ssize_t name arguments { \
        REAL(name); \
        if (bad_read(fd)) { \
            errno = EIO; \
            return -1; \
        } \
        return real call; \
    }

READS(read, (int fd, void *data, size_t size), (fd, data, size))
READS(pread, (int fd, void *data, size_t size, off_t from), (fd, data, size, from))
READS(pread64, (int fd, void *data, size_t size, off64_t from), (fd, data, size, from))
READS(preadv, (int fd, const struct iovec *data, int parts, off_t from), (fd, data, parts, from))

size_t fread(void *data, size_t size, size_t items, FILE *file) {
    REAL(fread);
    if (plan && bad_read(fileno(file))) {
        errno = EIO;
        return 0;
    }
    return real(data, size, items, file);
}

static long jumped(void) { return plan && plan->kind == CLOCK && plan->struck ? plan->seconds : 0; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(clock_gettime);
    int failed = real(clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += jumped();
    return failed;
}

time_t time(time_t *to) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to)
        *to = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict to, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    to->tv_sec = now.tv_sec;
    to->tv_usec = now.tv_nsec / 1000;
    return 0;
}
