// Pictures of the page, to look at: node tests/web/screenshots.mjs FOLDER
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { aServersInfo as info, ask, closeBrowser, delta, frontOf, message, neverEnding, sleep, startServer, startStub, withPage } from "./harness.mjs";

const folder = process.argv[2];
if (folder === undefined) throw new Error("usage: screenshots.mjs FOLDER");
mkdirSync(folder, { recursive: true });

// The browser's own ways of quieting a page for a picture would need inline styles, which the policy forbids.
const shoot = (tab, name) => tab.screenshot({ path: join(folder, `${name}.png`), caret: "initial", animations: "allow" });

const rich = `Here is a **short** answer with \`code\` in it.

## Steps

1. Read the text.
2. Compare *both ends*:
   - the first letter
   - the last letter
3. Go on inwards.

\`\`\`python
def is_palindrome(text: str) -> bool:
    letters = [c.lower() for c in text if c.isalnum()]
    return letters == letters[::-1]  # a comment that is long enough to need scrolling on a telephone
\`\`\`

That is all.`;

const answer = async (send, body) => {
  if (body.messages.at(-1).content === "fail") return send({ error: { message: "the model has failed; the server must be restarted" } });
  send(delta({ reasoning_content: "The reader wants a function.\n\nA palindrome reads the same from both ends." }));
  await sleep(800);
  send(delta({ content: rich }));
  await sleep(500);
  send(delta({ tool_calls: [{ index: 0, function: { name: "run_python", arguments: '{"code": "is_palindrome(\\"Anna\\")", "timeout": 5}' } }] }));
  send(delta({}, "tool_calls"));
  send({ choices: [], usage: { prompt_tokens: 30, completion_tokens: 180 } });
  send("[DONE]");
};

const narrow = { viewport: { width: 360, height: 740 }, deviceScaleFactor: 2 };
const dark = { colorScheme: "dark" };
const server = await startServer();
const front = await frontOf(server.url);
const stub = await startStub({ info, answer });
const any = { expected: () => true, brief: true };

for (const [suffix, options] of [["light", {}], ["dark", dark]]) {
  await withPage(front.url, { ...any, ...options }, async (tab) => {
    await sleep(2500);
    await shoot(tab, `empty-${suffix}`);
    await ask(tab, "Tell me a story about a dragon.");
    await sleep(1500);
    await ask(tab, "And what did the fox say?");
    await neverEnding(tab);
    await sleep(2000);
    await message(tab).fill("Tell me a very long story.");
    await message(tab).press("Enter");
    await sleep(4500);
    await shoot(tab, `chat-${suffix}`);
  });
  await withPage(stub.url, { ...any, ...options, viewport: { width: 1280, height: 1000 } }, async (tab) => {
    await ask(tab, "Write a Python function that finds palindromes.");
    await tab.locator("summary").click();
    await ask(tab, "fail");
    await tab.getByRole("button", { name: "Settings" }).click();
    await tab.getByLabel("Top p").fill("2");
    await tab.getByLabel("Seed").fill("7");
    await sleep(200);
    await shoot(tab, `rich-${suffix}`);
  });
  await withPage(front.url, { ...any, ...options, ...narrow }, async (tab) => {
    await sleep(1500);
    await shoot(tab, `narrow-empty-${suffix}`);
    await ask(tab, "Tell me a story about a dragon.");
    await shoot(tab, `narrow-chat-${suffix}`);
    await tab.getByRole("button", { name: "Activity" }).click();
    await sleep(1500);
    await shoot(tab, `narrow-activity-${suffix}`);
    await tab.getByRole("button", { name: "Settings" }).click();
    await shoot(tab, `narrow-settings-${suffix}`);
  });
}
await withPage(stub.url, { ...any, ...narrow }, async (tab) => {
  await ask(tab, "Write a Python function that finds palindromes.");
  await tab.locator("summary").click();
  await shoot(tab, "narrow-rich");
  await stub.close();
  await tab.locator(".banner").waitFor();
  await shoot(tab, "narrow-lost");
});
await closeBrowser();
await front.close();
await server.kill();
