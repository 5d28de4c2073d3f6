// Opens Netron's page in headless Chromium, as a person would, and prints what it shows of the first node of a type, as JSON:
// node check.mjs URL TYPE SCREENSHOT CHROMIUM PACKAGES

import {createRequire} from "node:module";

const [url, type, screenshot, executablePath, packages] = process.argv.slice(2);
const {chromium} = createRequire(`${packages}/`)("playwright-core");
const args = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"];
const browser = await chromium.launch({executablePath, args});
const context = await browser.newContext({viewport: {width: 1000, height: 640}});
context.setDefaultTimeout(60_000);
await context.route(asked => !asked.href.startsWith(url), route => route.abort());  // it reports usage to its makers
await context.addInitScript(() => {  // Netron takes eval from its page, and Playwright reads the page by it
  const kept = window.eval;
  Object.defineProperty(window, "eval", {get: () => kept, set: () => {}});
});
const page = await context.newPage();
const faults = [];
page.on("pageerror", error => faults.push(String(error)));
await page.goto(url);
const accept = page.getByRole("button", {name: "Accept"}), types = page.locator("#canvas .node-item-type > text");
await accept.or(types).first().waitFor();
if (await accept.isVisible()) await accept.click();
await types.first().waitFor();
const words = async () => (await types.allTextContents()).filter(text => /^\w+$/.test(text));  // no signs
const graph = await words();
await types.filter({hasText: type}).first().click();
await page.getByText("Node Properties").waitFor();
await page.waitForTimeout(500);  // the panel slides in
await page.screenshot({path: screenshot});
const items = page.locator("#sidebar .sidebar-item"), shown = {};
for (const item of await items.all()) {
  const lines = await item.locator(".sidebar-item-value-line").allTextContents();
  shown[await item.locator(".sidebar-item-name input").inputValue()] = lines.join(" ");
}
await page.getByTitle("Show Definition").first().click();
await types.filter({hasText: "MatMul"}).first().waitFor();
const definition = await words();
await browser.close();
console.log(JSON.stringify({graph, shown, definition, faults}));
