// libcublas.so.13: products of matrices are counted by type and by shape, not computed.

#include <stdlib.h>

#include "blas.h"

struct handle { void *stream; };

int cublasCreate_v2(struct handle **handle) {
    LIBRARY();
    *handle = calloc(1, sizeof **handle);
    return 0;
}

int cublasDestroy_v2(struct handle *handle) {
    LIBRARY();
    free(handle);
    return 0;
}

int cublasSetStream_v2(struct handle *handle, void *stream) {
    LIBRARY();
    handle->stream = stream;
    return 0;
}

int cublasGetStream_v2(struct handle *handle, void **stream) {
    LIBRARY();
    *stream = handle->stream;
    return 0;
}

int cublasGemmEx(
    struct handle *handle, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int type, int lda,
    const void *b, int btype, int ldb, const void *beta, void *c, int ctype, int ldc, int compute, int algorithm) {
    (void)ta, (void)tb, (void)alpha, (void)a, (void)lda, (void)b, (void)btype, (void)ldb, (void)beta, (void)c;
    (void)ctype, (void)ldc, (void)algorithm;
    LIBRARY();
    return double_multiply((struct product){"gemm", type, compute, m, n, k, 1, handle->stream});
}

int cublasGemmStridedBatchedEx(
    struct handle *handle, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int type, int lda,
    long long sa, const void *b, int btype, int ldb, long long sb, const void *beta, void *c, int ctype, int ldc,
    long long sc, int batch, int compute, int algorithm) {
    (void)ta, (void)tb, (void)alpha, (void)a, (void)lda, (void)sa, (void)b, (void)btype, (void)ldb, (void)sb;
    (void)beta, (void)c, (void)ctype, (void)ldc, (void)sc, (void)algorithm;
    LIBRARY();
    return double_multiply((struct product){"gemm", type, compute, m, n, k, batch, handle->stream});
}

int cublasGemmBatchedEx(
    struct handle *handle, int ta, int tb, int m, int n, int k, const void *alpha, const void *const *a, int type,
    int lda, const void *const *b, int btype, int ldb, const void *beta, void *const *c, int ctype, int ldc, int batch,
    int compute, int algorithm) {
    (void)ta, (void)tb, (void)alpha, (void)a, (void)lda, (void)b, (void)btype, (void)ldb, (void)beta, (void)c;
    (void)ctype, (void)ldc, (void)algorithm;
    LIBRARY();
    return double_multiply((struct product){"gemm", type, compute, m, n, k, batch, handle->stream});
}

// The forms with a type in their name. Alpha and beta are pointers in all of them.
#define GEMM(NAME, TYPE, COMPUTE) \
    int NAME(struct handle *handle, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int lda, \
        const void *b, int ldb, const void *beta, void *c, int ldc) { \
        (void)ta, (void)tb, (void)alpha, (void)a, (void)lda, (void)b, (void)ldb, (void)beta, (void)c, (void)ldc; \
        LIBRARY(); \
        return double_multiply((struct product){"gemm", TYPE, COMPUTE, m, n, k, 1, handle->stream}); \
    }
#define BATCHED_GEMM(NAME, TYPE, COMPUTE) \
    int NAME(struct handle *handle, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int lda, \
        long long sa, const void *b, int ldb, long long sb, const void *beta, void *c, int ldc, long long sc, \
        int batch) { \
        (void)ta, (void)tb, (void)alpha, (void)a, (void)lda, (void)sa, (void)b, (void)ldb, (void)sb, (void)beta; \
        (void)c, (void)ldc, (void)sc; \
        LIBRARY(); \
        return double_multiply((struct product){"gemm", TYPE, COMPUTE, m, n, k, batch, handle->stream}); \
    }
GEMM(cublasSgemm_v2, R_32F, COMPUTE_32F)
GEMM(cublasDgemm_v2, R_64F, COMPUTE_64F)
GEMM(cublasHgemm, R_16F, COMPUTE_16F)
BATCHED_GEMM(cublasSgemmStridedBatched, R_32F, COMPUTE_32F)
BATCHED_GEMM(cublasDgemmStridedBatched, R_64F, COMPUTE_64F)
BATCHED_GEMM(cublasHgemmStridedBatched, R_16F, COMPUTE_16F)

const char *cublasGetStatusString(int status) { return status ? "an error of cuda-double" : "CUBLAS_STATUS_SUCCESS"; }

const char *cublasGetStatusName(int status) { return cublasGetStatusString(status); }
