"""Models in V4's shapes with made-up weights, made and saved by transformers, which both sides then read."""

import json
import pathlib
import shutil

import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "transformers"

YARN = {"rope_type": "yarn", "factor": 16, "original_max_position_embeddings": 65536, "beta_fast": 32, "beta_slow": 1}
COMMON = dict(hc_mult=4, hc_sinkhorn_iters=20, hc_eps=1e-6, num_key_value_heads=1, n_shared_experts=1, swiglu_limit=10.0,
              routed_scaling_factor=1.5, rope_theta=10000.0, compress_rope_theta=160000.0, rope_scaling=YARN,
              num_nextn_predict_layers=0, rms_norm_eps=1e-6, bos_token_id=0, eos_token_id=1)

NANO = dict(COMMON, vocab_size=4096, hidden_size=256, num_hidden_layers=6, num_hash_layers=1, num_attention_heads=8,
            head_dim=64, qk_rope_head_dim=32, q_lora_rank=128, o_groups=2, o_lora_rank=128, sliding_window=64,
            compress_ratios=[0, 4, 128, 4, 128, 4], index_n_heads=8, index_head_dim=32, index_topk=32,
            n_routed_experts=16, num_experts_per_tok=2, moe_intermediate_size=128, max_position_embeddings=65536)

SHAPES = {
    # The golden checkpoint's, for tests of the scripts.
    "tiny": json.loads((ROOT / "tests/golden/tiny/config.json").read_text()),
    # The preset nano without its MTP block, which transformers does not have.
    "nano": NANO,
    # llama.cpp rotates index keys in pieces of 64 and takes none that are narrower; otherwise nano.
    "nano-index-64": NANO | dict(index_head_dim=64),
    # Flash's widths, each kind of layer, 10 experts, 16,384 words: 3.1 GB in bf16.
    "flash-slice": dict(COMMON, vocab_size=16384, hidden_size=4096, num_hidden_layers=4, num_hash_layers=1,
                        num_attention_heads=64, head_dim=512, qk_rope_head_dim=64, q_lora_rank=1024, o_groups=8,
                        o_lora_rank=1024, sliding_window=128, compress_ratios=[0, 4, 128, 4], index_n_heads=64,
                        index_head_dim=128, index_topk=512, n_routed_experts=10, num_experts_per_tok=6,
                        moe_intermediate_size=2048, max_position_embeddings=1048576),
}


def make(name, dtype, seed=0):
    """The directory of the model in WORK, made where it is missing."""
    directory = WORK / f"{name}-{str(dtype).removeprefix('torch.')}"
    if (directory / "config.json").exists():
        return directory
    torch.manual_seed(seed)
    config = transformers.DeepseekV4Config(**SHAPES[name])
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # or the model would exist twice
    model = transformers.DeepseekV4ForCausalLM(config)
    torch.set_default_dtype(before)
    for layer in model.model.layers:
        if hasattr(layer.mlp.gate, "tid2eid"):  # zeros: one expert chosen several times
            table = layer.mlp.gate.tid2eid
            table.copy_(torch.rand(table.shape[0], config.n_routed_experts).topk(table.shape[1]).indices)
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    partial.rename(directory)
    return directory


def load(directory, dtype, experts=None):
    """experts: transformers' implementation of the experts; None: its choice."""
    kwargs = {} if experts is None else {"experts_implementation": experts}
    return transformers.DeepseekV4ForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation="eager", **kwargs)
