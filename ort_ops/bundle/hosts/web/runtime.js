// onnxruntime-web, loaded from this folder alone, with an error in plain words for whatever may be missing.

import {numbersIn, toHalf} from "./arrays.js";
import {readTrainingFile} from "./training_file.js";

const SCRIPT = "ort.wasm.bundle.min.mjs", WASM = "ort-wasm-simd-threaded.wasm";
const ADVICE = "assemble the folder again, as its README says";

/** Return the bytes of a file of this folder. */
export async function load(name) {
  let answer;
  try {
    answer = await fetch(name);
  } catch {
    throw new Error(`could not load ${name}: the server does not answer`);
  }
  if (!answer.ok) throw new Error(`could not load ${name}: the server answered ${answer.status}; ${ADVICE}`);
  return new Uint8Array(await answer.arrayBuffer());
}

/** Return onnxruntime, ready to make sessions; its two files lie in a folder beside this script. */
export async function start(folder = "./") {
  if (typeof WebAssembly !== "object") {
    throw new Error("this browser has no WebAssembly, or it is switched off; onnxruntime needs it");
  }
  const wasm = await load(folder + WASM);
  let ort;
  try {
    ort = await import(folder + SCRIPT);
  } catch (error) {
    throw new Error(`could not load ${folder + SCRIPT} (${error.message}); ${ADVICE}`);
  }
  ort.env.wasm.wasmBinary = wasm.buffer;
  ort.env.wasm.numThreads = 1;  // more need headers of the server that isolate the page
  ort.env.logLevel = "error";
  return ort;
}

/** Return a session; onnxruntime runs a node of ours by the definition that the model carries. */
export async function open(ort, model) {
  try {
    return await ort.InferenceSession.create(model, {executionProviders: ["wasm"], logSeverityLevel: 3});
  } catch (error) {
    throw new Error(`onnxruntime does not open the model: ${error.message}`);
  }
}

/** Return the outputs of a model by name, for inputs by name, all {type, dims, data}. */
export async function run(ort, session, inputs) {
  const tensors = Object.entries(inputs).map(([name, {type, dims, data}]) => [name, new ort.Tensor(type, data, dims)]);
  return session.run(Object.fromEntries(tensors));
}

/** Return the first output of a model of one input, as plain numbers, for rows of numbers. */
export async function predict(ort, session, rows) {
  const {type} = session.inputMetadata[0], data = numbersOf(type, rows.flatMap(row => Array.from(row)));
  const input = {type, data, dims: [rows.length, rows[0].length]};
  const output = (await run(ort, session, {[session.inputNames[0]]: input}))[session.outputNames[0]];
  const numbers = numbersIn(output), width = numbers.length / rows.length;
  return rows.map((_, i) => numbers.slice(i * width, (i + 1) * width));
}

function numbersOf(type, values) {
  if (type === "float64") return Float64Array.from(values);
  if (type === "float32") return Float32Array.from(values);
  if (type === "float16") return Uint16Array.from(values, toHalf);
  throw new Error(`the model takes ${type}; this page has float64, float32 and float16`);
}

/** A training file and its state: each step is one call of onnxruntime, and its outputs are the next step's inputs. */
export class Trainer {
  static async open(ort, bytes) {
    const file = readTrainingFile(bytes);
    return new Trainer(ort, file, await open(ort, file.model));
  }

  constructor(ort, file, session) {
    [this.ort, this.file, this.session] = [ort, file, session];
    this.reset();
  }

  /** Go back to the state of the file. */
  reset() {
    this.state = {...this.file.state};
  }

  get stepsDone() {
    return Number(this.state[this.file.metadata.step].data[0]);
  }

  /** Train one step with arrays by name, each {type, dims, data}, and return its loss. */
  async step(given, lr) {
    const {metadata} = this.file, {state} = this, rate = state[metadata.lr];
    const feeds = {...state, ...given, [metadata.lr]: {...rate, data: rate.data.map(() => lr)}};
    const outputs = await run(this.ort, this.session, feeds);
    const next = Object.entries(metadata.feeds).map(([output, name]) => {
      const {type, dims, data} = outputs[output];
      return [name, {type, dims, data}];
    });
    if (this.state === state) this.state = {...state, ...Object.fromEntries(next)};  // else it was reset meanwhile
    return outputs[metadata.loss].data[0];
  }

  /** Return the bytes of a training file with the state of now. */
  save() {
    return this.file.write(this.state);
  }
}
