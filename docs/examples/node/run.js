// Runs a model in Node.js: node run.js MODEL OUTPUT INPUT.npy ...; writes OUTPUT0.npy, OUTPUT1.npy and so on.
//
// onnxruntime-node has no call that registers a library of custom operators. So a node of ours runs by the definition
// that the model carries, and a model with a node that has none does not open.

import {readFileSync, writeFileSync} from "node:fs";
import {pathToFileURL} from "node:url";
import ort from "onnxruntime-node";

const TYPES = {  // by NumPy's name
  "<f8": ["float64", Float64Array], "<f4": ["float32", Float32Array], "<f2": ["float16", Uint16Array],
  "<i8": ["int64", BigInt64Array], "<i4": ["int32", Int32Array], "|u1": ["uint8", Uint8Array],
};

/** Return the array of a .npy file as a tensor. */
export function readArray(path) {
  const bytes = readFileSync(path), size = bytes.readUInt16LE(8);
  const [, descr, order, shape] = bytes.toString("latin1", 10, 10 + size).match(/'descr': '(.+?)'.*order': (\w+).*\((.*)\)/);
  if (!(descr in TYPES) || order !== "False") throw new Error(`${path}: cannot read ${descr}, fortran_order ${order}`);
  const [type, Numbers] = TYPES[descr], dims = (shape.match(/\d+/g) ?? []).map(Number);
  return new ort.Tensor(type, new Numbers(Uint8Array.from(bytes.subarray(10 + size)).buffer), dims);
}

/** Write a tensor as a .npy file. */
export function writeArray(path, {type, dims, data}) {
  const [descr] = Object.entries(TYPES).find(([, [name]]) => name === type) ?? [];
  if (!descr) throw new Error(`${path}: cannot write ${type}`);
  const text = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${dims.map(dim => `${dim},`).join("")}), }`;
  const head = Buffer.from(`\x93NUMPY\x01\x00??${text.padEnd(64 * Math.ceil((text.length + 11) / 64) - 11)}\n`, "latin1");
  head.writeUInt16LE(head.length - 10, 8);
  writeFileSync(path, Buffer.concat([head, Buffer.from(data.buffer, data.byteOffset, data.byteLength)]));
}

/** Return the outputs of a model, in order, for its inputs in order. */
export async function run(model, inputs) {
  const session = await ort.InferenceSession.create(model);
  if (inputs.length !== session.inputNames.length) {
    throw new Error(`the model takes ${session.inputNames.join(", ")}; got ${inputs.length} arrays`);
  }
  const outputs = await session.run(Object.fromEntries(session.inputNames.map((name, i) => [name, inputs[i]])));
  return session.outputNames.map(name => outputs[name]);
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [model, output, ...inputs] = process.argv.slice(2);
  const outputs = await run(model, inputs.map(readArray));
  outputs.forEach((tensor, i) => writeArray(`${output}${i}.npy`, tensor));
}
