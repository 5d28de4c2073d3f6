// Runs a model in Node.js: node run.js MODEL OUTPUT INPUT.npy ...; writes OUTPUT0.npy, OUTPUT1.npy and so on.
//
// onnxruntime-node has no call that registers a library of custom operators. So a node of such an operator runs by the
// definition that the model carries, and a model with one that has none does not open.

import {readFileSync, writeFileSync} from "node:fs";
import {pathToFileURL} from "node:url";
import ort from "onnxruntime-node";
import {formatArray, parseArray} from "./arrays.js";

export const readArray = path => parseArray(readFileSync(path), path);

/** Return the outputs of a model, in order, for its inputs in order. */
export async function run(model, inputs) {
  const session = await ort.InferenceSession.create(model);
  if (inputs.length !== session.inputNames.length) {
    throw new Error(`the model takes ${session.inputNames.join(", ")}; got ${inputs.length} arrays`);
  }
  const tensors = inputs.map(({type, dims, data}) => new ort.Tensor(type, data, dims));
  const outputs = await session.run(Object.fromEntries(session.inputNames.map((name, i) => [name, tensors[i]])));
  return session.outputNames.map(name => outputs[name]);
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [model, output, ...inputs] = process.argv.slice(2);
  const outputs = await run(model, inputs.map(readArray));
  outputs.forEach((tensor, i) => writeFileSync(`${output}${i}.npy`, formatArray(tensor)));
}
