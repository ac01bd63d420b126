// The page with a real server.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import {
  answers,
  ask,
  closeBrowser,
  ended,
  eventually,
  frontOf,
  message,
  neverEnding,
  overhang,
  page,
  policy,
  readMetric,
  sleep,
  startServer,
  state,
  untilTheLimit,
  withPage,
} from "./harness.mjs";

const story = "Tell me a story about a dragon.";

let server;
let front;

before(async () => {
  server = await startServer();
  front = await frontOf(server.url);
});

after(async () => {
  await closeBrowser();
  await front?.close();
  await server?.kill();
});

test("the page comes with its policy, and is the one that is built", async () => {
  const response = await fetch(`${front.url}/`);
  assert.equal(response.status, 200);
  assert.equal(response.headers.get("content-security-policy"), policy);
  assert.match(response.headers.get("content-type"), /^text\/html/);
  assert.deepEqual(Buffer.from(await response.arrayBuffer()), page);
});

test("the model is named, and a suggestion begins a chat", async () => {
  await withPage(front.url, { brief: true }, async (tab) => {
    await tab.getByRole("heading", { name: "Chat with tales-moe" }).waitFor();
    assert.equal(await tab.locator(".bar .model").textContent(), "tales-moe");
    await tab.getByRole("button", { name: story }).click();
    await answers(tab).first().waitFor();
    await ended(tab, 0);
    assert.equal(await state(tab), "done");
    assert.equal(await tab.locator("article.question").textContent(), story);
  });
});

test("an answer grows in several steps", async () => {
  await withPage(front.url, {}, async (tab) => {
    await tab.evaluate(() => {
      window.__seen = [];
      const look = () => {
        const text = document.querySelector("article.answer .prose")?.textContent ?? "";
        if (text !== (window.__seen.at(-1) ?? "")) window.__seen.push(text);
      };
      new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true });
    });
    await neverEnding(tab);
    await message(tab).fill(story);
    await message(tab).press("Enter");
    const seen = await eventually("there are five steps", async () => {
      const now = await tab.evaluate(() => window.__seen);
      return now.length >= 5 ? now : null;
    });
    assert.equal(await state(tab), "streaming");
    for (let i = 1; i < seen.length; ++i) assert.ok(seen[i].length > seen[i - 1].length);
    await tab.keyboard.press("Escape");
  });
});

test("an answer tells its tokens and times", async () => {
  await withPage(front.url, { brief: true }, async (tab) => {
    await untilTheLimit(tab);  // an answer of one token has no rate, nor has one that comes all at once
    await tab.getByRole("button", { name: "Settings" }).click();
    await tab.getByLabel("Max tokens").fill("1000");
    await ask(tab, story);
    assert.match(await answers(tab).last().locator(".facts").textContent(), /\d+ tokens · .* tokens\/s · first token after/);
  });
});

test("the conversation, the settings and the system prompt are sent", async () => {
  await withPage(front.url, {}, async (tab) => {
    const bodies = [];
    tab.on("request", (request) => {
      if (request.url().endsWith("/v1/chat/completions")) bodies.push(request.postDataJSON());
    });
    await tab.getByRole("button", { name: "Settings" }).click();
    await tab.getByLabel("System prompt").fill("You are a king.");
    await tab.getByLabel("Temperature").fill("0");
    await tab.getByLabel("Max tokens").fill("12");
    await tab.getByLabel("Seed").fill("7");
    await tab.getByLabel("Off", { exact: true }).check();
    await ask(tab, "Who are you?");
    await ask(tab, "And then?");
    assert.equal(await state(tab), "done");
    const first = await answers(tab).first().locator(".prose").textContent();
    const [one, two] = bodies;
    assert.equal(one.model, "tales-moe");
    assert.equal(one.stream, true);
    assert.deepEqual(one.stream_options, { include_usage: true });
    assert.deepEqual(one.chat_template_kwargs, { enable_thinking: false });
    assert.deepEqual([one.temperature, one.max_tokens, one.seed], [0, 12, 7]);
    assert.ok(!("top_p" in one));
    assert.deepEqual(one.messages.map(({ role }) => role), ["system", "user"]);
    assert.deepEqual(two.messages.map(({ role }) => role), ["system", "user", "assistant", "user"]);
    assert.equal(two.messages[2].content.replace(/\s+/g, ""), first.replace(/\s+/g, ""));
    assert.match(await answers(tab).last().locator(".facts").textContent(), /Cut at the token limit · 12 tokens/);
  });
});

