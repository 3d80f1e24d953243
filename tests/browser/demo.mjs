// Opens the demo's page in Chromium and uses it as a newcomer does.
//
//     node demo.mjs URL [--protocol h2] [--secure yes] [--screenshot FILE] [--scheme dark] [--size 1100x900]
//
// Prints one line of JSON with what the page showed; exit code 0 when all of it was as it should be.

import { parseArgs } from "node:util";
import { chromium } from "playwright-core";

const LIMIT = 20_000; // milliseconds, for each thing that is waited for

const { values: options, positionals: [url] } = parseArgs({
  allowPositionals: true,
  options: {
    protocol: { type: "string", default: "h2" },
    secure: { type: "string", default: "yes" },
    screenshot: { type: "string" },
    scheme: { type: "string", default: "light" },
    size: { type: "string", default: "1100x900" },
  },
});
if (!url) {
  console.error("usage: node demo.mjs URL [--protocol h2] [--secure yes] [--screenshot FILE]");
  process.exit(64);
}

const [width, height] = options.size.split("x").map(Number);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  // No sandbox: it does not start as root, and the only page that is opened is ours. QUIC off: the relay
  // speaks none. The rest keeps a fresh profile from talking to anyone else.
  args: [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-proxy-server",
  ],
});
const report = { ok: false, url };
try {
  const context = await browser.newContext({
    ignoreHTTPSErrors: true, colorScheme: options.scheme, viewport: { width, height },
  });
  const page = await context.newPage();
  page.setDefaultTimeout(LIMIT);
  const faults = [];
  page.on("pageerror", error => faults.push(error.message));
  page.on("console", message => message.type() === "error" && faults.push(message.text()));

  await page.goto(url, { waitUntil: "domcontentloaded" });
  await page.waitForFunction(() =>
    document.querySelector("#state").textContent === "OPEN" && document.querySelectorAll("#events li").length >= 3);
  report.state = await page.textContent("#state");
  report.events = await page.locator("#events li").allInnerTexts();
  report.protocol = await page.getAttribute("#protocol", "data-protocol");
  report.secure = await page.textContent("#secure");

  await page.setInputFiles("#file", { name: "hello.txt", mimeType: "text/plain", buffer: Buffer.alloc(100_000, "hello ") });
  report.upload = await settled(page, "#upload-result");
  await page.click("#download");
  report.download = await settled(page, "#download-result");
  report.faults = faults;
  if (options.screenshot) await page.screenshot({ path: options.screenshot, fullPage: true });

  const wrong = Object.entries({
    protocol: report.protocol === options.protocol,
    secure: report.secure === options.secure,
    upload: /^↑ 97\.7 KiB in .* MB\/s · SHA-256 ✓$/.test(report.upload),
    download: /^↓ 256\.0 MiB in .* MB\/s$/.test(report.download),
    faults: faults.length === 0,
  }).filter(([, right]) => !right).map(([name]) => name);
  if (wrong.length > 0) throw new Error(`not as it should be: ${wrong.join(", ")}`);
  report.ok = true;
} catch (error) {
  report.error = error.message;
} finally {
  await browser.close();
}
console.log(JSON.stringify(report));
process.exitCode = report.ok ? 0 : 1;

// The text of an output once there is one.
async function settled(page, selector) {
  await page.waitForFunction(selector => document.querySelector(selector).textContent !== "", selector);
  return page.textContent(selector);
}
