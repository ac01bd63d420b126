"""/v1/messages with Anthropic's client: what goes in, what comes out, and that it is the same chat as at the other door."""

import json
import re

import anthropic
import httpx
import pytest

USER = [{"role": "user", "content": "Tell me about a king."}]
TOOL = {
    "name": "weather",
    "description": "The weather in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
OPENAI_TOOL = {"type": "function", "function": {"name": "weather", "description": "The weather in a city.",
                                                "parameters": TOOL["input_schema"]}}  # fmt: skip
THINK = "4088"  # <think>, with which the model may begin before its words are forced
NOW = {"name": "now", "input_schema": {"type": "object", "properties": {}}}
OPENAI_NOW = {"type": "function", "function": {"name": "now", "parameters": NOW["input_schema"]}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
OFF = {"type": "disabled"}


@pytest.fixture(scope="module")
def claude(server):
    return anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=120)


def ask(claude, model="tales-moe", messages=USER, max_tokens=40, says=None, **more):
    if says is not None:
        more["extra_body"] = {"grammar": "start: " + json.dumps(says), "logit_bias": {THINK: -100}, "seed": 1}
    return claude.messages.create(model=model, messages=messages, max_tokens=max_tokens, **more)


def stream(claude, messages=USER, max_tokens=40, says=None, **more):
    """The events and the final message, which the client's helper puts together."""
    if says is not None:
        more["extra_body"] = {"grammar": "start: " + json.dumps(says), "logit_bias": {THINK: -100}, "seed": 1}
    with claude.messages.stream(model="tales-moe", messages=messages, max_tokens=max_tokens, **more) as events:
        seen = [event for event in events]
        return seen, events.get_final_message()


def content(message):
    """Without ids and signatures, which differ from answer to answer."""
    return [{key: value for key, value in block.to_dict().items() if key not in ("id", "signature", "parsed_output")}
            for block in message.content]  # fmt: skip


SAID = {
    "text": ("Once upon a time.", [{"type": "text", "text": "Once upon a time."}], "end_turn"),
    "thinking": ("<think>\nWell, well.\n</think>\n\nNo.",
                 [{"type": "thinking", "thinking": "Well, well."}, {"type": "text", "text": "No."}], "end_turn"),
    "call": (CALL, [{"type": "tool_use", "name": "weather", "input": {"city": "Rome"}}], "tool_use"),
    "all": ("<think>\nHm.\n</think>\n\nI look.\n" + CALL + "\n" + CALL.replace("Rome", "Oslo"),
            [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "I look."},
             {"type": "tool_use", "name": "weather", "input": {"city": "Rome"}},
             {"type": "tool_use", "name": "weather", "input": {"city": "Oslo"}}], "tool_use"),
    "broken call": ('<tool_call>\n{"name": "weather", "arg',
                    [{"type": "text", "text": '<tool_call>\n{"name": "weather", "arg'}], "end_turn"),
    "nothing": ("", [], "end_turn"),
}  # fmt: skip


@pytest.mark.parametrize("said", SAID)
def test_what_the_model_says_becomes_blocks(claude, said):
    text, blocks, reason = SAID[said]
    more = dict(says=text, max_tokens=200, tools=[TOOL])
    if said == "nothing":
        more = dict(extra_body={"guided_regex": "a?", "logit_bias": {"4066": 100}}, max_tokens=5)
        whole = ask(claude, thinking=OFF, **more)
        assert content(whole) == [] and whole.stop_reason == "end_turn"
        return
    whole = ask(claude, **more)
    assert content(whole) == blocks
    assert (whole.type, whole.role, whole.model, whole.stop_reason, whole.stop_sequence) == (
        "message", "assistant", "tales-moe", reason, None)  # fmt: skip
    _, streamed = stream(claude, **more)
    assert content(streamed) == blocks
    assert streamed.stop_reason == reason
    assert streamed.usage.output_tokens == whole.usage.output_tokens > 0
    total = lambda usage: usage.input_tokens + usage.cache_read_input_tokens  # noqa: E731
    assert total(streamed.usage) == total(whole.usage) > 10