test("all sampling settings are accepted by the server", async () => {
  await withPage(front.url, {}, async (tab) => {
    await tab.getByRole("button", { name: "Settings" }).click();
    const values = {
      Temperature: "0.8",
      "Top p": "0.9",
      "Top k": "20",
      "Min p": "0.01",
      "Max tokens": "8",
      Seed: "-3",
      "Presence penalty": "0.5",
      "Frequency penalty": "-0.5",
      "Repetition penalty": "1.1",
    };
    for (const [name, value] of Object.entries(values)) await tab.getByLabel(name).fill(value);
    await tab.getByLabel("On", { exact: true }).check();
    await ask(tab, story);
    assert.equal(await state(tab), "done");
  });
});

test("a setting that cannot be used is explained and not sent", async () => {
  await withPage(front.url, {}, async (tab) => {
    await tab.getByRole("button", { name: "Settings" }).click();
    await tab.getByLabel("Top p").fill("1.5");
    await tab.getByText("At most 1.").waitFor();
    await tab.getByRole("button", { name: "Close settings" }).click();
    await message(tab).fill(story);
    await message(tab).press("Enter");
    await eventually("the field has the focus", () =>
      tab.evaluate(() => document.activeElement?.id === "setting-top_p"),
    );
    assert.equal(await answers(tab).count(), 0);
    assert.equal(await message(tab).inputValue(), story);
    await tab.getByRole("button", { name: "Reset to defaults" }).click();
    assert.equal(await tab.getByLabel("Top p").inputValue(), "");
  });
});

test("the button stops an answer, and the server's slot is free again", async () => {
  await withPage(front.url, {}, async (tab) => {
    await neverEnding(tab);
    await message(tab).fill(story);
    await message(tab).press("Enter");
    await answers(tab).locator(".prose").waitFor();
    assert.equal(await readMetric(server.url, "chorale_num_requests_running"), 1);
    await tab.getByRole("button", { name: "Stop" }).click();
    await eventually("the answer has stopped", async () => (await state(tab)) === "stopped");
    const running = () => readMetric(server.url, "chorale_num_requests_running");
    await eventually("no request is running", async () => (await running()) === 0, 5000);
    assert.match(await answers(tab).locator(".facts").textContent(), /^Stopped/);
    const text = await answers(tab).locator(".prose").textContent();
    await sleep(300);
    assert.equal(await answers(tab).locator(".prose").textContent(), text);
  });
});

test("an answer is made again, copied, and a new chat is empty", async () => {
  const permissions = ["clipboard-read", "clipboard-write"];
  await withPage(front.url, { permissions, brief: true }, async (tab) => {
    await ask(tab, story);
    await tab.getByRole("button", { name: "Copy this answer" }).click();
    await tab.getByText("Copied").waitFor();
    const copied = await tab.evaluate(() => navigator.clipboard.readText());
    const shown = await answers(tab).locator(".prose").textContent();
    assert.equal(copied.replace(/\s+/g, ""), shown.replace(/\s+/g, ""));
    await tab.getByRole("button", { name: "Regenerate" }).click();
    await eventually("there is another answer", async () => (await answers(tab).locator(".prose").count()) === 1);
    await ended(tab, 0);
    assert.equal(await answers(tab).count(), 1);
    assert.equal(await tab.locator("article.question").count(), 1);
    assert.notEqual(await answers(tab).locator(".prose").textContent(), shown);
    await tab.getByRole("button", { name: "New chat" }).click();
    assert.equal(await answers(tab).count(), 0);
    await tab.getByRole("heading", { name: "Chat with" }).waitFor();
  });
});

