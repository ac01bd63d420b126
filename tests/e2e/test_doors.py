"""What holds at one door of generation holds at all: keys, limits, origins, metrics, logs, clients that leave, and errors,
each in the door's own form."""

import json
import threading
import time

import httpx
import pytest

SAYS = [{"role": "user", "content": "Tell me a story."}]
DOORS = {
    "/generate": {"text": "Once", "sampling_params": {"max_new_tokens": 2, "ignore_eos": True}},
    "/v1/completions": {"prompt": "Once", "max_tokens": 2, "ignore_eos": True},
    "/v1/chat/completions": {"messages": SAYS, "max_tokens": 2, "ignore_eos": True},
    "/v1/responses": {"input": SAYS, "max_output_tokens": 2, "ignore_eos": True},
    "/v1/messages": {"messages": SAYS, "max_tokens": 2, "ignore_eos": True},
}
ENDLESS = 1500
KEY = {"Authorization": "Bearer first"}
ORIGIN = {"Origin": "http://a.example"}


def longer(body, tokens):
    """The body with room for so many tokens."""
    text = json.dumps(body)
    for name in ("max_new_tokens", "max_output_tokens", "max_tokens"):
        text = text.replace(f'"{name}": 2', f'"{name}": {tokens}')
    return json.loads(text)


def error_of(door, response):
    """Its message; the form is checked."""
    told = response.json()
    if door.startswith("/v1/messages"):
        assert set(told) == {"type", "error"} and set(told["error"]) == {"type", "message"}, told
    else:
        assert set(told) == {"error"} and set(told["error"]) == {"message", "type", "param", "code"}, told
    assert response.headers["content-type"] == "application/json"
    return told["error"]["message"]


@pytest.fixture(scope="module")
def guarded():
    from conftest import Server

    server = Server("--api-key", "first", "--api-key", "second", "--isolate-keys", "--cors-origins", ORIGIN["Origin"],
                    "--log-requests", "--max-body-bytes", 5000, "--clip-max-tokens")  # fmt: skip
    yield server
    server.wait_until_empty()
    assert server.stop() == 0


@pytest.mark.parametrize("door", [*DOORS, "/v1/messages/count_tokens"])
def test_keys_origins_and_what_is_refused_before_it_is_read(guarded, door):
    url = guarded.url + door
    body = DOORS.get(door, {"messages": SAYS})
    for headers in ({}, {"Authorization": "Bearer third"}, {"x-api-key": "third"}):
        refused = httpx.post(url, json=body, headers=headers | ORIGIN)
        assert refused.status_code == 401 and "key" in error_of(door, refused)
        assert refused.headers["access-control-allow-origin"] == ORIGIN["Origin"]  # or the page could not read it
    for headers in (KEY, {"x-api-key": "second"}):
        answer = httpx.post(url, json=body, headers=headers | ORIGIN | {"X-Request-Id": "mine"}, timeout=60)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-request-id"] == answer.headers["request-id"] == "mine"
        assert answer.headers["access-control-allow-origin"] == ORIGIN["Origin"]
    assert "access-control-allow-origin" not in httpx.post(url, json=body, headers={"Origin": "http://b.example"}).headers
    question = ORIGIN | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    preflight = httpx.options(url, headers=question)
    assert preflight.status_code == 204 and preflight.headers["access-control-allow-headers"] == "x-api-key"
    for status, method, content, more in [
        (400, "POST", b'{"model":', {}),
        (400, "POST", b"[]", {}),
        (400, "POST", b'{"a": 1, "a": 2}', {}),
        (400, "POST", b"", {}),
        (404, "POST", json.dumps(body | {"model": "another"}).encode(), {}),
        (405, "GET", b"", {}),
        (413, "POST", b'"' + 6000 * b"a" + b'"', {}),
        (415, "POST", b"{}", {"Content-Encoding": "gzip"}),
        (415, "POST", b"{}", {"Content-Type": "text/plain"}),
    ]:
        if status == 404 and door == "/generate":
            continue  # knows no model's name, as SGLang's
        refused = httpx.request(method, url, content=content, headers={"Content-Type": "application/json"} | KEY | more)
        assert refused.status_code == status, (content[:20], refused.text)
        assert error_of(door, refused)


@pytest.mark.parametrize("door", DOORS)
def test_it_is_counted_and_logged(guarded, door):
    guarded.wait_until_empty()
    before, lines = guarded.metrics(), len(guarded.log)
    assert httpx.post(guarded.url + door, json=DOORS[door], headers=KEY, timeout=60).status_code == 200
    guarded.wait_until_empty()
    after = guarded.metrics()
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert grown["chorale_generation_tokens_total"] == 2
    assert grown["chorale_prompt_tokens_total"] > 0
    assert grown["chorale_time_to_first_token_seconds_count"] == 1
    assert grown['chorale_http_responses_total{code="200"}'] >= 1
    told = "".join(guarded.log[lines:])
    assert "request ended" in told and f"POST {door} 200" in told and "output_tokens=2" in told


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("door", DOORS)
def test_who_leaves_is_not_answered_to_the_end(guarded, door, stream):
    guarded.wait_until_empty()
    before = guarded.metrics()["chorale_generation_tokens_total"]
    body = longer(DOORS[door], ENDLESS) | {"stream": stream}
    with pytest.raises(httpx.ReadTimeout):
        with httpx.stream("POST", guarded.url + door, json=body, headers=KEY, timeout=0.3) as response:
            started = time.monotonic()
            for _ in response.iter_bytes():
                if time.monotonic() > started + 0.1:
                    raise httpx.ReadTimeout("enough")
    guarded.wait_until_empty()
    assert guarded.metrics()["chorale_generation_tokens_total"] - before < ENDLESS


def test_beyond_the_queue_is_503_to_be_tried_again(serve):
    server = serve("--max-running-requests", 1, "--max-queued-requests", 1)
    done = threading.Event()

    def hold(ready):
        body = longer(DOORS["/generate"], ENDLESS) | {"stream": True}
        with httpx.stream("POST", server.url + "/generate", json=body, timeout=60) as response:
            parts = response.iter_bytes()  # which closes the connection when it is dropped
            ready.set()
            next(parts)
            done.wait(60)

    held = [threading.Event() for _ in range(2)]
    threads = [threading.Thread(target=hold, args=(ready,)) for ready in held]
    try:
        for thread, ready, name in zip(threads, held, ("running", "waiting"), strict=True):
            thread.start()
            assert ready.wait(60)
            while server.metrics()[f"chorale_num_requests_{name}"] < 1:
                time.sleep(0.005)
        for door, body in DOORS.items():
            for stream in (False, True):
                refused = httpx.post(server.url + door, json=body | {"stream": stream}, timeout=60)
                assert refused.status_code == 503, (door, stream, refused.text)
                assert error_of(door, refused) and int(refused.headers["retry-after"]) > 0
    finally:
        done.set()
        for thread in threads:
            thread.join()
