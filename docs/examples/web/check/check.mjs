// Uses the page as a person would, in headless Chromium, and writes what it showed:
// node check.mjs FOLDER RESULTS CHROMIUM PACKAGES BUNDLE
// Each check throws where the page is wrong. check.py compares the numbers with Python's.

import {spawn} from "node:child_process";
import {createRequire} from "node:module";
import {writeFileSync} from "node:fs";
import {DIGITS} from "./digits.mjs";

const [folder, results, executablePath, packages, bundle] = process.argv.slice(2);
const {chromium} = createRequire(`${packages}/`)("playwright-core");
const DTYPES = ["float64", "float32", "float16"];
const STEPS = 600;
const SMALL = {width: 360, height: 740};

function check(isTrue, message) {
  if (!isTrue) throw new Error(message);
}

async function serve(folder) {
  const server = spawn("python3", ["-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory", folder, "0"], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  const line = await new Promise(done => server.stdout.once("data", data => done(String(data))));
  return {server, url: `http://127.0.0.1:${line.match(/port (\d+)/)[1]}/`};
}

/** Open the page, and note every fault and every request of another origin. */
async function openPage(browser, url, options = {}, before = () => {}) {
  const context = await browser.newContext({viewport: {width: 900, height: 900}, ...options});
  const page = await context.newPage();
  page.faults = [];
  page.on("pageerror", error => page.faults.push(String(error)));
  context.on("request", request => {
    if (!/^(data|blob):/.test(request.url()) && !request.url().startsWith(url)) page.faults.push(request.url());
  });
  await before(context, page);
  await page.goto(url);
  return page;
}

const ready = page => page.getByRole("status").filter({hasText: "Ready."}).waitFor({timeout: 30_000});
const message = page => page.getByRole("alert").textContent({timeout: 30_000});

async function drawByMouse(page, strokes) {
  await page.getByRole("button", {name: "Clear"}).click();
  await page.locator("#pad").scrollIntoViewIfNeeded();
  const box = await page.locator("#pad").boundingBox();
  for (const stroke of strokes) {
    for (const [i, [x, y]] of stroke.entries()) {
      await page.mouse.move(box.x + x * box.width / 100, box.y + y * box.height / 100);
      if (i === 0) await page.mouse.down();
    }
    await page.mouse.up();
  }
}

async function drawByTouch(page, strokes) {
  const session = await page.context().newCDPSession(page), box = await page.locator("#pad").boundingBox();
  const touch = (type, points) => session.send("Input.dispatchTouchEvent", {type, touchPoints: points});
  for (const stroke of strokes) {
    for (const [i, [x, y]] of stroke.entries()) {
      await touch(i ? "touchMove" : "touchStart", [{x: box.x + x * box.width / 100, y: box.y + y * box.height / 100}]);
    }
    await touch("touchEnd", []);
  }
}

/** Return the digit that the page shows, with the logits and pixels behind it, once they are there. */
async function shown(page, dtype) {
  if (dtype) await page.getByRole("radio", {name: dtype}).check();
  await page.locator("#digit[aria-busy=false]").waitFor();
  return page.evaluate(() => ({
    digit: document.getElementById("digit").textContent,
    logits: JSON.parse(document.getElementById("digit").dataset.logits),
    pixels: JSON.parse(document.getElementById("seen").dataset.pixels),
  }));
}

async function expectDigit(page, digit, where) {
  const found = await shown(page);
  check(found.digit === String(digit), `${where}: a ${digit} was drawn, the page says ${found.digit}`);
}

async function checkPredictions(page) {
  const predictions = [];
  for (const [digit, strokes] of DIGITS.entries()) {
    await drawByMouse(page, strokes);
    for (const dtype of DTYPES) {
      const found = await shown(page, dtype);
      check(found.digit === String(digit), `${dtype}: a ${digit} was drawn, the page says ${found.digit}`);
      predictions.push({digit, dtype, ...found});
    }
  }
  return predictions;
}

async function checkTraining(page) {
  await page.getByRole("button", {name: "Train"}).click();
  await page.getByRole("link", {name: "Save the training file"}).waitFor({timeout: 60_000});
  const points = (await page.locator("#line").getAttribute("points")).split(" ");
  check(points.length === STEPS, `the curve has ${points.length} of ${STEPS} steps`);
  const loss = Number(await page.locator("#loss").textContent());
  check(loss < 1e-25, `the loss fell to ${loss} only`);
  const [download] = await Promise.all([
    page.waitForEvent("download"), page.getByRole("link", {name: "Save the training file"}).click(),
  ]);
  await download.saveAs(`${results}/trained_step.onnx`);
  return page.evaluate(async count => {  // the same steps again, by the page's own modules, with every state
    const {load, start, Trainer} = await import("./runtime.js"), {batch} = await import("./training.js");
    const trainer = await Trainer.open(await start(), await load("linear_step.onnx"));
    const plain = arrays => Object.fromEntries(Object.entries(arrays).map(([n, a]) => [n, Array.from(a.data, Number)]));
    const steps = [];
    for (let i = 0; i < count; i++) {
      const given = batch(i), before = plain(trainer.state);
      steps.push({before, given: plain(given), loss: await trainer.step(given, 0.5)});
    }
    return {steps, last: plain(trainer.state)};
  }, STEPS);
}

async function checkPhone(browser, url) {
  const page = await openPage(browser, url, {viewport: SMALL, hasTouch: true, isMobile: true, deviceScaleFactor: 2});
  await ready(page);
  const width = await page.evaluate(() => document.documentElement.scrollWidth);
  check(width <= SMALL.width, `the page is ${width} pixels wide on a screen of ${SMALL.width}`);
  const small = await page.evaluate(() => [...document.querySelectorAll("button")].filter(b => b.offsetHeight < 44).length);
  check(small === 0, `${small} buttons are too small for a finger`);
  await page.locator("#pad").scrollIntoViewIfNeeded();
  await drawByTouch(page, DIGITS[3]);
  await expectDigit(page, 3, "by finger");
  await page.screenshot({path: `${results}/phone.png`, fullPage: true});
  return page;
}

async function checkKeyboard(browser, url) {
  const page = await openPage(browser, url), press = key => page.keyboard.press(key);
  await ready(page);
  const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.value);
  const tabTo = async id => {
    for (let i = 0; i < 12 && (await focused()) !== id; i++) await press("Tab");
    check((await focused()) === id, `the keyboard does not reach ${id}`);
  };
  await tabTo("pad");
  for (const move of ["ArrowUp 3", "ArrowRight 2", "Space 1", "ArrowLeft 4", "ArrowDown 3", "ArrowRight 4", "ArrowDown 3",
    "ArrowLeft 4", "Space 1", "Enter 1"]) {
    const [key, count] = move.split(" ");
    for (let i = 0; i < count; i++) await press(key.startsWith("Arrow") ? `Shift+${key}` : key);
  }
  await expectDigit(page, 5, "by keyboard");
  await tabTo("float32");
  await press("ArrowRight");
  check((await focused()) === "float16", "the arrow keys do not choose a model");
  await expectDigit(page, 5, "by keyboard, float16");
  await tabTo("train");
  await press("Enter");
  await page.waitForFunction(() => Number(document.getElementById("step").textContent) > 20);
  await press("Enter");
  const step = await page.locator("#step").textContent();
  await page.waitForTimeout(200);
  check(step === (await page.locator("#step").textContent()), "the training does not pause");
  await press("Tab");
  await press("Enter");
  check((await page.locator("#step").textContent()) === "0", "the training does not start anew");
  return page;
}