test("a new chat ends the answer that was streaming", async () => {
  await withPage(front.url, {}, async (tab) => {
    await neverEnding(tab);
    await message(tab).fill(story);
    await message(tab).press("Enter");
    await answers(tab).locator(".prose").waitFor();
    await tab.getByRole("button", { name: "New chat" }).click();
    const running = () => readMetric(server.url, "chorale_num_requests_running");
    await eventually("no request is running", async () => (await running()) === 0, 5000);
    assert.equal(await answers(tab).count(), 0);
    await tab.getByRole("button", { name: "Send" }).waitFor();
  });
});

test("charts move while an answer is generated", async () => {
  await withPage(front.url, {}, async (tab) => {
    const charts = tab.locator("figure.chart");
    assert.equal(await charts.count(), 5);
    const read = () =>
      tab.evaluate(() =>
        [...document.querySelectorAll("figure.chart")].map((figure) => ({
          points: Number(figure.dataset.points),
          legend: [...figure.querySelectorAll(".legend b")].map((value) => value.textContent),
          picture: figure.querySelector("canvas").toDataURL(),
        })),
      );
    await eventually("there are readings", async () => (await read())[0].points >= 2);
    const quiet = await read();
    await neverEnding(tab);
    await message(tab).fill(story);
    await message(tab).press("Enter");
    const busy = await eventually("all charts show the work", async () => {
      const now = await read();
      const [rates, requests, cache, first, between] = now.map(({ legend }) => legend);
      const works = Number(rates[1].replace(",", "")) > 0 && requests[0] === "1" && !cache[0].startsWith("0 tokens");
      // The first token comes once, in one interval; it is in the picture from then on.
      return works && between[0].endsWith("s") && first.length === 1 ? now : null;
    });
    for (let i = 0; i < 5; ++i) assert.ok(busy[i].points > quiet[i].points);
    await eventually("all pictures have changed", async () => {
      const now = await read();
      return now.every(({ picture }, i) => picture !== quiet[i].picture);
    });
    await tab.keyboard.press("Escape");
    await eventually("the rate is zero again", async () => (await read())[0].legend[1] === "0");
  });
});

test("the server's error is shown", async () => {
  const expected = (text) => /status of 400.*\/v1\/chat\/completions$/.test(text);
  await withPage(front.url, { expected }, async (tab) => {
    await tab.getByRole("button", { name: "Settings" }).click();
    await tab.getByLabel("Max tokens").fill("100000");
    const answer = await ask(tab, story);
    assert.equal(await state(tab), "failed");
    assert.match(await answer.getByRole("alert").textContent(), /context length is 2048 tokens/);
    await tab.getByLabel("Max tokens").fill("5");
    await tab.getByRole("button", { name: "Try again" }).click();
    await eventually("the answer is there", async () => (await state(tab)) === "done");
    assert.equal(await answers(tab).count(), 1);
  });
});

test("the loss of the server is shown, in the answer too, and the page recovers", async () => {
  // The one that comes back answers 503 until its model is loaded, which takes its time on a busy machine.
  const expected = (text) =>
    /Failed to load resource: net::ERR_|ERR_INCOMPLETE_CHUNKED/.test(text) || /status of 503 .*\/(metrics|health)/.test(text);
  let doomed = await startServer();
  const { port } = doomed;
  const entrance = await frontOf(doomed.url);
  try {
    await withPage(entrance.url, { expected, brief: true }, async (tab) => {
      await tab.getByRole("img", { name: "Connected", exact: true }).waitFor();
      await neverEnding(tab);
      await message(tab).fill(story);
      await message(tab).press("Enter");
      await answers(tab).locator(".prose").waitFor();
      await doomed.kill();
      await eventually("the answer has failed", async () => (await state(tab)) === "failed");
      const said = answers(tab).getByRole("alert");
      assert.equal(await said.textContent(), "The connection broke before the answer was complete.");
      await tab.locator(".banner", { hasText: "The server cannot be reached." }).waitFor();
      assert.notEqual(await answers(tab).locator(".prose").textContent(), "");
      const other = await ask(tab, "Are you there?");
      assert.equal(await other.getByRole("alert").textContent(), "The server cannot be reached.");

      doomed = await startServer({ port });
      await eventually("the banner is gone", async () => (await tab.locator(".banner").count()) === 0);
      await tab.unroute("**/v1/chat/completions");
      await tab.getByRole("button", { name: "Try again" }).click();
      await eventually("the answer is there", async () => (await state(tab)) === "done");
    });
  } finally {
    await entrance.close();
    await doomed.kill();
  }
});

