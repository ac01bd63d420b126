// What the tests of the page share: a real server, a stub of one, a browser that notices every error.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import http from "node:http";
import { chromium } from "playwright-core";

const root = new URL("../../", import.meta.url);
const binary = process.env.CHORALE_BINARY ?? new URL("build/chorale", root).pathname;
const model = new URL("models/tales-moe", root).pathname;
const dist = new URL("web/dist/", root);

export const page = readFileSync(new URL("index.html", dist));
export const policy = readFileSync(new URL("csp.txt", dist), "utf8").trim();

const kPatience = 90_000; // milliseconds, on a machine that is busy with other things

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Waits until the function's value is true, and says what it was waiting for when that does not happen.
export async function eventually(what, holds, patience = kPatience) {
  const end = Date.now() + patience;
  for (;;) {
    const value = await holds();
    if (value) return value;
    if (Date.now() > end) assert.fail(`after ${patience} ms still not: ${what}`);
    await sleep(30);
  }
}

// A real server, on one thread: the browser needs the others, and threads that wait for each other are slow on a busy
// machine. Its end is waited for, so that its port is free again.
export async function startServer({ port = 0 } = {}) {
  const args = ["serve", "--model-path", model, "--port", String(port), "--threads", "1", "--max-total-tokens", "16384"];
  const child = spawn(binary, args, { stdio: ["ignore", "ignore", "pipe"] });
  let log = "";
  child.stderr.on("data", (data) => (log += data));
  let failed = null;
  child.on("error", (error) => (failed = error));
  const ended = new Promise((resolve) => child.on("close", resolve));
  const url = await eventually("the server is ready", () => {
    if (failed !== null || child.exitCode !== null) throw new Error(`the server did not start: ${failed ?? log}`);
    return /Chorale is ready: (http:\S+)/.exec(log)?.[1];
  });
  return {
    url,
    port: Number(new URL(url).port),
    kill: async () => {
      child.kill("SIGKILL");
      await ended;
    },
  };
}

function listen(server) {
  return new Promise((resolve) => {
    server.listen(0, "127.0.0.1", () => resolve(`http://127.0.0.1:${server.address().port}`));
  });
}

function close(server) {
  server.closeAllConnections();
  return new Promise((resolve) => server.close(resolve));
}

function sendPage(response) {
  response.writeHead(200, { "Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": policy });
  response.end(page);
}

// Where the browser finds the page of this server: at the server, or, where it does not serve the page yet, at a proxy.
export async function frontOf(url) {
  const status = (await fetch(url)).status;
  if (status !== 404) return { url, close: async () => {} };
  const target = new URL(url);
  const proxy = http.createServer((request, response) => {
    if (request.url === "/") return sendPage(response);
    const { method, url: path, headers } = request;
    const onward = http.request({ host: target.hostname, port: target.port, method, path, headers });
    onward.on("response", (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
      answer.on("error", () => response.destroy());
    });
    onward.on("error", () => response.destroy());
    response.on("close", () => onward.destroy());
    request.pipe(onward);
  });
  return { url: await listen(proxy), close: () => close(proxy) };
}

const metrics = `chorale_num_requests_running{model_name="stub"} 1
chorale_num_requests_waiting{model_name="stub"} 0
chorale_kv_cache_tokens_used{model_name="stub"} 64
chorale_kv_cache_capacity_tokens{model_name="stub"} 1024
`;

// A server that says what a test wants. Its handlers are by path; what they return is sent as JSON.
//   answer: async (send, request, response) => ..., where send(frame) sends one frame of the stream
//   switchStrategy: (body, key) => [status, value], of /switch_strategy
export async function startStub({ info = { served_model_name: "stub" }, apiKey = "", answer, switchStrategy }) {
  const requests = [];
  const json = (response, status, value) => {
    response.writeHead(status, { "Content-Type": "application/json" });
    response.end(JSON.stringify(value));
  };
  const server = http.createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    if (request.url === "/") return sendPage(response);
    if (apiKey !== "" && request.headers.authorization !== `Bearer ${apiKey}`) {
      return json(response, 401, { error: { message: "a valid API key is needed" } });
    }
    if (request.url === "/metrics") return response.end(metrics);
    if (request.url === "/get_server_info") return json(response, 200, info);
    if (request.url === "/v1/models") return json(response, 200, { data: [{ id: "stub", max_model_len: 99 }] });
    if (request.url === "/switch_strategy" && switchStrategy !== undefined) {
      return json(response, ...switchStrategy(JSON.parse(Buffer.concat(chunks)), request.headers.authorization));
    }
    if (request.url !== "/v1/chat/completions") return json(response, 404, { error: { message: "not there" } });
    const body = JSON.parse(Buffer.concat(chunks));
    requests.push({ body, headers: request.headers });
    const send = (frame) => {
      if (!response.headersSent) response.writeHead(200, { "Content-Type": "text/event-stream" });
      response.write(`data: ${typeof frame === "string" ? frame : JSON.stringify(frame)}\n\n`);
    };
    await answer(send, body, response);
    if (!response.writableEnded && !response.destroyed) response.end();
  });
  return { url: await listen(server), requests, close: () => close(server) };
}

