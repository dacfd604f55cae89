// libcurand.so.10: numbers are asked for and counted; what comes is zeros.

#include <stdlib.h>
#include <string.h>

#include "double.h"

enum { LENGTH_NOT_MULTIPLE = 105 };

struct generator { void *stream; };

int curandCreateGenerator(struct generator **generator, int kind) {
    (void)kind;
    LIBRARY();
    *generator = calloc(1, sizeof **generator);
    return 0;
}

int curandDestroyGenerator(struct generator *generator) {
    LIBRARY();
    free(generator);
    return 0;
}

int curandSetStream(struct generator *generator, void *stream) {
    LIBRARY();
    generator->stream = stream;
    return 0;
}

static int generate(struct generator *generator, const char *kernel, void *at, size_t bytes) {
    if (bytes <= REAL_BYTES) memset(at, 0, bytes);
    return double_launch(kernel, generator->stream);
}

int curandGenerateUniform(struct generator *generator, float *at, size_t count) {
    LIBRARY();
    return generate(generator, "curand_uniform_f32", at, count * sizeof *at);
}

int curandGenerateUniformDouble(struct generator *generator, double *at, size_t count) {
    LIBRARY();
    return generate(generator, "curand_uniform_f64", at, count * sizeof *at);
}

// Normal numbers are made in pairs.
int curandGenerateNormal(struct generator *generator, float *at, size_t count, float mean, float deviation) {
    (void)mean, (void)deviation;
    LIBRARY();
    return count % 2 ? LENGTH_NOT_MULTIPLE : generate(generator, "curand_normal_f32", at, count * sizeof *at);
}

int curandGenerateNormalDouble(struct generator *generator, double *at, size_t count, double mean, double deviation) {
    (void)mean, (void)deviation;
    LIBRARY();
    return count % 2 ? LENGTH_NOT_MULTIPLE : generate(generator, "curand_normal_f64", at, count * sizeof *at);
}
