"""OpenAI's endpoints through the official client."""

import math

import openai
import pytest

MESSAGES = [{"role": "user", "content": "Tell me about a king."}]


def joined(stream):
    """{choice index: text} of a stream of either kind; checks the order of its chunks."""
    texts, finished = {}, set()
    for chunk in stream:
        for choice in chunk.choices:
            assert choice.index not in finished, "nothing comes after the finish reason"
            text = choice.delta.content if hasattr(choice, "delta") else choice.text
            texts[choice.index] = texts.get(choice.index, "") + (text or "")
            if choice.finish_reason:
                finished.add(choice.index)
    assert finished == set(texts)
    return texts


def test_models(client, model):
    assert model == "tales-moe"
    assert client.models.retrieve(model).id == model
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")


def test_chat(client, model):
    answer = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=32, temperature=0)
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    again = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=32, temperature=0)
    assert again.choices[0].message.content == answer.choices[0].message.content


def test_chat_takes_text_parts(client, model):
    parts = [{"role": "user", "content": [{"type": "text", "text": MESSAGES[0]["content"]}]}]
    ask = dict(model=model, max_tokens=16, temperature=0)
    whole = client.chat.completions.create(messages=MESSAGES, **ask)
    assert client.chat.completions.create(messages=parts, **ask).choices[0] == whole.choices[0]


@pytest.mark.parametrize("n", [1, 3])
def test_chat_streams_what_it_answers(client, model, n):
    ask = dict(model=model, messages=MESSAGES, max_tokens=48, seed=7, temperature=1.0, n=n)
    whole = client.chat.completions.create(**ask)
    chunks = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    firsts = {chunk.choices[0].index: chunk for chunk in reversed(chunks) if chunk.choices}
    assert [chunk.choices[0].delta.role for chunk in firsts.values()] == ["assistant"] * n
    assert sum(bool(chunk.choices and chunk.choices[0].delta.role) for chunk in chunks) == n
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert joined(chunks) == {choice.index: choice.message.content for choice in whole.choices}
    assert len({choice.message.content for choice in whole.choices}) == n


@pytest.mark.parametrize("n", [1, 2])
def test_completions_stream_what_they_answer(client, model, n):
    ask = dict(model=model, prompt=["Once upon a time", "The dragon"], max_tokens=40, seed=3, n=n, echo=True)
    whole = client.completions.create(**ask)
    assert [choice.index for choice in whole.choices] == list(range(2 * n))
    assert whole.choices[0].text.startswith("Once upon a time")
    assert whole.choices[-1].text.startswith("The dragon")
    assert joined(client.completions.create(**ask, stream=True)) == {c.index: c.text for c in whole.choices}


def test_a_seed_repeats(client, model):
    def text(seed):
        answer = client.completions.create(model=model, prompt="Once", max_tokens=24, temperature=1, seed=seed)
        return answer.choices[0].text

    assert text(1) == text(1)
    assert text(1) != text(2)


def test_stop_strings_end_the_text_across_tokens(client, model):
    ask = dict(model=model, prompt="Once upon a time there was a king who", max_tokens=40, temperature=0)
    text = client.completions.create(**ask).choices[0].text
    # Six characters that begin and end within words, so within tokens.
    stop = text[len(text) // 2 : len(text) // 2 + 6]
    answer = client.completions.create(**ask, stop=["not in there", stop])
    assert answer.choices[0].text == text[: text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    assert joined(client.completions.create(**ask, stop=stop, stream=True)) == {0: answer.choices[0].text}


def test_max_completion_tokens_wins(client, model):
    answer = client.chat.completions.create(
        model=model, messages=MESSAGES, max_tokens=30, max_completion_tokens=3, extra_body={"ignore_eos": True}
    )
    assert answer.usage.completion_tokens == 3
    assert answer.choices[0].finish_reason == "length"


def test_min_tokens_hold_the_end_back(client, model):
    answer = client.completions.create(
        model=model, prompt="The end.", max_tokens=60, temperature=0, extra_body={"min_tokens": 60}
    )
    assert answer.usage.completion_tokens == 60


def test_logit_bias_forces_a_token(client, model):
    king = 637  # " king"
    answer = client.completions.create(
        model=model, prompt="The", max_tokens=4, temperature=0, logit_bias={str(king): 100}
    )
    assert answer.choices[0].text == " king" * 4


def test_chat_logprobs(client, model):
    answer = client.chat.completions.create(
        model=model, messages=MESSAGES, max_tokens=12, temperature=0, logprobs=True, top_logprobs=4
    )
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    for entry in content:
        assert len(entry.top_logprobs) == 4
        assert entry.top_logprobs[0].token == entry.token, "greedy takes the likeliest"
        assert entry.top_logprobs[0].logprob == entry.logprob
        assert bytes(entry.bytes).decode("utf-8", "replace") == entry.token
        assert sum(math.exp(top.logprob) for top in entry.top_logprobs) <= 1.0001


def test_completions_logprobs_and_echo(client, model):
    prompt = "Once upon a time there was a king who"
    answer = client.completions.create(
        model=model, prompt=prompt, max_tokens=5, temperature=0, logprobs=3, echo=True
    )
    choice = answer.choices[0]
    logprobs = choice.logprobs
    assert logprobs.token_logprobs[0] is None
    assert all(value < 0 for value in logprobs.token_logprobs[1:])
    for token, offset in zip(logprobs.tokens, logprobs.text_offset):
        assert choice.text[offset:].startswith(token)
    assert len(logprobs.tokens) == answer.usage.total_tokens
    scored = client.completions.create(model=model, prompt=prompt, max_tokens=0, logprobs=3, echo=True)
    assert scored.choices[0].text == prompt
    count = scored.usage.prompt_tokens
    assert scored.choices[0].logprobs.token_logprobs == logprobs.token_logprobs[:count]


def test_a_repeated_prompt_is_found_in_the_cache(server):
    body = {"prompt": "A tale that nobody told before. " * 20, "max_tokens": 2, "temperature": 0, "logprobs": 1}
    first = server.ask("/v1/completions", body)
    second = server.ask("/v1/completions", body)
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert second["choices"] == first["choices"]


@pytest.mark.parametrize(
    "more, param",
    [
        (dict(tools=[{"type": "function", "function": {"name": "a b"}}]), "tools[0].function.name"),
        (dict(functions=[{"name": "f"}]), "functions"),
        (dict(response_format={"type": "xml"}), "response_format.type"),
        (dict(modalities=["text", "audio"]), "modalities"),
        (dict(temperature=-1), "temperature"),
        (dict(max_tokens=100_000), "max_tokens"),
        (dict(extra_body={"regex": "(a"}), "regex"),
        (dict(stream_options={"include_usage": True}), "stream_options"),
    ],
)
def test_what_is_not_supported_is_refused(client, model, more, param):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=model, messages=MESSAGES, **more)
    assert refused.value.param == param


def test_images_are_refused(client, model):
    image = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": image}])
    assert refused.value.param == "messages[0].content[0].type"


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError, match="tales-moe"):
        client.chat.completions.create(model="another", messages=MESSAGES)


def test_a_prompt_that_is_too_long_tells_both_counts(client, model):
    with pytest.raises(openai.BadRequestError, match="2048.*3000"):
        client.completions.create(model=model, prompt=[258] * 3000)
