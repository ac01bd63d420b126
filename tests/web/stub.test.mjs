// The page with a stub of a server, which says what a real one hardly ever does.
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { aServersInfo, answers, ask, closeBrowser, delta, eventually, message, sleep, startStub, state, withPage } from "./harness.mjs";

after(closeBrowser);

async function withStub(options, pageOptions, body) {
  const stub = await startStub(options);
  try {
    await withPage(stub.url, pageOptions, (tab) => body(tab, stub));
  } finally {
    await stub.close();
  }
}

const hostile = [
  `<img src="x" onerror="window.__owned = 1">`,
  `<script>window.__owned = 1</script>`,
  `<iframe srcdoc="<script>parent.__owned = 1</script>"></iframe>`,
  `<svg onload="window.__owned = 1"></svg>`,
  `[a link](javascript:window.__owned=1) ![a picture](http://127.0.0.1:9/x.png)`,
  `</div></p><style>* { display: none }</style>`,
  `<a href="javascript:window.__owned=1">here</a> &lt;b&gt;`,
];

async function assertHarmless(tab) {
  const found = await tab.evaluate(() => ({
    owned: window.__owned ?? null,
    elements: document.querySelectorAll("#app :is(img, script, iframe, style, a, object, embed, link, [onload], [onerror])")
      .length,
    svgs: [...document.querySelectorAll("#app svg")].filter((svg) => !svg.matches(".icon, .mark")).length,
  }));
  assert.deepEqual(found, { owned: null, elements: 0, svgs: 0 });
}

test("a model's output cannot become markup", async () => {
  const forms = [
    ...hostile,
    ...hostile.map((text) => `**${text}**`),
    ...hostile.map((text) => `- ${text}`),
    ...hostile.map((text) => `# ${text}`),
    ...hostile.map((text) => `\`${text}\``),
    ...hostile.map((text) => `\`\`\`html\n${text}\n\`\`\``),
    "```<img/src=x/onerror=window.__owned=1>\ncode\n```",
  ];
  const answer = async (send) => {
    for (const text of forms) send(delta({ reasoning_content: `${text}\n` }));
    // In pieces, so that each state in between is shown as well.
    for (const text of forms) {
      const whole = `${text}\n\n`;
      for (let i = 0; i < whole.length; i += 7) send(delta({ content: whole.slice(i, i + 7) }));
      await sleep(40);
    }
    for (const [index, text] of hostile.entries()) {
      send(delta({ tool_calls: [{ index, function: { name: text, arguments: text } }] }));
    }
    send(delta({}, "stop"));
    send("[DONE]");
  };
  await withStub({ answer }, {}, async (tab) => {
    const shown = await ask(tab, hostile.join("\n"));
    assert.equal(await state(tab), "done");
    await shown.locator("summary").click();
    await assertHarmless(tab);
    const prose = await shown.locator(".prose").textContent();
    const thinking = await shown.locator(".thinking-text").textContent();
    for (const text of hostile) {
      assert.ok(prose.includes(text), text);
      assert.ok(thinking.includes(text), text);
    }
    assert.equal(await tab.locator("article.question").textContent(), hostile.join("\n"));
    assert.equal(await shown.locator(".tool-call").count(), hostile.length);
    assert.equal(await shown.locator(".tool-head code").first().textContent(), hostile[0]);
  });
});

test("errors and what the server says of itself cannot become markup", async () => {
  const text = hostile.join(" ");
  const info = Object.fromEntries(
    ["served_model_name", "model_path", "dtype", "instruction_set", "device_name", "strategy", "version"].map((name) => [name, text]),
  );
  const answer = async (send, body, response) => {
    const last = body.messages.at(-1).content;
    if (last === "status") {
      response.writeHead(500, { "Content-Type": "application/json" });
      response.end(JSON.stringify({ error: { message: text } }));
    } else {
      send({ error: { message: text } });
    }
  };
  const expected = (line) => /status of 500/.test(line);
  await withStub({ answer, info }, { expected }, async (tab) => {
    for (const kind of ["status", "frame"]) {
      const shown = await ask(tab, kind);
      assert.equal(await shown.getByRole("alert").textContent(), text);
    }
    assert.equal(await tab.locator(".bar .model").textContent(), text);
    await assertHarmless(tab);
  });
});

