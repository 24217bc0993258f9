// Marks functions that kernels call too.
#pragma once

#ifdef __CUDACC__
#define CACHALOT_HD __host__ __device__
#else
#define CACHALOT_HD
#endif
