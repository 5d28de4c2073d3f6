// The page: loads onnxruntime and all models at once, so that it needs its server no more, then starts both parts.

import {setUpDrawing} from "./drawing.js";
import {load, open, start, Trainer} from "./runtime.js";
import {setUpTraining} from "./training.js";

const MODELS = {
  float64: "digits_mlp.float64.onnx", float32: "digits_mlp.onnx", float16: "digits_mlp.float16.onnx",
};
const TRAINING = "linear_step.onnx";

async function main() {
  const ort = await start();
  const sessions = {};
  for (const [dtype, name] of Object.entries(MODELS)) sessions[dtype] = await open(ort, await load(name));
  setUpDrawing(ort, sessions);
  setUpTraining(await Trainer.open(ort, await load(TRAINING)));
  const offline = await keepOffline();
  document.getElementById("status").textContent = `Ready. ${offline}`;
}

/** Let a service worker keep the files, where the browser allows one, and say what holds now. */
async function keepOffline() {
  if (!navigator.serviceWorker) return "Works without its server until it is reloaded.";
  try {
    await navigator.serviceWorker.register("sw.js");
    await navigator.serviceWorker.ready;
    return "Works without its server from now on.";
  } catch {
    return "Works without its server until it is reloaded.";
  }
}

main().catch(error => globalThis.complain(`This page does not work: ${error.message}.`));
