// libcuda.so.1's memory: allocation, pools, copies, fills.
//
// Copies to a card of more than 1 MiB are counted and not made, so that weights cost nothing: what was never written is
// zero. Copies from a card are made whatever their size.

#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "double.h"

// What a context has to be current for, if the stream does not tell.
#define CARD(stream) \
    int card = double_card_of(stream); \
    if (card < 0) return CUDA_ERROR_INVALID_CONTEXT

// Which pool a card's allocations without one are of.
static struct pool *chosen[MOST_CARDS];

static struct pool *pool_of(int card) { return chosen[card] ? chosen[card] : double_default_pool(card); }

int cuMemAlloc_v2(void **at, size_t bytes) {
    ENTER();
    CARD(NULL);
    return bytes ? double_allocate(card, NULL, bytes, at) : CUDA_ERROR_INVALID_VALUE;
}

int cuMemFree_v2(void *at) {
    ENTER();
    double_waited();
    return double_free(at);
}

int cuMemAllocAsync(void **at, size_t bytes, void *stream) {
    ENTER();
    CARD(stream);
    return double_allocate(card, pool_of(card), bytes, at);
}

int cuMemAllocFromPoolAsync(void **at, size_t bytes, struct pool *pool, void *stream) {
    ENTER();
    CARD(stream);
    return double_allocate(card, pool, bytes, at);
}

int cuMemFreeAsync(void *at, void *stream) {
    ENTER();
    if (double_card_of(stream) < 0) return CUDA_ERROR_INVALID_CONTEXT;
    return double_free(at);
}

int cuMemGetInfo_v2(size_t *unused, size_t *total) {
    ENTER();
    CARD(NULL);
    *unused = double_bytes_free(card);
    *total = double_card_bytes();
    return CUDA_SUCCESS;
}

static int host_memory(void **at, size_t bytes) {
    *at = mmap(NULL, bytes + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (*at == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
    // Before what is given: how much it is.
    *(size_t *)*at = bytes + 4096;
    *at = (char *)*at + 4096;
    return CUDA_SUCCESS;
}

int cuMemHostAlloc(void **at, size_t bytes, unsigned flags) {
    (void)flags;
    ENTER();
    return host_memory(at, bytes);
}

int cuMemAllocHost_v2(void **at, size_t bytes) {
    ENTER();
    return host_memory(at, bytes);
}

int cuMemFreeHost(void *at) {
    ENTER();
    char *start = (char *)at - 4096;
    munmap(start, *(size_t *)start);
    return CUDA_SUCCESS;
}

int cuDeviceGetDefaultMemPool(struct pool **pool, int device) {
    ENTER();
    *pool = double_default_pool(device);
    return CUDA_SUCCESS;
}

int cuDeviceGetMemPool(struct pool **pool, int device) {
    ENTER();
    *pool = pool_of(device);
    return CUDA_SUCCESS;
}

int cuDeviceSetMemPool(int device, struct pool *pool) {
    ENTER();
    chosen[device] = pool;
    return CUDA_SUCCESS;
}

// Of the properties only the card is looked at.
struct pool_properties { int kind, handles, location_kind, location; };

int cuMemPoolCreate(struct pool **pool, const struct pool_properties *properties) {
    ENTER();
    *pool = calloc(1, sizeof **pool);
    (*pool)->card = properties->location;
    return CUDA_SUCCESS;
}

int cuMemPoolDestroy(struct pool *pool) {
    ENTER();
    double_trim(pool, 0);
    return CUDA_SUCCESS;
}

int cuMemPoolTrimTo(struct pool *pool, size_t keep) {
    ENTER();
    double_trim(pool, keep);
    return CUDA_SUCCESS;
}

enum { RELEASE_THRESHOLD = 4, RESERVED_CURRENT, RESERVED_HIGH, USED_CURRENT, USED_HIGH };

int cuMemPoolSetAttribute(struct pool *pool, int attribute, void *value) {
    ENTER();
    if (attribute == RELEASE_THRESHOLD) pool->threshold = *(uint64_t *)value;
    if (attribute == RESERVED_HIGH) pool->most_reserved = pool->reserved;
    if (attribute == USED_HIGH) pool->most_used = pool->used;
    return CUDA_SUCCESS;
}

int cuMemPoolGetAttribute(struct pool *pool, int attribute, void *value) {
    ENTER();
    switch (attribute) {
    case RELEASE_THRESHOLD: *(uint64_t *)value = pool->threshold; break;
    case RESERVED_CURRENT: *(uint64_t *)value = pool->reserved; break;
    case RESERVED_HIGH: *(uint64_t *)value = pool->most_reserved; break;
    case USED_CURRENT: *(uint64_t *)value = pool->used; break;
    case USED_HIGH: *(uint64_t *)value = pool->most_used; break;
    // Whether memory is given again across streams: it is.
    default: *(int *)value = 1;
    }
    return CUDA_SUCCESS;
}

static int copied(void *to, const void *from, size_t bytes, void *stream, const char *kind) {
    CARD(stream);
    (void)card;
    bool reads = strcmp(kind, "dtoh") == 0;
    double_count(COPIES, kind, (double)bytes);
    double_on_stream(TRANSFERS, stream);
    if (bytes <= REAL_BYTES || reads) memmove(to, from, bytes);
    // Memory that is not pinned is there when the call returns.
    if (reads) double_waited();
    return CUDA_SUCCESS;
}

int cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t bytes, void *stream) {
    ENTER();
    return copied(to, from, bytes, stream, "htod");
}

int cuMemcpyHtoD_v2(void *to, const void *from, size_t bytes) {
    ENTER();
    return copied(to, from, bytes, NULL, "htod");
}

int cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t bytes, void *stream) {
    ENTER();
    return copied(to, from, bytes, stream, "dtoh");
}

int cuMemcpyDtoH_v2(void *to, const void *from, size_t bytes) {
    ENTER();
    return copied(to, from, bytes, NULL, "dtoh");
}

int cuMemcpyDtoDAsync_v2(void *to, const void *from, size_t bytes, void *stream) {
    ENTER();
    return copied(to, from, bytes, stream, "dtod");
}

int cuMemcpyDtoD_v2(void *to, const void *from, size_t bytes) {
    ENTER();
    return copied(to, from, bytes, NULL, "dtod");
}

int cuMemsetD8Async(void *at, unsigned char byte, size_t bytes, void *stream) {
    ENTER();
    CARD(stream);
    (void)card;
    double_fill(at, byte, bytes, stream);
    return CUDA_SUCCESS;
}

int cuMemsetD8_v2(void *at, unsigned char byte, size_t bytes) {
    ENTER();
    CARD(NULL);
    (void)card;
    double_fill(at, byte, bytes, NULL);
    return CUDA_SUCCESS;
}
