// onnxruntime-web, loaded from this folder alone, with an error in plain words for whatever may be missing.

import {readTrainingFile} from "./training_file.js";

const SCRIPT = "./ort.wasm.bundle.min.mjs", WASM = "ort-wasm-simd-threaded.wasm";
const ADVICE = "assemble the folder again with build.py";

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

/** Return onnxruntime, ready to make sessions. */
export async function start() {
  if (typeof WebAssembly !== "object") {
    throw new Error("this browser has no WebAssembly, or it is switched off; onnxruntime needs it");
  }
  const wasm = await load(WASM);
  let ort;
  try {
    ort = await import(SCRIPT);
  } catch (error) {
    throw new Error(`could not load ${SCRIPT} (${error.message}); ${ADVICE}`);
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

/** Return the first output of a model of one input, as plain numbers, for rows of numbers. */
export async function predict(ort, session, rows) {
  const {type} = session.inputMetadata[0];
  const input = new ort.Tensor(type, numbersOf(type, rows.flatMap(row => Array.from(row))), [rows.length, rows[0].length]);
  const outputs = await session.run({[session.inputNames[0]]: input});
  const {data, dims} = outputs[session.outputNames[0]];
  const numbers = data instanceof Uint16Array ? Array.from(data, fromHalf) : Array.from(data);
  return rows.map((_, i) => numbers.slice(i * dims[1], (i + 1) * dims[1]));
}

function numbersOf(type, values) {
  if (type === "float64") return Float64Array.from(values);
  if (type === "float32") return Float32Array.from(values);
  if (type !== "float16") throw new Error(`the model takes ${type}; this page has float64, float32 and float16`);
  return globalThis.Float16Array ? globalThis.Float16Array.from(values) : Uint16Array.from(values, toHalf);
}

/** Return the bits of a number in float16, rounded to nearest, ties to even. */
export function toHalf(value) {
  if (Number.isNaN(value)) return 0x7e00;
  const sign = Object.is(Math.sign(value), -0) || value < 0 ? 0x8000 : 0, size = Math.abs(value);
  if (size >= 65520) return sign | 0x7c00;
  const exponent = Math.max((new Uint32Array(Float32Array.of(size).buffer)[0] >>> 23) - 127, -14);
  const units = size / 2 ** (exponent - 10), below = Math.floor(units), rest = units - below;
  const rounded = below + (rest > 0.5 || (rest === 0.5 && below % 2) ? 1 : 0);
  return sign | (((exponent + 14) << 10) + rounded);
}

/** Return the number that bits in float16 stand for. */
export function fromHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? (1024 + fraction) * 2 ** (exponent - 25) : fraction * 2 ** -24);
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
    const tensors = Object.entries(feeds).map(([name, a]) => [name, new this.ort.Tensor(a.type, a.data, a.dims)]);
    const outputs = await this.session.run(Object.fromEntries(tensors));
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
