"""tests/conformance: the same requests with the official clients for Python and JavaScript, whole and streamed."""

import json
import re
import shutil
import subprocess

import jsonschema
import openai
import pytest

import conformance_doors
from conftest import ROOT

FOLDER = ROOT / "tests" / "conformance"
CASES = json.loads((FOLDER / "cases.json").read_text(encoding="utf-8"))
DOOR_CASES = json.loads((FOLDER / "door_cases.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def requests(server, model):
    """The bodies of the cases, with the model's name and ids in place of tokens."""
    bodies = []
    for case in CASES:
        body = {"model": model} | case["body"]
        if "logit_bias" in body:
            body["logit_bias"] = {
                str(server.ask("/tokenize", {"prompt": key[1:]})["tokens"][0]) if key.startswith("@") else key: value
                for key, value in body["logit_bias"].items()
            }
        bodies.append({"endpoint": case["endpoint"], "body": body})
    return bodies


def run_python(client, endpoint, body):
    create = client.chat.completions.create if endpoint == "chat" else client.completions.create
    # What the client does not know by name goes through extra_body; by name only what it needs.
    named = {name: body[name] for name in ("model", "messages", "prompt") if name in body}
    extra = {name: value for name, value in body.items() if name not in named}
    try:
        whole = create(**named, extra_body=extra)
        stream = create(**named, extra_body=extra, stream=True, stream_options={"include_usage": True})
        return {"whole": whole.to_dict(), "chunks": [chunk.to_dict() for chunk in stream]}
    except openai.APIStatusError as error:
        return {"error": {"status": error.status_code, "param": error.param}}


@pytest.fixture(scope="module")
def door_requests(model):
    return [case | {"body": {"model": model} | case["body"]} for case in DOOR_CASES]


@pytest.fixture(scope="module")
def javascript(server, requests, door_requests, tmp_path_factory):
    if shutil.which("npm") is None:
        pytest.fail("npm is missing; scripts/setup.sh test installs it")
    folder = tmp_path_factory.mktemp("conformance")
    for name in ("client.mjs", "doors.mjs", "package.json", "package-lock.json"):
        shutil.copy(FOLDER / name, folder)
    install = ["npm", "ci", "--silent", "--no-audit", "--no-fund"]
    subprocess.run(install, cwd=folder, check=True, timeout=300)
    (folder / "requests.json").write_text(json.dumps(requests + door_requests), encoding="utf-8")
    command = ["node", "client.mjs", server.url, "requests.json"]
    return json.loads(subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300).stdout)


def together(chunks, endpoint):
    """The choices of a stream, in the form of a whole answer."""
    choices = {}
    finished = set()
    for chunk in chunks:
        for part in chunk["choices"]:
            index = part["index"]
            assert index not in finished, "a chunk after the finish"
            choice = choices.setdefault(index, {"text": "", "reasoning": "", "calls": {}, "logprobs": [], "finish": None})
            delta = part.get("delta", part)
            choice["text"] += delta.get("content" if endpoint == "chat" else "text") or ""
            choice["reasoning"] += delta.get("reasoning_content") or ""
            for call in delta.get("tool_calls") or []:
                name, arguments = choice["calls"].get(call["index"], ("", ""))
                function = call["function"]
                choice["calls"][call["index"]] = (name + (function.get("name") or ""),
                                                  arguments + (function.get("arguments") or ""))  # fmt: skip
            choice["logprobs"].append(part.get("logprobs"))
            if part.get("finish_reason"):
                choice["finish"] = part["finish_reason"]
                finished.add(index)
    assert set(choices) == finished
    return [choices[index] for index in sorted(choices)]


def whole_choices(answer, endpoint):
    out = []
    for choice in answer["choices"]:
        message = choice.get("message", {})
        calls = message.get("tool_calls") or []
        out.append({
            "text": (message.get("content") if endpoint == "chat" else choice["text"]) or "",
            "reasoning": message.get("reasoning_content") or "",
            "calls": {i: (c["function"]["name"], c["function"]["arguments"]) for i, c in enumerate(calls)},
            "logprobs": [choice.get("logprobs")],
            "finish": choice["finish_reason"],
        })  # fmt: skip
    return out


def merged_logprobs(parts):
    """Lists of the parts, one after the other; None when there are none."""
    merged = {}
    for part in parts:
        for key, values in (part or {}).items():
            if isinstance(values, list):
                merged.setdefault(key, []).extend(values)
    return merged or None


def judge(case, result):
    expect = case["expect"]
    if "error" in expect:
        assert result.get("error") == expect["error"], result
        return
    assert "error" not in result, result
    endpoint, answer = case["endpoint"], result["whole"]
    choices = whole_choices(answer, endpoint)
    assert len(choices) == expect.get("choices", 1)
    streamed = together(result["chunks"], endpoint)
    usage = result["chunks"][-1]
    assert usage["choices"] == []
    counts = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert [usage["usage"][key] for key in counts] == [answer["usage"][key] for key in counts]
    for whole, stream in zip(choices, streamed, strict=True):
        for key in ("text", "reasoning", "calls", "finish"):
            assert whole[key] == stream[key], key
        assert merged_logprobs(whole["logprobs"]) == merged_logprobs(stream["logprobs"])
        judge_choice(expect, whole)
    if "completion_tokens" in expect:
        assert answer["usage"]["completion_tokens"] == expect["completion_tokens"]
    if expect.get("distinct"):
        assert len({choice["text"] for choice in choices}) == len(choices)


def judge_choice(expect, choice):
    assert choice["finish"] in expect.get("finish", ["stop", "length", "tool_calls"])
    if "content" in expect:
        assert re.search(expect["content"], choice["text"]), choice["text"]
    if "not_containing" in expect:
        assert expect["not_containing"] not in choice["text"]
    if "schema" in expect:
        jsonschema.validate(json.loads(choice["text"]), expect["schema"])
    if "calls" in expect:
        schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in expect["calls"]}
        assert choice["calls"]
        for name, arguments in choice["calls"].values():
            jsonschema.validate(json.loads(arguments), schemas[name])
    logprobs = merged_logprobs(choice["logprobs"])
    if "logprobs" in expect:
        assert logprobs["content"]
        for token in logprobs["content"]:
            assert len(token["top_logprobs"]) == expect["logprobs"]
            assert isinstance(token["bytes"], list)
    if expect.get("completion_logprobs"):
        lengths = {len(logprobs[key]) for key in ("tokens", "token_logprobs", "text_offset")}
        assert len(lengths) == 1 and lengths.pop() > 0


@pytest.mark.parametrize("index", range(len(CASES)), ids=[case["name"] for case in CASES])
def test_python(client, requests, index):
    judge(CASES[index], run_python(client, **requests[index]))


@pytest.mark.parametrize("index", range(len(CASES)), ids=[case["name"] for case in CASES])
def test_javascript(javascript, index):
    judge(CASES[index], javascript[index])


@pytest.mark.parametrize("index", range(len(DOOR_CASES)), ids=[case["name"] for case in DOOR_CASES])
def test_python_at_the_doors_of_agents(server, door_requests, index):
    case = door_requests[index]
    conformance_doors.judge(case, conformance_doors.run_python(server, case["endpoint"], case["body"], case.get("script")))


@pytest.mark.parametrize("index", range(len(DOOR_CASES)), ids=[case["name"] for case in DOOR_CASES])
def test_javascript_at_the_doors_of_agents(javascript, index):
    conformance_doors.judge(DOOR_CASES[index], javascript[len(CASES) + index])