def test_the_events_of_a_stream_in_their_order(server):
    body = {"model": "tales-moe", "max_tokens": 200, "stream": True, "messages": USER, "tools": [TOOL],
            "grammar": "start: " + json.dumps(SAID["all"][0]), "logit_bias": {THINK: -100}, "seed": 1}  # fmt: skip
    with httpx.stream("POST", server.url + "/v1/messages", json=body, timeout=120) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    names = [line.removeprefix("event: ") for line in lines[::2]]
    events = [json.loads(line.removeprefix("data: ")) for line in lines[1::2]]
    assert names == [event["type"] for event in events]
    assert names[0] == "message_start" and names[-2:] == ["message_delta", "message_stop"]
    shape, index = [], -1
    for event in events[1:-2]:
        if event["type"] == "content_block_start":
            index += 1
            shape.append(event["content_block"]["type"])
        assert event["index"] == index
        if event["type"] == "content_block_delta":
            last = event["delta"]["type"]
        if event["type"] == "content_block_stop" and shape[-1] == "thinking":
            assert last == "signature_delta"
    assert shape == ["thinking", "text", "tool_use", "tool_use"]
    start = events[0]["message"]
    assert start["content"] == [] and start["stop_reason"] is None and start["usage"]["output_tokens"] >= 1
    assert events[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}


