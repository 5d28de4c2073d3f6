// Runs the bundle's sample, and compares with its exact values: node check.js; exits with 1 if an output is wrong.

import {readFileSync} from "node:fs";
import {fileURLToPath} from "node:url";
import {boundsOff} from "./arrays.js";
import {readArray, run} from "./run.js";

const place = path => fileURLToPath(new URL(`../../${path}`, import.meta.url));
const manifest = JSON.parse(readFileSync(place("manifest.json")));
const outputs = await run(place(manifest.model.path), manifest.inputs.map(tensor => readArray(place(tensor.sample))));
manifest.outputs.forEach((tensor, i) => {
  const bound = tensor.bound ? readArray(place(tensor.bound)) : null;
  const off = boundsOff(outputs[i], readArray(place(tensor.exact || tensor.sample)), bound);
  console.log(`${tensor.name}: ${off.toPrecision(2)} of its bound: ${off <= 1 ? "right" : "WRONG"}`);
  if (!(off <= 1)) process.exitCode = 1;
});
