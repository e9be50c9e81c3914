/* The floor's relay: what a walproposer does for the wire, and nothing else.
 *
 * usage: relay PRIMARY_PORT USER APPLICATION_NAME ADDRESS_FILE RECEIVER_PORT RECEIVER_PORT RECEIVER_PORT
 * environment: PGPASSWORD, which the primary asks for in clear text.
 *
 * It is a physical replication client of the primary and its synchronous standby. It sends all whole messages of one
 * read to three receivers, and confirms to the primary what two of them have made durable. */
#include "floor.h"

#include <fcntl.h>
#include <sys/epoll.h>

#define RECEIVERS 3
#define PRIMARY RECEIVERS
/* Seconds from the epoch of Unix to the one of PostgreSQL. */
#define POSTGRES_EPOCH 946684800ll

/* Bytes that a receiver's socket did not take yet. */
struct backlog {
    char *bytes;
    size_t length, capacity;
};

static int sockets[RECEIVERS + 1];
static struct backlog backlogs[RECEIVERS];
static uint64_t flushed[RECEIVERS], confirmed;
static int poll_fd;

static void send_all(int fd, const void *bytes, size_t length) {
    for (const char *next = bytes; length > 0;) {
        ssize_t sent = send(fd, next, length, MSG_NOSIGNAL);
        if (sent <= 0) die("send");
        next += sent, length -= sent;
    }
}

static void read_all(int fd, void *bytes, size_t length) {
    if (length > 0 && recv(fd, bytes, length, MSG_WAITALL) != (ssize_t)length) die("recv");
}

/* Sends one message of the frontend; type 0 is the startup message. */
static void send_message(char type, const char *body, size_t length) {
    char message[4096];
    size_t at = 0;
    if (type) message[at++] = type;
    uint32_t size = htonl(length + 4);
    memcpy(message + at, &size, 4);
    memcpy(message + at + 4, body, length);
    send_all(sockets[PRIMARY], message, at + 4 + length);
}

/* Reads one message of the primary and returns its type. */
static char read_message(char *body, size_t capacity) {
    char head[5];
    read_all(sockets[PRIMARY], head, sizeof head);
    uint32_t size;
    memcpy(&size, head + 1, 4);
    size = ntohl(size) - 4;
    if (size >= capacity) die("a message is too long");
    read_all(sockets[PRIMARY], body, size);
    body[size] = 0;
    if (head[0] == 'E') {
        fprintf(stderr, "the primary refused: %s\n", body);
        exit(1);
    }
    return head[0];
}

static void log_in(const char *user, const char *application) {
    char body[8192];
    uint32_t version = htonl(196608);
    memcpy(body, &version, 4);
    size_t length = 4;
    const char *parameters[] = {"user", user, "replication", "true", "application_name", application, ""};
    for (size_t index = 0; index < sizeof parameters / sizeof *parameters; index++) {
        strcpy(body + length, parameters[index]);
        length += strlen(parameters[index]) + 1;
    }
    send_message(0, body, length);

    for (char type; (type = read_message(body, sizeof body)) != 'Z';) {
        uint32_t kind;
        memcpy(&kind, body, 4);
        if (type == 'R' && ntohl(kind) == 3) {
            const char *password = getenv("PGPASSWORD");
            if (!password) die("PGPASSWORD is not set");
            send_message('p', password, strlen(password) + 1);
        }
    }
}

/* Starts the stream where the primary's WAL ends now. */
static void start_stream(void) {
    char body[8192], position[64] = "", query[128];
    send_message('Q', "IDENTIFY_SYSTEM", sizeof "IDENTIFY_SYSTEM");
    for (char type; (type = read_message(body, sizeof body)) != 'Z';) {
        if (type != 'D') continue;
        char *value = body + 2;
        for (int column = 0; column < 3; column++) {
            uint32_t length;
            memcpy(&length, value, 4);
            length = ntohl(length);
            if (column == 2) snprintf(position, sizeof position, "%.*s", (int)length, value + 4);
            value += 4 + length;
        }
    }

    int length = snprintf(query, sizeof query, "START_REPLICATION PHYSICAL %s", position);
    send_message('Q', query, length + 1);
    while (read_message(body, sizeof body) != 'W') {}
}

static void confirm(void) {
    struct __attribute__((packed)) {
        char copy_data;
        uint32_t length;
        char type;
        uint64_t written, flushed, applied, time;
        char reply;
    } status = {'d', htonl(4 + 34), 'r', 0, 0, 0, 0, 0};
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    status.written = status.flushed = status.applied = htobe64(confirmed);
    status.time = htobe64((now.tv_sec - POSTGRES_EPOCH) * 1000000 + now.tv_nsec / 1000);
    send_all(sockets[PRIMARY], &status, sizeof status);
}

