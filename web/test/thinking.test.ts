import { expect, test } from "vitest";
import { splitThinking } from "../src/text/thinking.ts";

test("an answer without thinking is left as it is", () => {
  expect(splitThinking(" A story.")).toEqual({ thinking: "", answer: " A story.", complete: true });
  expect(splitThinking("")).toEqual({ thinking: "", answer: "", complete: true });
});

test("a tag in the middle is text", () => {
  expect(splitThinking("It says <think> here").answer).toBe("It says <think> here");
});

test("the tag is not shown while it arrives", () => {
  expect(splitThinking("<thi")).toEqual({ thinking: "", answer: "", complete: false });
  expect(splitThinking("<this").answer).toBe("<this");
});

test("thinking, then the answer", () => {
  expect(splitThinking("<think>\nHm")).toEqual({ thinking: "\nHm", answer: "", complete: false });
  expect(splitThinking("<think>\nHm\n</think>\n\nYes")).toEqual({ thinking: "\nHm\n", answer: "Yes", complete: true });
});
