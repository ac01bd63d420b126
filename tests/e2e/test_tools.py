"""Tools and reasoning in chats, as far as a model shows them that has learned neither."""

import openai
import pytest

MESSAGES = [{"role": "user", "content": "Tell me about a king."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
THINK = 4088  # <think>


@pytest.fixture
def chat(client, model):
    def ask(messages=MESSAGES, **more):
        return client.chat.completions.create(model=model, messages=messages, temperature=0, **more)

    return ask


def prompt_tokens(answer):
    return answer.usage.prompt_tokens


def test_the_model_sees_the_tools_that_it_may_call(chat):
    plain = prompt_tokens(chat(max_tokens=1))
    one = prompt_tokens(chat(max_tokens=1, tools=[WEATHER]))
    assert one > plain + 50
    assert prompt_tokens(chat(max_tokens=1, tools=[WEATHER], tool_choice="auto")) == one
    assert prompt_tokens(chat(max_tokens=1, tools=[WEATHER], tool_choice="none")) == plain
    assert prompt_tokens(chat(max_tokens=1, tools=[])) == plain


def test_an_answer_without_calls_is_as_without_tools(chat):
    answer = chat(max_tokens=24, tools=[WEATHER], parallel_tool_calls=False)
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    chunks = list(chat(max_tokens=24, tools=[WEATHER], parallel_tool_calls=False, stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert all(delta.tool_calls is None for delta in deltas)
    assert "".join(delta.content or "" for delta in deltas) == answer.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == answer.choices[0].finish_reason


@pytest.mark.parametrize("arguments", ['{"city": "Rome"}', '{"city', ""])
def test_a_call_and_its_result_come_back_to_the_model(chat, arguments):
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    messages = MESSAGES + [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "It rains."},
    ]
    before = prompt_tokens(chat(max_tokens=1, tools=[WEATHER]))
    answer = chat(messages, max_tokens=8, tools=[WEATHER])
    assert prompt_tokens(answer) > before
    assert answer.choices[0].message.content


def test_reasoning_is_apart_from_the_content(chat):
    ask = dict(max_tokens=6, logit_bias={str(THINK): 100})  # nothing but <think>, of which the first is the tag
    message = chat(**ask).choices[0].message
    assert message.content == ""
    assert message.reasoning_content == "<think>" * 5
    deltas = [chunk.choices[0].delta for chunk in chat(**ask, stream=True)]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == message.reasoning_content
    assert "".join(delta.content or "" for delta in deltas) == ""
    message = chat(**ask, extra_body={"separate_reasoning": False}).choices[0].message
    assert message.content == "<think>" * 6
    assert message.reasoning_content is None
    message = chat(**ask, extra_body={"include_reasoning": False}).choices[0].message
    assert message.content == ""
    assert message.reasoning_content is None


def test_no_effort_is_no_thinking(chat):
    off = chat(max_tokens=1, extra_body={"chat_template_kwargs": {"enable_thinking": False}})
    assert prompt_tokens(chat(max_tokens=1, reasoning_effort="none")) == prompt_tokens(off)
    assert prompt_tokens(chat(max_tokens=1, reasoning_effort="low")) < prompt_tokens(off)


@pytest.mark.parametrize(
    "more, param",
    [
        (dict(tool_choice="required"), "tool_choice"),
        (dict(tools=[WEATHER, WEATHER]), "tools[1].function.name"),
        (dict(tools=[WEATHER], tool_choice={"type": "function", "function": {"name": "f"}}),
         "tool_choice.function.name"),
        (dict(tools=[WEATHER], tool_choice="sometimes"), "tool_choice"),
    ],
)
def test_what_makes_no_sense_is_refused(chat, more, param):
    with pytest.raises(openai.BadRequestError) as refused:
        chat(**more)
    assert refused.value.param == param
