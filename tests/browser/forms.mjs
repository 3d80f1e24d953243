// Sends forms without files, and counts those that come back value for value.
//
//     node forms.mjs chromium|node PAGE URL COUNT
//
// By fetch and FormData in node itself, or in Chromium on PAGE; there every second one is a <form> with a file input
// in which nothing was chosen.

import { chromium } from "playwright-core";

const [client, page_url, url, count] = process.argv.slice(2);
if (!count) {
  console.error("usage: node forms.mjs chromium|node PAGE URL COUNT");
  process.exit(64);
}

// Goes into the page as text: it must not use anything from outside.
async function send([url, count]) {
  const names = ["content", "channel", "a[]", "größe", "имя", "名前", "two words", "filename", "x;y", "it's 100%"];
  const words = ["hello", "سلام", "🎉", '"quoted"', "--", "a=b&c", "filename=x", "\\", "é", ";", "\r\n", "\n", "%0d%0a"];
  let state = 7;
  const below = bound => (state = (state * 1103515245 + 12345) % 2147483648) % bound;
  const told = { whole: 0, refused: 0 };
  for (let number = 0; number < count; number++) {
    let form = new FormData();
    if (globalThis.document && number % 2) {
      const element = document.createElement("form");
      element.innerHTML = '<input type="file" name="files">';
      form = new FormData(element);
    }
    const sent = [];
    for (let field = 0; field <= below(6); field++) {
      const name = names[below(names.length)];
      const value = Array.from({ length: below(20) }, () => words[below(words.length)]).join(" ");
      form.append(name, value);
      // HTML: the line ends of values become CR LF.
      sent.push([name, value.replace(/\r\n|\r|\n/g, "\r\n")]);
    }
    const response = await fetch(url, { method: "POST", body: form });
    const sorted = rows => JSON.stringify(rows.map(row => JSON.stringify(row)).sort());
    const whole = response.status === 200 && sorted((await response.json()).form) === sorted(sent);
    told[whole ? "whole" : "refused"]++;
  }
  return told;
}

if (client === "node") {
  console.log(JSON.stringify(await send([url, Number(count)])));
} else {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    // As in demo.mjs.
    args: [
      "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync", "--no-proxy-server",
    ],
  });
  try {
    const page = await browser.newPage();
    await page.goto(page_url, { waitUntil: "domcontentloaded", timeout: 30_000 });
    console.log(JSON.stringify(await page.evaluate(send, [url, Number(count)])));
  } finally {
    await browser.close();
  }
}
