// libcuda.so.1's modules and kernels: no kernel runs, each launch is counted by name.
//
// What the driver refuses before a kernel runs is refused: PTX for a newer card, a name that the module does not have,
// more blocks, threads or shared memory than there are, none at all.

#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "double.h"

enum { SHARED_WITHOUT_ASKING = 48 << 10, SHARED_AT_MOST = 227 << 10 };

struct function {
    char *name;
    int shared;
    struct function *next;
};

struct module {
    // None of a binary, which is taken to have every name.
    char *ptx;
    struct function *functions;
};

static bool is_text(const char *image) { return *image && strchr("/.\n ", *image); }

// Whether PTX for `sm_NUMBER` runs: on that card and newer ones; with an `a` behind it on that card alone, with an `f` on
// those with the same major number.
static bool fits(const char *ptx) {
    const char *target = strstr(ptx, "\n.target sm_");
    if (!target) return true;
    char *end;
    int wanted = (int)strtol(target + strlen("\n.target sm_"), &end, 10);
    int has = double_capability();
    return *end == 'a' ? wanted == has : wanted <= has && (*end != 'f' || wanted / 10 == has / 10);
}

static int load(struct module **module, const char *image) {
    bool text = is_text(image);
    if (double_card_of(NULL) < 0) return CUDA_ERROR_INVALID_CONTEXT;
    if (text && !fits(image)) return CUDA_ERROR_INVALID_PTX;
    *module = calloc(1, sizeof **module);
    if (text) (*module)->ptx = strdup(image);
    return CUDA_SUCCESS;
}

int cuModuleLoadData(struct module **module, const void *image) {
    ENTER();
    return load(module, image);
}

int cuModuleLoadDataEx(struct module **module, const void *image, unsigned count, int *options, void **values) {
    (void)count, (void)options, (void)values;
    ENTER();
    return load(module, image);
}

// Functions stay: a handle may outlive its module in a program that is wrong, and would crash it here only.
int cuModuleUnload(struct module *module) {
    ENTER();
    free(module->ptx);
    module->ptx = NULL;
    return CUDA_SUCCESS;
}

static bool has(const struct module *module, const char *name) {
    if (!module->ptx) return true;
    char entry[512];
    int length = snprintf(entry, sizeof entry, ".entry %s(", name);
    return length < (int)sizeof entry && strstr(module->ptx, entry);
}

int cuModuleGetFunction(struct function **function, struct module *module, const char *name) {
    ENTER();
    struct function *known = module->functions;
    while (known && strcmp(known->name, name) != 0) known = known->next;
    if (!known) {
        if (!has(module, name)) return CUDA_ERROR_NOT_FOUND;
        known = malloc(sizeof *known);
        *known = (struct function){.name = strdup(name), .shared = SHARED_WITHOUT_ASKING, .next = module->functions};
        module->functions = known;
    }
    *function = known;
    return CUDA_SUCCESS;
}

enum { MAX_THREADS = 0, REGISTERS = 4, PTX_VERSION = 5, BINARY_VERSION = 6, MAX_SHARED = 8 };

int cuFuncGetAttribute(int *value, int attribute, struct function *function) {
    ENTER();
    switch (attribute) {
    case MAX_THREADS: *value = 1024; break;
    case REGISTERS: *value = 32; break;
    case PTX_VERSION:
    case BINARY_VERSION: *value = double_capability(); break;
    case MAX_SHARED: *value = function->shared; break;
    default: *value = 0;
    }
    return CUDA_SUCCESS;
}

int cuFuncSetAttribute(struct function *function, int attribute, int value) {
    ENTER();
    if (attribute == MAX_SHARED && value > SHARED_AT_MOST) return CUDA_ERROR_INVALID_VALUE;
    if (attribute == MAX_SHARED) function->shared = value;
    return CUDA_SUCCESS;
}

static int blocks_of(int *count, int threads) {
    *count = threads > 0 ? 2048 / threads : 0;
    return CUDA_SUCCESS;
}

int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *count, struct function *function, int threads, size_t shared) {
    (void)function, (void)shared;
    ENTER();
    return blocks_of(count, threads);
}

int cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    int *count, struct function *function, int threads, size_t shared, unsigned flags) {
    (void)function, (void)shared, (void)flags;
    ENTER();
    return blocks_of(count, threads);
}

int cuOccupancyMaxPotentialBlockSize(
    int *blocks, int *threads, struct function *function, void *shared_of, size_t shared, int limit) {
    (void)function, (void)shared_of, (void)shared;
    ENTER();
    *blocks = 264;
    *threads = limit > 0 && limit < 1024 ? limit : 1024;
    return CUDA_SUCCESS;
}

// Blocks and threads along x, y, z, shared memory, stream: as cuLaunchKernelEx has them one after the other.
struct launch {
    unsigned blocks[3], threads[3], shared;
    void *stream;
};

static int launched(struct function *function, const struct launch *launch) {
    const unsigned *blocks = launch->blocks, *threads = launch->threads;
    if (double_card_of(launch->stream) < 0) return CUDA_ERROR_INVALID_CONTEXT;
    for (int i = 0; i < 3; i++)
        if (!blocks[i] || !threads[i]) return CUDA_ERROR_INVALID_VALUE;
    bool large = blocks[0] > 0x7fffffff || blocks[1] > 65535 || blocks[2] > 65535 || threads[2] > 64
        || (uint64_t)threads[0] * threads[1] * threads[2] > 1024 || launch->shared > (unsigned)function->shared;
    if (large) return CUDA_ERROR_INVALID_VALUE;
    return double_launch(function->name, launch->stream);
}

int cuLaunchKernel(
    struct function *function, unsigned bx, unsigned by, unsigned bz, unsigned tx, unsigned ty, unsigned tz,
    unsigned shared, void *stream, void **arguments, void **extra) {
    (void)arguments, (void)extra;
    ENTER();
    return launched(function, &(struct launch){{bx, by, bz}, {tx, ty, tz}, shared, stream});
}

int cuLaunchCooperativeKernel(
    struct function *function, unsigned bx, unsigned by, unsigned bz, unsigned tx, unsigned ty, unsigned tz,
    unsigned shared, void *stream, void **arguments) {
    (void)arguments;
    ENTER();
    return launched(function, &(struct launch){{bx, by, bz}, {tx, ty, tz}, shared, stream});
}

int cuLaunchKernelEx(const struct launch *launch, struct function *function, void **arguments, void **extra) {
    (void)arguments, (void)extra;
    ENTER();
    return launched(function, launch);
}
