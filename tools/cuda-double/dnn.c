// libcudnn.so.9: convolutions. Descriptors keep what they are told, so that shapes are checked, a workspace has a size,
// and a convolution is counted by the type of its data and the type that it adds up in.

#include <stdio.h>
#include <stdlib.h>

#include "double.h"

enum { BAD_PARAM = 2000 };
enum { FLOAT = 0, DOUBLE = 1, HALF = 2, BFLOAT16 = 9 };
enum { RANK = 8 };

struct handle { void *stream; };

// Of a tensor (batch, channels, then space) or a filter (outputs, inputs, then space).
struct shape {
    int type, rank;
    int64_t sizes[RANK];
};

struct convolution {
    int rank, compute, math, groups;
    int64_t pad[RANK], stride[RANK], dilation[RANK];
};

static const char *type_name(int type) {
    switch (type) {
    case FLOAT: return "f32";
    case DOUBLE: return "f64";
    case HALF: return "f16";
    case BFLOAT16: return "bf16";
    default: return "other";
    }
}

static int64_t bytes_of(int type) { return type == DOUBLE ? 8 : type == FLOAT ? 4 : 2; }

static int64_t elements(const struct shape *shape) {
    int64_t product = 1;
    for (int i = 0; i < shape->rank; i++) product *= shape->sizes[i];
    return product;
}

int cudnnCreate(struct handle **handle) {
    LIBRARY();
    *handle = calloc(1, sizeof **handle);
    return 0;
}

int cudnnDestroy(struct handle *handle) {
    LIBRARY();
    free(handle);
    return 0;
}

int cudnnSetStream(struct handle *handle, void *stream) {
    LIBRARY();
    handle->stream = stream;
    return 0;
}

size_t cudnnGetVersion(void) { return 92100; }

const char *cudnnGetErrorString(int status) { return status ? "an error of cuda-double" : "CUDNN_STATUS_SUCCESS"; }

// A descriptor of any kind.
static int create(void **descriptor, size_t bytes) {
    *descriptor = calloc(1, bytes);
    return 0;
}

#define DESCRIPTOR(KIND, STRUCT) \
    int cudnnCreate##KIND##Descriptor(void **descriptor) { \
        LIBRARY(); \
        return create(descriptor, sizeof(STRUCT)); \
    } \
    int cudnnDestroy##KIND##Descriptor(void *descriptor) { \
        LIBRARY(); \
        free(descriptor); \
        return 0; \
    }
DESCRIPTOR(Tensor, struct shape)
DESCRIPTOR(Filter, struct shape)
DESCRIPTOR(Convolution, struct convolution)

static int set_shape(struct shape *shape, int type, int rank, const int *sizes) {
    if (rank < 1 || rank > RANK) return BAD_PARAM;
    shape->type = type, shape->rank = rank;
    for (int i = 0; i < rank; i++) {
        if (sizes[i] <= 0) return BAD_PARAM;
        shape->sizes[i] = sizes[i];
    }
    return 0;
}

int cudnnSetTensor4dDescriptor(struct shape *shape, int format, int type, int n, int c, int h, int w) {
    (void)format;
    LIBRARY();
    return set_shape(shape, type, 4, (int[]){n, c, h, w});
}

int cudnnSetTensor4dDescriptorEx(
    struct shape *shape, int type, int n, int c, int h, int w, int sn, int sc, int sh, int sw) {
    (void)sn, (void)sc, (void)sh, (void)sw;
    LIBRARY();
    return set_shape(shape, type, 4, (int[]){n, c, h, w});
}

int cudnnSetTensorNdDescriptor(struct shape *shape, int type, int rank, const int *sizes, const int *strides) {
    (void)strides;
    LIBRARY();
    return set_shape(shape, type, rank, sizes);
}

int cudnnSetFilter4dDescriptor(struct shape *shape, int type, int format, int k, int c, int h, int w) {
    (void)format;
    LIBRARY();
    return set_shape(shape, type, 4, (int[]){k, c, h, w});
}

int cudnnSetFilterNdDescriptor(struct shape *shape, int type, int format, int rank, const int *sizes) {
    (void)format;
    LIBRARY();
    return set_shape(shape, type, rank, sizes);
}

static int set_convolution(
    struct convolution *of, int rank, const int *pad, const int *stride, const int *dilation, int compute) {
    if (rank < 1 || rank > RANK) return BAD_PARAM;
    of->rank = rank, of->compute = compute, of->math = 0, of->groups = 1;
    for (int i = 0; i < rank; i++) {
        if (pad[i] < 0 || stride[i] < 1 || dilation[i] < 1) return BAD_PARAM;
        of->pad[i] = pad[i], of->stride[i] = stride[i], of->dilation[i] = dilation[i];
    }
    return 0;
}

int cudnnSetConvolution2dDescriptor(
    struct convolution *of, int ph, int pw, int sh, int sw, int dh, int dw, int mode, int compute) {
    (void)mode;
    LIBRARY();
    return set_convolution(of, 2, (int[]){ph, pw}, (int[]){sh, sw}, (int[]){dh, dw}, compute);
}

int cudnnSetConvolutionNdDescriptor(
    struct convolution *of, int rank, const int *pad, const int *stride, const int *dilation, int mode, int compute) {
    (void)mode;
    LIBRARY();
    return set_convolution(of, rank, pad, stride, dilation, compute);
}

