// Keeps the page working without its server: what was loaded once is answered from the cache when the server is away.

const FILES = [
  "./", "index.html", "style.css", "page.js", "drawing.js", "training.js", "runtime.js", "strokes.js",
  "arrays.js", "training_file.js", "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm",
  "digits_mlp.float64.onnx", "digits_mlp.onnx", "digits_mlp.float16.onnx", "linear_step.onnx",
];
const CACHE = "mylinear";

addEventListener("install", event => {
  event.waitUntil(caches.open(CACHE).then(cache => cache.addAll(FILES)).then(() => skipWaiting()));
});
addEventListener("activate", event => event.waitUntil(clients.claim()));
addEventListener("fetch", event => {
  if (event.request.method === "GET") event.respondWith(answer(event.request));
});

async function answer(request) {
  const cache = await caches.open(CACHE);
  try {
    const fresh = await fetch(request);
    if (fresh.ok) await cache.put(request, fresh.clone());
    return fresh;
  } catch (error) {
    const kept = await cache.match(request, {ignoreSearch: true});
    if (kept) return kept;
    throw error;
  }
}
