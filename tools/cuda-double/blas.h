// What libcublas.so.13 and libcublasLt.so.13 share; in both of them, as the program may need one alone.

#pragma once

#include <stdio.h>

#include "double.h"

struct product {
    const char *name;
    // cudaDataType of the left side, cublasComputeType_t.
    int type, compute;
    int64_t m, n, k, batch;
    void *stream;
};

enum { R_32F = 0, R_64F = 1, R_16F = 2, R_8I = 3, R_32I = 10, R_16BF = 14, R_8F_E4M3 = 28 };
enum { COMPUTE_16F = 64, COMPUTE_32F = 68, COMPUTE_64F = 70 };

static inline const char *type_name(int type) {
    switch (type) {
    case R_32F: return "f32";
    case R_64F: return "f64";
    case R_16F: return "f16";
    case R_16BF: return "bf16";
    case R_8I: return "i8";
    case R_32I: return "i32";
    case R_8F_E4M3: return "f8e4m3";
    default: return "other";
    }
}

static inline const char *compute_name(int compute) {
    switch (compute) {
    case COMPUTE_16F: case COMPUTE_16F + 1: return "f16";
    case COMPUTE_32F: case COMPUTE_32F + 1: return "f32";
    case COMPUTE_64F: case COMPUTE_64F + 1: return "f64";
    case 72: case 73: return "i32";
    case 74: return "f32_fast_f16";
    case 75: return "f32_fast_bf16";
    case 77: return "f32_fast_tf32";
    default: return "other";
    }
}

static inline int double_multiply(struct product product) {
    char name[96], shape[192];
    double flops = 2.0 * (double)product.m * (double)product.n * (double)product.k * (double)product.batch;
    const char *type = type_name(product.type), *compute = compute_name(product.compute);
    snprintf(name, sizeof name, "%s_%s_compute_%s", product.name, type, compute);
    snprintf(shape, sizeof shape, "%s %jdx%jdx%jd batch %jd", name, (intmax_t)product.m, (intmax_t)product.n,
        (intmax_t)product.k, (intmax_t)product.batch);
    double_count(GEMMS, name, flops);
    double_count(SHAPES, shape, flops);
    double_on_stream(KERNELS, product.stream);
    return 0;
}
