// Opens the model of the bundle, runs its sample, compares it with the exact values, and runs what is typed.

import {boundsOff, numbersIn, parseArray, toHalf} from "./arrays.js";
import {load, open, run, start} from "./runtime.js";

const BUNDLE = "../../", ONNXRUNTIME = "./node_modules/onnxruntime-web/dist/";
const MAKERS = {
  float64: Float64Array, float32: Float32Array, int32: Int32Array, uint8: Uint8Array, bool: Uint8Array,
  float16: {from: numbers => Uint16Array.from(numbers, toHalf)},
  int64: {from: numbers => BigInt64Array.from(numbers, number => BigInt(number))},
};
const byId = id => document.getElementById(id);

async function main() {
  const manifest = JSON.parse(new TextDecoder().decode(await load(`${BUNDLE}manifest.json`)));
  const read = async path => (path ? parseArray(await load(BUNDLE + path), path) : null);
  const ort = await start(ONNXRUNTIME), session = await open(ort, await load(BUNDLE + manifest.model.path));
  const inputs = {};
  for (const tensor of manifest.inputs) inputs[tensor.name] = await read(tensor.sample);
  const outputs = await run(ort, session, inputs);
  let isRight = true;
  for (const tensor of manifest.outputs) {
    const off = boundsOff(outputs[tensor.name], await read(tensor.exact || tensor.sample), await read(tensor.bound));
    isRight &&= off <= 1;
    const item = document.createElement("li");
    item.textContent = `${tensor.name}: ${off.toPrecision(2)} of its bound: ${off <= 1 ? "right" : "WRONG"}`;
    byId("sample").append(item);
  }
  for (const [name, array] of Object.entries(inputs)) byId("inputs").append(...field(name, array));
  byId("form").addEventListener("submit", event => {
    event.preventDefault();
    answer(ort, session, inputs).catch(error => (byId("outputs").textContent = `Error: ${error.message}`));
  });
  byId("form").querySelector("button").disabled = false;
  byId("status").textContent = isRight ? "Ready; the sample is right." : "The sample is WRONG: do not use this.";
}

function field(name, array) {
  const label = document.createElement("label"), area = document.createElement("textarea");
  label.textContent = `${name}, ${array.type}, as nested lists `;
  label.htmlFor = area.id = `input-${name}`;
  area.rows = 4;
  area.value = JSON.stringify(nested(numbersIn(array), array.dims));
  return [label, area];
}

async function answer(ort, session, samples) {
  const inputs = Object.fromEntries(Object.entries(samples).map(([name, {type}]) => {
    const value = JSON.parse(byId(`input-${name}`).value), dims = [];
    for (let part = value; Array.isArray(part); part = part[0]) dims.push(part.length);
    return [name, {type, dims, data: MAKERS[type].from([value].flat(Infinity))}];
  }));
  const outputs = Object.entries(await run(ort, session, inputs));
  const plain = outputs.map(([name, array]) => [name, nested(numbersIn(array), array.dims)]);
  byId("outputs").textContent = JSON.stringify(Object.fromEntries(plain), null, 1);
}

/** Return a flat list as nested lists. */
function nested(numbers, [, ...inner]) {
  if (!inner.length) return numbers;
  const size = inner.reduce((a, b) => a * b, 1);
  return Array.from({length: numbers.length / size}, (_, i) => nested(numbers.slice(i * size, (i + 1) * size), inner));
}

main().catch(error => globalThis.complain(`This page does not work: ${error.message}.`));