int cudnnSetConvolutionMathType(struct convolution *of, int math) {
    LIBRARY();
    of->math = math;
    return 0;
}

int cudnnSetConvolutionGroupCount(struct convolution *of, int groups) {
    LIBRARY();
    of->groups = groups;
    return 0;
}

// Whether y is what the convolution makes of x with w.
static bool agree(
    const struct shape *x, const struct shape *w, const struct convolution *of, const struct shape *y) {
    if (x->rank != of->rank + 2 || w->rank != x->rank || y->rank != x->rank) return false;
    if (x->type != w->type || x->sizes[0] != y->sizes[0] || y->sizes[1] != w->sizes[0]) return false;
    if (of->groups < 1 || x->sizes[1] != w->sizes[1] * of->groups) return false;
    for (int i = 0; i < of->rank; i++) {
        int64_t reach = of->dilation[i] * (w->sizes[i + 2] - 1) + 1, padded = x->sizes[i + 2] + 2 * of->pad[i];
        if (padded < reach || y->sizes[i + 2] != (padded - reach) / of->stride[i] + 1) return false;
    }
    return true;
}

// One row of what cuDNN thinks of the algorithms.
struct opinion {
    int algorithm, status;
    float time;
    size_t memory;
    int determinism, math, reserved[3];
};

enum { IMPLICIT_PRECOMPUTED_GEMM = 1 };

// What the data takes that is laid out anew: a guess at what cuDNN asks for.
static size_t workspace_of(const struct shape *x, const struct shape *y) {
    return (size_t)((elements(x) + elements(y)) * bytes_of(x->type));
}

int cudnnGetConvolutionForwardAlgorithm_v7(
    struct handle *handle, struct shape *x, struct shape *w, struct convolution *of, struct shape *y, int wanted,
    int *count, struct opinion *opinions) {
    (void)handle;
    LIBRARY();
    if (wanted < 1 || !agree(x, w, of, y)) return BAD_PARAM;
    *count = 1;
    opinions[0] = (struct opinion){
        .algorithm = IMPLICIT_PRECOMPUTED_GEMM, .memory = workspace_of(x, y), .math = of->math};
    return 0;
}

int cudnnGetConvolutionForwardWorkspaceSize(
    struct handle *handle, struct shape *x, struct shape *w, struct convolution *of, struct shape *y, int algorithm,
    size_t *bytes) {
    (void)handle, (void)algorithm;
    LIBRARY();
    if (!agree(x, w, of, y)) return BAD_PARAM;
    *bytes = workspace_of(x, y);
    return 0;
}

static int convolve(
    struct handle *handle, const struct shape *x, const struct shape *w, const struct convolution *of,
    const struct shape *y, size_t workspace, const char *kind) {
    if (!agree(x, w, of, y)) return BAD_PARAM;
    if (workspace < workspace_of(x, y)) return BAD_PARAM;
    char name[96], shape[256];
    double flops = 2.0 * (double)elements(y) * (double)(elements(w) / w->sizes[0]);
    snprintf(name, sizeof name, "%s_%s_compute_%s%s", kind, type_name(x->type), type_name(of->compute),
        of->math == 0 ? "" : of->math == 1 ? "_tensor_op" : of->math == 2 ? "_tensor_op_conversion" : "_fma");
    int64_t sizes[4] = {x->sizes[1], y->sizes[1], w->sizes[2], of->stride[0]};
    snprintf(shape, sizeof shape, "%s %jd to %jd, %jdx%jd, stride %jd, to %jdx%jd batch %jd", name, (intmax_t)sizes[0],
        (intmax_t)sizes[1], (intmax_t)sizes[2], (intmax_t)w->sizes[w->rank - 1], (intmax_t)sizes[3],
        (intmax_t)y->sizes[2], (intmax_t)y->sizes[y->rank - 1], (intmax_t)y->sizes[0]);
    double_count(CONVOLUTIONS, name, flops);
    double_count(SHAPES, shape, flops);
    double_on_stream(KERNELS, handle->stream);
    return 0;
}

int cudnnConvolutionForward(
    struct handle *handle, const void *alpha, struct shape *x, const void *from, struct shape *w, const void *filter,
    struct convolution *of, int algorithm, void *workspace, size_t workspace_bytes, const void *beta, struct shape *y,
    void *to) {
    (void)alpha, (void)from, (void)filter, (void)algorithm, (void)workspace, (void)beta, (void)to;
    LIBRARY();
    return convolve(handle, x, w, of, y, workspace_bytes, "conv");
}

int cudnnConvolutionBiasActivationForward(
    struct handle *handle, const void *alpha, struct shape *x, const void *from, struct shape *w, const void *filter,
    struct convolution *of, int algorithm, void *workspace, size_t workspace_bytes, const void *more_alpha,
    struct shape *z, const void *added, struct shape *bias, const void *biases, void *activation, struct shape *y,
    void *to) {
    (void)alpha, (void)from, (void)filter, (void)algorithm, (void)workspace, (void)more_alpha, (void)z, (void)added;
    (void)bias, (void)biases, (void)activation, (void)to;
    LIBRARY();
    return convolve(handle, x, w, of, y, workspace_bytes, "conv_bias_activation");
}