async function checkErrors(browser, url) {
  const gone = name => async context => {
    await context.route(`**/${name}`, route => route.fulfill({status: 404, body: "no"}));
  };
  const cases = [
    ["digits_mlp.float16.onnx", gone("digits_mlp.float16.onnx"), "could not load digits_mlp.float16.onnx"],
    ["the wasm file", gone("*.wasm"), "could not load ./ort-wasm-simd-threaded.wasm: the server answered 404"],
    ["onnxruntime's script", gone("ort.wasm.bundle.min.mjs"), "could not load ./ort.wasm.bundle.min.mjs"],
    ["a script", gone("strokes.js"), "A script of this page is missing"],
    ["WebAssembly", context => context.addInitScript("delete globalThis.WebAssembly"), "has no WebAssembly"],
    ["a whole training file", async context => {
      await context.route("**/linear_step.onnx", route => route.fulfill({body: Buffer.from([8, 9, 58, 255, 255])}));
    }, "the file is damaged"],
  ];
  for (const [what, remove, expected] of cases) {
    const page = await openPage(browser, url, {serviceWorkers: "block"}, remove);
    const text = await message(page);
    check(text.includes(expected), `without ${what} the page says "${text}", not "${expected}"`);
    await page.context().close();
  }
  const page = await openPage(browser, `file://${folder}/index.html`);
  check((await message(page)).includes("from a server"), "opened from a file, the page does not say what to do");
  await page.context().close();
}

