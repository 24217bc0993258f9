// The planted faults: real bugs that shipped in some implementation, each a switch that exists only
// in the build of the fault suites (CACHALOT_FAULTS). Everywhere else fault() is constant false and
// the branches vanish.
// Source  design.md 3; reference/forward 10.2; reference/training. The last three of the forward
//         pass are bugs of whoever drives the model; the suite plants them in its own driver.
#pragma once

namespace cachalot {

#define CACHALOT_FORWARD_FAULT_LIST(X)   \
  X(comb_not_transposed)                 \
  X(post_without_factor_two)             \
  X(epsilon_in_softmax_sum)              \
  X(sinkhorn_columns_first)              \
  X(hyper_mapping_in_bf16)               \
  X(rope_rotate_half)                    \
  X(output_not_derotated)                \
  X(entry_rotated_at_index)              \
  X(entry_rotated_at_last_token)         \
  X(theta_main_in_compressed_layers)     \
  X(theta_compressed_in_window_layers)   \
  X(yarn_magnitude_applied)              \
  X(rotary_applied_twice)                \
  X(indexer_without_causal_mask)         \
  X(tail_lost_at_chunk_boundary)         \
  X(overlap_half_lost_at_chunk_boundary) \
  X(overlap_halves_swapped)              \
  X(clamp_after_product)                 \
  X(clamp_missing_on_shared_expert)      \
  X(bias_in_routing_weights)             \
  X(routing_scale_applied_twice)         \
  X(routing_weights_not_normalised)      \
  X(hadamard_on_queries_only)            \
  X(query_head_norm_skipped)             \
  X(sink_missing)                        \
  X(only_first_stream_initialised)       \
  X(window_one_too_long)                 \
  X(fp4_nibbles_swapped)                 \
  X(fp4_read_as_fp8)                     \
  X(state_not_rolled_back)               \
  X(state_not_reset)                     \
  X(prefix_restored_without_state)

#define CACHALOT_TRAINING_FAULT_LIST(X) \
  X(indexer_loss_not_detached)          \
  X(index_target_over_all_keys)         \
  X(balance_loss_per_micro_batch)       \
  X(loss_mean_per_micro_batch)          \
  X(swiglu_gradient_through_clamp)      \
  X(hash_table_not_restored)            \
  X(hash_layers_not_replayed)           \
  X(anticipation_uses_present_choices)  \
  X(muon_is_adamw)                      \
  X(newton_schulz_per_micro_batch)      \
  X(gradients_partly_reduced)           \
  X(muon_rms_factor_wrong)              \
  X(muon_without_nesterov)              \
  X(decay_on_biases)                    \
  X(labels_shifted_twice)               \
  X(targets_cross_samples)              \
  X(attention_crosses_samples)          \
  X(compressor_crosses_samples)         \
  X(mtp_off_by_one)                     \
  X(mtp_weight_not_switched)            \
  X(ste_gradient_masked)                \
  X(fp4_packed_swapped)                 \
  X(fp4_recast_swapped)                 \
  X(optimizer_steps_not_saved)          \
  X(data_cursor_not_restored)           \
  X(routing_bias_not_restored)          \
  X(routing_bias_not_updated)           \
  X(recompute_with_other_bits)

enum class Fault {
  none,
#define CACHALOT_FAULT_ENUM(name) name,
  CACHALOT_FORWARD_FAULT_LIST(CACHALOT_FAULT_ENUM) CACHALOT_TRAINING_FAULT_LIST(CACHALOT_FAULT_ENUM)
#undef CACHALOT_FAULT_ENUM
};

#ifdef CACHALOT_FAULTS
inline Fault planted_fault = Fault::none;
inline bool fault(Fault which) { return planted_fault == which; }
#else
constexpr bool fault(Fault) { return false; }
#endif

}  // namespace cachalot
