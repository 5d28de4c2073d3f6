// Arrays of NumPy's .npy format, in JavaScript: {type, dims, data}, as onnxruntime's tensors are. float16 is 16 bits.

const TYPES = {  // by NumPy's name
  "<f8": ["float64", Float64Array], "<f4": ["float32", Float32Array], "<f2": ["float16", Uint16Array],
  "<i8": ["int64", BigInt64Array], "<i4": ["int32", Int32Array], "|u1": ["uint8", Uint8Array], "|b1": ["bool", Uint8Array],
};

/** Return the array in the bytes of a .npy file. */
export function parseArray(bytes, name) {
  const size = bytes[8] + 256 * bytes[9], head = String.fromCharCode(...bytes.subarray(0, 10 + size));
  const found = head.match(/^\x93NUMPY\x01.*'descr': '(.+?)'.*'fortran_order': False.*'shape': \((.*)\)/s);
  if (!found || !(found[1] in TYPES)) throw new Error(`${name} must be a .npy file of ${Object.keys(TYPES).join(", ")}`);
  const [type, Numbers] = TYPES[found[1]];
  return {type, dims: (found[2].match(/\d+/g) ?? []).map(Number), data: new Numbers(new Uint8Array(bytes.subarray(10 + size)).buffer)};
}

/** Return the bytes of a .npy file. */
export function formatArray({type, dims, data}) {
  const [descr] = Object.entries(TYPES).find(([, [name]]) => name === type) ?? [];
  if (!descr) throw new Error(`cannot write an array of ${type}`);
  const text = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${dims.map(dim => `${dim},`).join("")}), }`;
  const size = 64 * Math.ceil((text.length + 11) / 64);
  const head = Uint8Array.from(`\x93NUMPY\x01\0\0\0${text.padEnd(size - 11)}\n`, letter => letter.charCodeAt(0));
  new DataView(head.buffer).setUint16(8, size - 10, true);
  const bytes = new Uint8Array(size + data.byteLength);
  bytes.set(head);
  bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), size);
  return bytes;
}

/** Return the elements as plain numbers. */
export function numbersIn({type, data}) {
  return Array.from(data, type === "float16" && data instanceof Uint16Array ? fromHalf : Number);
}

/** Return how far an array is from the exact one, in bounds: at most 1 is right. An undecided number has bound NaN. */
export function boundsOff(got, exact, bound) {
  if (String(got.dims) !== String(exact.dims)) return Infinity;
  const expected = numbersIn(exact), allowed = bound ? numbersIn(bound) : null;
  return numbersIn(got).reduce((largest, number, i) => {
    if (Object.is(number, expected[i]) || number === expected[i] || Number.isNaN(allowed?.[i])) return largest;
    const off = Math.abs(number - expected[i]) / (allowed ? allowed[i] : 0);
    return Number.isNaN(off) ? Infinity : Math.max(largest, off);
  }, 0);
}

/** Return the bits of a number in float16, rounded to nearest, ties to even. */
export function toHalf(value) {
  if (Number.isNaN(value)) return 0x7e00;
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0, size = Math.abs(value);
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
