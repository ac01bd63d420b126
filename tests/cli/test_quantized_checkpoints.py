"""Quantized checkpoints as they are published: the same logits as the plain checkpoint of their values."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

import quantized
from conftest import MODEL
from quantized import Awq, Fp8, Gptq

TEXT = "Once upon a time there was a little fox who lived at the edge of the forest. One day the fox said"

FORMS = {
    "fp8": Fp8(),
    "fp8-ragged": Fp8(block=(96, 80), scales="F32"),
    "gptq": Gptq(),
    "gptq-asymmetric": Gptq(group_size=32, symmetric=False),
    "gptq-v2-asymmetric": Gptq(group_size=64, symmetric=False, version=2),
    "gptq-desc-act": Gptq(group_size=64, shuffled=True),
    "gptq-v2-desc-act": Gptq(group_size=32, symmetric=False, version=2, shuffled=True),
    "gptq-one-group": Gptq(group_size=-1),
    "awq": Awq(),
    "awq-32": Awq(group_size=32),
}


class Made:
    def __init__(self, folder, form):
        self.form = form
        self.folder, self.plain, self.exact = folder / "quantized", folder / "plain", folder / "exact"
        quantized.write_quantized(MODEL, form, self.folder, self.plain, self.exact)


@pytest.fixture(scope="module", params=FORMS)
def made(request, tmp_path_factory):
    return Made(tmp_path_factory.mktemp(request.param), FORMS[request.param])


@pytest.fixture
def logits_of(chorale, tmp_path):
    def run(folder, *arguments):
        file = tmp_path / "logits.safetensors"
        result = chorale("logits", "--model-path", folder, "--text", TEXT, "--output", file, *arguments)
        assert result.returncode == 0, result.stderr
        return load_file(file)["logits"]

    return run


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def divergence(reference, other):
    """Of two models' predictions, nats per token."""
    p, q = log_softmax(reference), log_softmax(other)
    return (np.exp(p) * (p - q)).sum(axis=-1).mean()


def test_logits_are_those_of_the_values(made, logits_of):
    plain = ("--quantization", "none")
    logits = logits_of(made.folder, *plain)
    assert np.array_equal(logits, logits_of(made.plain))
    assert np.array_equal(logits, logits_of(made.exact))
    exact = logits_of(made.folder, *plain, "--dtype", "float32")
    assert np.array_equal(exact, logits_of(made.exact, "--dtype", "float32"))

    distance = divergence(logits_of(MODEL), logits)
    assert 0 < distance < (0.01 if isinstance(made.form, Fp8) else 0.2)


def test_int4_stays_int4(made, logits_of, chorale):
    """What is left is the rounding of activations to 8 bits; groups that are out of order are made anew."""
    kept = logits_of(made.folder)
    plain = logits_of(made.plain)
    sizes = [chorale.json("plan", "--model-path", f)["memory"]["weight_bytes"] for f in (made.folder, made.plain)]
    if isinstance(made.form, Fp8):
        assert np.array_equal(kept, plain)
        assert sizes[0] == sizes[1]
        return
    shuffled = isinstance(made.form, Gptq) and made.form.shuffled
    assert 0 < divergence(plain, kept) < (0.1 if shuffled else 0.004)
    assert sizes[0] < 0.5 * sizes[1]


def test_strategies_load_the_same(made, logits_of):
    assert np.array_equal(logits_of(made.folder, "--tp-size", 2, "--ep-size", 2), logits_of(made.folder))
    assert np.array_equal(logits_of(made.folder, "--tp-size", 8), logits_of(made.folder))


def test_other_quantizations_of_a_quantized_checkpoint(made, logits_of, chorale, tmp_path):
    plain = logits_of(made.plain)
    assert divergence(plain, logits_of(made.folder, "--quantization", "int8")) < 0.004
    assert divergence(plain, logits_of(made.folder, "--quantization", "int4")) < 0.1
    method = type(made.form).__name__.lower()
    assert np.array_equal(logits_of(made.folder, "--quantization", method), logits_of(made.folder))
    other = "awq" if method == "gptq" else "gptq"
    result = chorale("logits", "--model-path", made.folder, "--text", TEXT, "--output", tmp_path / "x", "--quantization", other)
    assert result.returncode == 2
    assert f"--quantization {other}" in result.stderr and method in result.stderr


def test_check_and_eval(made, chorale, tmp_path):
    report = chorale.json("check", made.folder)
    original = chorale.json("check", MODEL)
    assert report["ok"] is True
    assert report["warnings"] == []
    assert report["parameters"] == original["parameters"]
    assert report["tensors"] > original["tensors"]
    assert report["weight_bytes"] < original["weight_bytes"]

    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    flags = ("--text-file", text, "--quantization", "none")
    scores = [chorale.json("eval", "--model-path", folder, *flags) for folder in (made.folder, made.plain)]
    assert scores[0]["nll"] == scores[1]["nll"]


def test_prune_refuses(made, chorale, tmp_path):
    result = chorale("prune", "--model-path", made.folder, "--output", tmp_path / "out", "--experts", 8,
                     "--method", "first")  # fmt: skip
    assert result.returncode == 1
    assert "quantization_config" in result.stderr
    assert "not quantized" in result.stderr
    assert not (tmp_path / "out").exists()


# What is wrong with a checkpoint, and what the message must name.

EXPERT = "model.layers.3.mlp.experts.5.up_proj"


@pytest.fixture(scope="module")
def tensors(tmp_path_factory):
    """Of each method's checkpoint: {name: [dtype, shape, bytes]} and quantization_config."""
    result = {}
    for name in ("fp8", "gptq", "awq"):
        folder = tmp_path_factory.mktemp("damage")
        made = Made(folder, FORMS[name])
        result[name] = {n: [kind, shape, data] for n, kind, shape, data in quantized.read_raw(made.folder)}, made.form
    return result