static void watch(int index, uint32_t events, int operation) {
    struct epoll_event event = {.events = events, .data.u32 = index};
    if (epoll_ctl(poll_fd, operation, sockets[index], &event)) die("epoll_ctl");
}

/* Sends what the socket takes and keeps the rest. */
static void forward(int index, const char *bytes, size_t length) {
    struct backlog *backlog = &backlogs[index];
    if (backlog->length == 0) {
        ssize_t sent = send(sockets[index], bytes, length, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno != EAGAIN) die("send");
        if (sent > 0) bytes += sent, length -= sent;
        if (length == 0) return;
        watch(index, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
    }
    if (backlog->length + length > backlog->capacity) {
        backlog->capacity = 2 * (backlog->length + length);
        backlog->bytes = realloc(backlog->bytes, backlog->capacity);
        if (!backlog->bytes) die("realloc");
    }
    memcpy(backlog->bytes + backlog->length, bytes, length);
    backlog->length += length;
}

static void drain(int index) {
    struct backlog *backlog = &backlogs[index];
    ssize_t sent = send(sockets[index], backlog->bytes, backlog->length, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno != EAGAIN) die("send");
    if (sent > 0) {
        backlog->length -= sent;
        memmove(backlog->bytes, backlog->bytes + sent, backlog->length);
    }
    if (backlog->length == 0) watch(index, EPOLLIN, EPOLL_CTL_MOD);
}

/* Passes all whole messages of one read on. */
static void read_primary(void) {
    static char buffer[2 * READ_BYTES], frames[2 * READ_BYTES];
    static size_t have;
    ssize_t got = recv(sockets[PRIMARY], buffer + have, sizeof buffer - have, 0);
    if (got <= 0) exit(0);
    have += got;

    size_t used = 0, length = 0;
    while (have - used >= 5) {
        uint32_t size;
        memcpy(&size, buffer + used + 1, 4);
        size = ntohl(size);
        if (have - used < 1 + size) break;
        const char *body = buffer + used + 5;
        if (buffer[used] == 'd' && body[0] == 'w') {
            struct frame frame = {.length = htonl(size - 4 - 25)};
            memcpy(&frame.start, body + 1, 8);
            memcpy(frames + length, &frame, sizeof frame);
            memcpy(frames + length + sizeof frame, body + 25, size - 4 - 25);
            length += sizeof frame + size - 4 - 25;
        } else if (buffer[used] == 'd' && body[0] == 'k' && body[17]) {
            confirm();
        }
        used += 1 + size;
    }

    memmove(buffer, buffer + used, have - used);
    have -= used;
    if (length > 0)
        for (int index = 0; index < RECEIVERS; index++) forward(index, frames, length);
}

/* Takes answers of a receiver, and confirms when the second highest position of three has moved. */
static void read_receiver(int index) {
    static uint64_t answers[RECEIVERS][512];
    static size_t have[RECEIVERS];
    char *bytes = (char *)answers[index];
    ssize_t got = recv(sockets[index], bytes + have[index], sizeof answers[index] - have[index], 0);
    if (got <= 0) die("a receiver ended");
    have[index] += got;
    size_t whole = have[index] / 8;
    if (whole == 0) return;
    flushed[index] = be64toh(answers[index][whole - 1]);
    memmove(bytes, bytes + whole * 8, have[index] - whole * 8);
    have[index] -= whole * 8;

    uint64_t a = flushed[0], b = flushed[1], c = flushed[2];
    uint64_t middle = a < b ? (b < c ? b : (a < c ? c : a)) : (a < c ? a : (b < c ? c : b));
    if (middle > confirmed) {
        confirmed = middle;
        confirm();
    }
}

int main(int count, char **arguments) {
    if (count != 5 + RECEIVERS) die("usage: relay PRIMARY_PORT USER APPLICATION_NAME ADDRESS_FILE RECEIVER_PORT...");
    sockets[PRIMARY] = connect_to(arguments[1]);
    log_in(arguments[2], arguments[3]);
    poll_fd = epoll_create1(0);
    for (int index = 0; index < RECEIVERS; index++) {
        sockets[index] = connect_to(arguments[5 + index]);
        watch(index, EPOLLIN, EPOLL_CTL_ADD);
    }
    start_stream();
    watch(PRIMARY, EPOLLIN, EPOLL_CTL_ADD);
    FILE *file = fopen(arguments[4], "w");
    if (!file || fclose(file)) die(arguments[4]);

    for (;;) {
        struct epoll_event events[RECEIVERS + 1];
        int ready = epoll_wait(poll_fd, events, RECEIVERS + 1, -1);
        for (int next = 0; next < ready; next++) {
            int index = events[next].data.u32;
            if (index == PRIMARY) {
                read_primary();
                continue;
            }
            if (events[next].events & EPOLLOUT) drain(index);
            if (events[next].events & EPOLLIN) read_receiver(index);
        }
    }
}