HISTORY = [
    {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "you"}]},
    {"role": "assistant", "content": [
        {"type": "thinking", "thinking": "A city.", "signature": "x"}, {"type": "redacted_thinking", "data": "y"},
        {"type": "text", "text": "I look."}, {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Rome"}}]},
    {"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "It rains."}]},
        {"type": "text", "text": "And now?"}]},
]  # fmt: skip
OPENAI_HISTORY = [
    {"role": "system", "content": "Be brief.\nBe kind."},
    {"role": "user", "content": "Hi\nyou"},
    {"role": "assistant", "content": "I look.", "reasoning_content": "A city.",
     "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}}]},
    {"role": "tool", "tool_call_id": "t1", "content": "It rains."},
    {"role": "user", "content": "And now?"},
]  # fmt: skip
SYSTEM = [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "x-anthropic-billing-header: cc_version=1"},
          {"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}]  # fmt: skip


@pytest.mark.parametrize(
    "here, there",
    [
        (dict(messages=USER), dict(messages=USER)),
        (dict(messages=USER, thinking=OFF), dict(messages=USER, chat_template_kwargs={"enable_thinking": False})),
        (dict(messages=HISTORY, system=SYSTEM, tools=[TOOL]), dict(messages=OPENAI_HISTORY, tools=[OPENAI_TOOL])),
        (dict(messages=HISTORY, system="Be brief.\nBe kind.", tools=[TOOL], tool_choice={"type": "none"}),
         dict(messages=OPENAI_HISTORY, tools=[OPENAI_TOOL], tool_choice="none")),
        (dict(messages=USER, tools=[NOW], tool_choice={"type": "any", "disable_parallel_tool_use": True}, thinking=OFF),
         dict(messages=USER, tools=[OPENAI_NOW], tool_choice="required", parallel_tool_calls=False,
              chat_template_kwargs={"enable_thinking": False})),
        (dict(messages=USER, tools=[TOOL, NOW], thinking=OFF,
              tool_choice={"type": "tool", "name": "now", "disable_parallel_tool_use": True}),
         dict(messages=USER, tools=[OPENAI_TOOL, OPENAI_NOW], parallel_tool_calls=False,
              tool_choice={"type": "function", "function": {"name": "now"}},
              chat_template_kwargs={"enable_thinking": False})),
        (dict(messages=USER + [{"role": "assistant", "content": "Once upon"}]),
         dict(messages=USER + [{"role": "assistant", "content": "Once upon"}], continue_final_message=True)),
        (dict(messages=USER, extra_body={"temperature": 1.0, "top_p": 0.9, "top_k": 20, "seed": 3}),
         dict(messages=USER, temperature=1.0, top_p=0.9, top_k=20, seed=3)),
        (dict(messages=USER, output_config={"format": {"type": "json_schema", "schema": {"enum": [{"a": 1}]}}}, thinking=OFF),
         dict(messages=USER, guided_json={"enum": [{"a": 1}]}, chat_template_kwargs={"enable_thinking": False})),
    ],
    ids=["plain", "no thinking", "history", "tools not used", "any", "one tool", "prefill", "sampling", "format"],
)  # fmt: skip
def test_it_is_the_same_chat(server, claude, here, there):
    """Prompt and answer have the same tokens as at /v1/chat/completions, streamed and not."""
    there = dict(max_tokens=48, temperature=0, **{}) | there
    other = server.ask("/v1/chat/completions", there)
    here = dict(extra_body={"temperature": 0}) | here
    whole = ask(claude, max_tokens=48, **here)
    _, streamed = stream(claude, max_tokens=48, **here)
    assert content(whole) == content(streamed)
    usage = other["usage"]
    for message in (whole, streamed):
        assert message.usage.input_tokens + message.usage.cache_read_input_tokens == usage["prompt_tokens"]
        assert message.usage.output_tokens == usage["completion_tokens"]
    told = other["choices"][0]["message"]
    blocks = {block["type"]: block for block in content(whole)}
    assert blocks.get("text", {}).get("text", "") == (told["content"] or "")
    assert blocks.get("thinking", {}).get("thinking") == told["reasoning_content"]
    calls = [json.loads(call["function"]["arguments"]) for call in told.get("tool_calls") or []]
    assert [block["input"] for block in content(whole) if block["type"] == "tool_use"] == calls
    count = {key: here[key] for key in ("messages", "system", "tools", "tool_choice", "thinking") if key in here}
    assert claude.messages.count_tokens(model="tales-moe", **count).input_tokens == usage["prompt_tokens"]


def test_reasons_to_stop(claude):
    cut = ask(claude, max_tokens=3)
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 3)
    stopped = ask(claude, says="Once upon a time.", stop_sequences=["zzz", " a"])
    assert (content(stopped), stopped.stop_reason, stopped.stop_sequence) == (
        [{"type": "text", "text": "Once upon"}], "stop_sequence", " a")  # fmt: skip
    _, streamed = stream(claude, says="Once upon a time.", stop_sequences=["zzz", " a"])
    assert (streamed.stop_reason, streamed.stop_sequence) == ("stop_sequence", " a")


def test_thinking(claude):
    says = "<think>\nWell, well.\n</think>\n\nNo."
    hidden = ask(claude, says=says, thinking={"type": "adaptive", "display": "omitted"})
    assert content(hidden) == [{"type": "text", "text": "No."}]
    assert hidden.usage.output_tokens_details.thinking_tokens > 2
    budget = ask(claude, max_tokens=40, thinking={"type": "enabled", "budget_tokens": 3},
                 extra_body={"logit_bias": {THINK: 30}, "temperature": 0})  # <think>, until it may not
    thinking = [block for block in budget.content if block.type == "thinking"]
    assert thinking and thinking[0].signature
    assert budget.usage.output_tokens_details.thinking_tokens <= 3


def test_the_prefix_cache_shows_in_usage(claude):
    messages = [{"role": "user", "content": [{"type": "text", "text": "A long tale. " * 40, "cache_control": {"type": "ephemeral"}}]}]
    first = ask(claude, messages=messages, max_tokens=1).usage
    second = ask(claude, messages=messages, max_tokens=1).usage
    assert second.cache_read_input_tokens >= 96
    assert (second.input_tokens + second.cache_read_input_tokens
            == first.input_tokens + first.cache_read_input_tokens + first.cache_creation_input_tokens)  # fmt: skip


REFUSED = [
    (dict(max_tokens=None), "max_tokens"),
    (dict(messages=None), "messages"),
    (dict(messages=[]), "messages"),
    (dict(messages="Hi"), "messages"),
    (dict(messages=[{"role": "robot", "content": "Hi"}]), "messages[0].role"),
    (dict(messages=[{"role": "user"}]), "messages[0].content"),
    (dict(messages=[{"role": "user", "content": 5}]), "messages[0].content"),
    (dict(messages=[{"role": "user", "content": [{"type": "image", "source": {}}]}]), "'image'"),
    (dict(messages=[{"role": "user", "content": [{"type": "document", "source": {}}]}]), "'document'"),
    (dict(messages=[{"role": "user", "content": [{"type": "tool_result"}]}]), "messages[0].content[0].tool_use_id"),
    (dict(messages=[{"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "b", "input": "c"}]}]),
     "messages[0].content[0].input"),
    (dict(system=5), "system"),
    (dict(system=[{"type": "image"}]), "'image'"),
    (dict(tools=[{"type": "web_search_20250305", "name": "web_search"}]), "web_search_20250305"),
    (dict(tools=[{"type": "bash_20250124", "name": "bash"}]), "bash_20250124"),
    (dict(tools=[{"name": "a b", "input_schema": {}}]), "tools[0].name"),
    (dict(tools=[{"name": "a"}]), "tools[0].input_schema"),
    (dict(tools=[TOOL], tool_choice={"type": "sometimes"}), "tool_choice.type"),
    (dict(tools=[TOOL], tool_choice={"type": "tool", "name": "other"}), "'other'"),
    (dict(thinking={"type": "a bit"}), "thinking.type"),
    (dict(temperature=-1), "temperature"),
    (dict(stop_sequences=[""]), "stop_sequences"),
    (dict(max_tokens=-5), "max_tokens"),
    (dict(mcp_servers=[{"type": "url"}]), "mcp_servers"),
    (dict(container="c"), "container"),
    (dict(mirostat=2), "mirostat"),
    (dict(output_config={"format": {"type": "xml"}}), "output_config.format.type"),
]  # fmt: skip


@pytest.mark.parametrize("change, named", REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_refusals_name_what_is_wrong(server, change, named):
    body = {"model": "tales-moe", "max_tokens": 5, "messages": USER} | change
    response = server.post("/v1/messages", {key: value for key, value in body.items() if value is not None})
    assert response.status_code == 400, response.text
    told = response.json()
    assert told["type"] == "error" and told["error"]["type"] == "invalid_request_error"
    assert named in told["error"]["message"]


def test_errors_are_anthropics(server, claude, serve):
    with pytest.raises(anthropic.NotFoundError) as missing:
        ask(claude, model="claude-of-another-house")
    assert missing.value.body["error"]["type"] == "not_found_error"
    with pytest.raises(anthropic.BadRequestError) as long:
        ask(claude, messages=[{"role": "user", "content": "tell " * 3000}])
    assert re.match(r"prompt is too long: \d{4} tokens > 2048 maximum; ", long.value.body["error"]["message"])
    with pytest.raises(anthropic.BadRequestError, match="maximum context length is 2048 tokens") as much:
        ask(claude, max_tokens=5000)
    # From these words Claude Code reads what it may ask for.
    assert re.match(r"input length and `max_tokens` exceed context limit: \d\d \+ 5000 > 2048; ", much.value.body["error"]["message"])
    assert much.value.request_id == much.value.response.headers["x-request-id"]
    assert httpx.get(server.url + "/v1/messages").json()["error"]["type"] == "invalid_request_error"
    assert httpx.post(server.url + "/v1/messages", content=b"{", headers={"content-type": "application/json"}).json()["type"] == "error"
    guarded = serve("--api-key", "secret", "--max-body-bytes", "2000")
    for key, error in (("wrong", anthropic.AuthenticationError), ("secret", None)):
        client = anthropic.Anthropic(base_url=guarded.url, api_key=key, max_retries=0)
        if error is None:
            assert ask(client, max_tokens=1).usage.output_tokens == 1
            with pytest.raises(anthropic.APIStatusError) as large:
                ask(client, messages=[{"role": "user", "content": "x" * 3000}])
            assert large.value.status_code == 413 and large.value.body["error"]["type"] == "request_too_large"
        else:
            with pytest.raises(error) as refused:
                ask(client, max_tokens=1)
            assert refused.value.body["error"]["type"] == "authentication_error"


def test_harmless_fields_change_nothing(server):
    body = {"model": "tales-moe", "max_tokens": 8, "messages": USER, "temperature": 0}
    more = {"metadata": {"user_id": "u"}, "service_tier": "auto", "context_management": {"edits": []}, "cache_control": {"type": "ephemeral"},
            "output_config": {"effort": "high"}, "mcp_servers": [], "inference_geo": "eu"}  # fmt: skip
    plain, changed = (server.ask("/v1/messages?beta=true", body | extra) for extra in ({}, more))
    assert [plain["content"][0]["text"]] == [block["text"] for block in changed["content"]]


def test_an_agent_calls_two_tools_and_ends(claude):
    """The model's words are forced; the loop around it is a client's own."""
    script = [CALL, "I ask again.\n" + CALL.replace("Rome", "Oslo"), "It rains in Rome and snows in Oslo."]
    weather = {"Rome": "rain", "Oslo": "snow"}
    messages, asked = list(USER), []
    for says in script:
        _, message = stream(claude, messages=messages, says=says, tools=[TOOL], max_tokens=200, thinking=OFF)
        messages.append({"role": "assistant", "content": message.content})
        if message.stop_reason != "tool_use":
            break
        results = []
        for block in message.content:
            if block.type == "tool_use":
                asked.append(block.input["city"])
                results.append({"type": "tool_result", "tool_use_id": block.id, "content": weather[block.input["city"]]})
        messages.append({"role": "user", "content": results})
    assert asked == ["Rome", "Oslo"]
    assert message.content[0].text == script[-1]
