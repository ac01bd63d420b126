"""The native endpoints beside /generate: tokens, what is served, ending a request, emptying the cache."""

import threading
import time

import httpx
import pytest

TALE = "Once upon a time there was a king who had three daughters."


def get(server, path):
    response = httpx.get(server.url + path, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


def wait_until_running(server):
    while server.metrics()["chorale_num_requests_running"] == 0:
        time.sleep(0.01)


def test_text_to_tokens_and_back(server):
    answer = server.post("/tokenize", {"prompt": TALE, "return_token_strs": True}).json()
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
    assert "".join(answer["token_strs"]) == TALE
    assert answer["max_model_len"] > 0
    back = server.post("/detokenize", {"tokens": answer["tokens"]}).json()
    assert back["text"] == back["prompt"] == back["content"] == TALE
    assert server.post("/tokenize", {"content": TALE}).json()["tokens"] == answer["tokens"]


def test_lists_of_texts(server):
    answer = server.post("/tokenize", {"prompt": [TALE, "a"]}).json()
    assert answer["count"] == [len(ids) for ids in answer["tokens"]]
    assert server.post("/detokenize", {"tokens": answer["tokens"]}).json()["text"] == [TALE, "a"]


def test_a_chat_is_tokenized_as_the_chat_endpoint_does(server):
    messages = [{"role": "user", "content": "Hello"}]
    tokens = server.post("/tokenize", {"messages": messages}).json()["tokens"]
    usage = server.post("/v1/chat/completions", {"messages": messages, "max_tokens": 1}).json()["usage"]
    assert usage["prompt_tokens"] == len(tokens)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"prompt": []}, "prompt"),
        ("/tokenize", {"prompt": "a", "content": "b"}, "content"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
        ("/detokenize", {"tokens": [1, 10**6]}, "tokens[1]"),
        ("/detokenize", {"tokens": [[-1]]}, "tokens[0][0]"),
        ("/abort_request", {}, "rid"),
        ("/abort_request", {"rid": 5}, "rid"),
    ],
)
def test_refusals(server, path, body, param):
    answer = server.post(path, body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_what_is_served(server):
    info = get(server, "/get_model_info")
    assert info["served_model_name"] == "tales-moe"
    assert (info["num_experts"], info["is_generation"], info["has_chat_template"]) == (16, True, True)
    info = get(server, "/get_server_info")
    assert info["strategy"].startswith("tp=1,")
    assert info["version"].count(".") == 2
    assert info["num_running_reqs"] == info["num_queue_reqs"] == info["num_used_tokens"] == 0
    assert info["status"] == "ready"


def test_health_generate_makes_a_token(server):
    before = server.metrics()["chorale_engine_steps_total"]
    assert get(server, "/health_generate") == {"status": "ok"}
    assert server.metrics()["chorale_engine_steps_total"] == before + 1


def test_flushing_empties_the_prefix_cache(server):
    body = {"text": TALE * 20, "sampling_params": {"max_new_tokens": 1, "temperature": 0}}
    first = server.post("/generate", body).json()
    assert server.post("/generate", body).json()["meta_info"]["cached_tokens"] > 0
    assert server.post("/flush_cache", {}).json()["status"] == "ok"
    again = server.post("/generate", body).json()
    assert again["meta_info"]["cached_tokens"] == 0
    assert again["output_ids"] == first["output_ids"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_ends_a_request_by_its_id(server, stream):
    body = {"text": TALE, "rid": "mine", "sampling_params": {"max_new_tokens": 400, "ignore_eos": True}}
    answers = []

    def run():
        answers.append(server.stream("/generate", body)[-1] if stream else server.ask("/generate", body))

    thread = threading.Thread(target=run)
    thread.start()
    wait_until_running(server)
    assert server.post("/abort_request", {"rid": "min"}).json()["aborted"] == 0  # not a prefix
    assert server.post("/abort_request", {"rid": "mine"}).json()["aborted"] == 1
    thread.join()
    meta = answers[0]["meta_info"]
    assert meta["id"] == "mine"
    assert meta["finish_reason"]["type"] == "abort"
    assert 0 < meta["completion_tokens"] < 400
    assert server.post("/abort_request", {"rid": "mine"}).json()["aborted"] == 0


def test_all_requests_can_be_ended(server):
    body = {"prompt": [TALE, "a", "b"], "max_tokens": 400, "ignore_eos": True}
    answers = []
    thread = threading.Thread(target=lambda: answers.append(server.post("/v1/completions", body)))
    thread.start()
    wait_until_running(server)
    assert server.post("/abort_request", {"abort_all": True}).json()["aborted"] == 3
    thread.join()
    assert [choice["finish_reason"] for choice in answers[0].json()["choices"]] == ["abort"] * 3
