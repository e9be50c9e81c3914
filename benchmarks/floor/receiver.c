/* The floor's receiver: what a safekeeper does for the disk and the wire, and nothing else.
 *
 * usage: receiver PORT DIRECTORY ADDRESS_FILE
 *
 * For all WAL that one read brought: a pwrite into a segment that was filled with zeros before, a pwrite of a slot of
 * the footer page behind the segment, an fdatasync, an answer with the end of what is durable. The log is kept: each
 * segment is a new file, which is filled while the segment before it is in use, as pg_receivewal and a safekeeper do. */
#include "floor.h"

#include <fcntl.h>
#include <sys/epoll.h>

#define SEGMENT_BYTES (16u << 20)
#define FOOTER_PAGE_BYTES 4096
#define FOOTER_SLOT_BYTES 100

static const char *directory;

/* The segment in use and the next one. */
struct segment {
    uint64_t number;
    int file;
};
static struct segment current = {.file = -1}, next = {.file = -1};

/* Makes a new segment of zeros, and makes it and its name durable. */
static struct segment make_segment(uint64_t number) {
    static char zeros[1 << 20];
    char path[4096];
    snprintf(path, sizeof path, "%s/segment%llu", directory, (unsigned long long)number);
    int file = open(path, O_CREAT | O_TRUNC | O_RDWR, 0600);
    if (file < 0) die(path);
    for (unsigned at = 0; at < SEGMENT_BYTES; at += sizeof zeros)
        if (pwrite(file, zeros, sizeof zeros, at) != sizeof zeros) die("filling a segment");
    if (pwrite(file, zeros, FOOTER_PAGE_BYTES, SEGMENT_BYTES) != FOOTER_PAGE_BYTES) die("footer");
    if (fsync(file)) die("fsync");

    int parent = open(directory, O_RDONLY | O_DIRECTORY);
    if (parent < 0 || fsync(parent)) die(directory);
    close(parent);
    return (struct segment){number, file};
}

/* Moves to the segment of a position, and fills the one behind it. */
static void enter_segment(uint64_t number) {
    if (current.file >= 0 && current.number == number) return;
    if (current.file >= 0) close(current.file);
    current = next.file >= 0 && next.number == number ? next : make_segment(number);
    next = make_segment(number + 1);
}

/* Writes contiguous WAL and makes it durable. */
static void store(uint64_t start, const char *wal, size_t length) {
    while (length > 0) {
        enter_segment(start / SEGMENT_BYTES);
        int file = current.file;
        size_t offset = start % SEGMENT_BYTES, part = SEGMENT_BYTES - offset;
        if (part > length) part = length;
        if (pwrite(file, wal, part, offset) != (ssize_t)part) die("pwrite");
        start += part, wal += part, length -= part;

        char slot[FOOTER_SLOT_BYTES] = {0};
        memcpy(slot, &start, sizeof start);
        size_t place = SEGMENT_BYTES + start / 8 % 2 * (FOOTER_PAGE_BYTES / 2);
        if (pwrite(file, slot, sizeof slot, place) != sizeof slot) die("pwrite");
        if (fdatasync(file)) die("fdatasync");
    }
}

/* Stores all whole frames of the buffer and answers. Returns the bytes that were used. */
static size_t take(int client, char *buffer, size_t have) {
    size_t used = 0, length = 0;
    uint64_t start = 0;
    char *wal = buffer + sizeof(struct frame);
    while (have - used >= sizeof(struct frame)) {
        struct frame frame;
        memcpy(&frame, buffer + used, sizeof frame);
        size_t part = ntohl(frame.length);
        if (have - used < sizeof frame + part) break;
        if (length == 0) start = be64toh(frame.start);
        memmove(wal + length, buffer + used + sizeof frame, part);
        length += part, used += sizeof frame + part;
    }

    if (length > 0) {
        store(start, wal, length);
        uint64_t flushed = htobe64(start + length);
        if (send(client, &flushed, sizeof flushed, MSG_NOSIGNAL) != sizeof flushed) return 0;
    }
    return used;
}

static void serve(int client) {
    static char buffer[2 * READ_BYTES];
    size_t have = 0;
    int poll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN};
    if (poll < 0 || epoll_ctl(poll, EPOLL_CTL_ADD, client, &event)) die("epoll");
    for (;;) {
        if (epoll_wait(poll, &event, 1, -1) < 1) continue;
        ssize_t got = recv(client, buffer + have, sizeof buffer - have, 0);
        if (got <= 0) break;
        have += got;
        size_t used = take(client, buffer, have);
        memmove(buffer, buffer + used, have - used);
        have -= used;
    }
    close(poll);
}

int main(int count, char **arguments) {
    if (count != 4) die("usage: receiver PORT DIRECTORY ADDRESS_FILE");
    directory = arguments[2];
    int listener = listen_on(arguments[1], arguments[3]);
    for (;;) {
        int client = accept(listener, NULL, NULL);
        if (client < 0) die("accept");
        no_delay(client);
        serve(client);
        close(client);
    }
}