test("a narrow screen needs no sideways scrolling", async () => {
  await withPage(front.url, { brief: true, viewport: { width: 360, height: 640 } }, async (tab) => {
    await tab.getByRole("heading", { name: "Chat with tales-moe" }).waitFor();
    assert.deepEqual(await overhang(tab), []);
    await ask(tab, "a".repeat(300));
    assert.deepEqual(await overhang(tab), []);
    for (const name of ["Activity", "Settings"]) {
      await tab.getByRole("button", { name }).click();
      await tab.getByRole("complementary", { name }).waitFor();
      await sleep(100);
      assert.deepEqual(await overhang(tab), []);
      await tab.keyboard.press("Escape");
      assert.equal(await tab.getByRole("complementary").count(), 0);
    }
    await message(tab).fill("a line\n".repeat(30));
    assert.deepEqual(await overhang(tab), []);
    const box = await tab.getByRole("button", { name: "Send" }).boundingBox();
    assert.ok(box.y + box.height <= 640);
  });
});

test("everything can be done with the keyboard, and the focus is seen", async () => {
  await withPage(front.url, {}, async (tab) => {
    const focused = () =>
      tab.evaluate(() => {
        const element = document.activeElement;
        const style = getComputedStyle(element);
        const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1;
        // The message's box draws the focus of the text within.
        const around = element.closest(".composer-box");
        const beside = element.nextElementSibling; // of a choice that is drawn by its label
        const boxed = around !== null && getComputedStyle(around).boxShadow !== "none";
        const drawn = beside !== null && getComputedStyle(beside).outlineStyle !== "none";
        const name = element.getAttribute("aria-label") ?? element.labels?.[0]?.textContent ?? element.textContent;
        return { name: name.trim(), seen: outlined || boxed || drawn };
      });
    assert.equal((await focused()).name, "Message");

    await neverEnding(tab);
    await tab.keyboard.type("One");
    await tab.keyboard.press("Shift+Enter");
    await tab.keyboard.type("two");
    assert.equal(await message(tab).inputValue(), "One\ntwo");
    await tab.keyboard.press("Enter");
    await answers(tab).locator(".prose").waitFor();
    assert.equal(await message(tab).inputValue(), "");
    await tab.keyboard.press("Escape");
    await eventually("the answer has stopped", async () => (await state(tab)) === "stopped");
    assert.equal((await focused()).name, "Message");

    // Round the whole page with Tab: every stop is seen and has a name.
    const names = new Set();
    for (let i = 0; i < 60; ++i) {
      await tab.keyboard.press("Tab");
      if (await tab.evaluate(() => document.activeElement === document.body)) continue;
      const { name, seen } = await focused();
      assert.ok(seen, `the focus of "${name}" is seen`);
      assert.notEqual(name, "");
      names.add(name);
    }
    for (const name of ["New chat", "Activity", "Settings", "Dark theme", "Conversation", "Regenerate"]) {
      assert.ok(names.has(name), `${name} is reached: ${[...names].join(", ")}`);
    }

    await tab.getByRole("button", { name: "Settings" }).focus();
    await tab.keyboard.press("Enter");
    await tab.getByRole("complementary", { name: "Settings" }).waitFor();
    await tab.getByLabel("Default", { exact: true }).focus();
    await tab.keyboard.press("ArrowRight");
    assert.ok(await tab.getByLabel("On", { exact: true }).isChecked());
    assert.ok((await focused()).seen);
  });
});

test("the theme is the system's until it is switched, and is kept", async () => {
  await withPage(front.url, { colorScheme: "dark" }, async (tab) => {
    const ground = () => tab.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const dark = await ground();
    await tab.getByRole("button", { name: "Light theme" }).click();
    const light = await ground();
    assert.notEqual(light, dark);
    await tab.reload();
    await tab.getByRole("button", { name: "Dark theme" }).waitFor();
    assert.equal(await ground(), light);
    await tab.getByRole("button", { name: "Dark theme" }).click();
    await tab.emulateMedia({ colorScheme: "light" });
    await eventually("the system is followed again", async () => (await ground()) === light);
  });
});
