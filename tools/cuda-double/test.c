// The driver's stand-in, called as a program calls it. Runs on a card of 1000 MiB; aborts where something is not so.
// check.py builds and runs it, and looks at what was counted.

#undef NDEBUG
#include <assert.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

int cuInit(unsigned flags);
int cuDeviceGet(int *device, int ordinal);
int cuDevicePrimaryCtxRetain(void **context, int device);
int cuCtxSetCurrent(void *context);
int cuStreamCreate(void **stream, unsigned flags);
int cuStreamSynchronize(void *stream);
int cuMemAlloc_v2(void **at, size_t bytes);
int cuMemFree_v2(void *at);
int cuMemAllocAsync(void **at, size_t bytes, void *stream);
int cuMemFreeAsync(void *at, void *stream);
int cuMemGetInfo_v2(size_t *unused, size_t *total);
int cuDeviceGetDefaultMemPool(void **pool, int device);
int cuMemPoolSetAttribute(void *pool, int attribute, void *value);
int cuMemPoolGetAttribute(void *pool, int attribute, void *value);
int cuMemPoolTrimTo(void *pool, size_t keep);
int cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t bytes, void *stream);
int cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t bytes, void *stream);
int cuModuleLoadData(void **module, const void *image);
int cuModuleGetFunction(void **function, void *module, const char *name);
int cuLaunchKernel(
    void *function, unsigned bx, unsigned by, unsigned bz, unsigned tx, unsigned ty, unsigned tz, unsigned shared,
    void *stream, void **arguments, void **extra);
int cuProfilerStart(void);

enum { MIB = 1 << 20 };

static void *context, *stream, *function;

static size_t taken(void) {
    size_t unused, total;
    assert(cuMemGetInfo_v2(&unused, &total) == 0);
    assert(total == (size_t)1000 * MIB);
    return total - unused;
}

static void nothing_without_a_context(void) {
    void *at;
    int device;
    assert(cuDeviceGet(&device, 0) == 3);
    assert(cuInit(0) == 0);
    assert(cuDeviceGet(&device, 1) == 101);
    assert(cuMemAllocAsync(&at, 1, NULL) == 201);
    assert(cuMemFreeAsync(NULL, (void *)2) == 201);
}

static void a_pool_keeps_what_is_freed_until_a_synchronize(void) {
    void *a, *b;
    assert(cuMemAllocAsync(&a, (size_t)600 * MIB, stream) == 0);
    assert(cuMemAllocAsync(&b, (size_t)600 * MIB, stream) == 2);
    assert(cuMemFreeAsync(a, stream) == 0 && taken() == (size_t)600 * MIB);
    assert(cuMemAllocAsync(&a, (size_t)500 * MIB, stream) == 0 && taken() == (size_t)600 * MIB);
    assert(cuStreamSynchronize(stream) == 0 && taken() == (size_t)500 * MIB);
    assert(cuMemFreeAsync(a, stream) == 0 && cuMemFreeAsync(a, stream) == 1);
    assert(cuStreamSynchronize(stream) == 0 && taken() == 0);
}

static void a_threshold_keeps_it_longer_but_not_from_others(void) {
    void *a, *pool;
    uint64_t all = UINT64_MAX, bytes;
    assert(cuDeviceGetDefaultMemPool(&pool, 0) == 0);
    assert(cuMemPoolSetAttribute(pool, 4, &all) == 0);
    assert(cuMemAllocAsync(&a, (size_t)500 * MIB, stream) == 0 && cuMemFreeAsync(a, stream) == 0);
    assert(cuStreamSynchronize(stream) == 0 && taken() == (size_t)500 * MIB);
    assert(cuMemPoolGetAttribute(pool, 5, &bytes) == 0 && bytes == (uint64_t)500 * MIB);
    assert(cuMemPoolGetAttribute(pool, 7, &bytes) == 0 && bytes == 0);
    assert(cuMemPoolTrimTo(pool, 100 * MIB) == 0 && taken() == (size_t)100 * MIB);
    assert(cuMemAlloc_v2(&a, (size_t)950 * MIB) == 0 && taken() == (size_t)950 * MIB);
    assert(cuMemFree_v2(a) == 0 && taken() == 0);
}

static void what_is_copied_there_comes_back_and_the_rest_is_zero(void) {
    char bytes[4096];
    void *at;
    memset(bytes, 7, sizeof bytes);
    assert(cuMemAllocAsync(&at, 2 * sizeof bytes, stream) == 0);
    assert(cuMemcpyHtoDAsync_v2(at, bytes, sizeof bytes, stream) == 0);
    assert(cuMemcpyDtoHAsync_v2(bytes, (char *)at + sizeof bytes / 2, sizeof bytes, stream) == 0);
    assert(bytes[0] == 7 && bytes[2047] == 7 && bytes[2048] == 0 && bytes[4095] == 0);
    assert(cuMemFreeAsync(at, stream) == 0);
}

static void kernels_are_found_by_name_and_launched_within_limits(void) {
    void *module;
    assert(cuModuleLoadData(&module, "//\n.version 9.0\n.target sm_100\n") == 218);
    assert(cuModuleLoadData(&module, "//\n.version 9.0\n.target sm_89a\n") == 218);
    assert(cuModuleLoadData(&module, "//\n.version 9.0\n.target sm_80\n.visible .entry add_f32(\n") == 0);
    assert(cuModuleGetFunction(&function, module, "add_f3") == 500);
    assert(cuModuleGetFunction(&function, module, "add_f32") == 0);
    assert(cuLaunchKernel(function, 0, 1, 1, 1, 1, 1, 0, stream, NULL, NULL) == 1);
    assert(cuLaunchKernel(function, 1, 1, 1, 2048, 1, 1, 0, stream, NULL, NULL) == 1);
    assert(cuLaunchKernel(function, 1, 1, 1, 1024, 1, 1, 49153, stream, NULL, NULL) == 1);
    assert(cuLaunchKernel(function, 1, 65536, 1, 1024, 1, 1, 0, stream, NULL, NULL) == 1);
    assert(cuLaunchKernel(function, 1, 1, 1, 1024, 1, 1, 0, stream, NULL, NULL) == 0);
}

static void *launch_on_the_stream_of_this_thread(void *nothing) {
    assert(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, (void *)2, NULL, NULL) == 201);
    assert(cuCtxSetCurrent(context) == 0);
    assert(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, (void *)2, NULL, NULL) == 0);
    assert(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, (void *)2, NULL, NULL) == 0);
    return nothing;
}

int main(void) {
    nothing_without_a_context();
    assert(cuDevicePrimaryCtxRetain(&context, 0) == 0 && cuCtxSetCurrent(context) == 0);
    assert(cuStreamCreate(&stream, 1) == 0);
    a_pool_keeps_what_is_freed_until_a_synchronize();
    a_threshold_keeps_it_longer_but_not_from_others();
    what_is_copied_there_comes_back_and_the_rest_is_zero();
    kernels_are_found_by_name_and_launched_within_limits();
    for (int i = 0; i < 2; i++) {
        pthread_t thread;
        assert(pthread_create(&thread, NULL, launch_on_the_stream_of_this_thread, NULL) == 0);
        assert(pthread_join(thread, NULL) == 0);
    }
    // Only counted.
    assert(cuProfilerStart() == 0);
    return 0;
}