test("thinking streams folded, and tool calls are shown", async () => {
  let goOn;
  const paused = new Promise((resolve) => (goOn = resolve));
  const answer = async (send) => {
    send(delta({ role: "assistant", content: "" }));
    send(delta({ reasoning_content: "First I think" }));
    await paused;
    send(delta({ reasoning_content: " about it." }));
    send(delta({ content: "The answer." }));
    send(delta({ tool_calls: [{ index: 0, id: "a", type: "function", function: { name: "weather", arguments: "" } }] }));
    for (const piece of ['{"ci', 'ty":"Bo', 'nn"}']) {
      send(delta({ tool_calls: [{ index: 0, function: { arguments: piece } }] }));
      await sleep(50);
    }
    send(delta({}, "tool_calls"));
    send({ choices: [], usage: { prompt_tokens: 3, completion_tokens: 9 } });
    send("[DONE]");
  };
  await withStub({ answer }, {}, async (tab) => {
    await message(tab).fill("Hello");
    await message(tab).press("Enter");
    const thinking = tab.locator("details.thinking");
    await thinking.getByText("Thinking…").waitFor();
    assert.equal(await thinking.locator(".thinking-text").isVisible(), false);
    await thinking.locator("summary").click();
    assert.equal(await thinking.locator(".thinking-text").textContent(), "First I think");
    goOn();
    await eventually("the answer has ended", async () => (await state(tab)) === "done");
    await thinking.getByText(/^Thought for/).waitFor();
    assert.equal(await thinking.locator(".thinking-text").textContent(), "First I think about it.");
    assert.ok(await thinking.locator(".thinking-text").isVisible()); // as it was left
    assert.equal(await answers(tab).locator(".prose").textContent(), "The answer.");
    assert.equal(await tab.locator(".tool-head code").textContent(), "weather");
    assert.equal(await tab.locator(".tool-call pre").textContent(), '{\n  "city": "Bonn"\n}');
    assert.match(await tab.locator(".facts").textContent(), /9 tokens/);
  });
});

test("thinking that the server leaves in the content is folded too", async () => {
  const answer = async (send) => {
    for (const piece of ["<th", "ink>", "\nHm", "m\n</thi", "nk>\n\nYes", "."]) {
      send(delta({ content: piece }));
      await sleep(40);
    }
    send(delta({}, "stop"));
    send("[DONE]");
  };
  await withStub({ answer }, {}, async (tab, stub) => {
    const shown = await ask(tab, "Really?");
    assert.equal(await shown.locator(".prose").textContent(), "Yes.");
    assert.equal(await shown.locator(".thinking-text").textContent(), "Hmm");
    await ask(tab, "Sure?");
    const sent = stub.requests[1].body.messages.map(({ content }) => content);
    assert.deepEqual(sent, ["Really?", "Yes.", "Sure?"]);
  });
});

test("markdown is shown as elements", async () => {
  const text = "# Title\n\nA **bold** word and `code`.\n\n- one\n- two\n\n```py\nprint(1)\n```\n";
  const answer = async (send) => {
    for (const c of text) send(delta({ content: c }));
    send(delta({}, "stop"));
    send("[DONE]");
  };
  await withStub({ answer }, {}, async (tab) => {
    const prose = (await ask(tab, "Show me")).locator(".prose");
    assert.equal(await prose.locator("h3").textContent(), "Title");
    assert.equal(await prose.locator("p strong").textContent(), "bold");
    assert.equal(await prose.locator("p code").textContent(), "code");
    assert.equal(await prose.locator("ul > li").count(), 2);
    assert.equal(await prose.locator("pre").textContent(), "print(1)");
    assert.equal(await prose.locator(".code-head > span").textContent(), "py");
  });
});

test("streams that break, end early or carry an error say so and keep their text", async () => {
  const answer = async (send, body, response) => {
    send(delta({ content: "Begun" }));
    await sleep(100);
    switch (body.messages.at(-1).content) {
      case "break":
        return response.destroy();
      case "error":
        return send({ error: { message: "rank 3 failed", code: 500 } });
      case "nonsense":
        return send("{");
      default: // just the end
    }
  };
  const expected = (text) => /ERR_/.test(text);
  await withStub({ answer }, { expected }, async (tab) => {
    const outcomes = {
      break: "The connection broke before the answer was complete.",
      end: "The connection ended before the answer was complete.",
      error: "rank 3 failed",
      nonsense: "The server sent something that is not JSON.",
    };
    for (const [kind, said] of Object.entries(outcomes)) {
      const shown = await ask(tab, kind);
      assert.equal(await state(tab), "failed");
      assert.equal(await shown.locator(".prose").textContent(), "Begun");
      assert.equal(await shown.getByRole("alert").textContent(), said);
    }
  });
});

test("an answer that is not the API's is told by its status", async () => {
  const answer = async (_send, _body, response) => {
    response.writeHead(502, { "Content-Type": "text/html" });
    response.end("<h1>Bad gateway</h1>");
  };
  await withStub({ answer }, { expected: (text) => /status of 502/.test(text) }, async (tab) => {
    const shown = await ask(tab, "Hello");
    assert.equal(await shown.getByRole("alert").textContent(), "The server answered 502 Bad Gateway.");
  });
});

