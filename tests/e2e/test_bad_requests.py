"""What a request may get wrong: the status, the parameter that is named, and a server that is as well as before."""

import json

import httpx
import pytest

COMPLETIONS, CHAT, GENERATE = "/v1/completions", "/v1/chat/completions", "/generate"
PATHS = (COMPLETIONS, CHAT, GENERATE)
LONG = "word " * 4000


@pytest.fixture(autouse=True)
def healthy_afterwards(server):
    yield
    assert server.generate("Hello", max_new_tokens=2, temperature=0)["meta_info"]["completion_tokens"] == 2
    server.wait_until_empty()


def send(server, path, body):
    """The status and the error of a body of bytes."""
    headers = {"Content-Type": "application/json"}
    response = httpx.post(server.url + path, content=body, headers=headers, timeout=60)
    error = response.json().get("error", {})
    assert response.status_code == 200 or set(error) == {"message", "type", "param", "code"}
    assert len(error.get("message", "")) < 2100
    assert str(server.process.args[0]) not in response.text and "/models/" not in response.text
    return response.status_code, error


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"null", b"[]", b'"text"', b"5", b"true", b"{", b"{}x", b"{'prompt': 1}", b'{"prompt": "a",}',
        b'{"prompt": "a", "prompt": "b"}', b'{"a": {"b": 1, "b": 2}}',
        b'{"prompt": "\xff"}', b'{"prompt": "\xc0\xaf"}', b'{"prompt": "\xed\xa0\x80"}', b'{"prompt": "\xf4\x90\x80\x80"}',
        b'{"prompt": "\\ud800"}', b'{"prompt": "\\ud83d\\ud83d"}', b'{"prompt": "\x00"}', b'{"prompt": "a"}\x00{}',
        b"[" * 100_000, b'{"a":' * 100_000, b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"temperature": NaN}', b'{"temperature": Infinity}', b'{"max_tokens": 1e999}', b'{"max_tokens": 0x10}',
        b'{"max_tokens": 01}', b"\xef\xbb\xbf\xef\xbb\xbf{}",
    ],
    ids=lambda body: repr(body[:24]),
)  # fmt: skip
def test_bodies_that_are_no_requests(server, path, body):
    status, error = send(server, path, body)
    assert status == 400
    assert error["type"] == "invalid_request_error"


VALUES = [
    ("n", 10**9), ("n", 0), ("n", -1), ("n", 1.5), ("n", "1"),
    ("temperature", -1), ("temperature", "hot"), ("temperature", []), ("temperature", True),
    ("top_p", 0), ("top_p", 1.1), ("top_p", -1), ("top_k", -2), ("top_k", 0.5), ("min_p", -0.1), ("min_p", 1.5),
    ("max_tokens", -1), ("max_tokens", 2**63), ("max_tokens", 1.5), ("max_tokens", "5"), ("max_tokens", [5]),
    ("max_tokens", 10**7), ("seed", "x"), ("seed", 2**63), ("stop", [""]), ("stop", ""), ("stop", ["x"] * 10_000),
    ("stop", 5), ("stop", ["x" * 5000]), ("stop_token_ids", [-1]), ("stop_token_ids", [10**6]), ("stop_token_ids", 5),
    ("logit_bias", {"x": 1}), ("logit_bias", {"1": 1000}), ("logit_bias", {"99999999": 1}), ("logit_bias", []),
    ("presence_penalty", 3), ("frequency_penalty", "x"), ("repetition_penalty", 0), ("repetition_penalty", -1),
    ("stream", "yes"), ("ignore_eos", 1),
]  # fmt: skip
NATIVE = {"max_tokens": "max_new_tokens"}


def base(path):
    return {COMPLETIONS: {"prompt": "a"}, CHAT: {"messages": [{"role": "user", "content": "a"}]},
            GENERATE: {"text": "a"}}[path]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("name", "value"), VALUES, ids=lambda value: str(value)[:24])
def test_values_of_the_wrong_type_or_size(server, path, name, value):
    body, param = base(path), name
    if path == GENERATE and name != "stream":
        param = NATIVE.get(name, name)
        body["sampling_params"] = {param: value}
        param = "sampling_params." + param
    else:
        body[name] = value
    status, error = send(server, path, json.dumps(body).encode())
    assert status == 400
    # Some are found by the engine, which knows the field by its short name; elements of lists have their index.
    assert error["param"].split("[")[0] in (param, param.rsplit(".", 1)[-1])


@pytest.mark.parametrize(
    ("path", "more", "status", "param"),
    [
        (CHAT, {"top_logprobs": 21, "logprobs": True}, 400, "top_logprobs"),
        (COMPLETIONS, {"logprobs": 21}, 400, "logprobs"),
        (CHAT, {"max_tokens": 0}, 400, "max_tokens"),
        (COMPLETIONS, {"model": "other"}, 404, "model"),
        (CHAT, {"model": "other", "stream": True}, 404, "model"),
        (COMPLETIONS, {"prompt": [-1]}, 400, "prompt[0]"),
        (COMPLETIONS, {"prompt": [[1], [10**6]]}, 400, "prompt[1][0]"),
        (COMPLETIONS, {"prompt": ["a", 1]}, 400, "prompt[1]"),
        (COMPLETIONS, {"prompt": {}}, 400, "prompt"),
        (COMPLETIONS, {"prompt": ["a"] * 300}, 400, "prompt"),
        (COMPLETIONS, {"prompt": ["a"] * 200, "n": 200}, 400, "n"),
        (COMPLETIONS, {"stream_options": {"include_usage": True}}, 400, "stream_options"),
        (CHAT, {"messages": []}, 400, "messages"),
        (CHAT, {"messages": [{"role": "user"}]}, 400, "messages[0].content"),
        (CHAT, {"messages": [{"content": "a"}]}, 400, "messages[0].role"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages[0].content[0]"),
        (GENERATE, {"input_ids": [1]}, 400, "text"),
        (GENERATE, {"rid": 5}, 400, "rid"),
        (GENERATE, {"rid": "x" * 1000}, 400, "rid"),
        (GENERATE, {"return_logprob": True, "logprob_start_len": 10}, 400, "logprob_start_len"),
    ],
)
def test_other_faults(server, path, more, status, param):
    found, error = send(server, path, json.dumps(base(path) | more).encode())
    assert found == status
    assert error["param"].startswith(param)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", PATHS)
def test_a_prompt_that_is_too_long_tells_both_counts(server, path, stream):
    body = {COMPLETIONS: {"prompt": LONG}, CHAT: {"messages": [{"role": "user", "content": LONG}]},
            GENERATE: {"text": LONG}}[path]  # fmt: skip
    status, error = send(server, path, json.dumps(body | {"stream": stream}).encode())
    assert status == 400
    tokens = server.ask("/tokenize", {"prompt": LONG})["count"]
    limit = httpx.get(server.url + "/get_server_info").json()["max_context_len"]
    assert str(limit) in error["message"]
    assert path == CHAT or str(tokens) in error["message"]
