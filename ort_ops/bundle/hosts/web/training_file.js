// Reads and writes a training file (docs/training_in_onnxruntime.md) without any library.
//
// onnxruntime's JavaScript shows neither a model's metadata nor the inputs that have a first value: it ignores what it
// is given for these, without a word. So the metadata is read from the file, and the first values are taken out of the
// model. What had one is an input like any other then.

const TYPES = {1: ["float32", Float32Array], 7: ["int64", BigInt64Array], 11: ["float64", Float64Array]};
const MODEL = {graph: 7, metadata: 14}, GRAPH = {initializer: 5};
const TENSOR = {dims: 1, type: 2, name: 8, raw: 9}, ENTRY = {key: 1, value: 2};
const KEY = "mylinear.training";

/**
 * Return what is in a training file of whole steps.
 *
 * metadata: as the documentation describes it. model: the bytes for onnxruntime. state: by name {type, dims, data},
 * parameters, optimizer state, step and learning rate. write(state): the bytes of a training file with that state.
 */
export function readTrainingFile(bytes) {
  const entries = {};
  let graph = null;
  for (const field of fields(bytes, 0, bytes.length)) {
    if (field.number === MODEL.metadata) {
      const entry = message(bytes, field);
      entries[text(bytes, entry[ENTRY.key]?.[0])] = text(bytes, entry[ENTRY.value]?.[0]);
    } else if (field.number === MODEL.graph) graph = field;
  }
  if (!graph || !(KEY in entries)) throw new Error("this is no training file; exporter.export_training writes one");
  const metadata = JSON.parse(entries[KEY]);
  if (metadata.format !== 1 || metadata.kind !== "step") {
    throw new Error(`a training file of format 1 and kind "step" is needed, got ${metadata.format}, "${metadata.kind}"`);
  }
  const names = new Set([...Object.values(metadata.feeds), metadata.lr]);
  const state = {}, places = {}, kept = [];
  for (const field of fields(bytes, graph.from, graph.to)) {
    const tensor = field.number === GRAPH.initializer ? readTensor(bytes, field) : null;
    if (tensor && names.has(tensor.name)) {
      state[tensor.name] = {type: tensor.type, dims: tensor.dims, data: tensor.data};
      places[tensor.name] = tensor.from;
    } else kept.push(bytes.subarray(field.start, field.to));
  }
  const missing = [...names].filter(name => !(name in state));
  if (missing.length) throw new Error(`the training file has no first value of ${missing.join(", ")}`);
  const body = joined(kept);
  const model = joined([
    bytes.subarray(0, graph.start), varint((MODEL.graph << 3) | 2), varint(body.length), body, bytes.subarray(graph.to),
  ]);
  const write = values => {
    const written = bytes.slice();
    for (const [name, from] of Object.entries(places)) {
      const {data} = values[name];
      written.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), from);
    }
    return written;
  };
  return {metadata, model, state, write};
}

function readTensor(bytes, field) {
  const found = message(bytes, field);
  const name = text(bytes, found[TENSOR.name]?.[0]);
  const raw = found[TENSOR.raw]?.[0];
  const [type, Numbers] = TYPES[found[TENSOR.type]?.[0].value] ?? [];
  if (!raw || !type) return null;  // of another type: no state that this page can train
  const dims = (found[TENSOR.dims] ?? []).flatMap(dim => (dim.from === undefined ? [dim.value] : varints(bytes, dim)));
  return {name, type, dims, from: raw.from, data: new Numbers(bytes.slice(raw.from, raw.to).buffer)};
}

/** Yield the fields of a protobuf message: numbers with a value, the others with the range of their bytes. */
function* fields(bytes, from, to) {
  let at = from;
  while (at < to) {
    const start = at;
    let tag, value;
    [tag, at] = readVarint(bytes, at, to);
    const number = tag >>> 3, wire = tag & 7;
    if (wire === 0) {
      [value, at] = readVarint(bytes, at, to);
      yield {number, start, to: at, value};
      continue;
    }
    let length = {1: 8, 5: 4}[wire];
    if (wire === 2) [length, at] = readVarint(bytes, at, to);
    if (length === undefined || at + length > to) throw new Error("the file is damaged: it is no ONNX model");
    yield {number, start, from: at, to: at + length};
    at += length;
  }
}

function message(bytes, {from, to}) {
  const found = {};
  for (const field of fields(bytes, from, to)) (found[field.number] ??= []).push(field);
  return found;
}

function readVarint(bytes, at, to) {
  let value = 0;
  for (let scale = 1; at < to; scale *= 128) {
    const byte = bytes[at++];
    value += (byte & 127) * scale;
    if (byte < 128) return [value, at];
  }
  throw new Error("the file is damaged: it ends within a number");
}

function varints(bytes, {from, to}) {
  const values = [];
  while (from < to) {
    let value;
    [value, from] = readVarint(bytes, from, to);
    values.push(value);
  }
  return values;
}

function varint(value) {
  const bytes = [];
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value % 128) | 128);
  return Uint8Array.from([...bytes, value]);
}

function joined(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

const text = (bytes, field) => (field ? new TextDecoder().decode(bytes.subarray(field.from, field.to)) : "");
