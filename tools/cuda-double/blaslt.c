// libcublasLt.so.13: cublasLtMatmul is counted by type, epilogue and shape.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blas.h"

struct layout { int type; int64_t rows, columns, batch; };
struct description { int compute, transposed_a, epilogue; };

enum { LAYOUT_TYPE = 0, LAYOUT_ROWS = 2, LAYOUT_COLUMNS = 3, LAYOUT_BATCH = 5 };
enum { TRANSPOSED_A = 3, EPILOGUE = 7, PLAIN_EPILOGUE = 1 };

int cublasLtCreate(void **handle) {
    LIBRARY();
    *handle = malloc(1);
    return 0;
}

int cublasLtDestroy(void *handle) {
    LIBRARY();
    free(handle);
    return 0;
}

int cublasLtMatrixLayoutCreate(struct layout **layout, int type, uint64_t rows, uint64_t columns, int64_t stride) {
    (void)stride;
    LIBRARY();
    *layout = malloc(sizeof **layout);
    **layout = (struct layout){type, (int64_t)rows, (int64_t)columns, 1};
    return 0;
}

int cublasLtMatrixLayoutSetAttribute(struct layout *layout, int attribute, const void *value, size_t bytes) {
    (void)bytes;
    LIBRARY();
    switch (attribute) {
    case LAYOUT_TYPE: layout->type = *(const int *)value; break;
    case LAYOUT_ROWS: layout->rows = *(const int64_t *)value; break;
    case LAYOUT_COLUMNS: layout->columns = *(const int64_t *)value; break;
    case LAYOUT_BATCH: layout->batch = *(const int32_t *)value; break;
    default: break;
    }
    return 0;
}

int cublasLtMatrixLayoutDestroy(struct layout *layout) {
    LIBRARY();
    free(layout);
    return 0;
}

int cublasLtMatmulDescCreate(struct description **description, int compute, int scale_type) {
    (void)scale_type;
    LIBRARY();
    *description = malloc(sizeof **description);
    **description = (struct description){compute, 0, PLAIN_EPILOGUE};
    return 0;
}

int cublasLtMatmulDescSetAttribute(struct description *description, int attribute, const void *value, size_t bytes) {
    (void)bytes;
    LIBRARY();
    if (attribute == TRANSPOSED_A) description->transposed_a = *(const int *)value;
    if (attribute == EPILOGUE) description->epilogue = *(const int *)value;
    return 0;
}

int cublasLtMatmulDescDestroy(struct description *description) {
    LIBRARY();
    free(description);
    return 0;
}

int cublasLtMatmulPreferenceCreate(void **preference) {
    LIBRARY();
    *preference = malloc(1);
    return 0;
}

int cublasLtMatmulPreferenceDestroy(void *preference) {
    LIBRARY();
    free(preference);
    return 0;
}

struct heuristic {
    uint64_t algorithm[8];
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

int cublasLtMatmulAlgoGetHeuristic(
    void *handle, struct description *description, struct layout *a, struct layout *b, struct layout *c,
    struct layout *d, void *preference, int wanted, struct heuristic *found, int *count) {
    (void)handle, (void)description, (void)a, (void)b, (void)c, (void)d, (void)preference;
    LIBRARY();
    *count = wanted > 0;
    if (*count) memset(found, 0, sizeof *found);
    return 0;
}

int cublasLtMatmul(
    void *handle, struct description *description, const void *alpha, const void *a, struct layout *at, const void *b,
    struct layout *bt, const void *beta, const void *c, struct layout *ct, void *d, struct layout *dt,
    const void *algorithm, void *workspace, size_t workspace_bytes, void *stream) {
    (void)handle, (void)alpha, (void)a, (void)b, (void)bt, (void)beta, (void)c, (void)ct, (void)d, (void)algorithm;
    (void)workspace, (void)workspace_bytes;
    LIBRARY();
    char name[32] = "matmul";
    if (description->epilogue != PLAIN_EPILOGUE)
        snprintf(name, sizeof name, "matmul_epilogue_%d", description->epilogue);
    int64_t k = description->transposed_a ? at->rows : at->columns;
    return double_multiply((struct product){
        name, at->type, description->compute, dt->rows, dt->columns, k, dt->batch, stream});
}
