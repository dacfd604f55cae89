// What was called, launched, copied and multiplied, by name, and the lines of JSON that say so.
//
// A line is written when the program ends, and when it waits for the device while the file that CUDA_DOUBLE_MARK names
// is there: that file's text is the line's label, the file goes, and counting begins anew.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "double.h"

enum { NAMES = 1 << 13, STREAMS = 256 };

struct entry {
    char *name;
    uint64_t times;
    double amount;
};

// Tables by hash, never full: a program has some hundred names.
static struct entry entries[SECTIONS][NAMES];
static const char *const titles[SECTIONS] = {
    "launches", "calls", "gemms", "convolutions", "copies", "fills", "shapes",
};
static const char *const amounts[SECTIONS] = {NULL, NULL, "flops", "flops", "bytes", "bytes", "flops"};
static uint64_t streams[WORKS + 1][STREAMS];
static size_t streams_used[WORKS + 1];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

// CUDA_DOUBLE_FAIL=NAME:N:CODE: the Nth call or kernel of that name returns CODE.
static char fail_name[128];
static uint64_t fail_after;
static int fail_code;
static int lost;

static struct entry *find(enum section section, const char *name) {
    uint64_t hash = 1469598103934665603u;
    for (const char *c = name; *c; c++) hash = (hash ^ (unsigned char)*c) * 1099511628211u;
    for (size_t i = 0; i < NAMES; i++) {
        struct entry *entry = &entries[section][(hash + i) % NAMES];
        if (!entry->name) entry->name = strdup(name);
        if (strcmp(entry->name, name) == 0) return entry;
    }
    fprintf(stderr, "cuda-double: more than %d names of %s\n", NAMES, titles[section]);
    abort();
}

static void add(enum section section, const char *name, double amount) {
    struct entry *entry = find(section, name);
    entry->times++;
    entry->amount += amount;
}

// An error after which a process can only end: an illegal address, a failed launch, an uncorrectable one.
static bool is_final(int code) { return code == 214 || (code >= 700 && code < 720 && code != 701 && code != 704); }

static int planned(const char *name) {
    if (!fail_after || strcmp(name, fail_name) != 0 || --fail_after) return 0;
    if (is_final(fail_code)) lost = fail_code;
    return fail_code;
}

int double_enter(const char *function) {
    pthread_mutex_lock(&lock);
    add(CALLS, function, 0);
    int code = planned(function);
    pthread_mutex_unlock(&lock);
    return code;
}

int double_lost(void) { return lost; }

void double_count(enum section section, const char *name, double amount) {
    pthread_mutex_lock(&lock);
    add(section, name, amount);
    pthread_mutex_unlock(&lock);
}

int double_launch(const char *kernel, void *stream) {
    pthread_mutex_lock(&lock);
    add(LAUNCHES, kernel, 0);
    int code = planned(kernel);
    pthread_mutex_unlock(&lock);
    double_on_stream(KERNELS, stream);
    return code;
}

// The stream of each thread has one handle and is as many streams as there are threads.
static uint64_t identity(void *stream) {
    static uint64_t threads;
    static __thread uint64_t thread;
    uint64_t handle = (uint64_t)(uintptr_t)stream;
    if (handle == 2 && !thread) thread = __atomic_add_fetch(&threads, 1, __ATOMIC_RELAXED);
    return handle == 2 ? UINT64_C(1) << 63 | thread : handle ? handle : 1;
}

static void note_stream(size_t list, uint64_t stream) {
    for (size_t i = 0; i < streams_used[list]; i++)
        if (streams[list][i] == stream) return;
    if (streams_used[list] < STREAMS) streams[list][streams_used[list]++] = stream;
}

void double_on_stream(enum work work, void *stream) {
    uint64_t which = identity(stream);
    pthread_mutex_lock(&lock);
    note_stream(work, which);
    note_stream(WORKS, which);
    pthread_mutex_unlock(&lock);
}

