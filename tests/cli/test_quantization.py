"""Weights that are quantized at load: how much they cost in quality, and what is told of them."""

import pytest

from conftest import GOLDEN, MODEL, ONE_EXPERT

HELDOUT = GOLDEN / "heldout_excerpt.txt"


def likelihood(chorale, model, *flags):
    return chorale.json("eval", "--model-path", model, "--text-file", HELDOUT, *flags)["nll"]


@pytest.fixture(scope="module")
def plain(chorale):
    return {model: likelihood(chorale, model) for model in (MODEL, ONE_EXPERT)}


@pytest.mark.parametrize("model", [MODEL, ONE_EXPERT], ids=["16-experts", "1-expert"])
@pytest.mark.parametrize(("quantization", "limit"), [("int8", 0.005), ("int4", 0.06)])
def test_the_likelihood_of_the_heldout_text_stays(chorale, plain, model, quantization, limit):
    nll = likelihood(chorale, model, "--quantization", quantization)
    assert nll != plain[model]  # something was quantized
    assert abs(nll - plain[model]) <= limit


def test_memory_and_type_are_told(chorale):
    flags = ("generate", "--model-path", MODEL, "--prompt", "Once", "--max-new-tokens", 2, "--log-level", "info")
    told = {q: chorale(*flags, "--quantization", q) for q in ("none", "int8", "int4")}
    assert all(result.returncode == 0 for result in told.values())
    assert "with int8 weights" in told["int8"].stderr
    assert "with int4 weights" in told["int4"].stderr
    assert "weights with" not in told["none"].stderr
    plans = {q: chorale.json("plan", "--model-path", MODEL, "--quantization", q) for q in told}
    assert [plans[q]["quantization"] for q in told] == list(told)
    sizes = [plans[q]["memory"]["weight_bytes"] for q in ("none", "int8", "int4")]
    assert sizes[0] > 1.5 * sizes[1] > 2 * sizes[2]


def test_other_names_are_refused(chorale):
    result = chorale("generate", "--model-path", MODEL, "--prompt", "Once", "--quantization", "int3")
    assert result.returncode != 0
    assert "none" in result.stderr and "int8" in result.stderr and "int4" in result.stderr
