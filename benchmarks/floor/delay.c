/* A link with a delay: passes the bytes of each connection on when they are as old as the delay says.
 *
 * usage: delay PORT TARGET_PORT DELAY_FILE ADDRESS_FILE
 *
 * DELAY_FILE holds the delay of one direction in nanoseconds, 8 bytes of this machine's order. It is mapped, so a change
 * of the file counts at once, for bytes that arrive from then on. */
#include "floor.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#define PIECE_BYTES (64 << 10)
/* Bytes on the way in one direction; a longer queue is not read into. */
#define QUEUE_BYTES_MAX (8 << 20)
/* Wait before a full socket is tried again, in nanoseconds. */
#define FULL_RETRY_NS 100000
#define CONNECTIONS_MAX 64

struct piece {
    struct piece *next;
    uint64_t due;
    size_t length, sent;
    char bytes[];
};

struct direction {
    int from, to;
    int ended;
    size_t queued;
    struct piece *first, *last;
};

/* Directions 2n and 2n + 1 are one connection; from < 0: the place is free. */
static struct direction directions[2 * CONNECTIONS_MAX];
static const volatile uint64_t *delay;
static const char *target;
static int poll_fd, listener;

static void close_connection(int index) {
    for (int side = index & ~1, end = side + 2; side < end; side++) {
        struct direction *direction = &directions[side];
        close(direction->from);
        while (direction->first) {
            struct piece *piece = direction->first;
            direction->first = piece->next;
            free(piece);
        }
        memset(direction, 0, sizeof *direction);
        direction->from = -1;
    }
}

static void accept_connection(void) {
    int client = accept(listener, NULL, NULL), server = connect_to(target);
    if (client < 0) die("accept");
    no_delay(client);
    for (int index = 0; index < 2 * CONNECTIONS_MAX; index += 2) {
        if (directions[index].from >= 0) continue;
        directions[index] = (struct direction){.from = client, .to = server};
        directions[index + 1] = (struct direction){.from = server, .to = client};
        for (int side = index; side < index + 2; side++) {
            struct epoll_event event = {.events = EPOLLIN, .data.u32 = side};
            if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, directions[side].from, &event)) die("epoll_ctl");
        }
        return;
    }
    die("too many connections");
}

static void take(int index) {
    struct direction *direction = &directions[index];
    if (direction->from < 0 || direction->ended || direction->queued > QUEUE_BYTES_MAX) return;
    static char buffer[PIECE_BYTES];
    ssize_t got = recv(direction->from, buffer, sizeof buffer, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        close_connection(index);
        return;
    }
    struct piece *piece = malloc(sizeof *piece + got);
    if (!piece) die("malloc");
    *piece = (struct piece){.due = now_ns() + *delay, .length = got};
    memcpy(piece->bytes, buffer, got);
    if (direction->last) direction->last->next = piece;
    else direction->first = piece;
    direction->last = piece;
    direction->queued += got;
}

/* Sends what is due. Returns when the next piece is due; 0: there is none. */
static uint64_t pass_on(int index, uint64_t now) {
    struct direction *direction = &directions[index];
    while (direction->first && direction->first->due <= now) {
        struct piece *piece = direction->first;
        ssize_t sent = send(direction->to, piece->bytes + piece->sent, piece->length - piece->sent,
                            MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EAGAIN) return now + FULL_RETRY_NS;
        if (sent < 0) {
            close_connection(index);
            return 0;
        }
        piece->sent += sent, direction->queued -= sent;
        if (piece->sent < piece->length) continue;
        direction->first = piece->next;
        if (!direction->first) direction->last = NULL;
        free(piece);
    }
    return direction->first ? direction->first->due : 0;
}

static uint64_t pass_all_on(void) {
    uint64_t next = 0, now = now_ns();
    for (int index = 0; index < 2 * CONNECTIONS_MAX; index++) {
        uint64_t due = directions[index].from < 0 ? 0 : pass_on(index, now);
        if (due && (!next || due < next)) next = due;
    }
    return next;
}

int main(int count, char **arguments) {
    if (count != 5) die("usage: delay PORT TARGET_PORT DELAY_FILE ADDRESS_FILE");
    target = arguments[2];
    int file = open(arguments[3], O_RDONLY);
    delay = mmap(NULL, sizeof *delay, PROT_READ, MAP_SHARED, file, 0);
    if (file < 0 || delay == MAP_FAILED) die(arguments[3]);
    /* Without this the kernel may wake the process 50 us late. */
    if (prctl(PR_SET_TIMERSLACK, 1)) die("PR_SET_TIMERSLACK");
    for (int index = 0; index < 2 * CONNECTIONS_MAX; index++) directions[index].from = -1;
    poll_fd = epoll_create1(0);
    listener = listen_on(arguments[1], arguments[4]);
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = 2 * CONNECTIONS_MAX};
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, listener, &event)) die("epoll_ctl");

    for (;;) {
        uint64_t next = pass_all_on(), now = now_ns();
        uint64_t wait = next > now ? next - now : 0;
        struct timespec timeout = {.tv_sec = wait / 1000000000, .tv_nsec = wait % 1000000000};
        struct epoll_event events[2 * CONNECTIONS_MAX];
        int ready = epoll_pwait2(poll_fd, events, 2 * CONNECTIONS_MAX, next ? &timeout : NULL, NULL);
        for (int which = 0; which < ready; which++) {
            if (events[which].data.u32 == 2 * CONNECTIONS_MAX) accept_connection();
            else take(events[which].data.u32);
        }
    }
}
