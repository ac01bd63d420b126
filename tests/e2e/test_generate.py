"""The native endpoint."""

import json

import pytest

from conftest import ROOT, Server

GOLDEN = json.loads((ROOT / "tests/golden/demo_golden.json").read_text(encoding="utf-8"))["prompts"]
# Where the two best logits are closer than float32 arithmetic agrees, another order of sums may decide otherwise.
CLEAR = [prompt for prompt in GOLDEN if prompt["min_margin"] > 2e-3]


@pytest.fixture(scope="module")
def float32_server():
    server = Server("--dtype", "float32")
    yield server
    assert server.stop() == 0


def test_seven_golden_prompts_are_clear():
    assert len(CLEAR) == 7


@pytest.mark.parametrize("prompt", CLEAR, ids=lambda prompt: prompt["text"][:20])
def test_greedy_continuations_are_those_of_transformers(float32_server, prompt):
    greedy = dict(max_new_tokens=len(prompt["greedy"]), temperature=0, ignore_eos=True)
    answer = float32_server.generate(input_ids=prompt["ids"], skip_special_tokens=False, **greedy)
    assert answer["output_ids"] == prompt["greedy"]
    assert answer["text"] == prompt["greedy_text"]
    from_text = float32_server.generate(text=prompt["text"], **greedy)
    assert from_text["output_ids"] == prompt["greedy"]


def test_the_end_of_sequence_token_stops(float32_server):
    prompt = GOLDEN[0]
    end = prompt["greedy"].index(4066)
    answer = float32_server.generate(input_ids=prompt["ids"], max_new_tokens=48, temperature=0)
    assert answer["output_ids"] == prompt["greedy"][: end + 1]
    assert answer["meta_info"]["finish_reason"] == {"type": "stop", "matched": 4066}
    assert answer["meta_info"]["completion_tokens"] == end + 1
    assert "<|im_end|>" not in answer["text"]


def test_a_batch_gives_what_each_prompt_gives_alone(server):
    prompts = [prompt["ids"] for prompt in GOLDEN]
    body = {
        "input_ids": prompts,
        "sampling_params": {"max_new_tokens": 24, "temperature": 0.8, "seed": 5},
        "return_logprob": True,
        "top_logprobs_num": 2,
        "logprob_start_len": 0,
    }
    keys = ("prompt_tokens", "completion_tokens", "finish_reason", "output_token_logprobs", "output_top_logprobs",
            "input_token_logprobs")
    batch = server.ask("/generate", body)
    for ids, answer in zip(prompts, batch, strict=True):
        alone = server.ask("/generate", body | {"input_ids": ids})
        assert answer["output_ids"] == alone["output_ids"]
        assert {key: answer["meta_info"][key] for key in keys} == {key: alone["meta_info"][key] for key in keys}
        assert [entry[1] for entry in answer["meta_info"]["input_token_logprobs"]] == ids
        assert answer["meta_info"]["input_token_logprobs"][0][0] is None


def test_a_stream_grows_into_the_answer(server):
    body = {
        "text": "Once upon a time",
        "sampling_params": {"max_new_tokens": 40, "seed": 9},
        "return_logprob": True,
        "rid": "my-request",
    }
    whole = server.ask("/generate", body)
    messages = server.stream("/generate", body)
    for before, after in zip(messages, messages[1:]):
        assert after["text"].startswith(before["text"])
        assert after["output_ids"][: len(before["output_ids"])] == before["output_ids"]
        assert before["meta_info"]["finish_reason"] is None
    last = messages[-1]
    assert last["meta_info"]["id"] == "my-request"
    assert (last["text"], last["output_ids"]) == (whole["text"], whole["output_ids"])
    assert last["meta_info"]["output_token_logprobs"] == whole["meta_info"]["output_token_logprobs"]
    assert len(last["meta_info"]["output_token_logprobs"]) == last["meta_info"]["completion_tokens"]


def test_stop_token_ids_and_stop_strings(server):
    greedy = dict(max_new_tokens=30, temperature=0, ignore_eos=True)
    text = "Once upon a time there was a king who"
    ids = server.generate(text=text, **greedy)["output_ids"]
    by_token = server.generate(text=text, **greedy, stop_token_ids=[ids[9]])
    first = ids.index(ids[9])
    assert by_token["output_ids"] == ids[: first + 1]
    assert by_token["meta_info"]["finish_reason"] == {"type": "stop", "matched": ids[9]}
    by_string = server.generate(text=text, **greedy, stop=" king")
    assert by_string["meta_info"]["finish_reason"] == {"type": "stop", "matched": " king"}
    assert " king" not in by_string["text"]
    assert server.generate(text=text, **greedy, stop=" king", no_stop_trim=True)["text"].endswith(" king")


@pytest.mark.parametrize(
    "body, param",
    [
        ({}, "text"),
        ({"text": "a", "sampling_params": {"max_new_tokens": -1}}, "sampling_params.max_new_tokens"),
        ({"input_ids": [4096]}, "input_ids[0]"),
        ({"text": "a", "sampling_params": {"regex": "(a"}}, "sampling_params.regex"),
        ({"text": "a", "image_data": "x"}, "image_data"),
    ],
)
def test_faults_are_named(server, body, param):
    response = server.post("/generate", body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
