// libcuda.so.1 but for memory and kernels: cards, contexts, streams, events, errors.
//
// Nothing is done, so that everything is done at once: streams have no order, events are always over. What the real
// driver refuses is refused where a program may come to it: a card that is not there, a thread without a context.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "double.h"

struct context { int card; };
struct stream { int card; unsigned flags; };

static struct context contexts[MOST_CARDS];
static __thread struct context *current;
static bool initialized;

int double_driver(const char *function) {
    int code = double_enter(function);
    if (code) return code;
    if (double_lost()) return double_lost();
    return initialized ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED;
}

int double_card_of(void *stream) {
    if ((uintptr_t)stream > 2) return ((struct stream *)stream)->card;
    return current ? current->card : -1;
}

static bool is_card(int card) { return card >= 0 && card < double_cards(); }

int cuInit(unsigned flags) {
    (void)flags;
    int code = double_enter(__func__);
    if (code) return code;
    if (double_cards() == 0) return CUDA_ERROR_NO_DEVICE;
    initialized = true;
    return CUDA_SUCCESS;
}

int cuDriverGetVersion(int *version) {
    *version = 13000;
    return double_enter(__func__);
}

int cuDeviceGetCount(int *count) {
    ENTER();
    *count = double_cards();
    return CUDA_SUCCESS;
}

int cuDeviceGet(int *device, int ordinal) {
    ENTER();
    if (!is_card(ordinal)) return CUDA_ERROR_INVALID_DEVICE;
    *device = ordinal;
    return CUDA_SUCCESS;
}

int cuDeviceGetName(char *name, int length, int device) {
    ENTER();
    if (!is_card(device)) return CUDA_ERROR_INVALID_DEVICE;
    snprintf(name, (size_t)length, "cuda-double %d", device);
    return CUDA_SUCCESS;
}

int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    ENTER();
    if (!is_card(device)) return CUDA_ERROR_INVALID_DEVICE;
    *bytes = double_card_bytes();
    return CUDA_SUCCESS;
}

int cuDeviceGetUuid_v2(char *uuid, int device) {
    ENTER();
    memset(uuid, 0, 16);
    uuid[15] = (char)device;
    return CUDA_SUCCESS;
}

// Sizes of an H100, whatever the compute capability.
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    static const struct { int attribute, value; } known[] = {
        {1, 1024}, {2, 1024}, {3, 1024}, {4, 64}, // threads of a block, and along x, y, z
        {5, 0x7fffffff}, {6, 65535}, {7, 65535}, // blocks along x, y, z
        {8, 49152}, {97, 232448}, {9, 65536}, {12, 65536}, // shared memory, more on request, constants, registers
        {10, 32}, {16, 132}, {39, 2048}, {81, 233472}, {82, 65536}, // warp, multiprocessors and what each has
        {13, 1755000}, {36, 2619000}, {37, 5120}, {38, 50 << 20}, // clocks in kHz, memory bus, L2
        {31, 1}, {40, 3}, {41, 1}, {83, 1}, {95, 1}, // concurrent kernels, engines, unified, managed, cooperative
        {115, 1}, // memory pools
    };
    ENTER();
    if (!is_card(device)) return CUDA_ERROR_INVALID_DEVICE;
    *value = attribute == 75 ? double_capability() / 10 : attribute == 76 ? double_capability() % 10 : 0;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].attribute == attribute) *value = known[i].value;
    return CUDA_SUCCESS;
}

int cuDevicePrimaryCtxRetain(struct context **context, int device) {
    ENTER();
    if (!is_card(device)) return CUDA_ERROR_INVALID_DEVICE;
    contexts[device].card = device;
    *context = &contexts[device];
    return CUDA_SUCCESS;
}

int cuCtxSetCurrent(struct context *context) {
    ENTER();
    current = context;
    return CUDA_SUCCESS;
}

int cuCtxGetCurrent(struct context **context) {
    ENTER();
    *context = current;
    return CUDA_SUCCESS;
}

int cuCtxGetDevice(int *device) {
    ENTER();
    if (!current) return CUDA_ERROR_INVALID_CONTEXT;
    *device = current->card;
    return CUDA_SUCCESS;
}

int cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    ENTER();
    *least = 0;
    *greatest = -5;
    return CUDA_SUCCESS;
}

