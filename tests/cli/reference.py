"""The forward pass of Hugging Face's Qwen3MoeForCausalLM in numpy, and random checkpoints to run it on.

Written from the modeling code of transformers, not from Chorale's, and meant to be read beside it. All is float64
but for the rotary angles, which transformers computes in float32 whatever the type of the model.
"""

import json
import math
import struct

import numpy as np
import safetensors


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def rms_norm(x, weight, eps):
    return weight * (x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps))


def yarn_attention_factor(rope):
    def scale(mscale):
        return 1.0 if rope["factor"] <= 1 else 0.1 * mscale * math.log(rope["factor"]) + 1.0

    if rope.get("attention_factor") is not None:
        return rope["attention_factor"]
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return scale(rope["mscale"]) / scale(rope["mscale_all_dim"])
    return scale(1.0)


def inverse_frequencies(config, dim):
    """How fast each pair of dimensions turns, and a factor of both cosine and sine."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    theta = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    periods = np.float32(theta) ** (np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim))
    if kind == "default":
        return 1 / periods, 1.0
    if kind == "linear":
        return 1 / periods / np.float32(rope["factor"]), 1.0
    assert kind == "yarn", kind
    trained = rope.get("original_max_position_embeddings", config["max_position_embeddings"])

    def dimension_of(turns):
        return dim * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension_of(rope.get("beta_fast") or 32), dimension_of(rope.get("beta_slow") or 1)
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    high += 0.001 if low == high else 0
    ramp = np.clip((np.arange(dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)
    inverse = ramp / (np.float32(rope["factor"]) * periods) + (1 - ramp) / periods
    return inverse, yarn_attention_factor(rope)


def rotary_tables(config, tokens, dim):
    """Cosine and sine, each [tokens, 1, dim]."""
    inverse, factor = inverse_frequencies(config, dim)
    angles = np.outer(np.arange(tokens, dtype=np.float32), inverse)
    assert angles.dtype == np.float32
    angles = np.concatenate([angles, angles], axis=1).astype(np.float64)[:, None]
    return np.cos(angles) * factor, np.sin(angles) * factor


def rotate(x, tables):
    cos, sin = tables
    first, second = np.split(x, 2, axis=-1)
    return x * cos + np.concatenate([-second, first], axis=-1) * sin


class Part:
    """The weights whose names begin alike."""

    def __init__(self, weights, prefix):
        self.weights, self.prefix = weights, prefix

    def __getitem__(self, name):
        return self.weights[f"{self.prefix}.{name}.weight"].astype(np.float64)

    def linear(self, x, name):
        return x @ self[name].T + self.weights.get(f"{self.prefix}.{name}.bias", 0.0)

    def mlp(self, x):
        gate = self.linear(x, "gate_proj")
        return self.linear(gate / (1 + np.exp(-gate)) * self.linear(x, "up_proj"), "down_proj")


def attention(config, part, x, tables):
    heads, kv_heads, eps = config["num_attention_heads"], config["num_key_value_heads"], config["rms_norm_eps"]
    tokens, dim = len(x), tables[0].shape[-1]
    q = part.linear(x, "q_proj").reshape(tokens, heads, dim)
    k = part.linear(x, "k_proj").reshape(tokens, kv_heads, dim)
    v = part.linear(x, "v_proj").reshape(tokens, kv_heads, dim)
    q = rotate(rms_norm(q, part["q_norm"], eps), tables)
    k = rotate(rms_norm(k, part["k_norm"], eps), tables)
    k, v = (np.repeat(each, heads // kv_heads, axis=1) for each in (k, v))
    scores = np.einsum("qhd,khd->hqk", q, k) * dim**-0.5
    scores[:, np.triu(np.ones((tokens, tokens), bool), 1)] = -np.inf
    mixed = np.einsum("hqk,khd->qhd", softmax(scores), v)
    return part.linear(mixed.reshape(tokens, heads * dim), "o_proj")


def moe(config, weights, prefix, x):
    """The sum of the chosen experts' outputs, and the router's logits."""
    router = Part(weights, prefix).linear(x, "gate")
    probabilities = softmax(router)
    chosen = np.argsort(-probabilities, axis=-1, kind="stable")[:, : config["num_experts_per_tok"]]
    shares = np.take_along_axis(probabilities, chosen, axis=-1)
    if config.get("norm_topk_prob", False):
        shares /= shares.sum(axis=-1, keepdims=True)
    out = np.zeros_like(x)
    for expert in np.unique(chosen):
        rows, slots = np.nonzero(chosen == expert)
        out[rows] += shares[rows, slots, None] * Part(weights, f"{prefix}.experts.{expert}").mlp(x[rows])
    return out, router


def is_sparse(config, layer):
    on_step = config["num_experts"] > 0 and (layer + 1) % config.get("decoder_sparse_step", 1) == 0
    return on_step and layer not in (config.get("mlp_only_layers") or [])


def forward(folder, ids):
    """Logits [tokens, vocabulary]; the embedding and each layer's output; {sparse layer: its router's logits}."""
    config, weights = json.loads((folder / "config.json").read_text()), read_weights(folder)
    config.setdefault("num_experts", config.get("num_local_experts"))
    eps, model = config["rms_norm_eps"], Part(weights, "model")
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    tables = rotary_tables(config, len(ids), head_dim)
    hidden, routers = [model["embed_tokens"][ids]], {}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        part, x = Part(weights, prefix), hidden[-1]
        normed = rms_norm(x, part["input_layernorm"], eps)
        x = x + attention(config, Part(weights, f"{prefix}.self_attn"), normed, tables)
        normed = rms_norm(x, part["post_attention_layernorm"], eps)
        if is_sparse(config, layer):
            out, routers[layer] = moe(config, weights, f"{prefix}.mlp", normed)
        else:
            out = Part(weights, f"{prefix}.mlp").mlp(normed)
        hidden.append(x + out)
    hidden[-1] = rms_norm(hidden[-1], model["norm"], eps)  # transformers, too, has the last one after the norm
    head = "model.embed_tokens" if config.get("tie_word_embeddings", False) else "lm_head"
    return hidden[-1] @ weights[f"{head}.weight"].T, hidden, routers


# Checkpoints. float32 holds the values of each type exactly.

DECODE = {
    "BF16": lambda data: (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32),
    "F16": lambda data: np.frombuffer(data, np.float16).astype(np.float32),
    "F32": lambda data: np.frombuffer(data, np.float32),
}
ENCODE = {
    "bfloat16": ("BF16", lambda x: ((x.view(np.uint32) + 0x8000) >> 16).astype(np.uint16)),
    "float16": ("F16", lambda x: x.astype(np.float16)),
    "float32": ("F32", lambda x: x),
}


def read_weights(folder):
    weights = {}
    for file in sorted(folder.glob("*.safetensors")):
        for name, tensor in safetensors.deserialize(file.read_bytes()):
            weights[name] = DECODE[tensor["dtype"]](tensor["data"]).reshape(tensor["shape"])
    return weights


def tensor_shapes(config):
    """(name, shape) of each tensor of a model with these sizes."""
    hidden, dim, vocabulary = config["hidden_size"], config["head_dim"], config["vocab_size"]
    q, kv = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
    yield from (("model.embed_tokens.weight", [vocabulary, hidden]), ("model.norm.weight", [hidden]))
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", [vocabulary, hidden]
    for layer in (f"model.layers.{i}" for i in range(config["num_hidden_layers"])):
        for name, rows, columns in (("q", q, hidden), ("k", kv, hidden), ("v", kv, hidden), ("o", hidden, q)):
            yield f"{layer}.self_attn.{name}_proj.weight", [rows, columns]
            if config["attention_bias"]:
                yield f"{layer}.self_attn.{name}_proj.bias", [rows]
        yield from ((f"{layer}.self_attn.{name}_norm.weight", [dim]) for name in "qk")
        yield from ((f"{layer}.{name}_layernorm.weight", [hidden]) for name in ("input", "post_attention"))
        mlps, width = ["mlp"], config["intermediate_size"]
        if is_sparse(config, int(layer.split(".")[-1])):
            mlps, width = [f"mlp.experts.{e}" for e in range(config["num_experts"])], config["moe_intermediate_size"]
            yield f"{layer}.mlp.gate.weight", [config["num_experts"], hidden]
        for mlp in mlps:
            yield from ((f"{layer}.{mlp}.{name}_proj.weight", [width, hidden]) for name in ("gate", "up"))
            yield f"{layer}.{mlp}.down_proj.weight", [hidden, width]


def spelled(config, version):
    """The fields of config.json as transformers 4 or 5 writes them; "rope" is the scaling without its theta."""
    fields = {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_act": "silu", **config}
    rope = fields.pop("rope")
    if version == 4:
        fields["rope_scaling"] = rope
        fields["torch_dtype"] = fields.pop("dtype")
    else:
        fields["rope_parameters"] = {"rope_type": "default", "rope_theta": fields.pop("rope_theta"), **(rope or {})}
        fields["num_local_experts"] = fields.pop("num_experts")
    return fields


def write_shards(folder, tensors, shards=1):
    """(name, safetensors' dtype, shape, bytes) of each tensor, one after the other to each of the files."""
    files = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    files = files if shards > 1 else ["model.safetensors"]
    headers, blobs, weight_map = [{} for _ in files], [[] for _ in files], {}
    sizes = [0] * shards
    for i, (name, kind, shape, data) in enumerate(tensors):
        at = i % shards
        headers[at][name] = {"dtype": kind, "shape": list(shape), "data_offsets": [sizes[at], sizes[at] + len(data)]}
        blobs[at].append(data)
        sizes[at] += len(data)
        weight_map[name] = files[at]
    for file, header, blob in zip(files, headers, blobs):
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        (folder / file).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blob))
    if shards > 1:
        index = {"metadata": {"total_size": sum(sizes)}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_checkpoint(folder, config, *, version, shards=1, seed=0):
    """Random weights of config["dtype"]; version is the spelling of config.json."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(spelled(config, version)))
    (kind, encode), random = ENCODE[config["dtype"]], np.random.default_rng(seed)

    def tensors():
        for name, shape in tensor_shapes(config):
            spread, centre = (0.2, 1) if name.endswith("norm.weight") else (0.2 if name.endswith("bias") else 0.06, 0)
            values = (centre + spread * random.standard_normal(shape)).astype(np.float32)
            yield name, kind, shape, encode(values).tobytes()

    write_shards(folder, tensors(), shards)
