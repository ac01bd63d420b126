"""Quantized checkpoints made from a plain one, each with the plain checkpoint of the values that it stands for.

Written from the descriptions of the forms (FP8 of Qwen and DeepSeek, GPTQ as AutoGPTQ and GPTQModel write it, AWQ as
AutoAWQ writes it), not from Chorale's code. The packed tensors are those that AutoGPTQ 0.7.1 and AutoAWQ 0.2.9 make of
the same integers, the float8 codes those of ml_dtypes. Values are rounded to the nearest; nothing is calibrated.
"""

import json
import shutil

import numpy as np
import safetensors

import reference

AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def bfloat16(values):
    """The bits, rounded to nearest even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def float8_table():
    """The value of each of the 256 codes of float8_e4m3."""
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, code & 7
    magnitude = np.where(exponent > 0, (1 + mantissa / 8) * 2.0 ** (exponent - 7), mantissa * 2.0**-9)
    magnitude[code & 127 == 127] = np.nan
    return np.where(code < 128, magnitude, -magnitude).astype(np.float32)


def to_float8(values):
    magnitudes = float8_table()[:127]
    middles = (magnitudes[:-1] + magnitudes[1:]) / 2
    return (np.searchsorted(middles, np.abs(values)) + np.where(values < 0, 128, 0)).astype(np.uint8)


def pack(nibbles, axis):
    """Eight neighbours along the axis become a word, the first in the lowest bits."""
    groups = np.moveaxis(nibbles, axis, -1).astype(np.uint32)
    groups = groups.reshape(*groups.shape[:-1], -1, 8)
    words = np.zeros(groups.shape[:-1], np.uint32)
    for i in range(8):
        words |= groups[..., i] << (4 * i)
    return np.moveaxis(words, -1, axis)


def interleave(nibbles):
    """Eight neighbours along the last axis in AWQ's order."""
    return nibbles.reshape(*nibbles.shape[:-1], -1, 8)[..., AWQ_ORDER].reshape(nibbles.shape)


class Fp8:
    def __init__(self, block=(128, 128), scales="BF16"):
        self.block, self.scales = block, scales
        self.config = {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "weight_block_size": list(block),
            "modules_to_not_convert": ["lm_head", *(f"model.layers.{i}.mlp.gate" for i in range(6))],
        }

    def __call__(self, weight, random):
        (n, k), (rows, columns) = weight.shape, self.block
        down, across = -(-n // rows), -(-k // columns)
        padded = np.zeros((down * rows, across * columns), np.float32)
        padded[:n, :k] = weight
        largest = np.abs(padded.reshape(down, rows, across, columns)).max(axis=(1, 3))
        scales = np.maximum(largest / 448, 1e-12).astype(np.float32)
        data = scales
        if self.scales == "BF16":
            data = bfloat16(scales)
            scales = (data.astype(np.uint32) << 16).view(np.float32)
        spread = np.repeat(np.repeat(scales, rows, 0), columns, 1)[:n, :k]
        codes = to_float8(weight / spread)
        tensors = {"weight": ("F8_E4M3", codes), "weight_scale_inv": (self.scales, data)}
        return tensors, float8_table()[codes] * spread


def round_to_int4(weight, groups, symmetric, smallest_zero):
    """q [N, K]; zeros and scales [G, N]."""
    scales, zeros = [], []
    for group in range(groups.max() + 1):
        part = weight[:, groups == group]
        if symmetric:
            scale, zero = np.abs(part).max(1) / 7.5, np.full(len(part), 8)
        else:
            low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
            scale = (high - low) / 15
            zero = np.clip(np.round(-low / scale), smallest_zero, 15).astype(int)
        scales.append(scale.astype(np.float16))
        zeros.append(zero)
    scales, zeros = np.stack(scales), np.stack(zeros)
    spread = scales.astype(np.float32)[groups].T
    return np.clip(np.round(weight / spread) + zeros[groups].T, 0, 15).astype(int), zeros, scales


def int4_values(q, zeros, scales, groups):
    return scales.astype(np.float32)[groups].T * (q - zeros[groups].T).astype(np.float32)


class Gptq:
    def __init__(self, group_size=128, symmetric=True, version=1, shuffled=False):
        self.group_size, self.symmetric, self.version, self.shuffled = group_size, symmetric, version, shuffled
        self.config = {
            "quant_method": "gptq",
            "bits": 4,
            "group_size": group_size,
            "desc_act": shuffled,
            "sym": symmetric,
            "lm_head": False,
            "checkpoint_format": "gptq" if version == 1 else "gptq_v2",
            "pack_dtype": "int32",
            "true_sequential": True,
            "meta": {"quantizer": ["gptqmodel:2.2.0"]},
        }

    def __call__(self, weight, random):
        n, k = weight.shape
        groups = np.arange(k) // (k if self.group_size < 0 else self.group_size)
        if self.shuffled:
            random.shuffle(groups)
        less = 1 if self.version == 1 else 0
        q, zeros, scales = round_to_int4(weight, groups, self.symmetric, less)
        tensors = {
            "g_idx": ("I32", groups.astype(np.int32)),
            "qweight": ("I32", pack(q.T, 0)),
            "qzeros": ("I32", pack(zeros - less, 1)),
            "scales": ("F16", scales),
        }
        return tensors, int4_values(q, zeros, scales, groups)


class Awq:
    def __init__(self, group_size=128):
        self.group_size = group_size
        self.config = {
            "quant_method": "awq",
            "bits": 4,
            "group_size": group_size,
            "zero_point": True,
            "version": "gemm",
            "modules_to_not_convert": ["mlp.gate"],
        }

    def __call__(self, weight, random):
        groups = np.arange(weight.shape[1]) // self.group_size
        q, zeros, scales = round_to_int4(weight, groups, False, 0)
        tensors = {
            "qweight": ("I32", pack(interleave(q.T), 1)),
            "qzeros": ("I32", pack(interleave(zeros), 1)),
            "scales": ("F16", scales),
        }
        return tensors, int4_values(q, zeros, scales, groups)


def read_raw(folder):
    for file in sorted(folder.glob("*.safetensors")):
        for name, tensor in safetensors.deserialize(file.read_bytes()):
            yield name, tensor["dtype"], tensor["shape"], bytes(tensor["data"])


def copy_without_weights(source, folder, **fields):
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    config = json.loads((folder / "config.json").read_text())
    config.update(fields)
    (folder / "config.json").write_text(json.dumps(config))


def is_converted(name):
    return name.endswith("_proj.weight")


def write_quantized(source, form, quantized, plain, exact):
    """Three folders: the quantized model; its values as plain bfloat16; its values as plain float32."""
    random, copies = np.random.default_rng(1), {quantized: [], plain: [], exact: []}
    for name, kind, shape, data in read_raw(source):
        if not is_converted(name):
            for tensors in copies.values():
                tensors.append((name, kind, shape, data))
            continue
        weight = np.array(reference.DECODE[kind](data)).reshape(shape)
        tensors, values = form(weight, random)
        module = name.removesuffix("weight")
        for part, (stored_as, array) in tensors.items():
            copies[quantized].append((module + part, stored_as, array.shape, np.ascontiguousarray(array).tobytes()))
        copies[plain].append((name, "BF16", shape, bfloat16(values).tobytes()))
        copies[exact].append((name, "F32", shape, np.ascontiguousarray(values, np.float32).tobytes()))
    for folder, tensors in copies.items():
        copy_without_weights(source, folder, **({"quantization_config": form.config} if folder == quantized else {}))
        reference.write_shards(folder, tensors, shards=2)
