// Instructions come slowly, line after line, to a kernel that runs each of them once. Where its
// blocks are few and wait for the kernel before, they take a turn more meanwhile: one that runs the
// code on whatever lies there and leaves nothing.
//   for (int turn = first_turn(rows); turn < 2; ++turn) {
//     if (turn == 1) wait_for_producers();
//     ...; if (turn == 1) p.y[i] = ...
// Of what it loads it may believe nothing: no pointer, no index, no number of turns. Loads go to L2
// (load_shared_state), or the next turn would find the same.
#pragma once

#include <cstdint>

namespace cachalot::tile {

inline constexpr int64_t kFewRows = 2;
__device__ __forceinline__ int first_turn(int64_t rows) { return rows <= kFewRows ? 0 : 1; }

}  // namespace cachalot::tile