async function checkWithoutFloat16Array(browser, url, expected) {
  const page = await openPage(browser, url, {}, c => c.addInitScript("delete globalThis.Float16Array"));
  await ready(page);
  await drawByMouse(page, DIGITS[5]);
  const {logits} = await shown(page, "float16");
  check(String(logits) === String(expected), `without Float16Array the logits are ${logits}, not ${expected}`);
  await page.context().close();
}

async function checkOffline(page, digit) {
  await drawByMouse(page, DIGITS[digit]);
  await expectDigit(page, digit, "without the server");
  await page.reload();
  await ready(page);
  await drawByMouse(page, DIGITS[digit]);
  await expectDigit(page, digit, "reloaded without the server");
  await page.getByRole("button", {name: "Train"}).click();
  await page.waitForFunction(() => Number(document.getElementById("step").textContent) > 20);
}

/** Use the page that `mylinear bundle --for web` writes. */
async function checkBundle(browser) {
  const {server, url} = await serve(bundle);
  const page = await openPage(browser, url);
  try {
    await page.goto(`${url}hosts/web/`);
    await page.getByRole("status").filter({hasText: "Ready; the sample is right."}).waitFor({timeout: 30_000});
    await page.getByRole("textbox").fill(JSON.stringify([Array(64).fill(3)]));
    await page.getByRole("button", {name: "Run"}).click();
    await page.locator("#outputs").filter({hasText: "]"}).waitFor();
    const {y} = JSON.parse(await page.locator("#outputs").textContent());
    check(y.length === 1 && y[0].length === 10 && y[0].every(Number.isFinite), `the bundle's page shows ${y}`);
    check(page.faults.length === 0, page.faults.join("; "));
  } finally {
    server.kill();
  }
}

const {server, url} = await serve(folder);
const browser = await chromium.launch({executablePath, args: [
  "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]});
try {
  const page = await openPage(browser, url);
  await ready(page);
  const predictions = await checkPredictions(page), training = await checkTraining(page);
  await page.screenshot({path: `${results}/page.png`, fullPage: true});
  const pages = [page, await checkPhone(browser, url), await checkKeyboard(browser, url)];
  await checkErrors(browser, url);
  await checkBundle(browser);
  const float16 = predictions.find(found => found.digit === "5" && found.dtype === "float16");
  await checkWithoutFloat16Array(browser, url, float16.logits);
  server.kill();
  await checkOffline(page, 2);
  const faults = pages.flatMap(used => used.faults);
  check(faults.length === 0, `errors, or requests that leave the folder: ${faults.join("; ")}`);
  writeFileSync(`${results}/shown.json`, JSON.stringify({browser: browser.version(), predictions, training}));
} catch (error) {
  console.error(`the page is wrong: ${error.message}`);
  process.exitCode = 1;
} finally {
  server.kill();
  await browser.close();
}
