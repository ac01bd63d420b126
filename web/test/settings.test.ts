import { expect, test } from "vitest";
import { fieldError, numberFields, requestFields } from "../src/state/settings.ts";
import type { NumberField, Settings } from "../src/state/settings.ts";

function field(name: string): NumberField {
  const found = numberFields.find((one) => one.name === name);
  if (found === undefined) throw new Error(name);
  return found;
}

const none: Settings = { systemPrompt: "", thinking: "default", numbers: {}, apiKey: "" };

test("what is empty is not sent", () => {
  expect(requestFields({ ...none, numbers: { temperature: " ", seed: "" } })).toEqual({});
});

test("what is set is sent as a number, and thinking as a variable of the template", () => {
  const numbers = { temperature: "0", top_k: "-1", seed: " 7 ", min_p: "5e-2" };
  expect(requestFields({ ...none, numbers, thinking: "off" })).toEqual({
    temperature: 0,
    top_k: -1,
    seed: 7,
    min_p: 0.05,
    chat_template_kwargs: { enable_thinking: false },
  });
});

test("values out of range and text are refused in words", () => {
  expect(fieldError(field("top_p"), "1.5")).toBe("At most 1.");
  expect(fieldError(field("presence_penalty"), "-3")).toBe("At least -2.");
  expect(fieldError(field("max_tokens"), "1.5")).toMatch(/whole/);
  expect(fieldError(field("seed"), "1e400")).toMatch(/whole/);
  expect(fieldError(field("temperature"), "warm")).toMatch(/number/);
  expect(fieldError(field("temperature"), "0.7")).toBeNull();
  expect(fieldError(field("temperature"), "")).toBeNull();
});
