/*
 * Preload library (LD_PRELOAD) that makes a kill -9 as bad as a power failure: unsynced data is lost.
 *
 * Writes go to the file at once, so that every reader sees them. Before each change the replaced bytes go to a
 * journal, and each sync is recorded there too. After the kill the harness (src/unsynced) undoes, from the last to the
 * first, every change that no sync covers: fsync or fdatasync of a file covers its data, fsync of a directory its
 * names. The library is never part of the product.
 *
 * UNSYNCED_ROOT     directory; only files below it are watched
 * UNSYNCED_JOURNAL  directory on the same file system, for the journal and for files that lose their name
 * UNSYNCED_LIE      while this file exists, a sync does nothing and reports success
 * UNSYNCED_FAIL     while this file exists, a sync fails, and what it should have synced is lost for good: as on
 *                   Linux, a later sync of the same file succeeds without writing it
 * UNSYNCED_DELAY    microseconds before each sync: a slow disk has more unsynced data to lose
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

/* Kinds of records; src/unsynced/journal.rs has the same numbers. */
enum { WRITE = 1, CREATE = 2, RENAME = 3, UNLINK = 4, MKDIR = 5, SYNC = 6, FAILED_SYNC = 7 };

/* Header of a record. The two paths and the replaced bytes follow. */
struct record {
    uint32_t kind, saved, path_bytes, target_bytes;
    uint64_t inode, offset, old_length, old_bytes;
};

