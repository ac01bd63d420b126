"""Shapes that the bundled model does not have, against an independent forward pass in numpy."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from conftest import MODEL
from reference import forward, write_checkpoint

TOKENS = 150  # more than two chunks of 64
TOLERANCE = 2e-5  # absolute, on float32 logits; observed is about 1e-6

BASE = {
    "vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 32, "intermediate_size": 96, "moe_intermediate_size": 48, "num_experts": 8, "num_experts_per_tok": 2,
    "norm_topk_prob": True, "max_position_embeddings": 4096, "decoder_sparse_step": 1, "mlp_only_layers": [],
    "rope_theta": 10000.0, "rope": None, "tie_word_embeddings": False, "attention_bias": False, "rms_norm_eps": 1e-6,
    "dtype": "bfloat16",
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
YARN_MSCALE = YARN | {
    "factor": 8.0, "original_max_position_embeddings": 512, "beta_fast": 16.0, "beta_slow": 2.0, "mscale": 1.6,
    "mscale_all_dim": 0.7, "truncate": False,
}  # fmt: skip
# The old key, the trained length from max_position_embeddings, and a ramp cut off at the last dimension.
YARN_OLD = {"type": "yarn", "factor": 4.0, "attention_factor": 0.8, "beta_fast": 128.0}

# name: (spelling of config.json, shards, what differs from BASE)
SHAPES = {
    "plain": (5, 1, {"dtype": "float32"}),
    "one_expert": (5, 1, {"num_experts": 1, "num_experts_per_tok": 1}),
    "three_experts_tied_odd_heads": (4, 1, {
        "num_experts": 3, "tie_word_embeddings": True, "num_attention_heads": 6, "num_key_value_heads": 3,
        "head_dim": 20, "hidden_size": 60, "moe_intermediate_size": 36, "vocab_size": 211,
    }),
    "dense_mixed_in": (5, 1, {
        "num_hidden_layers": 4, "mlp_only_layers": [1], "decoder_sparse_step": 2, "intermediate_size": 77,
        "moe_intermediate_size": 35, "dtype": "float32",
    }),
    "128_experts": (4, 1, {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 24}),
    "yarn_with_bias": (4, 1, {
        "attention_bias": True, "rope": YARN, "rope_theta": 1e6, "max_position_embeddings": 256, "dtype": "float32",
    }),
    "yarn_mscale_not_truncated": (5, 1, {"rope": YARN_MSCALE}),
    "yarn_old_spelling": (4, 1, {"rope": YARN_OLD, "rope_theta": 20.0, "head_dim": 16}),
    "linear_rope": (5, 1, {"rope": {"rope_type": "linear", "factor": 3.0}, "dtype": "float32"}),
    "multi_query": (5, 1, {"num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 6}),
    "all_experts_chosen": (4, 1, {"num_experts": 7, "num_experts_per_tok": 7}),
    "every_layer_dense": (5, 1, {"mlp_only_layers": [0, 1, 2]}),
    "no_experts": (4, 1, {"num_experts": 0, "dtype": "float32"}),
    "shares_not_normalized": (5, 1, {"norm_topk_prob": False, "num_experts_per_tok": 3}),
    "float16_weights": (4, 1, {"dtype": "float16"}),
    "two_shards": (5, 2, {}),
}  # fmt: skip


@pytest.fixture(scope="module", params=SHAPES)
def case(request, tmp_path_factory):
    """(folder of a checkpoint, ids, reference logits)"""
    version, shards, difference = SHAPES[request.param]
    config = BASE | difference
    folder = tmp_path_factory.mktemp("shapes") / request.param
    write_checkpoint(folder, config, version=version, shards=shards)
    ids = np.random.default_rng(1).integers(0, config["vocab_size"], TOKENS)
    logits, _, routers = forward(folder, ids)
    assert 0.3 < logits.std() < 0.7
    for router in routers.values():  # no expert is chosen, or not, by a rounding
        assert gap_after(router, config["num_experts_per_tok"]).min() > 1e-5
    return folder, ids, logits


def gap_after(values, count):
    """By how much, in each row, the count-th largest value exceeds the next."""
    ordered = np.sort(values, axis=1)[:, ::-1]
    return ordered[:, count - 1] - ordered[:, count] if count < values.shape[1] else np.array([np.inf])


def run(chorale, case, tmp_path, dtype):
    folder, ids, _ = case
    output = tmp_path / "logits.safetensors"
    flags = ("--model-path", folder, "--input-ids", ",".join(map(str, ids)), "--output", output)
    result = chorale("logits", *flags, "--dtype", dtype, "--chunked-prefill-size", 64)
    assert result.returncode == 0, result.stderr
    return load_file(output)["logits"]


def test_float32(chorale, case, tmp_path):
    logits = run(chorale, case, tmp_path, "float32")
    assert logits.shape == case[2].shape
    assert np.abs(logits - case[2]).max() <= TOLERANCE


def test_bfloat16_agrees_on_the_top_token(chorale, case, tmp_path):
    logits, expected = run(chorale, case, tmp_path, "bfloat16"), case[2]
    clear = gap_after(expected, 1) > 0.1
    assert clear.sum() >= 50
    assert (logits.argmax(axis=1) == expected.argmax(axis=1))[clear].mean() >= 0.97


def test_reference_is_right_on_the_bundled_model(golden, golden_tensors):
    """Else both could be wrong in the same way."""
    prompt = golden["prompts"][0]
    logits, hidden, routers = forward(MODEL, prompt["ids"])
    assert np.abs(logits - golden_tensors["prompt0.logits"]).max() <= 2e-4
    assert (logits.argmax(axis=1) == prompt["argmax"]).all()
    layers = json.loads((MODEL / "config.json").read_text())["num_hidden_layers"]
    assert len(hidden) == layers + 1
    for layer, values in enumerate(hidden):
        assert np.abs(values - golden_tensors[f"prompt0.hidden{layer}"]).max() <= 2e-4, layer
    for layer in range(layers):
        assert np.abs(routers[layer] - golden_tensors[f"prompt0.router_logits{layer}"]).max() <= 2e-4, layer