static int synchronized(int card) {
    if (card < 0) return CUDA_ERROR_INVALID_CONTEXT;
    double_pools_synchronized(card);
    double_waited();
    return CUDA_SUCCESS;
}

int cuCtxSynchronize(void) {
    ENTER();
    return synchronized(double_card_of(NULL));
}

int cuStreamCreateWithPriority(struct stream **stream, unsigned flags, int priority) {
    (void)priority;
    ENTER();
    if (!current) return CUDA_ERROR_INVALID_CONTEXT;
    *stream = malloc(sizeof **stream);
    **stream = (struct stream){.card = current->card, .flags = flags};
    return CUDA_SUCCESS;
}

int cuStreamCreate(struct stream **stream, unsigned flags) {
    ENTER();
    if (!current) return CUDA_ERROR_INVALID_CONTEXT;
    *stream = malloc(sizeof **stream);
    **stream = (struct stream){.card = current->card, .flags = flags};
    return CUDA_SUCCESS;
}

// A handle is never given again: it is the stream's identity in the counts.
int cuStreamDestroy_v2(struct stream *stream) {
    ENTER();
    return (uintptr_t)stream > 2 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

int cuStreamSynchronize(struct stream *stream) {
    ENTER();
    return synchronized(double_card_of(stream));
}

int cuStreamIsCapturing(struct stream *stream, int *status) {
    (void)stream;
    ENTER();
    *status = 0;
    return CUDA_SUCCESS;
}

int cuStreamGetCtx(struct stream *stream, struct context **context) {
    ENTER();
    int card = double_card_of(stream);
    if (card < 0) return CUDA_ERROR_INVALID_CONTEXT;
    contexts[card].card = card;
    *context = &contexts[card];
    return CUDA_SUCCESS;
}

int cuStreamGetFlags(struct stream *stream, unsigned *flags) {
    ENTER();
    *flags = (uintptr_t)stream > 2 ? stream->flags : 0;
    return CUDA_SUCCESS;
}

int cuEventCreate(void **event, unsigned flags) {
    (void)flags;
    ENTER();
    if (!current) return CUDA_ERROR_INVALID_CONTEXT;
    *event = malloc(1);
    return CUDA_SUCCESS;
}

int cuEventDestroy_v2(void *event) {
    ENTER();
    free(event);
    return CUDA_SUCCESS;
}

int cuEventSynchronize(void *event) {
    (void)event;
    ENTER();
    return synchronized(double_card_of(NULL));
}

int cuEventElapsedTime(float *ms, void *start, void *end) {
    (void)start, (void)end;
    ENTER();
    *ms = 0;
    return CUDA_SUCCESS;
}

int cuEventElapsedTime_v2(float *ms, void *start, void *end) {
    (void)start, (void)end;
    ENTER();
    *ms = 0;
    return CUDA_SUCCESS;
}

static const struct { int code; const char *name, *text; } errors[] = {
    {0, "CUDA_SUCCESS", "no error"},
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {34, "CUDA_ERROR_STUB_LIBRARY", "CUDA driver is a stub library"},
    {46, "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {214, "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"},
    {218, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the provided PTX was compiled with an unsupported toolchain."},
    {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {600, "CUDA_ERROR_NOT_READY", "device not ready"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {702, "CUDA_ERROR_LAUNCH_TIMEOUT", "the launch timed out and was terminated"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

static int told(int code, const char **text, bool name) {
    *text = NULL;
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].code == code) *text = name ? errors[i].name : errors[i].text;
    return *text ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

int cuGetErrorName(int code, const char **name) { return told(code, name, true); }

int cuGetErrorString(int code, const char **text) { return told(code, text, false); }

// The newest form of a function is what its plain name means.
int cuGetProcAddress_v2(const char *symbol, void **function, int version, uint64_t flags, int *status) {
    static const char *const forms[] = {"_v3", "_v2", ""};
    (void)version, (void)flags;
    double_enter(__func__);
    *function = NULL;
    for (size_t i = 0; i < 3 && !*function; i++) {
        char name[160];
        snprintf(name, sizeof name, "%s%s", symbol, forms[i]);
        *function = dlsym(RTLD_DEFAULT, name);
    }
    if (status) *status = *function ? 0 : 1;
    return *function ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