static const char *root, *journal_directory, *lie, *fail;
static int journal = -1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint32_t saved_count;
static useconds_t delay;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void start(void) {
    char path[PATH_MAX];
    root = getenv("UNSYNCED_ROOT");
    journal_directory = getenv("UNSYNCED_JOURNAL");
    lie = getenv("UNSYNCED_LIE");
    fail = getenv("UNSYNCED_FAIL");
    const char *microseconds = getenv("UNSYNCED_DELAY");
    delay = microseconds ? atoi(microseconds) : 0;
    if (!root || !journal_directory) return;
    snprintf(path, sizeof path, "%s/journal", journal_directory);
    journal = REAL(open)(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    /* Names of saved files must differ from those of an earlier process with the same journal. */
    saved_count = (uint32_t)getpid() << 12;
}

static int is_watched_path(const char *path) {
    size_t length = root ? strlen(root) : 0;
    return journal >= 0 && strncmp(path, root, length) == 0 && (path[length] == '/' || path[length] == 0);
}

/* True when the descriptor is a file or directory below the root. */
static int is_watched(int fd, struct stat *stat, char *path) {
    char link[64];
    if (journal < 0 || fd == journal || fstat(fd, stat) != 0) return 0;
    if (!S_ISREG(stat->st_mode) && !S_ISDIR(stat->st_mode)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return is_watched_path(path);
}

static void put(struct record record, const char *path, const char *target, const void *old) {
    record.path_bytes = path ? strlen(path) : 0;
    record.target_bytes = target ? strlen(target) : 0;
    struct iovec parts[4] = {{&record, sizeof record}, {(void *)path, record.path_bytes},
                             {(void *)target, record.target_bytes}, {(void *)old, record.old_bytes}};
    size_t all = sizeof record + record.path_bytes + record.target_bytes + record.old_bytes;
    if (REAL(writev)(journal, parts, 4) != (ssize_t)all) abort();
}

/* The inode of the directory that a path lies in. */
static uint64_t parent(const char *path) {
    char directory[PATH_MAX];
    struct stat stat;
    snprintf(directory, sizeof directory, "%s", path);
    char *slash = strrchr(directory, '/');
    if (slash) *slash = 0;
    return slash && lstat(directory, &stat) == 0 ? stat.st_ino : 0;
}

/* Links a second name to a file that is about to lose its own. */
static uint32_t save(const char *path) {
    char saved[PATH_MAX];
    struct stat stat;
    if (lstat(path, &stat) != 0 || !S_ISREG(stat.st_mode)) return 0;
    snprintf(saved, sizeof saved, "%s/saved-%u", journal_directory, ++saved_count);
    if (link(path, saved) != 0) abort();
    return saved_count;
}

/* Journals the bytes that a change of [offset, offset + length) replaces.
   A truncation is a change up to the old end. */
static void before_change(int fd, const struct stat *stat, uint64_t offset, uint64_t length) {
    uint64_t size = stat->st_size, end = offset + length < size ? offset + length : size;
    struct record record = {.kind = WRITE, .inode = stat->st_ino, .offset = offset, .old_length = size};
    char link[64], *old = NULL;
    if (end > offset) {
        /* The program's descriptor may be write-only. */
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        int reader = REAL(open)(link, O_RDONLY | O_CLOEXEC);
        old = malloc(end - offset);
        if (reader < 0 || !old || pread(reader, old, end - offset, offset) != (ssize_t)(end - offset)) abort();
        close(reader);
        record.old_bytes = end - offset;
    }
    put(record, NULL, NULL, old);
    free(old);
}

static uint64_t total(const struct iovec *parts, int count) {
    uint64_t sum = 0;
    for (int i = 0; i < count; i++) sum += parts[i].iov_len;
    return sum;
}

static uint64_t position(int fd, const struct stat *stat) {
    return fcntl(fd, F_GETFL) & O_APPEND ? (uint64_t)stat->st_size : (uint64_t)lseek(fd, 0, SEEK_CUR);
}

/* Defines one function that changes a file's bytes: it journals, then calls the real one, both under the lock. */
#define CHANGE(result, name, signature, call, at, bytes)                                                     \
    result name signature {                                                                                  \
        struct stat stat;                                                                                    \
        char path[PATH_MAX];                                                                                 \
        if (!is_watched(fd, &stat, path)) return REAL(name) call;                                            \
        pthread_mutex_lock(&lock);                                                                           \
        fstat(fd, &stat);                                                                                    \
        before_change(fd, &stat, (at), (bytes));                                                             \
        result done = REAL(name) call;                                                                       \
        int error = errno;                                                                                   \
        pthread_mutex_unlock(&lock);                                                                         \
        errno = error;                                                                                       \
        return done;                                                                                         \
    }

CHANGE(ssize_t, write, (int fd, const void *data, size_t count), (fd, data, count), position(fd, &stat), count)
CHANGE(ssize_t, pwrite, (int fd, const void *data, size_t count, off_t at), (fd, data, count, at), at, count)
CHANGE(ssize_t, pwrite64, (int fd, const void *data, size_t count, off64_t at), (fd, data, count, at), at, count)
CHANGE(ssize_t, writev, (int fd, const struct iovec *parts, int count), (fd, parts, count), position(fd, &stat),
       total(parts, count))
CHANGE(ssize_t, pwritev, (int fd, const struct iovec *parts, int count, off_t at), (fd, parts, count, at), at,
       total(parts, count))
CHANGE(ssize_t, pwritev64, (int fd, const struct iovec *parts, int count, off64_t at), (fd, parts, count, at), at,
       total(parts, count))
CHANGE(int, ftruncate, (int fd, off_t length), (fd, length), length, INT64_MAX - length)
CHANGE(int, ftruncate64, (int fd, off64_t length), (fd, length), length, INT64_MAX - length)
CHANGE(int, fallocate, (int fd, int mode, off_t at, off_t length), (fd, mode, at, length), at, length)
CHANGE(int, fallocate64, (int fd, int mode, off64_t at, off64_t length), (fd, mode, at, length), at, length)
CHANGE(int, posix_fallocate, (int fd, off_t at, off_t length), (fd, at, length), at, length)
CHANGE(int, posix_fallocate64, (int fd, off64_t at, off64_t length), (fd, at, length), at, length)

/* Copies inside the kernel would bypass the journal; callers fall back to read and write. */
ssize_t copy_file_range(int in, off64_t *in_at, int out, off64_t *out_at, size_t count, unsigned flags) {
    (void)in, (void)in_at, (void)out, (void)out_at, (void)count, (void)flags;
    errno = ENOSYS;
    return -1;
}

ssize_t sendfile64(int out, int in, off64_t *at, size_t count) {
    (void)out, (void)in, (void)at, (void)count;
    errno = ENOSYS;
    return -1;
}

#define SYNCS(name)                                                                                          \
    int name(int fd) {                                                                                       \
        struct stat stat;                                                                                    \
        char path[PATH_MAX];                                                                                 \
        if (!is_watched(fd, &stat, path)) return REAL(name)(fd);                                             \
        if (lie && access(lie, F_OK) == 0) return 0;                                                         \
        if (delay) usleep(delay);                                                                            \
        pthread_mutex_lock(&lock);                                                                           \
        int fails = fail && access(fail, F_OK) == 0;                                                         \
        int done = fails ? -1 : REAL(name)(fd), error = fails ? EIO : errno;                                 \
        uint32_t kind = done == 0 ? SYNC : FAILED_SYNC;                                                      \
        put((struct record){.kind = kind, .inode = stat.st_ino}, NULL, NULL, NULL);                          \
        pthread_mutex_unlock(&lock);                                                                         \
        errno = error;                                                                                       \
        return done;                                                                                         \
    }

SYNCS(fsync)
SYNCS(fdatasync)

/* Rust's library opens with absolute or relative paths; the harness gives the safekeeper absolute ones only. */
static int open_watched(int (*real)(const char *, int, ...), const char *path, int flags, mode_t mode) {
    struct stat stat;
    if (!is_watched_path(path) || !(flags & (O_CREAT | O_TRUNC))) return real(path, flags, mode);
    pthread_mutex_lock(&lock);
    int is_there = lstat(path, &stat) == 0;
    if (!is_there) {
        put((struct record){.kind = CREATE, .inode = parent(path)}, path, NULL, NULL);
    } else if (flags & O_TRUNC) {
        int old = REAL(open)(path, O_RDONLY | O_CLOEXEC);
        if (old >= 0 && S_ISREG(stat.st_mode)) before_change(old, &stat, 0, INT64_MAX);
        if (old >= 0) close(old);
    }
    int fd = real(path, flags, mode), error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return fd;
}

#define OPENS(name)                                                                                          \
    int name(const char *path, int flags, ...) {                                                             \
        va_list rest;                                                                                        \
        va_start(rest, flags);                                                                               \
        mode_t mode = va_arg(rest, mode_t);                                                                  \
        va_end(rest);                                                                                        \
        return open_watched(REAL(name), path, flags, mode);                                                  \
    }

OPENS(open)
OPENS(open64)

int rename(const char *path, const char *target) {
    if (!is_watched_path(path) && !is_watched_path(target)) return REAL(rename)(path, target);
    pthread_mutex_lock(&lock);
    struct record record = {.kind = RENAME, .saved = save(target), .inode = parent(target)};
    put(record, path, target, NULL);
    int done = REAL(rename)(path, target), error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

int unlink(const char *path) {
    if (!is_watched_path(path)) return REAL(unlink)(path);
    pthread_mutex_lock(&lock);
    struct record record = {.kind = UNLINK, .saved = save(path), .inode = parent(path)};
    if (record.saved) put(record, path, NULL, NULL);
    int done = REAL(unlink)(path), error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

int mkdir(const char *path, mode_t mode) {
    struct stat stat;
    if (!is_watched_path(path) || lstat(path, &stat) == 0) return REAL(mkdir)(path, mode);
    pthread_mutex_lock(&lock);
    put((struct record){.kind = MKDIR, .inode = parent(path)}, path, NULL, NULL);
    int done = REAL(mkdir)(path, mode), error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}
