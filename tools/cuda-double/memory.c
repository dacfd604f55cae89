// The memory of the cards: what is allocated, what pools keep, when there is no more. Behind it are pages that the
// system clears and gives when they are touched, so that memory which is only counted costs nothing.

#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "double.h"

enum { BUCKETS = 1 << 14, GRAIN = 512, PAGE = 4096 };

struct block {
    void *at;
    size_t bytes;
    int card;
    struct pool *pool;
    struct block *next;
};

struct card {
    // All that cannot be had: of the card itself, and what its pools keep.
    size_t allocated, reserved, most_allocated, most_reserved;
    struct pool pool;
};

static struct block *blocks[BUCKETS];
static struct card cards[MOST_CARDS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static size_t bytes_of(const char *text, size_t otherwise) {
    if (!text || !*text) return otherwise;
    char *end;
    double value = strtod(text, &end);
    switch (*end | 32) {
    case 'k': value *= 1 << 10; break;
    case 'm': value *= 1 << 20; break;
    case 'g': value *= 1 << 30; break;
    default: break;
    }
    return (size_t)value;
}

int double_cards(void) {
    const char *text = getenv("CUDA_DOUBLE_DEVICES");
    int count = text && *text ? atoi(text) : 1;
    return count < 0 ? 0 : count > MOST_CARDS ? MOST_CARDS : count;
}

size_t double_card_bytes(void) { return bytes_of(getenv("CUDA_DOUBLE_MEMORY"), (size_t)80 << 30); }

int double_capability(void) {
    const char *text = getenv("CUDA_DOUBLE_CAPABILITY");
    int major = 9, minor = 0;
    if (text) sscanf(text, "%d.%d", &major, &minor);
    return 10 * major + minor;
}

static void raise(size_t *most, size_t now) {
    if (*most < now) *most = now;
}

static struct block **place_of(void *at) {
    struct block **place = &blocks[((uintptr_t)at / PAGE) % BUCKETS];
    while (*place && (*place)->at != at) place = &(*place)->next;
    return place;
}

struct pool *double_default_pool(int card) {
    cards[card].pool.card = card;
    return &cards[card].pool;
}

static void trim(struct pool *pool, size_t keep) {
    size_t left = pool->used > keep ? pool->used : keep;
    if (pool->reserved <= left) return;
    cards[pool->card].reserved -= pool->reserved - left;
    pool->reserved = left;
}

void double_trim(struct pool *pool, size_t keep) {
    pthread_mutex_lock(&lock);
    trim(pool, keep);
    pthread_mutex_unlock(&lock);
}

void double_pools_synchronized(int card) {
    struct pool *pool = double_default_pool(card);
    double_trim(pool, pool->threshold);
}

size_t double_bytes_free(int card) {
    size_t all = double_card_bytes(), taken = cards[card].reserved;
    return all > taken ? all - taken : 0;
}

// Whether the card has room; what its default pool keeps unused is given back for it, as the driver does.
static bool has_room(int card, struct pool *pool, size_t bytes) {
    size_t all = double_card_bytes();
    if (bytes <= all && cards[card].reserved <= all - bytes) return true;
    struct pool *kept = double_default_pool(card);
    if (kept != pool) trim(kept, 0);
    return bytes <= all && cards[card].reserved <= all - bytes;
}

static bool account(int card, struct pool *pool, size_t bytes) {
    struct card *on = &cards[card];
    size_t kept = pool ? pool->reserved - pool->used : 0, more = bytes > kept ? bytes - kept : 0;
    if (more && !has_room(card, pool, more)) return false;
    on->reserved += more;
    on->allocated += bytes;
    raise(&on->most_reserved, on->reserved);
    raise(&on->most_allocated, on->allocated);
    if (pool) {
        pool->reserved += more;
        pool->used += bytes;
        raise(&pool->most_reserved, pool->reserved);
        raise(&pool->most_used, pool->used);
    }
    return true;
}

int double_allocate(int card, struct pool *pool, size_t bytes, void **at) {
    *at = NULL;
    if (!bytes) return CUDA_SUCCESS;
    if (bytes > SIZE_MAX / 2) return CUDA_ERROR_OUT_OF_MEMORY;
    bytes = (bytes + GRAIN - 1) / GRAIN * GRAIN;
    pthread_mutex_lock(&lock);
    bool fits = account(card, pool, bytes);
    pthread_mutex_unlock(&lock);
    if (!fits) return CUDA_ERROR_OUT_OF_MEMORY;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    struct block *block = malloc(sizeof *block);
    if (pages == MAP_FAILED || !block) {
        perror("cuda-double: no pages for what a card would have");
        abort();
    }
    *block = (struct block){.at = pages, .bytes = bytes, .card = card, .pool = pool};
    pthread_mutex_lock(&lock);
    struct block **place = place_of(pages);
    block->next = *place;
    *place = block;
    pthread_mutex_unlock(&lock);
    *at = pages;
    return CUDA_SUCCESS;
}

int double_free(void *at) {
    if (!at) return CUDA_SUCCESS;
    pthread_mutex_lock(&lock);
    struct block **place = place_of(at), *block = *place;
    if (block) {
        *place = block->next;
        cards[block->card].allocated -= block->bytes;
        if (block->pool)
            block->pool->used -= block->bytes;
        else
            cards[block->card].reserved -= block->bytes;
    }
    pthread_mutex_unlock(&lock);
    if (!block) return CUDA_ERROR_INVALID_VALUE;
    munmap(block->at, block->bytes);
    free(block);
    return CUDA_SUCCESS;
}

struct taken double_taken(bool reset) {
    struct taken sum = {0};
    pthread_mutex_lock(&lock);
    for (struct card *card = cards; card < cards + MOST_CARDS; card++) {
        sum.now += card->allocated, sum.most += card->most_allocated;
        sum.reserved += card->reserved, sum.most_reserved += card->most_reserved;
        if (reset) card->most_allocated = card->allocated, card->most_reserved = card->reserved;
    }
    pthread_mutex_unlock(&lock);
    return sum;
}

void double_fill(void *at, int byte, size_t bytes, void *stream) {
    double_count(FILLS, "memset", (double)bytes);
    double_on_stream(KERNELS, stream);
    if (bytes <= REAL_BYTES) memset(at, byte, bytes);
}
