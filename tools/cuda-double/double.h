// What the stand-ins share: counting, memory and streams of cards that are not there. NVIDIA's types are declared where
// they are used; a handle is a pointer. libcuda.so.1 has all of this in it, the other libraries call it there.

#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// The driver's answers that are given here.
enum {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_INVALID_VALUE = 1,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NOT_INITIALIZED = 3,
    CUDA_ERROR_NO_DEVICE = 100,
    CUDA_ERROR_INVALID_DEVICE = 101,
    CUDA_ERROR_INVALID_CONTEXT = 201,
    CUDA_ERROR_INVALID_PTX = 218,
    CUDA_ERROR_INVALID_HANDLE = 400,
    CUDA_ERROR_NOT_FOUND = 500,
};

// The most cards that can be asked for.
enum { MOST_CARDS = 16 };

// What is counted, by name. An amount is bytes or floating point operations.
enum section { LAUNCHES, CALLS, GEMMS, CONVOLUTIONS, COPIES, FILLS, SHAPES, SECTIONS };
// What is put on streams.
enum work { KERNELS, TRANSFERS, WORKS };

// Counts a call of a library's function. Other than 0: what it is to return, because CUDA_DOUBLE_FAIL says so.
int double_enter(const char *function);
// The error that a device was lost by, which every later call of the driver returns; 0 while there is none.
int double_lost(void);
void double_count(enum section section, const char *name, double amount);
// Counts a kernel and the stream it is on. Other than 0: why it is not launched.
int double_launch(const char *kernel, void *stream);
void double_on_stream(enum work work, void *stream);
// A call that waits for the device: writes what was counted, if the file that CUDA_DOUBLE_MARK names is there.
void double_waited(void);

// The cards, as the environment describes them.
int double_cards(void);
size_t double_card_bytes(void);
// Compute capability times 10: 90.
int double_capability(void);

// A pool of memory. Freed memory stays in it until a synchronize finds more in it than its threshold.
struct pool {
    int card;
    size_t used, reserved, most_used, most_reserved;
    uint64_t threshold;
};

struct pool *double_default_pool(int card);
// Memory of a pool, or without one of the card itself; none for 0 bytes.
int double_allocate(int card, struct pool *pool, size_t bytes, void **at);
int double_free(void *at);
void double_trim(struct pool *pool, size_t keep);
// What a synchronize does to the pools of a card.
void double_pools_synchronized(int card);
size_t double_bytes_free(int card);
// For the counts: bytes that are allocated, and the most since the last call with `reset`; the same with what pools
// keep.
struct taken { size_t now, most, reserved, most_reserved; };
struct taken double_taken(bool reset);

// Writes or copies at most this many bytes for real; what is larger is only counted.
enum { REAL_BYTES = 1 << 20 };
void double_fill(void *at, int byte, size_t bytes, void *stream);

// The first line of a function of a library: counts it, and returns the error if there is one to return.
#define LIBRARY() \
    do { \
        int code_ = double_enter(__func__); \
        if (code_) return code_; \
    } while (0)
// The same in the driver.
#define ENTER() \
    do { \
        int code_ = double_driver(__func__); \
        if (code_) return code_; \
    } while (0)
int double_driver(const char *function);
// The card of a stream; of the default ones and those of threads the card of the thread's context. Below 0: there is
// none, which is CUDA_ERROR_INVALID_CONTEXT.
int double_card_of(void *stream);
