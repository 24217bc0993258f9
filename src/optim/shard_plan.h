// Who updates which matrix, where the optimizer is sharded over ranks: Muon needs whole matrices,
// so none is ever split.
// Source  reference/infrastructure 7.1. Pure functions; the exchange that follows a plan is not
//         here.
// Errors  CHECK: fewer than one rank, negative sizes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace cachalot::optim {

struct ShardPlan {
  // Ranks r, r + group_size, r + 2 group_size, ... hold the same bucket and repeat the same
  // updates.
  int64_t group_size = 1;
  std::vector<std::vector<int64_t>> buckets;  // [group_size]: indices of matrices, ascending
  int64_t bucket_elements = 0;                // of the largest: all are padded to it
  int64_t num_elements = 0;                   // of all matrices

  int64_t bucket_of_rank(int64_t rank) const { return rank % group_size; }
  int64_t padded_elements() const { return group_size * bucket_elements - num_elements; }
  // Of the elements themselves; 0 where there are none.
  double padding_share() const;
};

// Matrices of different sizes (the dense parameters): largest first, each into the least loaded
// bucket, lowest index on a tie. The group is the largest divisor of num_ranks up to
// max_group_size, so that all groups are whole.
ShardPlan plan_by_size(std::span<const int64_t> matrix_elements, int64_t num_ranks,
                       int64_t max_group_size);

// Matrices of one size in the order given (experts: all down, all up, all gate): rank r holds the
// r-th run of ceil(count / num_ranks).
ShardPlan plan_in_order(int64_t num_matrices, int64_t matrix_elements, int64_t num_ranks);

}  // namespace cachalot::optim
