"""What clients and routers of other servers expect of flags, headers and paths, and of models as they lie on disks."""

import json
import shutil

import httpx
import pytest

from conftest import MODEL


def copy_of(model, folder):
    shutil.copytree(model, folder, symlinks=True)
    return folder


def edit_json(file, edit):
    value = json.loads(file.read_text(encoding="utf-8"))
    edit(value)
    file.write_text(json.dumps(value), encoding="utf-8")


def test_names_origins_and_clipping(serve):
    server = serve("--served-model-name", "tales", "org/other", "--cors-origins", "http://a.example,http://b.example",
                   "--clip-max-tokens", "--api-key", "secret", "--context-length", 64)  # fmt: skip
    key = {"Authorization": "Bearer secret"}
    models = httpx.get(server.url + "/v1/models", headers=key).json()["data"]
    assert [model["id"] for model in models] == ["tales", "org/other"]
    body = {"model": "org/other", "prompt": "Once", "max_tokens": 100_000, "ignore_eos": True}
    answer = server.post("/v1/completions", body, headers=key | {"Origin": "http://b.example", "X-Request-Id": "mine"})
    assert answer.json()["model"] == "tales"
    assert answer.json()["usage"]["total_tokens"] == 64
    assert answer.headers["access-control-allow-origin"] == "http://b.example"
    assert answer.headers["x-request-id"] == "mine"
    question = {"Origin": "http://a.example", "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,content-type"}  # fmt: skip
    preflight = httpx.options(server.url + "/v1/completions", headers=question)
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-headers"] == "authorization,content-type"


def test_a_silent_stream_sends_comments(serve):
    # A prompt of many steps: nothing is told before the last of them.
    server = serve("--sse-ping-interval", 0.02, "--chunked-prefill-size", 1, "--threads", 1)
    body = {"prompt": [5] * 1500, "max_tokens": 2, "stream": True, "ignore_eos": True}
    with httpx.stream("POST", server.url + "/v1/completions", json=body, timeout=120) as response:
        lines = [line for line in response.iter_lines() if line]
    assert lines[0] == ": ping"
    assert lines[-1] == "data: [DONE]"
    assert all(line == ": ping" or line.startswith("data: ") for line in lines)


def test_a_folder_of_the_hubs_cache_is_served_under_its_name(serve, tmp_path):
    model = tmp_path / "models--org--tales"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("0123abc")
    (model / "snapshots").mkdir()
    blobs = copy_of(MODEL, model / "blobs")
    snapshot = model / "snapshots" / "0123abc"
    snapshot.mkdir()
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    for folder in (model, snapshot):
        server = serve(model=folder)
        info = httpx.get(server.url + "/get_model_info").json()
        assert info["served_model_name"] == info["tokenizer_path"] == "org/tales"
        server.stop()


def test_what_a_start_warns_of(serve, tmp_path):
    folder = copy_of(MODEL, tmp_path / "model")
    for name in ("chat_template.jinja",):
        (folder / name).unlink(missing_ok=True)
    edit_json(folder / "tokenizer_config.json", lambda config: config.pop("chat_template", None))
    edit_json(folder / "config.json", lambda config: config.update(dual_chunk_attention_config={"chunk_size": 9}))
    server = serve("--max-total-tokens", 512, model=folder)
    log = "".join(server.log)
    assert log.count("no chat template") == 1
    assert "512" in log and "2048" in log and "a request may have" in log
    assert "dual_chunk_attention_config is not used" in log
    edit_json(folder / "tokenizer_config.json", lambda config: config.update(chat_template="{{ raise_exception('Never.') }}"))
    server = serve(model=folder)
    assert "".join(server.log).count("the chat template fails on a plain chat") == 1


def test_the_tokenizers_own_end_token_ends_answers(serve, tmp_path):
    folder = copy_of(MODEL, tmp_path / "model")
    (folder / "generation_config.json").unlink()
    edit_json(folder / "config.json", lambda config: config.update(eos_token_id=0))
    edit_json(folder / "tokenizer_config.json", lambda config: config.update(eos_token="<|im_end|>"))
    server = serve(model=folder)
    end = 4066
    body = {"input_ids": [5], "sampling_params": {"max_new_tokens": 8, "temperature": 0, "logit_bias": {str(end): 100}}}
    answer = server.ask("/generate", body)
    assert answer["meta_info"]["finish_reason"] == {"type": "stop", "matched": end}


@pytest.mark.parametrize("path", ["/chat/completions", "/v1/v1/chat/completions", "/api/v1/chat/completions"])
def test_wrong_base_urls_are_hinted(server, path):
    answer = server.post(path, {"messages": [{"role": "user", "content": "Hi"}]})
    assert answer.status_code == 404
    assert "did you mean /v1/chat/completions?" in answer.json()["error"]["message"]
