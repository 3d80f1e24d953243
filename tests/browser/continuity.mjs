// Keeps an EventSource open in Chromium while a test takes its backend away and gives it back.
//
//     node continuity.mjs PAGE STREAM
//
// PAGE is opened, and its EventSource asks for STREAM. Prints `event DATA` for each event, with the EventSource's
// state at that time, and `state NAME` whenever that changes. Runs until it is killed.

import { chromium } from "playwright-core";

const [page_url, stream_url] = process.argv.slice(2);
if (!stream_url) {
  console.error("usage: node continuity.mjs PAGE STREAM");
  process.exit(64);
}

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  // As in demo.mjs.
  args: [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-proxy-server",
  ],
});
// A test that is done kills this process alone.
process.on("SIGTERM", () => browser.close().finally(() => process.exit(0)));

const context = await browser.newContext({ ignoreHTTPSErrors: true });
const page = await context.newPage();
await page.exposeFunction("tell", line => console.log(line));
await page.goto(page_url, { waitUntil: "domcontentloaded" });
await page.evaluate(url => {
  const names = ["CONNECTING", "OPEN", "CLOSED"];
  const source = new EventSource(url);
  let last;
  const look = () => {
    if (source.readyState !== last) tell(`state ${names[last = source.readyState]}`);
  };
  source.onopen = look;
  source.onerror = look;
  source.onmessage = event => {
    look();
    tell(`event ${event.data} ${names[source.readyState]}`);
  };
  setInterval(look, 20);
}, stream_url);