static void write_text(FILE *out, const char *text) {
    fputc('"', out);
    for (const char *c = text; *c; c++) {
        if (*c == '"' || *c == '\\') fputc('\\', out);
        fputc((unsigned char)*c < ' ' ? ' ' : *c, out);
    }
    fputc('"', out);
}

static void write_section(FILE *out, enum section section) {
    fprintf(out, ", \"%s\": {", titles[section]);
    const char *between = "";
    for (size_t i = 0; i < NAMES; i++) {
        struct entry *entry = &entries[section][i];
        if (!entry->times) continue;
        fputs(between, out);
        write_text(out, entry->name);
        if (amounts[section])
            fprintf(out, ": {\"n\": %ju, \"%s\": %.0f}", (uintmax_t)entry->times, amounts[section], entry->amount);
        else
            fprintf(out, ": %ju", (uintmax_t)entry->times);
        between = ", ";
    }
    fputc('}', out);
}

static uintmax_t calls(const char *const *names) {
    uintmax_t sum = 0;
    for (; *names; names++) sum += find(CALLS, *names)->times;
    return sum;
}

// With the lock held.
static void write_line(const char *label) {
    static const char *const allocating[] = {"cuMemAllocAsync", "cuMemAllocFromPoolAsync", "cuMemAlloc_v2", NULL};
    static const char *const making_events[] = {"cuEventCreate", NULL};
    static const char *const synchronizing[] = {
        "cuCtxSynchronize", "cuCtxSynchronize_v2", "cuStreamSynchronize", "cuEventSynchronize", NULL,
    };
    const char *path = getenv("CUDA_DOUBLE_LOG");
    char *text = NULL;
    size_t length = 0;
    FILE *out = path ? open_memstream(&text, &length) : NULL;
    struct taken taken = double_taken(true);
    if (out) {
        fputs("{\"label\": ", out);
        write_text(out, label);
        for (enum section section = 0; section < SECTIONS; section++) write_section(out, section);
        fprintf(out, ", \"allocations\": %ju, \"events_created\": %ju, \"synchronizes\": %ju", calls(allocating),
            calls(making_events), calls(synchronizing));
        fprintf(out, ", \"bytes\": %zu, \"peak_bytes\": %zu, \"reserved_bytes\": %zu, \"peak_reserved_bytes\": %zu",
            taken.now, taken.most, taken.reserved, taken.most_reserved);
        fprintf(out, ", \"streams\": {\"kernels\": %zu, \"copies\": %zu, \"all\": %zu}}\n", streams_used[KERNELS],
            streams_used[TRANSFERS], streams_used[WORKS]);
        fclose(out);
        int file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
        if (file < 0 || write(file, text, length) != (ssize_t)length)
            fprintf(stderr, "cuda-double: %s: %s\n", path, strerror(errno));
        if (file >= 0) close(file);
        free(text);
    }
    for (enum section section = 0; section < SECTIONS; section++)
        for (size_t i = 0; i < NAMES; i++) entries[section][i].times = 0, entries[section][i].amount = 0;
    memset(streams_used, 0, sizeof streams_used);
}

void double_waited(void) {
    const char *path = getenv("CUDA_DOUBLE_MARK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    char label[256] = {0};
    ssize_t length = read(file, label, sizeof label - 1);
    close(file);
    if (length < 0) return;
    label[strcspn(label, "\n")] = 0;
    pthread_mutex_lock(&lock);
    write_line(label);
    pthread_mutex_unlock(&lock);
    unlink(path);
}

__attribute__((constructor)) static void begin(void) {
    const char *fail = getenv("CUDA_DOUBLE_FAIL");
    uintmax_t after;
    if (!fail) return;
    if (sscanf(fail, "%127[^:]:%ju:%d", fail_name, &after, &fail_code) == 3)
        fail_after = after;
    else
        fprintf(stderr, "cuda-double: CUDA_DOUBLE_FAIL is NAME:N:CODE, not %s\n", fail);
}

__attribute__((destructor)) static void end(void) {
    pthread_mutex_lock(&lock);
    write_line("end");
    pthread_mutex_unlock(&lock);
}