def drop(part):
    def damage(tensors):
        del tensors[f"{EXPERT}.{part}"]
        return [f"{EXPERT}.{part}", "found none"]

    return damage


def reshape(part, shape):
    def damage(tensors):
        tensors[f"{EXPERT}.{part}"][1] = shape
        return [f"{EXPERT}.{part}", f"found {shape}"]

    return damage


def retype(part, kind, found):
    def damage(tensors):
        tensors[f"{EXPERT}.{part}"][0] = kind
        return [f"{EXPERT}.{part}", f"found {found}"]

    return damage


def plain_beside(tensors):
    tensors[f"{EXPERT}.weight"] = ["BF16", [128, 256], bytes(128 * 256 * 2)]
    return [f"{EXPERT}.weight", "not part of the model"]


def group_out_of_range(tensors):
    groups = np.frombuffer(tensors[f"{EXPERT}.g_idx"][2], np.int32).copy()
    groups[7] = 2
    tensors[f"{EXPERT}.g_idx"][2] = groups.tobytes()
    return [f"{EXPERT}.g_idx", "groups from 0 to 1", "group 2 of input 7"]


def bias_of_something(tensors):
    tensors[f"{EXPERT}.bias"] = ["F16", [128], b"\1" * 256]
    return [f"{EXPERT}.bias", "not part of the model"]


def awq_words(tensors):
    tensors[f"{EXPERT}.qweight"][1] = [32, 128]
    return [f"{EXPERT}.qweight", "[256, 16]", "found [32, 128]"]


DAMAGES = [
    ("fp8", drop("weight_scale_inv")),
    ("fp8", drop("weight")),
    ("fp8", reshape("weight_scale_inv", [2, 1])),
    ("fp8", retype("weight", "I8", "int8")),
    ("gptq", drop("qweight")),
    ("gptq", drop("qzeros")),
    ("gptq", drop("scales")),
    ("gptq", reshape("qzeros", [16, 2])),
    ("gptq", retype("qweight", "F32", "float32")),
    ("gptq", plain_beside),
    ("gptq", group_out_of_range),
    ("gptq", bias_of_something),
    ("awq", drop("qzeros")),
    ("awq", reshape("scales", [128, 2])),
    ("awq", awq_words),
]


def write_tensors(folder, tensors, config):
    quantized.copy_without_weights(MODEL, folder, quantization_config=config)
    quantized.reference.write_shards(folder, ((name, *tensor) for name, tensor in tensors.items()))


def expect_refused(chorale, folder, parts):
    report = chorale.json("check", folder, status=1)
    assert len(report["errors"]) == 1, report["errors"]
    result = chorale("generate", "--model-path", folder, "--prompt", "x", "--max-new-tokens", 1)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    for part in parts:
        assert part in report["errors"][0]
        assert part in result.stderr


@pytest.mark.parametrize("method, damage", DAMAGES)
def test_damage_is_named(chorale, tensors, tmp_path, method, damage):
    source, form = tensors[method]
    changed = {name: list(tensor) for name, tensor in source.items()}
    parts = damage(changed)
    write_tensors(tmp_path / "model", changed, form.config)
    expect_refused(chorale, tmp_path / "model", parts)


def test_gptq_biases_of_zeros_are_no_biases(chorale, tensors, tmp_path):
    source, form = tensors["gptq"]
    bias = {f"{EXPERT}.bias": ["F16", [128], bytes(256)]}
    write_tensors(tmp_path / "model", {**source, **bias}, form.config)
    assert chorale.json("check", tmp_path / "model")["ok"] is True


def test_quantized_weights_need_their_configuration(chorale, tensors, tmp_path):
    for method, (source, _) in tensors.items():
        folder = tmp_path / method
        write_tensors(folder, source, None)
        expect_refused(chorale, folder, ["weight"])


@pytest.mark.parametrize(
    "method, field, value",
    [
        ("fp8", "quant_method", "bitsandbytes"),
        ("fp8", "fmt", "e5m2"),
        ("fp8", "activation_scheme", "static"),
        ("fp8", "weight_block_size", None),
        ("gptq", "bits", 8),
        ("gptq", "checkpoint_format", "marlin"),
        ("gptq", "dynamic", {".*down_proj": {"bits": 8}}),
        ("awq", "version", "gemv"),
        ("awq", "zero_point", False),
        ("awq", "modules_to_not_convert", "mlp.gate"),
    ],
)
def test_unsupported_configurations_are_named(chorale, model_copy, method, field, value):
    config = json.loads((model_copy / "config.json").read_text())
    config["quantization_config"] = {**FORMS[method].config, field: value}
    (model_copy / "config.json").write_text(json.dumps(config))
    expect_refused(chorale, model_copy, ["config.json", f"quantization_config.{field}"])


def test_nan_in_quantized_weights_is_a_warning(chorale, tensors, tmp_path):
    for method, part, nan in (("fp8", "weight", b"\x7f"), ("gptq", "scales", b"\1\x7e")):
        source, form = tensors[method]
        changed = {name: list(tensor) for name, tensor in source.items()}
        kind, shape, data = changed[f"{EXPERT}.{part}"]
        changed[f"{EXPERT}.{part}"] = [kind, shape, nan + data[len(nan) :]]
        write_tensors(tmp_path / method, changed, form.config)
        report = chorale.json("check", tmp_path / method)
        assert report["ok"] is True
        assert [f"{EXPERT}.{part}" in warning for warning in report["warnings"]] == [True]
