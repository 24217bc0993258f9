// Products of small tiles on the tensor cores.
//
// The operands' places in registers, g = lane / 4, t = lane % 4 (the figures of the PTX manual):
//   A of a warp, 16 rows:  wgmma e4m3, k32: register j holds row g + 8 (j % 2), k = 16 (j / 2)
//                          + 4 t
//                          and the three after it.
//                          mma.sync 16-bit, k16: register j holds row g + 8 (j % 2),
//                          k = 8 (j / 2) + 2 t and the one after it.
//   B of mma.sync, 8 columns: register j holds column g, k = 8 j + 2 t and the one after it.
//   D of a warp, 16 rows:  value i holds row g + 8 (i / 2 % 2), column 8 (i / 4) + 2 t + i % 2.
// In wgmma warp w of the four holds rows 16 w .. 16 w + 15.
//
// A sum's bits depend on its K values and their grouping into instructions alone, not on N, the row
// or the column. Measured for wgmma e4m3 on one chip (N 8 to 256, K values permuted inside one
// instruction); the tests of the products look again.
#pragma once

#include <cstdint>

namespace cachalot::tile {

// Before the first wgmma, and after ordinary code has touched its registers.
__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// After the wait and before d is read: no use of d moves up past it.
template <int kValues>
__device__ __forceinline__ void wgmma_arrived(float (&d)[kValues]) {
#pragma unroll
  for (int i = 0; i < kValues; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// After the wait: until here the registers of A are not used for anything else. Without it what is
// loaded while the product is under way may be given them.
template <int kRegisters>
__device__ __forceinline__ void wgmma_read(const uint32_t (&a)[kRegisters]) {
#pragma unroll
  for (int i = 0; i < kRegisters; ++i) asm volatile("" ::"r"(a[i]) : "memory");
}

// B of wgmma in shared memory: core matrices of 8 columns x 16 bytes of k (column after column),
// those of one k next to each other: k16 * stride + column / 8 * 128 + column % 8 * 16. A stride of
// less than 16 kColumns lays a matrix over the last columns of the one before: for products of
// which only the first columns' results are read.
template <int kColumns>
struct CoreMatrices {
  static_assert(kColumns % 8 == 0);
  static constexpr int kStride = 16 * kColumns;
  static constexpr int kStepBytes = 2 * kStride;  // one instruction's k: 32 of one byte
  static __device__ constexpr int offset(int column, int k_byte, int stride = kStride) {
    return k_byte / 16 * stride + column / 8 * 128 + column % 8 * 16 + k_byte % 16;
  }
  static __device__ __forceinline__ uint64_t descriptor(uint32_t smem_address,
                                                        int stride = kStride) {
    return kHigh | (smem_address & 0x3FFFF) >> 4 | static_cast<uint32_t>(stride >> 4) << 16;
  }
  // That of what lies num_bytes further on. The address does not leave its bits.
  static __device__ __forceinline__ uint64_t advance(uint64_t descriptor, int num_bytes) {
    return kHigh | (static_cast<uint32_t>(descriptor) + static_cast<uint32_t>(num_bytes >> 4));
  }

 private:
  static constexpr uint64_t kHigh = uint64_t{128 >> 4}
                                    << 32;  // known, so that it takes no register
};

// d (+)= A B^T in e4m3, A from registers; the sum starts at zero where !accumulate. The tensor core
// truncates between its steps: a bound for 128 values is in ops/matmul.
template <int kColumns>
struct WgmmaE4m3;

template <>
struct WgmmaE4m3<8> {
  static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint64_t b,
                                                  int accumulate) {
    asm volatile(
        "{\n"
        ".reg .pred accumulate;\n"
        "setp.ne.b32 accumulate, %9, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 "
        "{%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, %8, accumulate, 1, 1;\n"
        "}"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));
  }
};

template <>
struct WgmmaE4m3<16> {
  static __device__ __forceinline__ void multiply(float (&d)[8], const uint32_t (&a)[4], uint64_t b,
                                                  int accumulate) {
    asm volatile(
        "{\n"
        ".reg .pred accumulate;\n"
        "setp.ne.b32 accumulate, %13, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n16k32.f32.e4m3.e4m3 "
        "{%0, %1, %2, %3, %4, %5, %6, %7}, "
        "{%8, %9, %10, %11}, %12, accumulate, 1, 1;\n"
        "}"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
          "+f"(d[7])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));
  }
};

template <>
struct WgmmaE4m3<32> {
  static __device__ __forceinline__ void multiply(float (&d)[16], const uint32_t (&a)[4],
                                                  uint64_t b, int accumulate) {
    asm volatile(
        "{\n"
        ".reg .pred accumulate;\n"
        "setp.ne.b32 accumulate, %21, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n32k32.f32.e4m3.e4m3 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
        "{%16, %17, %18, %19}, %20, accumulate, 1, 1;\n"
        "}"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
          "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),
          "+f"(d[14]), "+f"(d[15])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));
  }
};

template <>
struct WgmmaE4m3<64> {
  static __device__ __forceinline__ void multiply(float (&d)[32], const uint32_t (&a)[4],
                                                  uint64_t b, int accumulate) {
    asm volatile(
        "{\n"
        ".reg .pred accumulate;\n"
        "setp.ne.b32 accumulate, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "{%32, %33, %34, %35}, %36, accumulate, 1, 1;\n"
        "}"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
          "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),
          "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),
          "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
          "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));
  }
};

// d += A B^T, 16 x 8, k16, fp32 sums.
__device__ __forceinline__ void mma_f16(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                        uint32_t a3, uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// d += A B^T, 16 x 8, k16, fp32 sums.
__device__ __forceinline__ void mma_bf16(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                         uint32_t a3, uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

}  // namespace cachalot::tile