export const delta = (value, finish = null) => ({ choices: [{ index: 0, delta: value, finish_reason: finish }] });

let browser = null;

export async function closeBrowser() {
  await browser?.close();
}

const chrome = process.env.CHROMIUM ?? "/usr/bin/chromium";

const kBrief = 96; // tokens: enough to stream for a while, also on a fast machine

// Opens the page and runs the body with it. Fails on any error in the console, any violation of the policy and any load
// from elsewhere; `expected` tells which messages the test itself provokes. A page that is `brief` has a limit of tokens
// among its settings, as a reader would have set it: the bundled model sometimes tells stories without end.
export async function withPage(url, options, body) {
  const { expected = () => false, brief = false, ...context } = options;
  browser ??= await chromium.launch({ executablePath: chrome, args: ["--no-sandbox"] });
  const opened = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...context });
  opened.setDefaultTimeout(kPatience);
  const problems = [];
  try {
    await opened.addInitScript(() => {
      window.__violations = [];
      document.addEventListener("securitypolicyviolation", (event) => {
        window.__violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`);
      });
    });
    if (brief) {
      await opened.addInitScript((limit) => {
        localStorage.setItem("chorale.settings", JSON.stringify({ numbers: { max_tokens: String(limit) } }));
      }, kBrief);
    }
    const tab = await opened.newPage();
    tab.on("pageerror", (error) => problems.push(`error: ${error.message}`));
    tab.on("dialog", (dialog) => {
      problems.push(`dialog: ${dialog.message()}`);
      void dialog.dismiss();
    });
    tab.on("console", (message) => {
      if (message.type() !== "error" && message.type() !== "warning") return;
      const text = `${message.text()} ${message.location().url}`;
      // An older server does not have it; the browser reports each 404.
      if (/404.*\/get_server_info$/.test(text) || expected(text)) return;
      problems.push(`console: ${text}`);
    });
    tab.on("request", (request) => {
      const target = request.url();
      if (!target.startsWith(`${url}/`) && !target.startsWith("data:")) problems.push(`loads ${target}`);
    });
    await tab.goto(`${url}/`);
    await body(tab, opened);
    problems.push(...(await tab.evaluate(() => window.__violations)).map((text) => `policy: ${text}`));
  } finally {
    await opened.close();
  }
  assert.deepEqual(problems, []);
}

export const message = (tab) => tab.getByRole("textbox", { name: "Message" });
export const answers = (tab) => tab.locator("article.answer");

// Sends a message and waits for the end of its answer, whatever that is.
export async function ask(tab, text) {
  const count = await answers(tab).count();
  await message(tab).fill(text);
  await message(tab).press("Enter");
  await answers(tab).nth(count).waitFor();
  await ended(tab, count);
  return answers(tab).nth(count);
}

export async function ended(tab, index) {
  await eventually("the answer has ended", async () => {
    return (await answers(tab).nth(index).getAttribute("data-state")) !== "streaming";
  });
}

export const state = (tab) => answers(tab).last().getAttribute("data-state");

// Makes answers as long as their limit of tokens lets them be: the page has no such switch, and the model likes
// to be brief, now and then down to one token.
export async function untilTheLimit(tab) {
  await tab.route("**/v1/chat/completions", async (route) => {
    const body = { ...route.request().postDataJSON(), ignore_eos: true };
    await route.continue({ postData: JSON.stringify(body) });
  });
}

// The same without a limit.
export async function neverEnding(tab) {
  await tab.route("**/v1/chat/completions", async (route) => {
    const { max_tokens: _, ...asked } = route.request().postDataJSON();
    const body = { ...asked, ignore_eos: true };
    await route.continue({ postData: JSON.stringify(body) });
  });
}

export async function readMetric(url, name) {
  const text = await (await fetch(`${url}/metrics`)).text();
  return Number(new RegExp(`^${name}(?:\\{.*\\})? (\\S+)$`, "m").exec(text)?.[1]);
}

// What sticks out of the window sideways. Code scrolls in a box of its own.
export function overhang(tab) {
  return tab.evaluate(() => {
    const width = document.documentElement.clientWidth;
    const out = [];
    for (const element of document.querySelectorAll("body *")) {
      const box = element.getBoundingClientRect();
      const hidden = element.closest("pre, .offscreen, svg, .plot") !== null;
      if (!hidden && box.width > 0 && (box.right > width + 0.5 || box.left < -0.5)) out.push(element.outerHTML.slice(0, 80));
    }
    if (document.scrollingElement.scrollWidth > width) out.push(`the page: ${document.scrollingElement.scrollWidth}`);
    return out;
  });
}

// What a stub may answer to /get_server_info.
export const aServersInfo = {
  served_model_name: "Qwen3-30B-A3B",
  dtype: "bfloat16",
  instruction_set: "avx512_bf16",
  strategy: "tp=4,dp=2,ep=8,moe_tp=1,moe_dp=1",
  num_experts: 128,
  max_context_len: 40960,
  max_total_num_tokens: 262144,
  version: "0.1.0",
};