test("a server that wants a key gets it, and it is not kept beyond the tab", async () => {
  const answer = async (send) => {
    send(delta({ content: "Welcome." }, "stop"));
    send("[DONE]");
  };
  const expected = (text) => /status of 401/.test(text);
  await withStub({ answer, apiKey: "s3cret" }, { expected }, async (tab, stub) => {
    await tab.locator(".banner", { hasText: "a valid API key is needed" }).waitFor();
    await tab.getByRole("button", { name: "Enter an API key" }).click();
    await eventually("the field has the focus", () => tab.evaluate(() => document.activeElement?.id === "setting-key"));
    await tab.keyboard.type("s3cret");
    await eventually("the banner is gone", async () => (await tab.locator(".banner").count()) === 0);
    const shown = await ask(tab, "Hello");
    assert.equal(await shown.locator(".prose").textContent(), "Welcome.");
    assert.equal(stub.requests[0].headers.authorization, "Bearer s3cret");
    assert.equal(await tab.evaluate(() => JSON.stringify({ ...localStorage }).includes("s3cret")), false);
  });
});

test("what the server tells about itself is shown, and what it does not tell is left out", async () => {
  const answer = async () => {};
  const info = aServersInfo;
  await withStub({ answer, info }, {}, async (tab) => {
    const facts = tab.locator(".server-facts");
    await facts.waitFor();
    assert.equal(await tab.locator(".bar .strategy").textContent(), info.strategy);
    const text = await facts.textContent();
    for (const part of ["Qwen3-30B-A3B", "tp=4, dp=2, ep=8", "128", "bfloat16", "40,960 tokens", "262,144 tokens", "0.1.0"]) {
      assert.ok(text.includes(part), part);
    }
    assert.ok(!text.includes("Path"));
  });
  await withStub({ answer, info: {} }, {}, async (tab) => {
    await tab.locator(".server-facts").waitFor();
    assert.equal(await tab.locator(".server-facts").textContent(), "ModelstubContext99 tokens");
    assert.equal(await tab.locator(".bar .strategy").count(), 0);
  });
});

test("the reader who scrolls up is left there, and can return to the end", async () => {
  let goOn;
  const paused = new Promise((resolve) => (goOn = resolve));
  const answer = async (send) => {
    send(delta({ content: "line\n\n".repeat(80) }));
    await paused;
    send(delta({ content: "line\n\n".repeat(80) }, "stop"));
    send("[DONE]");
  };
  await withStub({ answer }, {}, async (tab) => {
    await message(tab).fill("Write much");
    await message(tab).press("Enter");
    const place = () =>
      tab.evaluate(() => {
        const area = document.querySelector(".scroller");
        return { top: area.scrollTop, left: area.scrollHeight - area.scrollTop - area.clientHeight };
      });
    await eventually("the end is followed", async () => {
      const { top, left } = await place();
      return top > 500 && left < 2;
    });
    await tab.evaluate(() => (document.querySelector(".scroller").scrollTop = 100));
    await tab.getByRole("button", { name: "To the latest message" }).waitFor();
    goOn();
    await eventually("the answer has ended", async () => (await state(tab)) === "done");
    assert.equal((await place()).top, 100);
    await tab.getByRole("button", { name: "To the latest message" }).click();
    await eventually("the end is shown", async () => (await place()).left < 2);
  });
});

test("an administrator changes the strategy, and an error is shown", async () => {
  const asked = [];
  const switchStrategy = (body, key) => {
    asked.push([body, key]);
    if (key !== "Bearer secret") return [403, { error: { message: "this takes an administrator's key" } }];
    return [200, { status: "ok", strategy: "tp=2,dp=1,ep=1,moe_tp=2,moe_dp=1", pause_seconds: 0.004 }];
  };
  const expected = (line) => /status of 403/.test(line);
  await withStub({ info: aServersInfo, switchStrategy }, { expected }, async (tab) => {
    const form = tab.locator(".strategy-form");
    await form.getByText("Change the strategy").click();
    assert.equal(await form.getByRole("button").isDisabled(), true);
    await form.getByLabel("Strategy", { exact: true }).fill(" tp=2 ");
    await form.getByRole("button").click();
    await form.getByRole("alert").waitFor();
    assert.equal(await form.getByRole("alert").textContent(), "this takes an administrator's key");
    await form.getByLabel("Administrator's key").fill("secret");
    await form.getByRole("button").click();
    await form.getByRole("status").waitFor();
    assert.match(await form.getByRole("status").textContent(), /^The strategy is tp=2,dp=1,ep=1,moe_tp=2,moe_dp=1, after a pause of 4/);
    assert.equal(await form.getByRole("alert").count(), 0);
    assert.deepEqual(asked, [
      [{ strategy: "tp=2" }, undefined],
      [{ strategy: "tp=2" }, "Bearer secret"],
    ]);
  });
});
